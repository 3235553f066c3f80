//! Events that are on their way into the stream.

use std::sync::atomic::Ordering;

use super::AuditStreamer;
use crate::error::Error;
use crate::spool::Appending;

/// Events that have been handed over by [`AuditStreamer::submit_all`]. They count as accepted, unless [`wait`](Self::wait) says
/// otherwise. Dropped, it leaves open whether they are.
#[must_use = "the events are accepted only when `wait` says so"]
pub struct Submission {
    pub(super) streamer: AuditStreamer,
    pub(super) events: u64,
    pub(super) state: Submitted,
}

pub(super) enum Submitted {
    /// The first one's number.
    Accepted(u64),
    Appending(Appending),
}

impl Submission {
    /// The last event's number. Once [`AuditStreamer::durable_sequence`] has come to it, [`wait`](Self::wait) does not block.
    pub fn last_sequence(&self) -> u64 {
        let first = match &self.state {
            Submitted::Accepted(first) => *first,
            Submitted::Appending(appending) => appending.first_seq(),
        };
        (first + self.events).saturating_sub(1)
    }

    /// Blocks the thread until the events are accepted. Gives the first one's number; the others' follow it.
    ///
    /// # Errors
    /// None of them is accepted: [`is_full`](Error::is_full) when the disk had no room, even under `on_full = block`: to wait for
    /// room, emit them. [`is_outcome_unknown`](Error::is_outcome_unknown) when the device failed.
    pub fn wait(self) -> Result<u64, Error> {
        match self.state {
            Submitted::Accepted(first) => Ok(first),
            Submitted::Appending(appending) => Ok(appending.wait().inspect_err(|_| {
                self.streamer.inner.accepted.fetch_sub(self.events, Ordering::Relaxed);
            })?),
        }
    }
}
