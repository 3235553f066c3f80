//! A process that dies between any two changes to the disk, and again while it recovers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::disk::{Change, Script};
use super::*;

/// Lets so many changes happen; then the process is as good as dead.
#[derive(Default)]
struct Lifetime {
    left: AtomicU64,
    made: AtomicU64,
}

impl Script for Lifetime {
    fn judge(&self, _: &Change<'_>) -> io::Result<Option<usize>> {
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => {
                self.made.fetch_add(1, Ordering::SeqCst);
                Ok(None)
            }
            Err(_) => Err(io::Error::other("dead")),
        }
    }
}

fn disk(changes: u64) -> (Disk, Arc<Lifetime>) {
    let lifetime = Arc::new(Lifetime { left: AtomicU64::new(changes), made: AtomicU64::new(0) });
    (Disk { script: Some(lifetime.clone()) }, lifetime)
}

/// Appends, reads and acknowledges for a while. Gives what was accepted and acknowledged before death.
fn live(disk: Disk, dir: &Path, from: u64) -> (u64, u64) {
    let Ok((spool, _)) = Spool::open_on(disk, dir, tiny()) else { return (from, 0) };
    let Ok(mut reader) = spool.reader("siem", Start::Oldest) else { return (from, 0) };
    let (mut accepted, mut acked) = (from, 0);
    for _ in 0..30 {
        let next = spool.shared.queue.lock().next_seq();
        let records = [payload(next), payload(next + 1)];
        match spool.append_all(&records) {
            Ok(first) => {
                assert_eq!(first, next);
                accepted = first + 1;
            }
            Err(error) => assert!(matches!(error, AppendError::Poisoned { .. }), "{error}"),
        }
        // Slower than the appends, so that there is a backlog.
        for _ in 0..2 {
            if let Ok(Some(Item::Record { seq, .. })) = reader.try_next()
                && seq.is_multiple_of(3)
                && reader.acker().ack(seq).is_ok()
            {
                acked = seq;
            }
        }
    }
    (accepted, acked)
}

#[test]
fn fault_02_death_at_every_change_and_again_in_recovery() {
    let dir = quick_folder();
    let (born, once) = (dir.path().join("born"), dir.path().join("once"));
    let (all, lifetime) = disk(u64::MAX);
    live(all, &born, 0);
    let changes = lifetime.made.load(Ordering::SeqCst);
    assert!(changes > 100);
    for first in (0..=changes).step_by(if long() { 1 } else { 3 }) {
        for second in [0, 1, 2, 3, 4, 5, 6, 7, 9, 11] {
            let _ = fs::remove_dir_all(&once);
            let (accepted, acked) = live(disk(first).0, &once, 0);
            let (accepted, later) = live(disk(second).0, &once, accepted);
            let (spool, recovery) = open(&once, tiny());
            let mut reader = spool.reader("siem", Start::Oldest).unwrap();
            let start = reader.position();
            assert!(start <= acked.max(later) + 1, "nothing is skipped");
            let found = drain(&mut reader);
            assert_eq!(found.lost, NONE, "died after {first} and {second} changes: {recovery:?}");
            assert!(found.records.iter().copied().eq(start..recovery.next_seq));
            assert!(recovery.next_seq > accepted, "died after {first} and {second}: accepted {accepted}, {recovery:?}");
            assert_eq!(spool.append(&payload(recovery.next_seq)).unwrap(), recovery.next_seq);
            if second > 0 && !long() && !first.is_multiple_of(5) {
                break;
            }
        }
    }
}
