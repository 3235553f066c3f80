//! The whole way to a real OpenTelemetry Collector: what its `file` exporter wrote, or what came out behind it, is what
//! was emitted.

mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime};

use auditwire::config::{self, Batch, Body, Compression, Config, Destination, DestinationKind, Otlp, Protocol};
use auditwire::receiver::{ANY_PORT, Answer, Options, Received, Receiver, Script, json, uid};
use auditwire::retry::Backoff;
use auditwire::{AuditEvent, AuditStreamer, DestinationState};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use serde_json::{Value, json};
use support::{Collector, PATIENCE, TO_FILE, TlsMaterial, built, events, expected};
use tempfile::TempDir;
use tonic::Code;
use tonic_types::StatusExt;

const RESOURCE: [(&str, &str); 3] =
    [("service.name", "audit-test"), ("deployment.environment.name", "test"), ("odd", "ü=,\"\u{1f512}")];

/// The Collector keeps what its exporter could not send, and tries again.
const RETRYING: &str = "timeout: 300ms, \
    retry_on_failure: {initial_interval: 50ms, max_interval: 100ms, max_elapsed_time: 0s}";

/// Both protocols to one exporter, whose name and settings are put in.
const TO_RECEIVER: &str = "
receivers:
  otlp:
    protocols:
      grpc: {endpoint: '${env:OTLP_GRPC}'}
      http: {endpoint: '${env:OTLP_HTTP}'}
exporters: {EXPORTER: {SETTINGS}}
extensions: {file_storage: {directory: '${env:DIR}/queue', create_directory: true}}
service:
  extensions: [file_storage]
  telemetry: {metrics: {level: none}}
  pipelines:
    logs: {receivers: [otlp], exporters: [EXPORTER]}
";

/// The pipeline answers when the exporter has: what it says is what lies behind it said.
const SYNCHRONOUS: &str = "sending_queue: {enabled: false}, retry_on_failure: {enabled: false}";

static TEN_THOUSAND: LazyLock<Vec<AuditEvent>> = LazyLock::new(|| events::mixed(10_000));

fn to_receiver(exporter: &str, endpoint: &str, settings: &str) -> String {
    let settings = format!("endpoint: '{endpoint}', tls: {{insecure: true}}, {settings}");
    TO_RECEIVER.replace("EXPORTER", exporter).replace("SETTINGS", &settings)
}

fn otlp(protocol: Protocol, collector: &Collector) -> Otlp {
    let endpoint = match protocol {
        Protocol::Grpc => format!("http://{}", collector.otlp_grpc_addr()),
        Protocol::HttpProtobuf | Protocol::HttpJson => format!("http://{}/v1/logs", collector.otlp_http_addr()),
    };
    Otlp { protocol, ..Otlp::grpc(endpoint) }
}

/// Retries quickly, so that a test does not wait for backoff.
fn config(otlp: Otlp, dir: &Path) -> Config {
    Config {
        destinations: vec![Destination { name: "otlp".into(), kind: DestinationKind::Otlp(otlp) }],
        batch: Batch { schedule_delay: Duration::from_millis(50), ..Batch::default() },
        backoff: Backoff { initial: Duration::from_millis(100), max: Duration::from_millis(200), ..Backoff::default() },
        resource: RESOURCE.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        dead_letter_path: dead_letter_path(dir),
        ..Config::default()
    }
}

fn small_batches(config: Config) -> Config {
    Config { batch: Batch { max_export_batch_size: 100, ..config.batch }, ..config }
}

fn dead_letter_path(dir: &Path) -> PathBuf {
    dir.join("dead-letters.jsonl")
}

/// A streamer, and what it has said.
fn start(config: Config) -> (AuditStreamer, Arc<Mutex<Vec<String>>>) {
    let said = Arc::new(Mutex::new(Vec::new()));
    let notices = Arc::clone(&said);
    let listener = move |notice: &auditwire::notice::Notice| notices.lock().unwrap().push(notice.to_string());
    (AuditStreamer::builder(config).on_notice(listener).start().unwrap(), said)
}

fn state(streamer: &AuditStreamer) -> DestinationState {
    streamer.state().destinations.remove(0)
}

/// Waits until the destination's books say so.
fn wait_until(streamer: &AuditStreamer, what: &str, is_so: impl Fn(&DestinationState) -> bool) {
    let so = support::poll(|| is_so(&state(streamer)).then_some(()));
    assert!(so.is_some(), "{what}: {:?}", state(streamer));
}

fn uids(events: &[AuditEvent]) -> Vec<&str> {
    events.iter().map(|event| &*event.uid).collect()
}

fn record_uids(records: &[LogRecord]) -> Vec<&str> {
    records.iter().map(|record| uid(record).unwrap()).collect()
}

/// How often each record came.
fn counted(records: &[LogRecord]) -> HashMap<&str, usize> {
    records.iter().fold(HashMap::new(), |mut counts, record| {
        *counts.entry(uid(record).unwrap()).or_default() += 1;
        counts
    })
}

fn assert_none_missing(events: &[AuditEvent], records: &[LogRecord]) {
    let counts = counted(records);
    let missing: Vec<_> = events.iter().filter(|event| !counts.contains_key(&*event.uid)).collect();
    assert!(missing.is_empty(), "{} of {} are missing", missing.len(), events.len());
    assert_eq!(counts.len(), events.len(), "nothing else came");
}

/// Streams events to a Collector of this configuration and holds everything that its file has against them.
fn arrives(collector: &str, events: &[AuditEvent], set: impl FnOnce(&Collector) -> Otlp) {
    let dir = TempDir::new().unwrap();
    let mut collector = Collector::start(collector, dir.path());
    let otlp = set(&collector);
    let body = otlp.body;
    let (streamer, said) = start(config(otlp, dir.path()));
    let began = nanos();
    for event in events {
        streamer.emit(event).unwrap();
    }
    let ended = nanos();
    streamer.shutdown_blocking(PATIENCE).unwrap();
    collector.stop();

    let found = collector.records();
    assert_eq!(found.len(), events.len());
    expected::assert_records(found.iter().zip(events), body);
    assert!(found.iter().all(|record| (began..=ended).contains(&record.observed_time_unix_nano)));
    assert!(found.is_sorted_by_key(|record| record.observed_time_unix_nano));
    collector.requests().iter().for_each(assert_envelope);

    let state = state(&streamer);
    assert_eq!((state.delivered, state.outstanding, state.retries), (events.len() as u64, 0, 0), "{state:?}");
    assert_eq!(*said.lock().unwrap(), [""; 0]);
}

/// One resource and one scope, as configured.
fn assert_envelope(request: &ExportLogsServiceRequest) {
    let [ResourceLogs { resource: Some(resource), scope_logs, schema_url }] = &request.resource_logs[..] else {
        panic!("{request:?}");
    };
    let found: HashMap<_, _> =
        resource.attributes.iter().map(|pair| (&*pair.key, json(pair.value.as_ref().unwrap()))).collect();
    assert_eq!(found, RESOURCE.into_iter().map(|(name, value)| (name, json!(value))).collect());
    assert!(schema_url.starts_with("https://opentelemetry.io/schemas/"), "{schema_url}");
    let [ScopeLogs { scope: Some(scope), schema_url, .. }] = &scope_logs[..] else { panic!("{scope_logs:?}") };
    assert_eq!((&*scope.name, &*scope.version), ("auditwire", env!("CARGO_PKG_VERSION")));
    assert_eq!((schema_url.as_str(), &scope.attributes[..]), ("", &[][..]));
}

fn nanos() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64
}

#[test]
fn ten_thousand_arrive_over_grpc() {
    if built().is_some() {
        arrives(TO_FILE, &TEN_THOUSAND, |collector| otlp(Protocol::Grpc, collector));
    }
}

#[test]
fn ten_thousand_arrive_over_grpc_with_mtls_and_gzip() {
    if built().is_none() {
        return;
    }
    let material = TlsMaterial::new();
    let tls = format!(
        "tls: {{cert_file: '{}', key_file: '{}', client_ca_file: '{}'}}",
        material.server_path().display(),
        material.server_key_path().display(),
        material.ca_path().display()
    );
    let demands = TO_FILE.replace("OTLP_GRPC}'", &format!("OTLP_GRPC}}', {tls}"));
    arrives(&demands, &TEN_THOUSAND, |collector| Otlp {
        compression: Compression::Gzip,
        tls: config::Tls {
            certificate: Some(material.ca_path()),
            client_certificate: Some(material.client_path()),
            client_key: Some(material.client_key_path()),
        },
        ..Otlp::grpc(format!("https://{}", collector.otlp_grpc_addr()))
    });
}

#[test]
fn ten_thousand_arrive_over_http_as_protobuf() {
    if built().is_some() {
        arrives(TO_FILE, &TEN_THOUSAND, |collector| otlp(Protocol::HttpProtobuf, collector));
    }
}

/// This Collector takes nothing that is not compressed.
#[test]
fn ten_thousand_arrive_over_http_as_json_with_gzip() {
    if built().is_none() {
        return;
    }
    let demands = TO_FILE.replace("OTLP_HTTP}'", "OTLP_HTTP}', compression_algorithms: [gzip]");
    arrives(&demands, &TEN_THOUSAND, |collector| Otlp {
        compression: Compression::Gzip,
        ..otlp(Protocol::HttpJson, collector)
    });
}

#[test]
fn the_body_is_the_json_text_or_the_message_on_request() {
    if built().is_none() {
        return;
    }
    for (body, protocol) in [
        (Body::Map, Protocol::Grpc),
        (Body::Json, Protocol::Grpc),
        (Body::Json, Protocol::HttpJson),
        (Body::Message, Protocol::HttpProtobuf),
    ] {
        let to_json = TO_FILE.replace("format: proto", "format: json");
        arrives(&to_json, &events::mixed(500), |collector| Otlp { body, ..otlp(protocol, collector) });
    }
}

/// The SDK's batches are larger than what this Collector takes: over gRPC it says so, over HTTP it only says 400.
#[test]
fn requests_that_a_collector_finds_too_large_are_halved() {
    if built().is_none() {
        return;
    }
    let small = TO_FILE
        .replace("OTLP_GRPC}'", "OTLP_GRPC}', max_recv_msg_size_mib: 1")
        .replace("OTLP_HTTP}'", "OTLP_HTTP}', max_request_body_size: 1048576");
    let mut events = events::samples(512);
    for event in &mut events {
        event.extra.insert("note".into(), "x".repeat(4000).into());
    }
    for (protocol, compression) in [
        (Protocol::Grpc, Compression::None),
        (Protocol::Grpc, Compression::Gzip),
        (Protocol::HttpProtobuf, Compression::None),
        (Protocol::HttpJson, Compression::Gzip),
    ] {
        arrives(&small, &events, |collector| Otlp { compression, ..otlp(protocol, collector) });
    }
}

/// One that it can never take goes to the dead letters, alone.
#[test]
fn an_event_that_a_collector_finds_too_large_becomes_a_dead_letter() {
    if built().is_none() {
        return;
    }
    let small = TO_FILE
        .replace("OTLP_GRPC}'", "OTLP_GRPC}', max_recv_msg_size_mib: 1")
        .replace("OTLP_HTTP}'", "OTLP_HTTP}', max_request_body_size: 1048576");
    let mut events = events::samples(5);
    events[2].extra.insert("note".into(), "x".repeat(1_047_000).into());
    for (protocol, compression, reason) in [
        (Protocol::Grpc, Compression::None, "ResourceExhausted: grpc: received message larger than max"),
        (
            Protocol::Grpc,
            Compression::Gzip,
            "ResourceExhausted: grpc: received message after decompression larger than max",
        ),
        (Protocol::HttpProtobuf, Compression::None, "400 Bad Request: http: request body too large"),
        (Protocol::HttpProtobuf, Compression::Gzip, "400 Bad Request: http: request body too large"),
    ] {
        let dir = TempDir::new().unwrap();
        let mut collector = Collector::start(&small, dir.path());
        let otlp = Otlp { compression, ..otlp(protocol, &collector) };
        let (streamer, _) = start(config(otlp, dir.path()));
        events.iter().for_each(|event| drop(streamer.emit(event).unwrap()));
        streamer.shutdown_blocking(PATIENCE).unwrap();
        collector.stop();
        let letters = dead_letters(dir.path());
        assert_eq!(letters.len(), 1);
        assert!(letters[0]["why"].as_str().unwrap().starts_with(reason), "{}", letters[0]["why"]);
        assert_eq!(letters[0]["events"][0]["metadata"]["uid"], events[2].uid);
        assert_eq!(record_uids(&collector.records()), uids(&[&events[..2], &events[3..]].concat()));
    }
}

/// What was under way when it went, and what came while it was away, arrives.
#[test]
fn a_collector_may_stop_and_start_in_the_middle() {
    if built().is_none() {
        return;
    }
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let dir = TempDir::new().unwrap();
        let mut collector = Collector::start(TO_FILE, dir.path());
        let mut config = small_batches(config(otlp(protocol, &collector), dir.path()));
        config.batch.max_queue_size = 6000;
        let (streamer, said) = start(config);
        let events = events::samples(6000);
        let mut parts = events.chunks(1200);
        let mut emit_some = || parts.next().unwrap().iter().for_each(|event| drop(streamer.emit(event).unwrap()));
        for round in 0..2 {
            emit_some();
            collector.wait_for(round * 2400 + 1);
            collector.stop();
            emit_some();
            wait_until(&streamer, "it is away", |state| state.failing && state.outstanding >= 1200);
            collector.restart();
        }
        emit_some();
        streamer.shutdown_blocking(PATIENCE).unwrap();
        collector.stop();

        let found = collector.records();
        assert_none_missing(&events, &found);
        assert_eq!(found.len(), events.len(), "it answered what it took before it went");
        assert_eq!(record_uids(&found), uids(&events));
        let said = said.lock().unwrap();
        assert_eq!(said.iter().filter(|line| line.ends_with("takes events again")).count(), 2, "{said:?}");
    }
}

/// The development receiver behind the Collector.
async fn behind(script: Script) -> Receiver {
    Receiver::start(behind_options(script)).await.unwrap()
}

fn behind_options(script: Script) -> Options {
    Options { otlp_grpc: Some(ANY_PORT), otlp_http: Some(ANY_PORT), script, ..Options::default() }
}

/// Where an exporter of the Collector finds the receiver.
fn endpoint(receiver: &Receiver, exporter: &str) -> String {
    match exporter {
        "otlp_grpc" => receiver.otlp_grpc_addr().unwrap().to_string(),
        _ => format!("http://{}", receiver.otlp_http_addr().unwrap()),
    }
}

/// What was accepted there until it was so many different records, or what came within the patience.
async fn accepted(receiver: &mut Receiver, count: usize) -> Vec<LogRecord> {
    let mut found = Vec::new();
    let all = async {
        while counted(&found).len() < count {
            let received = receiver.next().await.unwrap();
            if received.accepted() {
                found.extend(received.records().cloned());
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE, all).await;
    found
}

async fn emit(streamer: &AuditStreamer, events: &[AuditEvent]) {
    for event in events {
        streamer.queue_event(event.clone()).await.unwrap();
    }
}

/// It is killed after the receiver behind it has stored a batch and before it could pass the answer on.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_collector_costs_a_duplicate_and_never_an_event() {
    if built().is_none() {
        return;
    }
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let dir = TempDir::new().unwrap();
        // The third request is the one.
        let script = Script::new().times(2, Answer::Ok).then(Answer::Ok.delay(PATIENCE));
        let mut receiver = behind(script).await;
        let endpoint = endpoint(&receiver, "otlp_grpc");
        let mut collector = Collector::start(&to_receiver("otlp_grpc", &endpoint, SYNCHRONOUS), dir.path());
        let (streamer, _) = start(small_batches(config(otlp(protocol, &collector), dir.path())));
        let events = events::samples(1000);
        emit(&streamer, &events).await;
        let (mut found, mut doubled) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            doubled = accepted(&mut receiver, 1).await;
            found.extend_from_slice(&doubled);
        }
        collector.kill();
        wait_until(&streamer, "it is away", |state| state.failing);
        collector.restart();
        streamer.shutdown(PATIENCE).await.unwrap();

        found.extend(accepted(&mut receiver, 1000 + doubled.len() - found.len()).await);
        assert_none_missing(&events, &found);
        assert_eq!(found.len(), 1000 + doubled.len());
        let counts = counted(&found);
        assert!(record_uids(&doubled).iter().all(|id| counts[id] == 2), "the uid tells which came twice");
        receiver.stop().await;
    }
}

fn one_record(id: &str) -> ExportLogsServiceRequest {
    let value = Some(AnyValue { value: Some(Any::StringValue(id.to_owned())) });
    let attribute = KeyValue { key: "log.record.uid".to_owned(), value, ..KeyValue::default() };
    let record = LogRecord { attributes: vec![attribute], ..LogRecord::default() };
    let scope_logs = vec![ScopeLogs { log_records: vec![record], ..ScopeLogs::default() }];
    ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] }
}

/// The receiver behind a Collector, which hangs until the flag is set.
async fn hanging() -> (Receiver, Arc<AtomicBool>) {
    let answers = Arc::new(AtomicBool::new(false));
    let answering = Arc::clone(&answers);
    let hang = move |_: &Received| (!answering.load(Ordering::Relaxed)).then_some(Answer::Hang);
    (behind(Script::new().rule(hang)).await, answers)
}

/// What it confirmed it has on disk: a kill loses nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_collector_with_a_queue_on_disk_confirmed_survives_its_kill() {
    if built().is_none() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let (mut receiver, answers) = hanging().await;
    let queue = format!("{RETRYING}, sending_queue: {{storage: file_storage}}");
    let endpoint = endpoint(&receiver, "otlp_grpc");
    let mut collector = Collector::start(&to_receiver("otlp_grpc", &endpoint, &queue), dir.path());
    let (streamer, _) = start(small_batches(config(otlp(Protocol::Grpc, &collector), dir.path())));
    let events = events::samples(1000);
    emit(&streamer, &events).await;
    streamer.shutdown(PATIENCE).await.unwrap();
    assert_eq!(state(&streamer).delivered, 1000);
    collector.kill();

    answers.store(true, Ordering::Relaxed);
    collector.restart();
    let found = accepted(&mut receiver, 1000).await;
    assert_none_missing(&events, &found);
    receiver.stop().await;
}

/// The queue fills and stays full until the receiver behind it answers.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_on_a_collector_whose_queue_is_full() {
    if built().is_none() {
        return;
    }
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let dir = TempDir::new().unwrap();
        let (mut receiver, answers) = hanging().await;
        let queue = format!("{RETRYING}, sending_queue: {{queue_size: 3, num_consumers: 1}}");
        let endpoint = endpoint(&receiver, "otlp_grpc");
        let collector = Collector::start(&to_receiver("otlp_grpc", &endpoint, &queue), dir.path());
        let (streamer, said) = start(small_batches(config(otlp(protocol, &collector), dir.path())));
        let events = events::samples(1000);
        emit(&streamer, &events).await;
        wait_until(&streamer, "it refuses", |state| state.failing && state.retries >= 4);

        let refusal = state(&streamer).last_error.unwrap();
        let status = if protocol == Protocol::Grpc { "Unavailable" } else { "503 Service Unavailable" };
        assert_eq!(refusal, format!("{status}: sending queue is full"));
        let mut client = LogsServiceClient::connect(format!("http://{}", collector.otlp_grpc_addr())).await.unwrap();
        let refusal = client.export(one_record("probe")).await.unwrap_err();
        assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
        assert!(refusal.get_details_retry_info().is_none(), "{refusal:?}");
        assert!(state(&streamer).outstanding > 0);

        answers.store(true, Ordering::Relaxed);
        streamer.shutdown(PATIENCE).await.unwrap();
        let found = accepted(&mut receiver, 1000).await;
        assert_none_missing(&events, &found);
        receiver.stop().await;
        let said = said.lock().unwrap();
        assert!(said[0].contains("sending queue is full") && said.last().unwrap().ends_with("again"), "{said:?}");
    }
}

#[test]
fn nothing_is_lost_on_a_collector_that_refuses_for_memory() {
    if built().is_none() {
        return;
    }
    // It needs more than one MiB for itself, so that it refuses from the first check on.
    let refusing = TO_FILE
        .replace("exporters:\n", "processors: {memory_limiter: {check_interval: 50ms, limit_mib: 1}}\nexporters:\n")
        .replace("receivers: [otlp],", "receivers: [otlp], processors: [memory_limiter],");
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let dir = TempDir::new().unwrap();
        let mut collector = Collector::start(&refusing, dir.path());
        let (streamer, _) = start(small_batches(config(otlp(protocol, &collector), dir.path())));
        let events = events::samples(1000);
        events.iter().for_each(|event| drop(streamer.emit(event).unwrap()));
        wait_until(&streamer, "it refuses", |state| state.failing && state.retries >= 4);
        let refusal = state(&streamer).last_error.unwrap();
        let status = if protocol == Protocol::Grpc { "Unavailable" } else { "503 Service Unavailable" };
        assert_eq!(refusal, format!("{status}: data refused due to high memory usage"));

        collector.restart_with(TO_FILE);
        streamer.shutdown_blocking(PATIENCE).unwrap();
        collector.stop();
        assert_eq!(record_uids(&collector.records()), uids(&events));
    }
}

/// What the receiver behind the Collector refuses, by status and by the exporter that asks it: the Collector's answer
/// condemns the whole batch, for the sake of three records.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_refused_behind_the_collector_becomes_a_dead_letter() {
    if built().is_none() {
        return;
    }
    let events = events::samples(500);
    let poison = [7, 123, 124].map(|n: usize| events[n].uid.clone());
    for (status, exporter, protocol, reason) in [
        (400, "otlp_grpc", Protocol::Grpc, "InvalidArgument: Permanent error: "),
        (400, "otlp_http", Protocol::HttpProtobuf, "400 Bad Request: Permanent error: "),
        (413, "otlp_http", Protocol::Grpc, "Unknown: Permanent error: "),
        (413, "otlp_http", Protocol::HttpJson, "500 Internal Server Error: Permanent error: "),
    ] {
        let dir = TempDir::new().unwrap();
        let poisonous = poison.clone();
        let refuse = move |received: &Received| {
            let refused = received.records().any(|record| poisonous.iter().any(|id| uid(record) == Some(id)));
            refused.then(|| Answer::status(status))
        };
        let mut receiver = behind(Script::new().rule(refuse)).await;
        let endpoint = endpoint(&receiver, exporter);
        let collector = Collector::start(&to_receiver(exporter, &endpoint, SYNCHRONOUS), dir.path());
        let (streamer, said) = start(small_batches(config(otlp(protocol, &collector), dir.path())));
        emit(&streamer, &events).await;
        streamer.shutdown(PATIENCE).await.unwrap();

        let found = accepted(&mut receiver, 497).await;
        let good: Vec<_> = uids(&events).into_iter().filter(|id| !poison.iter().any(|bad| bad == id)).collect();
        assert_eq!(record_uids(&found), good, "{status} {exporter}");
        let letters = dead_letters(dir.path());
        assert_eq!(letters.len(), 3);
        for (letter, n) in letters.iter().zip([7, 123, 124]) {
            let [dead] = &letter["events"].as_array().unwrap()[..] else { panic!("{letter}") };
            let wanted = expected::ocsf_text(&events[n], n + 1, &expected::stream(&dead.to_string()));
            assert_eq!(*dead, serde_json::from_str::<Value>(&wanted).unwrap());
            assert!(letter["why"].as_str().unwrap().starts_with(reason), "{letter}");
            assert_eq!((&letter["destination"], &letter["rejected"]), (&json!("otlp"), &json!(1)));
        }
        let state = state(&streamer);
        assert_eq!((state.delivered, state.rejected, state.retries), (497, 3, 0), "{state:?}");
        assert_eq!(said.lock().unwrap().len(), 3, "each is said: {said:?}");
        receiver.stop().await;
    }
}

/// The Collector passes on that a request was too large, in other words for each exporter, and halves nothing itself.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_behind_the_collector_arrives_in_parts() {
    if built().is_none() {
        return;
    }
    let events = events::samples(500);
    for exporter in ["otlp_grpc", "otlp_http"] {
        for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
            let dir = TempDir::new().unwrap();
            let options = Options { max_request_bytes: 50_000, ..behind_options(Script::new()) };
            let mut receiver = Receiver::start(options).await.unwrap();
            let endpoint = endpoint(&receiver, exporter);
            let collector = Collector::start(&to_receiver(exporter, &endpoint, SYNCHRONOUS), dir.path());
            let (streamer, said) = start(small_batches(config(otlp(protocol, &collector), dir.path())));
            emit(&streamer, &events).await;
            let ended = streamer.shutdown(PATIENCE).await;
            assert!(ended.is_ok(), "{exporter}: {ended:?}");
            assert_eq!(record_uids(&accepted(&mut receiver, 500).await), uids(&events), "{exporter}");
            assert_eq!(*said.lock().unwrap(), [""; 0]);
            receiver.stop().await;
        }
    }
}

fn dead_letters(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dead_letter_path(dir)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_program_sends_twenty_thousand_exactly_once() {
    if built().is_none() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let mut collector = Collector::start(TO_FILE, dir.path());
    let events = events::samples(20_000);
    let lines: Vec<_> = events.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
    let path = dir.path().join("events.jsonl");
    std::fs::write(&path, lines.join("\n")).unwrap();

    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_auditwire"));
    command.env_clear().current_dir(dir.path());
    command.arg("send").arg(&path).arg("--to").arg(format!("otlp=http://{}", collector.otlp_grpc_addr()));
    let output = command.args(["--timeout", "30s"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{said}");
    assert_eq!(said, "auditwire: read 20000, malformed 0, accepted 20000, delivered 20000, rejected 0\n");

    collector.stop();
    let found = collector.records();
    assert_eq!(record_uids(&found), uids(&events));
    expected::assert_records(found.iter().zip(&events).take(1000), Body::Map);
}
