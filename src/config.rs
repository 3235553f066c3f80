//! Configuration, resolved: what a streamer is built from. Reading does no network I/O and never invents a value for a bad one.
//!
//! [`mod@env`] reads the standard `OTEL_` variables and ours, [`stream`] the JSON of agentkernel's stream configuration and its
//! extension by `destinations`. Precedence: program, then JSON, then signal variable, then general variable, then default.

pub mod env;
pub mod stream;
pub mod units;

mod headers;
pub(crate) mod url;
mod written;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::event::Product;
use crate::ocsf;
use crate::retry::Backoff;
use crate::secret::Secret;
use crate::spool;

/// Everything an [`AuditStreamer`](crate::AuditStreamer) needs to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where events go; each destination is independent of the others.
    pub destinations: Vec<Destination>,
    /// Why nothing is exported although a program asked for it: `OTEL_SDK_DISABLED` or `OTEL_LOGS_EXPORTER=none`.
    pub disabled: Option<String>,
    /// The batch log processor of each destination.
    pub batch: Batch,
    /// What an emit meets when a destination's queue is full.
    pub on_full: OnFull,
    /// Waiting between attempts.
    pub backoff: Backoff,
    /// How events become OCSF.
    pub mapping: ocsf::Mapping,
    /// Limits of a record's attributes.
    pub limits: Limits,
    /// Resource attributes, in order; the last of a name wins.
    pub resource: Vec<(String, String)>,
    /// Product of events that name none.
    pub product: Option<Product>,
    /// Where records that a destination refuses for good are kept (JSON Lines, mode 0600).
    pub dead_letter_path: PathBuf,
    /// Largest accepted event, in bytes of its OCSF JSON. Default 1 MiB.
    pub max_event_bytes: usize,
    /// How many attempts in a row may fail before a destination is announced as failing; events are kept regardless.
    pub max_retries: u32,
    /// How long dropping the last handle waits for delivery. Default 5 s.
    pub shutdown_timeout: Duration,
    /// The durable queue on disk; `None` (the default) keeps accepted events in memory.
    pub spool: Option<Spool>,
}

/// The durable queue on disk: an event is accepted once it is there, and stays until every destination has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    /// Its folder; created with mode 0700.
    pub dir: PathBuf,
    /// Bytes it may take. Default 1 GiB. What a full one does is [`Config::on_full`], where `drop` is not possible.
    pub max_bytes: u64,
    /// When an event is accepted. Default: when it is on the device.
    pub sync: spool::Sync,
    /// How long an emit waits for room under `on_full = block`. Default: as long as it takes.
    pub block_timeout: Option<Duration>,
    /// Destinations that are served by best effort, each with the most events it may lag behind: beyond that its oldest are given
    /// up, counted and announced, so that it cannot fill the spool. All others are required.
    pub best_effort: BTreeMap<String, u64>,
    /// Destinations that start behind the newest event when they are new to the spool. All others start at the oldest.
    pub start_at_end: Vec<String>,
    /// Most events a second that each destination is fed with, so that a backlog does not overrun it. Default: as it can.
    pub drain_rate: Option<u32>,
}

impl Spool {
    /// A spool in a folder, all else default.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            max_bytes: 1 << 30,
            sync: spool::Sync::Always,
            block_timeout: None,
            best_effort: BTreeMap::new(),
            start_at_end: Vec::new(),
            drain_rate: None,
        }
    }
}

/// One destination.
#[derive(Debug, Clone, PartialEq)]
pub struct Destination {
    /// Name in messages, states and dead letters; unique within a configuration.
    pub name: String,
    /// What it speaks.
    pub kind: DestinationKind,
}

/// What a destination speaks.
#[derive(Debug, Clone, PartialEq)]
pub enum DestinationKind {
    /// An OTLP receiver.
    Otlp(Otlp),
    /// A URL that takes JSON arrays.
    Webhook(Webhook),
    /// A JSON Lines file.
    File(File),
    /// Standard output, JSON Lines.
    Stdout {
        /// What a line is.
        format: Format,
    },
}

/// An OTLP receiver.
#[derive(Debug, Clone, PartialEq)]
pub struct Otlp {
    /// Transport and encoding. Default gRPC.
    pub protocol: Protocol,
    /// Where requests go: for gRPC scheme and authority, for HTTP the complete URL.
    pub endpoint: String,
    /// Added to each request; values are secrets.
    pub headers: Vec<(String, Secret)>,
    /// Bound of one request; `None` is no bound. Default 10 s.
    pub timeout: Option<Duration>,
    /// Compression of requests. Default none.
    pub compression: Compression,
    /// Certificates.
    pub tls: Tls,
    /// What the record's body is on the wire. Default map.
    pub body: Body,
    /// Largest request, uncompressed. Default 4 MB (4,000,000), below the 4 MiB that receivers accept by default.
    pub max_request_bytes: usize,
}

/// A URL that takes JSON arrays. `Debug` shows the URL without its userinfo and the values of its query.
#[derive(Clone, PartialEq)]
pub struct Webhook {
    /// Where requests go; userinfo and query may hold secrets, so messages show [`shown_url`](Self::shown_url).
    pub url: String,
    /// Added to each request, `authorization` among them; values are secrets.
    pub headers: Vec<(String, Secret)>,
    /// Bound of one request; `None` is no bound. Default 10 s.
    pub timeout: Option<Duration>,
    /// Compression of requests. Default none.
    pub compression: Compression,
    /// Certificates.
    pub tls: Tls,
    /// What an element of the array is.
    pub format: Format,
    /// Largest request, uncompressed. Default 900 kB, which every common receiver takes.
    pub max_request_bytes: usize,
}

/// A JSON Lines file.
#[derive(Debug, Clone, PartialEq)]
pub struct File {
    /// Where; parent folders are created.
    pub path: PathBuf,
    /// What a line is.
    pub format: Format,
    /// When written bytes are made durable.
    pub sync: Sync,
}

/// OTLP transport and encoding, `OTEL_EXPORTER_OTLP_PROTOCOL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// `grpc`
    Grpc,
    /// `http/protobuf`
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
    /// `http/json`
    #[serde(rename = "http/json")]
    HttpJson,
}

/// Compression of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Bytes as they are.
    None,
    /// `gzip`
    Gzip,
}

/// What the body of a log record is on the OTLP wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// The OCSF event as a map of typed values.
    Map,
    /// The OCSF event as JSON text, byte for byte.
    Json,
    /// The event's `message` alone.
    Message,
}

/// What webhook, file and stdout write for an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One OCSF event, `time` first.
    Ocsf,
    /// The event as the caller gave it, in agentkernel's JSON.
    Audit,
    /// One OTLP/JSON `LogsData` with one record.
    OtlpJson,
}

/// When a file destination makes bytes durable before it calls them delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sync {
    /// `fdatasync` after each batch: delivered survives a power cut.
    Batch,
    /// Left to the operating system: delivered survives a crash of the process only.
    Never,
}

/// Certificates for `https` endpoints. The system's roots are trusted unless `certificate` names others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM file with the certificate authorities to trust instead of the system's.
    pub certificate: Option<PathBuf>,
    /// PEM file with the client's certificate chain (mTLS); goes with `client_key`.
    pub client_certificate: Option<PathBuf>,
    /// PEM file with the client's private key (mTLS); goes with `client_certificate`.
    pub client_key: Option<PathBuf>,
}

/// Settings of each destination's `BatchLogProcessor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Events accepted and not yet delivered, at most, for each destination. Default 2048.
    pub max_queue_size: usize,
    /// Records in one request, at most. Default 512; never more than the queue holds.
    pub max_export_batch_size: usize,
    /// How long a record waits for others before it is sent. Default 1 s.
    pub schedule_delay: Duration,
    /// Bound of one flush at shutdown that the SDK is told. Default 30 s.
    pub export_timeout: Duration,
}

/// What an emit meets when a destination's queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// It waits for a place.
    Block,
    /// It fails; no destination gets the event.
    Refuse,
    /// The full destination goes without the event, which is counted and announced there by a gap record.
    Drop,
}

/// Limits of a record's attributes, `OTEL_LOGRECORD_ATTRIBUTE_*`. The body is never cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most attributes; those beyond are left to the body. Default 128.
    pub attribute_count: usize,
    /// Longest string value in bytes; default none beyond the record's own 1,024.
    pub attribute_value_length: Option<usize>,
}

/// A setting that cannot be used: where it stands, its value, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The variable, option or JSON path, with its file.
    pub setting: String,
    /// The offending value; `None` for a secret or a missing one.
    pub value: Option<String>,
    /// Why it cannot be used, and what can.
    pub why: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value:?}: {}", self.setting, self.why),
            None => write!(f, "{}: {}", self.setting, self.why),
        }
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    fn new(setting: impl Into<String>, value: impl Into<String>, why: impl Into<String>) -> Self {
        Self { setting: setting.into(), value: Some(value.into()), why: why.into() }
    }

    /// Of a setting whose value is a secret, or missing.
    fn secret(setting: impl Into<String>, why: impl Into<String>) -> Self {
        Self { setting: setting.into(), value: None, why: why.into() }
    }
}

impl DestinationKind {
    /// The name of a destination of this kind that is given none.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Otlp(_) => "otlp",
            Self::Webhook(_) => "webhook",
            Self::File(_) => "file",
            Self::Stdout { .. } => "stdout",
        }
    }
}

/// Gives each destination a name of its own: the one it has, or that of its kind, from the second on with a number.
fn distinct_names(list: Vec<(Option<String>, DestinationKind)>) -> Vec<Destination> {
    let mut taken: HashSet<String> = list.iter().filter_map(|(name, _)| name.clone()).collect();
    let mut named = |(name, kind): (Option<String>, DestinationKind)| {
        let name = name.unwrap_or_else(|| {
            let numbered = (2..).map(|number: usize| format!("{}-{number}", kind.name()));
            let mut free = std::iter::once(kind.name().to_owned()).chain(numbered);
            free.find(|name| taken.insert(name.clone())).unwrap_or_default()
        });
        Destination { name, kind }
    };
    list.into_iter().map(&mut named).collect()
}

impl Default for Config {
    /// No destination, and the defaults of each field's documentation. The resource is `service.name` alone.
    fn default() -> Self {
        Self {
            destinations: Vec::new(),
            disabled: None,
            batch: Batch::default(),
            on_full: OnFull::Block,
            backoff: Backoff::default(),
            mapping: ocsf::Mapping::default(),
            limits: Limits::default(),
            resource: vec![("service.name".into(), "unknown_service:auditwire".into())],
            product: None,
            dead_letter_path: PathBuf::from("auditwire-dead-letters.jsonl"),
            max_event_bytes: 1 << 20,
            max_retries: 3,
            shutdown_timeout: Duration::from_secs(5),
            spool: None,
        }
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            max_queue_size: 2048,
            max_export_batch_size: 512,
            schedule_delay: Duration::from_secs(1),
            export_timeout: Duration::from_secs(30),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { attribute_count: 128, attribute_value_length: None }
    }
}

impl Otlp {
    /// An OTLP/gRPC receiver at an endpoint, all else default.
    pub fn grpc(endpoint: impl Into<String>) -> Self {
        Self {
            protocol: Protocol::Grpc,
            endpoint: endpoint.into(),
            headers: Vec::new(),
            timeout: Some(Duration::from_secs(10)),
            compression: Compression::None,
            tls: Tls::default(),
            body: Body::Map,
            max_request_bytes: 4_000_000,
        }
    }
}

impl Webhook {
    /// A webhook at a URL, all else default.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            headers: Vec::new(),
            timeout: Some(Duration::from_secs(10)),
            compression: Compression::None,
            tls: Tls::default(),
            format: Format::Ocsf,
            max_request_bytes: 900_000,
        }
    }

    /// The URL for messages: userinfo and the values of the query are `REDACTED`.
    pub fn shown_url(&self) -> String {
        url::shown(&self.url)
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url: _, headers, timeout, compression, tls, format, max_request_bytes } = self;
        f.debug_struct("Webhook")
            .field("url", &self.shown_url())
            .field("headers", headers)
            .field("timeout", timeout)
            .field("compression", compression)
            .field("tls", tls)
            .field("format", format)
            .field("max_request_bytes", max_request_bytes)
            .finish()
    }
}

impl File {
    /// A file that is synced after each batch, in the ocsf format.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), format: Format::Ocsf, sync: Sync::Batch }
    }
}
