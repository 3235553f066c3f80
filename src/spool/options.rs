//! What can be chosen, and what follows from it.

use std::time::Duration;

use super::error::{AppendError, OpenError};
use super::format::{GROUP_HEADER, MAX_RECORD, RECORD_HEADER, SEGMENT_HEADER};
use super::layout::Limits;

/// How a spool works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Bytes all segments together may take. Default 1 GiB.
    pub max_bytes: u64,
    /// Bytes of a segment: space is reclaimed in such pieces. Default 16 MiB, never more than a quarter of `max_bytes`.
    pub segment_bytes: u64,
    /// Bytes of a record. Default 1 MiB, at most 64 MiB.
    pub max_record_bytes: u64,
    /// When an append returns. Default [`Sync::Always`].
    pub sync: Sync,
    /// What a full spool does. Default: blocks, without a timeout.
    pub on_full: OnFull,
}

/// When an append returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// When the record is on the device.
    Always,
    /// When the kernel has the record; it is on the device this much later. It survives this process, and not the machine.
    Interval(Duration),
}

/// What a full spool does with an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFull {
    /// Lets it wait until there is room, for so long at most.
    Block {
        /// `None`: for as long as it takes.
        timeout: Option<Duration>,
    },
    /// Refuses it.
    Refuse,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 30,
            segment_bytes: 16 << 20,
            max_record_bytes: 1 << 20,
            sync: Sync::Always,
            on_full: OnFull::Block { timeout: None },
        }
    }
}

impl Options {
    pub(super) fn limits(&self) -> Result<Limits, OpenError> {
        let Self { max_bytes, segment_bytes, max_record_bytes, sync, .. } = *self;
        if max_record_bytes == 0 || max_record_bytes > MAX_RECORD {
            let why = format!("records of {max_record_bytes} bytes: 1 to {MAX_RECORD} are possible");
            return Err(OpenError::Options { why });
        }
        // The largest record fits into a segment, and a segment can be filled while another one is being read.
        let least = SEGMENT_HEADER + GROUP_HEADER + RECORD_HEADER + max_record_bytes;
        let segment_bytes = segment_bytes.min(max_bytes / 4).clamp(least, u64::from(u32::MAX));
        if max_bytes < 2 * segment_bytes {
            let why = format!("{max_bytes} bytes are too few for a spool with records of {max_record_bytes} bytes");
            return Err(OpenError::Options { why });
        }
        let sync_interval = match sync {
            Sync::Always => None,
            Sync::Interval(interval) => Some(interval),
        };
        Ok(Limits { max_bytes, segment_bytes, max_record_bytes, sync_interval })
    }
}

impl Limits {
    /// Checks the lengths of records and computes their checksums.
    pub(super) fn check(&self, records: &[impl AsRef<[u8]>]) -> Result<Vec<u32>, AppendError> {
        let mut group = GROUP_HEADER;
        for record in records {
            let bytes = record.as_ref().len() as u64;
            if bytes > self.max_record_bytes {
                return Err(AppendError::TooLarge { bytes, max: self.max_record_bytes });
            }
            group += RECORD_HEADER + bytes;
        }
        if group > self.max_group() {
            return Err(AppendError::TooLarge { bytes: group, max: self.max_group() });
        }
        Ok(records.iter().map(|record| crc32c::crc32c(record.as_ref())).collect())
    }
}
