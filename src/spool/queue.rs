//! Where appenders and the commit thread meet: pure state, no I/O.
//!
//! Appenders copy their records into the pending group, get their numbers and wait for the group's outcome. Somebody takes the
//! pending group and leaves an empty one: while one group is on its way to the device, the next one gathers.
//!
//! An appender that finds nobody at work, and whose thread would only wait, takes the group itself: no thread has to be woken for
//! it, and none to answer it. The commit thread takes what gathered meanwhile, what tasks have appended, and everything else.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::error::AppendError;
use super::format::{
    ANSWERED_EARLY, GROUP_HEADER, GroupHeader, RECORD_HEADER, RecordHeader, SEGMENT_HEADER, stamp_now,
};
use super::layout::{Layout, Limits, Place};
use super::outcome::Outcome;
use super::signal::{Signal, Woken};
use super::sync::{Condvar, Mutex, MutexGuard};

/// Bytes of a group from which on appenders wait for the next one. A batch may be longer.
const GROUP_TARGET: u64 = 4 << 20;

/// A segment as far as readers may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) base: u64,
    /// Bytes of its file in use.
    pub(super) bytes: u64,
}

/// What is to be done on the disk. Whoever has it is the only one, until it calls [`Queue::done`].
pub(super) enum Work {
    /// Write this group.
    Group { bytes: Vec<u8>, first_seq: u64, place: Place },
    /// Begin a new segment, so that the last one can be reclaimed.
    Roll { base: u64, size: u64 },
    /// Sync what has been written.
    Sync,
    /// Nothing more will come.
    End,
}

/// Who appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Appender {
    /// A thread that waits, and can do the work meanwhile.
    Thread,
    /// A task, whose thread has others to run, or a thread that goes on.
    Task,
}

/// A place in the pending group.
pub(super) struct Offered {
    /// Number of the first record.
    pub(super) first: u64,
    /// Where the outcome will be.
    pub(super) outcome: Arc<Outcome>,
    /// What the appender is to do before it waits for the outcome.
    pub(super) work: Option<Work>,
}

/// Why records found no place in the pending group.
pub(super) enum Refusal {
    /// The group is large enough: the next one has room.
    Busy {
        epoch: u64,
    },
    /// The spool is.
    Full {
        epoch: u64,
    },
    Failed(AppendError),
}

pub(super) struct Queue {
    state: Mutex<State>,
    work: Condvar,
    pub(super) limits: Limits,
    spool_id: u64,
}

pub(super) struct State {
    /// Header and records of the group that gathers.
    pending: Vec<u8>,
    pending_first: u64,
    next_seq: u64,
    outcome: Arc<Outcome>,
    in_flight: Option<InFlight>,
    /// Somebody has work.
    busy: bool,
    /// The commit thread sleeps, and nobody has woken it yet.
    asleep: bool,
    spare: Vec<u8>,
    layout: Layout,
    /// The layout once what is in flight has been written.
    planned: Layout,
    segments: VecDeque<Segment>,
    /// First number that is not on the device.
    durable_end: u64,
    unsynced_since: Option<Instant>,
    sync_wanted: bool,
    roll_wanted: bool,
    /// The disk gave no more; whoever waits for room is to try again from time to time.
    pub(super) starved: bool,
    poison: Option<Arc<io::Error>>,
    closed: bool,
    ended: bool,
    /// Raised when there may be room.
    pub(super) room: Signal,
    /// Raised when there is more to read.
    pub(super) readable: Signal,
}

struct InFlight {
    first_seq: u64,
    /// First number behind the group.
    end: u64,
    place: Place,
    outcome: Arc<Outcome>,
}

/// Where a spool stands when it is opened.
pub(super) struct Start {
    pub(super) spool_id: u64,
    /// The last one is the one that is written.
    pub(super) segments: VecDeque<Segment>,
    /// Bytes the last segment may grow to.
    pub(super) size: u64,
    pub(super) next_seq: u64,
}

/// A part of the spool that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    pub(super) base: u64,
    pub(super) bytes: u64,
    /// First number that lies behind it.
    pub(super) end: u64,
    pub(super) sealed: bool,
}

impl Queue {
    pub(super) fn new(limits: Limits, start: Start) -> Self {
        let used = start.segments.back().map_or(0, |segment| segment.bytes);
        let total: u64 = start.segments.iter().map(|segment| segment.bytes).sum();
        let layout = Layout { sealed: total - used, used, size: start.size.max(used) };
        let state = State {
            pending: Vec::new(),
            pending_first: start.next_seq,
            next_seq: start.next_seq,
            outcome: Arc::default(),
            in_flight: None,
            busy: false,
            asleep: false,
            spare: Vec::new(),
            layout,
            planned: layout,
            segments: start.segments,
            durable_end: start.next_seq,
            unsynced_since: None,
            sync_wanted: false,
            roll_wanted: false,
            starved: false,
            poison: None,
            closed: false,
            ended: false,
            room: Signal::default(),
            readable: Signal::default(),
        };
        Self { state: Mutex::new(state), work: Condvar::new(), limits, spool_id: start.spool_id }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under this lock would be a bug of ours; the state is plain numbers and stays usable.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Puts records into the pending group, all or none.
    ///
    /// `checksums` are of the payloads: computed by the caller, outside the lock.
    pub(super) fn offer(
        &self,
        records: &[impl AsRef<[u8]>],
        checksums: &[u32],
        appender: Appender,
    ) -> Result<Offered, Refusal> {
        let new: u64 = records.iter().map(|record| RECORD_HEADER + record.as_ref().len() as u64).sum();
        let mut state = self.lock();
        if let Some(source) = &state.poison {
            return Err(Refusal::Failed(AppendError::Poisoned { source: Arc::clone(source) }));
        }
        if state.closed {
            return Err(Refusal::Failed(AppendError::Closed));
        }
        let group = GROUP_HEADER.max(state.pending.len() as u64) + new;
        let gathered = state.pending.len() as u64;
        if gathered > 0 && (gathered > GROUP_TARGET || group > self.limits.max_group()) {
            return Err(Refusal::Busy { epoch: state.room.epoch() });
        }
        if !state.planned.has_room(group, &self.limits) {
            return Err(Refusal::Full { epoch: state.room.epoch() });
        }
        let first = state.next_seq;
        let State { pending, next_seq, .. } = &mut *state;
        if pending.is_empty() {
            pending.extend_from_slice(&[0; GROUP_HEADER as usize]);
        }
        pending.reserve(new as usize);
        for (record, &checksum) in records.iter().zip(checksums) {
            let payload = record.as_ref();
            let header = RecordHeader::seal(checksum, payload.len() as u32, *next_seq, self.spool_id);
            pending.extend_from_slice(&header.encode());
            pending.extend_from_slice(payload);
            *next_seq += 1;
        }
        let outcome = Arc::clone(&state.outcome);
        // With an interval nobody waits for the device, and the commit thread keeps the time.
        if appender == Appender::Thread && !state.busy && self.limits.sync_interval.is_none() {
            return Ok(Offered { first, outcome, work: Some(self.take_group(state)) });
        }
        self.rouse(state);
        Ok(Offered { first, outcome, work: None })
    }

    /// Wakes the commit thread if it sleeps and there is something for it.
    fn rouse(&self, mut state: MutexGuard<'_, State>) {
        let wanted = !state.pending.is_empty()
            || state.sync_wanted
            || state.roll_wanted
            || state.closed
            || state.poison.is_some();
        let woken = wanted && !state.busy && std::mem::take(&mut state.asleep);
        drop(state);
        if woken {
            self.work.notify_one();
        }
    }

    /// Whoever had work has done it, and reported its end. Those who are told of that are woken last: each of them wants the lock,
    /// and perhaps the processor.
    pub(super) fn done(&self, woken: Woken) {
        let mut state = self.lock();
        state.busy = false;
        self.rouse(state);
        woken.wake();
    }

    fn sleep<'a>(&self, mut state: MutexGuard<'a, State>, due: Option<(Instant, Instant)>) -> MutexGuard<'a, State> {
        state.asleep = true;
        let mut state = match due {
            Some((due, now)) => {
                let waited = self.work.wait_timeout(state, due.saturating_duration_since(now));
                waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0
            }
            None => self.work.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner()),
        };
        state.asleep = false;
        state
    }

    /// Waits for work. Called by the commit thread only.
    pub(super) fn take(&self) -> Work {
        let mut state = self.lock();
        loop {
            if state.busy {
                state = self.sleep(state, None);
                continue;
            }
            if let Some(source) = &state.poison {
                let error = AppendError::Poisoned { source: Arc::clone(source) };
                state.fail_pending(&error).wake();
                return Work::End;
            }
            let due = state.unsynced_since.zip(self.limits.sync_interval).map(|(since, interval)| since + interval);
            let now = due.map(|_| Instant::now());
            if due.is_some_and(|due| Some(due) <= now) || (state.sync_wanted && state.unsynced_since.is_some()) {
                state.busy = true;
                return Work::Sync;
            }
            state.sync_wanted = false;
            if !state.pending.is_empty() {
                return self.take_group(state);
            }
            if std::mem::take(&mut state.roll_wanted) {
                let (base, size) = (state.next_seq, state.layout.size_of_new(SEGMENT_HEADER, &self.limits));
                if state.segments.back().is_some_and(|segment| segment.base < base) {
                    state.busy = true;
                    return Work::Roll { base, size };
                }
            }
            if state.closed {
                if state.unsynced_since.is_none() {
                    return Work::End;
                }
                state.busy = true;
                return Work::Sync;
            }
            state = self.sleep(state, due.zip(now));
        }
    }

    fn take_group(&self, mut guard: MutexGuard<'_, State>) -> Work {
        let state = &mut *guard;
        state.busy = true;
        let spare = std::mem::take(&mut state.spare);
        let mut bytes = std::mem::replace(&mut state.pending, spare);
        let len = bytes.len() as u64;
        let first_seq = std::mem::replace(&mut state.pending_first, state.next_seq);
        let header = GroupHeader {
            spool_id: self.spool_id,
            first_seq,
            count: (state.next_seq - first_seq) as u32,
            body: (len - GROUP_HEADER) as u32,
            flags: if self.limits.sync_interval.is_some() { ANSWERED_EARLY } else { 0 },
            stamp: stamp_now(),
        };
        bytes[..GROUP_HEADER as usize].copy_from_slice(&header.encode());
        let place = state.planned.place(len, &self.limits);
        let outcome = std::mem::take(&mut state.outcome);
        state.in_flight = Some(InFlight { first_seq, end: state.next_seq, place, outcome });
        let woken = state.room.raise();
        drop(guard);
        woken.wake();
        Work::Group { bytes, first_seq, place }
    }

    /// The group in flight has been written, and synced too unless there is a sync interval.
    pub(super) fn written(&self, mut bytes: Vec<u8>) -> Woken {
        let mut state = self.lock();
        let Some(group) = state.in_flight.take() else { return Woken::default() };
        bytes.clear();
        bytes.shrink_to(GROUP_TARGET as usize);
        state.spare = bytes;
        let fed = if std::mem::take(&mut state.starved) { state.room.raise() } else { Woken::default() };
        if let Place::NewSegment { .. } = group.place {
            state.seal(group.first_seq);
        }
        state.layout = state.planned;
        let woken = if self.limits.sync_interval.is_some() {
            state.unsynced_since.get_or_insert_with(Instant::now);
            if let Place::NewSegment { .. } = group.place { state.readable.raise() } else { Woken::default() }
        } else {
            state.durable_end = group.end;
            let used = state.layout.used;
            state.segments.back_mut().expect("there is always one").bytes = used;
            state.readable.raise()
        };
        drop(state);
        group.outcome.finish(Ok(())).and(woken).and(fed)
    }

    /// All that has been written is on the device.
    pub(super) fn synced(&self) -> Woken {
        let mut state = self.lock();
        state.unsynced_since = None;
        state.sync_wanted = false;
        state.durable_end = state.pending_first;
        let used = state.layout.used;
        state.segments.back_mut().expect("there is always one").bytes = used;
        state.readable.raise()
    }

    /// A new, empty segment has been begun.
    pub(super) fn rolled(&self, base: u64, size: u64) -> Woken {
        let mut state = self.lock();
        state.seal(base);
        state.layout = state.layout.with_new(size);
        state.planned = state.layout;
        state.readable.raise()
    }

    /// The disk has no room for the group in flight; nothing of it is there. What waits behind it fails with it, and their numbers
    /// are given again.
    pub(super) fn no_space(&self, source: io::Error) -> Woken {
        let error = AppendError::Full { source: Some(Arc::new(source)) };
        let mut state = self.lock();
        state.starved = true;
        state.planned = state.layout;
        let Some(group) = state.in_flight.take() else { return Woken::default() };
        state.pending_first = group.first_seq;
        let woken = state.fail_pending(&error);
        drop(state);
        group.outcome.finish(Err(error)).and(woken)
    }

    /// The device failed. Nobody knows what became of the group in flight; nothing more is accepted.
    pub(super) fn poison(&self, source: io::Error) -> Woken {
        let source = Arc::new(source);
        let error = AppendError::Poisoned { source: Arc::clone(&source) };
        let mut state = self.lock();
        state.poison.get_or_insert(source);
        let group = state.in_flight.take();
        let woken = state.fail_pending(&error).and(state.room.raise()).and(state.readable.raise());
        self.rouse(state);
        match group {
            Some(group) => group.outcome.finish(Err(error)).and(woken),
            None => woken,
        }
    }

    /// Accepts nothing more; what is pending is still written.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let woken = state.room.raise().and(state.readable.raise());
        self.rouse(state);
        woken.wake();
    }

    /// The commit thread has ended: nothing more will become readable.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.ended = true;
        let woken = state.readable.raise().and(state.room.raise());
        drop(state);
        woken.wake();
    }

    /// Someone whom the disk gave no room is going to wait for it: when `room` changes from the epoch this gives.
    pub(super) fn starve(&self) -> u64 {
        let mut state = self.lock();
        state.starved = true;
        state.room.epoch()
    }

    pub(super) fn want_sync(&self) {
        let mut state = self.lock();
        state.sync_wanted = true;
        self.rouse(state);
    }

    pub(super) fn want_roll(&self) {
        let mut state = self.lock();
        state.roll_wanted = true;
        self.rouse(state);
    }

    /// The oldest segment has been deleted.
    pub(super) fn removed(&self, base: u64) {
        let mut state = self.lock();
        if state.segments.len() < 2 || state.segments.front().is_none_or(|segment| segment.base != base) {
            return;
        }
        let segment = state.segments.pop_front().expect("there are two");
        state.layout.sealed -= segment.bytes;
        state.planned.sealed -= segment.bytes;
        let woken = state.room.raise();
        drop(state);
        woken.wake();
    }
}

impl State {
    /// A new segment has been begun; the one before was synced first.
    fn seal(&mut self, new_base: u64) {
        let used = self.layout.used;
        self.segments.back_mut().expect("there is always one").bytes = used;
        self.segments.push_back(Segment { base: new_base, bytes: SEGMENT_HEADER });
        self.durable_end = new_base;
        self.unsynced_since = None;
    }

    fn fail_pending(&mut self, error: &AppendError) -> Woken {
        self.pending.clear();
        self.next_seq = self.pending_first;
        let outcome = std::mem::take(&mut self.outcome);
        outcome.finish(Err(error.clone()))
    }

    pub(super) fn durable_end(&self) -> u64 {
        self.durable_end
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended || self.poison.is_some()
    }

    pub(super) fn poison(&self) -> Option<&Arc<io::Error>> {
        self.poison.as_ref()
    }

    pub(super) fn segments(&self) -> &VecDeque<Segment> {
        &self.segments
    }

    /// Bytes that count against the limit.
    pub(super) fn bytes(&self) -> u64 {
        self.layout.bytes()
    }

    /// Bytes that the segments may take on the disk.
    pub(super) fn allocated(&self) -> u64 {
        self.layout.sealed + self.layout.size
    }

    pub(super) fn is_last_half_full(&self) -> bool {
        self.layout.used > self.layout.size / 2
    }

    /// The segment that holds a number, or the first one behind it. `None`: there is nothing durable from that number on.
    pub(super) fn view(&self, seq: u64) -> Option<View> {
        if seq >= self.durable_end {
            return None;
        }
        let index = self.segments.partition_point(|segment| segment.base <= seq).saturating_sub(1);
        let segment = self.segments[index];
        let next = self.segments.get(index + 1);
        let end = next.map_or(self.durable_end, |next| next.base);
        Some(View { base: segment.base, bytes: segment.bytes, end, sealed: next.is_some() })
    }
}
