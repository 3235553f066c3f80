//! Measures auditwire against its alternatives, in one run on one machine, and prints the table that the README quotes.
//!
//! ```sh
//! cargo build --release && cargo run --release --example throughput
//! ```
//!
//! Each run is a process of its own, with a counting sink in another one, so that CPU time and memory are the client's alone.
//! Runs that are compared take turns, and of each the middle one of three counts. Settings are the defaults except where a
//! name says otherwise. `auditwire send` is the program beside this example: it has to be built first.

#[path = "throughput/baseline.rs"]
mod baseline;
#[path = "throughput/client.rs"]
mod client;
#[path = "throughput/events.rs"]
mod events;
#[path = "throughput/meter.rs"]
mod meter;
#[path = "throughput/report.rs"]
mod report;
#[path = "throughput/sink.rs"]
mod sink;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};

use client::Mode;
use meter::Outcome;
use report::{Goal, Report};

/// Measure auditwire against its alternatives
#[derive(Parser)]
struct Args {
    /// Also write the rows to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Measure one thing only
    #[arg(long, value_name = "NAME")]
    only: Option<Part>,

    /// Where files and spools go for the while; a disk, not memory [default: beside this program]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,

    #[command(subcommand)]
    role: Option<Role>,
}

/// What the processes that this one starts are.
#[derive(clap::Subcommand)]
enum Role {
    #[command(hide = true)]
    Sink { kind: sink::Kind, port: u16 },
    #[command(hide = true)]
    Client { mode: Mode, count: usize, url: String, folder: PathBuf },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Grpc,
    Send,
    File,
    Emit,
    Durable,
    Backlog,
    Idle,
    Start,
    Others,
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.role {
        Some(Role::Sink { kind, port }) => return sink::run(kind, port),
        Some(Role::Client { mode, count, url, folder }) => {
            let outcome = client::run(mode, count, &url, &folder)?;
            return Ok(serde_json::to_writer(std::io::stdout().lock(), &outcome)?);
        }
        None => {}
    }
    let beside = std::env::current_exe()?;
    let parent = args.dir.as_deref().or(beside.parent()).context("this program lies in a folder")?;
    let folder = tempfile::tempdir_in(parent)?;
    let mut report = Report { machine: meter::machine(folder.path())?, ..Report::default() };
    let bench = Bench { folder: folder.path(), naive: measure_naive(folder.path())? };
    let scaled = bench.naive.rate() / NAIVE_RATE;
    report.notes.push(format!(
        "Goals that were set as times or rates are taken relative to the naive stream: they were set where it does 248 k events/s, \
         and here it did {:.0} k ({scaled:.2} x) at {:.2} CPU µs.",
        bench.naive.rate() / 1e3,
        bench.naive.cpu(),
    ));
    for &part in Part::value_variants() {
        if args.only.is_none_or(|only| only == part) {
            eprintln!(
                "measuring {}",
                part.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
            );
            bench.measure(part, &mut report)?;
        }
    }
    report.machine = format!("{}, {} at the end", report.machine, meter::load_average());
    std::io::stdout().lock().write_all(report.text().as_bytes())?;
    if let Some(path) = &args.json {
        serde_json::to_writer_pretty(File::create(path)?, &report)?;
    }
    ensure!(report.lost() == 0, "{} records were lost", report.lost());
    Ok(())
}

/// Events a second of the naive stream where the goals were set; it uses one core all the time.
const NAIVE_RATE: f64 = 248e3;
const NAIVE_MICROS: f64 = 1e6 / NAIVE_RATE;

struct Bench<'a> {
    folder: &'a Path,
    naive: Outcome,
}

fn measure_naive(folder: &Path) -> Result<Outcome> {
    Ok(by_turns(folder, &[(Mode::Naive, 60_000)])?.swap_remove(0))
}

/// Measures each three times, by turns, and gives the middle one of each by its rate.
fn by_turns(folder: &Path, runs: &[(Mode, usize)]) -> Result<Vec<Outcome>> {
    let mut outcomes = vec![Vec::new(); runs.len()];
    for _ in 0..3 {
        for (outcomes, (mode, count)) in outcomes.iter_mut().zip(runs) {
            outcomes.push(client::measure(*mode, *count, folder)?);
        }
    }
    Ok(outcomes.into_iter().map(middle).collect())
}

/// The middle one by rate. What any of them lost counts.
fn middle(mut outcomes: Vec<Outcome>) -> Outcome {
    outcomes.sort_by(|one, other| one.rate().total_cmp(&other.rate()));
    let lost = outcomes.iter().map(|outcome| outcome.lost).max().unwrap_or(0);
    let middle = outcomes.swap_remove(outcomes.len() / 2);
    Outcome { lost, ..middle }
}

impl Bench<'_> {
    fn measure(&self, part: Part, report: &mut Report) -> Result<()> {
        match part {
            Part::Grpc => self.grpc(report),
            Part::Send => self.send(report),
            Part::File => self.file(report),
            Part::Emit => self.emit(report),
            Part::Durable => self.durable(report),
            Part::Backlog => self.backlog(report),
            Part::Idle => self.idle(report),
            Part::Start => self.start(report),
            Part::Others => self.others(report),
        }
    }

    /// Twice: with the body as a map, which is ours by default and which the stock exporter is slow at, and as a text.
    fn grpc(&self, report: &mut Report) -> Result<()> {
        let runs = [
            (Mode::Stock, 8_000),
            (Mode::Grpc, 50_000),
            (Mode::Raw, 50_000),
            (Mode::GrpcSpool, 50_000),
            (Mode::StockText, 50_000),
            (Mode::GrpcText, 80_000),
            (Mode::RawText, 100_000),
        ];
        let measured: [Outcome; 7] = by_turns(self.folder, &runs)?.try_into().expect("as many as asked for");
        let [stock, ours, raw, spooled, stock_text, ours_text, raw_text] = measured;
        let (rate, micros) = ("k records/s", "µs");
        for (body, stock, ours, raw) in [("map", &stock, &ours, &raw), ("text", &stock_text, &ours_text, &raw_text)] {
            let name = format!("OTLP/gRPC, body a {body}");
            let [k, k_stock, k_raw] = [ours, stock, raw].map(|outcome| outcome.rate() / 1e3);
            report.row(&name, k, rate, Some(("stock", k_stock)), Goal::RatioAtLeast(2.5));
            let cpu = format!("{name}, CPU per record");
            report.row(cpu, ours.cpu(), micros, Some(("stock", stock.cpu())), Goal::RatioAtMost(0.25));
            report.row(format!("{name}, the ceiling"), k, rate, Some(("raw", k_raw)), Goal::RatioAtLeast(0.7));
        }
        let (k, k_stock) = (spooled.rate() / 1e3, stock.rate() / 1e3);
        report.row("OTLP/gRPC with a spool", k, rate, Some(("stock", k_stock)), Goal::RatioAtLeast(1.5));
        for (name, outcome) in [
            ("stock exporter, body a map", &stock),
            ("raw tonic loop, body a map", &raw),
            ("OTLP/gRPC, body a map", &ours),
            ("OTLP/gRPC, spool, groups of 256", &spooled),
            ("stock exporter, body a text", &stock_text),
            ("raw tonic loop, body a text", &raw_text),
            ("OTLP/gRPC, body a text", &ours_text),
        ] {
            report.run(name, outcome);
        }
        Ok(())
    }

    fn send(&self, report: &mut Report) -> Result<()> {
        let Some(program) = client::program()? else {
            report.notes.push(
                "`auditwire send` was not measured: the program is not beside this example; build it first.".into(),
            );
            return Ok(());
        };
        let lines = self.folder.join("lines.jsonl");
        let write = |count: usize| -> Result<()> {
            let mut out = BufWriter::new(File::create(&lines)?);
            events::write_lines(&mut out, count)?;
            Ok(out.flush()?)
        };
        // As many lines as take about four seconds, of the million at most.
        write(20_000)?;
        let trial = client::send(&program, sink::Kind::Webhook, &[], &lines, self.folder)?;
        let count = ((trial.rate() * 4.0) as usize).clamp(2000, 1_000_000);
        write(count)?;
        let bytes = lines.metadata()?.len() / count as u64;
        report.notes.push(format!("`auditwire send` read {count} lines of {bytes} bytes."));
        let gzip = &[("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")][..];
        for (name, kind, variables, rate, cpu) in [
            ("send to a webhook, spool", sink::Kind::Webhook, &[][..], 250e3, 3.2),
            ("send to OTLP/gRPC, spool", sink::Kind::GrpcCount, &[], 180e3, 4.0),
            ("send to OTLP/gRPC, spool, gzip", sink::Kind::GrpcCount, gzip, 118e3, 6.5),
        ] {
            // The baseline in the same seconds.
            let naive = measure_naive(self.folder)?;
            let sent = client::send(&program, kind, variables, &lines, self.folder)?;
            let goal = if variables.is_empty() { Goal::RatioAtLeast(rate / NAIVE_RATE) } else { Goal::None };
            report.row(name, sent.rate() / 1e3, "k events/s", Some(("naive stream", naive.rate() / 1e3)), goal);
            let goal = Goal::RatioAtMost(cpu / NAIVE_MICROS);
            report.row(format!("{name}, CPU"), sent.cpu(), "µs", Some(("naive stream", naive.cpu())), goal);
            report.run(name, &sent);
        }
        std::fs::remove_file(&lines)?;
        Ok(())
    }

    fn file(&self, report: &mut Report) -> Result<()> {
        let runs =
            [(Mode::Naive, 60_000), (Mode::File, 120_000), (Mode::FileUnsynced, 120_000), (Mode::Webhook, 120_000)];
        let measured: [Outcome; 4] = by_turns(self.folder, &runs)?.try_into().expect("as many as asked for");
        let [naive, file, unsynced, webhook] = measured;
        let (rate, baseline) = ("k events/s", Some(("naive stream", naive.rate() / 1e3)));
        report.row("file, JSONL, synced", file.rate() / 1e3, rate, baseline, Goal::RatioAtLeast(2.5));
        report.row("file, JSONL, sync = never", unsynced.rate() / 1e3, rate, baseline, Goal::RatioAtLeast(2.5));
        report.row("webhook, JSON array", webhook.rate() / 1e3, rate, baseline, Goal::RatioAtLeast(150.0 / 250.0));
        report.run("naive stream", &naive);
        report.run("file, JSONL, synced", &file);
        report.run("file, JSONL, sync = never", &unsynced);
        report.run("webhook", &webhook);
        Ok(())
    }

    fn emit(&self, report: &mut Report) -> Result<()> {
        let mut runs = by_turns(self.folder, &[(Mode::Latency, 40_000)])?;
        let emit = runs.swap_remove(0);
        let naive = Some(("naive stream", 1e6 / self.naive.rate()));
        for (name, value, micros) in [("p50", emit.p50, 3.0), ("p99", emit.p99, 30.0)] {
            let goal = Goal::RatioAtMost(micros / NAIVE_MICROS);
            report.row(format!("emit, accepted in memory, {name}"), value / 1e3, "µs", naive, goal);
        }
        report.run("emit in bursts, OTLP/gRPC", &emit);
        Ok(())
    }

    fn durable(&self, report: &mut Report) -> Result<()> {
        let durable = client::measure(Mode::Durable, 1000, self.folder)?;
        let sync = Some(("fdatasync", durable.extra("sync_p50") / 1e3));
        report.row("emit, durable, one thread, p50", durable.p50 / 1e3, "µs", sync, Goal::RatioAtMost(1.3));
        report.run("emit, durable, one thread", &durable);
        for (mode, name, one) in [(Mode::Threads, "64 threads", "one thread"), (Mode::Tasks, "64 tasks", "one task")] {
            let many = client::measure(mode, 64 * 1000, self.folder)?;
            let alone = Some((one, many.extra("rate_alone") / 1e3));
            let name = format!("emit, durable, {name}");
            report.row(&name, many.rate() / 1e3, "k events/s", alone, Goal::RatioAtLeast(25.0));
            report.run(&name, &many);
        }
        Ok(())
    }

    fn backlog(&self, report: &mut Report) -> Result<()> {
        let mut first = None;
        for (name, count, times) in [("10 k", 10_000, 7), ("100 k", 100_000, 3), ("1 M", 1_000_000, 1)] {
            let measured: Result<Vec<_>> =
                (0..times).map(|_| client::measure(Mode::Backlog, count, self.folder)).collect();
            let backlog = middle(measured?);
            let costs = [("queued", backlog.extra("queue_cpu")), ("delivered", backlog.cpu())];
            let first = *first.get_or_insert(costs);
            for ((what, cost), (_, first)) in costs.into_iter().zip(first).filter(|_| count > 10_000) {
                let name = format!("CPU per event {what}, backlog {name}");
                report.row(name, cost, "µs", Some(("10 k", first)), Goal::RatioAtMost(1.1));
            }
            if count == 1_000_000 {
                let peak = backlog.extra("queue_rss");
                report.row("peak RSS, 1 M events in the spool", peak, "MiB", None, Goal::AtMost(64.0));
            }
            report.run(format!("backlog {name}, delivered to a webhook"), &backlog);
        }
        Ok(())
    }

    fn idle(&self, report: &mut Report) -> Result<()> {
        let folder = self.folder;
        // They do nothing, and so not to each other.
        let (memory, spooled) = std::thread::scope(|scope| {
            let memory = scope.spawn(|| client::measure(Mode::Idle, 1, folder));
            let spooled = client::measure(Mode::IdleSpool, 1, folder);
            (memory.join().expect("it does not panic"), spooled)
        });
        report.row("idle streamer", memory?.extra("wakeups"), "wake-ups/s", None, Goal::AtMost(2.0));
        report.row("idle streamer, spool", spooled?.extra("wakeups"), "wake-ups/s", None, Goal::AtMost(2.0));
        Ok(())
    }

    fn start(&self, report: &mut Report) -> Result<()> {
        let started: Result<Vec<_>> = (0..9).map(|_| client::measure(Mode::Start, 1, self.folder)).collect();
        let started = middle(started?);
        report.row("start to first event accepted, new spool", started.seconds * 1e3, "ms", None, Goal::AtMost(50.0));
        Ok(())
    }

    fn others(&self, report: &mut Report) -> Result<()> {
        for (name, mode) in [
            ("OTLP/HTTP, protobuf", Mode::Http),
            ("OTLP/gRPC, gzip", Mode::GrpcGzip),
            ("webhook, spool, groups of 256", Mode::WebhookSpool),
        ] {
            report.run(name, &client::measure(mode, 60_000, self.folder)?);
        }
        Ok(())
    }
}
