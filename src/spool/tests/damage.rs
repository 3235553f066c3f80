//! Damaged bytes: they cost what they hit, by name, and nothing else.

use super::*;

/// Damages a byte of a copy, and gives what opening and reading it show.
struct Bench {
    _dir: tempfile::TempDir,
    original: std::path::PathBuf,
    copy: std::path::PathBuf,
}

impl Bench {
    fn new(records: u64) -> Self {
        let dir = quick_folder();
        let (original, copy) = (dir.path().join("original"), dir.path().join("copy"));
        make(&original, records);
        Self { _dir: dir, original, copy }
    }

    fn damage(&self, segment: usize, change: impl FnOnce(&mut Vec<u8>)) -> std::path::PathBuf {
        copy(&self.original, &self.copy);
        let path = segments(&self.copy).swap_remove(segment);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// What the damaged copy holds: no record is missing unless it is named, appends go on, and a second opening finds the same.
fn check(dir: &Path, records: u64) -> Found {
    let (spool, recovery) = open(dir, tiny());
    let mut found = read_all(&spool);
    let next = recovery.next_seq;
    assert!(next <= records + 1, "{recovery:?}");
    assert_eq!(spool.append(&payload(next)).unwrap(), next);
    found.lost.extend(next..=records);
    drop(spool);
    let (spool, again) = open(dir, tiny());
    assert!(again.tail.is_none(), "opening has cleaned up: {again:?}");
    let reread = read_all(&spool);
    assert_eq!(reread.records, found.records.iter().copied().chain([next]).collect::<Vec<_>>());
    found
}

#[test]
fn fault_04_truncation_at_every_offset() {
    let records = 40;
    let bench = Bench::new(records);
    let last = segments(&bench.original).len() - 1;
    let parts = anatomy(&segments(&bench.original)[last]);
    let end = parts.last().unwrap().1.end;
    for cut in 0..=end + 1 {
        if !long() && cut % 3 > 0 && parts.iter().all(|(_, range)| cut.abs_diff(range.end) > 1) {
            continue;
        }
        bench.damage(last, |bytes| bytes.truncate(cut));
        let found = check(&bench.copy, records);
        let complete = parts.iter().filter(|(seq, range)| *seq > 0 && range.end <= cut).count() as u64;
        let first = parts.iter().find(|(seq, _)| *seq > 0).unwrap().0;
        assert_eq!(found.records, (1..first + complete).collect::<Vec<_>>(), "cut at {cut}");
    }
}

#[test]
fn fault_04_a_cut_file_is_reported_and_the_numbers_of_a_cut_group_are_named() {
    let dir = quick_folder();
    let (spool, _) = open(dir.path(), tiny());
    spool.append_all(&[payload(1), payload(2), payload(3)]).unwrap();
    drop(spool);
    let path = segments(dir.path()).remove(0);
    let parts = anatomy(&path);
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(parts[2].1.end as u64 - 1).unwrap();
    let (spool, recovery) = open(dir.path(), tiny());
    let tail = recovery.tail.unwrap();
    assert!(tail.shortened_by > 0);
    assert_eq!(tail.lost, [SeqRange { first: 2, last: 3 }]);
    assert_eq!(recovery.next_seq, 4, "2 and 3 were given and are not given again");
    assert_eq!(read_all(&spool), Found { records: vec![1], lost: vec![2, 3] });
}

#[test]
fn fault_05_a_flip_anywhere_costs_exactly_the_record_it_hits() {
    let records = 40;
    let bench = Bench::new(records);
    for segment in [1, segments(&bench.original).len() - 1] {
        let parts = anatomy(&segments(&bench.original)[segment]);
        for (seq, range) in &parts {
            for at in range.clone().step_by(if long() { 1 } else { 11 }) {
                bench.damage(segment, |bytes| bytes[at] ^= 1 << (at % 8));
                let found = check(&bench.copy, records);
                // A group's header costs nothing: records stand for themselves.
                let lost: Vec<u64> = (1..=records).filter(|n| n == seq).collect();
                assert_eq!(found.lost, lost, "flip at {at} of segment {segment}");
            }
        }
    }
}

#[test]
fn fault_05_damage_is_quarantined_and_verified() {
    let bench = Bench::new(40);
    let mut hit = (0, 0..0);
    let path = bench.damage(1, |bytes| {
        hit = anatomy(&segments(&bench.original)[1])[3].clone();
        bytes[hit.1.end - 1] ^= 1;
    });
    let (spool, recovery) = open(&bench.copy, tiny());
    assert!(recovery.tail.is_none(), "sealed segments are not read when opening");
    let mut reader = spool.reader("test", Start::Oldest).unwrap();
    let damage = loop {
        match reader.try_next().unwrap().unwrap() {
            Item::Record { .. } => {}
            Item::Damaged(damage) => break damage,
        }
    };
    assert_eq!(damage.range, SeqRange { first: hit.0, last: hit.0 });
    assert_eq!(damage.file.as_ref(), Some(&path));
    let bytes = fs::read(&path).unwrap();
    assert_eq!(fs::read(damage.quarantine.unwrap()).unwrap(), bytes[hit.1.clone()]);
    let verified = verify(&bench.copy).unwrap();
    assert_eq!(verified.records, 39);
    assert_eq!(verified.damage.len(), 1);
    assert_eq!(verified.damage[0].range, damage.range);
    assert_eq!(status(&bench.copy).unwrap().remains.len(), 1);
}

#[test]
fn fault_06_any_length_is_survived() {
    let records = 40;
    let bench = Bench::new(records);
    for segment in [1, segments(&bench.original).len() - 1] {
        let parts = anatomy(&segments(&bench.original)[segment]);
        for (seq, range) in parts.iter().filter(|(seq, _)| *seq > 0) {
            for len in [0, 1, 15, 200, 511, 2048, 1 << 20, 1 << 26, u32::MAX, format::GROUP_MAGIC] {
                bench.damage(segment, |bytes| format::put_u32(bytes, range.start, len));
                let found = check(&bench.copy, records);
                assert!(found.lost == [*seq] || found.lost.is_empty(), "length {len}: {:?}", found.lost);
            }
        }
    }
}

#[test]
fn fault_06_payloads_full_of_false_records_are_searched_in_bounded_time() {
    // Each 24 bytes look like a record with the right number and a great length.
    let dir = quick_folder();
    let options = Options { max_record_bytes: 4 << 20, ..Options::default() };
    let (spool, _) = open(dir.path(), options);
    let mut mimicry = Vec::new();
    for _ in 0..(4 << 20) / 24 {
        let header = format::RecordHeader { len: 3 << 20, crc: 7, seq: 2 };
        mimicry.extend_from_slice(&header.encode());
        mimicry.extend_from_slice(b"--------");
    }
    spool.append(&mimicry).unwrap();
    spool.append(&mimicry).unwrap();
    spool.append(&payload(3)).unwrap();
    drop(spool);
    let path = segments(dir.path()).remove(0);
    let parts = anatomy(&path);
    let mut bytes = fs::read(&path).unwrap();
    bytes[parts[1].1.start] ^= 1;
    fs::write(&path, bytes).unwrap();
    let verified = verify(dir.path()).unwrap();
    assert_eq!(verified.damage.len(), 1);
    assert_eq!(verified.damage[0].range, SeqRange { first: 1, last: 1 });
    assert_eq!(verified.records, 2);
}

#[test]
fn fault_07_zeros_and_garbage_at_the_end_are_no_records() {
    let records = 40;
    let bench = Bench::new(records);
    let last = segments(&bench.original).len() - 1;
    let parts = anatomy(&segments(&bench.original)[last]);
    let end = parts.last().unwrap().1.end;
    for len in [1, 7, 16, 48, 64, 100, 300] {
        for fill in [0x00, 0x01, 0xFF, 0xA5] {
            bench.damage(last, |bytes| {
                bytes.resize(bytes.len().max(end + len), 0);
                bytes[end..end + len].fill(fill);
            });
            let found = check(&bench.copy, records);
            assert_eq!(found.records, (1..=records).collect::<Vec<_>>());
        }
    }
    // Zeros from anywhere to the end, as after a power cut.
    for from in (format::SEGMENT_HEADER as usize..end).step_by(3) {
        bench.damage(last, |bytes| bytes[from..].fill(0));
        let found = check(&bench.copy, records);
        let first = parts.iter().find(|(seq, _)| *seq > 0).unwrap().0;
        let kept = parts.iter().filter(|(seq, range)| *seq > 0 && range.end <= from).count() as u64;
        // The last byte of a record may be a zero anyway; ours are not.
        assert_eq!(found.records, (1..first + kept).collect::<Vec<_>>(), "zeros from {from}");
    }
}

#[test]
fn a_group_torn_before_anyone_was_answered_gives_its_numbers_back() {
    let dir = quick_folder();
    let (spool, _) = open(dir.path(), tiny());
    spool.append_all(&[payload(1), payload(2), payload(3)]).unwrap();
    drop(spool);
    let path = segments(dir.path()).remove(0);
    let parts = anatomy(&path);
    let mut bytes = fs::read(&path).unwrap();
    bytes[parts[2].1.start + 5..].fill(0);
    fs::write(&path, bytes).unwrap();
    let (spool, recovery) = open(dir.path(), tiny());
    let tail = recovery.tail.unwrap();
    assert_eq!((tail.shortened_by, tail.lost.len(), tail.torn_bytes > 0), (0, 0, true));
    assert!(tail.saved.unwrap().exists());
    assert_eq!(spool.append(&payload(2)).unwrap(), 2);
    assert_eq!(read_all(&spool).records, [1, 2]);
}

#[test]
fn fault_09_a_missing_segment_is_named_and_the_rest_delivered() {
    let records = 60;
    let bench = Bench::new(records);
    let all = segments(&bench.original).len();
    assert!(all > 3);
    for missing in 0..all - 1 {
        copy(&bench.original, &bench.copy);
        {
            // With a destination that has read nothing, so that all of it is owed.
            let (spool, _) = open(&bench.copy, tiny());
            spool.reader("siem", Start::Oldest).unwrap();
        }
        let bases = segment::list(&bench.copy).unwrap();
        fs::remove_file(segment::path(&bench.copy, bases[missing])).unwrap();
        let (spool, recovery) = open(&bench.copy, tiny());
        let lost = SeqRange { first: bases[missing], last: bases[missing + 1] - 1 };
        assert_eq!(recovery.missing, [lost]);
        let found = drain(&mut spool.reader("siem", Start::Oldest).unwrap());
        assert_eq!(found.lost, (lost.first..=lost.last).collect::<Vec<_>>());
        assert_eq!(found.records.len() + found.lost.len(), records as usize);
    }
}

#[test]
fn a_segment_that_vanishes_under_a_reader_is_named_too() {
    let dir = quick_folder();
    make(dir.path(), 40);
    let (spool, _) = open(dir.path(), tiny());
    let mut reader = spool.reader("siem", Start::Oldest).unwrap();
    assert!(reader.try_next().unwrap().is_some());
    let bases = segment::list(dir.path()).unwrap();
    fs::remove_file(segment::path(dir.path(), bases[1])).unwrap();
    let found = drain(&mut reader);
    assert_eq!(found.lost, (bases[1]..bases[2]).collect::<Vec<_>>());
    assert_eq!(found.records.len() + found.lost.len(), 39);
}

#[test]
fn a_damaged_header_of_a_segment_costs_no_record() {
    let records = 40;
    let bench = Bench::new(records);
    for segment in 0..segments(&bench.original).len() {
        for at in [0, 9, 17, 25, 33, 41, 50, 61] {
            bench.damage(segment, |bytes| bytes[at] ^= 0x10);
            let found = check(&bench.copy, records);
            assert_eq!(found.records, (1..=records).collect::<Vec<_>>());
        }
    }
    // Even when it is the only one.
    let bench = Bench::new(5);
    bench.damage(0, |bytes| bytes[..64].fill(0));
    assert_eq!(check(&bench.copy, 5).records, [1, 2, 3, 4, 5]);
}

#[test]
fn what_cannot_be_judged_is_refused_untouched_and_auditing_goes_on_beside_it() {
    let dir = quick_folder();
    let place = dir.path().join("spool");
    make(&place, 3);
    let path = segments(&place).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let len = bytes.len();
    bytes = vec![0x5A; len];
    fs::write(&path, &bytes).unwrap();
    let refused = Spool::open(&place, tiny()).err().unwrap();
    assert!(matches!(refused, OpenError::Corrupt { .. }), "{refused}");
    assert!(refused.is_refusal());
    for round in 1..=3 {
        let (spool, recovery, refusals) = Spool::open_beside(&place, tiny()).unwrap();
        assert_eq!(refusals.len(), 1);
        assert_eq!(spool.dir(), dir.path().join("spool-2"), "the same place each time");
        assert_eq!(recovery.created, round == 1);
        assert_eq!(spool.append(&payload(round)).unwrap(), round);
    }
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert!(Export::new(&place, 1).is_err());
}

#[test]
fn a_file_of_another_spool_is_refused() {
    let dir = quick_folder();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    make(&here, 40);
    make(&there, 40);
    fs::copy(&segments(&there)[1], &segments(&here)[1]).unwrap();
    assert!(matches!(Spool::open(&here, tiny()), Err(OpenError::Corrupt { offset: 0, .. })));
}
