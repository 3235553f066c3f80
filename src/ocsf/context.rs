//! The trace that an event belongs to: its own `trace_id` and `span_id`, else the span it was emitted in.

use serde_json::Value;

use super::Span;
use crate::event::AuditEvent;

/// Ids in W3C form. The trace id is never all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) trace_id: Hex<32>,
    pub(super) span_id: Option<Hex<16>>,
    pub(super) flags: Option<u8>,
}

/// Lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hex<const N: usize>([u8; N]);

impl<const N: usize> Hex<N> {
    fn parse(text: &str) -> Option<Self> {
        let mut digits: [u8; N] = text.as_bytes().try_into().ok()?;
        digits.make_ascii_lowercase();
        Self(digits).checked()
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [b'0'; N];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        Self(digits).checked()
    }

    /// W3C: an id of zeros only is invalid.
    fn checked(self) -> Option<Self> {
        let hex = self.0.iter().all(u8::is_ascii_hexdigit);
        (hex && self.0.iter().any(|digit| *digit != b'0')).then_some(self)
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("")
    }
}

impl Context {
    /// The event's own ids win: it may be read long after, and elsewhere.
    pub(super) fn of(event: &AuditEvent, span: Option<&Span>) -> Option<Self> {
        let ambient = span.and_then(|span| {
            Some(Self { trace_id: Hex::of(&span.trace_id)?, span_id: Hex::of(&span.span_id), flags: Some(span.flags) })
        });
        if event.extra.is_empty() {
            return ambient;
        }
        let text = |name: &str| event.extra.get(name).and_then(Value::as_str);
        let Some(trace_id) = text("trace_id").and_then(Hex::parse) else { return ambient };
        let own = Self { trace_id, span_id: text("span_id").and_then(Hex::parse), flags: flags(&event.extra) };
        match ambient {
            // The same trace, and the event does not say which span of it.
            Some(ambient) if ambient.trace_id == own.trace_id && own.span_id.is_none() => Some(ambient),
            _ => Some(own),
        }
    }
}

/// `trace_flags` as a number or as two hexadecimal digits.
fn flags(extra: &serde_json::Map<String, Value>) -> Option<u8> {
    match extra.get("trace_flags")? {
        Value::Number(number) => number.as_u64().and_then(|number| number.try_into().ok()),
        Value::String(text) if text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u8::from_str_radix(text, 16).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn event(fields: &[(&str, &str)]) -> AuditEvent {
        fields.iter().fold(AuditEvent::default(), |event, (name, value)| event.with_extra(*name, *value))
    }

    #[test]
    fn the_events_own_ids_win() {
        let span = Span { trace_id: [1; 16], span_id: [2; 8], flags: 1 };
        let ambient = Context::of(&event(&[]), Some(&span)).unwrap();
        assert_eq!(
            (ambient.trace_id.as_str(), ambient.span_id.unwrap().as_str()),
            ("01".repeat(16).as_str(), "02".repeat(8).as_str())
        );
        let own =
            Context::of(&event(&[("trace_id", &TRACE.to_uppercase()), ("trace_flags", "01")]), Some(&span)).unwrap();
        assert_eq!((own.trace_id.as_str(), own.span_id, own.flags), (TRACE, None, Some(1)));
        for bad in ["", "x", &"0".repeat(32), &"g".repeat(32), &TRACE[1..]] {
            assert_eq!(Context::of(&event(&[("trace_id", bad)]), Some(&span)), Some(ambient));
        }
        assert_eq!(Context::of(&event(&[]), Some(&Span { trace_id: [0; 16], span_id: [2; 8], flags: 1 })), None);
        let same = Context::of(&event(&[("trace_id", &"01".repeat(16))]), Some(&span));
        assert_eq!(same, Some(ambient), "the span of the same trace completes the event");
    }
}
