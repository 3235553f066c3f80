//! What arrived at a receiver, for a person.
//!
//! In a pipe a record is one line, for `grep`. On a terminal what does not fit goes to a line of its own. What a sender says is
//! never trusted with the terminal: control characters are replaced.

use std::io::{self, IsTerminal as _, Write};

use auditwire::receiver::{Received, attribute, json, parse_otlp_json, records, uid};
use chrono::{DateTime, SecondsFormat};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde::{Serialize, Serializer};
use serde_json::Value;

const INDENT: usize = 4;
const GAP: &str = "  ";

/// How records are shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Show {
    /// Columns of the terminal; none in a pipe.
    pub(crate) width: Option<usize>,
    /// Whether the whole body follows.
    pub(crate) body: bool,
}

/// What a person wants to know about a record.
#[derive(Debug, Default)]
struct Digest {
    time: String,
    severity: String,
    name: String,
    message: String,
    user: String,
    uid: String,
    body: String,
}

impl Show {
    /// For standard output, as wide as it is.
    pub(crate) fn on_stdout(body: bool) -> Self {
        let stdout = io::stdout();
        let width = stdout.is_terminal().then(|| terminal_size::terminal_size_of(&stdout)).flatten();
        Self { width: width.map(|(columns, _)| usize::from(columns.0).max(20)), body }
    }

    /// Writes each record or element.
    ///
    /// # Errors
    /// The writer's.
    pub(crate) fn write(&self, out: &mut impl Write, received: &Received) -> io::Result<()> {
        for record in received.records() {
            self.write_one(out, &of_record(record))?;
        }
        for element in received.elements() {
            match request(element) {
                Some(request) => records(&request).try_for_each(|record| self.write_one(out, &of_record(record)))?,
                None => self.write_one(out, &of_element(element))?,
            }
        }
        out.flush()
    }

    fn write_one(&self, out: &mut impl Write, digest: &Digest) -> io::Result<()> {
        let severity = if digest.severity.is_empty() { String::new() } else { format!("{:5}", digest.severity) };
        let head = joined(GAP, [&digest.time, &severity, &digest.name]);
        let uid = if digest.uid.is_empty() { String::new() } else { format!("uid {}", digest.uid) };
        let who = [&head, &digest.user].map(|piece| printable(piece));
        let what = [&digest.message, &uid].map(|piece| printable(piece));
        writeln!(out, "{}", self.lay_out(&who, &what))?;
        if self.body && !digest.body.is_empty() {
            // Never cut: whoever asked for it wants all of it.
            writeln!(out, "{:INDENT$}{}", "", printable(&digest.body))?;
        }
        Ok(())
    }

    /// All on one line if it fits; else `what` begins a line of its own, and so does each piece that does not fit.
    fn lay_out(&self, who: &[String], what: &[String]) -> String {
        let whole = one_line([who, what].concat());
        let Some(width) = self.width.filter(|width| whole.chars().count() > *width) else { return whole };
        let mut lines: Vec<String> = Vec::new();
        for pieces in [who, what] {
            let mut open = None;
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                let line: String = open.take().unwrap_or_default();
                let longer = if line.is_empty() { piece.clone() } else { format!("{line}{GAP}{piece}") };
                let room = if lines.is_empty() { width } else { width - INDENT };
                if longer.chars().count() <= room {
                    open = Some(longer);
                } else {
                    lines.extend(Some(line).filter(|line| !line.is_empty()));
                    open = Some(cut(piece, width - INDENT));
                }
            }
            lines.extend(open);
        }
        lines.join(&format!("\n{:INDENT$}", ""))
    }
}

fn one_line(pieces: Vec<String>) -> String {
    pieces.into_iter().filter(|piece| !piece.is_empty()).collect::<Vec<_>>().join(GAP)
}

fn cut(piece: &str, width: usize) -> String {
    match piece.char_indices().nth(width) {
        None => piece.to_owned(),
        Some(_) => piece.chars().take(width - 1).chain(['…']).collect(),
    }
}

/// An OTLP log record; what is not ours is shown, too.
fn of_record(record: &LogRecord) -> Digest {
    let time = if record.time_unix_nano == 0 { record.observed_time_unix_nano } else { record.time_unix_nano };
    let body = record.body.as_ref().map(ordered_text).unwrap_or_default();
    let event: Value = serde_json::from_str(&body).unwrap_or_default();
    // The body holds the whole event unless it was configured to be its message.
    let text = |path: &str| {
        let attribute = || attribute(record, &format!("ocsf.{path}")).map(json);
        event.pointer(&pointer(path)).cloned().or_else(attribute).map(|value| bare(&value)).unwrap_or_default()
    };
    let message = Some(text("message")).filter(|message| !message.is_empty()).unwrap_or_else(|| body.clone());
    let severity = match &*record.severity_text {
        "" if record.severity_number != 0 => record.severity_number.to_string(),
        text => text.to_owned(),
    };
    Digest {
        time: time_text(i64::try_from(time).unwrap_or(0)),
        severity,
        name: record.event_name.clone(),
        message,
        user: user(text),
        uid: uid(record).unwrap_or_default().to_owned(),
        body,
    }
}

/// An element of a webhook's array: an OCSF event, an audit event, or anything.
fn of_element(element: &Value) -> Digest {
    let text = |path: &str| element.pointer(&pointer(path)).map(bare).unwrap_or_default();
    let body = element.to_string();
    let time = match element.get("time") {
        Some(Value::String(time)) => time.clone(),
        time => time_text(time.and_then(Value::as_i64).and_then(|millis| millis.checked_mul(1_000_000)).unwrap_or(0)),
    };
    let audit = joined(" ", [&text("action"), &text("outcome")]);
    let message = match text("message") {
        // An OCSF event has an `action`, too, but no `outcome`.
        message if message.is_empty() && element.get("outcome").is_some() => audit,
        message if message.is_empty() => body.clone(),
        message => message,
    };
    Digest {
        time,
        severity: text("severity"),
        name: text("type_name"),
        message,
        user: user(text),
        uid: Some(text("metadata.uid")).filter(|uid| !uid.is_empty()).unwrap_or_else(|| text("uid")),
        body,
    }
}

/// An element in the `otlp_json` format.
fn request(element: &Value) -> Option<ExportLogsServiceRequest> {
    element.get("resourceLogs")?;
    parse_otlp_json(element.to_string().as_bytes()).ok()
}

/// Who did it, by whatever name there is: of an OCSF event, at last of an audit event. `Unknown` is what the mapping writes where
/// OCSF demands a name and there is none.
fn user(text: impl Fn(&str) -> String) -> String {
    const PATHS: [&str; 8] = [
        "actor.user.email_addr",
        "actor.user.name",
        "actor.user.uid",
        "user.email_addr",
        "user.name",
        "user.uid",
        "actor.email",
        "actor.user_id",
    ];
    PATHS.iter().map(|path| text(path)).find(|name| !name.is_empty() && name != "Unknown").unwrap_or_default()
}

/// The JSON pointer to a path.
fn pointer(path: &str) -> String {
    format!("/{}", path.replace('.', "/"))
}

fn joined<const N: usize>(by: &str, parts: [&String; N]) -> String {
    parts.into_iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join(by)
}

/// Text without quotation marks, nothing for null, everything else as JSON.
fn bare(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn time_text(nanos: i64) -> String {
    match nanos {
        1.. => DateTime::from_timestamp_nanos(nanos).to_rfc3339_opts(SecondsFormat::Millis, true),
        _ => "no time".to_owned(),
    }
}

/// A body as text: a string as it is, everything else as JSON in its own order.
fn ordered_text(value: &AnyValue) -> String {
    match &value.value {
        Some(Any::StringValue(text)) => text.clone(),
        _ => serde_json::to_string(&Ordered(value)).unwrap_or_default(),
    }
}

/// JSON with the keys in the order of the wire.
struct Ordered<'a>(&'a AnyValue);

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0.value {
            Some(Any::ArrayValue(array)) => serializer.collect_seq(array.values.iter().map(Ordered)),
            Some(Any::KvlistValue(list)) => serializer
                .collect_map(list.values.iter().map(|pair| (pair.key.as_str(), pair.value.as_ref().map(Ordered)))),
            _ => json(self.0).serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{KeyValue, KeyValueList};
    use serde_json::json;

    use super::*;

    fn pair(key: &str, value: Any) -> KeyValue {
        KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    }

    fn shown(digest: &Digest, width: Option<usize>, body: bool) -> String {
        let mut out = Vec::new();
        Show { width, body }.write_one(&mut out, digest).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn record() -> LogRecord {
        let user = KeyValueList { values: vec![pair("uid", Any::StringValue("u-1\u{1b}[2J".into()))] };
        let body = KeyValueList {
            values: vec![
                pair("time", Any::IntValue(1)),
                pair("message", Any::StringValue("login by u-1".into())),
                pair("actor", Any::KvlistValue(KeyValueList { values: vec![pair("user", Any::KvlistValue(user))] })),
            ],
        };
        LogRecord {
            time_unix_nano: 1_700_000_000_123_000_000,
            severity_text: "WARN".to_owned(),
            event_name: "ocsf.authentication.logon".to_owned(),
            attributes: vec![pair("log.record.uid", Any::StringValue("id-1".to_owned()))],
            body: Some(AnyValue { value: Some(Any::KvlistValue(body)) }),
            ..LogRecord::default()
        }
    }

    #[test]
    fn a_record_is_one_line_in_a_pipe_and_more_on_a_narrow_terminal() {
        let digest = of_record(&record());
        assert_eq!(
            shown(&digest, None, false),
            "2023-11-14T22:13:20.123Z  WARN   ocsf.authentication.logon  u-1\u{fffd}[2J  login by u-1  uid id-1\n"
        );
        assert_eq!(
            shown(&digest, Some(60), false),
            "2023-11-14T22:13:20.123Z  WARN   ocsf.authentication.logon\n    u-1\u{fffd}[2J\n    login by u-1  uid id-1\n"
        );
        for line in shown(&digest, Some(20), false).lines() {
            assert!(line.chars().count() <= 20, "{line}");
        }
    }

    #[test]
    fn a_body_keeps_the_order_of_the_wire() {
        let text = shown(&of_record(&record()), None, true);
        let wanted = r#"    {"time":1,"message":"login by u-1","actor":{"user":{"uid":"u-1\u001b[2J"}}}"#;
        assert_eq!(text.lines().nth(1).unwrap(), wanted);
    }

    #[test]
    fn elements_of_any_format_are_shown() {
        let ocsf = json!({"time": 1, "severity": "Low", "type_name": "A: B", "message": "m", "action": "Allowed",
            "metadata": {"uid": "i"}, "user": {"name": "Unknown", "uid": "u"}});
        assert_eq!(shown(&of_element(&ocsf), None, false), "1970-01-01T00:00:00.001Z  Low    A: B  u  m  uid i\n");
        let audit = json!({"time": "t", "type_name": "n", "action": "a", "outcome": "deny", "uid": "i",
            "actor": {"email": "e"}});
        assert_eq!(shown(&of_element(&audit), None, false), "t  n  e  a deny  uid i\n");
        assert_eq!(shown(&of_element(&json!({"x": 1})), None, false), "no time  {\"x\":1}\n");
        assert_eq!(shown(&of_record(&LogRecord::default()), None, false), "no time\n");
    }
}
