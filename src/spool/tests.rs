//! The spool held against what it promises. Tests of a fault carry its number.

mod crash;
mod damage;
mod disk_faults;
mod interleavings;
mod kill;
mod model;
mod opening;
mod power_cut;
mod queueing;

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::*;

/// Long enough never to matter where things work.
const PATIENCE: Duration = Duration::from_secs(60);

/// No number.
const NONE: [u64; 0] = [];

/// Whether there is time for all of a large set of cases.
fn long() -> bool {
    std::env::var_os("TEST_LONG").is_some()
}

/// Waits until the spool's threads have brought something about.
fn until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "it does not come about");
        std::thread::yield_now();
    }
}

/// A folder for tests that open a spool very often: in memory where there is such a place, since no device is to be waited for.
fn quick_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Limits so small that a few records fill a segment.
fn tiny() -> Options {
    Options { max_bytes: 1 << 20, segment_bytes: 2048, max_record_bytes: 512, ..Options::default() }
}

/// The payload of a number: it can be told from every other, and its length varies.
fn payload(seq: u64) -> Vec<u8> {
    let mut bytes = format!("{{\"record\":{seq}}}").into_bytes();
    bytes.resize(bytes.len() + (seq as usize * 37) % 200, b'.');
    bytes
}

/// Appends records up to a number, each with its own payload, in groups of one and of three.
fn fill(spool: &Spool, to: u64) {
    let mut next = spool.durable_seq() + 1;
    while next <= to {
        let count = if next.is_multiple_of(4) { 3.min(to - next + 1) } else { 1 };
        let records: Vec<_> = (next..next + count).map(payload).collect();
        assert_eq!(spool.append_all(&records).unwrap(), next);
        next += count;
    }
}

/// What a reader finds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    records: Vec<u64>,
    lost: Vec<u64>,
}

/// Reads all there is, and checks that records are what was appended, in order, and that every number is accounted for.
fn drain(reader: &mut Reader) -> Found {
    let mut found = Found::default();
    let mut next = reader.position();
    while let Some(item) = reader.try_next().unwrap() {
        match item {
            Item::Record { seq, payload: bytes } => {
                assert_eq!(seq, next, "in order and dense");
                assert_eq!(bytes, payload(seq), "record {seq} is what was appended");
                found.records.push(seq);
                next += 1;
            }
            Item::Damaged(damage) => {
                assert_eq!(damage.range.first, next, "a gap begins where the last item ended");
                assert!(damage.range.last >= next);
                found.lost.extend(next..=damage.range.last);
                next = damage.range.last + 1;
            }
        }
    }
    found
}

/// Opens a spool for a test; whatever recovery says is the test's business.
fn open(dir: &Path, options: Options) -> (Spool, Recovery) {
    Spool::open(dir, options).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
}

/// Reads a spool from its oldest record, as a destination that is new to it.
fn read_all(spool: &Spool) -> Found {
    drain(&mut spool.reader("test", Start::Oldest).unwrap())
}

/// A spool with records 1 to `to` that no destination has read, closed.
fn make(dir: &Path, to: u64) {
    let (spool, _) = open(dir, tiny());
    fill(&spool, to);
    spool.close().unwrap();
}

/// The segments of a spool, in order.
fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    segment::list(dir).unwrap().into_iter().map(|base| segment::path(dir, base)).collect()
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Every record of a segment and every group header: what it is, and where.
fn anatomy(path: &Path) -> Vec<(u64, std::ops::Range<usize>)> {
    let bytes = fs::read(path).unwrap();
    let mut at = format::SEGMENT_HEADER as usize;
    let mut parts = Vec::new();
    loop {
        if let Some(_group) = bytes.get(at..).and_then(format::GroupHeader::decode) {
            parts.push((0, at..at + format::GROUP_HEADER as usize));
            at += format::GROUP_HEADER as usize;
            continue;
        }
        match bytes.get(at..).and_then(format::RecordHeader::decode) {
            Some(record) if record.seq > 0 => {
                let end = at + format::RECORD_HEADER as usize + record.len as usize;
                parts.push((record.seq, at..end));
                at = end;
            }
            _ => return parts,
        }
    }
}
