//! `auditwire dlq`: what destinations refused for good, and what becomes of it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use auditwire::config::env::{self, Environment};
use auditwire::config::{Config, Destination, units};
use auditwire::dead_letters::{self, DeadLetter, Letter, LetterId};
use auditwire::{AuditEvent, AuditStreamer, ocsf};
use clap::Subcommand;

use super::exit::{self, Exit};
use super::signals::Signals;
use super::{print, targets};

/// Look at the events that destinations refused for good, send them again, or drop them
///
/// They lie in the dead-letter file, a line for each refusal, numbered from 1. A sender may go on adding to it meanwhile.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,

    /// The dead-letter file [default: AUDITWIRE_DEAD_LETTER_PATH]
    #[arg(long, value_name = "PATH", global = true)]
    file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A line for each refusal: number, time, destination, how many events, why
    List,
    /// Print the events of a refusal
    Show {
        /// Its number
        number: u64,
        /// What to print
        #[arg(long, value_enum, default_value_t = Format::Ocsf)]
        format: Format,
    },
    /// Send the events again, and drop from the file what was delivered
    ///
    /// They go to the destination that refused them, if it is among the configured ones; with --to they go there. They keep their
    /// identity (metadata.uid) and get new numbers. What is refused again is added to the file with the new reason.
    #[command(after_help = exit::HELP)]
    Replay {
        /// Numbers and ranges, as in `3 5-9` [default: all]
        numbers: Vec<Numbers>,
        /// Destination: otlp[=URL], webhook[=URL], file[=PATH] or stdout; may be repeated
        #[arg(long, value_name = "DESTINATION")]
        to: Vec<String>,
        /// Stream configuration: JSON with a `destination` or several `destinations`
        #[arg(long, value_name = "FILE", conflicts_with = "to")]
        config: Option<PathBuf>,
        /// Wait no longer than this for delivery: 500ms, 30s, 5m [default: for ever]
        #[arg(long, value_name = "DURATION", value_parser = units::duration)]
        timeout: Option<Duration>,
    },
    /// Drop refusals from the file, with their events
    Drop {
        /// Numbers and ranges, as in `3 5-9`
        #[arg(required = true)]
        numbers: Vec<Numbers>,
        /// Really
        #[arg(long)]
        yes: bool,
    },
}

/// What is printed of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// The OCSF event, as it was refused
    Ocsf,
    /// The audit event it was made from
    Audit,
}

/// `N` or `N-M`.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    first: u64,
    last: u64,
}

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(Self { first, last }),
            _ => Err("neither a number from 1 on nor a range of them, as in 5-9".into()),
        }
    }
}

impl Numbers {
    fn holds(self, number: u64) -> bool {
        (self.first..=self.last).contains(&number)
    }
}

/// Runs the command.
///
/// # Errors
/// The file cannot be read or written, or a number is not in it.
pub(crate) fn run(args: Args) -> Result<Exit> {
    let path = match args.file {
        Some(path) => path,
        None => env::settings(&Environment::of_process(), &mut Vec::new())?.dead_letter_path,
    };
    match args.command {
        Command::List => list(&path),
        Command::Show { number, format } => show(&path, number, format),
        Command::Replay { numbers, to, config, timeout } => {
            let config = targets::resolve(&Environment::of_process(), config.as_deref(), &to)?;
            let by_name = to.is_empty();
            replay(&path, &numbers, config, by_name, timeout)
        }
        Command::Drop { numbers, yes } => drop_letters(&path, &numbers, yes),
    }
}

fn letters(path: &Path) -> Result<impl Iterator<Item = Result<Letter>>> {
    let named = move || format!("cannot read {}", path.display());
    let letters = dead_letters::read(path).with_context(named)?;
    Ok(letters.map(move |letter| letter.with_context(named)))
}

/// The letters with these numbers, each of which has to be there; all of them for no numbers.
fn chosen(path: &Path, numbers: &[Numbers]) -> Result<Vec<Letter>> {
    let mut count = 0;
    let mut chosen = Vec::new();
    for letter in letters(path)? {
        let letter = letter?;
        count = letter.number;
        if numbers.is_empty() || numbers.iter().any(|range| range.holds(letter.number)) {
            chosen.push(letter);
        }
    }
    match numbers.iter().find(|range| range.last > count) {
        Some(range) => bail!("{} has no number {}; it has {count} letters", path.display(), range.last),
        None => Ok(chosen),
    }
}

fn list(path: &Path) -> Result<Exit> {
    let mut out = BufWriter::new(io::stdout().lock());
    for letter in letters(path)? {
        let letter = letter?;
        if !writes(writeln!(out, "{}", Row(&letter)))? {
            return Ok(Exit::Success);
        }
    }
    writes(out.flush())?;
    Ok(Exit::Success)
}

/// A letter in one line. Names and reasons are anybody's: none of them ends the line or drives the terminal.
struct Row<'a>(&'a Letter);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0.number;
        let text = match &self.0.content {
            Ok(DeadLetter { time, destination, why, rejected, events, .. }) => {
                let of = match events.len() as u64 {
                    all if all == *rejected => String::new(),
                    all => format!(" of {all}"),
                };
                let plural = if *rejected == 1 && of.is_empty() { "" } else { "s" };
                format!("{number:>4}  {time}  {destination}  {rejected}{of} event{plural}  {why}")
            }
            Err(why) => format!("{number:>4}  no dead letter: {why}"),
        };
        f.write_str(&text.replace(char::is_control, "\u{fffd}"))
    }
}

/// Whether there is still somebody who reads what is written.
fn writes(written: io::Result<()>) -> Result<bool> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context("cannot write to standard output"),
    }
}

fn show(path: &Path, number: u64, format: Format) -> Result<Exit> {
    let letters = chosen(path, &[Numbers { first: number, last: number }])?;
    let letter = read(&letters[0]).map_err(|why| anyhow::anyhow!("{}:{number}: {why}", path.display()))?;
    let (mut text, mut bad) = (String::new(), false);
    for event in &letter.events {
        let line = match format {
            Format::Ocsf => Ok(event.clone()),
            Format::Audit => decode(event).map(|event| serde_json::to_string(&event).expect("an event is JSON")),
        };
        match line {
            Ok(line) => text.extend([line.as_str(), "\n"]),
            Err(why) => {
                bad = true;
                exit::say(format_args!("{}:{number}: {why}", path.display()));
            }
        }
    }
    print(&text)?;
    Ok(if bad { Exit::BadInput } else { Exit::Success })
}

fn read(letter: &Letter) -> Result<&DeadLetter, String> {
    letter.content.as_ref().map_err(|why| format!("no dead letter: {why}"))
}

fn decode(event: &str) -> Result<AuditEvent, String> {
    ocsf::decode(event).map_err(|error| error.to_string())
}

fn drop_letters(path: &Path, numbers: &[Numbers], yes: bool) -> Result<Exit> {
    let letters = chosen(path, numbers)?;
    let events: usize =
        letters.iter().filter_map(|letter| letter.content.as_ref().ok()).map(|it| it.events.len()).sum();
    if !yes {
        for letter in &letters {
            exit::say(format_args!("{}", Row(letter)));
        }
        exit::say(format_args!("{events} events would be gone; --yes drops them"));
        return Ok(Exit::Usage);
    }
    let ids: Vec<_> = letters.iter().map(|letter| letter.id).collect();
    let removed = dead_letters::remove(path, &ids).with_context(|| format!("cannot replace {}", path.display()))?;
    exit::say(format_args!("{removed} letters with {events} events dropped from {}", path.display()));
    Ok(Exit::Success)
}

/// Most events that are sent before the letters they came from are dropped.
const EVENTS_AT_ONCE: usize = 256;

/// Letters to be sent again to the same destinations.
#[derive(Default)]
struct Mail {
    letters: Vec<(LetterId, Vec<AuditEvent>)>,
}

fn replay(path: &Path, numbers: &[Numbers], config: Config, by_name: bool, timeout: Option<Duration>) -> Result<Exit> {
    if let Some(why) = &config.disabled {
        bail!("nothing is exported: {why}");
    }
    let mut mail: BTreeMap<Option<String>, Mail> = BTreeMap::new();
    let mut kept = 0_u64;
    for letter in chosen(path, numbers)? {
        match open(&letter, &config, by_name) {
            Ok((name, events)) => mail.entry(name).or_default().letters.push((letter.id, events)),
            Err(why) => {
                kept += 1;
                exit::say(format_args!("{}:{}: {why}; left in the file", path.display(), letter.number));
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let (mut delivered, mut refused, mut undelivered) = (0, 0, false);
    for (name, mail) in mail {
        let is_wanted = |each: &Destination| name.as_ref().is_none_or(|name| each.name == *name);
        let destinations = config.destinations.iter().filter(|each| is_wanted(each)).cloned().collect();
        // The file is what keeps them until they are delivered, so that no spool is needed.
        let config = Config { destinations, spool: None, dead_letter_path: path.to_owned(), ..config.clone() };
        let at_once = EVENTS_AT_ONCE.min(config.batch.max_queue_size);
        let streamer =
            AuditStreamer::builder(config).on_notice(|notice| exit::say(format_args!("{notice}"))).start()?;
        let sent = runtime.block_on(deliver(&streamer, path, mail, at_once, timeout));
        let state = streamer.state();
        let rejected = state.destinations.iter().map(|each| each.rejected).max().unwrap_or(0);
        delivered += state.destinations.iter().map(|each| each.delivered).min().unwrap_or(0);
        refused += rejected;
        undelivered |= !sent?;
    }
    exit::say(format_args!("{delivered} events delivered, {refused} refused again, {kept} letters left as they are"));
    Ok(match (undelivered, refused, kept) {
        (true, ..) => Exit::Undelivered,
        (_, 1.., _) => Exit::Rejected,
        (.., 1..) => Exit::BadInput,
        _ => Exit::Success,
    })
}

/// The events of a letter and the destination they go to; `None`: all of them.
fn open(letter: &Letter, config: &Config, by_name: bool) -> Result<(Option<String>, Vec<AuditEvent>), String> {
    let content = read(letter)?;
    let name = &content.destination;
    if by_name && config.destinations.iter().all(|each| each.name != *name) {
        return Err(format!("its destination {name} is not configured; --to names another"));
    }
    let events = content.events.iter().map(|event| decode(event)).collect::<Result<Vec<_>, _>>()?;
    Ok((by_name.then(|| name.clone()), events))
}

/// Sends letters, and drops from the file those that are settled. `false`: not all were.
async fn deliver(
    streamer: &AuditStreamer,
    path: &Path,
    mail: Mail,
    at_once: usize,
    timeout: Option<Duration>,
) -> Result<bool> {
    let mut signals = Signals::listen()?;
    let mut rest = mail.letters.into_iter().peekable();
    let mut complete = true;
    while complete && rest.peek().is_some() {
        let (mut ids, mut events) = (Vec::new(), Vec::new());
        while let Some((id, more)) = rest.next_if(|(_, more)| ids.is_empty() || events.len() + more.len() <= at_once) {
            ids.push(id);
            events.extend(more);
        }
        let sending = async {
            for events in events.chunks(at_once) {
                streamer.queue_all(events).await?;
            }
            streamer.flush().await
        };
        let limit = async {
            match timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        let settled = tokio::select! {
            sent = sending => { sent?; true }
            () = limit => false,
            () = signals.next() => false,
        };
        // Whoever read standard output may have gone.
        complete = settled && streamer.state().destinations.iter().all(|each| each.dropped == 0);
        if complete {
            // Delivered, or in the file again with the new reason.
            dead_letters::remove(path, &ids).with_context(|| format!("cannot replace {}", path.display()))?;
        }
    }
    let _ = streamer.shutdown(Duration::ZERO).await;
    Ok(complete)
}
