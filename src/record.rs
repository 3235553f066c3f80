//! OCSF event to OTel log record, pure.
//!
//! The record's body is the event's JSON text, shared, never copied. Beside it stand at most [`MAX_ATTRIBUTES`] flat, typed
//! `ocsf.<path>` attributes from a closed list. Attribute keys are control channels downstream (`com.splunk.index`,
//! `ddtags`, `session.id`), so nothing an event says can become a key.

mod promotion;

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::logs::{AnyValue, LogRecord, Severity};
use opentelemetry::{Key, SpanId, StringValue, TraceFlags, TraceId};
use opentelemetry_sdk::logs::SdkLogRecord;

use crate::config::Limits;
use crate::json::{Malformed, Reader, Str, Value};
use crate::ocsf;
use promotion::{Parent, Promotion, promotion};

pub use crate::otlp::{OtlpJson, body_json};

/// Most attributes on a record.
pub const MAX_ATTRIBUTES: usize = 48;
/// Longest string that becomes an attribute, in bytes; a longer one stays in the body alone.
pub const MAX_ATTRIBUTE_BYTES: usize = 1024;

/// Attribute that identifies a record; the same id twice is a duplicate (OTel semantic conventions).
pub const UID: &str = "log.record.uid";

/// A value that becomes an attribute.
pub(crate) enum Promoted<'a> {
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(&'a str),
    Texts(&'a [Cow<'a, str>]),
}

/// Where attributes go: into an SDK record, or straight to the wire.
pub(crate) trait Attributes {
    fn add(&mut self, key: &'static str, value: Promoted<'_>);
}

/// What of the event stands in the record's own fields.
#[derive(Default)]
pub(crate) struct Fields {
    time_ms: Option<i64>,
    class_uid: i64,
    activity_id: i64,
    severity_id: i64,
    trace_id: Option<TraceId>,
    span_id: Option<SpanId>,
    trace_flags: Option<TraceFlags>,
}

/// Reads an OCSF event's JSON text: its attributes, at most [`MAX_ATTRIBUTES`], and what the record's fields are made of.
///
/// # Errors
/// The text is not a JSON object; what was read of it is of no use.
pub(crate) fn read(event: &str, limits: &Limits, attributes: &mut impl Attributes) -> Result<Fields, Malformed> {
    let mut promoter =
        Promoter { attributes, limits, left: limits.attribute_count.min(MAX_ATTRIBUTES), fields: Fields::default() };
    let mut reader = Reader::new(event);
    if reader.value()? != Value::Object {
        return Err(Malformed(0));
    }
    promoter.event(&mut reader)?;
    Ok(promoter.fields)
}

impl Fields {
    /// When it happened; `None` before 1970.
    pub(crate) fn time(&self) -> Option<SystemTime> {
        let ms = u64::try_from(self.time_ms?).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms))
    }

    /// OCSF severity to OTel severity. Never unspecified, which a filter `severity >= INFO` would drop; never the OCSF caption,
    /// which some receivers read as another severity.
    pub(crate) fn severity(&self) -> (Severity, &'static str) {
        match self.severity_id {
            2 => (Severity::Info2, "NOTICE"),
            3 => (Severity::Warn, "WARN"),
            4 => (Severity::Error, "ERROR"),
            5 => (Severity::Error2, "CRITICAL"),
            6 => (Severity::Fatal, "FATAL"),
            _ => (Severity::Info, "INFO"),
        }
    }

    pub(crate) fn event_name(&self) -> &'static str {
        // An id that cannot be is as good as an unknown one.
        let id = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
        ocsf::event_name(id(self.class_uid), id(self.activity_id))
    }

    /// Trace id, span id and flags.
    pub(crate) fn trace(&self) -> Option<(TraceId, SpanId, Option<TraceFlags>)> {
        Some((self.trace_id?, self.span_id.unwrap_or(SpanId::INVALID), self.trace_flags))
    }
}

/// Fills an SDK record from an OCSF event's JSON text.
///
/// # Errors
/// The text is not JSON; the record is then of no use.
pub(crate) fn fill(
    record: &mut SdkLogRecord,
    event: Arc<str>,
    observed: SystemTime,
    limits: &Limits,
) -> Result<(), Malformed> {
    let fields = read(&event, limits, record)?;
    if let Some(time) = fields.time() {
        record.set_timestamp(time);
    }
    let (number, text) = fields.severity();
    record.set_severity_number(number);
    record.set_severity_text(text);
    record.set_event_name(fields.event_name());
    if let Some((trace_id, span_id, flags)) = fields.trace() {
        record.set_trace_context(trace_id, span_id, flags);
    }
    carry(record, event, observed);
    Ok(())
}

/// The event's text alone, for a destination that makes what it needs of it, where nobody else looks at the record on its way:
/// building all of it would be half of all the work.
pub(crate) fn carry(record: &mut SdkLogRecord, event: Arc<str>, observed: SystemTime) {
    record.set_observed_timestamp(observed);
    record.set_body(AnyValue::String(StringValue::from(event)));
}

impl Attributes for SdkLogRecord {
    fn add(&mut self, key: &'static str, value: Promoted<'_>) {
        let value = match value {
            Promoted::Bool(bool) => AnyValue::Boolean(bool),
            Promoted::Int(int) => AnyValue::Int(int),
            Promoted::Double(double) => AnyValue::Double(double),
            Promoted::Text(text) => AnyValue::String(intern(text)),
            Promoted::Texts(texts) => {
                AnyValue::ListAny(Box::new(texts.iter().map(|text| AnyValue::String(intern(text))).collect()))
            }
        };
        self.add_attribute(Key::from_static_str(key), value);
    }
}

struct Promoter<'r, A> {
    attributes: &'r mut A,
    limits: &'r Limits,
    left: usize,
    fields: Fields,
}

impl<A: Attributes> Promoter<'_, A> {
    fn event(&mut self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        while let Some(key) = reader.key()? {
            match key.raw() {
                "time" => self.fields.time_ms = integer(reader.value()?),
                "unmapped" => span(reader, &mut self.fields)?,
                name => {
                    let value = self.member(name, Parent::Event, reader)?;
                    let integer = value.and_then(integer);
                    match name {
                        "class_uid" => self.fields.class_uid = integer.unwrap_or(0),
                        "activity_id" => self.fields.activity_id = integer.unwrap_or(0),
                        "severity_id" => self.fields.severity_id = integer.unwrap_or(0),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Promotes or passes over one member; gives its value if it was promoted.
    fn member<'a>(
        &mut self,
        name: &str,
        parent: Parent,
        reader: &mut Reader<'a>,
    ) -> Result<Option<Value<'a>>, Malformed> {
        match promotion(parent, name) {
            Promotion::Attribute(key) => {
                let value = reader.value()?;
                self.promote(key, value, reader)?;
                return Ok(Some(value));
            }
            Promotion::Object(child) => match reader.value()? {
                Value::Object => {
                    while let Some(key) = reader.key()? {
                        self.member(key.raw(), child, reader)?;
                    }
                }
                Value::Array => pass_array(reader)?,
                _ => {}
            },
            Promotion::None => {
                reader.skip()?;
            }
        }
        Ok(None)
    }

    fn promote(&mut self, key: &'static str, value: Value<'_>, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        match value {
            Value::Null => {}
            Value::Bool(bool) => self.add(key, Promoted::Bool(bool)),
            Value::Number(text) => {
                if let Ok(int) = text.parse() {
                    self.add(key, Promoted::Int(int));
                } else if let Ok(double) = text.parse() {
                    self.add(key, Promoted::Double(double));
                }
            }
            Value::String(text) => self.string(key, text),
            Value::Object => pass_object(reader)?,
            Value::Array => {
                let mut texts = Vec::new();
                while reader.element()? {
                    match reader.value()? {
                        Value::String(text) => texts.push(self.cut(text.text())),
                        Value::Array => pass_array(reader)?,
                        Value::Object => pass_object(reader)?,
                        _ => {}
                    }
                }
                self.add(key, Promoted::Texts(&texts));
            }
        }
        Ok(())
    }

    fn string(&mut self, key: &'static str, text: Str<'_>) {
        let text = text.text();
        if key == "ocsf.metadata.correlation_uid" {
            self.fields.trace_id =
                TraceId::from_hex(&text).ok().filter(|id| text.len() == 32 && *id != TraceId::INVALID);
        }
        if text.len() > MAX_ATTRIBUTE_BYTES {
            return;
        }
        let text = self.cut(text);
        if key == "ocsf.metadata.uid" {
            self.add(UID, Promoted::Text(&text));
        }
        self.add(key, Promoted::Text(&text));
    }

    /// `OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT` cuts, at a character's border.
    fn cut<'t>(&self, text: Cow<'t, str>) -> Cow<'t, str> {
        match self.limits.attribute_value_length {
            Some(limit) if text.len() > limit => match text.char_indices().nth(limit) {
                Some((end, _)) => text[..end].to_owned().into(),
                None => text,
            },
            _ => text,
        }
    }

    fn add(&mut self, key: &'static str, value: Promoted<'_>) {
        if self.left > 0 {
            self.left -= 1;
            self.attributes.add(key, value);
        }
    }
}

/// `unmapped.audit_span`: the span id and flags, which OCSF has no place for.
fn span(reader: &mut Reader<'_>, fields: &mut Fields) -> Result<(), Malformed> {
    match reader.value()? {
        Value::Object => {}
        Value::Array => return pass_array(reader),
        _ => return Ok(()),
    }
    while let Some(key) = reader.key()? {
        if key.raw() != "audit_span" {
            reader.skip()?;
            continue;
        }
        match reader.value()? {
            Value::Object => {}
            Value::Array => {
                pass_array(reader)?;
                continue;
            }
            _ => continue,
        }
        while let Some(key) = reader.key()? {
            match (key.raw(), reader.value()?) {
                ("span_id", Value::String(id)) => {
                    fields.span_id = SpanId::from_hex(id.raw()).ok().filter(|_| id.raw().len() == 16);
                }
                ("trace_flags", Value::Number(flags)) => fields.trace_flags = flags.parse().ok().map(TraceFlags::new),
                (_, Value::Array) => pass_array(reader)?,
                (_, Value::Object) => pass_object(reader)?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn pass_array(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    while reader.element()? {
        reader.skip()?;
    }
    Ok(())
}

fn pass_object(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    while reader.key()?.is_some() {
        reader.skip()?;
    }
    Ok(())
}

fn integer(value: Value<'_>) -> Option<i64> {
    match value {
        Value::Number(text) => text.parse().ok(),
        _ => None,
    }
}

/// Shares the texts that recur from event to event (captions, product, users), so that neither this record nor the SDK's clone
/// of it allocates for them. A direct-mapped table: a collision costs one allocation, never a wrong text.
fn intern(text: &str) -> StringValue {
    const SLOTS: usize = 256;
    thread_local! {
        static TABLE: RefCell<Vec<Option<Arc<str>>>> = RefCell::new(vec![None; SLOTS]);
    }
    // FNV-1a: short texts, no attacker to gain more than a collision.
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let slot = (hash ^ (hash >> 32)) as usize % SLOTS;
    TABLE.with_borrow_mut(|table| match &table[slot] {
        Some(shared) if **shared == *text => StringValue::from(Arc::clone(shared)),
        _ => {
            let shared = Arc::<str>::from(text);
            table[slot] = Some(Arc::clone(&shared));
            StringValue::from(shared)
        }
    })
}
