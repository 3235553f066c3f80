//! What ours is compared with: the stock exporter, the least that OTLP/gRPC costs, and a naive stream to a file.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use auditwire::config::{Body, Config, Destination, DestinationKind, File};
use auditwire::{AuditEvent, AuditStreamer};
use bytes::BufMut as _;
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _};
use opentelemetry::{InstrumentationScope, Key};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::logs::tonic::group_logs_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{
    BatchLogProcessor, LogBatch, LogExporter, LogProcessor, SdkLogRecord, SdkLoggerProvider,
};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Endpoint;

use super::events;
use super::meter::{Meter, Outcome, percentile};

/// The SDK's defaults.
const QUEUE: usize = 2048;
const BATCH: usize = 512;

/// The records that ours makes of the events, but with strings of their own, as records have that somebody makes by hand, and with
/// the body as it is on the wire.
fn records(folder: &Path, body: Body) -> Result<Vec<SdkLogRecord>> {
    #[derive(Debug)]
    struct Keep(Arc<Mutex<Vec<SdkLogRecord>>>);
    impl LogProcessor for Keep {
        fn emit(&self, record: &mut SdkLogRecord, _scope: &InstrumentationScope) {
            locked(&self.0).push(record.clone());
        }
        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }
    }
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&kept);
    let file = Destination { name: "file".into(), kind: DestinationKind::File(File::new(folder.join("records"))) };
    let config = Config { destinations: vec![file], ..Config::default() };
    let streamer = AuditStreamer::builder(config)
        .extend_provider(move |_, builder| builder.with_log_processor(Keep(Arc::clone(&keep))))
        .start()?;
    for event in events::pool() {
        streamer.emit(&event)?;
    }
    drop(streamer);
    let records = std::mem::take(&mut *locked(&kept));
    // A record's attributes can be added to and not changed, so each is made anew.
    let logger = SdkLoggerProvider::builder().build().logger("");
    records.iter().map(|ours| owned(ours, logger.create_log_record(), body)).collect()
}

fn owned(ours: &SdkLogRecord, mut record: SdkLogRecord, body: Body) -> Result<SdkLogRecord> {
    fn of(value: &AnyValue) -> AnyValue {
        match value {
            AnyValue::String(text) => AnyValue::String(text.as_str().to_owned().into()),
            AnyValue::ListAny(list) => AnyValue::ListAny(Box::new(list.iter().map(of).collect())),
            other => other.clone(),
        }
    }
    for (key, value) in ours.attributes_iter() {
        record.add_attribute(key.clone(), of(value));
    }
    if let (Some(time), Some(observed)) = (ours.timestamp(), ours.observed_timestamp()) {
        record.set_timestamp(time);
        record.set_observed_timestamp(observed);
    }
    if let (Some(number), Some(text)) = (ours.severity_number(), ours.severity_text()) {
        record.set_severity_number(number);
        record.set_severity_text(text);
    }
    if let Some(name) = ours.event_name() {
        record.set_event_name(name);
    }
    match (ours.body(), body) {
        (Some(AnyValue::String(text)), Body::Map) => record.set_body(any_value(serde_json::from_str(text.as_str())?)),
        (Some(value), _) => record.set_body(of(value)),
        (None, _) => {}
    }
    Ok(record)
}

fn any_value(json: serde_json::Value) -> AnyValue {
    use serde_json::Value;
    match json {
        Value::Null => AnyValue::Map(Box::default()),
        Value::Bool(bool) => AnyValue::Boolean(bool),
        Value::Number(number) => number.as_i64().map_or_else(|| AnyValue::Double(0.0), AnyValue::Int),
        Value::String(text) => AnyValue::String(text.into()),
        Value::Array(list) => AnyValue::ListAny(Box::new(list.into_iter().map(any_value).collect())),
        Value::Object(map) => {
            AnyValue::Map(Box::new(map.into_iter().map(|(key, value)| (Key::from(key), any_value(value))).collect()))
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many records have left the processor's queue, for whoever would overfill it.
#[derive(Debug, Default)]
struct Progress {
    exported: AtomicUsize,
    lock: Mutex<()>,
    moved: Condvar,
}

impl Progress {
    fn wait_for(&self, records: usize) {
        if self.exported.load(Ordering::Acquire) < records {
            let guard = locked(&self.lock);
            let done = self.moved.wait_while(guard, |()| self.exported.load(Ordering::Acquire) < records);
            drop(done.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// The stock exporter, counted.
#[derive(Debug)]
struct Counted<E> {
    inner: E,
    progress: Arc<Progress>,
}

impl<E: LogExporter> LogExporter for Counted<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let records = batch.iter().count();
        let exported = self.inner.export(batch).await;
        self.progress.exported.fetch_add(records, Ordering::Release);
        drop(locked(&self.progress.lock));
        self.progress.moved.notify_all();
        exported
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// The stock exporter behind the SDK's batch processor, both with their defaults. It is given a record only when the queue has a
/// place, so that it loses none, and records that are ready: it need not map events as ours does, and cloning a record is
/// cheaper than making one.
pub(crate) fn stock(url: &str, count: usize, body: Body, folder: &Path) -> Result<Outcome> {
    let records = records(folder, body)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let entered = runtime.enter();
    let inner = opentelemetry_otlp::LogExporter::builder().with_tonic().with_endpoint(url).build()?;
    drop(entered);
    let progress = Arc::new(Progress::default());
    let exporter = Counted { inner, progress: Arc::clone(&progress) };
    let provider = SdkLoggerProvider::builder()
        .with_resource(Resource::builder_empty().with_service_name("unknown_service:auditwire").build())
        .with_log_processor(BatchLogProcessor::builder(exporter).build())
        .build();
    let scope = InstrumentationScope::builder("auditwire").with_version("0").build();
    let logger = provider.logger_with_scope(scope);
    let mut emitted = 0;
    let mut latencies = Vec::with_capacity(count / 16 + 1);
    let mut emit = |count: usize, latencies: &mut Vec<f64>| {
        for number in 0..count {
            progress.wait_for((emitted + 1usize).saturating_sub(QUEUE));
            let began = (number % 16 == 0).then(Instant::now);
            logger.emit(records[number % records.len()].clone());
            latencies.extend(began.map(|began| began.elapsed().as_nanos() as f64));
            emitted += 1;
        }
        // Whole batches go by themselves.
        progress.wait_for(emitted);
    };
    emit(8 * BATCH, &mut Vec::new());
    let meter = Meter::start();
    let count = count.next_multiple_of(BATCH);
    emit(count, &mut latencies);
    let mut outcome = meter.stop(count);
    outcome.p50 = percentile(&mut latencies, 0.5);
    outcome.p99 = percentile(&mut latencies, 0.99);
    let _ = provider.shutdown();
    outcome.extra.push(("emitted".into(), (count + 8 * BATCH) as f64));
    Ok(outcome)
}

/// Records that are encoded already, in requests of the SDK's batch size, two of them under way: no client can be faster.
pub(crate) fn raw(url: &str, count: usize, body: Body, folder: &Path) -> Result<Outcome> {
    let encoded = Arc::new(Encoded::new(&records(folder, body)?)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let channel = runtime.block_on(Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true).connect())?;
    let send = |requests: usize| {
        let tasks = [0, 1].map(|_| {
            let (channel, encoded) = (channel.clone(), Arc::clone(&encoded));
            runtime.spawn(async move {
                let mut client = tonic::client::Grpc::new(channel);
                for number in 0..requests / 2 {
                    client.ready().await?;
                    let first = number * BATCH % encoded.records.len();
                    let request = tonic::Request::new(first);
                    let path = http::uri::PathAndQuery::from_static(
                        "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
                    );
                    client.unary(request, path, Raw(Arc::clone(&encoded))).await?;
                }
                anyhow::Ok(())
            })
        });
        runtime.block_on(async {
            for task in tasks {
                task.await??;
            }
            anyhow::Ok(())
        })
    };
    send(8)?;
    let requests = count.div_ceil(2 * BATCH) * 2;
    let meter = Meter::start();
    send(requests)?;
    let mut outcome = meter.stop(requests * BATCH);
    outcome.extra.push(("emitted".into(), ((requests + 8) * BATCH) as f64));
    Ok(outcome)
}

/// Records as elements of `ScopeLogs.log_records`, and the scope in front of them.
struct Encoded {
    records: Vec<Vec<u8>>,
    scope: Vec<u8>,
}

impl Encoded {
    fn new(records: &[SdkLogRecord]) -> Result<Self> {
        let scope = InstrumentationScope::builder("auditwire").with_version("0").build();
        let batch: Vec<_> = records.iter().map(|record| (record, &scope)).collect();
        let resource = ResourceAttributesWithSchema::from(&Resource::builder_empty().build());
        let mut logs = group_logs_by_resource_and_scope(&LogBatch::new(&batch), &resource);
        let mut scopes = logs.pop().context("one resource")?.scope_logs;
        let mut whole = scopes.pop().context("one scope")?;
        let records = std::mem::take(&mut whole.log_records);
        let records = records.into_iter().map(|record| {
            opentelemetry_proto::tonic::logs::v1::ScopeLogs { log_records: vec![record], ..Default::default() }
                .encode_to_vec()
        });
        Ok(Self { records: records.collect(), scope: whole.encode_to_vec() })
    }
}

#[derive(Clone)]
struct Raw(Arc<Encoded>);

impl Codec for Raw {
    type Encode = usize;
    type Decode = ExportLogsServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Raw {
    type Item = usize;
    type Error = tonic::Status;

    fn encode(&mut self, first: usize, out: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        let records = &self.0.records[first..first + BATCH];
        let scope_logs = self.0.scope.len() + records.iter().map(Vec::len).sum::<usize>();
        let mut inner = Vec::new();
        encode_key(2, WireType::LengthDelimited, &mut inner);
        encode_varint(scope_logs as u64, &mut inner);
        out.reserve(scope_logs + 64);
        encode_key(1, WireType::LengthDelimited, out);
        encode_varint((inner.len() + scope_logs) as u64, out);
        out.put_slice(&inner);
        out.put_slice(&self.0.scope);
        for record in records {
            out.put_slice(record);
        }
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ExportLogsServiceResponse;
    type Error = tonic::Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, tonic::Status> {
        Ok(Some(ExportLogsServiceResponse::decode(source).unwrap_or_default()))
    }
}

/// What is written without thinking of speed: the file opened again, a text, and two writes for each event.
pub(crate) fn naive(path: &Path, events: &[AuditEvent], count: usize) -> Result<Outcome> {
    let meter = Meter::start();
    for event in events.iter().cycle().take(count) {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        writeln!(file, "{}", serde_json::to_string(event)?)?;
    }
    Ok(meter.stop(count))
}
