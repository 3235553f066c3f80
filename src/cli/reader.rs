//! Audit events from files and standard input to a streamer: what is no event is told with file and line, and hinders nothing else.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};
use auditwire::{AuditEvent, AuditStreamer, Submission};

use super::documents::{self, Document, Flow, Mark, Source};
use super::progress::Progress;
use super::resume::{Positions, Start};

/// Most events that are handed over together.
const MOST_AT_ONCE: usize = 256;

/// Most groups of events that wait for the spool's device at a time. They share syncs, and the next one is read meanwhile.
const MOST_UNDER_WAY: usize = 8;

/// OCSF adds this much to an event, and may say again what it says, so often at most.
const OCSF_BYTES: usize = 4096;
const OCSF_FACTOR: usize = 4;

/// What has been read, for whoever looks on.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) read: AtomicU64,
    pub(crate) malformed: AtomicU64,
    /// The reader is waiting for room.
    pub(crate) blocked: AtomicBool,
    /// There was more to read when it stopped, and `--strict` was not why.
    pub(crate) cut_short: AtomicBool,
}

pub(crate) struct Reader {
    pub(crate) streamer: AuditStreamer,
    pub(crate) counts: Arc<Counts>,
    pub(crate) progress: Progress,
    pub(crate) rejects: Option<Rejects>,
    pub(crate) strict: bool,
    /// Bytes of OCSF that may be accepted together. 0: every event by itself, which costs nothing without a spool.
    pub(crate) bytes_at_once: usize,
    /// For `--resume`.
    pub(crate) positions: Option<Positions>,
    /// The source that is being read.
    pub(crate) file: String,
    pub(crate) batch: Batch,
    /// Groups that have been handed over, the oldest first.
    pub(crate) under_way: VecDeque<(Batch, Submission)>,
    /// The last number given.
    pub(crate) sequence: u64,
}

/// Events that are handed over together.
#[derive(Default)]
pub(crate) struct Batch {
    events: Vec<AuditEvent>,
    /// The line of each.
    lines: Vec<u64>,
    /// About as many bytes as they take.
    bytes: usize,
    /// Where the last of them ends.
    end: Mark,
}

/// The sources that were named, or standard input.
///
/// # Errors
/// One of them is not there: better said before the others are sent than in the middle.
pub(crate) fn sources(files: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    for path in files.iter().filter(|path| !documents::is_stdin(path)) {
        let kind = std::fs::metadata(path).map(|file| file.is_dir());
        if kind.with_context(|| format!("cannot read {}", path.display()))? {
            bail!("cannot read {}: it is a directory", path.display());
        }
    }
    Ok(if files.is_empty() { vec![PathBuf::from("-")] } else { files })
}

impl Reader {
    /// Reads all sources to their ends. What it holds in `positions` afterwards is still to be synced.
    ///
    /// # Errors
    /// A source cannot be read, an event is not accepted for a reason that is not its own, or the rejects cannot be kept.
    pub(crate) fn read(&mut self, sources: &[PathBuf]) -> Result<()> {
        let read = self.read_each(sources);
        // What is under way gets there, whatever ended the reading.
        let mut settled = Ok(ControlFlow::Continue(()));
        while settled.is_ok() && !self.under_way.is_empty() {
            settled = self.settle_oldest();
        }
        read.and(settled.map(drop))
    }

    fn read_each(&mut self, sources: &[PathBuf]) -> Result<()> {
        for path in sources {
            let source = Source::open(path)?;
            let from = self.start(&source).with_context(|| format!("cannot resume {}", path.display()))?;
            self.file.clone_from(&source.name);
            let flow = source.read(from, &mut |document| self.take(document))?;
            if flow.is_break() || self.finish()?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Where to begin with a source.
    fn start(&mut self, source: &Source) -> Result<Mark> {
        let (Some(positions), Some(file)) = (&mut self.positions, &source.file) else { return Ok(Mark::default()) };
        match positions.turn_to(file)? {
            Start::Beginning => Ok(Mark::default()),
            Start::At(mark) => Ok(mark),
            Start::Anew(why) => {
                let name = &source.name;
                self.progress.say(format_args!("{name}: {why} since it was sent; it is sent from its beginning"));
                Ok(Mark::default())
            }
        }
    }

    fn take(&mut self, document: &Document<'_>) -> Flow<anyhow::Error> {
        if document.goes_on {
            return self.keep(document.raw, b"").map(ControlFlow::Continue);
        }
        let event = match parse(document) {
            Ok(event) => event,
            Err(_) if document.unfinished && self.positions.is_some() => {
                self.progress.say(format_args!("{document}: this line has no end yet; it is left for the next time"));
                return Ok(ControlFlow::Continue(()));
            }
            Err(why) => {
                self.counts.read.fetch_add(1, Ordering::Relaxed);
                return self.reject(document, &why);
            }
        };
        self.counts.read.fetch_add(1, Ordering::Relaxed);
        let bytes = document.raw.len() * OCSF_FACTOR + OCSF_BYTES;
        if bytes > self.bytes_at_once {
            return self.take_alone(&event, document);
        }
        if self.batch.bytes + bytes > self.bytes_at_once && self.hand_over()?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        self.batch.events.push(event);
        self.batch.lines.push(document.line);
        self.batch.bytes += bytes;
        self.batch.end = document.end;
        if document.last_for_now {
            self.finish()
        } else if self.batch.events.len() == MOST_AT_ONCE {
            self.hand_over()
        } else {
            Ok(ControlFlow::Continue(()))
        }
    }

    /// Has an event accepted by itself, while its text is at hand.
    fn take_alone(&mut self, event: &AuditEvent, document: &Document<'_>) -> Flow<anyhow::Error> {
        if self.finish()?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        match self.waiting(|this| this.streamer.emit(event)) {
            Err(error) if error.is_too_large() => self.reject(document, &error.to_string()),
            accepted => self.accepted(accepted.map(|receipt| receipt.sequence), document.line, document.end),
        }
    }

    /// Hands the batch over, and waits for the oldest one under way when there are too many.
    fn hand_over(&mut self) -> Flow<anyhow::Error> {
        let batch = std::mem::take(&mut self.batch);
        let Some(line) = batch.lines.first() else { return Ok(ControlFlow::Continue(())) };
        match self.waiting(|this| this.streamer.submit_all(&batch.events)) {
            // One of the events is too large, or all of them are together, against all estimates.
            Err(error) if error.is_too_large() => self.take_each(&batch),
            Err(error) => self.accepted(Err(error), *line, batch.end),
            Ok(submission) => {
                self.under_way.push_back((batch, submission));
                self.settle_some()
            }
        }
    }

    /// Settles what has arrived, so that a kill costs little, and waits for the oldest batch if there are too many.
    fn settle_some(&mut self) -> Flow<anyhow::Error> {
        let durable = self.streamer.durable_sequence().unwrap_or(0);
        while let Some((_, oldest)) = self.under_way.front()
            && (oldest.last_sequence() <= durable || self.under_way.len() > MOST_UNDER_WAY)
        {
            if self.settle_oldest()?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Hands over what is held, and waits until all of it is accepted.
    fn finish(&mut self) -> Flow<anyhow::Error> {
        let mut flow = self.hand_over()?;
        while flow.is_continue() && !self.under_way.is_empty() {
            flow = self.settle_oldest()?;
        }
        Ok(flow)
    }

    fn settle_oldest(&mut self) -> Flow<anyhow::Error> {
        let Some((batch, submission)) = self.under_way.pop_front() else { return Ok(ControlFlow::Continue(())) };
        let accepted = self.waiting(|this| match submission.wait() {
            // The disk had no room. Emitting waits for it.
            Err(error) if error.is_full() => {
                let receipts = this.streamer.emit_all(&batch.events)?;
                Ok(receipts.last().map_or(0, |receipt| receipt.sequence))
            }
            accepted => accepted.map(|first| first + batch.events.len() as u64 - 1),
        });
        if accepted.is_err() {
            // Those behind may be accepted all the same, but a position behind them would pass over these.
            for (_, behind) in std::mem::take(&mut self.under_way) {
                let _ = behind.wait();
            }
        }
        self.accepted(accepted, batch.lines[0], batch.end)
    }

    fn take_each(&mut self, batch: &Batch) -> Flow<anyhow::Error> {
        if self.finish()?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        for (event, line) in batch.events.iter().zip(&batch.lines) {
            match self.waiting(|this| this.streamer.emit(event)) {
                Ok(receipt) => self.sequence = receipt.sequence,
                Err(error) if error.is_too_large() => {
                    let text = serde_json::to_vec(event)?;
                    if self.complain(&format!("{}:{line}", self.file), &text, &error.to_string())?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Err(error) => return self.accepted(Err(error), *line, batch.end),
            }
        }
        self.remember(batch.end)?;
        Ok(ControlFlow::Continue(()))
    }

    /// Everything up to a number has been accepted, and with it the input from a line on up to a place.
    fn accepted(&mut self, last: Result<u64, auditwire::Error>, line: u64, end: Mark) -> Flow<anyhow::Error> {
        match last {
            Ok(last) => {
                self.sequence = last;
                self.remember(end)?;
                Ok(ControlFlow::Continue(()))
            }
            // The end has come while these events waited: they are not among the accepted.
            Err(error) if error.is_closed() => Ok(ControlFlow::Break(())),
            Err(error) => Err(error).with_context(|| format!("{}:{line}", self.file)),
        }
    }

    /// Runs what may wait for room or for the device.
    fn waiting<T>(&self, work: impl FnOnce(&Self) -> T) -> T {
        self.counts.blocked.store(true, Ordering::Relaxed);
        let result = work(self);
        self.counts.blocked.store(false, Ordering::Relaxed);
        result
    }

    fn reject(&mut self, document: &Document<'_>, why: &str) -> Flow<anyhow::Error> {
        // What came before is accepted before, so that a position says the same of all.
        if self.finish()?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let flow = self.complain(&document.to_string(), document.raw, why)?;
        self.remember(document.end)?;
        Ok(flow)
    }

    fn complain(&mut self, place: &str, text: &[u8], why: &str) -> Flow<anyhow::Error> {
        self.counts.malformed.fetch_add(1, Ordering::Relaxed);
        let stop = if self.strict { "; stopped here (--strict)" } else { "" };
        self.progress.say(format_args!("{place}: {why}{stop}"));
        self.keep(text, b"\n")?;
        Ok(if self.strict { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn keep(&mut self, text: &[u8], end: &[u8]) -> Result<()> {
        match &mut self.rejects {
            Some(rejects) => rejects.keep(text, end),
            None => Ok(()),
        }
    }

    /// Everything up to a place has been taken.
    fn remember(&mut self, end: Mark) -> Result<()> {
        let Some(positions) = &mut self.positions else { return Ok(()) };
        // What the position passes over has to be on the device, too.
        if let Some(rejects) = &mut self.rejects {
            rejects.sync()?;
        }
        positions.accepted(end, self.sequence);
        positions.write(self.streamer.durable_sequence().unwrap_or(0)).context("cannot remember how far input was read")
    }
}

fn parse(document: &Document<'_>) -> Result<AuditEvent, String> {
    let text = document.text.as_ref().map_err(Clone::clone)?;
    serde_json::from_str(text).map_err(|error| {
        let mut why = error.to_string();
        // The line is said already; serde_json counts lines within the text it was given.
        why.truncate(why.rfind(" at line ").unwrap_or(why.len()));
        if document.end.in_array || text.contains('\n') {
            return why;
        }
        let not_json = if error.is_data() { "" } else { "not JSON: " };
        let hint = if error.is_eof() { "; an event is one line" } else { "" };
        format!("{not_json}{why} (column {}){hint}", error.column())
    })
}

/// The file of `--rejects`.
pub(crate) struct Rejects {
    path: PathBuf,
    file: File,
    dirty: bool,
}

impl Rejects {
    /// Opens it for appending.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file, dirty: false })
    }

    fn keep(&mut self, text: &[u8], end: &[u8]) -> Result<()> {
        self.dirty = true;
        let written = self.file.write_all(text).and_then(|()| self.file.write_all(end));
        self.named(written)
    }

    fn sync(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.dirty) {
            return Ok(());
        }
        let synced = match self.file.sync_data() {
            // A pipe or terminal has nothing to sync.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            synced => synced,
        };
        self.named(synced)
    }

    fn named(&self, result: io::Result<()>) -> Result<()> {
        result.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use auditwire::config::{Config, Destination, DestinationKind, Spool, Webhook};
    use auditwire::{EventOutcome, new_audit_event};

    use super::*;

    struct Mounted<'a>(&'a Path);

    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(self.0).status();
        }
    }

    /// A group finds the disk full, one behind it finds room again, and then comes the end: what is remembered must not pass over
    /// the first.
    #[test]
    fn a_position_does_not_pass_over_a_group_that_was_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (disk, input) = (folder.path().join("tmpfs"), folder.path().join("in.jsonl"));
        std::fs::create_dir(&disk).unwrap();
        std::fs::write(&input, "x".repeat(1000)).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&disk).output();
        if !mounted.as_ref().is_ok_and(|output| output.status.success()) {
            return eprintln!("skipped: a tmpfs can only be mounted by root ({mounted:?})");
        }
        let _mounted = Mounted(&disk);
        let dir = disk.join("spool");
        let webhook = DestinationKind::Webhook(Webhook::new("http://127.0.0.1:9/"));
        let config = Config {
            destinations: vec![Destination { name: "down".into(), kind: webhook }],
            max_event_bytes: 64 << 10,
            spool: Some(Spool { max_bytes: 1 << 20, ..Spool::new(&dir) }),
            ..Config::default()
        };
        let streamer = AuditStreamer::builder(config).on_notice(|_| ()).start().unwrap();
        let events = vec![new_audit_event("policy_decision", "Run", EventOutcome::Permit); 20];
        let group = |end: u64| {
            let end = Mark { offset: end, lines: end, in_array: false };
            let batch = Batch { events: events.clone(), lines: vec![1; events.len()], bytes: 0, end };
            let submission = streamer.submit_all(&batch.events).unwrap();
            (batch, submission)
        };

        let ballast = disk.join("ballast");
        let filled = std::fs::write(&ballast, vec![0; 8 << 20]);
        assert_eq!(filled.unwrap_err().kind(), io::ErrorKind::StorageFull);
        // Until the segments that are there already are full, too.
        while group(0).1.wait().is_ok() {}
        let refused = group(100);
        assert!(group(0).1.wait().is_err_and(|error| error.is_full()), "and so is the one before it");
        std::fs::remove_file(&ballast).unwrap();
        let behind = group(200);
        assert!(streamer.shutdown_blocking(std::time::Duration::ZERO).is_err());

        let mut positions = Positions::new(&dir);
        assert_eq!(positions.turn_to(&File::open(&input).unwrap()).unwrap(), Start::Beginning);
        let mut reader = Reader {
            streamer: streamer.clone(),
            counts: Arc::default(),
            progress: Progress::new(false),
            rejects: None,
            strict: false,
            bytes_at_once: 1 << 20,
            positions: Some(positions),
            file: "in.jsonl".into(),
            batch: Batch::default(),
            under_way: VecDeque::from([refused, behind]),
            sequence: 0,
        };
        reader.read(&[]).unwrap();
        assert!(reader.under_way.is_empty());
        let start = Positions::new(&dir).turn_to(&File::open(&input).unwrap()).unwrap();
        assert_eq!(start, Start::Beginning, "the refused group is read again");
    }
}
