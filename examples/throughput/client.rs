//! One measured run in a process of its own, so that CPU time and memory are that run's and nobody else's.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use auditwire::config::{self, Body, Config, Destination, DestinationKind, Otlp, Protocol, Spool, Webhook};
use auditwire::{AuditEvent, AuditStreamer};

use super::meter::{Meter, Outcome, SyncedFile, percentile, wait_for, waits_of_other_threads};
use super::sink::{Kind, Sink};
use super::{baseline, events};

/// How many events one call accepts where a spool is in front: what `stream_events` does.
const GROUP: usize = 256;

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// Ours, by one thread's `emit`.
    Grpc,
    GrpcText,
    GrpcGzip,
    GrpcSpool,
    Http,
    Webhook,
    WebhookSpool,
    File,
    FileUnsynced,
    /// Ours, small measurements.
    Latency,
    Durable,
    Threads,
    Tasks,
    Backlog,
    Idle,
    IdleSpool,
    Start,
    /// What ours is compared with.
    Stock,
    StockText,
    Raw,
    RawText,
    Naive,
}

impl Mode {
    fn sink(self) -> Option<Kind> {
        match self {
            Self::Grpc | Self::GrpcText | Self::GrpcGzip | Self::GrpcSpool => Some(Kind::Grpc),
            Self::Stock | Self::StockText | Self::Raw | Self::RawText | Self::Latency => Some(Kind::Grpc),
            Self::Http => Some(Kind::Http),
            Self::Webhook | Self::WebhookSpool | Self::Idle | Self::IdleSpool => Some(Kind::Webhook),
            _ => None,
        }
    }
}

/// Runs a mode in another process, with a sink in a third one.
pub(crate) fn measure(mode: Mode, count: usize, folder: &Path) -> Result<Outcome> {
    let mut sink = mode.sink().map(Sink::start).transpose()?;
    let url = sink.as_ref().map(Sink::url).unwrap_or_default();
    let own = tempfile::tempdir_in(folder)?;
    let value = clap::ValueEnum::to_possible_value(&mode).context("every mode has a name")?;
    let output = Command::new(std::env::current_exe()?)
        .args(["client", value.get_name(), &count.to_string(), &url])
        .arg(own.path())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "the run {mode:?} failed: {}", output.status);
    let mut outcome: Outcome = serde_json::from_slice(&output.stdout)?;
    if let Some(sink) = &mut sink {
        outcome.lost = outcome.extra("emitted") as i64 - sink.records()? as i64;
    }
    Ok(outcome)
}

/// The run itself.
pub(crate) fn run(mode: Mode, count: usize, url: &str, folder: &Path) -> Result<Outcome> {
    let file = |sync| {
        let path = folder.join("out.jsonl");
        DestinationKind::File(config::File { sync, ..config::File::new(path) })
    };
    let grpc = || DestinationKind::Otlp(Otlp::grpc(url));
    let webhook = || DestinationKind::Webhook(Webhook::new(url));
    match mode {
        Mode::Grpc => flood(config(grpc(), folder), count),
        Mode::GrpcText => {
            let otlp = Otlp { body: Body::Json, ..Otlp::grpc(url) };
            flood(config(DestinationKind::Otlp(otlp), folder), count)
        }
        Mode::GrpcGzip => {
            let otlp = Otlp { compression: config::Compression::Gzip, ..Otlp::grpc(url) };
            flood(config(DestinationKind::Otlp(otlp), folder), count)
        }
        Mode::Http => {
            let endpoint = format!("{url}/v1/logs");
            let otlp = Otlp { protocol: Protocol::HttpProtobuf, endpoint, ..Otlp::grpc(url) };
            flood(config(DestinationKind::Otlp(otlp), folder), count)
        }
        Mode::Webhook => flood(config(webhook(), folder), count),
        Mode::File => checked_file(flood(config(file(config::Sync::Batch), folder), count)?, folder),
        Mode::FileUnsynced => checked_file(flood(config(file(config::Sync::Never), folder), count)?, folder),
        Mode::GrpcSpool => flood_in_groups(spooled(grpc(), folder), count),
        Mode::WebhookSpool => flood_in_groups(spooled(webhook(), folder), count),
        Mode::Latency => latency(config(grpc(), folder), count),
        Mode::Durable => durable(spooled(file(config::Sync::Never), folder), count, folder),
        Mode::Threads => threads(spooled(file(config::Sync::Never), folder), count),
        Mode::Tasks => tasks(spooled(file(config::Sync::Never), folder), count),
        Mode::Backlog => backlog(count, folder),
        Mode::Idle => idle(config(webhook(), folder)),
        Mode::IdleSpool => idle(spooled(webhook(), folder)),
        Mode::Start => start(spooled(file(config::Sync::Batch), folder)),
        Mode::Stock => baseline::stock(url, count, Body::Map, folder),
        Mode::StockText => baseline::stock(url, count, Body::Json, folder),
        Mode::Raw => baseline::raw(url, count, Body::Map, folder),
        Mode::RawText => baseline::raw(url, count, Body::Json, folder),
        Mode::Naive => baseline::naive(&folder.join("naive.jsonl"), &events::pool(), count),
    }
}

/// Defaults in everything.
fn config(kind: DestinationKind, folder: &Path) -> Config {
    Config {
        destinations: vec![Destination { name: "measured".into(), kind }],
        dead_letter_path: folder.join("dead-letters.jsonl"),
        ..Config::default()
    }
}

fn spooled(kind: DestinationKind, folder: &Path) -> Config {
    Config { spool: Some(Spool::new(folder.join("spool"))), ..config(kind, folder) }
}

/// Emits as fast as events are taken, and ends when all are delivered.
fn flood(config: Config, count: usize) -> Result<Outcome> {
    const WARM_UP: usize = 4096;
    let events = events::pool();
    let streamer = AuditStreamer::start(config)?;
    let mut latencies = Vec::with_capacity(count / 16 + 1);
    for number in 0..WARM_UP {
        streamer.emit(&events[number % events.len()])?;
    }
    pollster::block_on(streamer.flush())?;
    let meter = Meter::start();
    for number in 0..count {
        let event = &events[number % events.len()];
        if number % 16 == 0 {
            let began = Instant::now();
            streamer.emit(event)?;
            latencies.push(began.elapsed().as_nanos() as f64);
        } else {
            streamer.emit(event)?;
        }
    }
    pollster::block_on(streamer.flush())?;
    let mut outcome = meter.stop(count);
    outcome.p50 = percentile(&mut latencies, 0.5);
    outcome.p99 = percentile(&mut latencies, 0.99);
    finish(&streamer, (WARM_UP + count) as u64, outcome)
}

fn flood_in_groups(config: Config, count: usize) -> Result<Outcome> {
    let events = events::pool();
    let groups: Vec<&[AuditEvent]> = events.chunks(GROUP).collect();
    let streamer = AuditStreamer::start(config)?;
    for group in groups.iter().cycle().take(16) {
        streamer.emit_all(group)?;
    }
    pollster::block_on(streamer.flush())?;
    let rounds = count.div_ceil(GROUP);
    let mut latencies = Vec::with_capacity(rounds);
    let meter = Meter::start();
    for group in groups.iter().cycle().take(rounds) {
        let began = Instant::now();
        streamer.emit_all(group)?;
        latencies.push(began.elapsed().as_nanos() as f64);
    }
    pollster::block_on(streamer.flush())?;
    let mut outcome = meter.stop(rounds * GROUP);
    outcome.p50 = percentile(&mut latencies, 0.5);
    outcome.p99 = percentile(&mut latencies, 0.99);
    finish(&streamer, ((16 + rounds) * GROUP) as u64, outcome)
}

/// The books must agree before the sink's are looked at.
fn finish(streamer: &AuditStreamer, emitted: u64, mut outcome: Outcome) -> Result<Outcome> {
    let state = streamer.state();
    ensure!(state.accepted == emitted, "{} of {emitted} events were accepted", state.accepted);
    for destination in &state.destinations {
        outcome.lost += emitted as i64 - destination.delivered as i64;
    }
    streamer.shutdown_blocking(Duration::from_secs(10))?;
    outcome.extra.push(("emitted".into(), emitted as f64));
    Ok(outcome)
}

fn checked_file(mut outcome: Outcome, folder: &Path) -> Result<Outcome> {
    let text = std::fs::read(folder.join("out.jsonl"))?;
    outcome.lost = outcome.extra("emitted") as i64 - memchr::memchr_iter(b'\n', &text).count() as i64;
    Ok(outcome)
}

/// `emit` where the queue has room: in bursts that fit into it, with time between them to be delivered.
fn latency(config: Config, count: usize) -> Result<Outcome> {
    const BURST: usize = 128;
    let events = events::pool();
    let streamer = AuditStreamer::start(config)?;
    let mut latencies = Vec::with_capacity(count);
    let meter = Meter::start();
    for number in 0..count {
        if number % BURST == 0 {
            std::thread::sleep(Duration::from_millis(3));
        }
        let began = Instant::now();
        streamer.emit(&events[number % events.len()])?;
        latencies.push(began.elapsed().as_nanos() as f64);
    }
    pollster::block_on(streamer.flush())?;
    let mut outcome = meter.stop(count);
    outcome.p50 = percentile(&mut latencies, 0.5);
    outcome.p99 = percentile(&mut latencies, 0.99);
    finish(&streamer, count as u64, outcome)
}

/// `emit` with a spool beside a bare write and sync of the same disk, by turns.
fn durable(config: Config, count: usize, folder: &Path) -> Result<Outcome> {
    let events = events::pool();
    let streamer = AuditStreamer::start(config)?;
    let mut file = SyncedFile::create(folder)?;
    let (mut latencies, mut syncs) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let meter = Meter::start();
    for number in 0..count {
        let began = Instant::now();
        streamer.emit(&events[number % events.len()])?;
        latencies.push(began.elapsed().as_nanos() as f64);
        syncs.push(file.append()?);
    }
    let mut outcome = meter.stop(count);
    outcome.p50 = percentile(&mut latencies, 0.5);
    outcome.p99 = percentile(&mut latencies, 0.99);
    outcome.extra.push(("sync_p50".into(), percentile(&mut syncs, 0.5)));
    pollster::block_on(streamer.flush())?;
    finish(&streamer, count as u64, outcome)
}

/// How many emit at a time.
const EMITTERS: usize = 64;

/// Durable emitters, one thread and then 64.
fn threads(config: Config, count: usize) -> Result<Outcome> {
    let events = events::pool();
    let streamer = AuditStreamer::start(config)?;
    let emit = |first: usize| {
        let own = events.iter().cycle().skip(first).take(count / EMITTERS);
        own.into_iter().try_for_each(|event| streamer.emit(event).map(|_receipt| ()))
    };
    let began = Instant::now();
    emit(0)?;
    let alone = began.elapsed();
    let meter = Meter::start();
    std::thread::scope(|scope| {
        let emitters: Vec<_> = (0..EMITTERS).map(|first| scope.spawn(move || emit(first))).collect();
        emitters.into_iter().try_for_each(|emitter| emitter.join().expect("an emitter does not panic"))
    })?;
    concurrent(&streamer, count / EMITTERS, alone, meter)
}

/// The same with tasks on a runtime of two threads.
fn tasks(config: Config, count: usize) -> Result<Outcome> {
    let events = Arc::new(events::pool());
    let streamer = AuditStreamer::start(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let emit = |first: usize| {
        let (streamer, events) = (streamer.clone(), Arc::clone(&events));
        runtime.spawn(async move {
            for event in events.iter().cycle().skip(first).take(count / EMITTERS) {
                streamer.queue_all(std::slice::from_ref(event)).await?;
            }
            anyhow::Ok(())
        })
    };
    let began = Instant::now();
    runtime.block_on(emit(0))??;
    let alone = began.elapsed();
    let meter = Meter::start();
    let emitters: Vec<_> = (0..EMITTERS).map(emit).collect();
    emitters.into_iter().try_for_each(|emitter| runtime.block_on(emitter)?)?;
    concurrent(&streamer, count / EMITTERS, alone, meter)
}

/// What emitters did, each so many events, after one had done so alone.
fn concurrent(streamer: &AuditStreamer, each: usize, alone: Duration, meter: Meter) -> Result<Outcome> {
    let mut outcome = meter.stop(each * EMITTERS);
    outcome.extra.push(("rate_alone".into(), each as f64 / alone.as_secs_f64()));
    pollster::block_on(streamer.flush())?;
    finish(streamer, (each * (EMITTERS + 1)) as u64, outcome)
}

/// Events queue in the spool while their destination is down; then it comes up and gets them.
fn backlog(count: usize, folder: &Path) -> Result<Outcome> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let events = events::pool();
    let webhook = DestinationKind::Webhook(Webhook::new(format!("http://127.0.0.1:{port}")));
    let mut config = spooled(webhook, folder);
    // A million events are more than the default holds.
    config.spool = config.spool.map(|spool| Spool { max_bytes: 4 << 30, ..spool });
    // It is down because it was not started, not because it fails: nobody wants to read about it, or to wait for it.
    config.backoff.max = Duration::from_millis(200);
    let streamer = AuditStreamer::builder(config).on_notice(|_| ()).start()?;
    let rounds = count.div_ceil(GROUP);
    let queueing = Meter::start();
    for group in events.chunks(GROUP).cycle().take(rounds) {
        streamer.emit_all(group)?;
    }
    let queued = queueing.stop(rounds * GROUP);
    let mut sink = Sink::start_at(Kind::Webhook, port)?;
    let draining = Meter::start();
    pollster::block_on(streamer.flush())?;
    let mut outcome = draining.stop(rounds * GROUP);
    outcome.extra.push(("queue_cpu".into(), queued.cpu()));
    outcome.extra.push(("queue_rate".into(), queued.rate()));
    outcome.extra.push(("queue_rss".into(), queued.peak_rss_mib));
    let received = sink.records()? as i64;
    let mut outcome = finish(&streamer, (rounds * GROUP) as u64, outcome)?;
    // A request whose answer was lost is sent again; none is expected here.
    outcome.lost = outcome.extra("emitted") as i64 - received;
    Ok(outcome)
}

/// How often a streamer that has nothing to do wakes up.
fn idle(config: Config) -> Result<Outcome> {
    let events = events::pool();
    let streamer = AuditStreamer::start(config)?;
    streamer.emit(&events[0])?;
    pollster::block_on(streamer.flush())?;
    // What follows a delivery is over by then.
    std::thread::sleep(Duration::from_millis(2500));
    let (meter, before) = (Meter::start(), waits_of_other_threads()?);
    std::thread::sleep(Duration::from_secs(2));
    let waits = waits_of_other_threads()? - before;
    let mut outcome = meter.stop(1);
    outcome.extra.push(("wakeups".into(), waits / outcome.seconds));
    finish(&streamer, 1, outcome)
}

/// From nothing to the first event accepted.
fn start(config: Config) -> Result<Outcome> {
    let event = events::pool().swap_remove(0);
    let meter = Meter::start();
    let streamer = AuditStreamer::start(config)?;
    streamer.emit(&event)?;
    let outcome = meter.stop(1);
    finish(&streamer, 1, outcome)
}

/// `auditwire send` as it was built last.
pub(crate) fn program() -> Result<Option<PathBuf>> {
    let examples = std::env::current_exe()?;
    let program = examples.ancestors().nth(2).map(|folder| folder.join("auditwire"));
    Ok(program.filter(|program| program.exists()))
}

/// `auditwire send` of a file with a spool in front of the destination.
pub(crate) fn send(
    program: &Path,
    kind: Kind,
    variables: &[(&str, &str)],
    lines: &Path,
    folder: &Path,
) -> Result<Outcome> {
    let mut sink = Sink::start(kind)?;
    let destination = if kind == Kind::Webhook { "webhook" } else { "otlp" };
    let spool = tempfile::tempdir_in(folder)?;
    let ours = |name: &std::ffi::OsStr| {
        let name = name.to_string_lossy();
        name.starts_with("OTEL_") || name.starts_with("AUDITWIRE_") || name == "TRACEPARENT"
    };
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
    command
        .args(["send", "--quiet", "--to", &format!("{destination}={}", sink.url())])
        .arg(lines)
        .env("AUDITWIRE_SPOOL_DIR", spool.path().join("spool"))
        .env("AUDITWIRE_DEAD_LETTER_PATH", spool.path().join("dead-letters.jsonl"))
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let cpu = super::meter::cpu_seconds_of_children()?;
    let began = Instant::now();
    let mut running = command.spawn()?;
    let process = running.id().to_string();
    let mut peak_rss_mib = 0.0_f64;
    let mut ended = None;
    wait_for("the end of auditwire send", Duration::from_secs(120), || {
        peak_rss_mib = peak_rss_mib.max(super::meter::peak_rss_mib(&process));
        ended = running.try_wait().transpose();
        ended.is_some()
    })
    .inspect_err(|_| {
        let _ = running.kill();
        let _ = running.wait();
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let status = ended.context("it has ended")??;
    ensure!(status.success(), "auditwire send failed: {status}");
    let text = std::fs::read(lines)?;
    let records = memchr::memchr_iter(b'\n', &text).count() as u64;
    Ok(Outcome {
        records,
        seconds,
        cpu_seconds: super::meter::cpu_seconds_of_children()? - cpu,
        peak_rss_mib,
        lost: records as i64 - sink.records()? as i64,
        ..Outcome::default()
    })
}
