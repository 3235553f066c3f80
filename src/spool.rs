//! The spool: a durable queue of byte records on disk.
//!
//! # Goals
//!
//! * An append that returned is on the device, and is read until every destination has acknowledged it.
//! * Many appends share one sync; one slow destination delays no other; memory stays bounded.
//! * A crash at any moment, a full disk, a failing device and damaged bytes cost what they physically hit, and every record so
//!   lost is named by its number.
//! * A start without a person: after a crash the spool opens by itself.
//!
//! It is not a database (records are found by number, in order), not Kafka (one process), not a ring buffer (nothing is ever dropped
//! to make room), and knows nothing about what the bytes mean.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path().join("spool");
//! use auditwire::spool::{Item, Options, Spool, Start};
//!
//! let (spool, recovery) = Spool::open(dir, Options::default())?;
//! assert!(recovery.created);
//! let mut reader = spool.reader("siem", Start::Oldest)?;
//! let seq = spool.append(b"on the device when this returns")?;
//! while let Some(item) = reader.try_next()? {
//!     match item {
//!         Item::Record { seq, payload } => assert_eq!((seq, payload.len()), (1, 31)),
//!         Item::Damaged(damage) => eprintln!("{:?} are gone", damage.range),
//!     }
//! }
//! reader.acker().ack(seq)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Files
//!
//! ```text
//! spool/                               0700, files 0600
//!   LOCK                               flock; the holder's process id in it is information only
//!   seg-00000000000000000001.log       a segment; 20 digits: number of its first record
//!   cursor-<destination>               how far a destination has acknowledged
//!   torn-<base>-<offset>.bin           what opening found behind the last intact record, kept for a person
//!   damaged-<base>-<offset>.bin        what reading found in the place of records, kept for a person
//!   segment.tmp  cursor.tmp            being created
//! ```
//!
//! A segment is a header, then groups; a group is a header, then records. Integers are little-endian, checksums are CRC-32C.
//!
//! ```text
//! segment header (64)  magic "AUDSPL01" | version u32 | flags u32 | spool_id u64 | base u64 | previous_base u64 | size u64 |
//!                      stamp u64 | reserved u32 | crc u32 of bytes 0..60
//! group header (48)    magic u32 | crc u32 of bytes 8..48 | spool_id u64 | first_seq u64 | count u32 | body u32 | stamp u64 |
//!                      flags u32 | reserved u32
//! record               len u32 | crc u32 of payload, len, seq, spool_id | seq u64 | payload
//! cursor slot (64)     magic "AUDCUR01" | generation u64 | acked u64 | spool_id u64 | reserved | crc u32 of bytes 0..60;
//!                      two of them, at 0 and 4096
//! ```
//!
//! `size` is what a segment was allocated with, 0 where the file system cannot; behind the last group of it there are zeros. Stamps are wall clock, in milliseconds; no decision
//! depends on them. A record states its own number, and its checksum ties it to that number and this spool: it can be told for what
//! it is wherever it is found, whatever the bytes around it have become. A group header bounds the lengths behind it, says what was
//! written in one piece, and lets a reader pass over a group without reading it.
//!
//! Numbers are dense and start at 1. Those of a group that failed, or was torn before anyone was answered, are given again; all
//! others never. 0 is the number of nothing, so a page of zeros is no record.
//!
//! # Rules of a crash
//!
//! 1. One group is one write and one sync, and the next is not written before that sync has returned (with
//!    [`Sync::Interval`], not before the write has). Readers see only what is synced.
//! 2. A segment is synced to its end before the next one gets its name. So only the last one can be torn.
//! 3. The next segment's first number says where a segment ends: what is missing before it is missing, what lies behind is noise.
//! 4. After a failed sync nothing is written any more: the kernel has forgotten what it could not write, and says yes when asked
//!    again.
//! 5. A segment is deleted when the cursors of all destinations, as they are on the device, have passed it.
//! 6. Opening reads the last segment from the device. Behind its last intact record it goes on: in place if only zeros
//!    follow, in a new segment otherwise.
//!
//! # Limits
//!
//! With [`Sync::Interval`], what was not yet synced when the power went may leave no trace: nobody can name it.
//!
//! Whether a torn group at the very end was answered cannot be told if the device lies about syncs. It is treated as not
//! answered unless the file is shorter than it was made or [`Sync::Interval`] was used; [`Recovery::tail`] reports it. A file that
//! was cut exactly between two groups shows only that it is too short ([`Tail::shortened_by`]). Where the file system cannot allocate,
//! not even that. flock does not exclude other hosts on most network file systems ([`Warning`]).

mod cursor;
mod disk;
mod error;
mod format;
mod inspect;
mod keeper;
mod layout;
mod options;
mod outcome;
mod place;
mod queue;
mod reader;
mod recover;
mod report;
mod scan;
mod segment;
mod signal;
mod sync;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

pub use error::{AppendError, OpenError, ReadError};
pub use inspect::{DestinationStatus, Export, Status, Verified, status, verify};
pub use options::{OnFull, Options, Sync};
pub use place::Warning;
pub use reader::{Acker, Damage, Item, Reader, Ready};
pub use report::{Lag, Recovery, SeqRange, Tail, Usage};

use cursor::Cursor;
use disk::Disk;
use keeper::{Bell, Keeper};
use outcome::Outcome;
use queue::{Appender, Offered, Queue, Refusal};
use segment::Prepared;
use signal::{Changed, HasSignal, Signal};
use writer::Writer;

/// An open spool. Dropping it closes it.
pub struct Spool {
    shared: Arc<Shared>,
    on_full: OnFull,
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    commit: JoinHandle<()>,
    keeper: JoinHandle<()>,
    /// Let go of last.
    lock: File,
}

/// What the handle, the readers and both threads share.
struct Shared {
    dir: PathBuf,
    disk: Disk,
    spool_id: u64,
    queue: Queue,
    /// Whoever has work from the queue writes.
    writer: Mutex<Writer>,
    cursors: Mutex<BTreeMap<String, Arc<Cursor>>>,
    /// The next segment, made ahead of need.
    ahead: Mutex<Option<Prepared>>,
    keeper: Bell,
}

impl Shared {
    fn cursors(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Cursor>>> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ahead(&self) -> MutexGuard<'_, Option<Prepared>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until when an append waits for room, once it had to begin to; `None` inside: for as long as it takes.
type Deadline = Option<Option<Instant>>;

/// Records that have their numbers and are on their way to the device. Dropped, it leaves open whether they get there.
#[must_use = "the records are appended only when `wait` says so"]
pub struct Appending {
    first: u64,
    /// `None` when there are no records.
    outcome: Option<Arc<Outcome>>,
}

impl Appending {
    /// The first record's number; the others' follow it.
    pub fn first_seq(&self) -> u64 {
        self.first
    }

    /// Blocks the thread until the records are appended, as [`Spool::append_all`] does. Returns the first one's number.
    ///
    /// # Errors
    /// See [`AppendError`]. [`Full`](AppendError::Full) under every [`OnFull`]: the disk had no room, and nothing is appended.
    pub fn wait(self) -> Result<u64, AppendError> {
        match self.outcome {
            Some(outcome) => outcome.wait_here().map(|()| self.first),
            None => Ok(self.first),
        }
    }
}

/// Changes that make room.
struct Room<'a>(&'a Shared);

/// Changes that make something readable.
struct Readable<'a>(&'a Shared);

impl HasSignal for Room<'_> {
    fn with_signal<R>(&self, work: impl FnOnce(&mut Signal) -> R) -> R {
        work(&mut self.0.queue.lock().room)
    }

    fn keep_time(&self, deadline: Instant) {
        self.0.keeper.by(deadline);
    }
}

impl HasSignal for Readable<'_> {
    fn with_signal<R>(&self, work: impl FnOnce(&mut Signal) -> R) -> R {
        work(&mut self.0.queue.lock().readable)
    }

    fn keep_time(&self, deadline: Instant) {
        self.0.keeper.by(deadline);
    }
}

/// Where a new destination starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record that is kept.
    Oldest,
    /// Behind the newest durable one.
    End,
}

impl Spool {
    /// Opens the spool in a folder, and creates both if need be.
    ///
    /// # Errors
    /// See [`OpenError`]. The folder is as it was then.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<(Self, Recovery), OpenError> {
        Self::open_on(Disk::default(), dir.as_ref(), options)
    }

    /// Opens a spool in `dir`, or, where a spool is refused as [`Corrupt`](OpenError::Corrupt) or of another
    /// [`Version`](OpenError::Version), beside it: in `dir-2`, `dir-3` and so on, the first that is not refused. So the same place is
    /// found again by the next start. Gives the refusals too: each of them is an alarm.
    ///
    /// # Errors
    /// Any other error is final, as in [`open`](Self::open).
    pub fn open_beside(dir: impl AsRef<Path>, options: Options) -> Result<(Self, Recovery, Vec<OpenError>), OpenError> {
        let dir = dir.as_ref();
        let mut refusals = Vec::new();
        loop {
            let place = match refusals.len() {
                0 => dir.to_owned(),
                refused => {
                    let mut name = dir.as_os_str().to_owned();
                    name.push(format!("-{}", refused + 1));
                    PathBuf::from(name)
                }
            };
            match Self::open(place, options) {
                Ok((spool, recovery)) => return Ok((spool, recovery, refusals)),
                Err(error) if error.is_refusal() => refusals.push(error),
                Err(error) => return Err(error),
            }
        }
    }

    fn open_on(disk: Disk, dir: &Path, options: Options) -> Result<(Self, Recovery), OpenError> {
        let limits = options.limits()?;
        let mut recovery = Recovery { warnings: place::prepare(&disk, dir)?, ..Recovery::default() };
        let lock = place::lock(dir)?;
        let place = recover::Place { disk: &disk, dir, segment_bytes: limits.segment_bytes };
        let recovered = recover::recover(&place, &mut recovery)?;
        let last = *recovered.segments.back().expect("there is always one");
        let start = queue::Start {
            spool_id: recovered.spool_id,
            segments: recovered.segments,
            size: recovered.size,
            next_seq: recovered.next_seq,
        };
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            disk,
            spool_id: recovered.spool_id,
            queue: Queue::new(limits, start),
            writer: Mutex::new(Writer::new(recovered.file, last.base, last.bytes)),
            cursors: Mutex::new(recovered.cursors),
            ahead: Mutex::new(None),
            keeper: Bell::default(),
        });
        let commit = Arc::clone(&shared);
        let keeper = Keeper::new(Arc::clone(&shared));
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let commit = thread("spool-commit").spawn(move || commit.commit()).map_err(OpenError::io(dir))?;
        let keeper = match thread("spool-keeper").spawn(move || keeper.run()) {
            Ok(keeper) => keeper,
            Err(error) => {
                shared.queue.close();
                return Err(OpenError::io(dir)(error));
            }
        };
        let threads = Mutex::new(Some(Threads { commit, keeper, lock }));
        Ok((Self { shared, on_full: options.on_full, threads }, recovery))
    }

    /// The spool's folder.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Tells this spool's numbers from those of any other: drawn when it was created.
    pub fn id(&self) -> u64 {
        self.shared.spool_id
    }

    /// Appends a record; returns its number once it is on the device ([`Sync::Always`]) or with the kernel ([`Sync::Interval`]).
    /// Blocks the thread.
    ///
    /// # Errors
    /// See [`AppendError`]. But for [`Poisoned`](AppendError::Poisoned), the record has not been accepted.
    pub fn append(&self, record: &[u8]) -> Result<u64, AppendError> {
        self.append_all(std::slice::from_ref(&record))
    }

    /// [`append`](Self::append) for async code, under any runtime. A call that is dropped while it waits may have appended.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn append_async(&self, record: &[u8]) -> Result<u64, AppendError> {
        self.append_all_async(std::slice::from_ref(&record)).await
    }

    /// Appends records with consecutive numbers, in one group: all of them or none. Returns the first one's number. Blocks the thread.
    ///
    /// # Errors
    /// As [`append`](Self::append). [`TooLarge`](AppendError::TooLarge) also when they do not fit into one segment.
    pub fn append_all(&self, records: &[impl AsRef<[u8]>]) -> Result<u64, AppendError> {
        pollster::block_on(self.append_by(Appender::Thread, records, None))
    }

    /// [`append`](Self::append) for what must not wait for room, whatever the spool's policy is.
    ///
    /// # Errors
    /// As [`append`](Self::append); [`Full`](AppendError::Full) as soon as there is no room.
    pub fn append_now(&self, record: &[u8]) -> Result<u64, AppendError> {
        pollster::block_on(self.append_by(Appender::Thread, std::slice::from_ref(&record), Some(Some(Instant::now()))))
    }

    /// [`append_all`](Self::append_all) for async code.
    ///
    /// # Errors
    /// As [`append_all`](Self::append_all).
    pub async fn append_all_async(&self, records: &[impl AsRef<[u8]>]) -> Result<u64, AppendError> {
        self.append_by(Appender::Task, records, None).await
    }

    async fn append_by(
        &self,
        appender: Appender,
        records: &[impl AsRef<[u8]>],
        mut deadline: Deadline,
    ) -> Result<u64, AppendError> {
        loop {
            let Appending { first, outcome } = self.offer(records, appender, &mut deadline).await?;
            let settled = match (outcome, appender) {
                (None, _) => Ok(()),
                (Some(outcome), Appender::Thread) => outcome.wait_here(),
                (Some(outcome), Appender::Task) => outcome.wait().await,
            };
            match settled {
                Ok(()) => return Ok(first),
                Err(full @ AppendError::Full { .. }) if self.on_full != OnFull::Refuse => {
                    self.wait_for_room(self.shared.queue.starve(), full, &mut deadline).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives records their numbers, as [`append_all`](Self::append_all) does, and leaves waiting for the device to
    /// [`Appending::wait`]. Blocks the thread while the spool has no room.
    ///
    /// # Errors
    /// As [`append_all`](Self::append_all), as far as it is known yet.
    pub fn submit_all(&self, records: &[impl AsRef<[u8]>]) -> Result<Appending, AppendError> {
        pollster::block_on(self.offer(records, Appender::Task, &mut None))
    }

    /// Puts records into a group, all or none.
    async fn offer(
        &self,
        records: &[impl AsRef<[u8]>],
        appender: Appender,
        deadline: &mut Deadline,
    ) -> Result<Appending, AppendError> {
        let queue = &self.shared.queue;
        if records.is_empty() {
            return Ok(Appending { first: queue.lock().next_seq(), outcome: None });
        }
        let checksums = queue.limits.check(records)?;
        loop {
            match queue.offer(records, &checksums, appender) {
                Ok(Offered { first, outcome, work }) => {
                    if let Some(work) = work {
                        self.shared.work(work);
                    }
                    return Ok(Appending { first, outcome: Some(outcome) });
                }
                // The next group has room, and it comes as soon as this one is written.
                Err(Refusal::Busy { epoch }) => Changed::new(Room(&self.shared), epoch, None).await,
                Err(Refusal::Full { epoch }) => {
                    self.wait_for_room(epoch, AppendError::Full { source: None }, deadline).await?;
                }
                Err(Refusal::Failed(error)) => return Err(error),
            }
        }
    }

    /// Waits until there may be room again, if that is what to do when there is none.
    async fn wait_for_room(&self, epoch: u64, full: AppendError, deadline: &mut Deadline) -> Result<(), AppendError> {
        let until = match self.on_full {
            OnFull::Refuse => Some(Instant::now()),
            OnFull::Block { timeout } => {
                *deadline.get_or_insert_with(|| timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
            }
        };
        self.shared.keeper.nudge();
        if until.is_some_and(|until| until <= Instant::now()) {
            return Err(full);
        }
        Changed::new(Room(&self.shared), epoch, until).await;
        Ok(())
    }

    /// Returns once everything appended so far is on the device. With [`Sync::Always`] it is when its append returns.
    ///
    /// # Errors
    /// The device failed.
    pub async fn flush(&self) -> Result<(), AppendError> {
        let target = self.shared.queue.lock().next_seq();
        loop {
            let epoch = {
                let state = self.shared.queue.lock();
                if state.durable_end() >= target.min(state.next_seq()) {
                    return Ok(());
                }
                if let Some(source) = state.poison() {
                    return Err(AppendError::Poisoned { source: Arc::clone(source) });
                }
                state.readable.epoch()
            };
            self.shared.queue.want_sync();
            Changed::new(Readable(&self.shared), epoch, None).await;
        }
    }

    /// A reader for a destination, behind what it has acknowledged. `start` counts when it is new here.
    ///
    /// # Errors
    /// Its cursor cannot be created.
    pub fn reader(&self, destination: &str, start: Start) -> io::Result<Reader> {
        let shared = &self.shared;
        let mut cursors = shared.cursors();
        let cursor = match cursors.get(destination) {
            Some(cursor) => Arc::clone(cursor),
            None => {
                let acked = {
                    let state = shared.queue.lock();
                    match start {
                        Start::Oldest => state.segments()[0].base - 1,
                        Start::End => state.durable_end() - 1,
                    }
                };
                let cursor = Cursor::create(&shared.disk, &shared.dir, destination, shared.spool_id, acked)?;
                let cursor = Arc::new(cursor);
                cursors.insert(destination.to_owned(), Arc::clone(&cursor));
                // It may be the first one, and at the end: then there is something to reclaim.
                shared.keeper.nudge();
                cursor
            }
        };
        drop(cursors);
        Ok(Reader::new(Arc::clone(shared), cursor))
    }

    /// Forgets a destination, so that it holds up no space any more. Gives whether it was known.
    ///
    /// # Errors
    /// Its cursor could not be removed; it counts as before.
    pub fn remove_destination(&self, destination: &str) -> io::Result<bool> {
        let mut cursors = self.shared.cursors();
        let Some(cursor) = cursors.get(destination) else { return Ok(false) };
        self.shared.disk.remove(cursor.path())?;
        self.shared.disk.sync_dir(&self.shared.dir)?;
        cursors.remove(destination);
        drop(cursors);
        self.shared.keeper.nudge();
        Ok(true)
    }

    /// How far each destination is behind, those included that nobody reads for now.
    pub fn destinations(&self) -> Vec<Lag> {
        let cursors: Vec<Arc<Cursor>> = self.shared.cursors().values().cloned().collect();
        let state = self.shared.queue.lock();
        let (segments, end) = (state.segments().clone(), state.durable_end());
        drop(state);
        let segments: Vec<_> = segments.iter().map(|segment| (segment.base, segment.bytes)).collect();
        let lag = |cursor: &Arc<Cursor>| inspect::lag(cursor.name(), cursor.acked(), &segments, end);
        cursors.iter().map(lag).collect()
    }

    /// When the oldest record was written that a destination has not acknowledged, by the wall clock of then. Reads the disk.
    pub fn waiting_since(&self, destination: &str) -> Option<SystemTime> {
        let acked = self.shared.cursors().get(destination)?.acked();
        let view = self.shared.queue.lock().view(acked + 1)?;
        inspect::written_at(&self.shared.dir, self.shared.spool_id, view.base, view.bytes, view.end, acked + 1)
    }

    /// Number of the newest record on the device; 0 when there has been none.
    pub fn durable_seq(&self) -> u64 {
        self.shared.queue.lock().durable_end() - 1
    }

    /// How full the spool is.
    pub fn usage(&self) -> Usage {
        Usage { bytes: self.shared.queue.lock().bytes(), max_bytes: self.shared.queue.limits.max_bytes }
    }

    /// Accepts nothing more, writes and syncs what is pending and the cursors, and lets go of the folder. Readers can still read.
    ///
    /// # Errors
    /// The device failed; what was appended since the last sync may not be there.
    pub fn close(&self) -> Result<(), AppendError> {
        let Some(threads) = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        self.shared.queue.close();
        // A panic in them has been reported to those who wait.
        let _ = threads.commit.join();
        self.shared.keeper.stop();
        let _ = threads.keeper.join();
        // Said, not only let go of: a process that is being forked at this moment holds a copy.
        let _ = threads.lock.unlock();
        match self.shared.queue.lock().poison() {
            Some(source) => Err(AppendError::Poisoned { source: Arc::clone(source) }),
            None => Ok(()),
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // Whoever wants to know calls it.
        let _ = self.close();
    }
}
