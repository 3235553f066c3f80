//! How encoded batches leave: the verdict of an attempt, the batch that can be halved, and one exporter for each protocol.
//!
//! An exporter encodes on the SDK's thread and sends on ours. It never decides to give up: it reports a [`Verdict`] and the
//! pipeline acts on it.

mod file;
mod http;
mod otlp_grpc;
mod otlp_http;
mod pool;
mod stdout;
mod tls;
mod webhook;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use opentelemetry::StringValue;
use opentelemetry::logs::AnyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{LogBatch, SdkLogRecord};

pub(crate) use pool::Pool;

use crate::config::{Body, ConfigError, Destination, DestinationKind, Format, Limits, Protocol};
use crate::ocsf;
use crate::otlp::{self, Envelope, Known};

/// What became of an attempt to send a batch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// The destination has the batch. Of its records it refused `rejected`, without saying which; `message` may say why.
    Delivered { rejected: u64, message: Option<String> },
    /// Not now; `after` is how long the destination asks to be left alone.
    Retry { after: Option<Duration>, why: String },
    /// The request is too large for the destination.
    TooLarge { why: String },
    /// The destination refuses these records and would refuse them again.
    Rejected { why: String },
    /// The destination refuses us, not the records: credentials, permission, address. Someone has to act; nothing is lost.
    Unauthorized { why: String },
    /// The destination has ended for good: nobody will ever take these records.
    Closed { why: String },
}

impl Verdict {
    pub(crate) const DELIVERED: Self = Self::Delivered { rejected: 0, message: None };
}

/// Encoded records of one or more events, in order. Halves share the bytes.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    payload: Bytes,
    /// Where each record ends in `payload`, its separator included.
    ends: Vec<usize>,
    /// The events themselves, for dead letters.
    events: Vec<StringValue>,
    /// Events whose record could not be encoded.
    unencodable: Vec<StringValue>,
}

impl Batch {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Events the batch answers for.
    pub(crate) fn total(&self) -> u64 {
        (self.ends.len() + self.unencodable.len()) as u64
    }

    pub(crate) fn take_unencodable(&mut self) -> Vec<StringValue> {
        std::mem::take(&mut self.unencodable)
    }

    /// Encoded size in bytes, without what stands around the records.
    pub(crate) fn bytes(&self) -> usize {
        self.payload.len()
    }

    pub(crate) fn events(&self) -> &[StringValue] {
        &self.events
    }

    /// The first half and the rest; both have records when the batch has more than one.
    pub(crate) fn halves(mut self) -> (Self, Self) {
        let middle = self.len() / 2;
        let cut = if middle == 0 { 0 } else { self.ends[middle - 1] };
        let second = Self {
            payload: self.payload.slice(cut..),
            ends: self.ends[middle..].iter().map(|end| end - cut).collect(),
            events: self.events.split_off(middle),
            unencodable: Vec::new(),
        };
        self.ends.truncate(middle);
        self.payload.truncate(cut);
        (self, second)
    }
}

/// How a destination's records are encoded.
#[derive(Debug, Clone)]
pub(crate) enum Encoding {
    /// Elements of `ScopeLogs.log_records`, of whole records.
    Protobuf { body: Body },
    /// The same, of records that carry the event's text alone.
    ProtobufOfText { body: Body, known: Arc<Mutex<Known>> },
    /// JSON values, each followed by `separator`.
    Json { format: Format, separator: u8, envelope: Envelope },
}

impl Encoding {
    /// For records that carry the event's text alone, where that is enough.
    pub(crate) fn of_text(self, limits: Limits) -> Self {
        match self {
            Self::Protobuf { body } => Self::ProtobufOfText { body, known: Arc::new(Mutex::new(Known::new(limits))) },
            other => other,
        }
    }

    /// Whether it reads more of a record than its body.
    pub(crate) fn reads_record(&self) -> bool {
        match self {
            Self::Protobuf { .. } => true,
            Self::ProtobufOfText { .. } => false,
            Self::Json { format, .. } => *format == Format::OtlpJson,
        }
    }

    /// Encodes a batch. A defect that makes one record panic costs that record its delivery, not its batch and not the thread.
    pub(crate) fn batch(&self, records: &LogBatch<'_>, pool: &Pool) -> Batch {
        let mut payload = pool.take();
        let (mut ends, mut events, mut unencodable) = (Vec::new(), Vec::new(), Vec::new());
        for (record, _) in records.iter() {
            let event = match record.body() {
                Some(AnyValue::String(text)) => text.clone(),
                other => StringValue::from(otlp::any_json(other)),
            };
            let start = payload.len();
            let encoded = std::panic::catch_unwind(AssertUnwindSafe(|| self.record(record, &mut payload)));
            if encoded.is_ok() {
                ends.push(payload.len());
                events.push(event);
            } else {
                payload.truncate(start);
                unencodable.push(event);
            }
        }
        Batch { payload: pool.lend(payload), ends, events, unencodable }
    }

    fn record(&self, record: &SdkLogRecord, out: &mut Vec<u8>) {
        match self {
            Self::Protobuf { body } => otlp::log_record(record, *body, out),
            Self::ProtobufOfText { body, known } => match record.body() {
                Some(AnyValue::String(text)) => {
                    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                    otlp::event_record(text.as_str(), record.observed_timestamp(), *body, &mut known, out);
                }
                _ => otlp::log_record(record, *body, out),
            },
            Self::Json { format, separator, envelope } => {
                match format {
                    Format::OtlpJson => {
                        let mut encoded = Vec::new();
                        otlp::log_record(record, Body::Map, &mut encoded);
                        out.extend_from_slice(&envelope.json(&encoded));
                    }
                    Format::Ocsf => out.extend_from_slice(body_json(record).as_bytes()),
                    Format::Audit => {
                        let event = body_json(record);
                        match ocsf::decode(&event) {
                            Ok(audit) => serde_json::to_writer(&mut *out, &audit).expect("events serialize to memory"),
                            // Not ours any more, after a processor of the user's: what there is goes out as it is.
                            Err(_) => out.extend_from_slice(event.as_bytes()),
                        }
                    }
                }
                out.push(*separator);
            }
        }
    }
}

/// The event's JSON text; a body that a user's processor replaced, as JSON.
fn body_json(record: &SdkLogRecord) -> std::borrow::Cow<'_, str> {
    match record.body() {
        Some(AnyValue::String(text)) if text.as_str().starts_with('{') => text.as_str().into(),
        Some(AnyValue::String(text)) => serde_json::Value::from(text.as_str()).to_string().into(),
        other => otlp::any_json(other).into(),
    }
}

/// One destination's exporter.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // one of it for each destination, and it never moves
pub(crate) enum Exporter {
    OtlpGrpc(otlp_grpc::OtlpGrpc),
    OtlpHttp(otlp_http::OtlpHttp),
    Webhook(webhook::Webhook),
    File(file::File),
    Stdout(stdout::Stdout),
    /// Panics on its first attempt, as a defect in an exporter would, then delivers.
    #[cfg(test)]
    Panics(std::sync::atomic::AtomicBool),
}

impl Exporter {
    /// Builds the exporter and what encodes for it. Reads certificates; connects to nothing.
    pub(crate) fn new(destination: &Destination, resource: &Resource) -> Result<(Self, Encoding), ConfigError> {
        let envelope = Envelope::new(resource);
        Ok(match &destination.kind {
            DestinationKind::Otlp(otlp) if otlp.protocol == Protocol::Grpc => (
                Self::OtlpGrpc(otlp_grpc::OtlpGrpc::new(&destination.name, otlp, envelope)?),
                Encoding::Protobuf { body: otlp.body },
            ),
            DestinationKind::Otlp(otlp) => (
                Self::OtlpHttp(otlp_http::OtlpHttp::new(&destination.name, otlp, envelope)?),
                Encoding::Protobuf { body: otlp.body },
            ),
            DestinationKind::Webhook(webhook) => (
                Self::Webhook(webhook::Webhook::new(&destination.name, webhook)?),
                Encoding::Json { format: webhook.format, separator: b',', envelope },
            ),
            DestinationKind::File(file) => {
                (Self::File(file::File::new(file)), Encoding::Json { format: file.format, separator: b'\n', envelope })
            }
            DestinationKind::Stdout { format } => {
                (Self::Stdout(stdout::Stdout), Encoding::Json { format: *format, separator: b'\n', envelope })
            }
        })
    }

    /// Largest request in bytes of encoded records; a larger batch is halved before it is sent.
    pub(crate) fn max_request_bytes(&self) -> usize {
        match self {
            Self::OtlpGrpc(exporter) => exporter.max_request_bytes(),
            Self::OtlpHttp(exporter) => exporter.max_request_bytes(),
            Self::Webhook(exporter) => exporter.max_request_bytes(),
            _ => usize::MAX,
        }
    }

    /// What a request is made of, before compression.
    pub(crate) fn body(&self, batch: &Batch) -> Vec<Bytes> {
        match self {
            Self::OtlpGrpc(exporter) => exporter.body(batch),
            Self::OtlpHttp(exporter) => exporter.body(batch),
            Self::Webhook(_) => webhook::body(batch),
            _ => vec![batch.payload.clone()],
        }
    }

    /// One attempt.
    pub(crate) async fn send(&self, batch: &Batch) -> Verdict {
        match self {
            Self::OtlpGrpc(exporter) => exporter.send(batch).await,
            Self::OtlpHttp(exporter) => exporter.send(batch).await,
            Self::Webhook(exporter) => exporter.send(batch).await,
            Self::File(exporter) => exporter.send(batch).await,
            Self::Stdout(exporter) => exporter.send(batch).await,
            #[cfg(test)]
            Self::Panics(delivers) => {
                assert!(delivers.swap(true, std::sync::atomic::Ordering::Relaxed), "a defect in an exporter");
                Verdict::DELIVERED
            }
        }
    }

    /// Where it sends, for a person.
    pub(crate) fn target(&self) -> String {
        match self {
            Self::OtlpGrpc(exporter) => exporter.target(),
            Self::OtlpHttp(exporter) => exporter.target(),
            Self::Webhook(exporter) => exporter.target(),
            Self::File(exporter) => exporter.target(),
            Self::Stdout(_) => "stdout".into(),
            #[cfg(test)]
            Self::Panics(_) => "panics".into(),
        }
    }
}
