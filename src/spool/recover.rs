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
use super::disk::{Disk, DiskFile};
use super::error::OpenError;
use super::format::{ANSWERED_EARLY, BadHeader, RECORD_HEADER, SEGMENT_HEADER, SegmentHeader, stamp_now};
use super::queue::Segment;
use super::scan::{Bounds, Scanner, Step};
use super::segment::{self, Prepared};
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

/// What a segment of a spool is made with.
pub(super) struct Making<'a> {
    pub(super) disk: &'a Disk,
    pub(super) dir: &'a Path,
    pub(super) segment_bytes: u64,
}

/// What was found in the last segment.
struct LastSegment {
    file: DiskFile,
    header: SegmentHeader,
    len: u64,
    /// Behind the last intact record.
    end: u64,
    /// One more than the highest number that was given.
    next_seq: u64,
    /// The bytes behind `end` that are not zero, and all before them.
    garbage: u64,
    lost: Vec<SeqRange>,
    clean: bool,
}

pub(super) fn recover(making: &Making<'_>, recovery: &mut Recovery) -> Result<Recovered, OpenError> {
    let dir = making.dir;
    let bases = segment::list(dir).map_err(OpenError::io(dir))?;
    let slots = read_cursors(dir)?;
    let Some((&last_base, sealed)) = bases.split_last() else { return begin(making, &slots, recovery) };
    let last = judge_last(making.disk, dir, last_base)?;
    let spool_id = last.header.spool_id;
    let headers = judge_sealed(dir, sealed, spool_id)?;
    let ours = |slot: &Option<Slot>| slot.filter(|slot| slot.spool_id == spool_id);
    find_missing(dir, &bases, &headers, &last.header, slots.values().filter_map(ours), recovery)?;

    // From here on the spool is changed.
    segment::remove_leftover(making.disk, dir).map_err(OpenError::io(dir))?;
    let mut segments = VecDeque::new();
    for &base in sealed {
        let path = segment::path(dir, base);
        let bytes = fs::metadata(&path).map_err(OpenError::io(path))?.len();
        segments.push_back(Segment { base, bytes });
    }
    let acked = slots.values().filter_map(ours).map(|slot| slot.acked).max().unwrap_or(0);
    let (file, size, next_seq) = go_on(making, last, acked + 1, &mut segments, recovery)?;
    let cursors = open_cursors(making.disk, dir, &slots, spool_id, bases[0] - 1, recovery)?;
    recovery.first_seq = bases[0];
    recovery.next_seq = next_seq;
    Ok(Recovered { spool_id, segments, file, size, next_seq, cursors })
}

/// A spool without segments: a new one, or one whose segments someone has removed.
fn begin(
    making: &Making<'_>,
    slots: &BTreeMap<String, Option<Slot>>,
    recovery: &mut Recovery,
) -> Result<Recovered, OpenError> {
    let newest = slots.values().flatten().max_by_key(|slot| slot.acked);
    let spool_id = newest.map_or_else(|| fastrand::u64(1..), |slot| slot.spool_id);
    let next_seq = newest.map_or(1, |slot| slot.acked + 1);
    recovery.created = slots.is_empty();
    recovery.segments_gone = !slots.is_empty();
    segment::remove_leftover(making.disk, making.dir).map_err(OpenError::io(making.dir))?;
    let header = SegmentHeader { spool_id, base: next_seq, previous_base: 0, size: 0, stamp: stamp_now() };
    let file = new_segment(making, header)?;
    let cursors = open_cursors(making.disk, making.dir, slots, spool_id, next_seq - 1, recovery)?;
    (recovery.first_seq, recovery.next_seq) = (next_seq, next_seq);
    let segments = VecDeque::from([Segment { base: next_seq, bytes: SEGMENT_HEADER }]);
    Ok(Recovered { spool_id, segments, file, size: making.segment_bytes, next_seq, cursors })
}

fn new_segment(making: &Making<'_>, header: SegmentHeader) -> Result<DiskFile, OpenError> {
    let make = || {
        let prepared = Prepared::new(making.disk, making.dir, making.segment_bytes)?;
        let file = prepared.name(making.disk, making.dir, header)?;
        making.disk.sync_dir(making.dir)?;
        Ok(file)
    };
    make().map_err(OpenError::io(segment::path(making.dir, header.base)))
}

fn read_cursors(dir: &Path) -> Result<BTreeMap<String, Option<Slot>>, OpenError> {
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
    slots: &BTreeMap<String, Option<Slot>>,
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

/// Sealed segments are not read, only recognised: their records are checked when they are read. Gives the headers that are intact.
fn judge_sealed(dir: &Path, bases: &[u64], spool_id: u64) -> Result<Vec<Option<SegmentHeader>>, OpenError> {
    let mut headers = Vec::new();
    for &base in bases {
        let path = segment::path(dir, base);
        let file = File::open(&path).map_err(OpenError::io(&path))?;
        let bytes = segment::read_header(&file).map_err(OpenError::io(&path))?;
        headers.push(match bytes.as_ref().map(SegmentHeader::decode) {
            Some(Ok(header)) => {
                belongs(&header, &path, base, spool_id)?;
                Some(header)
            }
            Some(Err(BadHeader::Unknown { version, flags })) => {
                return Err(OpenError::Version { file: path, version, flags });
            }
            // Its records stand for themselves.
            Some(Err(BadHeader::Damaged)) | None => None,
        });
    }
    Ok(headers)
}

fn belongs(header: &SegmentHeader, path: &Path, base: u64, spool_id: u64) -> Result<(), OpenError> {
    let corrupt = |why| Err(OpenError::Corrupt { file: path.to_owned(), offset: 0, why });
    if header.base != base {
        return corrupt("its name says another first record than its header");
    }
    if header.spool_id != spool_id {
        return corrupt("it belongs to another spool");
    }
    Ok(())
}

/// Names what no segment holds. Readers find it too; this is for the one who opens.
fn find_missing(
    dir: &Path,
    bases: &[u64],
    sealed: &[Option<SegmentHeader>],
    last: &SegmentHeader,
    cursors: impl Iterator<Item = Slot>,
    recovery: &mut Recovery,
) -> Result<(), OpenError> {
    if let Some(acked) = cursors.map(|slot| slot.acked).min()
        && acked + 1 < bases[0]
    {
        recovery.missing.push(SeqRange { first: acked + 1, last: bases[0] - 1 });
    }
    let headers = sealed.iter().copied().chain([Some(*last)]);
    for (pair, header) in bases.windows(2).zip(headers.skip(1)) {
        if header.is_none_or(|header| header.previous_base == pair[0]) {
            continue;
        }
        let path = segment::path(dir, pair[0]);
        let next = end_of(&path, pair[0], pair[1], last.spool_id).map_err(OpenError::io(&path))?;
        if next < pair[1] {
            recovery.missing.push(SeqRange { first: next, last: pair[1] - 1 });
        }
    }
    Ok(())
}

/// One more than the last number that a segment holds.
fn end_of(path: &Path, base: u64, ceiling: u64, spool_id: u64) -> io::Result<u64> {
    let file = File::open(path)?;
    let bounds = Bounds { limit: file.metadata()?.len(), promised: base, ceiling };
    let mut scanner = Scanner::new(file, spool_id, base, base, bounds);
    while scanner.step()? != Step::End {}
    Ok(scanner.next_seq())
}

fn judge_last(disk: &Disk, dir: &Path, base: u64) -> Result<LastSegment, OpenError> {
    let path = segment::path(dir, base);
    let file = disk.open(&path).map_err(OpenError::io(&path))?;
    // The last process may have died of a failed sync. What counts is what the device has, not what the cache shows.
    file.sync().map_err(OpenError::io(&path))?;
    file.drop_cache();
    let read = || -> io::Result<_> { Ok((file.file.metadata()?.len(), segment::read_header(&file.file)?)) };
    let (len, bytes) = read().map_err(OpenError::io(&path))?;
    let header = match bytes.as_ref().map(SegmentHeader::decode) {
        Some(Ok(header)) => header,
        Some(Err(BadHeader::Unknown { version, flags })) => {
            return Err(OpenError::Version { file: path, version, flags });
        }
        Some(Err(BadHeader::Damaged)) | None => {
            let why = "the last segment's header is damaged, so its end cannot be trusted";
            return Err(OpenError::Corrupt { file: path, offset: 0, why });
        }
    };
    belongs(&header, &path, base, header.spool_id)?;
    walk_last(file, header, len).map_err(OpenError::io(path))
}

fn walk_last(file: DiskFile, header: SegmentHeader, len: u64) -> io::Result<LastSegment> {
    let base = header.base;
    let bounds = Bounds { limit: len, promised: base, ceiling: base + len / RECORD_HEADER + 1 };
    let mut scanner = Scanner::new(file.file.try_clone()?, header.spool_id, base, base, bounds);
    let mut lost = Vec::new();
    let mut clean = len >= header.size;
    loop {
        match scanner.step()? {
            Step::Record { .. } => {}
            Step::Lost { first, last, .. } => {
                lost.push(SeqRange { first, last });
                clean = false;
            }
            Step::Noise { .. } => clean = false,
            Step::End => break,
        }
    }
    let end = scanner.intact_end();
    let mut next_seq = scanner.next_seq();
    let group_end = scanner.group().map_or(base, |group| group.first_seq + u64::from(group.count));
    if group_end > next_seq {
        clean = false;
        // The group is torn. Its numbers have reached nobody if they wait for the sync, and the file is as long as it was made.
        let answered_early = scanner.group().is_some_and(|group| group.flags & ANSWERED_EARLY != 0);
        if answered_early || len < header.size {
            lost.push(SeqRange { first: next_seq, last: group_end - 1 });
            next_seq = group_end;
        }
    }
    let garbage = last_byte(&file.file, end, len)?;
    Ok(LastSegment { file, header, len, end, next_seq, garbage, lost, clean: clean && garbage == end })
}

/// Behind the last byte that is not zero.
fn last_byte(file: &File, from: u64, to: u64) -> io::Result<u64> {
    let mut chunk = vec![0; 256 << 10];
    let mut end = from;
    let mut at = from;
    while at < to {
        let part = &mut chunk[..(to - at).min(256 << 10) as usize];
        file.read_exact_at(part, at)?;
        if let Some(last) = part.iter().rposition(|&byte| byte != 0) {
            end = at + last as u64 + 1;
        }
        at += part.len() as u64;
    }
    Ok(end)
}

/// Makes the last segment ready to be written, or begins a new one behind it. Gives it, its size and the next number.
fn go_on(
    making: &Making<'_>,
    last: LastSegment,
    at_least: u64,
    segments: &mut VecDeque<Segment>,
    recovery: &mut Recovery,
) -> Result<(DiskFile, u64, u64), OpenError> {
    let path = last.file.path.clone();
    let mut lost = last.lost;
    let next_seq = last.next_seq.max(at_least);
    if next_seq > last.next_seq {
        lost.push(SeqRange { first: last.next_seq, last: next_seq - 1 });
    }
    let clean = last.clean && next_seq == last.next_seq;
    segments.push_back(Segment { base: last.header.base, bytes: last.end });
    if !clean {
        let saved = save_torn(making, &last.file, last.header.base, last.end, last.garbage)?;
        recovery.tail = Some(Tail {
            file: path.clone(),
            offset: last.end,
            torn_bytes: last.garbage - last.end,
            saved,
            shortened_by: last.header.size.saturating_sub(last.len),
            lost,
        });
        if next_seq != last.header.base {
            let header = SegmentHeader {
                spool_id: last.header.spool_id,
                base: next_seq,
                previous_base: last.header.base,
                size: 0,
                stamp: stamp_now(),
            };
            let file = new_segment(making, header)?;
            // Only gives space back: the new segment's first number says already where the old one ends.
            let _ = last.file.set_len(last.end);
            segments.push_back(Segment { base: next_seq, bytes: SEGMENT_HEADER });
            return Ok((file, making.segment_bytes, next_seq));
        }
        // It holds no record and gave no number: blank, it is as good as new.
        blank(&last.file, last.end, last.garbage, last.header.size).map_err(OpenError::io(&path))?;
    }
    let size = if last.header.size == 0 { making.segment_bytes } else { last.header.size };
    Ok((last.file, size, next_seq))
}

/// Keeps what is cut off for the operator.
fn save_torn(
    making: &Making<'_>,
    file: &DiskFile,
    base: u64,
    from: u64,
    to: u64,
) -> Result<Option<PathBuf>, OpenError> {
    if from == to {
        return Ok(None);
    }
    let path = making.dir.join(format!("torn-{base:020}-{from}.bin"));
    let mut bytes = vec![0; (to - from) as usize];
    file.file.read_exact_at(&mut bytes, from).map_err(OpenError::io(&file.path))?;
    // A full disk must not keep the spool from opening for the sake of a torn record.
    Ok(making.disk.write_file(&path, &bytes).ok().map(|_| path))
}

fn blank(file: &DiskFile, from: u64, to: u64, size: u64) -> io::Result<()> {
    const ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut at = from;
    while at < to {
        let len = (to - at).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..len as usize], at)?;
        at += len;
    }
    if size > 0 {
        file.allocate(size)?;
    }
    file.sync()
}
