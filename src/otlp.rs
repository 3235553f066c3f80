//! OTLP on the wire: log records straight to protobuf bytes, without the message types in between.
//!
//! A request is an envelope (resource, scope) around records. Records are encoded once and keep their bounds, so that a request
//! can be halved or sent again without encoding anything twice. The JSON encoding is made from the protobuf bytes by the
//! message types of `opentelemetry-proto`: one encoding is ours, the other follows.
//!
//! Field numbers are those of `opentelemetry/proto/logs/v1/logs.proto` and `common/v1/common.proto` (opentelemetry-proto 1.x).

mod any_value;
mod wire;

use std::time::SystemTime;

use opentelemetry::logs::{AnyValue, Logger as _, LoggerProvider as _};
use opentelemetry::{SpanId, TraceFlags, TraceId};
use opentelemetry_proto::tonic::logs::v1 as proto;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{SdkLogRecord, SdkLogger, SdkLoggerProvider};
use prost::Message;

use crate::config::{Body, Limits};
use crate::event::AuditEvent;
use crate::json::{Reader, Value};
use crate::{ocsf, pipeline, record};
use wire::{bytes, fixed32, fixed64, nested, varint_field};

pub(crate) use any_value::any_json;
pub use any_value::body_json;

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
pub(crate) fn event_record(event: &str, observed: Option<SystemTime>, body: Body, limits: &Limits, out: &mut Vec<u8>) {
    nested(out, 2, 2, |out| {
        let start = out.len();
        match record::read(event, limits, &mut Wire(out)) {
            Ok(fields) => {
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
            Err(_) => out.truncate(start),
        }
        nested(out, 5, 2, |out| write_text_body(event, body, out));
        if let Some(nanos) = observed.and_then(nanos) {
            fixed64(out, 11, nanos);
        }
    });
}

/// Attributes straight to the wire.
struct Wire<'o>(&'o mut Vec<u8>);

impl record::Attributes for Wire<'_> {
    fn add(&mut self, key: &'static str, value: record::Promoted<'_>) {
        let out = &mut *self.0;
        if let record::Promoted::Text(text) = value {
            return any_value::string_pair(out, 6, key, text);
        }
        nested(out, 6, 1, |out| {
            bytes(out, 1, key.as_bytes());
            nested(out, 2, 1, |out| any_value::promoted(&value, out));
        });
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

    /// The bytes before and after `records` bytes of encoded records, which together are an `ExportLogsServiceRequest`
    /// (and a `LogsData`, which has the same form).
    pub(crate) fn around(&self, records: usize) -> (Vec<u8>, Vec<u8>) {
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
    use super::*;
    use crate::ocsf::Span;

    const EVENTS: &str = include_str!("../tests/data/compat/events.jsonl");

    fn decoded(encoded: &[u8]) -> proto::LogRecord {
        let mut logs = proto::ScopeLogs::decode(encoded).expect("a protobuf decoder reads it");
        logs.log_records.remove(0)
    }

    #[test]
    fn a_record_of_carried_text_is_the_whole_record() {
        let logger = SdkLoggerProvider::builder().build().logger(SCOPE_NAME);
        let observed = SystemTime::UNIX_EPOCH + std::time::Duration::from_nanos(1_793_607_247_120_394_001);
        let span = Span { trace_id: [7; 16], span_id: [8; 8], flags: 1 };
        let few = Limits { attribute_count: 5, attribute_value_length: Some(4) };
        for (line, limits) in EVENTS.lines().zip([Limits::default(), few].into_iter().cycle()) {
            let event: AuditEvent = serde_json::from_str(line).unwrap();
            let mut text = Vec::new();
            ocsf::encode(&event, &ocsf::Mapping::default(), Some(&span), &mut text);
            let text = String::from_utf8(text).unwrap();
            for body in [Body::Map, Body::Json, Body::Message] {
                let mut record = logger.create_log_record();
                record::fill(&mut record, text.as_str().into(), observed, &limits).unwrap();
                let (mut whole, mut carried) = (Vec::new(), Vec::new());
                log_record(&record, body, &mut whole);
                event_record(&text, Some(observed), body, &limits, &mut carried);
                assert_eq!(decoded(&carried), decoded(&whole), "{text}");
            }
        }
    }

    #[test]
    fn carried_text_that_is_no_event_is_a_body() {
        let mut encoded = Vec::new();
        event_record("{\"time\":", None, Body::Map, &Limits::default(), &mut encoded);
        let record = decoded(&encoded);
        assert_eq!(body_json(record.body.as_ref().unwrap()).unwrap(), "{\"time\":");
        assert!(record.attributes.is_empty());
    }
}
