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

/// An object of the event that holds promoted values: its path there is its place in this tree.
struct Node {
    scalars: &'static [(&'static str, &'static str)],
    objects: &'static [(&'static str, Node)],
}

const LEAF: &[(&str, Node)] = &[];

/// The closed list: key in the event, attribute key.
const PROMOTED: Node = Node {
    scalars: &[
        ("class_uid", "ocsf.class_uid"),
        ("class_name", "ocsf.class_name"),
        ("category_uid", "ocsf.category_uid"),
        ("category_name", "ocsf.category_name"),
        ("activity_id", "ocsf.activity_id"),
        ("activity_name", "ocsf.activity_name"),
        ("type_uid", "ocsf.type_uid"),
        ("type_name", "ocsf.type_name"),
        ("severity_id", "ocsf.severity_id"),
        ("severity", "ocsf.severity"),
        ("status_id", "ocsf.status_id"),
        ("status", "ocsf.status"),
        ("status_code", "ocsf.status_code"),
        ("status_detail", "ocsf.status_detail"),
        ("message", "ocsf.message"),
        ("action_id", "ocsf.action_id"),
        ("action", "ocsf.action"),
        ("disposition_id", "ocsf.disposition_id"),
    ],
    objects: &[
        (
            "metadata",
            Node {
                scalars: &[
                    ("version", "ocsf.metadata.version"),
                    ("uid", "ocsf.metadata.uid"),
                    ("event_code", "ocsf.metadata.event_code"),
                    ("tenant_uid", "ocsf.metadata.tenant_uid"),
                    ("correlation_uid", "ocsf.metadata.correlation_uid"),
                    ("sequence", "ocsf.metadata.sequence"),
                    ("profiles", "ocsf.metadata.profiles"),
                ],
                objects: &[(
                    "product",
                    Node {
                        scalars: &[
                            ("name", "ocsf.metadata.product.name"),
                            ("vendor_name", "ocsf.metadata.product.vendor_name"),
                        ],
                        objects: LEAF,
                    },
                )],
            },
        ),
        (
            "actor",
            Node {
                scalars: &[("app_name", "ocsf.actor.app_name")],
                objects: &[
                    (
                        "user",
                        Node {
                            scalars: &[
                                ("uid", "ocsf.actor.user.uid"),
                                ("name", "ocsf.actor.user.name"),
                                ("email_addr", "ocsf.actor.user.email_addr"),
                                ("type_id", "ocsf.actor.user.type_id"),
                            ],
                            objects: LEAF,
                        },
                    ),
                    ("session", Node { scalars: &[("uid", "ocsf.actor.session.uid")], objects: LEAF }),
                ],
            },
        ),
        ("user", Node { scalars: &[("uid", "ocsf.user.uid"), ("name", "ocsf.user.name")], objects: LEAF }),
        (
            "src_endpoint",
            Node {
                scalars: &[
                    ("ip", "ocsf.src_endpoint.ip"),
                    ("port", "ocsf.src_endpoint.port"),
                    ("hostname", "ocsf.src_endpoint.hostname"),
                ],
                objects: LEAF,
            },
        ),
        (
            "dst_endpoint",
            Node {
                scalars: &[("ip", "ocsf.dst_endpoint.ip"), ("hostname", "ocsf.dst_endpoint.hostname")],
                objects: LEAF,
            },
        ),
        (
            "api",
            Node {
                scalars: &[("operation", "ocsf.api.operation")],
                objects: &[("service", Node { scalars: &[("name", "ocsf.api.service.name")], objects: LEAF })],
            },
        ),
        (
            "resource",
            Node {
                scalars: &[
                    ("uid", "ocsf.resource.uid"),
                    ("name", "ocsf.resource.name"),
                    ("type", "ocsf.resource.type"),
                ],
                objects: LEAF,
            },
        ),
    ],
};

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
                    let value = self.member(name, &PROMOTED, reader, fields)?;
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

    fn object(&mut self, node: &'static Node, reader: &mut Reader<'_>, fields: &mut Fields) -> Result<(), Malformed> {
        while let Some(key) = reader.key()? {
            self.member(key.raw(), node, reader, fields)?;
        }
        Ok(())
    }

    /// Promotes or passes over one member; gives its value if it was promoted.
    fn member<'a>(
        &mut self,
        name: &str,
        node: &'static Node,
        reader: &mut Reader<'a>,
        fields: &mut Fields,
    ) -> Result<Option<Value<'a>>, Malformed> {
        if let Some((_, attribute)) = node.scalars.iter().find(|(key, _)| *key == name) {
            let value = reader.value()?;
            self.promote(attribute, value, reader, fields)?;
            return Ok(Some(value));
        }
        match node.objects.iter().find(|(key, _)| *key == name) {
            Some((_, child)) => match reader.value()? {
                Value::Object => self.object(child, reader, fields)?,
                Value::Array => pass_array(reader)?,
                _ => {}
            },
            None => {
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
            Value::Number(text) => match (text.parse::<i64>(), text.parse::<f64>()) {
                (Ok(integer), _) => self.add(key, AnyValue::Int(integer)),
                (_, Ok(double)) => self.add(key, AnyValue::Double(double)),
                _ => {}
            },
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
            "ocsf.message" => StringValue::from(self.cut(&text).to_owned()),
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
