//! OCSF event to OTel log record, pure.
//!
//! The record's body is the event's JSON text, shared, never copied. Beside it stand at most [`MAX_ATTRIBUTES`] flat, typed
//! `ocsf.<path>` attributes from a closed list. Attribute keys are control channels downstream (`com.splunk.index`,
//! `ddtags`, `session.id`), so nothing an event says can become a key.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::logs::{AnyValue, LogRecord, Severity};
use opentelemetry::{Key, SpanId, StringValue, TraceFlags, TraceId};
use opentelemetry_sdk::logs::SdkLogRecord;

use crate::config::Limits;
use crate::json::{Malformed, Reader, Str, Value};
use crate::ocsf;

pub use crate::otlp::{OtlpJson, body_json};

/// Most attributes on a record.
pub const MAX_ATTRIBUTES: usize = 48;
/// Longest string that becomes an attribute, in bytes; a longer one stays in the body alone.
pub const MAX_ATTRIBUTE_BYTES: usize = 1024;

/// Attribute that identifies a record; the same id twice is a duplicate (OTel semantic conventions).
pub const UID: &str = "log.record.uid";

/// An object of the event that holds promoted values.
#[derive(Debug, Clone, Copy)]
enum Parent {
    Event,
    Metadata,
    Product,
    Actor,
    ActorUser,
    ActorSession,
    User,
    SrcEndpoint,
    DstEndpoint,
    Api,
    ApiService,
    Resource,
}

/// What becomes of a member of it.
enum Promotion {
    /// It is an attribute under this key.
    Attribute(&'static str),
    /// Members of it are.
    Object(Parent),
    /// It stays in the body alone.
    None,
}

/// The closed list.
fn promotion(parent: Parent, name: &str) -> Promotion {
    use Parent::*;
    use Promotion::{Attribute, Object};
    match parent {
        Event => match name {
            "class_uid" => Attribute("ocsf.class_uid"),
            "class_name" => Attribute("ocsf.class_name"),
            "category_uid" => Attribute("ocsf.category_uid"),
            "category_name" => Attribute("ocsf.category_name"),
            "activity_id" => Attribute("ocsf.activity_id"),
            "activity_name" => Attribute("ocsf.activity_name"),
            "type_uid" => Attribute("ocsf.type_uid"),
            "type_name" => Attribute("ocsf.type_name"),
            "severity_id" => Attribute("ocsf.severity_id"),
            "severity" => Attribute("ocsf.severity"),
            "status_id" => Attribute("ocsf.status_id"),
            "status" => Attribute("ocsf.status"),
            "status_code" => Attribute("ocsf.status_code"),
            "status_detail" => Attribute("ocsf.status_detail"),
            "message" => Attribute("ocsf.message"),
            "action_id" => Attribute("ocsf.action_id"),
            "action" => Attribute("ocsf.action"),
            "disposition_id" => Attribute("ocsf.disposition_id"),
            "metadata" => Object(Metadata),
            "actor" => Object(Actor),
            "user" => Object(User),
            "src_endpoint" => Object(SrcEndpoint),
            "dst_endpoint" => Object(DstEndpoint),
            "api" => Object(Api),
            "resource" => Object(Resource),
            _ => Promotion::None,
        },
        Metadata => match name {
            "version" => Attribute("ocsf.metadata.version"),
            "uid" => Attribute("ocsf.metadata.uid"),
            "event_code" => Attribute("ocsf.metadata.event_code"),
            "tenant_uid" => Attribute("ocsf.metadata.tenant_uid"),
            "correlation_uid" => Attribute("ocsf.metadata.correlation_uid"),
            "sequence" => Attribute("ocsf.metadata.sequence"),
            "profiles" => Attribute("ocsf.metadata.profiles"),
            "product" => Object(Product),
            _ => Promotion::None,
        },
        Product => match name {
            "name" => Attribute("ocsf.metadata.product.name"),
            "vendor_name" => Attribute("ocsf.metadata.product.vendor_name"),
            _ => Promotion::None,
        },
        Actor => match name {
            "app_name" => Attribute("ocsf.actor.app_name"),
            "user" => Object(ActorUser),
            "session" => Object(ActorSession),
            _ => Promotion::None,
        },
        ActorUser => match name {
            "uid" => Attribute("ocsf.actor.user.uid"),
            "name" => Attribute("ocsf.actor.user.name"),
            "email_addr" => Attribute("ocsf.actor.user.email_addr"),
            "type_id" => Attribute("ocsf.actor.user.type_id"),
            _ => Promotion::None,
        },
        ActorSession => match name {
            "uid" => Attribute("ocsf.actor.session.uid"),
            _ => Promotion::None,
        },
        User => match name {
            "uid" => Attribute("ocsf.user.uid"),
            "name" => Attribute("ocsf.user.name"),
            _ => Promotion::None,
        },
        SrcEndpoint => match name {
            "ip" => Attribute("ocsf.src_endpoint.ip"),
            "port" => Attribute("ocsf.src_endpoint.port"),
            "hostname" => Attribute("ocsf.src_endpoint.hostname"),
            _ => Promotion::None,
        },
        DstEndpoint => match name {
            "ip" => Attribute("ocsf.dst_endpoint.ip"),
            "hostname" => Attribute("ocsf.dst_endpoint.hostname"),
            _ => Promotion::None,
        },
        Api => match name {
            "operation" => Attribute("ocsf.api.operation"),
            "service" => Object(ApiService),
            _ => Promotion::None,
        },
        ApiService => match name {
            "name" => Attribute("ocsf.api.service.name"),
            _ => Promotion::None,
        },
        Resource => match name {
            "uid" => Attribute("ocsf.resource.uid"),
            "name" => Attribute("ocsf.resource.name"),
            "type" => Attribute("ocsf.resource.type"),
            _ => Promotion::None,
        },
    }
}

/// What of the event stands in the record's own fields.
#[derive(Default)]
struct Fields {
    time_ms: Option<i64>,
    class_uid: i64,
    activity_id: i64,
    severity_id: i64,
    trace_id: Option<TraceId>,
    span_id: Option<SpanId>,
    trace_flags: Option<TraceFlags>,
}

/// Fills a record from an OCSF event's JSON text.
///
/// # Errors
/// The text is not JSON; the record is then of no use.
pub(crate) fn fill(
    record: &mut SdkLogRecord,
    event: Arc<str>,
    observed: SystemTime,
    limits: &Limits,
) -> Result<(), Malformed> {
    let mut builder = Builder { record, limits, left: limits.attribute_count.min(MAX_ATTRIBUTES) };
    let mut fields = Fields::default();
    let mut reader = Reader::new(&event);
    if reader.value()? != Value::Object {
        return Err(Malformed(0));
    }
    builder.event(&mut reader, &mut fields)?;

    if let Some(ms) = fields.time_ms.and_then(|ms| u64::try_from(ms).ok()) {
        record.set_timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
    }
    record.set_observed_timestamp(observed);
    let (number, text) = severity(fields.severity_id);
    record.set_severity_number(number);
    record.set_severity_text(text);
    record.set_event_name(ocsf::event_name(id(fields.class_uid), id(fields.activity_id)));
    if let Some(trace_id) = fields.trace_id {
        record.set_trace_context(trace_id, fields.span_id.unwrap_or(SpanId::INVALID), fields.trace_flags);
    }
    record.set_body(AnyValue::String(StringValue::from(event)));
    Ok(())
}

/// A record for a destination that writes the event's text and nothing else, where nobody looks at the record on its way: building
/// the rest of it would be half of all the work.
pub(crate) fn carry(record: &mut SdkLogRecord, event: Arc<str>, observed: SystemTime) {
    record.set_observed_timestamp(observed);
    record.set_body(AnyValue::String(StringValue::from(event)));
}

/// OCSF severity to OTel severity. Never unspecified, which a filter `severity >= INFO` would drop; never the OCSF caption,
/// which some receivers read as another severity.
fn severity(severity_id: i64) -> (Severity, &'static str) {
    match severity_id {
        2 => (Severity::Info2, "NOTICE"),
        3 => (Severity::Warn, "WARN"),
        4 => (Severity::Error, "ERROR"),
        5 => (Severity::Error2, "CRITICAL"),
        6 => (Severity::Fatal, "FATAL"),
        _ => (Severity::Info, "INFO"),
    }
}

struct Builder<'r> {
    record: &'r mut SdkLogRecord,
    limits: &'r Limits,
    left: usize,
}

impl Builder<'_> {
    fn event(&mut self, reader: &mut Reader<'_>, fields: &mut Fields) -> Result<(), Malformed> {
        while let Some(key) = reader.key()? {
            match key.raw() {
                "time" => fields.time_ms = integer(reader.value()?),
                "unmapped" => span(reader, fields)?,
                name => {
                    let value = self.member(name, Parent::Event, reader, fields)?;
                    let integer = value.and_then(integer);
                    match name {
                        "class_uid" => fields.class_uid = integer.unwrap_or(0),
                        "activity_id" => fields.activity_id = integer.unwrap_or(0),
                        "severity_id" => fields.severity_id = integer.unwrap_or(0),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    fn object(&mut self, parent: Parent, reader: &mut Reader<'_>, fields: &mut Fields) -> Result<(), Malformed> {
        while let Some(key) = reader.key()? {
            self.member(key.raw(), parent, reader, fields)?;
        }
        Ok(())
    }

    /// Promotes or passes over one member; gives its value if it was promoted.
    fn member<'a>(
        &mut self,
        name: &str,
        parent: Parent,
        reader: &mut Reader<'a>,
        fields: &mut Fields,
    ) -> Result<Option<Value<'a>>, Malformed> {
        match promotion(parent, name) {
            Promotion::Attribute(key) => {
                let value = reader.value()?;
                self.promote(key, value, reader, fields)?;
                return Ok(Some(value));
            }
            Promotion::Object(child) => match reader.value()? {
                Value::Object => self.object(child, reader, fields)?,
                Value::Array => pass_array(reader)?,
                _ => {}
            },
            Promotion::None => {
                reader.skip()?;
            }
        }
        Ok(None)
    }

    fn promote(
        &mut self,
        key: &'static str,
        value: Value<'_>,
        reader: &mut Reader<'_>,
        fields: &mut Fields,
    ) -> Result<(), Malformed> {
        match value {
            Value::Null => {}
            Value::Bool(bool) => self.add(key, AnyValue::Boolean(bool)),
            Value::Number(text) => {
                if let Ok(integer) = text.parse::<i64>() {
                    self.add(key, AnyValue::Int(integer));
                } else if let Ok(double) = text.parse::<f64>() {
                    self.add(key, AnyValue::Double(double));
                }
            }
            Value::String(text) => self.string(key, text, fields),
            Value::Object => pass_object(reader)?,
            Value::Array => {
                let mut strings = Vec::new();
                while reader.element()? {
                    match reader.value()? {
                        Value::String(text) => {
                            strings.push(AnyValue::String(intern(self.cut(&text.text()))));
                        }
                        Value::Array => pass_array(reader)?,
                        Value::Object => pass_object(reader)?,
                        _ => {}
                    }
                }
                self.add(key, AnyValue::ListAny(Box::new(strings)));
            }
        }
        Ok(())
    }

    fn string(&mut self, key: &'static str, text: Str<'_>, fields: &mut Fields) {
        let text = text.text();
        match key {
            "ocsf.metadata.correlation_uid" => {
                fields.trace_id =
                    TraceId::from_hex(&text).ok().filter(|id| text.len() == 32 && *id != TraceId::INVALID);
            }
            // One allocation for the two attributes; the id repeats on no other record.
            "ocsf.metadata.uid" if text.len() <= MAX_ATTRIBUTE_BYTES => {
                let uid = StringValue::from(Arc::<str>::from(self.cut(&text)));
                self.add(UID, AnyValue::String(uid.clone()));
                self.add(key, AnyValue::String(uid));
                return;
            }
            _ => {}
        }
        if text.len() > MAX_ATTRIBUTE_BYTES {
            return;
        }
        let value = match key {
            "ocsf.class_name" => caption(self.cut(&text), ocsf::class_name(id(fields.class_uid))),
            "ocsf.activity_name" => {
                caption(self.cut(&text), ocsf::activity_name(id(fields.class_uid), id(fields.activity_id)))
            }
            "ocsf.severity" => caption(self.cut(&text), ocsf::severity_name(id(fields.severity_id))),
            // Seldom the same twice. Shared all the same: the SDK clones the record.
            "ocsf.message" => StringValue::from(Arc::<str>::from(self.cut(&text))),
            _ => intern(self.cut(&text)),
        };
        self.add(key, AnyValue::String(value));
    }

    /// `OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT` cuts, at a character's border.
    fn cut<'t>(&self, text: &'t str) -> &'t str {
        match self.limits.attribute_value_length {
            Some(limit) if text.len() > limit => match text.char_indices().nth(limit) {
                Some((end, _)) => &text[..end],
                None => text,
            },
            _ => text,
        }
    }

    fn add(&mut self, key: &'static str, value: AnyValue) {
        if self.left > 0 {
            self.left -= 1;
            self.record.add_attribute(Key::from_static_str(key), value);
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

/// A caption is static if it is the schema's, whole: nothing to hash, and nothing for the SDK to clone.
fn caption(text: &str, schema: &'static str) -> StringValue {
    if text == schema { StringValue::from(schema) } else { intern(text) }
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

/// An id of the schema; one that cannot be is as good as an unknown one.
fn id(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
