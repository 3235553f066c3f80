//! The whole way to a real VictoriaLogs: what a query finds is what was emitted.

mod support;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use auditwire::config::{Batch, Body, Config, Destination, DestinationKind, Otlp, Protocol};
use auditwire::secret::Secret;
use auditwire::{AuditEvent, AuditStreamer};
use serde_json::Value;
use support::{PATIENCE, VictoriaLogs, built, events, expected};
use tempfile::TempDir;

/// Streams events until the store has confirmed them.
async fn stream(store: &VictoriaLogs, dir: &TempDir, body: Body, events: &[AuditEvent]) {
    let otlp = Otlp {
        protocol: Protocol::HttpProtobuf,
        headers: vec![("VL-Msg-Field".into(), Secret::new("message"))],
        body,
        ..Otlp::grpc(store.otlp_logs_url())
    };
    let streamer = AuditStreamer::start(Config {
        destinations: vec![Destination { name: "store".into(), kind: DestinationKind::Otlp(otlp) }],
        batch: Batch { schedule_delay: Duration::from_millis(50), ..Batch::default() },
        resource: vec![("service.name".into(), "audit-test".into())],
        dead_letter_path: dir.path().join("dead-letters.jsonl"),
        ..Config::default()
    })
    .unwrap();
    streamer.stream_events(events.to_vec()).await.unwrap();
    streamer.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_query_finds_ten_thousand_as_they_were_emitted() {
    if built().is_none() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let store = VictoriaLogs::start(dir.path());
    let events = events::samples(10_000);
    stream(&store, &dir, Body::Map, &events).await;

    assert_eq!(store.wait_for("*", 10_000).await, 10_000);
    assert_eq!(store.count("ocsf.class_uid:=3002").await, 2500, "4 of 16 are authentications");
    let found = store.records("*", 10_000).await;
    let found: HashMap<_, _> = found.iter().map(|record| (text(record, "log.record.uid"), record)).collect();
    assert_eq!(found.len(), 10_000, "each is another");
    for (at, event) in events.iter().enumerate() {
        // The stream's id lies in a list, which is not looked at.
        let ocsf = expected::ocsf_text(event, at + 1, "");
        assert_stored(found[&*event.uid], event, &serde_json::from_str(&ocsf).unwrap());
    }
}

/// Of a map it makes fields, and without a word it drops a record whose field has a name of more than 128 bytes, which an
/// event's own unknown fields may have. A text it keeps, whatever is in it.
#[tokio::test]
async fn any_event_is_kept_when_the_body_is_its_text() {
    if built().is_none() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let store = VictoriaLogs::start(dir.path());
    let now = chrono::Utc::now();
    let events: Vec<_> = events::mixed(2000).into_iter().step_by(10).map(|event| event.with_time(now)).collect();
    stream(&store, &dir, Body::Json, &events).await;

    assert_eq!(store.wait_for("*", 200).await, 200);
    let found = store.records("*", 200).await;
    assert_eq!(found.len(), 200);
    let found: HashMap<_, _> = found.iter().map(|record| (text(record, "log.record.uid"), record)).collect();
    let stream = expected::stream(text(found[&*events[0].uid], "_msg"));
    for (at, event) in events.iter().enumerate() {
        assert_eq!(text(found[&*event.uid], "_msg"), expected::ocsf_text(event, at + 1, &stream));
    }
}

fn text<'a>(record: &'a Value, field: &str) -> &'a str {
    record[field].as_str().unwrap_or_default()
}

/// VictoriaLogs keeps texts: the body's under their paths, the attributes' and the record's own beside them.
fn assert_stored(record: &Value, event: &AuditEvent, ocsf: &Value) {
    let mut wanted = BTreeMap::new();
    flatten(String::new(), ocsf, &mut wanted);
    wanted.extend(expected::attributes(ocsf).into_iter().filter(|(_, value)| !value.is_array()).map(as_text));
    // The text field has taken the message's place.
    let message = wanted.remove("message").unwrap();
    wanted.insert("_msg".to_owned(), message);
    // The resource has an attribute of that name too, and either may be found.
    wanted.remove("service.name");
    for (field, wanted) in &wanted {
        assert_eq!(text(record, field), wanted, "{field}: {record}");
    }
    let nanos = ocsf["time"].as_i64().unwrap() * 1_000_000;
    let time = chrono::DateTime::parse_from_rfc3339(text(record, "_time")).unwrap();
    assert_eq!(time.timestamp_nanos_opt(), Some(nanos));
    let (number, name) = expected::severity(ocsf["severity_id"].as_u64().unwrap());
    assert_eq!((text(record, "severity_number"), text(record, "severity_text")), (&*number.to_string(), name));
    let stream = format!("{{event_name=\"{}\",service.name=\"audit-test\"}}", text(record, "event_name"));
    assert!(text(record, "event_name").starts_with("ocsf.") && text(record, "_stream") == stream, "{record}");
    for field in ["trace_id", "span_id"] {
        assert_eq!(text(record, field), event.extra.get(field).map_or("", |id| id.as_str().unwrap()));
    }
    assert_eq!(text(record, "scope.name"), "auditwire");
}

/// Lists stay JSON there, and what is empty is nothing.
fn flatten(path: String, value: &Value, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                flatten(if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, value, out);
            }
        }
        Value::Array(_) | Value::Null => {}
        scalar => out.extend([as_text((path, scalar.clone()))]),
    }
}

fn as_text((name, value): (String, Value)) -> (String, String) {
    (name, value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}
