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
use crate::json::{Malformed, Reader, Value};
use crate::ocsf;
use promotion::Field;
pub(crate) use promotion::{Parent, Promotion, promotion};

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
#[derive(Debug, Clone, Default)]
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
    let mut promoter = Promoter::new(limits, attributes);
    let mut reader = Reader::new(event);
    if reader.value()? != Value::Object {
        return Err(Malformed);
    }
    promoter.object(Parent::Event, &mut reader)?;
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

/// Makes a record of an event's text: with all there is where somebody reads it on its way; else, and of what is no event, with the
/// text alone.
pub(crate) fn make(record: &mut SdkLogRecord, event: &Arc<str>, observed: SystemTime, limits: &Limits, is_read: bool) {
    if !is_read || fill(record, Arc::clone(event), observed, limits).is_err() {
        carry(record, Arc::clone(event), observed);
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
fn carry(record: &mut SdkLogRecord, event: Arc<str>, observed: SystemTime) {
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

/// Makes attributes and fields of an event's members, as whoever walks the event meets them.
pub(crate) struct Promoter<'r, A> {
    attributes: &'r mut A,
    limits: &'r Limits,
    /// Attributes added.
    count: usize,
    fields: Fields,
}

impl<'r, A: Attributes> Promoter<'r, A> {
    pub(crate) fn new(limits: &'r Limits, attributes: &'r mut A) -> Self {
        Self { attributes, limits, count: 0, fields: Fields::default() }
    }

    /// How many attributes have been added.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Takes what was promoted of such members before: so many attributes, which the caller adds to where this gives.
    pub(crate) fn accept(&mut self, fields: &Fields, count: usize) -> &mut A {
        self.count += count;
        (self.fields.class_uid, self.fields.activity_id) = (fields.class_uid, fields.activity_id);
        self.fields.severity_id = fields.severity_id;
        self.attributes
    }

    pub(crate) fn into_fields(self) -> Fields {
        self.fields
    }

    /// Walks the rest of an object that has been entered, only for what is promoted.
    pub(crate) fn object(&mut self, parent: Parent, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        while let Some(key) = reader.key()? {
            self.member(promotion(parent, key), reader)?;
        }
        Ok(())
    }

    /// Walks a member's value, only for what is promoted.
    pub(crate) fn member(&mut self, promotion: Promotion, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        if let Promotion::None = promotion {
            reader.skip()?;
            return Ok(());
        }
        let before = *reader;
        let value = reader.value()?;
        match (value, promotion) {
            (Value::Object, Promotion::Object(child)) => return self.object(child, reader),
            (Value::Object | Value::Array, _) => {
                *reader = before;
                self.compound(promotion, reader.skip()?)?;
            }
            _ => self.value(promotion, value),
        }
        Ok(())
    }

    /// Promotes a value; of an array or object, only that it is one.
    #[inline]
    pub(crate) fn value(&mut self, promotion: Promotion, value: Value<'_>) {
        let (field, key) = match promotion {
            Promotion::Attribute(key) => (None, Some(key)),
            Promotion::Field(field) => (Some(field), None),
            Promotion::Both(field, key) => (Some(field), Some(key)),
            Promotion::Object(_) | Promotion::None => return,
        };
        if let Some(field) = field {
            self.field(field, value);
        }
        match (key, value) {
            (Some(key), Value::Bool(bool)) => self.add(key, Promoted::Bool(bool)),
            (Some(key), Value::Int(int)) => self.add(key, Promoted::Int(int)),
            (Some(key), Value::Number(text)) => {
                if let Ok(double) = text.parse() {
                    self.add(key, Promoted::Double(double));
                }
            }
            (Some(key), Value::String(text)) => {
                let text = text.text();
                if text.len() <= MAX_ATTRIBUTE_BYTES {
                    self.add(key, Promoted::Text(&self.cut(text)));
                }
            }
            _ => {}
        }
    }

    fn field(&mut self, field: Field, value: Value<'_>) {
        let integer = if let Value::Int(int) = value { Some(int) } else { None };
        match (field, value) {
            (Field::Time, _) => self.fields.time_ms = integer,
            (Field::ClassUid, _) => self.fields.class_uid = integer.unwrap_or(0),
            (Field::ActivityId, _) => self.fields.activity_id = integer.unwrap_or(0),
            (Field::SeverityId, _) => self.fields.severity_id = integer.unwrap_or(0),
            (Field::Uid, Value::String(_)) => self.value(Promotion::Attribute(UID), value),
            (Field::TraceId, Value::String(id)) => {
                let id = id.text();
                self.fields.trace_id =
                    TraceId::from_hex(&id).ok().filter(|trace| id.len() == 32 && *trace != TraceId::INVALID);
            }
            (Field::SpanId, Value::String(id)) => {
                self.fields.span_id = SpanId::from_hex(id.raw()).ok().filter(|_| id.raw().len() == 16);
            }
            (Field::TraceFlags, Value::Int(_) | Value::Number(_)) => {
                self.fields.trace_flags = integer.and_then(|flags| u8::try_from(flags).ok()).map(TraceFlags::new);
            }
            (Field::Uid | Field::TraceId | Field::SpanId | Field::TraceFlags, _) => {}
        }
    }

    /// Promotes the texts of an array, by its JSON text; of an object, only that it is one.
    pub(crate) fn compound(&mut self, promotion: Promotion, text: &str) -> Result<(), Malformed> {
        let mut reader = Reader::new(text);
        let value = reader.value()?;
        self.value(promotion, value);
        let (Promotion::Attribute(key) | Promotion::Both(_, key), Value::Array) = (promotion, value) else {
            return Ok(());
        };
        let mut texts = Vec::new();
        while reader.element()? {
            let before = reader;
            match reader.value()? {
                Value::String(text) => texts.push(self.cut(text.text())),
                Value::Array | Value::Object => {
                    reader = before;
                    reader.skip()?;
                }
                _ => {}
            }
        }
        self.add(key, Promoted::Texts(&texts));
        Ok(())
    }

    /// `OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT` cuts, at a character's border.
    #[inline(always)]
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
        if self.count < self.limits.attribute_count.min(MAX_ATTRIBUTES) {
            self.count += 1;
            self.attributes.add(key, value);
        }
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
