//! The hand-off between appenders and the commit thread, in random interleavings of its own code under shuttle's locks.
//! It is compiled a second time here, with these locks in the place of the real ones.

// The other names these files use are the real ones.
use super::super::{error, format, layout};

#[allow(clippy::duplicate_mod, reason = "as above")]
#[path = "../outcome.rs"]
mod outcome;
#[allow(dead_code, clippy::duplicate_mod, reason = "not all of it is needed here, and twice is the point")]
#[path = "../queue.rs"]
mod queue;
#[allow(dead_code, clippy::duplicate_mod, reason = "as above")]
#[path = "../signal.rs"]
mod signal;
mod sync {
    pub(super) use shuttle::sync::{Condvar, Mutex, MutexGuard};
}

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use error::AppendError;
use layout::{Limits, Place};
use queue::{Queue, Refusal, Segment, Start, Work};
use signal::{Changed, HasSignal, Signal};

struct Readable<'a>(&'a Queue);

impl HasSignal for Readable<'_> {
    fn with_signal<R>(&self, work: impl FnOnce(&mut Signal) -> R) -> R {
        work(&mut self.0.lock().readable)
    }

    fn keep_time(&self, _: Instant) {}
}

struct Room<'a>(&'a Queue);

impl HasSignal for Room<'_> {
    fn with_signal<R>(&self, work: impl FnOnce(&mut Signal) -> R) -> R {
        work(&mut self.0.lock().room)
    }

    fn keep_time(&self, _: Instant) {}
}

fn queue(max_bytes: u64) -> Arc<Queue> {
    let limits = Limits { max_bytes, segment_bytes: 256, max_record_bytes: 100, sync_interval: None };
    let segments = VecDeque::from([Segment { base: 1, bytes: format::SEGMENT_HEADER }]);
    Arc::new(Queue::new(limits, Start { spool_id: 7, segments, size: 256, next_seq: 1 }))
}

async fn append(queue: &Queue, record: &[u8]) -> Result<u64, AppendError> {
    let checksum = crc32c::crc32c(record);
    loop {
        match queue.offer(&[record], &[checksum]) {
            Ok((seq, outcome)) => return outcome.wait().await.map(|()| seq),
            Err(Refusal::Busy { epoch } | Refusal::Full { epoch }) => Changed::new(Room(queue), epoch, None).await,
            Err(Refusal::Failed(error)) => return Err(error),
        }
    }
}

/// The commit thread; `fails` says how the n-th group fails.
fn commit(queue: &Queue, written: &AtomicU64, fails: impl Fn(u64) -> Option<Failure>) {
    let mut groups = 0;
    loop {
        match queue.take() {
            Work::Group { bytes, first_seq, place } => {
                groups += 1;
                assert!(bytes.len() as u64 <= 256 - format::SEGMENT_HEADER);
                let header = format::GroupHeader::decode(&bytes).unwrap();
                assert_eq!(header.first_seq, first_seq);
                match fails(groups) {
                    Some(Failure::NoSpace) => queue.no_space(io::Error::other("full")),
                    Some(Failure::Broken) => queue.poison(io::Error::other("broken")),
                    None => {
                        assert_eq!(written.swap(header.end() - 1, Ordering::SeqCst) + 1, first_seq, "dense");
                        assert!(place == Place::Here || first_seq > 1);
                        queue.written(bytes);
                    }
                }
            }
            Work::Roll { base, size } => queue.rolled(base, size),
            Work::Sync => queue.synced(),
            Work::End => break,
        }
    }
    queue.end();
}

enum Failure {
    NoSpace,
    Broken,
}

#[test]
fn every_appender_is_answered_and_its_record_is_durable_then() {
    shuttle::check_random(
        || {
            let queue = queue(1 << 20);
            let written = Arc::new(AtomicU64::new(0));
            let commits = {
                let (queue, written) = (Arc::clone(&queue), Arc::clone(&written));
                shuttle::thread::spawn(move || commit(&queue, &written, |_| None))
            };
            let appenders: Vec<_> = (0..3)
                .map(|n: u8| {
                    let (queue, written) = (Arc::clone(&queue), Arc::clone(&written));
                    shuttle::thread::spawn(move || {
                        let mut last = 0;
                        for _ in 0..2 {
                            let seq = shuttle::future::block_on(append(&queue, &[n; 60])).unwrap();
                            assert!(seq > last && written.load(Ordering::SeqCst) >= seq);
                            assert!(queue.lock().durable_end() > seq);
                            last = seq;
                        }
                    })
                })
                .collect();
            let reader = {
                let queue = Arc::clone(&queue);
                shuttle::thread::spawn(move || {
                    let mut next = 1;
                    while next <= 6 {
                        let (view, epoch) = {
                            let state = queue.lock();
                            (state.view(next), state.readable.epoch())
                        };
                        match view {
                            Some(view) => next = view.end,
                            None => shuttle::future::block_on(Changed::new(Readable(&queue), epoch, None)),
                        }
                    }
                })
            };
            appenders.into_iter().for_each(|thread| thread.join().unwrap());
            reader.join().unwrap();
            queue.close();
            commits.join().unwrap();
            assert_eq!(written.load(Ordering::SeqCst), 6);
        },
        2000,
    );
}

#[test]
fn failures_reach_everyone_and_numbers_stay_dense() {
    for fatal in [false, true] {
        shuttle::check_random(
            move || {
                let queue = queue(1 << 20);
                let written = Arc::new(AtomicU64::new(0));
                let commits = {
                    let (queue, written) = (Arc::clone(&queue), Arc::clone(&written));
                    shuttle::thread::spawn(move || {
                        commit(&queue, &written, |group| {
                            (group == 2).then_some(if fatal { Failure::Broken } else { Failure::NoSpace })
                        });
                    })
                };
                let appenders: Vec<_> = (0..3)
                    .map(|n: u8| {
                        let (queue, written) = (Arc::clone(&queue), Arc::clone(&written));
                        shuttle::thread::spawn(move || {
                            for _ in 0..2 {
                                match shuttle::future::block_on(append(&queue, &[n; 60])) {
                                    Ok(seq) => assert!(written.load(Ordering::SeqCst) >= seq),
                                    Err(AppendError::Full { .. }) => assert!(!fatal),
                                    Err(AppendError::Poisoned { .. }) => assert!(fatal),
                                    Err(error) => panic!("{error}"),
                                }
                            }
                        })
                    })
                    .collect();
                appenders.into_iter().for_each(|thread| thread.join().unwrap());
                queue.close();
                commits.join().unwrap();
                assert_eq!(queue.lock().durable_end(), written.load(Ordering::SeqCst) + 1);
            },
            1000,
        );
    }
}

#[test]
fn a_full_queue_goes_on_when_a_segment_is_removed() {
    shuttle::check_random(
        || {
            let queue = queue(512);
            let written = Arc::new(AtomicU64::new(0));
            let commits = {
                let (queue, written) = (Arc::clone(&queue), Arc::clone(&written));
                shuttle::thread::spawn(move || commit(&queue, &written, |_| None))
            };
            let appender = {
                let queue = Arc::clone(&queue);
                shuttle::thread::spawn(move || {
                    for n in 1..=6 {
                        assert_eq!(shuttle::future::block_on(append(&queue, &[0; 90])).unwrap(), n);
                    }
                })
            };
            let remover = {
                let queue = Arc::clone(&queue);
                shuttle::thread::spawn(move || {
                    let mut read = 1;
                    while read <= 6 {
                        let (view, epoch, oldest) = {
                            let state = queue.lock();
                            (state.view(read), state.readable.epoch(), state.segments()[0].base)
                        };
                        queue.removed(oldest);
                        match view {
                            Some(view) => read = view.end,
                            None => shuttle::future::block_on(Changed::new(Readable(&queue), epoch, None)),
                        }
                    }
                })
            };
            appender.join().unwrap();
            remover.join().unwrap();
            queue.close();
            commits.join().unwrap();
        },
        2000,
    );
}
