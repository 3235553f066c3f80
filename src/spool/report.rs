//! What a spool tells about itself.

use std::path::PathBuf;

use super::place::Warning;

/// Numbers from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeqRange {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// What opening found and did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Recovery {
    /// There was no spool before.
    pub created: bool,
    /// Number of the oldest record kept, and of the next one to be appended: equal when there is none.
    pub first_seq: u64,
    /// Number of the next record to be appended.
    pub next_seq: u64,
    /// What was wrong with the end of the last segment: `None` after a clean end, and after most crashes.
    pub tail: Option<Tail>,
    /// Records that some destination has not acknowledged and whose segments are gone. Its reader meets them as damage.
    pub missing: Vec<SeqRange>,
    /// There are cursors and no segment at all: what was not acknowledged is gone, and nobody knows how much that was.
    pub segments_gone: bool,
    /// Destinations whose cursor was damaged or another spool's. They start again at the oldest record: duplicates will come.
    pub cursors_reset: Vec<String>,
    /// What makes this place less safe than it could be.
    pub warnings: Vec<Warning>,
}

/// The end of the last segment, where a crash or worse has been.
#[derive(Debug)]
#[non_exhaustive]
pub struct Tail {
    /// The segment.
    pub file: PathBuf,
    /// Where its last intact record ends.
    pub offset: u64,
    /// Bytes behind it that mean nothing; what was being written when the process or the power went, as a rule.
    pub torn_bytes: u64,
    /// A copy of these bytes.
    pub saved: Option<PathBuf>,
    /// Its header is damaged. It cannot be told then whether the file has been cut.
    pub header_damaged: bool,
    /// Bytes the file is shorter than it was made: no crash does that. Records may be missing that nothing here speaks of.
    pub shortened_by: u64,
    /// Numbers that cannot be read, although higher ones can, or although somebody may have been told them. Readers meet them as
    /// damage too: they are counted there.
    pub lost: Vec<SeqRange>,
}

/// How full a spool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all segments in use.
    pub bytes: u64,
    /// The limit.
    pub max_bytes: u64,
}

impl Usage {
    /// At 80 % somebody should know.
    pub fn is_high(&self) -> bool {
        self.bytes >= self.max_bytes / 5 * 4
    }
}

/// How far a destination is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lag {
    /// Its name.
    pub destination: String,
    /// Everything up to this number is acknowledged.
    pub acked: u64,
    /// Durable records that are not acknowledged.
    pub records: u64,
    /// About as many bytes of disk they take.
    pub bytes: u64,
}
