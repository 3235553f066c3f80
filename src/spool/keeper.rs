//! The second thread: what may take time and must not hold up appends. It syncs cursors, deletes what everyone has passed, makes the
//! next segment ahead of need, and keeps the time for those who wait with a deadline.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Shared;
use super::cursor::Cursor;
use super::segment::{self, Prepared};

/// How long an acknowledgement may stay unsynced, and how often a full disk is tried again.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// Wakes the keeper.
#[derive(Default)]
pub(super) struct Bell {
    state: Mutex<BellState>,
    rung: Condvar,
}

#[derive(Default)]
struct BellState {
    rung: bool,
    /// Something is due then.
    due: Option<Instant>,
    stop: bool,
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, BellState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something to look at now.
    pub(super) fn nudge(&self) {
        self.lock().rung = true;
        self.rung.notify_one();
    }

    /// There is something to look at then, at the latest.
    pub(super) fn by(&self, deadline: Instant) {
        let mut state = self.lock();
        if state.due.is_none_or(|due| deadline < due) {
            state.due = Some(deadline);
            self.rung.notify_one();
        }
    }

    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.rung.notify_one();
    }

    /// Waits for one of these; gives whether to go on.
    fn wait(&self) -> bool {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if state.rung || state.stop || state.due.is_some_and(|due| due <= now) {
                state.rung = false;
                state.due = None;
                return !state.stop;
            }
            state = match state.due {
                Some(due) => self.rung.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner).0,
                None => self.rung.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

pub(super) struct Keeper {
    shared: Arc<Shared>,
    /// When unsynced acknowledgements are to be synced.
    sync_due: Option<Instant>,
    /// When those whom the disk gave no room are to try again.
    retry_due: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, sync_due: None, retry_due: None }
    }

    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let _guard = PanicGuard(&shared);
        loop {
            self.keep_cursors();
            self.prepare_ahead();
            self.wake_waiting();
            if !self.shared.keeper.wait() {
                break;
            }
        }
        // The last word on the disk. What fails here costs duplicates after the next start, nothing else.
        for cursor in self.shared.cursors().values() {
            let _ = cursor.sync();
        }
        if let Some(prepared) = self.shared.ahead().take() {
            let _ = self.shared.disk.remove(&prepared.file.path);
        }
    }

    fn keep_cursors(&mut self) {
        let cursors: Vec<Arc<Cursor>> = self.shared.cursors().values().cloned().collect();
        let now = Instant::now();
        // Without any destination nothing is anybody's, and all is kept.
        let acked = cursors.iter().map(|cursor| cursor.acked()).min().unwrap_or(0);
        let dirty = cursors.iter().any(|cursor| cursor.is_dirty());
        if dirty && (self.is_reclaimable(acked) || self.sync_due.is_some_and(|due| due <= now)) {
            for cursor in &cursors {
                // It stays dirty if it fails, and is tried again.
                let _ = cursor.sync();
            }
            self.sync_due = None;
        }
        if cursors.iter().any(|cursor| cursor.is_dirty()) {
            let due = *self.sync_due.get_or_insert(now + TICK);
            self.shared.keeper.by(due);
        }
        // Deleted is only what is acknowledged on the device: a cursor that falls back must still find its records.
        // The map stays locked meanwhile: a destination that begins at the oldest record must find it.
        let cursors = self.shared.cursors();
        let durable = cursors.values().map(|cursor| cursor.durable()).min().unwrap_or(0);
        while self.is_reclaimable(durable) {
            let base = self.shared.queue.lock().segments()[0].base;
            match self.shared.disk.remove(&segment::path(&self.shared.dir, base)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => break,
                _ => self.shared.queue.removed(base),
            }
        }
        drop(cursors);
        self.give_back_the_last(durable);
    }

    /// Whether the oldest segment ends at or below an acknowledged number.
    fn is_reclaimable(&self, acked: u64) -> bool {
        self.shared.queue.lock().segments().get(1).is_some_and(|second| second.base <= acked.saturating_add(1))
    }

    /// When all is acknowledged and the last segment is more than half full, a new one is begun so that its space returns.
    fn give_back_the_last(&self, durable: u64) {
        let state = self.shared.queue.lock();
        let all = state.next_seq() == state.durable_end() && durable.saturating_add(1) >= state.next_seq();
        let wanted = all && state.is_last_half_full() && state.segments().len() == 1;
        drop(state);
        if wanted {
            self.shared.queue.want_roll();
        }
    }

    fn prepare_ahead(&self) {
        let limits = self.shared.queue.limits;
        let (half_full, total) = {
            let state = self.shared.queue.lock();
            (state.is_last_half_full(), state.allocated())
        };
        let mut ahead = self.shared.ahead();
        if ahead.is_none() && half_full && total + limits.segment_bytes <= limits.max_bytes {
            // If it fails, the commit thread tries for itself and has someone to tell.
            *ahead = Prepared::new(&self.shared.disk, &self.shared.dir, limits.segment_bytes).ok();
        }
    }

    fn wake_waiting(&mut self) {
        let now = Instant::now();
        let mut state = self.shared.queue.lock();
        let mut woken = state.room.expire(now).and(state.readable.expire(now));
        if state.starved {
            let due = *self.retry_due.get_or_insert(now + TICK);
            if due <= now {
                state.starved = false;
                woken = woken.and(state.room.raise());
            }
        }
        if !state.starved {
            self.retry_due = None;
        }
        let deadlines = [state.room.first_deadline(), state.readable.first_deadline(), self.retry_due];
        let deadline = deadlines.into_iter().flatten().min();
        drop(state);
        if let Some(deadline) = deadline {
            self.shared.keeper.by(deadline);
        }
        woken.wake();
    }
}

/// Without this thread nothing is reclaimed and nobody's deadline is kept: better to say so than to fill up in silence.
struct PanicGuard<'a>(&'a Shared);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.queue.poison(std::io::Error::other("the spool's keeper thread panicked")).wake();
        }
    }
}
