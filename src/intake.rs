//! The gate in front of one destination's batch processor.
//!
//! The SDK's processor drops what does not fit its queue. A credit is held for every record from the moment it is handed over to
//! the moment it is settled, and there are only as many credits as the queue has places, so it always fits.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use opentelemetry::Context;
use opentelemetry::logs::Logger as _;
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};
use tokio::runtime::Handle;
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit, TryAcquireError};

use crate::config::Limits;
use crate::dead_letter::{self, Refusal};
use crate::event::AuditEvent;
use crate::feed;
use crate::gap::{Gap, Reason};
use crate::jsonl::JsonLines;
use crate::ledger::{DestinationState, Ledger};
use crate::notice::{Listener, Notice};
use crate::record;
use crate::spool::{Acker, AppendError, Spool};
use crate::stream::Stream;

pub(crate) struct Intake {
    pub(crate) name: String,
    /// Where the destination is, for a person.
    pub(crate) target: String,
    pub(crate) ledger: Ledger,
    pub(crate) dead_letters: Arc<JsonLines>,
    pub(crate) listener: Listener,
    logger: SdkLogger,
    provider: SdkLoggerProvider,
    pub(crate) runtime: Handle,
    credits: Semaphore,
    capacity: usize,
    limits: Limits,
    /// Whether anybody reads more of a record than its body.
    is_record_read: bool,
    stream: Arc<Stream>,
    /// With a spool: how settlement is acknowledged to it.
    spooled: Option<Spooled>,
    /// Without one: events dropped since the last gap record.
    gap: Mutex<Option<Gap>>,
    /// With a spool: the number up to which events shall be exported without waiting for a full batch; 0 for none.
    flush_wanted: AtomicU64,
}

/// A destination's end of the spool.
pub(crate) struct Spooled {
    spool: Arc<Spool>,
    acker: Acker,
    /// For each record between the processor and its settlement, in order: the number up to which its settlement acknowledges.
    in_flight: Mutex<VecDeque<u64>>,
}

/// What an intake is made of.
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) target: String,
    pub(crate) logger: SdkLogger,
    pub(crate) provider: SdkLoggerProvider,
    pub(crate) runtime: Handle,
    pub(crate) capacity: usize,
    pub(crate) limits: Limits,
    pub(crate) is_record_read: bool,
    pub(crate) stream: Arc<Stream>,
    pub(crate) spooled: Option<Spooled>,
    pub(crate) dead_letters: Arc<JsonLines>,
    pub(crate) listener: Listener,
}

impl Intake {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            name: parts.name,
            target: parts.target,
            ledger: Ledger::default(),
            dead_letters: parts.dead_letters,
            listener: parts.listener,
            logger: parts.logger,
            provider: parts.provider,
            runtime: parts.runtime,
            credits: Semaphore::new(parts.capacity),
            capacity: parts.capacity,
            limits: parts.limits,
            is_record_read: parts.is_record_read,
            stream: parts.stream,
            spooled: parts.spooled,
            gap: Mutex::new(None),
            flush_wanted: AtomicU64::new(0),
        }
    }

    /// Waits for places in the queue.
    ///
    /// # Errors
    /// The intake has been closed.
    pub(crate) async fn places(&self, count: u32) -> Result<SemaphorePermit<'_>, AcquireError> {
        self.credits.acquire_many(count).await
    }

    /// Places in the queue, if there are so many now.
    ///
    /// # Errors
    /// There are not, or the intake has been closed.
    pub(crate) fn places_now(&self, count: u32) -> Result<SemaphorePermit<'_>, TryAcquireError> {
        self.credits.try_acquire_many(count)
    }

    /// All places that are free now, for the only one who takes any: with a spool, the feed.
    pub(crate) fn free_places(&self) -> Option<SemaphorePermit<'_>> {
        self.credits.try_acquire_many(self.credits.available_permits().try_into().ok()?).ok()
    }

    /// Hands an event to the processor. The place is given back when the event is settled. `sequence` is its number in the spool,
    /// if it comes from there.
    pub(crate) fn take(
        &self,
        place: SemaphorePermit<'_>,
        event: Arc<str>,
        observed: SystemTime,
        sequence: Option<u64>,
    ) {
        place.forget();
        match (&self.spooled, sequence) {
            // The spool's numbers say what has been accepted.
            (Some(spooled), Some(sequence)) => spooled.in_flight().push_back(sequence),
            _ => self.ledger.accept(),
        }
        if self.ledger.has_ended() {
            return self.leave(1);
        }
        let mut record = self.logger.create_log_record();
        record::make(&mut record, &event, observed, &self.limits, self.is_record_read);
        // Inside an exporter's or SDK's own work the SDK would discard the record without a word.
        let suppressed = Context::map_current(Context::is_telemetry_suppressed);
        let _unsuppressed = suppressed.then(|| Context::new().attach());
        let emitted = std::panic::catch_unwind(AssertUnwindSafe(|| self.logger.emit(record)));
        if emitted.is_err() {
            // Only a processor of the user's can do that, and it stands before ours: the record did not get through.
            self.bury_now(&event, "a processor on the provider panicked");
        }
    }

    /// Keeps an event that never reached the batch processor in the dead-letter file.
    fn bury_now(&self, event: &str, why: &str) {
        let refusal = Refusal { destination: &self.name, target: &self.target, why, rejected: 1 };
        let path = self.dead_letters.path().to_owned();
        match dead_letter::append(&self.dead_letters, refusal, &[event]) {
            Ok(()) => {
                let (destination, why) = (self.name.clone(), why.to_owned());
                (self.listener)(&Notice::DeadLettered { destination, events: 1, why, path });
                self.acknowledge_newest();
                self.ledger.settle(0, 1);
            }
            Err(error) => {
                let why = format!("{error}; an event is lost because {why}");
                (self.listener)(&Notice::DeadLetterFailed { path, why });
                self.acknowledge_newest();
                self.ledger.settle_lost(1);
            }
        }
        self.give_back(1);
    }

    /// Settles the oldest events outstanding.
    pub(crate) fn settle(&self, delivered: u64, rejected: u64) {
        self.acknowledge(delivered + rejected);
        self.ledger.settle(delivered, rejected);
        self.give_back(delivered + rejected);
    }

    /// The destination has ended for good: nothing more is fed to it, and nobody waits for what the spool keeps.
    pub(crate) fn end(&self) {
        self.ledger.end();
        if self.spooled.is_some() {
            self.close();
            self.ledger.stop();
        }
    }

    /// Leaves events to a destination that has ended: the spool keeps them for the next start, in memory they are lost.
    pub(crate) fn leave(&self, events: u64) {
        if self.spooled.is_none() {
            self.lose(events);
        }
    }

    /// Settles the oldest events outstanding as lost.
    fn lose(&self, events: u64) {
        self.acknowledge(events);
        self.ledger.settle_lost(events);
        self.give_back(events);
    }

    fn acknowledge(&self, events: u64) {
        let Some(spooled) = &self.spooled else { return };
        let last = spooled.in_flight().drain(..events as usize).next_back();
        if let Some(last) = last {
            self.acknowledge_to(spooled, last);
        }
    }

    /// The newest record is done with before those in front of it: it is acknowledged with the last of them.
    fn acknowledge_newest(&self) {
        let Some(spooled) = &self.spooled else { return };
        let mut in_flight = spooled.in_flight();
        let Some(newest) = in_flight.pop_back() else { return };
        match in_flight.back_mut() {
            Some(before) => *before = newest,
            None => {
                drop(in_flight);
                self.acknowledge_to(spooled, newest);
            }
        }
    }

    fn acknowledge_to(&self, spooled: &Spooled, last: u64) {
        if let Err(error) = spooled.acker.ack(last) {
            // It counts in this process; if the process ends before it can be written, events are sent again.
            let why = format!("the spool's cursor cannot be written: {error}");
            if self.ledger.fail(&why) {
                (self.listener)(&Notice::Warning { text: format!("{}: {why}", self.name) });
            }
        }
    }

    /// Gives up the oldest events in the spool.
    pub(crate) fn give_up(&self, gap: Gap) {
        if let Some(spooled) = &self.spooled {
            self.acknowledge_to(spooled, gap.last_sequence);
        }
        self.ledger.give_up(gap.events);
    }

    /// Counts an event that found no place under `on_full = drop`.
    pub(crate) fn drop_event(&self, sequence: u64) {
        self.ledger.drop_unaccepted();
        let mut gap = self.gap();
        match &mut *gap {
            Some(gap) => gap.extend(sequence),
            None => *gap = Some(Gap::one(Reason::QueueFull, sequence)),
        }
        drop(gap);
        // The queue may have emptied meanwhile, and then nothing else would announce it.
        self.announce_drops();
    }

    /// Gives back the places of settled events, and uses one to announce what was dropped meanwhile.
    fn give_back(&self, places: u64) {
        self.credits.add_permits(usize::try_from(places).expect("no more places than the queue has"));
        self.announce_drops();
    }

    fn announce_drops(&self) {
        let mut waiting = self.gap();
        if waiting.is_none() {
            return;
        }
        let Ok(place) = self.credits.try_acquire() else { return };
        let Some(gap) = waiting.take() else { return };
        drop(waiting);
        self.announce(place, gap, None);
        (self.listener)(&Notice::Dropped { destination: self.name.clone(), events: gap.events });
    }

    /// Announces a loss in the stream itself. `sequence` is the last number of the gap, if it is one of the spool.
    pub(crate) fn announce(&self, place: SemaphorePermit<'_>, gap: Gap, sequence: Option<u64>) {
        let text = gap.event(&self.name, &self.stream);
        self.take(place, text.into(), SystemTime::now(), sequence);
    }

    /// Appends an event of our own to the spool, for every destination, if there is room now.
    pub(crate) fn append(&self, event: &AuditEvent) -> Result<(), AppendError> {
        self.spooled.as_ref().map_or(Ok(()), |spooled| feed::append(&spooled.spool, &self.stream, event))
    }

    /// From now on nothing gets a place; those who wait for one hear so.
    pub(crate) fn close(&self) {
        self.credits.close();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.credits.is_closed()
    }

    /// Events accepted and not settled.
    pub(crate) fn outstanding(&self) -> u64 {
        match &self.spooled {
            Some(spooled) => spooled.spool.durable_seq().saturating_sub(spooled.acker.acked()),
            None => {
                // Read in this order, an event between the two reads counts as outstanding, never as negative.
                let settled = self.ledger.settled();
                self.ledger.accepted().saturating_sub(settled)
            }
        }
    }

    /// What [`has_settled`](Self::has_settled) is asked, for everything accepted so far.
    pub(crate) fn mark(&self) -> u64 {
        match &self.spooled {
            Some(spooled) => spooled.spool.durable_seq(),
            None => self.ledger.accepted(),
        }
    }

    /// Whether everything accepted before [`mark`](Self::mark) was taken is settled.
    pub(crate) fn has_settled(&self, mark: u64) -> bool {
        match &self.spooled {
            Some(spooled) => spooled.acker.acked() >= mark,
            // The queue is first-in first-out, so that counts tell which events those are.
            None => self.ledger.settled() >= mark,
        }
    }

    /// Has everything up to a [`mark`](Self::mark) exported without waiting for a full batch.
    pub(crate) fn flush_to(&self, mark: u64) {
        if self.spooled.is_some() {
            // What the feed has not handed over yet is flushed when it has.
            self.flush_wanted.fetch_max(mark, Ordering::SeqCst);
        }
        self.flush_soon();
    }

    /// Called by the feed after it handed over a number.
    pub(crate) fn fed(&self, sequence: u64) {
        let wanted = self.flush_wanted.load(Ordering::SeqCst);
        if wanted != 0 && sequence >= wanted {
            // A later wish that came in between stays.
            let _ = self.flush_wanted.compare_exchange(wanted, 0, Ordering::SeqCst, Ordering::SeqCst);
            self.flush_soon();
        }
    }

    /// Makes the processor export what it holds, without waiting for it. The SDK's own flush waits, five seconds at most, so it
    /// has a thread to itself; its result says little and is not used: the ledger knows.
    fn flush_soon(&self) {
        let provider = self.provider.clone();
        self.runtime.spawn_blocking(move || provider.force_flush());
    }

    /// Waits until nothing is outstanding, nothing is on its way in, and every drop has been announced; returns early when that
    /// will not be, because delivery stopped.
    pub(crate) async fn idle(&self) {
        while !self.is_idle() {
            let mark = self.mark();
            self.flush_to(mark);
            if !self.ledger.wait(|| self.has_settled(mark)).await {
                return;
            }
            // Settled, and yet not idle: a caller is between its place and its event, for microseconds.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn is_idle(&self) -> bool {
        self.outstanding() == 0 && self.gap().is_none() && self.credits.available_permits() == self.capacity
    }

    pub(crate) fn state(&self) -> DestinationState {
        self.ledger.state(&self.name, &self.target, self.outstanding())
    }

    fn gap(&self) -> MutexGuard<'_, Option<Gap>> {
        self.gap.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spooled {
    pub(crate) fn new(spool: Arc<Spool>, acker: Acker) -> Self {
        Self { spool, acker, in_flight: Mutex::default() }
    }

    fn in_flight(&self) -> MutexGuard<'_, VecDeque<u64>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
