//! Looking into a spool's folder without opening it: read-only, without the lock, while another process may be at work in it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::format::{RECORD_HEADER, SegmentHeader};
use super::reader::{Damage, Item};
use super::scan::{Bounds, Scanner, Step, find_spool_id};
use super::{Lag, SeqRange, cursor, place, segment};

/// A spool as it lies on the disk.
#[derive(Debug)]
#[non_exhaustive]
pub struct Status {
    /// The spool's id; `None` when nothing tells it.
    pub id: Option<u64>,
    /// Process that has it open. Only Linux tells.
    pub open_in: Option<u32>,
    /// Number of the oldest record; the next one's when there is none.
    pub first_seq: u64,
    /// Number of the next record.
    pub next_seq: u64,
    /// Segments.
    pub segments: usize,
    /// Bytes in use in them.
    pub bytes: u64,
    /// What was cut off or quarantined and waits for a person.
    pub remains: Vec<PathBuf>,
    /// Who reads it.
    pub destinations: Vec<DestinationStatus>,
}

/// A destination as its cursor describes it.
#[derive(Debug)]
#[non_exhaustive]
pub struct DestinationStatus {
    /// How far behind it is.
    pub lag: Lag,
    /// Whether its cursor is damaged, or another spool's. It then starts again at the oldest record.
    pub cursor_damaged: bool,
    /// When the oldest record was written that it has not acknowledged.
    pub waiting_since: Option<SystemTime>,
}

/// What checking every record has shown.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Verified {
    /// Intact records.
    pub records: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Records that are gone.
    pub damage: Vec<Damage>,
    /// Bytes that mean nothing and cost no record: file, and where in it.
    pub noise: Vec<(PathBuf, Range<u64>)>,
    /// Segments whose header is damaged. Their records count all the same.
    pub headers_damaged: Vec<PathBuf>,
}

/// The records of a spool, intact ones and gaps, in order: to rescue what a refused spool holds, or to look at what waits.
///
/// On a live spool it may meet the group that is being written, whose records are not on the device yet.
pub struct Export {
    dir: PathBuf,
    spool_id: u64,
    bases: Vec<u64>,
    /// The segment in `bases` that is read, or would be next.
    index: usize,
    next: u64,
    scanner: Option<Scanner>,
    noise: Vec<(PathBuf, Range<u64>)>,
    headers_damaged: Vec<PathBuf>,
}

impl Export {
    /// The records from `from` on; from the oldest one if that is newer.
    ///
    /// # Errors
    /// The folder cannot be read. Nothing in it tells which spool it is: [`io::ErrorKind::InvalidData`].
    pub fn new(dir: impl AsRef<Path>, from: u64) -> io::Result<Self> {
        let dir = dir.as_ref().to_owned();
        let bases = segment::list(&dir)?;
        let mut headers_damaged = Vec::new();
        for &base in &bases {
            if header(&dir, base)?.is_none() {
                headers_damaged.push(segment::path(&dir, base));
            }
        }
        let spool_id = spool_id(&dir, &bases)?;
        if spool_id.is_none() && !bases.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no header in this spool is intact"));
        }
        let next = from.max(bases.first().copied().unwrap_or(1));
        let index = bases.partition_point(|&base| base <= next).saturating_sub(1);
        Ok(Self {
            dir,
            spool_id: spool_id.unwrap_or(0),
            bases,
            index,
            next,
            scanner: None,
            noise: Vec::new(),
            headers_damaged,
        })
    }

    /// The next record, or what is missing; `None` at the end.
    ///
    /// # Errors
    /// The disk cannot be read now; it may be tried again.
    pub fn try_next(&mut self) -> io::Result<Option<Item<'_>>> {
        let (seq, payload) = loop {
            if self.scanner.is_none() && !self.open()? {
                return Ok(None);
            }
            let base = self.bases[self.index];
            let path = segment::path(&self.dir, base);
            match self.scanner.as_mut().expect("just opened").step()? {
                Step::Record { seq, payload } => {
                    self.next = seq + 1;
                    break (seq, payload);
                }
                Step::Lost { first, last, bytes } => {
                    self.next = last + 1;
                    let range = SeqRange { first, last };
                    return Ok(Some(Item::Damaged(Damage { range, file: Some(path), bytes, quarantine: None })));
                }
                Step::Noise { bytes } => self.noise.push((path, bytes)),
                Step::End => {
                    self.scanner = None;
                    self.index += 1;
                }
            }
        };
        let scanner = self.scanner.as_ref().expect("it gave the record");
        Ok(Some(Item::Record { seq, payload: scanner.payload(payload) }))
    }

    /// Number of the record that would come next.
    pub fn position(&self) -> u64 {
        self.next
    }

    fn open(&mut self) -> io::Result<bool> {
        while let Some(&base) = self.bases.get(self.index) {
            let path = segment::path(&self.dir, base);
            let file = match File::open(&path) {
                Ok(file) => file,
                // It was reclaimed since we looked: all of it is acknowledged.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.index += 1;
                    self.next = self.bases.get(self.index).map_or(self.next, |&base| self.next.max(base));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let limit = file.metadata()?.len();
            // Where the last segment ends, only its records say.
            let end = self.bases.get(self.index + 1).copied();
            let bounds = Bounds {
                limit,
                promised: end.unwrap_or(base),
                ceiling: end.unwrap_or(base + limit / RECORD_HEADER + 1),
            };
            self.scanner = Some(Scanner::new(file, self.spool_id, base, self.next, bounds));
            return Ok(true);
        }
        Ok(false)
    }
}

fn header(dir: &Path, base: u64) -> io::Result<Option<SegmentHeader>> {
    match File::open(segment::path(dir, base)) {
        Ok(file) => Ok(segment::read_header(&file)?.and_then(|bytes| SegmentHeader::decode(&bytes).ok())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The spool's id: any header of a segment, cursor or group knows it.
fn spool_id(dir: &Path, bases: &[u64]) -> io::Result<Option<u64>> {
    for &base in bases {
        if let Some(header) = header(dir, base)? {
            return Ok(Some(header.spool_id));
        }
    }
    for name in cursor::list(dir)? {
        if let Some(slot) = cursor::read(&cursor::path(dir, &name))? {
            return Ok(Some(slot.spool_id));
        }
    }
    for &base in bases {
        if let Some(id) = find_spool_id(File::open(segment::path(dir, base))?)? {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// Checks every record of a spool.
///
/// # Errors
/// As [`Export::new`] and [`Export::try_next`].
pub fn verify(dir: impl AsRef<Path>) -> io::Result<Verified> {
    let mut export = Export::new(dir, 1)?;
    let mut verified = Verified::default();
    while let Some(item) = export.try_next()? {
        match item {
            Item::Record { payload, .. } => {
                verified.records += 1;
                verified.bytes += payload.len() as u64;
            }
            Item::Damaged(damage) => verified.damage.push(damage),
        }
    }
    Ok(Verified { noise: export.noise, headers_damaged: export.headers_damaged, ..verified })
}

/// Describes a spool.
///
/// # Errors
/// The folder cannot be read.
pub fn status(dir: impl AsRef<Path>) -> io::Result<Status> {
    let dir = dir.as_ref();
    let bases = segment::list(dir)?;
    let id = spool_id(dir, &bases)?;
    let mut segments = Vec::new();
    let mut next_seq = bases.first().copied().unwrap_or(1);
    for &base in &bases {
        let Ok(file) = File::open(segment::path(dir, base)) else { continue };
        let mut bytes = file.metadata()?.len();
        next_seq = base;
        if Some(&base) == bases.last() {
            let bounds = Bounds { limit: bytes, promised: base, ceiling: base + bytes / RECORD_HEADER + 1 };
            let mut scanner = Scanner::new(file, id.unwrap_or(0), base, base, bounds);
            while scanner.step()? != Step::End {}
            (next_seq, bytes) = (scanner.next_seq(), scanner.intact_end());
        }
        segments.push((base, bytes));
    }
    let mut destinations = Vec::new();
    for name in cursor::list(dir)? {
        let slot = cursor::read(&cursor::path(dir, &name)).ok().flatten();
        let slot = slot.filter(|slot| id.is_none_or(|id| slot.spool_id == id));
        let oldest = segments.first().map_or(0, |&(base, _)| base - 1);
        let lag = lag(&name, slot.map_or(oldest, |slot| slot.acked), &segments, next_seq);
        let holder = segments.iter().rfind(|&&(base, _)| base <= lag.acked + 1);
        let waiting_since = holder
            .filter(|_| lag.records > 0)
            .and_then(|&(base, bytes)| written_at(dir, id?, base, bytes, next_seq, lag.acked + 1));
        destinations.push(DestinationStatus { lag, cursor_damaged: slot.is_none(), waiting_since });
    }
    Ok(Status {
        id,
        open_in: place::locked_by(dir),
        first_seq: segments.first().map_or(next_seq, |&(base, _)| base),
        next_seq,
        segments: segments.len(),
        bytes: segments.iter().map(|&(_, bytes)| bytes).sum(),
        remains: remains(dir)?,
        destinations,
    })
}

fn remains(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut remains = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if (name.starts_with("torn-") || name.starts_with("damaged-")) && name.ends_with(".bin") {
            remains.push(path);
        }
    }
    remains.sort_unstable();
    Ok(remains)
}

/// `segments` are bases and bytes; `end` is the first number that is not there yet. Of a segment read in part, bytes are counted in
/// proportion.
pub(super) fn lag(name: &str, acked: u64, segments: &[(u64, u64)], end: u64) -> Lag {
    let mut bytes = 0;
    for (index, &(base, size)) in segments.iter().enumerate() {
        let next = segments.get(index + 1).map_or(end, |&(base, _)| base);
        let (all, left) = (next.saturating_sub(base), next.saturating_sub(base.max(acked + 1)));
        if let Some(share) = (u128::from(size) * u128::from(left)).checked_div(u128::from(all)) {
            bytes += share as u64;
        }
    }
    let records = end.saturating_sub(acked + 1);
    Lag { destination: name.to_owned(), acked, records, bytes }
}

/// When a record was written, as its group says.
pub(super) fn written_at(dir: &Path, id: u64, base: u64, bytes: u64, end: u64, seq: u64) -> Option<SystemTime> {
    let file = File::open(segment::path(dir, base)).ok()?;
    let bounds = Bounds { limit: bytes, promised: base, ceiling: end };
    let mut scanner = Scanner::new(file, id, base, seq, bounds);
    loop {
        match scanner.step().ok()? {
            Step::Record { .. } => break,
            Step::End => return None,
            Step::Lost { .. } | Step::Noise { .. } => {}
        }
    }
    scanner.group().map(|group| UNIX_EPOCH + Duration::from_millis(group.stamp))
}
