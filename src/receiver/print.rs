//! What arrived, for a person and for a file.
//!
//! What a sender says is never trusted with the terminal: control characters are replaced before a line is cut to width.

use std::fmt::Write as _;
use std::io::{self, Write};

use chrono::{DateTime, SecondsFormat};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde_json::Value;

use super::{Payload, Received, json, uid};

/// Where lines are cut, in characters.
pub const WIDTH: usize = 160;

const INDENT: &str = "    ";

/// Writes each record for a person: a line with time, severity, name and id, one with the `ocsf.*` attributes, one with
/// the body.
///
/// # Errors
/// The writer's.
pub fn write_readable(out: &mut impl Write, received: &Received) -> io::Result<()> {
    for record in received.records() {
        out.write_all(record_text(record).as_bytes())?;
    }
    for element in received.elements() {
        out.write_all(element_text(element).as_bytes())?;
    }
    out.flush()
}

/// Writes JSON Lines: for OTLP the request in its OTLP/JSON form, as a Collector's file exporter does; for a webhook each
/// element.
///
/// # Errors
/// The writer's.
pub fn write_jsonl(out: &mut impl Write, received: &Received) -> io::Result<()> {
    match &received.payload {
        Payload::Otlp(request) => {
            serde_json::to_writer(&mut *out, request)?;
            out.write_all(b"\n")?;
        }
        Payload::Json(_) => {
            for element in received.elements() {
                serde_json::to_writer(&mut *out, element)?;
                out.write_all(b"\n")?;
            }
        }
    }
    out.flush()
}

/// One log record in three lines.
pub fn record_text(record: &LogRecord) -> String {
    let nanos = if record.time_unix_nano == 0 { record.observed_time_unix_nano } else { record.time_unix_nano };
    let attributes = record.attributes.iter().filter_map(|attribute| {
        let name = attribute.key.strip_prefix("ocsf.")?;
        Some((name, attribute.value.as_ref().map_or(Value::Null, json)))
    });
    let body = record.body.as_ref().map_or(Value::Null, json);
    lines(
        [
            time_text(i64::try_from(nanos).ok()).as_str(),
            &record.severity_text,
            &record.event_name,
            uid(record).unwrap_or(""),
        ],
        attributes,
        &body,
    )
}

/// One element of a webhook's array, read as an OCSF event or as an audit event.
pub fn element_text(element: &Value) -> String {
    let text = |pointer| element.pointer(pointer).and_then(Value::as_str);
    let time = match text("/timestamp") {
        Some(timestamp) => timestamp.to_owned(),
        None => time_text(element.get("time").and_then(Value::as_i64).and_then(|millis| millis.checked_mul(1_000_000))),
    };
    let name = text("/type_name").or(text("/class_name")).unwrap_or("");
    let id = text("/metadata/uid").or(text("/id")).unwrap_or("");
    let fields = element.as_object().into_iter().flatten().filter(|(_, value)| !value.is_object() && !value.is_array());
    lines(
        [&time, text("/severity").unwrap_or(""), name, id],
        fields.map(|(name, value)| (name.as_str(), value.clone())),
        element,
    )
}

fn lines<'a>(head: [&str; 4], attributes: impl Iterator<Item = (&'a str, Value)>, body: &Value) -> String {
    let head: Vec<_> = head.into_iter().filter(|part| !part.is_empty()).collect();
    let mut text = line("", &head.join("  "));
    let mut pairs = String::new();
    for (name, value) in attributes {
        let _ = write!(pairs, "{}{name}={}", if pairs.is_empty() { "" } else { " " }, bare(&value));
    }
    for more in [pairs, bare(body)] {
        if !more.is_empty() {
            text += &line(INDENT, &more);
        }
    }
    text
}

/// Text without quotation marks, nothing for null, everything else as JSON.
fn bare(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn line(indent: &str, text: &str) -> String {
    let room = WIDTH - indent.len();
    let mut shown: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(room + 1).collect();
    if let Some((cut, _)) = shown.char_indices().nth(room) {
        let last = shown[..cut].char_indices().next_back().map_or(0, |(at, _)| at);
        shown.truncate(last);
        shown.push('…');
    }
    format!("{indent}{shown}\n")
}

fn time_text(nanos: Option<i64>) -> String {
    match nanos {
        Some(nanos) if nanos > 0 => DateTime::from_timestamp_nanos(nanos).to_rfc3339_opts(SecondsFormat::Millis, true),
        _ => "no time".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value as Any};
    use serde_json::json;

    use super::*;

    fn pair(key: &str, value: Any) -> KeyValue {
        KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    }

    #[test]
    fn a_record_is_three_lines() {
        let record = LogRecord {
            time_unix_nano: 1_700_000_000_123_000_000,
            severity_text: "WARN".to_owned(),
            event_name: "ocsf.authentication.logon".to_owned(),
            attributes: vec![
                pair("log.record.uid", Any::StringValue("id-1".to_owned())),
                pair("ocsf.class_uid", Any::IntValue(3002)),
                pair("ocsf.actor.user.name", Any::StringValue("eve\u{1b}[2J".to_owned())),
            ],
            body: Some(AnyValue { value: Some(Any::StringValue("two\nlines".to_owned())) }),
            ..LogRecord::default()
        };
        assert_eq!(
            record_text(&record),
            "2023-11-14T22:13:20.123Z  WARN  ocsf.authentication.logon  id-1\n\
             \x20   class_uid=3002 actor.user.name=eve\u{fffd}[2J\n\
             \x20   two\u{fffd}lines\n"
        );
        assert_eq!(record_text(&LogRecord::default()), "no time\n");
    }

    #[test]
    fn long_lines_are_cut_to_width() {
        let body = "é".repeat(WIDTH);
        let text = element_text(&json!({"time": 1_700_000_000_123_i64, "message": body}));
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        assert!(text.lines().nth(1).unwrap().ends_with('…'));
        assert_eq!(line("", &"x".repeat(WIDTH)), format!("{}\n", "x".repeat(WIDTH)));
    }
}
