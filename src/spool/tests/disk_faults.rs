//! A disk that is full, and a device that fails.

use std::io;
use std::sync::{Arc, Mutex};

use super::super::disk::{Change, Script};
use super::*;

type Rule = Box<dyn FnMut(&Change<'_>) -> io::Result<Option<usize>> + Send>;

/// Does with each change what the test says for now.
#[derive(Default)]
struct Scripted(Mutex<Option<Rule>>);

impl Script for Scripted {
    fn judge(&self, change: &Change<'_>) -> io::Result<Option<usize>> {
        self.0.lock().unwrap().as_mut().map_or(Ok(None), |rule| rule(change))
    }
}

impl Scripted {
    fn now(&self, rule: impl FnMut(&Change<'_>) -> io::Result<Option<usize>> + Send + 'static) {
        *self.0.lock().unwrap() = Some(Box::new(rule));
    }

    fn healthy(&self) {
        *self.0.lock().unwrap() = None;
    }
}

fn scripted(dir: &Path, options: Options) -> (Spool, Arc<Scripted>) {
    let script = Arc::new(Scripted::default());
    let (spool, _) = Spool::open_on(Disk { script: Some(script.clone()) }, dir, options).unwrap();
    (spool, script)
}

fn full() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error())
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

fn refuse() -> Options {
    Options { on_full: OnFull::Refuse, ..tiny() }
}

/// No new disk space: neither new files nor longer ones.
fn no_space(change: &Change<'_>) -> io::Result<Option<usize>> {
    match change {
        Change::Allocate(..) | Change::Create(_) => Err(full()),
        _ => Ok(None),
    }
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log")
}

#[test]
fn fault_10_a_full_disk_refuses_and_acknowledging_frees_it() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, script) = scripted(dir.path(), refuse());
    let mut reader = spool.reader("siem", Start::Oldest).unwrap();
    fill(&spool, 40);
    script.now(no_space);
    let mut accepted = 40;
    let refused = loop {
        match spool.append(&payload(accepted + 1)) {
            Ok(seq) => accepted = seq,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&refused, AppendError::Full { source: Some(source) } if source.kind() == io::ErrorKind::StorageFull)
    );
    // Reading, acknowledging and reclaiming need no space.
    assert_eq!(drain(&mut reader).records, (1..=accepted).collect::<Vec<_>>());
    let before = segments(dir.path()).len();
    reader.acker().ack(accepted).unwrap();
    until(|| segments(dir.path()).len() < before);
    script.healthy();
    assert_eq!(spool.append(&payload(accepted + 1)).unwrap(), accepted + 1, "without a restart, and no number is lost");
    drop(spool);
    let (spool, recovery) = open(dir.path(), refuse());
    assert!(recovery.tail.is_none() && recovery.missing.is_empty());
    assert_eq!(drain(&mut spool.reader("siem", Start::Oldest).unwrap()).records.last(), Some(&(accepted + 1)));
}

#[test]
fn fault_10_a_torn_spool_opens_on_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), 5);
    let path = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let end = anatomy(&path).last().unwrap().1.end;
    bytes[end..end + 30].fill(1);
    fs::write(&path, bytes).unwrap();
    let script = Arc::new(Scripted::default());
    let mut room = false;
    script.now(move |change| match change {
        Change::SetLength(..) => {
            room = true;
            Ok(None)
        }
        _ if room => Ok(None),
        change => no_space(change),
    });
    let (spool, recovery) = Spool::open_on(Disk { script: Some(script) }, dir.path(), tiny()).unwrap();
    let tail = recovery.tail.unwrap();
    assert!(tail.saved.is_none() && tail.torn_bytes == 30, "{tail:?}");
    assert_eq!(spool.append(&payload(6)).unwrap(), 6);
    assert_eq!(read_all(&spool).records, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn fault_10_blocked_appends_go_on_by_themselves_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, script) = scripted(dir.path(), tiny());
    fill(&spool, 40);
    script.now(no_space);
    std::thread::scope(|scope| {
        let appending = scope.spawn(|| (41..=80).for_each(|n| assert_eq!(spool.append(&payload(n)).unwrap(), n)));
        until(|| spool.shared.queue.lock().starved);
        assert!(!appending.is_finished());
        script.healthy();
    });
    assert_eq!(read_all(&spool).records, (1..=80).collect::<Vec<_>>());
}

#[test]
fn fault_10_no_space_in_the_middle_of_a_write_leaves_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, script) = scripted(dir.path(), refuse());
    fill(&spool, 3);
    let len = spool.usage().bytes;
    let mut writes = 0;
    script.now(move |change| match change {
        Change::Write(path, ..) if is_segment(path) => {
            writes += 1;
            if writes == 1 { Ok(Some(50)) } else { Err(full()) }
        }
        _ => Ok(None),
    });
    assert!(matches!(spool.append(&payload(4)), Err(AppendError::Full { source: Some(_) })));
    let path = segments(dir.path()).remove(0);
    assert_eq!(fs::metadata(&path).unwrap().len(), len, "cut back");
    script.healthy();
    assert_eq!(spool.append(&payload(4)).unwrap(), 4);
    assert_eq!(read_all(&spool).records, [1, 2, 3, 4]);
}

#[test]
fn fault_10_what_is_submitted_to_a_full_disk_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, script) = scripted(dir.path(), tiny());
    fill(&spool, 3);
    script.now(|change| match change {
        Change::Write(path, ..) if is_segment(path) => Err(full()),
        _ => Ok(None),
    });
    let appending = spool.submit_all(&[payload(4), payload(5)]).unwrap();
    assert!(matches!(appending.wait(), Err(AppendError::Full { source: Some(_) })));
    script.healthy();
    assert_eq!(spool.append(&payload(4)).unwrap(), 4, "its numbers are given again");
    assert_eq!(read_all(&spool).records, [1, 2, 3, 4]);
}

#[test]
fn fault_10_a_cursor_that_cannot_be_written_only_costs_duplicates() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, script) = scripted(dir.path(), refuse());
    let reader = spool.reader("siem", Start::Oldest).unwrap();
    fill(&spool, 40);
    script.now(|change| match change {
        Change::Write(path, ..) | Change::Sync(path) if !is_segment(path) => Err(full()),
        _ => Ok(None),
    });
    assert!(reader.acker().ack(20).is_err());
    assert_eq!(reader.acker().acked(), 20);
    let bases = segment::list(dir.path()).unwrap();
    script.healthy();
    reader.acker().ack(21).unwrap();
    until(|| segment::list(dir.path()).unwrap()[0] > bases[0]);
    assert!(spool.reader("new", Start::Oldest).is_ok());
}

#[test]
fn fault_10_a_segment_is_deleted_only_after_the_cursor_is_on_the_device() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, script) = scripted(dir.path(), refuse());
    let reader = spool.reader("siem", Start::Oldest).unwrap();
    fill(&spool, 40);
    let (told, syncs) = std::sync::mpsc::channel();
    script.now(move |change| match change {
        Change::Sync(path) if !is_segment(path) => {
            let _ = told.send(());
            Err(broken())
        }
        Change::Remove(path) if is_segment(path) => panic!("deleted with no durable acknowledgement"),
        _ => Ok(None),
    });
    let bases = segment::list(dir.path()).unwrap();
    reader.acker().ack(40).unwrap();
    syncs.recv_timeout(PATIENCE).unwrap();
    reader.acker().ack(41).unwrap();
    assert_eq!(segment::list(dir.path()).unwrap(), bases);
    script.healthy();
    spool.shared.keeper.nudge();
    until(|| segment::list(dir.path()).unwrap()[0] > bases[0]);
}

#[test]
fn fault_11_a_failed_sync_poisons_and_nothing_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, script) = scripted(dir.path(), tiny());
    let mut reader = spool.reader("siem", Start::Oldest).unwrap();
    fill(&spool, 5);
    script.now(|change| match change {
        Change::Sync(path) if is_segment(path) => Err(broken()),
        _ => Ok(None),
    });
    let failed = spool.append(&payload(6)).unwrap_err();
    assert!(matches!(failed, AppendError::Poisoned { .. }) && failed.to_string().contains("outcome unknown"));
    // The device says yes again, as devices do: it is not believed.
    script.now(|change| match change {
        Change::Write(path, ..) | Change::Sync(path) if is_segment(path) => panic!("written after a failed sync"),
        _ => Ok(None),
    });
    assert!(matches!(spool.append(&payload(7)), Err(AppendError::Poisoned { .. })));
    assert!(matches!(pollster::block_on(spool.flush()), Ok(()) | Err(AppendError::Poisoned { .. })));
    assert_eq!(drain(&mut reader).records, [1, 2, 3, 4, 5], "what was not synced is not shown");
    assert_eq!(reader.wait(PATIENCE), Ready::Ended);
    reader.acker().ack(3).unwrap();
    assert!(matches!(spool.close(), Err(AppendError::Poisoned { .. })));
    drop(spool);
    let (spool, _) = open(dir.path(), tiny());
    let found = drain(&mut spool.reader("siem", Start::Oldest).unwrap()).records;
    assert!(found == [4, 5] || found == [4, 5, 6], "{found:?}");
}

#[test]
fn fault_11_all_who_wait_for_a_failing_device_hear_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, script) = scripted(dir.path(), tiny());
    script.now(|change| match change {
        Change::Sync(path) if is_segment(path) => Err(broken()),
        _ => Ok(None),
    });
    std::thread::scope(|scope| {
        for n in 0..16 {
            let spool = &spool;
            scope.spawn(move || assert!(matches!(spool.append(&payload(n)), Err(AppendError::Poisoned { .. }))));
        }
    });
}

#[test]
fn fault_11_a_segment_that_cannot_be_begun_poisons_too() {
    for step in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let (spool, script) = scripted(dir.path(), tiny());
        script.now(move |change| match change {
            Change::Sync(path) if step == 0 && !is_segment(path) => Err(broken()),
            Change::Rename(..) if step == 1 => Err(broken()),
            Change::SyncDir(_) if step == 2 => Err(broken()),
            _ => Ok(None),
        });
        let mut accepted = 0;
        let refused = loop {
            match spool.append(&payload(accepted + 1)) {
                Ok(seq) => accepted = seq,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, AppendError::Poisoned { .. }), "{refused}");
        drop(spool);
        let (spool, recovery) = open(dir.path(), tiny());
        assert_eq!(recovery.next_seq, accepted + 1);
        assert_eq!(spool.append(&payload(accepted + 1)).unwrap(), accepted + 1);
        assert_eq!(read_all(&spool).records, (1..=accepted + 1).collect::<Vec<_>>());
    }
}

#[test]
fn fault_11_a_panic_in_the_commit_thread_hangs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, script) = scripted(dir.path(), tiny());
    script.now(|change| match change {
        Change::Write(path, ..) if is_segment(path) => panic!("a bug, for once on purpose"),
        _ => Ok(None),
    });
    assert!(matches!(spool.append(&payload(1)), Err(AppendError::Poisoned { .. })));
}

#[test]
fn fault_12_a_short_write_and_then_an_error_is_cut_back_and_poisons() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, script) = scripted(dir.path(), tiny());
    fill(&spool, 5);
    let used = spool.usage().bytes;
    let mut writes = 0;
    script.now(move |change| match change {
        Change::Write(path, ..) if is_segment(path) => {
            writes += 1;
            if writes == 1 { Ok(Some(60)) } else { Err(broken()) }
        }
        _ => Ok(None),
    });
    assert!(matches!(spool.append(&payload(6)), Err(AppendError::Poisoned { .. })));
    let path = segments(dir.path()).remove(0);
    assert_eq!(fs::metadata(&path).unwrap().len(), used);
    script.healthy();
    assert!(matches!(spool.append(&payload(6)), Err(AppendError::Poisoned { .. })));
    drop(spool);
    let (spool, _) = open(dir.path(), tiny());
    assert_eq!(read_all(&spool).records, [1, 2, 3, 4, 5]);
}

#[test]
fn fault_12_short_writes_alone_are_continued() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, script) = scripted(dir.path(), tiny());
    script.now(|change| match change {
        Change::Write(_, _, bytes) if bytes.len() > 7 => Ok(Some(7)),
        _ => Ok(None),
    });
    fill(&spool, 60);
    assert_eq!(read_all(&spool).records, (1..=60).collect::<Vec<_>>());
}

#[test]
fn a_file_system_without_allocation_works_too() {
    // Sparse files are what it comes to; what counts is that nothing relies on the length.
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), 40);
    let path = segments(dir.path()).pop().unwrap();
    let bytes = fs::read(&path).unwrap();
    let header = format::SegmentHeader::decode(bytes.first_chunk().unwrap()).unwrap();
    let end = anatomy(&path).last().unwrap().1.end;
    let mut bytes = bytes[..end].to_vec();
    bytes[..64].copy_from_slice(&format::SegmentHeader { size: 0, ..header }.encode());
    fs::write(&path, bytes).unwrap();
    let (spool, recovery) = open(dir.path(), tiny());
    assert!(recovery.tail.is_none(), "{recovery:?}");
    fill(&spool, 80);
    assert_eq!(read_all(&spool).records, (1..=80).collect::<Vec<_>>());
}

#[cfg(target_os = "linux")]
#[test]
fn fault_10_a_real_full_disk() {
    use std::process::Command;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("tmpfs");
    fs::create_dir(&place).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(&place).output();
    if !mounted.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a tmpfs can only be mounted by root ({mounted:?})");
        return;
    }
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(self.0).status();
        }
    }
    let _unmount = Unmount(&place);
    let options = Options { segment_bytes: 16 << 10, ..refuse() };
    let (spool, recovery) = open(&place.join("spool"), options);
    assert_eq!(recovery.warnings, [Warning::TemporaryFileSystem { kind: "tmpfs" }]);
    let mut reader = spool.reader("siem", Start::Oldest).unwrap();
    let mut accepted = 0;
    for _ in 0..3 {
        let refused = loop {
            match spool.append(&payload(accepted + 1)) {
                Ok(seq) => accepted = seq,
                Err(error) => break error,
            }
        };
        assert!(matches!(&refused, AppendError::Full { source: Some(_) }), "{refused}");
        // Opening and everything else works on the full disk.
        drain(&mut reader);
        reader.acker().ack(accepted).unwrap();
        until(|| spool.append(&payload(accepted + 1)).inspect(|seq| accepted = *seq).is_ok());
    }
    while spool.append(&payload(accepted + 1)).inspect(|seq| accepted = *seq).is_ok() {}
    let acked = reader.acker().acked();
    drop(spool);
    let (spool, recovery) = open(&place.join("spool"), options);
    assert_eq!((recovery.next_seq, recovery.tail.is_none()), (accepted + 1, true));
    let found = drain(&mut spool.reader("siem", Start::Oldest).unwrap());
    assert_eq!(found.records, (acked + 1..=accepted).collect::<Vec<_>>());
}

/// Whether a change writes zeros to a segment, which no group consists of.
fn is_blank(change: &Change<'_>) -> bool {
    matches!(change, Change::Write(path, _, bytes) if is_segment(path) && bytes.iter().all(|byte| *byte == 0))
}

/// Whether zeros written ahead are worth anything where temporary files are.
fn takes_zeros(dir: &Path) -> bool {
    let file = Disk::default().create(&dir.join("probe")).unwrap();
    let takes = file.allocate(4096).unwrap() && file.overwritable() > 0;
    if !takes {
        eprintln!("skipped: this file system does not allocate ahead, or never overwrites");
    }
    takes
}

#[test]
fn zeros_go_ahead_of_small_groups_and_stay_within_the_segment() {
    let options = Options { max_bytes: 16 << 20, segment_bytes: 2 << 20, ..Options::default() };
    let dir = tempfile::tempdir().unwrap();
    if !takes_zeros(dir.path()) {
        return;
    }
    let (spool, script) = scripted(dir.path(), options);
    let zeros = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&zeros);
    script.now(move |change| {
        if let Change::Write(_, offset, bytes) = change
            && is_blank(change)
        {
            seen.lock().unwrap().push((*offset, bytes.len() as u64));
        }
        Ok(None)
    });
    let append = |bytes: usize| {
        let before = zeros.lock().unwrap().len();
        spool.append(&vec![b'x'; bytes]).unwrap();
        zeros.lock().unwrap()[before..].to_vec()
    };
    let used = || spool.usage().bytes;
    assert_eq!(append(100), [(used(), 512 << 10)], "behind the first group");
    assert!((0..50).all(|_| append(1000).is_empty()), "there are enough");
    assert!((0..4).all(|_| append(200 << 10).is_empty()), "and large groups want none");
    assert_eq!(append(100), [(used(), 512 << 10)], "as far as they are used up");
    assert!(append(900 << 10).is_empty());
    assert_eq!(append(100), [(used(), (2 << 20) - used())], "up to the segment's end");
    let path = segments(dir.path()).remove(0);
    assert_eq!(fs::metadata(path).unwrap().len(), 2 << 20);
    drop(spool);
    let (_, recovery) = open(dir.path(), options);
    assert!(recovery.tail.is_none(), "{recovery:?}");
}

#[test]
fn zeros_that_cannot_be_written_fail_nobody() {
    let dir = tempfile::tempdir().unwrap();
    if !takes_zeros(dir.path()) {
        return;
    }
    let (spool, script) = scripted(dir.path(), tiny());
    let tried = Arc::new(Mutex::new(0));
    let count = Arc::clone(&tried);
    script.now(move |change| match is_blank(change) {
        true => {
            *count.lock().unwrap() += 1;
            Err(full())
        }
        false => Ok(None),
    });
    fill(&spool, 60);
    assert_eq!(read_all(&spool).records, (1..=60).collect::<Vec<_>>());
    assert_eq!(*tried.lock().unwrap(), segments(dir.path()).len(), "once in each segment");
}
