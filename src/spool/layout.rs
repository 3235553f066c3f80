//! Sizes: what fits where, and when a new segment is begun. Arithmetic only.

use std::time::Duration;

use super::format::SEGMENT_HEADER;

/// Sizes that never change while a spool is open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) max_bytes: u64,
    pub(super) segment_bytes: u64,
    pub(super) max_record_bytes: u64,
    /// `None`: a group is answered when it is synced. Otherwise when it is written, and synced this much later.
    pub(super) sync_interval: Option<Duration>,
}

impl Limits {
    /// Bytes a group may have: it must fit into a segment.
    pub(super) fn max_group(&self) -> u64 {
        self.segment_bytes - SEGMENT_HEADER
    }
}

/// Where a group goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Behind what the last segment holds.
    Here,
    /// Into a new segment of this size.
    NewSegment { size: u64 },
}

/// How full the segments are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Layout {
    /// Bytes of all segments but the last.
    pub(super) sealed: u64,
    /// Bytes in use in the last segment.
    pub(super) used: u64,
    /// Bytes the last segment may grow to.
    pub(super) size: u64,
}

impl Layout {
    /// Bytes in use, which is what is limited.
    pub(super) fn bytes(&self) -> u64 {
        self.sealed + self.used
    }

    /// Whether a group may come, into a new segment if need be.
    pub(super) fn has_room(&self, group: u64, limits: &Limits) -> bool {
        self.bytes() + SEGMENT_HEADER + group <= limits.max_bytes
    }

    /// Finds a group its place.
    pub(super) fn place(&mut self, group: u64, limits: &Limits) -> Place {
        // A segment without records is never followed by another: both would have the same name. It grows instead.
        if self.used + group <= self.size || self.used == SEGMENT_HEADER {
            self.used += group;
            self.size = self.size.max(self.used);
            return Place::Here;
        }
        let size = self.size_of_new(SEGMENT_HEADER + group, limits);
        *self = self.with_new(size);
        self.used += group;
        Place::NewSegment { size }
    }

    /// Small enough for the limit, large enough for what goes in first.
    pub(super) fn size_of_new(&self, first: u64, limits: &Limits) -> u64 {
        let room = limits.max_bytes.saturating_sub(self.bytes());
        limits.segment_bytes.min(room).max(first)
    }

    /// The last segment is sealed and a new one begun.
    pub(super) fn with_new(&self, size: u64) -> Self {
        Self { sealed: self.bytes(), used: SEGMENT_HEADER, size }
    }
}
