//! What opening does: judge what the last process left, and go on behind it.
//!
//! Nothing is changed before everything has been judged. Then no record is moved and no number is given twice: if the last segment's
//! end is not clean, a new segment is begun, and what is damaged before it is met by the readers like any other damage.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cursor::{self, Cursor, Slot};
use super::disk::{Disk, DiskFile, is_full};
use super::error::OpenError;
use super::format::{BadHeader, SEGMENT_HEADER, SegmentHeader, stamp_now};
use super::queue::Segment;
use super::scan::{Bounds, Scanner, Step, find_spool_id};
use super::segment::{self, Prepared};
use super::tail::LastSegment;
use super::{Recovery, SeqRange, Tail};

/// A spool, ready to go on.
pub(super) struct Recovered {
    pub(super) spool_id: u64,
    pub(super) segments: VecDeque<Segment>,
    /// The last segment, and the bytes it may grow to.
    pub(super) file: DiskFile,
    pub(super) size: u64,
    pub(super) next_seq: u64,
    pub(super) cursors: BTreeMap<String, Arc<Cursor>>,
}

/// Where segments are made, and how large.
pub(super) struct Place<'a> {
    pub(super) disk: &'a Disk,
    pub(super) dir: &'a Path,
    pub(super) segment_bytes: u64,
}

/// Cursors as they lie on the disk; `None` is a damaged one.
type Slots = BTreeMap<String, Option<Slot>>;

pub(super) fn recover(place: &Place<'_>, recovery: &mut Recovery) -> Result<Recovered, OpenError> {
    let dir = place.dir;
    let bases = segment::list(dir).map_err(OpenError::io(dir))?;
    let mut slots = read_cursors(dir)?;
    let Some(&last_base) = bases.last() else { return place.begin(&slots, recovery) };
    let last_path = segment::path(dir, last_base);
    let last_file = place.disk.open(&last_path).map_err(OpenError::io(&last_path))?;
    // The last process may have died of a failed sync. What counts is what the device has, not what the cache shows.
    last_file.sync().map_err(OpenError::io(&last_path))?;
    last_file.drop_cache();
    let headers = read_headers(dir, &bases)?;
    let spool_id = judge_ids(dir, &bases, &headers, &slots)?;
    let last_header = headers[headers.len() - 1];
    let last = LastSegment::judge(last_file, last_base, last_header, spool_id).map_err(OpenError::io(last_path))?;
    for slot in slots.values_mut() {
        *slot = slot.filter(|slot| slot.spool_id == spool_id);
    }
    recovery.missing = find_missing(dir, &bases, &headers, &slots, spool_id)?;

    // From here on the spool is changed.
    segment::remove_leftover(place.disk, dir).map_err(OpenError::io(dir))?;
    let mut segments = VecDeque::new();
    for &base in &bases[..bases.len() - 1] {
        let path = segment::path(dir, base);
        let bytes = fs::metadata(&path).map_err(OpenError::io(path))?.len();
        segments.push_back(Segment { base, bytes });
    }
    segments.push_back(Segment { base: last_base, bytes: last.end });
    // A destination never has more than was written: what it acknowledged was given a number.
    let acked = slots.values().flatten().map(|slot| slot.acked).max().unwrap_or(0);
    let next_seq = last.next_seq.max(acked + 1);
    let (file, size) = place.go_on(last, spool_id, next_seq, &mut segments, recovery)?;
    let cursors = open_cursors(place.disk, dir, &slots, spool_id, bases[0] - 1, recovery)?;
    (recovery.first_seq, recovery.next_seq) = (bases[0], next_seq);
    Ok(Recovered { spool_id, segments, file, size, next_seq, cursors })
}

impl Place<'_> {
    /// A spool without segments: a new one, or one whose segments someone has removed.
    fn begin(&self, slots: &Slots, recovery: &mut Recovery) -> Result<Recovered, OpenError> {
        let newest = slots.values().flatten().max_by_key(|slot| slot.acked);
        let spool_id = newest.map_or_else(|| fastrand::u64(1..), |slot| slot.spool_id);
        let next_seq = newest.map_or(1, |slot| slot.acked + 1);
        recovery.created = slots.is_empty();
        recovery.segments_gone = !slots.is_empty();
        segment::remove_leftover(self.disk, self.dir).map_err(OpenError::io(self.dir))?;
        let file = self.new_segment(spool_id, next_seq, 0)?;
        let cursors = open_cursors(self.disk, self.dir, slots, spool_id, next_seq - 1, recovery)?;
        (recovery.first_seq, recovery.next_seq) = (next_seq, next_seq);
        let segments = VecDeque::from([Segment { base: next_seq, bytes: SEGMENT_HEADER }]);
        Ok(Recovered { spool_id, segments, file, size: self.segment_bytes, next_seq, cursors })
    }

    fn new_segment(&self, spool_id: u64, base: u64, previous_base: u64) -> Result<DiskFile, OpenError> {
        let header = SegmentHeader { spool_id, base, previous_base, size: 0, stamp: stamp_now() };
        let make = || {
            let prepared = Prepared::new(self.disk, self.dir, self.segment_bytes)?;
            let file = prepared.name(self.disk, self.dir, header)?;
            self.disk.sync_dir(self.dir)?;
            Ok(file)
        };
        make().map_err(OpenError::io(segment::path(self.dir, base)))
    }

    /// Makes the last segment ready to be written, or begins a new one behind it. Gives it and the bytes it may grow to.
    fn go_on(
        &self,
        last: LastSegment,
        spool_id: u64,
        next_seq: u64,
        segments: &mut VecDeque<Segment>,
        recovery: &mut Recovery,
    ) -> Result<(DiskFile, u64), OpenError> {
        let size = last.header.map_or(0, |header| header.size);
        let size = if size == 0 { self.segment_bytes } else { size };
        if last.clean && next_seq == last.next_seq {
            return Ok((last.file, size));
        }
        let path = last.file.path.clone();
        let mut lost = last.lost.clone();
        if next_seq > last.next_seq {
            lost.push(SeqRange { first: last.next_seq, last: next_seq - 1 });
        }
        recovery.tail = Some(Tail {
            file: path.clone(),
            offset: last.end,
            torn_bytes: last.garbage_end - last.end,
            saved: self.save_torn(&last)?,
            header_damaged: last.header.is_none(),
            shortened_by: last.shortened_by,
            lost,
        });
        if next_seq == last.base {
            // It holds no record and gave no number: made blank, it is as good as new.
            self.renew(&last, spool_id).map_err(OpenError::io(path))?;
            return Ok((last.file, self.segment_bytes));
        }
        let file = match self.new_segment(spool_id, next_seq, last.base) {
            // The unused rest of the old segment makes room. A crash right now would make the next opening wonder about its length.
            Err(OpenError::Io { source, .. }) if is_full(&source) && last.file.set_len(last.end).is_ok() => {
                self.new_segment(spool_id, next_seq, last.base)?
            }
            made => made?,
        };
        // Only gives space back: the new segment's first number says already where the old one ends.
        let _ = last.file.set_len(last.end);
        segments.push_back(Segment { base: next_seq, bytes: SEGMENT_HEADER });
        Ok((file, self.segment_bytes))
    }

    fn renew(&self, last: &LastSegment, spool_id: u64) -> io::Result<()> {
        last.blank()?;
        let size = if last.file.allocate(self.segment_bytes)? { self.segment_bytes } else { 0 };
        let previous_base = last.header.map_or(0, |header| header.previous_base);
        let header = SegmentHeader { spool_id, base: last.base, previous_base, size, stamp: stamp_now() };
        last.file.write_all_at(&header.encode(), 0)?;
        last.file.sync()
    }

    /// Keeps what stands behind the last intact record for a person.
    fn save_torn(&self, last: &LastSegment) -> Result<Option<PathBuf>, OpenError> {
        if last.end == last.garbage_end {
            return Ok(None);
        }
        let path = self.dir.join(format!("torn-{:020}-{}.bin", last.base, last.end));
        let mut bytes = vec![0; (last.garbage_end - last.end) as usize];
        last.file.file.read_exact_at(&mut bytes, last.end).map_err(OpenError::io(&last.file.path))?;
        // A full disk must not keep the spool from opening for the sake of a torn record.
        Ok(self.disk.write_file(&path, &bytes).ok().map(|_| path))
    }
}

fn read_cursors(dir: &Path) -> Result<Slots, OpenError> {
    let mut slots = BTreeMap::new();
    for name in cursor::list(dir).map_err(OpenError::io(dir))? {
        let path = cursor::path(dir, &name);
        let slot = cursor::read(&path).map_err(OpenError::io(path))?;
        slots.insert(name, slot);
    }
    Ok(slots)
}

/// Opens each destination's cursor. One that is damaged, or another spool's, starts again at the oldest record: duplicates are
/// allowed, skipping is not.
fn open_cursors(
    disk: &Disk,
    dir: &Path,
    slots: &Slots,
    spool_id: u64,
    oldest: u64,
    recovery: &mut Recovery,
) -> Result<BTreeMap<String, Arc<Cursor>>, OpenError> {
    let mut cursors = BTreeMap::new();
    for (name, slot) in slots {
        let cursor = match slot {
            Some(slot) if slot.spool_id == spool_id => Cursor::open(disk, dir, name, *slot),
            _ => {
                recovery.cursors_reset.push(name.clone());
                Cursor::create(disk, dir, name, spool_id, oldest)
            }
        };
        let cursor = cursor.map_err(OpenError::io(cursor::path(dir, name)))?;
        cursors.insert(name.clone(), Arc::new(cursor));
    }
    Ok(cursors)
}

/// Reads each segment's header; `None` is a damaged one. The records behind it stand for themselves.
fn read_headers(dir: &Path, bases: &[u64]) -> Result<Vec<Option<SegmentHeader>>, OpenError> {
    let read = |&base: &u64| {
        let path = segment::path(dir, base);
        let read = || segment::read_header(&File::open(&path)?);
        match read().map_err(OpenError::io(&path))?.as_ref().map(SegmentHeader::decode) {
            Some(Ok(header)) => Ok(Some(header)),
            Some(Err(BadHeader::Unknown { version, flags })) => Err(OpenError::Version { file: path, version, flags }),
            Some(Err(BadHeader::Damaged)) | None => Ok(None),
        }
    };
    bases.iter().map(read).collect()
}

/// The spool's id, on which all headers must agree. Where none is left, a cursor knows it, or a group.
fn judge_ids(dir: &Path, bases: &[u64], headers: &[Option<SegmentHeader>], slots: &Slots) -> Result<u64, OpenError> {
    let corrupt = |base, why| OpenError::Corrupt { file: segment::path(dir, base), offset: 0, why };
    let mut id = None;
    for (&base, header) in bases.iter().zip(headers) {
        let Some(header) = header else { continue };
        if header.base != base {
            return Err(corrupt(base, "its name and its header disagree about its first record"));
        }
        if *id.get_or_insert(header.spool_id) != header.spool_id {
            return Err(corrupt(base, "it belongs to another spool than the segment before it"));
        }
    }
    if let Some(id) = id.or_else(|| slots.values().flatten().map(|slot| slot.spool_id).next()) {
        return Ok(id);
    }
    for &base in bases {
        let path = segment::path(dir, base);
        if let Some(id) = File::open(&path).and_then(find_spool_id).map_err(OpenError::io(path))? {
            return Ok(id);
        }
    }
    Err(corrupt(bases[0], "neither its header nor any group in it is intact"))
}

/// Names what no segment holds. Readers find it too; this is for the one who opens.
fn find_missing(
    dir: &Path,
    bases: &[u64],
    headers: &[Option<SegmentHeader>],
    slots: &Slots,
    spool_id: u64,
) -> Result<Vec<SeqRange>, OpenError> {
    let mut missing = Vec::new();
    let acked = slots.values().flatten().map(|slot| slot.acked).min();
    if let Some(acked) = acked
        && acked + 1 < bases[0]
    {
        missing.push(SeqRange { first: acked + 1, last: bases[0] - 1 });
    }
    // What every destination has acknowledged is nobody's loss: a deleted segment can come back with a power cut, and then there is a
    // gap behind it.
    let acked = acked.unwrap_or(0);
    for (pair, header) in bases.windows(2).zip(&headers[1..]) {
        if header.is_none_or(|header| header.previous_base == pair[0]) || pair[1] <= acked + 1 {
            continue;
        }
        let path = segment::path(dir, pair[0]);
        let next = end_of(&path, pair[0], pair[1], spool_id).map_err(OpenError::io(&path))?;
        if next < pair[1] {
            missing.push(SeqRange { first: next.max(acked + 1), last: pair[1] - 1 });
        }
    }
    Ok(missing)
}

/// One more than the last number that a segment holds.
fn end_of(path: &Path, base: u64, ceiling: u64, spool_id: u64) -> io::Result<u64> {
    let file = File::open(path)?;
    let bounds = Bounds { limit: file.metadata()?.len(), promised: base, ceiling };
    let mut scanner = Scanner::new(file, spool_id, base, base, bounds);
    while scanner.step()? != Step::End {}
    Ok(scanner.next_seq())
}
