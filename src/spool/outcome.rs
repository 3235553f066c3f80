//! What became of a group, for all who have records in it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::error::AppendError;
use super::signal::Woken;
use super::sync::{Condvar, Mutex, MutexGuard};

/// Set once, when the group is written or has failed.
#[derive(Default)]
pub(super) struct Outcome {
    state: Mutex<OutcomeState>,
    /// Wakes the threads among those who wait, all by one call.
    known: Condvar,
}

#[derive(Default)]
struct OutcomeState {
    result: Option<Result<(), AppendError>>,
    wakers: Vec<Waker>,
    has_threads: bool,
}

impl Outcome {
    fn lock(&self) -> MutexGuard<'_, OutcomeState> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waking tasks is left to the caller, who may hold a lock.
    pub(super) fn finish(&self, result: Result<(), AppendError>) -> Woken {
        let mut state = self.lock();
        state.result = Some(result);
        let (wakers, threads) = (std::mem::take(&mut state.wakers), state.has_threads);
        drop(state);
        if threads {
            self.known.notify_all();
        }
        Woken::from(wakers)
    }

    /// Blocks the thread until the outcome is known.
    pub(super) fn wait_here(&self) -> Result<(), AppendError> {
        let mut state = self.lock();
        loop {
            if let Some(result) = &state.result {
                return result.clone();
            }
            state.has_threads = true;
            state = self.known.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    pub(super) fn wait(self: Arc<Self>) -> Settled {
        Settled { outcome: self, place: None }
    }
}

/// Done when a group's outcome is known.
pub(super) struct Settled {
    outcome: Arc<Outcome>,
    /// Where our waker stands.
    place: Option<usize>,
}

impl Future for Settled {
    type Output = Result<(), AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = Arc::clone(&self.outcome);
        let mut state = outcome.lock();
        if let Some(result) = &state.result {
            return Poll::Ready(result.clone());
        }
        match self.place {
            Some(place) => state.wakers[place].clone_from(context.waker()),
            None => {
                self.place = Some(state.wakers.len());
                state.wakers.push(context.waker().clone());
            }
        }
        Poll::Pending
    }
}
