//! OTLP on the wire: log records straight to protobuf bytes, without the message types in between.
//!
//! A request is an envelope (resource, scope) around records. Records are encoded once and keep their bounds, so that a request
//! can be halved or sent again without encoding anything twice. The JSON encoding is made from the protobuf bytes by the
//! message types of `opentelemetry-proto`: one encoding is ours, the other follows.
//!
//! Field numbers are those of `opentelemetry/proto/logs/v1/logs.proto` and `common/v1/common.proto` (opentelemetry-proto 1.x).

mod any_value;
mod known;
mod wire;

use std::time::SystemTime;

use ::bytes::Bytes;
use opentelemetry::logs::{AnyValue, Logger as _, LoggerProvider as _};
use opentelemetry::{SpanId, TraceFlags, TraceId};
use opentelemetry_proto::tonic::logs::v1 as proto;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{SdkLogRecord, SdkLogger, SdkLoggerProvider};
use prost::Message;

use crate::config::{Body, Limits};
use crate::event::AuditEvent;
use crate::json::{Malformed, Reader, Value};
use crate::record::{Parent, Promoted, Promoter, promotion};
use crate::{ocsf, pipeline, record};
use wire::{begin, bytes, end, fixed32, fixed64, nested, varint_field};

pub(crate) use any_value::any_json;
pub use any_value::body_json;
pub(crate) use known::Known;

/// The instrumentation scope of every record.
pub(crate) const SCOPE_NAME: &str = env!("CARGO_PKG_NAME");
/// Its version.
pub(crate) const SCOPE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Appends a record as an element of `ScopeLogs.log_records`.
pub(crate) fn log_record(record: &SdkLogRecord, body: Body, out: &mut Vec<u8>) {
    // ScopeLogs.log_records = 2; a record is rarely below 128 bytes and rarely above 16 KiB: two bytes of length.
    nested(out, 2, 2, |out| {
        if let Some(nanos) = record.timestamp().and_then(nanos) {
            fixed64(out, 1, nanos);
        }
        if let Some(severity) = record.severity_number() {
            varint_field(out, 2, severity as u64);
        }
        if let Some(text) = record.severity_text() {
            bytes(out, 3, text.as_bytes());
        }
        if let Some(value) = record.body() {
            nested(out, 5, 2, |out| write_body(value, body, out));
        }
        for (key, value) in record.attributes_iter() {
            if let AnyValue::String(text) = value {
                any_value::string_pair(out, 6, key.as_str(), text.as_str());
                continue;
            }
            nested(out, 6, 1, |out| {
                bytes(out, 1, key.as_str().as_bytes());
                nested(out, 2, 1, |out| any_value::sdk(value, out));
            });
        }
        if let Some(context) = record.trace_context() {
            trace(context.trace_id, context.span_id, context.trace_flags.unwrap_or_default(), out);
        }
        if let Some(nanos) = record.observed_timestamp().and_then(nanos) {
            fixed64(out, 11, nanos);
        }
        if let Some(name) = record.event_name() {
            bytes(out, 12, name.as_bytes());
        }
    });
}

/// Appends the record of an event, of which only the text was carried, as an element of `ScopeLogs.log_records`: the same bytes as
/// [`log_record`] of the whole record, up to their order. Text that is no event becomes the body of a bare record.
pub(crate) fn event_record(
    event: &str,
    observed: Option<SystemTime>,
    body: Body,
    known: &mut Known,
    out: &mut Vec<u8>,
) {
    nested(out, 2, 2, |out| {
        let fields = match body {
            Body::Map => map_and_attributes(event, known, out),
            Body::Json | Body::Message => None,
        };
        let fields = fields.or_else(|| {
            nested(out, 5, 2, |out| write_text_body(event, body, out));
            let start = out.len();
            attributes(event, known, out).inspect_err(|_| out.truncate(start)).ok()
        });
        if let Some(fields) = fields {
            if let Some(nanos) = fields.time().and_then(nanos) {
                fixed64(out, 1, nanos);
            }
            let (number, text) = fields.severity();
            varint_field(out, 2, number as u64);
            bytes(out, 3, text.as_bytes());
            if let Some((trace_id, span_id, flags)) = fields.trace() {
                trace(trace_id, span_id, flags.unwrap_or_default(), out);
            }
            bytes(out, 12, fields.event_name().as_bytes());
        }
        if let Some(nanos) = observed.and_then(nanos) {
            fixed64(out, 11, nanos);
        }
    });
}

/// The event as a map and its attributes, the text being read only once; `None`, and nothing written, if it is no event.
fn map_and_attributes(event: &str, known: &mut Known, out: &mut Vec<u8>) -> Option<record::Fields> {
    let start = out.len();
    // They cannot stand within the body.
    let mut attributes = Vec::with_capacity(event.len() * 2);
    let limits = known.limits();
    let mut promoter = Promoter::new(&limits, &mut attributes);
    let body = begin(out, 5, 2);
    if any_value::event(event, &mut promoter, known, out).is_err() {
        out.truncate(start);
        return None;
    }
    let fields = promoter.into_fields();
    end(out, body);
    out.extend_from_slice(&attributes);
    Some(fields)
}

/// The event's attributes alone: [`record::read`], which does not know what recurs.
fn attributes(event: &str, known: &mut Known, out: &mut Vec<u8>) -> Result<record::Fields, Malformed> {
    let limits = known.limits();
    let mut promoter = Promoter::new(&limits, out);
    let mut reader = Reader::new(event);
    if reader.value()? != Value::Object {
        return Err(Malformed);
    }
    if let Some(time) = reader.key()? {
        promoter.member(promotion(Parent::Event, time), &mut reader)?;
        if promoter.count() == 0
            && let Some(run) = known.run(reader.rest_text())
        {
            promoter.accept(&run.fields, run.count).extend_from_slice(&run.attributes);
            reader.pass(run.len());
        }
        promoter.object(Parent::Event, &mut reader)?;
    }
    Ok(promoter.into_fields())
}

/// Attributes straight to the wire.
impl record::Attributes for Vec<u8> {
    fn add(&mut self, key: &'static str, value: Promoted<'_>) {
        match value {
            Promoted::Text(text) => any_value::string_pair(self, 6, key, text),
            Promoted::Int(int) => any_value::int_pair(self, 6, key, int),
            value => nested(self, 6, 1, |out| {
                bytes(out, 1, key.as_bytes());
                nested(out, 2, 1, |out| any_value::promoted(&value, out));
            }),
        }
    }
}

fn trace(trace_id: TraceId, span_id: SpanId, flags: TraceFlags, out: &mut Vec<u8>) {
    fixed32(out, 8, u32::from(flags.to_u8()));
    if trace_id != TraceId::INVALID {
        bytes(out, 9, &trace_id.to_bytes());
    }
    if span_id != SpanId::INVALID {
        bytes(out, 10, &span_id.to_bytes());
    }
}

/// A body that is a JSON object's text is ours; anything else was put there by a processor of the user's and stays as it is.
fn write_body(value: &AnyValue, body: Body, out: &mut Vec<u8>) {
    match value {
        AnyValue::String(text) if text.as_str().starts_with('{') => write_text_body(text.as_str(), body, out),
        _ => any_value::sdk(value, out),
    }
}

fn write_text_body(text: &str, body: Body, out: &mut Vec<u8>) {
    match body {
        Body::Json => bytes(out, 1, text.as_bytes()),
        Body::Map => any_value::json(text, out),
        Body::Message => match message(text) {
            Some(message) => bytes(out, 1, message.as_bytes()),
            // A body must never be empty: some receivers drop such a record in silence.
            None => bytes(out, 1, text.as_bytes()),
        },
    }
}

fn message(event: &str) -> Option<String> {
    let mut reader = Reader::new(event);
    reader.value().ok()?;
    while let Some(key) = reader.key().ok()? {
        if key.raw() != "message" {
            reader.skip().ok()?;
        } else if let Value::String(message) = reader.value().ok()? {
            return Some(message.text().into_owned()).filter(|message| !message.is_empty());
        }
    }
    None
}

/// Nanoseconds since the epoch. A time that they cannot hold (before 1970, after 2554) is unknown to OTLP, and stays in the body.
fn nanos(time: SystemTime) -> Option<u64> {
    u64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos()).ok()
}

/// What stands around the records of a request: `ResourceLogs` of one resource and `ScopeLogs` of our one scope.
#[derive(Debug, Clone)]
pub(crate) struct Envelope {
    /// `ResourceLogs.resource`, field tag included.
    resource: Vec<u8>,
    /// `ResourceLogs.schema_url`, field tag included.
    schema_url: Vec<u8>,
    /// `ScopeLogs.scope`, field tag included.
    scope: Vec<u8>,
}

impl Envelope {
    pub(crate) fn new(resource: &Resource) -> Self {
        let mut encoded = Vec::new();
        // The SDK keeps them in a hash map; the same resource shall give the same bytes.
        let mut attributes: Vec<_> = resource.iter().collect();
        attributes.sort_by_key(|(name, _)| *name);
        nested(&mut encoded, 1, 2, |out| {
            for (key, value) in attributes {
                nested(out, 1, 1, |out| {
                    bytes(out, 1, key.as_str().as_bytes());
                    nested(out, 2, 1, |out| any_value::resource(value, out));
                });
            }
        });
        let mut schema_url = Vec::new();
        if let Some(url) = resource.schema_url() {
            bytes(&mut schema_url, 3, url.as_bytes());
        }
        let mut scope = Vec::new();
        nested(&mut scope, 1, 1, |out| {
            bytes(out, 1, SCOPE_NAME.as_bytes());
            bytes(out, 2, SCOPE_VERSION.as_bytes());
        });
        Self { resource: encoded, schema_url, scope }
    }

    /// Encoded records as an `ExportLogsServiceRequest`, in parts.
    pub(crate) fn request(&self, records: Bytes) -> Vec<Bytes> {
        let (head, tail) = self.around(records.len());
        vec![head.into(), records, tail.into()]
    }

    /// The bytes before and after `records` bytes of encoded records, which together are an `ExportLogsServiceRequest`
    /// (and a `LogsData`, which has the same form).
    fn around(&self, records: usize) -> (Vec<u8>, Vec<u8>) {
        let scope_logs = self.scope.len() + records;
        let scope_logs_field = wire::field_len(scope_logs);
        let resource_logs = self.resource.len() + scope_logs_field + self.schema_url.len();
        let mut head = Vec::with_capacity(self.resource.len() + self.scope.len() + 24);
        wire::header(&mut head, 1, resource_logs);
        head.extend_from_slice(&self.resource);
        wire::header(&mut head, 2, scope_logs);
        head.extend_from_slice(&self.scope);
        (head, self.schema_url.clone())
    }

    /// One OTLP/JSON object (`LogsData`, and `ExportLogsServiceRequest`, which has the same form) of encoded records.
    pub(crate) fn json(&self, records: &[u8]) -> Vec<u8> {
        let (mut whole, tail) = self.around(records.len());
        whole.extend_from_slice(records);
        whole.extend_from_slice(&tail);
        let data = proto::LogsData::decode(&*whole).expect("we read what we have just written");
        serde_json::to_vec(&data).expect("message types serialize to memory without failing")
    }
}

/// Writes audit events as OTLP/JSON: one `LogsData` with one record for each, as the format `otlp_json` has it.
#[derive(Debug)]
pub struct OtlpJson {
    logger: SdkLogger,
    envelope: Envelope,
}

impl OtlpJson {
    /// For records whose source is described by these resource attributes.
    pub fn new(resource: &[(String, String)]) -> Self {
        // A record can only be made by a logger; this one has nobody to emit to.
        let provider = SdkLoggerProvider::builder().build();
        Self { logger: provider.logger(SCOPE_NAME), envelope: Envelope::new(&pipeline::resource(resource)) }
    }

    /// An event's line, without its end.
    pub fn line(&self, event: &AuditEvent, mapping: &ocsf::Mapping) -> Vec<u8> {
        let mut text = Vec::new();
        ocsf::encode(event, mapping, None, &mut text);
        let text = String::from_utf8(text).expect("the encoder writes UTF-8");
        let mut record = self.logger.create_log_record();
        record::fill(&mut record, text.into(), SystemTime::now(), &Limits::default()).expect("our encoder writes JSON");
        let mut encoded = Vec::new();
        log_record(&record, Body::Map, &mut encoded);
        self.envelope.json(&encoded)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::tests::any_json;
    use crate::ocsf::Span;

    const EVENTS: &str = include_str!("../tests/data/compat/events.jsonl");

    fn decoded(encoded: &[u8]) -> proto::LogRecord {
        let mut logs = proto::ScopeLogs::decode(encoded).expect("a protobuf decoder reads it");
        logs.log_records.remove(0)
    }

    fn assert_carried_is_whole(text: &str, body: Body, limits: &Limits) {
        assert_carried_is_whole_to(&mut Known::new(*limits), text, body);
    }

    fn assert_carried_is_whole_to(known: &mut Known, text: &str, body: Body) {
        let observed = SystemTime::UNIX_EPOCH + std::time::Duration::from_nanos(1_793_607_247_120_394_001);
        let mut record = SdkLoggerProvider::builder().build().logger(SCOPE_NAME).create_log_record();
        record::fill(&mut record, text.into(), observed, &known.limits()).unwrap();
        let (mut whole, mut carried) = (Vec::new(), Vec::new());
        log_record(&record, body, &mut whole);
        event_record(text, Some(observed), body, known, &mut carried);
        assert_eq!(decoded(&carried), decoded(&whole), "{text}");
    }

    #[test]
    fn a_record_of_carried_text_is_the_whole_record() {
        let span = Span { trace_id: [7; 16], span_id: [8; 8], flags: 1 };
        let few = Limits { attribute_count: 5, attribute_value_length: Some(4) };
        for (line, limits) in EVENTS.lines().zip([Limits::default(), few].into_iter().cycle()) {
            let event: AuditEvent = serde_json::from_str(line).unwrap();
            let mut text = Vec::new();
            ocsf::encode(&event, &ocsf::Mapping::default(), Some(&span), &mut text);
            let text = String::from_utf8(text).unwrap();
            for body in [Body::Map, Body::Json, Body::Message] {
                assert_carried_is_whole(&text, body, &limits);
            }
        }
    }

    /// Objects in which members that are promoted are where they belong, and elsewhere, and of any type.
    fn like_an_event() -> impl Strategy<Value = serde_json::Value> {
        const PROMOTED: [&str; 20] = [
            "time",
            "class_uid",
            "activity_id",
            "severity_id",
            "status",
            "message",
            "metadata",
            "uid",
            "correlation_uid",
            "profiles",
            "product",
            "actor",
            "user",
            "session",
            "name",
            "unmapped",
            "audit_span",
            "span_id",
            "trace_flags",
            "resources",
        ];
        let key = prop_oneof![9 => prop::sample::select(&PROMOTED[..]).prop_map(str::to_owned), 1 => any::<String>()];
        let text =
            prop::sample::select(vec!["@json:1", "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "\"\\"]);
        let long = (0..1100_usize).prop_map(|len| "x".repeat(len).into());
        let leaf = prop_oneof![any_json(), text.prop_map(Into::into), long, (0..300).prop_map(Into::into)];
        leaf.prop_recursive(4, 60, 8, move |inner| {
            let object = prop::collection::btree_map(key.clone(), inner.clone(), 0..8)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect()));
            prop_oneof![4 => object, 1 => prop::collection::vec(inner, 0..4).prop_map(Into::into)]
        })
        .prop_map(|value| if value.is_object() { value } else { serde_json::json!({ "metadata": value }) })
    }

    proptest! {
        #[test]
        fn whatever_is_carried_is_the_whole_record(event in like_an_event(), count in 0_usize..60, length in 0_usize..40) {
            let limits = Limits { attribute_count: count, attribute_value_length: (length > 20).then_some(length) };
            assert_carried_is_whole(&event.to_string(), Body::Map, &limits);
            assert_carried_is_whole(&serde_json::to_string_pretty(&event).unwrap(), Body::Map, &limits);
        }

        #[test]
        fn text_that_is_cut_is_a_body_all_the_same(event in like_an_event(), cut in any::<prop::sample::Index>()) {
            let whole = event.to_string();
            let cut = (0..=cut.index(whole.len())).rev().find(|at| whole.is_char_boundary(*at)).unwrap();
            let mut encoded = Vec::new();
            event_record(&whole[..cut], None, Body::Map, &mut Known::new(Limits::default()), &mut encoded);
            let record = decoded(&encoded);
            prop_assert_eq!(body_json(record.body.as_ref().unwrap()).unwrap(), &whole[..cut]);
            prop_assert!(record.attributes.is_empty());
        }
    }

    #[test]
    fn a_span_beside_harmful_keys_is_found() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let span = r#""audit_span":{"span_id":"b7ad6b7169203331","trace_flags":1}"#;
        let harmful = format!("\"{}\":1", "k".repeat(200));
        for (first, second) in [(span, &*harmful), (&*harmful, span)] {
            let text = format!(r#"{{"metadata":{{"correlation_uid":"{trace}"}},"unmapped": {{{first},{second}}}}}"#);
            assert_carried_is_whole(&text, Body::Map, &Limits::default());
            let mut encoded = Vec::new();
            event_record(&text, None, Body::Map, &mut Known::new(Limits::default()), &mut encoded);
            assert_eq!(decoded(&encoded).span_id, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
        }
    }

    #[test]
    fn members_that_recur_are_those_of_an_event_that_was_never_seen() {
        let mut texts: Vec<_> = EVENTS
            .lines()
            .map(|line| {
                let mut text = Vec::new();
                ocsf::encode(&serde_json::from_str(line).unwrap(), &ocsf::Mapping::default(), None, &mut text);
                String::from_utf8(text).unwrap()
            })
            .collect();
        // What is not ours may look alike, and end elsewhere.
        texts.extend(
            [
                r#"{"time":1,"class_uid":1,"severity_id":4,"message":"m"}"#,
                r#"{"time":2,"class_uid":1,"severity_id":42,"message":"m"}"#,
                r#"{"time":3,"class_uid":1,"severity_id":4}"#,
                r#"{"time":4,"class_uid":1,"severity_id":4 ,"message":"m","status":"s"}"#,
                r#"{"time":5,"class_uid":1,"message":"m","message":"n"}"#,
                r#"{"time":6,"class_uid":1,"x":{"y":1,"message":"m"}}"#,
                r#"{"class_uid":1,"class_uid":2,"message":"m"}"#,
                r#"{"time":7,"class_uid":"@json:1","status":true,"message":"m"}"#,
                r#"{"time":8,"class_uid":1}"#,
                "{}",
            ]
            .map(str::to_owned),
        );
        let few = Limits { attribute_count: 5, attribute_value_length: Some(4) };
        for (limits, body) in [(Limits::default(), Body::Map), (Limits::default(), Body::Json), (few, Body::Map)] {
            let mut known = Known::new(limits);
            for text in (0..20).flat_map(|_| &texts) {
                assert_carried_is_whole_to(&mut known, text, body);
            }
        }
    }

    #[test]
    fn carried_text_that_is_no_event_is_a_body() {
        let mut encoded = Vec::new();
        event_record("{\"time\":", None, Body::Map, &mut Known::new(Limits::default()), &mut encoded);
        let record = decoded(&encoded);
        assert_eq!(body_json(record.body.as_ref().unwrap()).unwrap(), "{\"time\":");
        assert!(record.attributes.is_empty());
    }
}
