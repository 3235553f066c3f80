//! One destination's books: what was accepted, what became of it, and who waits for that.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// Counts only grow. `settled` is what is no longer outstanding: delivered, rejected, or lost with a destination that ended.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accepted: AtomicU64,
    settled: AtomicU64,
    delivered: AtomicU64,
    rejected: AtomicU64,
    dropped: AtomicU64,
    retries: AtomicU64,
    failing: AtomicBool,
    ended: AtomicBool,
    stopped: AtomicBool,
    last_error: Mutex<Option<String>>,
    settlement: Notify,
}

impl Ledger {
    pub(crate) fn accept(&self) {
        self.accepted.fetch_add(1, Ordering::SeqCst);
    }

    /// Events given up in the spool, which the ledger never saw.
    pub(crate) fn give_up(&self, events: u64) {
        self.dropped.fetch_add(events, Ordering::Relaxed);
        self.settlement.notify_waiters();
    }

    /// Events dropped before they were accepted: the queue was full.
    pub(crate) fn drop_unaccepted(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn settle(&self, delivered: u64, rejected: u64) {
        self.delivered.fetch_add(delivered, Ordering::Relaxed);
        self.rejected.fetch_add(rejected, Ordering::Relaxed);
        self.settled.fetch_add(delivered + rejected, Ordering::SeqCst);
        self.settlement.notify_waiters();
    }

    /// Events lost with a destination that ended for good.
    pub(crate) fn settle_lost(&self, events: u64) {
        self.dropped.fetch_add(events, Ordering::Relaxed);
        self.settled.fetch_add(events, Ordering::SeqCst);
        self.settlement.notify_waiters();
    }

    /// An attempt failed; gives whether its reason is another than the last one's.
    pub(crate) fn fail(&self, why: &str) -> bool {
        self.retries.fetch_add(1, Ordering::Relaxed);
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        let news = last.as_deref() != Some(why);
        if news {
            *last = Some(why.to_owned());
        }
        news
    }

    /// Sets whether the destination counts as failing; gives what it was.
    pub(crate) fn set_failing(&self, failing: bool) -> bool {
        self.failing.swap(failing, Ordering::Relaxed)
    }

    /// The destination takes nothing any more; what comes is counted as lost.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Nothing will be settled any more; those who wait stop waiting.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.settlement.notify_waiters();
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// What is no longer outstanding.
    pub(crate) fn settled(&self) -> u64 {
        self.settled.load(Ordering::SeqCst)
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a settlement after which `enough` holds; `false` when that will not be, because delivery stopped.
    pub(crate) async fn wait(&self, enough: impl Fn() -> bool) -> bool {
        loop {
            let settlement = self.settlement.notified();
            tokio::pin!(settlement);
            settlement.as_mut().enable();
            if enough() {
                return true;
            }
            if self.stopped.load(Ordering::SeqCst) {
                return false;
            }
            settlement.await;
        }
    }

    pub(crate) fn state(&self, name: &str, target: &str, outstanding: u64) -> DestinationState {
        let delivered = self.delivered.load(Ordering::Relaxed);
        DestinationState {
            name: name.to_owned(),
            target: target.to_owned(),
            outstanding,
            accepted: self.settled() + outstanding,
            delivered,
            rejected: self.rejected(),
            dropped: self.dropped.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            failing: self.failing.load(Ordering::Relaxed),
            ended: self.has_ended(),
            last_error: self.last_error(),
        }
    }
}

/// One destination's books at a moment. Counts since the start.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DestinationState {
    /// Name of the destination.
    pub name: String,
    /// Where it is, without secrets.
    pub target: String,
    /// Events accepted for it; with a spool, those that an earlier process left there are among them.
    pub accepted: u64,
    /// Events it confirmed.
    pub delivered: u64,
    /// Events accepted and not yet delivered, rejected or lost.
    pub outstanding: u64,
    /// Events it refused for good; they are in the dead-letter file.
    pub rejected: u64,
    /// Events it goes without: dropped because its queue was full (`on_full = drop`), given up because it lags too far behind
    /// (best effort; those being sent at that moment may still arrive), or lost because it ended for good.
    pub dropped: u64,
    /// Attempts that failed and were followed by another.
    pub retries: u64,
    /// Whether it takes no events at the moment.
    pub failing: bool,
    /// Whether it has ended for good: the reader of standard output has gone.
    pub ended: bool,
    /// Why an attempt failed last, if one ever did.
    pub last_error: Option<String>,
}
