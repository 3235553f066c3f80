//! What a receiver has to find in the record of an event: the layout written down a second time, from the design and not
//! from the code, so that one can be held against the other.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use auditwire::AuditEvent;
use auditwire::config::Body;
use auditwire::ocsf::{self, Mapping};
use auditwire::receiver::json;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde_json::Value;

/// Paths of an OCSF event that become attributes under `ocsf.`, where they hold a scalar or a list of texts.
pub const PROMOTED: &[&str] = &[
    "class_uid",
    "class_name",
    "category_uid",
    "category_name",
    "activity_id",
    "activity_name",
    "type_uid",
    "type_name",
    "severity_id",
    "severity",
    "status_id",
    "status",
    "status_code",
    "status_detail",
    "message",
    "action_id",
    "action",
    "disposition_id",
    "metadata.version",
    "metadata.uid",
    "metadata.event_code",
    "metadata.tenant_uid",
    "metadata.correlation_uid",
    "metadata.sequence",
    "metadata.product.name",
    "metadata.product.vendor_name",
    "metadata.profiles",
    "actor.user.uid",
    "actor.user.name",
    "actor.user.email_addr",
    "actor.user.type_id",
    "actor.session.uid",
    "actor.app_name",
    "user.uid",
    "user.name",
    "src_endpoint.ip",
    "src_endpoint.port",
    "src_endpoint.hostname",
    "dst_endpoint.ip",
    "dst_endpoint.hostname",
    "api.operation",
    "api.service.name",
    "resource.uid",
    "resource.name",
    "resource.type",
];

/// The OCSF event's JSON text, with its number in the stream of this id.
pub fn ocsf_text(event: &AuditEvent, number: usize, stream: &str) -> String {
    let mut text = Vec::new();
    ocsf::encode(event, &Mapping::default(), None, &mut text);
    let version = env!("CARGO_PKG_VERSION");
    let place = format!(
        r#""metadata":{{"sequence":{number},"loggers":[{{"name":"auditwire","uid":"{stream}","version":"{version}"}}],"#
    );
    String::from_utf8(text).unwrap().replacen("\"metadata\":{", &place, 1)
}

/// The id of the stream that an OCSF event says it belongs to.
pub fn stream(ocsf: &str) -> String {
    let ocsf: Value = serde_json::from_str(ocsf).unwrap();
    ocsf["metadata"]["loggers"][0]["uid"].as_str().unwrap().to_owned()
}

/// Asserts that records are those of the events of one stream, from its first on, in all but their observed time.
pub fn assert_records<'r>(records: impl IntoIterator<Item = (&'r LogRecord, &'r AuditEvent)>, body: Body) {
    let mut id = None;
    for (at, (record, event)) in records.into_iter().enumerate() {
        let id = id.get_or_insert_with(|| match (body, record.body.as_ref().unwrap()) {
            (Body::Map, map) => stream(&written(map)),
            (_, AnyValue { value: Some(Any::StringValue(text)) }) if body == Body::Json => stream(text),
            // A message does not tell, nor does anything else of the record.
            _ => String::new(),
        });
        assert_record(record, event, body, &ocsf_text(event, at + 1, id));
    }
}

fn assert_record(record: &LogRecord, event: &AuditEvent, body: Body, text: &str) {
    let ocsf: Value = serde_json::from_str(text).unwrap();
    let number = |name: &str| ocsf[name].as_u64().unwrap();

    // Times are milliseconds there; those beyond the year 2554 do not fit here, and are unknown.
    assert_eq!(record.time_unix_nano, number("time").checked_mul(1_000_000).unwrap_or(0), "{text}");
    assert_eq!((record.severity_number, record.severity_text.as_str()), severity(number("severity_id")), "{text}");
    let [class, activity] = ["class_uid", "activity_id"].map(|name| u32::try_from(number(name)).unwrap());
    assert_eq!(record.event_name, ocsf::event_name(class, activity), "{text}");

    let trace_id = hex(event, "trace_id", 16);
    let span_id = trace_id.as_ref().and_then(|_| hex(event, "span_id", 8));
    let flags = event.extra.get("trace_flags").filter(|_| trace_id.is_some()).and_then(Value::as_u64);
    assert_eq!(u64::from(record.flags), flags.unwrap_or(0), "{text}");
    assert_eq!(record.trace_id, trace_id.unwrap_or_default(), "{text}");
    assert_eq!(record.span_id, span_id.unwrap_or_default(), "{text}");

    let found: BTreeMap<_, _> =
        record.attributes.iter().map(|pair| (pair.key.clone(), json(pair.value.as_ref().unwrap()))).collect();
    assert_eq!(found, attributes(&ocsf), "{text}");
    assert_eq!((found.len(), record.dropped_attributes_count), (record.attributes.len(), 0), "{text}");
    assert!(found.len() <= 48, "{text}");

    let found = record.body.as_ref().unwrap();
    match body {
        // Written as JSON again it is the same text: the same keys in the same order, the same types of numbers.
        Body::Map => {
            assert!(matches!(found.value, Some(Any::KvlistValue(_))), "{text}");
            assert_eq!(written(found), text);
        }
        Body::Json => assert_eq!(found.value, Some(Any::StringValue(text.to_owned()))),
        Body::Message => {
            let message = ocsf["message"].as_str().filter(|message| !message.is_empty());
            assert_eq!(found.value, Some(Any::StringValue(message.unwrap_or(text).to_owned())));
        }
    }
}

/// Number and text of a record's severity.
pub fn severity(severity_id: u64) -> (i32, &'static str) {
    match severity_id {
        2 => (10, "NOTICE"),
        3 => (13, "WARN"),
        4 => (17, "ERROR"),
        5 => (18, "CRITICAL"),
        6 => (21, "FATAL"),
        _ => (9, "INFO"),
    }
}

/// An id of the W3C trace context among the event's own fields; all zeros is none.
fn hex(event: &AuditEvent, name: &str, bytes: usize) -> Option<Vec<u8>> {
    let text = event.extra.get(name)?.as_str().filter(|text| text.len() == 2 * bytes && text.is_ascii())?;
    let id: Vec<u8> =
        (0..bytes).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()).collect::<Option<_>>()?;
    id.iter().any(|byte| *byte != 0).then_some(id)
}

/// The attributes that an OCSF event's record has, by key.
pub fn attributes(ocsf: &Value) -> BTreeMap<String, Value> {
    let mut wanted = BTreeMap::new();
    for path in PROMOTED {
        match ocsf.pointer(&format!("/{}", path.replace('.', "/"))) {
            None | Some(Value::Null | Value::Object(_)) => {}
            Some(Value::String(text)) if text.len() > 1024 => {}
            Some(value) => {
                wanted.insert(format!("ocsf.{path}"), value.clone());
            }
        }
    }
    if let Some(uid) = wanted.get("ocsf.metadata.uid").cloned() {
        wanted.insert("log.record.uid".to_owned(), uid);
    }
    wanted
}

/// As our JSON has it: beyond what JSON demands, what readers of lines take for a line's end is escaped.
fn quoted(text: &str) -> String {
    let special = |c: char| matches!(c, '\0'..' ' | '"' | '\\' | '\u{85}' | '\u{2028}' | '\u{2029}');
    if !text.contains(special) {
        return format!("\"{text}\"");
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if special(c) => write!(out, "\\u{:04x}", u32::from(c)).unwrap(),
            c => out.push(c),
        }
    }
    out + "\""
}

/// The JSON that a map body was made from. A text that begins with `@json:` stands for the JSON after it.
pub fn written(value: &AnyValue) -> String {
    fn write(value: &AnyValue, out: &mut String) {
        match &value.value {
            None => out.push_str("null"),
            Some(Any::BoolValue(truth)) => write!(out, "{truth}").unwrap(),
            Some(Any::IntValue(number)) => write!(out, "{number}").unwrap(),
            Some(Any::DoubleValue(number)) => out.push_str(&serde_json::to_string(number).unwrap()),
            Some(Any::StringValue(text)) => match text.strip_prefix("@json:") {
                Some(json) => out.push_str(json),
                None => out.push_str(&quoted(text)),
            },
            Some(Any::ArrayValue(array)) => list(out, "[]", &array.values, write),
            Some(Any::KvlistValue(map)) => list(out, "{}", &map.values, |pair, out| {
                write!(out, "{}:", quoted(&pair.key)).unwrap();
                write(pair.value.as_ref().unwrap(), out);
            }),
            other => panic!("no JSON has {other:?}"),
        }
    }
    fn list<T>(out: &mut String, brackets: &str, items: &[T], write: impl Fn(&T, &mut String)) {
        out.push_str(&brackets[..1]);
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            write(item, out);
        }
        out.push_str(&brackets[1..]);
    }
    let mut out = String::new();
    write(value, &mut out);
    out
}
