//! Gap records: every loss is an event of its own in the stream, with its reason, its count and its numbers.

use crate::event::{AuditEvent, EventOutcome, ResourceInfo, new_audit_event};
use crate::stream::Stream;

/// `type_name` of a gap record.
pub(crate) const TYPE_NAME: &str = "audit_gap";

/// Events that a destination will not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) reason: Reason,
    pub(crate) events: u64,
    pub(crate) first_sequence: u64,
    pub(crate) last_sequence: u64,
}

/// Why they are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The queue was full and `on_full` is `drop`.
    QueueFull,
    /// The spool's bytes are damaged or gone.
    Damage,
    /// A destination by best effort lags too far behind.
    LagLimit,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Damage => "spool_damage",
            Self::LagLimit => "lag_limit",
        }
    }
}

impl Gap {
    pub(crate) fn one(reason: Reason, sequence: u64) -> Self {
        Self { reason, events: 1, first_sequence: sequence, last_sequence: sequence }
    }

    /// One with what comes behind it.
    pub(crate) fn and(self, behind: Self) -> Self {
        Self { events: self.events + behind.events, last_sequence: behind.last_sequence, ..self }
    }

    pub(crate) fn extend(&mut self, sequence: u64) {
        self.events += 1;
        self.first_sequence = self.first_sequence.min(sequence);
        self.last_sequence = self.last_sequence.max(sequence);
    }

    /// The event that announces it.
    pub(crate) fn audit_event(self, destination: &str, stream: &Stream) -> AuditEvent {
        new_audit_event(TYPE_NAME, "drop", EventOutcome::Error).with_resource(
            ResourceInfo::new("audit_stream", stream.id())
                .with_attribute("destination", destination)
                .with_attribute("reason", self.reason.as_str())
                .with_attribute("count", self.events)
                .with_attribute("first_sequence", self.first_sequence)
                .with_attribute("last_sequence", self.last_sequence),
        )
    }

    /// The OCSF JSON of that event. It has no number of its own: the numbers it names are the ones missing.
    pub(crate) fn event(self, destination: &str, stream: &Stream) -> String {
        let mut text = Vec::new();
        stream.encode(&self.audit_event(destination, stream), None, &mut text);
        String::from_utf8(text).expect("the encoder writes UTF-8")
    }
}

/// The event that announces one that was too large to be accepted. Whoever emitted it was told; the stream's readers were not.
pub(crate) fn too_large(uid: &str, bytes: usize, stream: &Stream) -> AuditEvent {
    // The uid may be what made it so large.
    let end = (0..=uid.len().min(256)).rev().find(|end| uid.is_char_boundary(*end)).unwrap_or(0);
    new_audit_event(TYPE_NAME, "refuse", EventOutcome::Error).with_resource(
        ResourceInfo::new("audit_stream", stream.id())
            .with_attribute("reason", "event_too_large")
            .with_attribute("count", 1)
            .with_attribute("uid", &uid[..end])
            .with_attribute("bytes", bytes),
    )
}

/// The event that announces a loss whose extent nobody knows: a spool that was refused, segments that are gone.
pub(crate) fn unknown(why: &str, stream: &Stream) -> AuditEvent {
    new_audit_event(TYPE_NAME, "lose", EventOutcome::Error).with_resource(
        ResourceInfo::new("audit_stream", stream.id())
            .with_attribute("reason", "spool_damage")
            .with_attribute("detail", why),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ocsf;

    #[test]
    fn a_gap_record_is_valid_and_tells_what_is_missing() {
        let mut gap = Gap::one(Reason::QueueFull, 7);
        gap.extend(9);
        gap.extend(8);
        let text = gap.event("otlp", &Stream::new(ocsf::Mapping::default(), None));
        assert!(ocsf::validate(&text).is_valid(), "{text}");
        let event = ocsf::decode(&text).unwrap();
        let attributes = event.resource.unwrap().attributes;
        assert_eq!(attributes["count"], 3);
        assert_eq!((&attributes["first_sequence"], &attributes["last_sequence"]), (&7.into(), &9.into()));
        assert_eq!((attributes["reason"].as_str(), event.severity_id), (Some("queue_full"), 4));
    }
}
