//! `auditwire send`: audit events from files or standard input to destinations.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use auditwire::config::env::{self, Environment};
use auditwire::config::{Config, stream, units};
use auditwire::{AuditStreamer, State};
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use tokio::sync::oneshot;

use super::exit::{self, Exit};
use super::input::{self, Flow, Item, Place};
use super::progress::Progress;

/// Send audit events from files or standard input
///
/// Reads JSON Lines or a JSON array, maps each event to OCSF, and returns when the destinations have confirmed all of them.
/// Destinations are those of --to, else of --config, else of OTEL_LOGS_EXPORTER and the other OTEL_ variables.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct Args {
    /// Files of audit events; `-` or none is standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Destination: otlp[=URL], webhook[=URL], file[=PATH] or stdout; may be repeated
    ///
    /// What the option does not say (headers, certificates, compression, format) comes from the variables.
    #[arg(long, value_name = "DESTINATION")]
    to: Vec<String>,

    /// Stream configuration, JSON
    #[arg(long, value_name = "FILE", conflicts_with = "to")]
    config: Option<PathBuf>,

    /// Check the configuration, say what it comes to, and send nothing
    #[arg(long)]
    check: bool,

    /// Append input that is no audit event to FILE, as it was read
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,

    /// Stop at the first input that is no audit event
    #[arg(long)]
    strict: bool,

    /// Give up when destinations have taken nothing for so long: 500ms, 30s, 5m [default: never]
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    timeout: Option<Duration>,

    /// Keep events that a destination refuses for good in FILE
    #[arg(long, value_name = "FILE")]
    dead_letters: Option<PathBuf>,

    /// No progress bar and no summary
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(args: Args) -> Result<Exit> {
    let progress = Progress::new(args.quiet || args.check);
    let config = config(&args, &progress)?;
    if args.check {
        describe(&config)?;
        return Ok(Exit::Success);
    }
    let rejects = args.rejects.as_deref().map(Rejects::open).transpose()?;
    let listener = progress.clone();
    let streamer =
        AuditStreamer::builder(config).on_notice(move |notice| listener.say(format_args!("{notice}"))).start()?;

    let counts = Arc::new(Counts::default());
    let (done, reading) = oneshot::channel();
    let reader = Reader {
        streamer: streamer.clone(),
        counts: Arc::clone(&counts),
        progress: progress.clone(),
        rejects,
        strict: args.strict,
    };
    let sources = input::sources(args.files);
    let span = traceparent(&progress)?;
    // A thread of its own: reading may block, on a pipe or on a full queue, and Ctrl-C must be heard all the same.
    std::thread::spawn(move || {
        let _current = span.map(|span| Context::new().with_remote_span_context(span).attach());
        let _ = done.send(reader.read(&sources));
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let read = runtime.block_on(wait(&streamer, &counts, &progress, reading, args.timeout));
    progress.finish();

    let state = streamer.state();
    if !args.quiet {
        exit::say(format_args!("{}", summary(&state, &counts)));
    }
    read?;
    Ok(verdict(&state, &counts))
}

fn config(args: &Args, progress: &Progress) -> Result<Config> {
    let environment = Environment::of_process();
    let mut warnings = Vec::new();
    let mut config = if let Some(path) = &args.config {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        stream::parse(&text, &path.display().to_string(), &environment, &mut warnings)?
    } else if args.to.is_empty() {
        env::config(&environment, &mut warnings)?
    } else {
        let mut config = env::settings(&environment, &mut warnings)?;
        if config.disabled.is_none() {
            config.destinations = env::targets(&environment, args.to.iter().map(String::as_str), &mut warnings)?;
        }
        config
    };
    for warning in warnings {
        progress.say(format_args!("warning: {warning}"));
    }
    if let Some(path) = &args.dead_letters {
        config.dead_letter_path.clone_from(path);
    }
    // Somebody is watching: a destination that does not answer is said at once.
    config.max_retries = 0;
    Ok(config)
}

/// The span of whoever called the program, by `TRACEPARENT`: events without a trace context of their own belong to it.
fn traceparent(progress: &Progress) -> Result<Option<SpanContext>> {
    let mut warnings = Vec::new();
    let span = env::traceparent(&Environment::of_process(), &mut warnings)?;
    for warning in warnings {
        progress.say(format_args!("warning: {warning}"));
    }
    Ok(span.map(|span| {
        let (trace, id) = (TraceId::from_bytes(span.trace_id), SpanId::from_bytes(span.span_id));
        SpanContext::new(trace, id, TraceFlags::new(span.flags), true, TraceState::default())
    }))
}

/// `--check`: what the configuration comes to, secrets apart.
fn describe(config: &Config) -> Result<()> {
    let mut text = String::new();
    match &config.disabled {
        Some(why) => text.push_str(&format!("nothing is exported: {why}\n")),
        None => {
            for destination in &config.destinations {
                text.push_str(&format!("{}: {:?}\n", destination.name, destination.kind));
            }
        }
    }
    text.push_str(&format!("dead letters: {}\n", config.dead_letter_path.display()));
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

#[derive(Debug, Default)]
struct Counts {
    read: AtomicU64,
    malformed: AtomicU64,
    /// The reader is waiting for a place in a full queue.
    blocked: AtomicBool,
}

struct Reader {
    streamer: AuditStreamer,
    counts: Arc<Counts>,
    progress: Progress,
    rejects: Option<Rejects>,
    strict: bool,
}

impl Reader {
    fn read(mut self, sources: &[PathBuf]) -> Result<()> {
        for source in sources {
            let mut failure = None;
            let flow = input::read(source, |place, item, text| {
                self.take(place, item, text).unwrap_or_else(|error| {
                    failure = Some(error);
                    Flow::Break(())
                })
            });
            if let Some(error) = failure {
                return Err(error);
            }
            if flow.with_context(|| format!("cannot read {}", source.display()))?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, place: &Place<'_>, item: Item<'_>, text: &[u8]) -> Result<Flow> {
        match item {
            Item::Event(event) => {
                self.counts.read.fetch_add(1, Ordering::Relaxed);
                self.counts.blocked.store(true, Ordering::Relaxed);
                let accepted = self.streamer.emit(&event);
                self.counts.blocked.store(false, Ordering::Relaxed);
                match accepted {
                    Ok(_) => Ok(Flow::Continue(())),
                    Err(error) if error.is_too_large() => self.reject(place, text, &error.to_string()),
                    // The end has come while this event waited: it is not among the accepted.
                    Err(error) if error.is_closed() => Ok(Flow::Break(())),
                    Err(error) => Err(error).with_context(|| place.to_string()),
                }
            }
            Item::Malformed { text, why: None } => {
                self.keep(text, b"")?;
                Ok(Flow::Continue(()))
            }
            Item::Malformed { text, why: Some(why) } => {
                self.counts.read.fetch_add(1, Ordering::Relaxed);
                self.reject(place, text, &why)
            }
        }
    }

    fn reject(&mut self, place: &Place<'_>, text: &[u8], why: &str) -> Result<Flow> {
        self.counts.malformed.fetch_add(1, Ordering::Relaxed);
        self.progress.say(format_args!("{place}: {why}"));
        self.keep(text, b"\n")?;
        Ok(if self.strict { Flow::Break(()) } else { Flow::Continue(()) })
    }

    fn keep(&mut self, text: &[u8], end: &[u8]) -> Result<()> {
        match &mut self.rejects {
            Some(rejects) => rejects.keep(text, end),
            None => Ok(()),
        }
    }
}

/// The file of `--rejects`.
struct Rejects {
    path: PathBuf,
    file: File,
}

impl Rejects {
    fn open(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file })
    }

    fn keep(&mut self, text: &[u8], end: &[u8]) -> Result<()> {
        let written = self.file.write_all(text).and_then(|()| self.file.write_all(end));
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// Waits for the reader and then for delivery; a signal ends the first wait, a second one the other.
async fn wait(
    streamer: &AuditStreamer,
    counts: &Counts,
    progress: &Progress,
    reading: oneshot::Receiver<Result<()>>,
    timeout: Option<Duration>,
) -> Result<()> {
    let mut signals = Signals::listen()?;
    let watch = async {
        let mut stall = Stall::default();
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let state = streamer.state();
            progress.update(counts.read.load(Ordering::Relaxed), outstanding(&state));
            let blocked = counts.blocked.load(Ordering::Relaxed);
            if ended(&state) || timeout.is_some_and(|timeout| blocked && stall.lasts(&state) >= timeout) {
                return;
            }
            if !blocked {
                stall = Stall::default();
            }
        }
    };
    let read = tokio::select! {
        read = reading => read.unwrap_or_else(|_| Err(anyhow::anyhow!("the reader ended without a word"))),
        () = signals.next() => Ok(()),
        () = watch => Ok(()),
    };

    let watch = async {
        let mut stall = Stall::default();
        loop {
            let state = streamer.state();
            progress.update(counts.read.load(Ordering::Relaxed), outstanding(&state));
            if ended(&state) || timeout.is_some_and(|timeout| stall.lasts(&state) >= timeout) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        // Its result is in the books.
        _ = streamer.flush() => {}
        () = signals.next() => {}
        () = watch => {}
    }
    // Likewise: what is outstanding now stays so.
    let _ = streamer.shutdown(Duration::ZERO).await;
    read
}

/// How long nothing has been settled.
#[derive(Default)]
struct Stall(Option<(u64, tokio::time::Instant)>);

impl Stall {
    fn lasts(&mut self, state: &State) -> Duration {
        let settled = state.destinations.iter().map(|destination| destination.accepted - destination.outstanding).sum();
        match self.0 {
            Some((before, since)) if before == settled => since.elapsed(),
            _ => {
                self.0 = Some((settled, tokio::time::Instant::now()));
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

struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            terminate: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                .context("cannot listen for SIGTERM")?,
        })
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        let terminate = self.terminate.recv();
        #[cfg(not(unix))]
        let terminate = std::future::pending::<Option<()>>();
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate => {}
        }
    }
}

/// `read 18, malformed 2, accepted 16, delivered 16, rejected 0`, and what is outstanding where.
fn summary(state: &State, counts: &Counts) -> String {
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
    text
}

fn verdict(state: &State, counts: &Counts) -> Exit {
    let any = |lacking: fn(&auditwire::DestinationState) -> bool| state.destinations.iter().any(lacking);
    let read = counts.read.load(Ordering::Relaxed);
    let malformed = counts.malformed.load(Ordering::Relaxed);
    if any(|each| each.outstanding > 0 || each.dropped > 0) || state.accepted + malformed < read {
        Exit::Undelivered
    } else if any(|each| each.rejected > 0) {
        Exit::Rejected
    } else if malformed > 0 {
        Exit::BadInput
    } else {
        Exit::Success
    }
}
