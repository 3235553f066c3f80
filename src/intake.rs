//! The gate in front of one destination's batch processor.
//!
//! The SDK's processor drops what does not fit its queue. A credit is held for every record from the moment it is handed over to
//! the moment it is settled, and there are only as many credits as the queue has places, so it always fits.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _};
use opentelemetry::{Context, StringValue};
use opentelemetry_sdk::logs::SdkLogger;
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit, TryAcquireError};

use crate::config::Limits;
use crate::dead_letter::{self, Refusal};
use crate::event::{EventOutcome, ResourceInfo, new_audit_event};
use crate::jsonl::JsonLines;
use crate::ledger::Ledger;
use crate::notice::{Listener, Notice};
use crate::ocsf;
use crate::record;

pub(crate) struct Intake {
    pub(crate) name: String,
    /// Where the destination is, for a person.
    pub(crate) target: String,
    pub(crate) ledger: Ledger,
    pub(crate) dead_letters: Arc<JsonLines>,
    pub(crate) listener: Listener,
    logger: SdkLogger,
    credits: Semaphore,
    capacity: usize,
    limits: Limits,
    mapping: ocsf::Mapping,
    /// Events dropped since the last gap record.
    gap: Mutex<Option<Gap>>,
}

#[derive(Debug, Clone, Copy)]
struct Gap {
    events: u64,
    first_sequence: u64,
    last_sequence: u64,
}

/// What an intake is made of.
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) target: String,
    pub(crate) logger: SdkLogger,
    pub(crate) capacity: usize,
    pub(crate) limits: Limits,
    pub(crate) mapping: ocsf::Mapping,
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
            credits: Semaphore::new(parts.capacity),
            capacity: parts.capacity,
            limits: parts.limits,
            mapping: parts.mapping,
            gap: Mutex::new(None),
        }
    }

    /// Waits for a place in the queue.
    ///
    /// # Errors
    /// The intake has been closed.
    pub(crate) async fn place(&self) -> Result<SemaphorePermit<'_>, AcquireError> {
        self.credits.acquire().await
    }

    /// A place in the queue, if there is one now.
    ///
    /// # Errors
    /// There is none, or the intake has been closed.
    pub(crate) fn place_now(&self) -> Result<SemaphorePermit<'_>, TryAcquireError> {
        self.credits.try_acquire()
    }

    /// Hands an event to the processor. The place is given back when the event is settled.
    pub(crate) fn take(&self, place: SemaphorePermit<'_>, event: Arc<str>, observed: SystemTime) {
        place.forget();
        self.ledger.accept();
        if self.ledger.has_ended() {
            self.ledger.settle_lost(1);
            self.give_back(1);
            return;
        }
        let mut record = self.logger.create_log_record();
        if record::fill(&mut record, Arc::clone(&event), observed, &self.limits).is_err() {
            // Our encoder writes JSON; whatever this is, it is kept as it is.
            record.set_body(AnyValue::String(StringValue::from(Arc::clone(&event))));
        }
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
                self.ledger.settle(0, 1);
                let (destination, why) = (self.name.clone(), why.to_owned());
                (self.listener)(&Notice::DeadLettered { destination, events: 1, why, path });
            }
            Err(error) => {
                self.ledger.settle_lost(1);
                let why = format!("{error}; an event is lost because {why}");
                (self.listener)(&Notice::DeadLetterFailed { path, why });
            }
        }
        self.give_back(1);
    }

    /// Counts an event that found no place under `on_full = drop`.
    pub(crate) fn drop_event(&self, sequence: u64) {
        self.ledger.drop_unaccepted();
        let mut gap = self.gap.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *gap {
            Some(gap) => {
                gap.events += 1;
                gap.last_sequence = sequence;
            }
            None => *gap = Some(Gap { events: 1, first_sequence: sequence, last_sequence: sequence }),
        }
        drop(gap);
        // The queue may have emptied meanwhile, and then nothing else would announce it.
        self.announce_gap();
    }

    /// Gives back the places of settled events, and uses one to announce what was dropped meanwhile.
    pub(crate) fn give_back(&self, places: u64) {
        self.credits.add_permits(usize::try_from(places).expect("no more places than the queue has"));
        self.announce_gap();
    }

    fn announce_gap(&self) {
        let mut waiting = self.gap.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_none() {
            return;
        }
        let Ok(place) = self.credits.try_acquire() else { return };
        let Some(gap) = waiting.take() else { return };
        drop(waiting);
        let event = new_audit_event("audit_gap", "drop", EventOutcome::Error).with_resource(
            ResourceInfo::new("audit_stream", &*self.name)
                .with_attribute("reason", "queue_full")
                .with_attribute("count", gap.events)
                .with_attribute("first_sequence", gap.first_sequence)
                .with_attribute("last_sequence", gap.last_sequence),
        );
        let mut text = Vec::new();
        ocsf::encode(&event, &self.mapping, None, &mut text);
        self.take(place, shared(&text), SystemTime::now());
        (self.listener)(&Notice::Dropped { destination: self.name.clone(), events: gap.events });
    }

    /// From now on nothing gets a place; those who wait for one hear so.
    pub(crate) fn close(&self) {
        self.credits.close();
    }

    /// Waits until nothing is outstanding, nothing is on its way in, and every drop has been announced; returns early when that
    /// will not be, because delivery stopped.
    pub(crate) async fn idle(&self) {
        while !self.is_idle() {
            if !self.ledger.settled(self.ledger.accepted()).await {
                return;
            }
            // Settled, and yet not idle: a caller is between its place and its event, for microseconds.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn is_idle(&self) -> bool {
        let announced = self.gap.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        announced && self.credits.available_permits() == self.capacity
    }
}

/// The JSON text of an event, shared by the destinations.
pub(crate) fn shared(text: &[u8]) -> Arc<str> {
    Arc::from(std::str::from_utf8(text).expect("the encoder writes UTF-8"))
}
