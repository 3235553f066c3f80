//! Walks the bytes of a segment: intact records in order, and what is missing between them.
//!
//! Groups and records are self-describing, so the walk needs no state but the next number. Where nothing intact stands it searches,
//! byte by byte, for the next group header or record whose checksum and number fit.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use super::format::{GROUP_HEADER, GROUP_MAGIC, GroupHeader, MAX_RECORD, RECORD_HEADER, RecordHeader};
use super::format::{SEGMENT_HEADER, get_u32, get_u64};

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;
/// Bytes of false records whose checksum a search computes. Payloads can be made to look like many records; this bounds the cost.
const SEARCH_BUDGET: u64 = 256 << 20;

/// Where the numbers of a segment lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes of the file that count.
    pub(super) limit: u64,
    /// Every number below it belongs here, or is missing.
    pub(super) promised: u64,
    /// No number from here on is believed.
    pub(super) ceiling: u64,
}

/// The next thing in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// An intact record; its payload lies in this part of the window.
    Record { seq: u64, payload: Range<usize> },
    /// Numbers that should be here and are not, and the bytes in their place.
    Lost { first: u64, last: u64, bytes: Range<u64> },
    /// Bytes that mean nothing and cost no record.
    Noise { bytes: Range<u64> },
    /// Nothing more below the limit.
    End,
}

enum Here {
    Group(GroupHeader),
    Record { seq: u64, len: u64 },
    Nothing,
}

pub(super) struct Scanner {
    file: File,
    spool_id: u64,
    bounds: Bounds,
    /// Records below it are passed over.
    wanted: u64,
    next_seq: u64,
    position: u64,
    /// Where the last group ends that was seen.
    group_end: u64,
    group: Option<GroupHeader>,
    /// Behind the last intact record.
    intact_end: u64,
    noise: Option<Range<u64>>,
    budget: u64,
    /// `filled` bytes of the file from `window_start`.
    window: Vec<u8>,
    window_start: u64,
    filled: usize,
}

impl Scanner {
    /// Walks a segment whose first record has the number `base`, and gives the records from `wanted` on.
    pub(super) fn new(file: File, spool_id: u64, base: u64, wanted: u64, bounds: Bounds) -> Self {
        Self {
            file,
            spool_id,
            bounds,
            wanted,
            next_seq: base,
            position: SEGMENT_HEADER,
            group_end: 0,
            group: None,
            intact_end: SEGMENT_HEADER,
            noise: None,
            budget: SEARCH_BUDGET,
            window: Vec::new(),
            window_start: SEGMENT_HEADER,
            filled: 0,
        }
    }

    /// The segment has grown.
    pub(super) fn extend(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The bytes of the record that the last step gave.
    pub(super) fn payload(&self, payload: Range<usize>) -> &[u8] {
        &self.window[payload]
    }

    /// The header of the group that was entered last.
    pub(super) fn group(&self) -> Option<&GroupHeader> {
        self.group.as_ref()
    }

    pub(super) fn intact_end(&self) -> u64 {
        self.intact_end
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    pub(super) fn step(&mut self) -> io::Result<Step> {
        loop {
            match self.look(self.position)? {
                Here::Group(header) => {
                    self.position += GROUP_HEADER;
                    self.group_end = self.position + u64::from(header.body);
                    self.group = Some(header);
                    if header.end() <= self.wanted {
                        self.position = self.group_end.min(self.bounds.limit);
                        self.next_seq = header.end();
                        self.intact_end = self.position;
                        self.noise = None;
                    }
                }
                Here::Record { seq, len } => {
                    if let Some(step) = self.account(seq) {
                        return Ok(step);
                    }
                    let payload_at = self.position + RECORD_HEADER;
                    self.position = payload_at + len;
                    self.intact_end = self.position;
                    self.next_seq = seq + 1;
                    if seq >= self.wanted {
                        let start = (payload_at - self.window_start) as usize;
                        return Ok(Step::Record { seq, payload: start..start + len as usize });
                    }
                }
                Here::Nothing => {
                    let from = self.position;
                    let blank = self.search()?;
                    // Zeros up to the limit are what was never written.
                    if from < self.position && !(blank && self.position >= self.bounds.limit) {
                        let start = self.noise.as_ref().map_or(from, |noise| noise.start);
                        self.noise = Some(start..self.position);
                    }
                    if self.position >= self.bounds.limit {
                        return Ok(self.account(self.bounds.promised).unwrap_or(Step::End));
                    }
                }
            }
        }
    }

    /// What to report before the walk goes on at `seq`.
    fn account(&mut self, seq: u64) -> Option<Step> {
        let noise = self.noise.take();
        let first = self.next_seq.max(self.wanted);
        if first < seq {
            self.next_seq = seq;
            return Some(Step::Lost { first, last: seq - 1, bytes: noise.unwrap_or(self.position..self.position) });
        }
        noise.map(|bytes| Step::Noise { bytes })
    }

    fn look(&mut self, at: u64) -> io::Result<Here> {
        if !self.load(at, RECORD_HEADER)? {
            return Ok(Here::Nothing);
        }
        let Some(record) = RecordHeader::decode(self.bytes_from(at)) else { return Ok(Here::Nothing) };
        if record.len == GROUP_MAGIC {
            return self.look_for_group(at);
        }
        let len = u64::from(record.len);
        let end = at + RECORD_HEADER + len;
        // An intact group header bounds its records, so that a damaged length is not even read.
        let bound = if at < self.group_end { self.group_end.min(self.bounds.limit) } else { self.bounds.limit };
        if len > MAX_RECORD || end > bound || !self.may_come(record.seq) || !self.load(at, RECORD_HEADER + len)? {
            return Ok(Here::Nothing);
        }
        let payload = &self.bytes_from(at)[RECORD_HEADER as usize..(RECORD_HEADER + len) as usize];
        if record.matches(payload, self.spool_id) {
            return Ok(Here::Record { seq: record.seq, len });
        }
        self.budget = self.budget.saturating_sub(len);
        Ok(Here::Nothing)
    }

    fn look_for_group(&mut self, at: u64) -> io::Result<Here> {
        if !self.load(at, GROUP_HEADER)? {
            return Ok(Here::Nothing);
        }
        let header = GroupHeader::decode(self.bytes_from(at))
            .filter(|header| header.spool_id == self.spool_id && self.may_come(header.first_seq));
        Ok(header.map_or(Here::Nothing, Here::Group))
    }

    fn may_come(&self, seq: u64) -> bool {
        (self.next_seq..self.bounds.ceiling).contains(&seq)
    }

    /// Moves to the next group header or record behind the position, or to the limit. Gives whether all it passed are zeros.
    fn search(&mut self) -> io::Result<bool> {
        let mut blank = true;
        let mut at = self.position;
        while at < self.bounds.limit {
            if !self.load(at, RECORD_HEADER)? {
                let rest = self.bounds.limit - at;
                blank = blank && self.load(at, rest)? && self.bytes_from(at).iter().all(|&byte| byte == 0);
                at = self.bounds.limit;
                break;
            }
            let bytes = self.bytes_from(at);
            let zeros = bytes.iter().position(|&byte| byte != 0).unwrap_or(bytes.len()) as u64;
            if zeros >= RECORD_HEADER {
                // What stands next has its first other byte among its first sixteen.
                at += zeros - RECORD_HEADER + 1;
                continue;
            }
            if at > self.position && self.is_candidate(at) && !matches!(self.look(at)?, Here::Nothing) {
                break;
            }
            blank = blank && self.bytes_from(at)[0] == 0;
            at += 1;
        }
        self.position = at;
        Ok(blank)
    }

    fn is_candidate(&self, at: u64) -> bool {
        let bytes = self.bytes_from(at);
        get_u32(bytes, 0) == GROUP_MAGIC || (self.budget > 0 && self.may_come(get_u64(bytes, 8)))
    }

    fn bytes_from(&self, at: u64) -> &[u8] {
        &self.window[(at - self.window_start) as usize..self.filled]
    }

    /// Makes sure that the window holds `len` bytes from `at`; `false` when they lie beyond the limit or the file's end.
    fn load(&mut self, at: u64, len: u64) -> io::Result<bool> {
        let have = self.window_start..self.window_start + self.filled as u64;
        if have.start <= at && at + len <= have.end {
            return Ok(true);
        }
        if at + len > self.bounds.limit {
            return Ok(false);
        }
        let keep = if have.contains(&at) { (at - have.start) as usize..self.filled } else { 0..0 };
        let kept = keep.len();
        let size = CHUNK.max(len as usize);
        if self.window.len() < size || self.window.len() > size.saturating_mul(4) {
            let mut window = vec![0; size];
            window[..kept].copy_from_slice(&self.window[keep]);
            self.window = window;
        } else {
            self.window.copy_within(keep, 0);
        }
        (self.window_start, self.filled) = (at, kept);
        let end = self.window.len().min((self.bounds.limit - at) as usize);
        while self.filled < end {
            match self.file.read_at(&mut self.window[self.filled..end], at + self.filled as u64) {
                Ok(0) => {
                    // The file ends before its time.
                    self.bounds.limit = at + self.filled as u64;
                    break;
                }
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.filled as u64 >= len)
    }
}

/// The id in the first intact group header of a segment, when nothing else tells it.
pub(super) fn find_spool_id(file: File) -> io::Result<Option<u64>> {
    let limit = file.metadata()?.len();
    let bounds = Bounds { limit, promised: 0, ceiling: 0 };
    let mut scanner = Scanner::new(file, 0, 0, 0, bounds);
    for at in SEGMENT_HEADER..limit.saturating_sub(GROUP_HEADER) {
        if !scanner.load(at, GROUP_HEADER)? {
            break;
        }
        if let Some(header) = GroupHeader::decode(scanner.bytes_from(at)) {
            return Ok(Some(header.spool_id));
        }
    }
    Ok(None)
}
