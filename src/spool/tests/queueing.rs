//! Appending, waiting, acknowledging and giving space back.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Barrier;
use std::task::{Context, Poll, Waker};

use super::*;

#[test]
fn what_is_appended_is_read_acknowledged_and_still_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("a/spool");
    let (spool, recovery) = open(&place, Options::default());
    assert!(recovery.created && recovery.tail.is_none(), "{recovery:?}");
    let id = spool.id();
    let mut reader = spool.reader("siem", Start::Oldest).unwrap();
    fill(&spool, 12);
    assert_eq!(drain(&mut reader).records, (1..=12).collect::<Vec<_>>());
    reader.acker().ack(7).unwrap();
    drop(spool);
    let (spool, recovery) = open(&place, Options::default());
    assert!(!recovery.created && recovery.tail.is_none(), "{recovery:?}");
    assert_eq!((recovery.first_seq, recovery.next_seq, spool.id()), (1, 13, id));
    let mut reader = spool.reader("siem", Start::End).unwrap();
    assert_eq!(drain(&mut reader).records, (8..=12).collect::<Vec<_>>(), "it is not new: it goes on");
    assert_eq!(spool.append(&payload(13)).unwrap(), 13);
    assert_eq!(drain(&mut reader).records, [13]);
    assert_eq!(drain(&mut spool.reader("late", Start::End).unwrap()).records, NONE);
    reader.rewind();
    assert_eq!(reader.position(), 8);
}

#[test]
fn what_is_submitted_keeps_its_order_and_is_there_when_the_wait_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), Options::default());
    let groups: Vec<_> = (0..20_u64).map(|group| (group * 5 + 1..=group * 5 + 5).collect::<Vec<_>>()).collect();
    let submitted: Vec<_> = groups
        .iter()
        .map(|group| spool.submit_all(&group.iter().map(|n| payload(*n)).collect::<Vec<_>>()).unwrap())
        .collect();
    assert_eq!(spool.submit_all(&[] as &[&[u8]]).unwrap().wait().unwrap(), 101);
    for (group, appending) in groups.iter().zip(submitted) {
        assert_eq!(appending.wait().unwrap(), group[0]);
        assert!(spool.durable_seq() >= group[4]);
    }
    drop(spool.submit_all(&[payload(101)]).unwrap());
    spool.close().unwrap();
    assert!(matches!(spool.submit_all(&[payload(102)]), Err(AppendError::Closed)));
    let (spool, _) = open(dir.path(), Options::default());
    assert_eq!(read_all(&spool).records, (1..=101).collect::<Vec<_>>(), "the one that nobody waited for, too");
}

#[test]
fn appenders_of_all_kinds_get_dense_numbers_and_their_own_records() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), Options::default());
    let start = Barrier::new(8);
    let mut numbered: Vec<(u64, Vec<u8>)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let (spool, start) = (&spool, &start);
                scope.spawn(move || {
                    start.wait();
                    let mut mine = Vec::new();
                    for n in 0..50 {
                        let record = |part| format!("{thread}/{n}/{part}").into_bytes();
                        if n % 5 == 0 {
                            let records = [record(0), record(1), record(2)];
                            let first = spool.append_all(&records).unwrap();
                            mine.extend((first..).zip(records));
                        } else if n % 2 == 0 {
                            mine.push((spool.append(&record(0)).unwrap(), record(0)));
                        } else {
                            mine.push((pollster::block_on(spool.append_async(&record(0))).unwrap(), record(0)));
                        }
                    }
                    assert!(mine.is_sorted(), "a thread's numbers rise");
                    mine
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    numbered.sort();
    assert!(numbered.iter().map(|(seq, _)| *seq).eq(1..=numbered.len() as u64));
    let mut reader = spool.reader("siem", Start::Oldest).unwrap();
    for (number, record) in &numbered {
        assert_eq!(reader.try_next().unwrap(), Some(Item::Record { seq: *number, payload: record }));
    }
    assert_eq!(reader.try_next().unwrap(), None);
}

#[test]
fn too_large_is_said_before_anything_is_queued() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), tiny());
    assert!(matches!(spool.append(&[b'x'; 513]), Err(AppendError::TooLarge { bytes: 513, max: 512 })));
    let batch = vec![vec![b'x'; 512]; 4];
    assert!(matches!(spool.append_all(&batch), Err(AppendError::TooLarge { .. })));
    assert_eq!(spool.append_all(&batch[..3]).unwrap(), 1);
    assert_eq!(spool.append(&[]).unwrap(), 4, "an empty record is one");
    assert_eq!(spool.append_all(&[[0; 0]; 0]).unwrap(), 5, "no record is none");
    assert_eq!(spool.durable_seq(), 4);
    assert!(matches!(
        Spool::open(dir.path().join("x"), Options { max_bytes: 1000, ..tiny() }),
        Err(OpenError::Options { .. })
    ));
    assert!(!dir.path().join("x").exists());
}

#[test]
fn a_reader_waits_for_what_comes() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), tiny());
    let mut reader = spool.reader("siem", Start::Oldest).unwrap();
    assert_eq!(reader.wait(Duration::ZERO), Ready::TimedOut);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut seen = Vec::new();
            while reader.wait(PATIENCE) == Ready::More {
                seen.extend(drain(&mut reader).records);
            }
            seen
        });
        fill(&spool, 100);
        spool.close().unwrap();
        assert_eq!(waiting.join().unwrap(), (1..=100).collect::<Vec<_>>(), "to the last one, and then it ends");
    });
    assert_eq!(pollster::block_on(reader.readable()), Ready::Ended);
}

#[test]
fn a_wait_that_is_dropped_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), tiny());
    let reader = spool.reader("siem", Start::Oldest).unwrap();
    for _ in 0..100 {
        let mut waiting = pin!(reader.readable());
        assert!(matches!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    }
    assert_eq!(spool.shared.queue.lock().readable.waiting(), 0);
}

#[test]
fn space_returns_when_every_destination_has_passed() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), tiny());
    let (slow, fast) = (spool.reader("slow", Start::Oldest).unwrap(), spool.reader("fast", Start::Oldest).unwrap());
    fill(&spool, 100);
    let all = segment::list(dir.path()).unwrap();
    fast.acker().ack(100).unwrap();
    slow.acker().ack(all[2] - 2).unwrap();
    until(|| segment::list(dir.path()).unwrap()[0] == all[1]);
    slow.acker().ack(all[2] - 1).unwrap();
    until(|| segment::list(dir.path()).unwrap()[0] == all[2]);
    let lag = spool.destinations();
    assert_eq!(
        lag.iter().map(|lag| (lag.destination.as_str(), lag.records)).collect::<Vec<_>>(),
        [("fast", 0), ("slow", 101 - all[2])]
    );
    assert!(lag[0].bytes == 0 && lag[1].bytes > 0);
    assert!(spool.waiting_since("fast").is_none() && spool.waiting_since("slow").is_some());
    assert!(spool.remove_destination("slow").unwrap());
    assert!(!spool.remove_destination("slow").unwrap());
    // With everything acknowledged only the last segment remains, and it is new if it was more than half full.
    until(|| spool.usage().bytes <= 1024 + format::SEGMENT_HEADER);
    drop(spool);
    let (spool, recovery) = open(dir.path(), tiny());
    assert_eq!((recovery.next_seq, recovery.missing.len()), (101, 0));
    assert_eq!(spool.destinations().len(), 1);
}

#[test]
fn fault_15_a_smaller_limit_than_the_contents_still_drains() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), 200);
    let smaller = Options { max_bytes: 8192, on_full: OnFull::Refuse, ..tiny() };
    let (spool, _) = open(dir.path(), smaller);
    assert!(spool.usage().is_high());
    let mut reader = spool.reader("siem", Start::Oldest).unwrap();
    assert!(matches!(spool.append(&payload(201)), Err(AppendError::Full { source: None })));
    assert_eq!(drain(&mut reader).records, (1..=200).collect::<Vec<_>>());
    reader.acker().ack(200).unwrap();
    until(|| spool.append(&payload(201)).is_ok());
    assert_eq!(drain(&mut reader).records, [201]);
}

#[test]
fn fault_16_a_full_spool_blocks_keeps_its_limit_and_drains_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { max_bytes: 16 << 10, ..tiny() };
    let (spool, _) = open(dir.path(), options);
    let mut reader = spool.reader("siem", Start::Oldest).unwrap();
    let total = 500;
    std::thread::scope(|scope| {
        scope.spawn(|| (1..=total).for_each(|n| assert_eq!(spool.append(&payload(n)).unwrap(), n)));
        // Nobody reads until it is full.
        until(|| spool.usage().is_high());
        let mut seen = 0;
        while seen < total {
            assert_eq!(reader.wait(PATIENCE), Ready::More);
            for seq in drain(&mut reader).records {
                assert_eq!(seq, seen + 1);
                seen = seq;
            }
            let on_disk: u64 =
                segments(dir.path()).iter().map(|path| fs::metadata(path).map_or(0, |file| file.len())).sum();
            // While a new segment has been begun, the one before may not have been shortened yet.
            assert!(on_disk <= options.max_bytes + options.segment_bytes, "{on_disk} bytes");
            assert!(spool.usage().bytes <= options.max_bytes);
            reader.acker().ack(seen).unwrap();
        }
    });
}

#[test]
fn fault_16_block_gives_up_after_its_timeout_and_refuse_at_once() {
    for on_full in [OnFull::Refuse, OnFull::Block { timeout: Some(Duration::from_millis(5)) }] {
        let dir = tempfile::tempdir().unwrap();
        let (spool, _) = open(dir.path(), Options { max_bytes: 8 << 10, on_full, ..tiny() });
        let mut accepted = 0;
        let refused = loop {
            match spool.append(&payload(accepted + 1)) {
                Ok(seq) => accepted = seq,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, AppendError::Full { source: None }), "{refused}");
        assert!(matches!(pollster::block_on(spool.append_async(&[0; 512])), Err(AppendError::Full { .. })));
        assert_eq!(read_all(&spool).records, (1..=accepted).collect::<Vec<_>>(), "accepted is kept, refused is not");
    }
}

#[test]
fn fault_18_a_dead_destination_delays_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), Options { max_bytes: 64 << 10, on_full: OnFull::Refuse, ..tiny() });
    spool.reader("dead", Start::Oldest).unwrap();
    let mut healthy = spool.reader("healthy", Start::Oldest).unwrap();
    let mut accepted = 0;
    while let Ok(seq) = spool.append(&payload(accepted + 1)) {
        accepted = seq;
        assert_eq!(drain(&mut healthy).records, [seq]);
        healthy.acker().ack(seq).unwrap();
    }
    assert!(accepted > 200 && spool.usage().is_high());
    assert_eq!(read_all(&spool).records.len() as u64, accepted, "the dead one's records are all there");
}

#[test]
fn fault_36_closing_with_a_backlog_keeps_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), tiny());
    let reader = spool.reader("siem", Start::Oldest).unwrap();
    fill(&spool, 150);
    reader.acker().ack(20).unwrap();
    // Records whose appenders are still waiting are written too.
    let mut pending = pin!(spool.append_async(b"last"));
    let early = pending.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    spool.close().unwrap();
    spool.close().unwrap();
    if early.is_pending() {
        assert_eq!(pollster::block_on(pending).unwrap(), 151);
    }
    assert!(matches!(spool.append(b"late"), Err(AppendError::Closed)));
    reader.acker().ack(30).unwrap();
    let (spool, recovery) = open(dir.path(), tiny());
    assert_eq!(recovery.next_seq, 152);
    assert!(spool.destinations()[0].acked >= 20);
}

#[test]
fn fault_37_no_decision_depends_on_the_clock() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), 40);
    for (index, path) in segments(dir.path()).iter().enumerate() {
        let mut bytes = fs::read(path).unwrap();
        let stamp = [0, u64::MAX, 1 << 60][index % 3];
        let header = format::SegmentHeader::decode(bytes.first_chunk().unwrap()).unwrap();
        bytes[..64].copy_from_slice(&format::SegmentHeader { stamp, ..header }.encode());
        for (_, range) in anatomy(path).iter().filter(|(seq, _)| *seq == 0) {
            let header = format::GroupHeader::decode(&bytes[range.clone()]).unwrap();
            bytes[range.clone()].copy_from_slice(&format::GroupHeader { stamp, ..header }.encode());
        }
        fs::write(path, bytes).unwrap();
    }
    let (spool, recovery) = open(dir.path(), tiny());
    assert!(recovery.tail.is_none());
    assert_eq!(read_all(&spool).records, (1..=40).collect::<Vec<_>>());
    spool.reader("siem", Start::Oldest).unwrap();
    let _ = spool.waiting_since("siem");
    assert!(status(dir.path()).unwrap().destinations.iter().all(|destination| destination.lag.records == 40));
}

#[test]
fn an_interval_answers_before_the_sync_and_shows_records_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { sync: Sync::Interval(PATIENCE), ..tiny() };
    let (spool, _) = open(dir.path(), options);
    let mut reader = spool.reader("siem", Start::Oldest).unwrap();
    assert_eq!(spool.append(&payload(1)).unwrap(), 1);
    assert_eq!(drain(&mut reader).records, NONE);
    pollster::block_on(spool.flush()).unwrap();
    assert_eq!(drain(&mut reader).records, [1]);
    for n in 2..=60 {
        spool.append(&payload(n)).unwrap();
    }
    spool.close().unwrap();
    assert_eq!(drain(&mut reader).records, (2..=60).collect::<Vec<_>>());
    drop(spool);
    let (spool, recovery) = open(dir.path(), Options { sync: Sync::Interval(Duration::from_millis(1)), ..tiny() });
    assert_eq!((recovery.next_seq, recovery.tail.is_none()), (61, true));
    let mut reader = spool.reader("siem", Start::Oldest).unwrap();
    drain(&mut reader);
    spool.append(&payload(61)).unwrap();
    assert_eq!(reader.wait(PATIENCE), Ready::More);
    assert_eq!(drain(&mut reader).records, [61]);
}

#[test]
fn status_and_export_work_on_a_live_spool() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), tiny());
    let reader = spool.reader("a/b c", Start::Oldest).unwrap();
    fill(&spool, 60);
    reader.acker().ack(10).unwrap();
    let status = status(dir.path()).unwrap();
    assert_eq!(status.id, Some(spool.id()));
    assert_eq!((status.next_seq, status.segments), (61, segments(dir.path()).len()));
    if cfg!(target_os = "linux") {
        assert_eq!(status.open_in, Some(std::process::id()));
    }
    let lag = &status.destinations[0].lag;
    assert_eq!((lag.destination.as_str(), lag.acked, lag.records), ("a/b c", 10, 50));
    let mut export = Export::new(dir.path(), lag.acked + 1).unwrap();
    for n in 11..=60 {
        assert_eq!(export.try_next().unwrap(), Some(Item::Record { seq: n, payload: &payload(n) }));
    }
    assert_eq!(export.try_next().unwrap(), None);
    drop(spool);
    assert_eq!(super::super::status(dir.path()).unwrap().open_in, None);
}

#[test]
fn reading_goes_on_while_others_append_and_segments_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), tiny());
    let total = 600;
    let destinations = ["a", "b", "c"].map(|name| spool.reader(name, Start::Oldest).unwrap());
    std::thread::scope(|scope| {
        for mut reader in destinations {
            scope.spawn(move || {
                let mut seen = 0;
                while seen < total {
                    assert_eq!(reader.wait(PATIENCE), Ready::More);
                    let found = drain(&mut reader);
                    assert_eq!(found.lost, NONE);
                    seen = found.records.last().copied().unwrap_or(seen);
                    reader.acker().ack(seen).unwrap();
                }
            });
        }
        fill(&spool, total);
    });
    until(|| segments(dir.path()).len() == 1);
}

#[test]
fn handles_go_where_they_are_needed() {
    fn send_and_sync<T: Send + std::marker::Sync>() {}
    fn send<T: Send>(_: &T) {}
    send_and_sync::<Spool>();
    send_and_sync::<Reader>();
    send_and_sync::<Acker>();
    send_and_sync::<AppendError>();
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), tiny());
    send(&spool.append_async(b""));
    send(&spool.flush());
    send(&spool.reader("siem", Start::End).unwrap().readable());
}
