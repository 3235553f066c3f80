//! Bytes and numbers: the headers of segments, groups and records. No files here.

/// A segment's header, at the start of its file.
pub(super) const SEGMENT_HEADER: u64 = 64;
/// A group's header, in front of its records.
pub(super) const GROUP_HEADER: u64 = 48;
/// A record's header, in front of its payload.
pub(super) const RECORD_HEADER: u64 = 16;
/// No record is longer, whatever the options say, so that a damaged length is recognised.
pub(super) const MAX_RECORD: u64 = 64 << 20;

const SEGMENT_MAGIC: &[u8; 8] = b"AUDSPL01";
/// Larger than [`MAX_RECORD`]: the first four bytes tell a group from a record.
pub(super) const GROUP_MAGIC: u32 = 0xA5D1_7E9C;
/// The only version there is.
pub(super) const VERSION: u32 = 1;
/// Flag of a group whose appenders were answered before it was synced.
pub(super) const ANSWERED_EARLY: u32 = 1;

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) spool_id: u64,
    /// Number of its first record, in its name too.
    pub(super) base: u64,
    /// Base of the segment before it; 0 in the first.
    pub(super) previous_base: u64,
    /// Bytes it was allocated with; 0 when the file system cannot.
    pub(super) size: u64,
    /// When it was created, in milliseconds of wall clock. Information only.
    pub(super) stamp: u64,
}

/// Why a segment's header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// Another version, or flags, of which there are none yet.
    Unknown { version: u32, flags: u32 },
    /// It is no header, or a damaged one.
    Damaged,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER as usize] {
        let mut bytes = [0; SEGMENT_HEADER as usize];
        bytes[..8].copy_from_slice(SEGMENT_MAGIC);
        put_u32(&mut bytes, 8, VERSION);
        put_u64(&mut bytes, 16, self.spool_id);
        put_u64(&mut bytes, 24, self.base);
        put_u64(&mut bytes, 32, self.previous_base);
        put_u64(&mut bytes, 40, self.size);
        put_u64(&mut bytes, 48, self.stamp);
        let crc = crc32c::crc32c(&bytes[..60]);
        put_u32(&mut bytes, 60, crc);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; SEGMENT_HEADER as usize]) -> Result<Self, BadHeader> {
        // Every version keeps this much: the magic in front, the checksum at the end.
        if &bytes[..8] != SEGMENT_MAGIC || crc32c::crc32c(&bytes[..60]) != get_u32(bytes, 60) {
            return Err(BadHeader::Damaged);
        }
        let (version, flags) = (get_u32(bytes, 8), get_u32(bytes, 12));
        if version != VERSION || flags != 0 {
            return Err(BadHeader::Unknown { version, flags });
        }
        Ok(Self {
            spool_id: get_u64(bytes, 16),
            base: get_u64(bytes, 24),
            previous_base: get_u64(bytes, 32),
            size: get_u64(bytes, 40),
            stamp: get_u64(bytes, 48),
        })
    }
}

/// What a group says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupHeader {
    pub(super) spool_id: u64,
    pub(super) first_seq: u64,
    pub(super) count: u32,
    pub(super) flags: u32,
    /// Bytes of its records with their headers.
    pub(super) body: u32,
    /// When it was written, in milliseconds of wall clock. Information only.
    pub(super) stamp: u64,
}

impl GroupHeader {
    /// One more than its last number.
    pub(super) fn end(&self) -> u64 {
        self.first_seq + u64::from(self.count)
    }

    pub(super) fn encode(&self) -> [u8; GROUP_HEADER as usize] {
        let mut bytes = [0; GROUP_HEADER as usize];
        put_u32(&mut bytes, 0, GROUP_MAGIC);
        put_u64(&mut bytes, 8, self.spool_id);
        put_u64(&mut bytes, 16, self.first_seq);
        put_u32(&mut bytes, 24, self.count);
        put_u32(&mut bytes, 28, self.body);
        put_u64(&mut bytes, 32, self.stamp);
        put_u32(&mut bytes, 40, self.flags);
        let crc = crc32c::crc32c(&bytes[8..]);
        put_u32(&mut bytes, 4, crc);
        bytes
    }

    /// `None` unless the bytes are an intact header.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; GROUP_HEADER as usize] = bytes.first_chunk()?;
        let intact = get_u32(bytes, 0) == GROUP_MAGIC && crc32c::crc32c(&bytes[8..]) == get_u32(bytes, 4);
        intact.then(|| Self {
            spool_id: get_u64(bytes, 8),
            first_seq: get_u64(bytes, 16),
            count: get_u32(bytes, 24),
            body: get_u32(bytes, 28),
            stamp: get_u64(bytes, 32),
            flags: get_u32(bytes, 40),
        })
    }
}

/// What stands in front of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) len: u32,
    pub(super) crc: u32,
    pub(super) seq: u64,
}

impl RecordHeader {
    /// `payload_crc` is [`crc32c::crc32c`] of the payload: the long part, which needs no lock. The rest ties the payload to its
    /// number and its spool, so that neither a stale nor a foreign record can pass for it.
    pub(super) fn seal(payload_crc: u32, len: u32, seq: u64, spool_id: u64) -> Self {
        let mut rest = [0; 20];
        put_u32(&mut rest, 0, len);
        put_u64(&mut rest, 4, seq);
        put_u64(&mut rest, 12, spool_id);
        Self { len, crc: crc32c::crc32c_append(payload_crc, &rest), seq }
    }

    pub(super) fn encode(&self) -> [u8; RECORD_HEADER as usize] {
        let mut bytes = [0; RECORD_HEADER as usize];
        put_u32(&mut bytes, 0, self.len);
        put_u32(&mut bytes, 4, self.crc);
        put_u64(&mut bytes, 8, self.seq);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; RECORD_HEADER as usize] = bytes.first_chunk()?;
        Some(Self { len: get_u32(bytes, 0), crc: get_u32(bytes, 4), seq: get_u64(bytes, 8) })
    }

    pub(super) fn matches(&self, payload: &[u8], spool_id: u64) -> bool {
        Self::seal(crc32c::crc32c(payload), self.len, self.seq, spool_id).crc == self.crc
    }
}

pub(super) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The wall clock, for information only: no decision depends on it.
pub(super) fn stamp_now() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_epoch.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
