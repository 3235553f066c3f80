//! Waiting for something to change, from async code under any runtime or none.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// Counts changes. It lives in the state whose changes it counts, under that state's lock, so that no change goes unnoticed
/// between looking and waiting.
#[derive(Default)]
pub(super) struct Signal {
    epoch: u64,
    next_key: u64,
    waiters: BTreeMap<u64, (Waker, Option<Instant>)>,
}

/// Wakers to be woken once the lock is released.
#[must_use]
#[derive(Default)]
pub(super) struct Woken(Vec<Waker>);

impl Woken {
    pub(super) fn wake(self) {
        for waker in self.0 {
            waker.wake();
        }
    }

    pub(super) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

impl From<Vec<Waker>> for Woken {
    fn from(wakers: Vec<Waker>) -> Self {
        Self(wakers)
    }
}

impl Signal {
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Something has changed.
    pub(super) fn raise(&mut self) -> Woken {
        self.epoch += 1;
        Woken(std::mem::take(&mut self.waiters).into_values().map(|(waker, _)| waker).collect())
    }

    /// The first deadline anyone waits for.
    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.waiters.values().filter_map(|(_, deadline)| *deadline).min()
    }

    /// Those whose deadline has passed.
    pub(super) fn expire(&mut self, now: Instant) -> Woken {
        let expired = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let woken = self.waiters.values().filter(|(_, deadline)| expired(*deadline)).map(|(waker, _)| waker.clone());
        let woken = Woken(woken.collect());
        self.waiters.retain(|_, (_, deadline)| !expired(*deadline));
        woken
    }
}

/// Where a [`Signal`] is found, under its lock.
pub(super) trait HasSignal {
    /// Runs `work` on the signal with the lock held.
    fn with_signal<R>(&self, work: impl FnOnce(&mut Signal) -> R) -> R;
    /// Someone waits until then: whoever keeps the time has to know.
    fn keep_time(&self, deadline: Instant);
}

/// Done when the signal has been raised since `epoch`, or the deadline has passed.
pub(super) struct Changed<S: HasSignal> {
    source: S,
    epoch: u64,
    deadline: Option<Instant>,
    key: Option<u64>,
}

impl<S: HasSignal> Changed<S> {
    pub(super) fn new(source: S, epoch: u64, deadline: Option<Instant>) -> Self {
        Self { source, epoch, deadline, key: None }
    }
}

impl<S: HasSignal + Unpin> Future for Changed<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let (epoch, deadline, key) = (this.epoch, this.deadline, this.key);
        let waiting = this.source.with_signal(|signal| {
            let key = key.unwrap_or(signal.next_key);
            if signal.epoch != epoch || deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                signal.waiters.remove(&key);
                return None;
            }
            signal.next_key = signal.next_key.max(key + 1);
            signal.waiters.insert(key, (context.waker().clone(), deadline));
            Some(key)
        });
        let first = this.key.is_none();
        this.key = waiting;
        match (waiting, deadline) {
            (None, _) => Poll::Ready(()),
            (Some(_), Some(deadline)) if first => {
                this.source.keep_time(deadline);
                Poll::Pending
            }
            (Some(_), _) => Poll::Pending,
        }
    }
}

impl<S: HasSignal> Drop for Changed<S> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.source.with_signal(|signal| signal.waiters.remove(&key));
        }
    }
}
