//! `auditwire spool`: what waits in a spool's folder, whether it is intact, and what to do if it is not.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use auditwire::config::ConfigError;
use auditwire::config::env::{self, Environment};
use auditwire::spool::{self, Damage, Options, SeqRange, Spool, Status};
use auditwire::{SpooledEvent, SpooledEvents, spooled_events};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Subcommand;
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use serde_json::json;

use super::exit::{self, Exit};
use super::print;

/// Look into a spool, check it, and rescue what it holds
///
/// All of it but `remove` only reads, and works while another process uses the spool. DIR is AUDITWIRE_SPOOL_DIR's by default.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How much waits for which destination, since when, and how full the spool is
    Status {
        /// The spool's folder
        dir: Option<PathBuf>,
        /// How to tell it
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Check every checksum; the exit code is 1 if anything is damaged
    Verify {
        /// The spool's folder
        dir: Option<PathBuf>,
    },
    /// Write what is not delivered to standard output, as OCSF, a line each, as delivery would write it
    ///
    /// What is damaged is told on standard error, and announced by a gap record in its place; the exit code is then 1. Nothing is
    /// marked as delivered.
    Export {
        /// The spool's folder
        dir: Option<PathBuf>,
        /// What this destination has not confirmed [default: what any has not]
        #[arg(long, value_name = "NAME", conflicts_with = "from")]
        destination: Option<String>,
        /// Everything kept from this number on, delivered or not
        #[arg(long, value_name = "N")]
        from: Option<u64>,
    },
    /// Write every intact event to a new file, and a gap record for each that is missing
    ///
    /// For a spool that is refused because of its damage. `auditwire convert --from ocsf --to audit FILE | auditwire send` then
    /// delivers what was rescued. The exit code is 1 if anything is missing. The folder is left as it is.
    Salvage {
        /// The spool's folder
        dir: PathBuf,
        /// The file; it must not be there yet
        file: PathBuf,
    },
    /// Give up what a destination has not confirmed, so that it holds up no space any more
    Remove {
        /// The spool's folder; no other process may use it
        dir: PathBuf,
        /// The destination's name
        destination: String,
        /// Even if events are outstanding there
        #[arg(long)]
        yes: bool,
    },
}

/// How a status is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For a person
    Text,
    /// A JSON object
    Json,
}

/// Runs the command.
///
/// # Errors
/// The folder cannot be read, or is no spool; the output cannot be written.
pub(crate) fn run(args: Args) -> Result<Exit> {
    match args.command {
        Command::Status { dir, format } => {
            let place = Place::find(dir)?;
            print(&match format {
                Format::Text => place.describe(),
                Format::Json => format!("{}\n", place.json()),
            })?;
            Ok(Exit::Success)
        }
        Command::Verify { dir } => verify(&Place::find(dir)?),
        Command::Export { dir, destination, from } => export(&Place::find(dir)?, destination.as_deref(), from),
        Command::Salvage { dir, file } => salvage(&Place::find(Some(dir))?, &file),
        Command::Remove { dir, destination, yes } => remove(&Place::find(Some(dir))?, &destination, yes),
    }
}

/// A spool's folder.
struct Place {
    dir: PathBuf,
    status: Status,
    max_bytes: u64,
}

impl Place {
    fn find(dir: Option<PathBuf>) -> Result<Self> {
        let named = dir.iter().map(|dir| (env::AUDITWIRE_SPOOL_DIR.into(), dir.clone().into_os_string()));
        let environment: Environment = std::env::vars_os().chain(named).collect();
        // Whoever looks at a spool is not interested in what the exporter's variables are.
        let spool = env::settings(&environment, &mut Vec::new())?.spool;
        let (dir, max_bytes) = match (dir, spool) {
            (Some(dir), Some(spool)) => (dir, spool.max_bytes),
            (Some(dir), None) => (dir, Options::default().max_bytes),
            (None, Some(spool)) => (spool.dir, spool.max_bytes),
            (None, None) => {
                let why = "name the spool's folder, or set AUDITWIRE_SPOOL_DIR".into();
                return Err(ConfigError { setting: "DIR".into(), value: None, why }.into());
            }
        };
        let status = spool::status(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
        if status.segments == 0 && status.destinations.is_empty() {
            bail!("{} is no spool: it has no segments", dir.display());
        }
        Ok(Self { dir, status, max_bytes })
    }

    fn describe(&self) -> String {
        let Self { dir, status, max_bytes } = self;
        let mut text = vec![format!(
            "{}: {} events in {} segments, {} of {}",
            dir.display(),
            HumanCount(status.next_seq - status.first_seq),
            status.segments,
            HumanBytes(status.bytes),
            HumanBytes(*max_bytes),
        )];
        if status.next_seq > status.first_seq {
            text.push(format!("  numbers {} to {}", status.first_seq, status.next_seq - 1));
        }
        match status.open_in {
            Some(pid) => text.push(format!("  open in process {pid}")),
            None if cfg!(target_os = "linux") => text.push("  not open".to_owned()),
            None => {}
        }
        for each in &status.destinations {
            let lag = &each.lag;
            let mut line = format!("{}: ", lag.destination);
            if lag.records == 0 {
                line.push_str("nothing outstanding");
            } else {
                line.push_str(&format!("{} events outstanding, {}", HumanCount(lag.records), HumanBytes(lag.bytes)));
            }
            if let Some(since) = each.waiting_since {
                let age = SystemTime::now().duration_since(since).unwrap_or_default();
                line.push_str(&format!(", the oldest for {}", HumanDuration(age)));
            }
            if each.cursor_damaged {
                line.push_str("; its cursor is damaged, it will get again what is here");
            }
            text.push(line);
        }
        if let Some(missing) = self.missing() {
            text.push(format!("events {} to {} are gone and were not delivered", missing.first, missing.last));
        }
        for path in &status.remains {
            text.push(format!("damaged bytes are kept in {}", path.display()));
        }
        if let Some(beside) = self.beside() {
            text.push(format!("{} lies beside it, as after a refusal", beside.display()));
        }
        text.push(String::new());
        text.join("\n")
    }

    fn json(&self) -> serde_json::Value {
        let Self { dir, status, max_bytes } = self;
        let time = |time: SystemTime| DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true);
        let destinations = status.destinations.iter().map(|each| {
            let age = each.waiting_since.map(|since| SystemTime::now().duration_since(since).unwrap_or_default());
            json!({
                "name": each.lag.destination,
                "acknowledged": each.lag.acked,
                "outstanding": each.lag.records,
                "bytes": each.lag.bytes,
                "waiting_since": each.waiting_since.map(time),
                "waiting_seconds": age.map(|age| age.as_secs_f64()),
                "cursor_damaged": each.cursor_damaged,
            })
        });
        json!({
            "dir": dir,
            "stream": status.id.map(|id| format!("{id:016x}")),
            "open_in": status.open_in,
            "first_sequence": status.first_seq,
            "next_sequence": status.next_seq,
            "segments": status.segments,
            "bytes": status.bytes,
            "max_bytes": max_bytes,
            "destinations": destinations.collect::<Vec<_>>(),
            "missing": self.missing().map(|SeqRange { first, last }| json!({"first": first, "last": last})),
            "remains": status.remains,
            "beside": self.beside(),
        })
    }

    /// Numbers that some destination needs and that lie before everything there is.
    fn missing(&self) -> Option<SeqRange> {
        let first = self.oldest_outstanding()?;
        (first < self.status.first_seq).then(|| SeqRange { first, last: self.status.first_seq - 1 })
    }

    fn oldest_outstanding(&self) -> Option<u64> {
        let sound = self.status.destinations.iter().filter(|each| !each.cursor_damaged);
        sound.map(|each| each.lag.acked + 1).min()
    }

    /// Where auditing has gone on after this spool was refused.
    fn beside(&self) -> Option<PathBuf> {
        let mut name = self.dir.as_os_str().to_owned();
        name.push("-2");
        Some(PathBuf::from(name)).filter(|dir| spool::status(dir).is_ok_and(|status| status.segments > 0))
    }

    fn events(&self, from: u64, destination: &str) -> Result<SpooledEvents> {
        let events = spooled_events(&self.dir, from, destination);
        events.with_context(|| format!("cannot read {}", self.dir.display()))
    }
}

fn verify(place: &Place) -> Result<Exit> {
    let verified = spool::verify(&place.dir).with_context(|| format!("cannot read {}", place.dir.display()))?;
    let mut text = String::new();
    let mut line = |line: String| text.extend([line.as_str(), "\n"]);
    if let Some(range) = place.missing() {
        line(lost(&Damage { range, file: None, bytes: 0..0, quarantine: None }));
    }
    verified.damage.iter().for_each(|damage| line(lost(damage)));
    for file in &verified.headers_damaged {
        line(format!("{}: bytes 0 to 64: its header is damaged, which costs no event", file.display()));
    }
    let cursors: Vec<_> = place.status.destinations.iter().filter(|each| each.cursor_damaged).collect();
    for cursor in &cursors {
        line(format!("the cursor of {} is damaged, it will get again what is here", cursor.lag.destination));
    }
    for (file, bytes) in &verified.noise {
        let (file, start, end) = (file.display(), bytes.start, bytes.end);
        line(format!("{file}: bytes {start} to {end} mean nothing, as after a crash; they cost no event"));
    }
    let sound = place.missing().is_none()
        && verified.damage.is_empty()
        && verified.headers_damaged.is_empty()
        && cursors.is_empty();
    let verdict = if sound { "intact" } else { "DAMAGED" };
    let (events, bytes) = (HumanCount(verified.records), HumanBytes(verified.bytes));
    line(format!("{}: {verdict}; {events} events are intact, {bytes}", place.dir.display()));
    print(&text)?;
    Ok(if sound { Exit::Success } else { Exit::Failure })
}

fn lost(damage: &Damage) -> String {
    let SeqRange { first, last } = damage.range;
    match &damage.file {
        Some(file) => {
            let bytes = &damage.bytes;
            format!("{}: bytes {} to {}: events {first} to {last} are lost", file.display(), bytes.start, bytes.end)
        }
        None => format!("events {first} to {last} are lost: they are gone, or were no events"),
    }
}

fn export(place: &Place, destination: Option<&str>, from: Option<u64>) -> Result<Exit> {
    let from = match (destination, from) {
        (Some(name), _) => {
            let Some(found) = place.status.destinations.iter().find(|each| each.lag.destination == name) else {
                let known: Vec<_> = place.status.destinations.iter().map(|each| &*each.lag.destination).collect();
                bail!("{} knows no destination {name}, only {}", place.dir.display(), known.join(", "));
            };
            if found.cursor_damaged { 1 } else { found.lag.acked + 1 }
        }
        (None, Some(from)) => from,
        (None, None) => place.oldest_outstanding().unwrap_or(1),
    };
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    let written = write(place.events(from, destination.unwrap_or("export"))?, &mut out);
    match written {
        Err(error) if is_broken_pipe(&error) => Ok(Exit::Success),
        written => Ok(if written?.lost == 0 { Exit::Success } else { Exit::Failure }),
    }
}

fn salvage(place: &Place, path: &Path) -> Result<Exit> {
    let named = || format!("cannot write {}", path.display());
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path).with_context(named)?;
    let mut out = BufWriter::with_capacity(64 << 10, file);
    let Tally { events, lost } = write(place.events(1, "salvage")?, &mut out).with_context(named)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error).with_context(named)?;
    file.sync_all().with_context(named)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|folder| folder.sync_all()).with_context(named)?;
    exit::say(format_args!("{events} events rescued to {}, {lost} lost", path.display()));
    Ok(if lost == 0 { Exit::Success } else { Exit::Failure })
}

#[derive(Default)]
struct Tally {
    events: u64,
    lost: u64,
}

/// Writes a line for each event, and for each gap its record; gaps are told on standard error, too.
fn write(events: SpooledEvents, out: &mut impl Write) -> Result<Tally> {
    let mut tally = Tally::default();
    for event in events {
        match event? {
            SpooledEvent::Event { json, .. } => {
                tally.events += 1;
                out.write_all(json.as_bytes())?;
            }
            SpooledEvent::Lost { damage, gap_record } => {
                tally.lost += damage.range.last - damage.range.first + 1;
                exit::say(format_args!("{}", lost(&damage)));
                out.write_all(gap_record.as_bytes())?;
            }
        }
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(tally)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn remove(place: &Place, destination: &str, yes: bool) -> Result<Exit> {
    // From here on nobody else changes it. It is opened with limits that nothing in it exceeds.
    let options = Options { max_bytes: place.max_bytes.max(Options::default().max_bytes), ..Options::default() };
    let (spool, _) = Spool::open(&place.dir, options)?;
    let lags = spool.destinations();
    let Some(lag) = lags.iter().find(|lag| lag.destination == destination) else {
        let known: Vec<_> = lags.iter().map(|lag| &*lag.destination).collect();
        bail!("{} knows no destination {destination}, only {}", place.dir.display(), known.join(", "));
    };
    let given_up = match lag.records {
        0 => "nothing is outstanding there".to_owned(),
        events => {
            let (first, last) = (lag.acked + 1, lag.acked + events);
            format!("{} events that it has not confirmed, numbers {first} to {last}", HumanCount(events))
        }
    };
    if lag.records > 0 && !yes {
        exit::say(format_args!("{destination} would not get {given_up}; --yes gives them up"));
        return Ok(Exit::Usage);
    }
    let removed = spool.remove_destination(destination).and_then(|_| spool.close().map_err(io::Error::other));
    removed.with_context(|| format!("cannot remove {destination} from {}", place.dir.display()))?;
    match lag.records {
        0 => exit::say(format_args!("{destination} is removed; {given_up}")),
        _ => exit::say(format_args!("{destination} is removed and will not get {given_up}")),
    }
    Ok(Exit::Success)
}
