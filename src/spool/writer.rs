//! What commits: one write and one sync for each group, by the commit thread or by an appender that found nobody at work.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};

use super::Shared;
use super::disk::{DiskFile, is_full, is_passing};
use super::format::{SegmentHeader, stamp_now};
use super::layout::Place;
use super::queue::Work;
use super::segment::Prepared;
use super::signal::Woken;

/// Zeros that are written ahead of small groups, and the largest group that is one.
const AHEAD: u64 = 512 << 10;
const SMALL: u64 = 64 << 10;
static ZEROS: [u8; AHEAD as usize] = [0; AHEAD as usize];

pub(super) struct Writer {
    /// The last segment.
    file: DiskFile,
    base: u64,
    /// Bytes of it in use: where the next group goes.
    used: u64,
    /// Bytes up to which it has been written by this process, with groups and zeros.
    written: u64,
    /// Bytes of it that can be written twice in the same place.
    overwritable: u64,
    /// Whether something of it has been written and not synced.
    unsynced: bool,
}

/// How a piece of work failed.
enum Failure {
    /// Nothing of it is on the disk; it may be tried again.
    NoSpace(io::Error),
    /// Nobody knows what is on the disk.
    Broken(io::Error),
}

impl Failure {
    /// Until a new segment has its name, the spool is as it was: what may pass can be tried again.
    fn before_naming(error: io::Error) -> Self {
        if is_passing(&error) { Self::NoSpace(error) } else { Self::Broken(error) }
    }
}

impl Shared {
    /// The commit thread: works until the spool is closed or the device fails.
    pub(super) fn commit(self: Arc<Self>) {
        // Should this thread panic, those who wait must hear of it.
        let _end = EndGuard(&self);
        loop {
            match self.queue.take() {
                Work::End => return,
                work => self.work(work),
            }
        }
    }

    /// Does work that was taken from the queue, and reports its end.
    pub(super) fn work(&self, work: Work) {
        // Nobody else has work, so nobody else wants it.
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // A panic is no reason to end a thread of the caller's, and none to leave the others waiting.
        let woken = catch_unwind(AssertUnwindSafe(|| writer.work(self, work)))
            .unwrap_or_else(|_| self.queue.poison(io::Error::other("a panic while the spool was written")));
        drop(writer);
        self.queue.done(woken);
    }
}

impl Writer {
    pub(super) fn new(file: DiskFile, base: u64, used: u64) -> Self {
        let overwritable = file.overwritable();
        Self { file, base, used, written: used, overwritable, unsynced: false }
    }

    fn work(&mut self, shared: &Shared, work: Work) -> Woken {
        let queue = &shared.queue;
        match work {
            Work::Group { bytes, first_seq, place } => match self.write(shared, &bytes, first_seq, place) {
                Ok(()) => queue.written(bytes),
                Err(Failure::NoSpace(error)) => {
                    let woken = queue.no_space(error);
                    shared.keeper.nudge();
                    woken
                }
                Err(Failure::Broken(error)) => queue.poison(error),
            },
            Work::Roll { base, size } => match self.roll(shared, base, size) {
                Ok(()) => {
                    let woken = queue.rolled(base, size);
                    shared.keeper.nudge();
                    woken
                }
                // It was to give space back, and there is none to begin it with: nothing is lost by not doing it.
                Err(Failure::NoSpace(_)) => Woken::default(),
                Err(Failure::Broken(error)) => queue.poison(error),
            },
            Work::Sync => match self.sync() {
                Ok(()) => queue.synced(),
                Err(error) => queue.poison(error),
            },
            Work::End => Woken::default(),
        }
    }

    fn write(&mut self, shared: &Shared, bytes: &[u8], first_seq: u64, place: Place) -> Result<(), Failure> {
        if let Place::NewSegment { size } = place {
            self.roll(shared, first_seq, size)?;
            shared.keeper.nudge();
        }
        if let Err(error) = self.file.write_all_at(bytes, self.used) {
            return Err(self.take_back(error));
        }
        self.used += bytes.len() as u64;
        self.unsynced = true;
        if shared.queue.limits.sync_interval.is_none() {
            self.write_ahead(bytes.len() as u64);
            self.sync().map_err(Failure::Broken)?;
        }
        Ok(())
    }

    /// Writes zeros behind a small group when those of before are used up. A sync of what is written to space that is only allocated
    /// makes the file system write its own records, too: for 2 kB it takes 487 µs on ext4, and 270 with zeros there, theirs
    /// included (164 and 112 without a journal). At 100 kB, writing twice gains a tenth at most, and at 200 kB it loses.
    fn write_ahead(&mut self, group: u64) {
        let zeros = self.overwritable.saturating_sub(self.used).min(AHEAD);
        if group > SMALL || self.used <= self.written || zeros == 0 {
            return;
        }
        self.written = match self.file.write_all_at(&ZEROS[..zeros as usize], self.used) {
            Ok(()) => self.used + zeros,
            // They are worth nothing by themselves: the segment does without.
            Err(_) => u64::MAX,
        };
    }

    /// Cuts off what a failed write has left.
    fn take_back(&mut self, error: io::Error) -> Failure {
        self.overwritable = self.used;
        let cut = self.file.set_len(self.used).and_then(|()| self.file.sync());
        match cut {
            Ok(()) if is_full(&error) => Failure::NoSpace(error),
            Ok(()) => Failure::Broken(error),
            Err(cut) => Failure::Broken(cut),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.unsynced {
            self.file.sync()?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Begins a new segment. The old one is complete on the device before the new one can be seen, and is shortened only then: a
    /// last segment that is shorter than it was made has been cut by someone else.
    fn roll(&mut self, shared: &Shared, base: u64, size: u64) -> Result<(), Failure> {
        self.sync().map_err(Failure::Broken)?;
        // Held while the file is made: there is one name for what is being created.
        let mut ahead = shared.ahead();
        let prepared = match ahead.take() {
            Some(prepared) if prepared.size == size => prepared,
            _ => Prepared::new(&shared.disk, &shared.dir, size).map_err(Failure::before_naming)?,
        };
        let header =
            SegmentHeader { spool_id: shared.spool_id, base, previous_base: self.base, size, stamp: stamp_now() };
        let file = prepared.name(&shared.disk, &shared.dir, header).map_err(Failure::before_naming)?;
        drop(ahead);
        shared.disk.sync_dir(&shared.dir).map_err(Failure::Broken)?;
        let old = std::mem::replace(self, Self::new(file, base, super::format::SEGMENT_HEADER));
        // Gives unused space back. If it fails, the space comes back with the whole segment.
        let _ = old.file.set_len(old.used);
        Ok(())
    }
}

struct EndGuard<'a>(&'a Shared);

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.queue.poison(io::Error::other("the spool's commit thread panicked")).wake();
        }
        self.0.queue.end();
    }
}
