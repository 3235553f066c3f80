//! The end of the last segment: where the next record goes, and what stands in its way.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::SeqRange;
use super::disk::DiskFile;
use super::format::{ANSWERED_EARLY, RECORD_HEADER, SegmentHeader};
use super::scan::{Bounds, Scanner, Step};

const CHUNK: usize = 256 << 10;

/// What was found in the last segment.
pub(super) struct LastSegment {
    pub(super) file: DiskFile,
    pub(super) base: u64,
    /// `None` when it is damaged.
    pub(super) header: Option<SegmentHeader>,
    /// Bytes the file is shorter than it was made.
    pub(super) shortened_by: u64,
    /// Behind the last intact record.
    pub(super) end: u64,
    /// Behind the last byte that is not zero.
    pub(super) garbage_end: u64,
    /// One more than the highest number that was given.
    pub(super) next_seq: u64,
    /// Numbers that were given and are not there.
    pub(super) lost: Vec<SeqRange>,
    /// Whether it can be gone on with as it is.
    pub(super) clean: bool,
}

impl LastSegment {
    pub(super) fn judge(
        file: DiskFile,
        base: u64,
        header: Option<SegmentHeader>,
        spool_id: u64,
    ) -> io::Result<LastSegment> {
        let len = file.file.metadata()?.len();
        let shortened_by = header.map_or(0, |header| header.size.saturating_sub(len));
        let bounds = Bounds { limit: len, promised: base, ceiling: base + len / RECORD_HEADER + 1 };
        let mut scanner = Scanner::new(file.file.try_clone()?, spool_id, base, base, bounds);
        let mut lost = Vec::new();
        let mut clean = header.is_some() && shortened_by == 0;
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
        if let Some(group) = scanner.group().filter(|group| group.end() > next_seq) {
            clean = false;
            // The group is torn. While its appenders waited for the sync, and the file is as long as it was made, its numbers have
            // reached nobody.
            if group.flags & ANSWERED_EARLY != 0 || shortened_by > 0 {
                lost.push(SeqRange { first: next_seq, last: group.end() - 1 });
                next_seq = group.end();
            }
        }
        let garbage_end = last_byte(&file.file, end, len)?;
        clean &= garbage_end == end;
        Ok(LastSegment { file, base, header, shortened_by, end, garbage_end, next_seq, lost, clean })
    }

    /// Overwrites what stands behind the last intact record with zeros. The length stays what it was, so that a crash now is no
    /// worse than the one before.
    pub(super) fn blank(&self) -> io::Result<()> {
        let zeros = vec![0; CHUNK];
        let mut at = self.end;
        while at < self.garbage_end {
            let len = (self.garbage_end - at).min(CHUNK as u64);
            self.file.write_all_at(&zeros[..len as usize], at)?;
            at += len;
        }
        Ok(())
    }
}

/// Behind the last byte that is not zero.
fn last_byte(file: &File, from: u64, to: u64) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let (mut end, mut at) = (from, from);
    while at < to {
        let part = &mut chunk[..(to - at).min(CHUNK as u64) as usize];
        file.read_exact_at(part, at)?;
        if let Some(last) = part.iter().rposition(|&byte| byte != 0) {
            end = at + last as u64 + 1;
        }
        at += part.len() as u64;
    }
    Ok(end)
}
