//! What the steps of an event's way cost, each by itself. Ratios to alternatives are `examples/throughput.rs`'s business.
//!
//! ```sh
//! cargo bench --bench event
//! ```

use std::hint::black_box;
use std::sync::Arc;

use auditwire::config::{self, Config, Destination, DestinationKind};
use auditwire::record::OtlpJson;
use auditwire::spool::{Options, Spool, Start, Sync};
use auditwire::steps::Steps;
use auditwire::{ActorInfo, AuditEvent, AuditStreamer, EventOutcome, PolicyInfo, ResourceInfo, new_audit_event, ocsf};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};

fn main() {
    divan::main();
}

fn event() -> AuditEvent {
    new_audit_event("sandbox_operation", "create", EventOutcome::Permit)
        .with_actor(
            ActorInfo::user("u-1001")
                .with_email("mira@example.org")
                .with_org_id("org-7f3a")
                .with_ip_address("10.20.3.17"),
        )
        .with_resource(
            ResourceInfo::new("sandbox", "build-42")
                .with_attribute("image", "registry.example.org/base/python:3.12")
                .with_attribute("cpu", 2)
                .with_attribute("memory_mb", 2048),
        )
        .with_policy(PolicyInfo::new("pol-sandbox-default").with_name("Sandboxes of builders").with_version(17))
}

fn encoded(event: &AuditEvent) -> Vec<u8> {
    let mut text = Vec::new();
    ocsf::encode(event, &ocsf::Mapping::default(), None, &mut text);
    text
}

/// Who reads records before they are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Read {
    ByUs,
    ByAProcessor,
}

fn otlp() -> DestinationKind {
    DestinationKind::Otlp(config::Otlp::grpc("http://127.0.0.1:4317"))
}

fn steps(kind: DestinationKind, read: Read) -> Steps {
    Steps::new(&Destination { name: "bench".into(), kind }, read == Read::ByAProcessor).expect("it can be")
}

fn text() -> Arc<str> {
    String::from_utf8(encoded(&event())).expect("the encoder writes UTF-8").into()
}

/// A body of a full batch; its buffer is used again, as in a pipeline.
fn encode(bencher: Bencher, steps: &Steps) {
    let records: Vec<_> = (0..config::Batch::default().max_export_batch_size).map(|_| steps.record(&text())).collect();
    bencher.counter(ItemsCount::new(records.len())).bench_local(|| drop(steps.body(black_box(&records))));
}

#[divan::bench]
fn construct() -> AuditEvent {
    event()
}

#[divan::bench]
fn read_json(bencher: Bencher) {
    let line = serde_json::to_string(&event()).expect("events serialize");
    bencher
        .counter(BytesCount::of_str(&line))
        .bench(|| serde_json::from_str::<AuditEvent>(black_box(&line)).expect("we wrote it"));
}

#[divan::bench]
fn write_json(bencher: Bencher) {
    let (event, mut line) = (event(), Vec::new());
    bencher.bench_local(|| {
        line.clear();
        serde_json::to_writer(&mut line, black_box(&event)).expect("events serialize");
    });
}

#[divan::bench]
fn map_to_ocsf(bencher: Bencher) {
    let (event, mapping, mut text) = (event(), ocsf::Mapping::default(), Vec::new());
    bencher.counter(BytesCount::of_slice(&encoded(&event))).bench_local(|| {
        text.clear();
        ocsf::encode(black_box(&event), &mapping, None, &mut text);
    });
}

#[divan::bench]
fn read_ocsf(bencher: Bencher) {
    let text = String::from_utf8(encoded(&event())).expect("the encoder writes UTF-8");
    bencher.counter(BytesCount::of_str(&text)).bench(|| ocsf::decode(black_box(&text)).expect("we wrote it"));
}

/// The record that the SDK is given: of a text that our encoder alone will read, or with all attributes for a processor of the user's.
#[divan::bench(args = [Read::ByUs, Read::ByAProcessor])]
fn build_record(bencher: Bencher, read: Read) {
    let (steps, event) = (steps(otlp(), read), text());
    bencher.bench(|| steps.record(black_box(&event)));
}

/// A request of 512 such records.
#[divan::bench(args = [Read::ByUs, Read::ByAProcessor])]
fn encode_otlp_request(bencher: Bencher, read: Read) {
    encode(bencher, &steps(otlp(), read));
}

#[divan::bench]
fn encode_webhook_body(bencher: Bencher) {
    encode(bencher, &steps(DestinationKind::Webhook(config::Webhook::new("http://127.0.0.1:9/")), Read::ByUs));
}

/// Map, build the record, encode it, and write it as JSON: all but the transport of the format `otlp_json`.
#[divan::bench]
fn otlp_json_line(bencher: Bencher) {
    let (event, mapping, otlp) = (event(), ocsf::Mapping::default(), OtlpJson::new(&[]));
    bencher.bench(|| otlp.line(black_box(&event), &mapping));
}

/// Without waiting for the device: what the code costs. The spool is read along, so that it stays small.
#[divan::bench(args = [1, 16, 256], sample_count = 40)]
fn spool_append(bencher: Bencher, group: usize) {
    let folder = tempfile::tempdir().expect("there is room for files");
    let options = Options { sync: Sync::Interval(std::time::Duration::from_secs(1)), ..Options::default() };
    let (spool, _) = Spool::open(folder.path().join("spool"), options).expect("a new spool opens");
    let acker = spool.reader("none", Start::Oldest).expect("a cursor is made").acker();
    let text = encoded(&event());
    let records = vec![text.as_slice(); group];
    bencher.counter(ItemsCount::new(group)).bench_local(|| {
        let first = spool.append_all(black_box(&records)).expect("it has room");
        acker.ack(first).expect("the cursor is written");
    });
}

/// The whole way to a file that takes everything, as fast as it goes: emitting waits for the slowest thread.
#[divan::bench(sample_count = 20)]
fn emit_and_deliver(bencher: Bencher) {
    const EVENTS: usize = 5000;
    let file = config::File { sync: config::Sync::Never, ..config::File::new("/dev/null") };
    let destination = Destination { name: "null".into(), kind: DestinationKind::File(file) };
    let streamer = AuditStreamer::start(Config { destinations: vec![destination], ..Config::default() });
    let (streamer, event) = (streamer.expect("the configuration is good"), event());
    bencher.counter(ItemsCount::new(EVENTS)).bench_local(|| {
        for _ in 0..EVENTS {
            streamer.emit(black_box(&event)).expect("it is accepted");
        }
        pollster::block_on(streamer.flush()).expect("it is delivered");
    });
}
