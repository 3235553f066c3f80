//! `auditwire send`: audit events from files or standard input to destinations.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result};
use auditwire::config::env::{self, Environment};
use auditwire::config::{Config, ConfigError, DestinationKind, Spool, units};
use auditwire::{AuditStreamer, State};
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use tokio::sync::oneshot;

use super::exit::{self, Exit};
use super::progress::Progress;
use super::reader::{self, Batch, Counts, Reader, Rejects};
use super::resume::Positions;
use super::signals::Signals;
use super::{check, documents, print, targets};

/// Send audit events from files or standard input
///
/// Reads JSON Lines or a JSON array, maps each event to OCSF, and returns when the destinations have confirmed all of them.
/// Destinations are those of --to, else of --config, else of OTEL_LOGS_EXPORTER; without any it is OTLP/gRPC to localhost:4317.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::HELP, after_long_help = format!("{VARIABLES}\n\n{}", exit::HELP))]
pub(crate) struct Args {
    /// Files of audit events; `-` or none is standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Destination: otlp[=URL], webhook[=URL], file[=PATH] or stdout; may be repeated
    ///
    /// What the option does not say (headers, certificates, compression, format) comes from the variables.
    #[arg(long, value_name = "DESTINATION")]
    to: Vec<String>,

    /// Stream configuration: JSON with a `destination` or several `destinations`
    #[arg(long, value_name = "FILE", conflicts_with = "to")]
    config: Option<PathBuf>,

    /// Say what options and variables come to, and send nothing
    #[arg(long)]
    check: bool,

    /// Append input that is no audit event to FILE, as it was read
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,

    /// Stop at the first input that is no audit event
    #[arg(long)]
    strict: bool,

    /// Wait no longer than this for delivery at the end: 500ms, 30s, 5m [default: for ever]
    ///
    /// While input is read, it is how long destinations may take nothing before they are given up.
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    timeout: Option<Duration>,

    /// Keep accepted events in the folder DIR until they are delivered, over restarts
    ///
    /// One process at a time. `auditwire spool status DIR` shows what waits there.
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,

    /// Go on in each FILE where it has been accepted before, whatever its name is now
    ///
    /// Needs a spool, which keeps how far that is, and regular files. An unfinished last line is left for the next time.
    #[arg(long)]
    resume: bool,

    /// Keep events that a destination refuses for good in FILE
    #[arg(long, value_name = "FILE")]
    dead_letters: Option<PathBuf>,

    /// No progress bar and no summary
    #[arg(short, long)]
    quiet: bool,
}

/// For `--help`; the README has all of them.
const VARIABLES: &str = "\
Variables (the README lists all of them):
  OTEL_EXPORTER_OTLP_ENDPOINT    where otlp goes, such as http://collector:4317
  OTEL_EXPORTER_OTLP_PROTOCOL    grpc (the default), http/protobuf, http/json
  OTEL_EXPORTER_OTLP_HEADERS     name=value,name=value
  OTEL_LOGS_EXPORTER             otlp (the default), console, webhook, file; none
  OTEL_SERVICE_NAME              service.name of the resource
  AUDITWIRE_WEBHOOK_URL          where webhook goes
  AUDITWIRE_WEBHOOK_AUTHORIZATION
                                 its Authorization header, verbatim
  AUDITWIRE_FILE_PATH            where file goes
  AUDITWIRE_FILE_FORMAT          ocsf (the default), audit, otlp_json; likewise
                                 AUDITWIRE_STDOUT_FORMAT, AUDITWIRE_WEBHOOK_FORMAT
  AUDITWIRE_SPOOL_DIR            folder that keeps accepted events until they are
                                 delivered, over restarts
  AUDITWIRE_SHUTDOWN_TIMEOUT     how long delivery goes on after Ctrl-C or SIGTERM;
                                 a second signal ends it at once";

pub(crate) fn run(args: Args) -> Result<Exit> {
    let config = config(&args)?;
    if args.check {
        let description = check::describe(&config);
        // A start reads the certificates and connects nothing. What may lie in the spool it would deliver.
        AuditStreamer::builder(Config { spool: None, ..config }).on_notice(|_| ()).start()?;
        print(&description)?;
        return Ok(Exit::Success);
    }
    let sources = reader::sources(args.files)?;
    let resume = args.resume.then(|| resumable(&config, &sources)).transpose()?;
    let rejects = args.rejects.as_deref().map(Rejects::open).transpose()?;
    let span = traceparent()?;
    let limits = Limits { timeout: args.timeout, grace: config.shutdown_timeout };
    let spool = config.spool.as_ref().map(|spool| spool.dir.clone());
    let bytes_at_once = if spool.is_some() { config.max_event_bytes } else { 0 };
    // Lines of events and a bar on the same terminal would be neither.
    let mixed = io::stdout().is_terminal()
        && config.destinations.iter().any(|each| matches!(each.kind, DestinationKind::Stdout { .. }));
    let progress = Progress::new(!args.quiet && !mixed);
    if !args.quiet && io::stdin().is_terminal() && sources.iter().any(|source| documents::is_stdin(source)) {
        progress.say(format_args!("audit events are read from the terminal, one JSON object a line; Ctrl-D ends them"));
    }
    let listener = progress.clone();
    let streamer =
        AuditStreamer::builder(config).on_notice(move |notice| listener.say(format_args!("{notice}"))).start()?;

    let counts = Arc::new(Counts::default());
    let (done, reading) = oneshot::channel();
    let mut reader = Reader {
        streamer: streamer.clone(),
        counts: Arc::clone(&counts),
        progress: progress.clone(),
        rejects,
        strict: args.strict,
        bytes_at_once,
        // Where nothing is kept, because exporting is switched off, nothing is remembered.
        positions: resume.filter(|_| streamer.durable_sequence().is_some()).map(|dir| Positions::new(&dir)),
        file: String::new(),
        batch: Batch::default(),
        under_way: VecDeque::new(),
        sequence: 0,
    };
    // A thread of its own: reading may block, on a pipe or on a full queue, and Ctrl-C must be heard all the same.
    std::thread::spawn(move || {
        let _current = span.map(|span| Context::new().with_remote_span_context(span).attach());
        let result = reader.read(&sources);
        let _ = done.send(Read { result, positions: reader.positions });
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let read = runtime.block_on(async {
        tokio::select! {
            read = deliver(&streamer, &counts, &progress, reading, &limits, args.resume) => read,
            never = refresh(&streamer, &counts, &progress) => match never {},
        }
    });
    progress.finish();
    let remembered = read.positions.map_or(Ok(()), |mut positions| {
        positions.write(streamer.durable_sequence().unwrap_or(0)).and_then(|()| positions.sync())
    });

    let state = streamer.state();
    if !args.quiet {
        exit::say(format_args!("{}", summary(&state, &counts, spool.as_deref())));
    }
    read.result?;
    remembered.context("cannot remember how far input was read")?;
    Ok(verdict(&state, &counts))
}

/// What the reader's thread leaves.
struct Read {
    result: Result<()>,
    positions: Option<Positions>,
}

/// The folder where `--resume` keeps how far each source has been accepted.
fn resumable(config: &Config, sources: &[PathBuf]) -> Result<PathBuf> {
    let refuse = |why: &str| ConfigError { setting: "--resume".into(), value: None, why: why.into() };
    if sources.iter().any(|source| documents::is_stdin(source)) {
        return Err(refuse("standard input cannot be read again; name a file").into());
    }
    let Some(spool) = &config.spool else {
        return Err(refuse("there is no spool to remember it; name one by --spool or AUDITWIRE_SPOOL_DIR").into());
    };
    Ok(spool.dir.clone())
}

fn config(args: &Args) -> Result<Config> {
    let mut config = targets::resolve(&environment(args), args.config.as_deref(), &args.to)?;
    if let Some(dir) = &args.spool {
        // A configuration file may name another folder, or none.
        let spool = config.spool.take().unwrap_or_else(|| Spool::new(dir));
        config.spool = Some(Spool { dir: dir.clone(), ..spool });
    }
    if let Some(path) = &args.dead_letters {
        config.dead_letter_path.clone_from(path);
    }
    Ok(config)
}

/// The variables. Those of the spool count for the folder of `--spool`, too.
fn environment(args: &Args) -> Environment {
    let environment = Environment::of_process();
    match &args.spool {
        Some(dir) => environment.with(env::AUDITWIRE_SPOOL_DIR, dir),
        None => environment,
    }
}

/// The span of whoever called the program, by `TRACEPARENT`: events without a trace context of their own belong to it.
fn traceparent() -> Result<Option<SpanContext>> {
    let mut warnings = Vec::new();
    let span = env::traceparent(&Environment::of_process(), &mut warnings)?;
    targets::warn(&warnings);
    Ok(span.map(|span| {
        let (trace, id) = (TraceId::from_bytes(span.trace_id), SpanId::from_bytes(span.span_id));
        SpanContext::new(trace, id, TraceFlags::new(span.flags), true, TraceState::default())
    }))
}

/// How long things may take.
struct Limits {
    /// `--timeout`.
    timeout: Option<Duration>,
    /// How long delivery goes on after a signal.
    grace: Duration,
}

/// Waits for the reader, then for delivery, and shuts the streamer down. A signal ends what is waited for and leaves a grace to
/// deliver what was accepted, a second one ends that, too. What became of the events is in the streamer's books.
async fn deliver(
    streamer: &AuditStreamer,
    counts: &Counts,
    progress: &Progress,
    mut reading: oneshot::Receiver<Read>,
    limits: &Limits,
    resume: bool,
) -> Read {
    let gone = |_| Read { result: Err(anyhow::anyhow!("the reader ended without a word")), positions: None };
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return Read { result: Err(error), positions: None },
    };
    let mut signalled = false;
    let mut read = tokio::select! {
        read = &mut reading => Some(read.unwrap_or_else(gone)),
        () = signals.next() => {
            signalled = true;
            None
        }
        () = given_up(streamer, counts, limits.timeout) => None,
    };
    if read.is_some() {
        let timeout = async {
            match limits.timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = streamer.flush() => {}
            () = signals.next() => signalled = true,
            () = timeout => {}
        }
    } else {
        counts.cut_short.store(true, Ordering::Relaxed);
    }
    let grace = match (signalled, limits.timeout) {
        (false, _) => Duration::ZERO,
        (true, Some(timeout)) => limits.grace.min(timeout),
        (true, None) => limits.grace,
    };
    let outstanding = outstanding(&streamer.state());
    if signalled && outstanding > 0 {
        progress.say(format_args!(
            "stopping: {outstanding} events are still being delivered, for {grace:?} at most; another signal ends this at once"
        ));
    }
    tokio::select! {
        _ = streamer.shutdown(grace) => {}
        () = signals.next() => {}
    }
    if resume && read.is_none() {
        // It reads files, so that it is not held up, and what it had accepted last it has yet to write down.
        read = tokio::time::timeout(Duration::from_secs(1), reading).await.ok().map(|read| read.unwrap_or_else(gone));
    }
    read.unwrap_or(Read { result: Ok(()), positions: None })
}

/// Resolves when reading on is of no use: no destination is left, or one whose queue is full has taken nothing for too long.
async fn given_up(streamer: &AuditStreamer, counts: &Counts, timeout: Option<Duration>) {
    let mut stall = Stall::default();
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let state = streamer.state();
        let blocked = counts.blocked.load(Ordering::Relaxed);
        if ended(&state) || timeout.is_some_and(|timeout| blocked && stall.lasts(&state) >= timeout) {
            return;
        }
        if !blocked {
            stall = Stall::default();
        }
    }
}

/// Keeps the progress bar's numbers up to date.
async fn refresh(streamer: &AuditStreamer, counts: &Counts, progress: &Progress) -> Infallible {
    loop {
        progress.update(counts.read.load(Ordering::Relaxed), outstanding(&streamer.state()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How long nothing has been accepted or settled.
#[derive(Default)]
struct Stall(Option<(u64, tokio::time::Instant)>);

impl Stall {
    fn lasts(&mut self, state: &State) -> Duration {
        let settled: u64 =
            state.destinations.iter().map(|destination| destination.accepted - destination.outstanding).sum();
        // A spool takes events while no destination does.
        let moved = settled + state.accepted;
        match self.0 {
            Some((before, since)) if before == moved => since.elapsed(),
            _ => {
                self.0 = Some((moved, tokio::time::Instant::now()));
                Duration::ZERO
            }
        }
    }
}

fn outstanding(state: &State) -> u64 {
    state.destinations.iter().map(|destination| destination.outstanding).max().unwrap_or(0)
}

/// Whether no destination is left: the reader of standard output, where everything went, has gone.
fn ended(state: &State) -> bool {
    !state.destinations.is_empty() && state.destinations.iter().all(|destination| destination.ended)
}

/// `read 18, malformed 2, accepted 16, delivered 16, rejected 0`, and what is outstanding where.
fn summary(state: &State, counts: &Counts, spool: Option<&Path>) -> String {
    let read = counts.read.load(Ordering::Relaxed);
    let malformed = counts.malformed.load(Ordering::Relaxed);
    let mut text = format!("read {read}, malformed {malformed}, accepted {}", state.accepted);
    match &state.destinations[..] {
        [] => text.push_str(", nothing exported"),
        [only] => text.push_str(&format!(", delivered {}, rejected {}", only.delivered, only.rejected)),
        several => {
            for each in several {
                text.push_str(&format!("; {}: delivered {}, rejected {}", each.name, each.delivered, each.rejected));
            }
        }
    }
    if counts.cut_short.load(Ordering::Relaxed) {
        text.push_str("; not read to the end");
    }
    for each in &state.destinations {
        if each.outstanding > 0 {
            text.push_str(&format!("; {} outstanding at {} ({})", each.outstanding, each.name, each.target));
            if let Some(error) = &each.last_error {
                text.push_str(&format!(": {error}"));
            }
        }
        if each.dropped > 0 {
            text.push_str(&format!("; {} lost at {}", each.dropped, each.name));
        }
    }
    if let Some(dir) = spool.filter(|_| outstanding(state) > 0) {
        text.push_str(&format!("; what is outstanding is kept in the spool {}", dir.display()));
    }
    text
}

fn verdict(state: &State, counts: &Counts) -> Exit {
    let any = |lacking: fn(&auditwire::DestinationState) -> bool| state.destinations.iter().any(lacking);
    let read = counts.read.load(Ordering::Relaxed);
    let malformed = counts.malformed.load(Ordering::Relaxed);
    let cut_short = counts.cut_short.load(Ordering::Relaxed) || state.accepted + malformed < read;
    if cut_short || any(|each| each.outstanding > 0 || each.dropped > 0) {
        Exit::Undelivered
    } else if any(|each| each.rejected > 0) {
        Exit::Rejected
    } else if malformed > 0 {
        Exit::BadInput
    } else {
        Exit::Success
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_help_are_honoured() {
        let named = VARIABLES
            .split(|c: char| !c.is_ascii_uppercase() && c != '_')
            .filter(|word| word.trim_matches('_').contains('_'));
        for name in named {
            assert!(env::VARIABLES.iter().any(|variable| variable.name == name), "{name}");
        }
    }
}
