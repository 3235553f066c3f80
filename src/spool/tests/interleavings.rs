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
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use error::AppendError;
use layout::{Limits, Place};
use queue::{Appender, Offered, Queue, Refusal, Segment, Start, Work};
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

/// What stands for the disk: whoever has work of the queue writes here.
struct Device {
    queue: Queue,
    /// Nobody else writes meanwhile.
    written: Mutex<Written>,
    /// The newest number that is on the device.
    durable: AtomicU64,
    /// How the second group fails.
    fails: Option<Failure>,
}

#[derive(Default)]
struct Written {
    groups: u64,
}

impl Device {
    fn new(max_bytes: u64, fails: Option<Failure>) -> Arc<Self> {
        let limits = Limits { max_bytes, segment_bytes: 256, max_record_bytes: 100, sync_interval: None };
        let segments = VecDeque::from([Segment { base: 1, bytes: format::SEGMENT_HEADER }]);
        let queue = Queue::new(limits, Start { spool_id: 7, segments, size: 256, next_seq: 1 });
        Arc::new(Self { queue, written: Mutex::default(), durable: AtomicU64::new(0), fails })
    }

    async fn append(&self, appender: Appender, record: &[u8]) -> Result<u64, AppendError> {
        let checksum = crc32c::crc32c(record);
        loop {
            match self.queue.offer(&[record], &[checksum], appender) {
                Ok(Offered { first, outcome, work }) => {
                    if let Some(work) = work {
                        assert_eq!(appender, Appender::Thread);
                        self.work(work);
                    }
                    let outcome = match appender {
                        Appender::Thread => outcome.wait_here(),
                        Appender::Task => outcome.wait().await,
                    };
                    return outcome.map(|()| first);
                }
                Err(Refusal::Busy { epoch } | Refusal::Full { epoch }) => {
                    Changed::new(Room(&self.queue), epoch, None).await;
                }
                Err(Refusal::Failed(error)) => return Err(error),
            }
        }
    }

    fn work(&self, work: Work) {
        let mut written = self.written.try_lock().expect("nobody else has work");
        let woken = match work {
            Work::Group { bytes, first_seq, place } => {
                written.groups += 1;
                assert!(bytes.len() as u64 <= 256 - format::SEGMENT_HEADER);
                let header = format::GroupHeader::decode(&bytes).unwrap();
                assert_eq!(header.first_seq, first_seq);
                match self.fails.filter(|_| written.groups == 2) {
                    Some(Failure::NoSpace) => self.queue.no_space(io::Error::other("full")),
                    Some(Failure::Broken) => self.queue.poison(io::Error::other("broken")),
                    None => {
                        assert_eq!(self.durable.swap(header.end() - 1, Ordering::SeqCst) + 1, first_seq, "dense");
                        assert!(place == Place::Here || first_seq > 1);
                        self.queue.written(bytes)
                    }
                }
            }
            Work::Roll { base, size } => self.queue.rolled(base, size),
            Work::Sync => self.queue.synced(),
            Work::End => unreachable!("it is nobody's work"),
        };
        drop(written);
        self.queue.done(woken);
    }

    /// The commit thread.
    fn commit(&self) {
        loop {
            match self.queue.take() {
                Work::End => break,
                work => self.work(work),
            }
        }
        assert!(self.written.try_lock().is_ok(), "nobody writes any more");
        self.queue.end();
    }

    fn spawn<T: Send + 'static>(
        self: &Arc<Self>,
        run: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> shuttle::thread::JoinHandle<T> {
        let device = Arc::clone(self);
        shuttle::thread::spawn(move || run(&device))
    }

    /// An appender of every kind in turn.
    fn spawn_appender(self: &Arc<Self>, kind: usize, run: fn(&Self, Appender)) -> shuttle::thread::JoinHandle<()> {
        let appender = if kind.is_multiple_of(3) { Appender::Task } else { Appender::Thread };
        self.spawn(move |device| run(device, appender))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    NoSpace,
    Broken,
}

#[test]
fn every_appender_is_answered_and_its_record_is_durable_then() {
    shuttle::check_random(
        || {
            let device = Device::new(1 << 20, None);
            let commits = device.spawn(Device::commit);
            let appenders: Vec<_> = (0..3)
                .map(|kind| {
                    device.spawn_appender(kind, |device, appender| {
                        let mut last = 0;
                        for _ in 0..2 {
                            let seq = shuttle::future::block_on(device.append(appender, &[1; 20])).unwrap();
                            assert!(seq > last && device.durable.load(Ordering::SeqCst) >= seq);
                            assert!(device.queue.lock().durable_end() > seq);
                            last = seq;
                        }
                    })
                })
                .collect();
            let reader = device.spawn(|device| {
                let (queue, mut next) = (&device.queue, 1);
                loop {
                    let (view, ended, epoch) = {
                        let state = queue.lock();
                        (state.view(next), state.has_ended(), state.readable.epoch())
                    };
                    match view {
                        Some(view) => next = view.end,
                        None if ended => return next,
                        None => shuttle::future::block_on(Changed::new(Readable(queue), epoch, None)),
                    }
                }
            });
            // What a task has appended is written, even if it does not wait for that.
            let left = device.queue.offer(&[[9; 20]], &[crc32c::crc32c(&[9; 20])], Appender::Task).is_ok();
            appenders.into_iter().for_each(|thread| thread.join().unwrap());
            device.queue.close();
            commits.join().unwrap();
            let durable = device.durable.load(Ordering::SeqCst);
            assert_eq!((durable, reader.join().unwrap()), (6 + u64::from(left), durable + 1));
        },
        2000,
    );
}

#[test]
fn closing_waits_for_whoever_writes_and_writes_what_is_left() {
    shuttle::check_random(
        || {
            let device = Device::new(1 << 20, None);
            let commits = device.spawn(Device::commit);
            let appenders: Vec<_> = (0..3)
                .map(|kind| {
                    device.spawn_appender(kind, |device, appender| {
                        for _ in 0..2 {
                            match shuttle::future::block_on(device.append(appender, &[1; 20])) {
                                Ok(seq) => assert!(device.durable.load(Ordering::SeqCst) >= seq),
                                Err(AppendError::Closed) => {}
                                Err(error) => panic!("{error}"),
                            }
                        }
                    })
                })
                .collect();
            device.queue.close();
            commits.join().unwrap();
            let end = device.queue.lock().durable_end();
            appenders.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(device.queue.lock().durable_end(), end, "nothing is written afterwards");
            assert_eq!(device.queue.lock().next_seq(), end);
        },
        2000,
    );
}

#[test]
fn failures_reach_everyone_and_numbers_stay_dense() {
    for fails in [Failure::NoSpace, Failure::Broken] {
        shuttle::check_random(
            move || {
                let device = Device::new(1 << 20, Some(fails));
                let commits = device.spawn(Device::commit);
                let appenders: Vec<_> = (0..3)
                    .map(|kind| {
                        device.spawn_appender(kind, |device, appender| {
                            for _ in 0..2 {
                                match shuttle::future::block_on(device.append(appender, &[1; 20])) {
                                    Ok(seq) => assert!(device.durable.load(Ordering::SeqCst) >= seq),
                                    Err(AppendError::Full { .. }) => assert_eq!(device.fails, Some(Failure::NoSpace)),
                                    Err(AppendError::Poisoned { .. }) => {
                                        assert_eq!(device.fails, Some(Failure::Broken));
                                    }
                                    Err(error) => panic!("{error}"),
                                }
                            }
                        })
                    })
                    .collect();
                appenders.into_iter().for_each(|thread| thread.join().unwrap());
                device.queue.close();
                commits.join().unwrap();
                assert_eq!(device.queue.lock().durable_end(), device.durable.load(Ordering::SeqCst) + 1);
            },
            1000,
        );
    }
}

#[test]
fn a_full_queue_goes_on_when_a_segment_is_removed() {
    shuttle::check_random(
        || {
            let device = Device::new(512, None);
            let commits = device.spawn(Device::commit);
            let appender = device.spawn(|device| {
                for n in 1..=6 {
                    let appender = if n % 2 == 0 { Appender::Thread } else { Appender::Task };
                    assert_eq!(shuttle::future::block_on(device.append(appender, &[0; 90])).unwrap(), n);
                }
            });
            let remover = device.spawn(|device| {
                let (queue, mut read) = (&device.queue, 1);
                while read <= 6 {
                    let (view, epoch, oldest) = {
                        let state = queue.lock();
                        (state.view(read), state.readable.epoch(), state.segments()[0].base)
                    };
                    queue.removed(oldest);
                    match view {
                        Some(view) => read = view.end,
                        None => shuttle::future::block_on(Changed::new(Readable(queue), epoch, None)),
                    }
                }
            });
            appender.join().unwrap();
            remover.join().unwrap();
            device.queue.close();
            commits.join().unwrap();
        },
        2000,
    );
}
