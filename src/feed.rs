//! The thread that brings a destination its events from the spool: in order, as places become free, and gaps where bytes are
//! damaged.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{AcquireError, SemaphorePermit};

use crate::event::AuditEvent;
use crate::gap::{Gap, Reason};
use crate::intake::Intake;
use crate::notice::Notice;
use crate::retry::Backoff;
use crate::spool::{AppendError, Damage, Item, Reader, Ready, SeqRange, Spool};
use crate::stream::Stream;

/// Bytes in front of an event in a record.
pub(crate) const STAMP_BYTES: usize = 8;

/// What stands in front of an event in a record of the spool: when it was accepted, in nanoseconds since the epoch, little-endian.
/// The event's OCSF JSON follows.
pub(crate) fn stamp(observed: SystemTime) -> [u8; STAMP_BYTES] {
    let nanos = observed.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    nanos.to_le_bytes()
}

/// The event in a record, and when it was accepted; `None` for a record that somebody else wrote.
pub(crate) fn from_record(record: &[u8]) -> Option<(&str, SystemTime)> {
    let (nanos, event) = record.split_first_chunk()?;
    let observed = SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::from_le_bytes(*nanos));
    Some((std::str::from_utf8(event).ok()?, observed))
}

/// Appends an event of our own to a spool, for every destination. It waits for nobody to make room: whoever might is not to be kept
/// from it, or not there yet.
///
/// # Errors
/// There is no room, or the spool takes nothing any more.
pub(crate) fn append(spool: &Spool, stream: &Stream, event: &AuditEvent) -> Result<(), AppendError> {
    let mut record = stamp(SystemTime::now()).to_vec();
    stream.encode(event, None, &mut record);
    spool.append_now(&record).map(drop)
}

pub(crate) struct Feed {
    pub(crate) reader: Reader,
    pub(crate) intake: Arc<Intake>,
    pub(crate) stream: Arc<Stream>,
    pub(crate) backoff: Backoff,
    /// Most events a second.
    pub(crate) rate: Option<u32>,
    /// By best effort: most events to lag behind.
    pub(crate) max_lag: Option<u64>,
    /// Events given up of which the stream has not been told, because the spool is full.
    pub(crate) untold: Option<Gap>,
}

enum Next {
    Event { sequence: u64, event: Arc<str>, observed: SystemTime },
    Lost(Damage),
    Nothing,
}

/// How often a destination by best effort that takes nothing is looked at.
const LAG_INTERVAL: Duration = Duration::from_secs(1);

impl Feed {
    /// Feeds until the intake or the spool is closed.
    pub(crate) fn run(mut self) {
        let intake = Arc::clone(&self.intake);
        let (mut failures, mut places) = (0, None);
        loop {
            // What is not used of them is given back before anything is waited for.
            let Some(place) = next_place(&mut places, &intake) else {
                let Ok(more) = self.places(&intake) else { return self.end() };
                places = Some(more);
                continue;
            };
            match self.next() {
                Ok(Next::Event { sequence, event, observed }) => {
                    intake.take(place, event, observed, Some(sequence));
                    intake.fed(sequence);
                }
                Ok(Next::Lost(damage)) => {
                    let SeqRange { first, last } = damage.range;
                    let gap = Gap {
                        reason: Reason::Damage,
                        events: last - first + 1,
                        first_sequence: first,
                        last_sequence: last,
                    };
                    intake.announce(place, gap, Some(last));
                    intake.fed(last);
                    self.say_lost(gap, describe(&damage));
                }
                Ok(Next::Nothing) => {
                    drop((place, places.take()));
                    if self.readable(&intake) == Ready::Ended {
                        return self.end();
                    }
                    continue;
                }
                Err(why) => {
                    drop((place, places.take()));
                    failures += 1;
                    if intake.ledger.fail(&why) {
                        let text = format!("{}: the spool cannot be read: {why}; tried again", intake.name);
                        (intake.listener)(&Notice::Warning { text });
                    }
                    std::thread::sleep(self.backoff.wait(failures, None, fastrand::f64()).min(Duration::from_secs(1)));
                    continue;
                }
            }
            failures = 0;
            if let Some(rate) = self.rate {
                std::thread::sleep(Duration::from_secs(1) / rate);
            }
        }
    }

    /// Waits for something to read, and meanwhile for room to tell what has not been told.
    fn readable(&mut self, intake: &Intake) -> Ready {
        loop {
            self.tell();
            if self.untold.is_none() {
                return pollster::block_on(self.reader.readable());
            }
            let readable = async { tokio::time::timeout(LAG_INTERVAL, self.reader.readable()).await };
            if let Ok(ready) = intake.runtime.block_on(readable) {
                return ready;
            }
        }
    }

    /// The last chance to tell.
    fn end(mut self) {
        self.tell();
        if let Some(gap) = self.untold {
            self.say_untold(gap, "it is full");
        }
    }

    /// Waits for a place in the queue, and takes all that are free then; one by one at a limited rate. A destination by best effort
    /// loses its oldest events meanwhile, if they become too many.
    fn places<'a>(&mut self, intake: &'a Intake) -> Result<SemaphorePermit<'a>, AcquireError> {
        let mut places = self.place(intake)?;
        if self.rate.is_none()
            && let Some(more) = intake.free_places()
        {
            places.merge(more);
        }
        Ok(places)
    }

    fn place<'a>(&mut self, intake: &'a Intake) -> Result<SemaphorePermit<'a>, AcquireError> {
        let Some(max_lag) = self.max_lag else { return pollster::block_on(intake.places(1)) };
        loop {
            self.give_up(max_lag);
            let place = async { tokio::time::timeout(LAG_INTERVAL, intake.places(1)).await };
            // Only the runtime has a timer; this is a plain thread and may block on it.
            if let Ok(place) = intake.runtime.block_on(place) {
                return place;
            }
        }
    }

    /// Gives up the oldest events of a backlog that is too large, and a quarter more, so that it is not done for each new event.
    fn give_up(&mut self, max_lag: u64) {
        self.tell();
        let (newest, acked) = (self.intake.mark(), self.reader.acker().acked());
        let last = newest.saturating_sub(max_lag / 4 * 3);
        if newest.saturating_sub(acked) <= max_lag || self.reader.position() > last {
            return;
        }
        // Those that are being sent at the moment are among them: they may still arrive, but no other process would send them.
        let gap =
            Gap { reason: Reason::LagLimit, events: last - acked, first_sequence: acked + 1, last_sequence: last };
        self.untold = Some(self.untold.map_or(gap, |untold| untold.and(gap)));
        // Before the acknowledgement: a crash in between tells of a loss that is none, and not the other way round.
        self.tell();
        self.intake.give_up(gap);
        self.reader.rewind();
        self.say_lost(gap, format!("it lags more than {max_lag} events behind and is served by best effort"));
    }

    /// Tells the stream of what has been given up. A full spool is told later.
    fn tell(&mut self) {
        let Some(gap) = self.untold.take() else { return };
        match self.intake.append(&gap.audit_event(&self.intake.name, &self.stream)) {
            Ok(()) => {}
            Err(AppendError::Full { .. }) => self.untold = Some(gap),
            Err(error) => self.say_untold(gap, error),
        }
    }

    fn say_untold(&self, gap: Gap, why: impl fmt::Display) {
        let (name, events) = (&self.intake.name, gap.events);
        let text = format!("{name}: the spool could not be told of {events} lost events: {why}");
        (self.intake.listener)(&Notice::Warning { text });
    }

    fn say_lost(&self, gap: Gap, why: String) {
        let (destination, first, last) = (self.intake.name.clone(), gap.first_sequence, gap.last_sequence);
        (self.intake.listener)(&Notice::Lost { destination, first, last, why });
    }

    fn next(&mut self) -> Result<Next, String> {
        Ok(match self.reader.try_next().map_err(|error| error.to_string())? {
            None => Next::Nothing,
            Some(Item::Damaged(damage)) => Next::Lost(damage),
            Some(Item::Record { seq, payload }) => match from_record(payload) {
                Some((event, observed)) => {
                    Next::Event { sequence: seq, event: self.stream.numbered(event, seq), observed }
                }
                None => Next::Lost(Damage {
                    range: SeqRange { first: seq, last: seq },
                    file: None,
                    bytes: 0..0,
                    quarantine: None,
                }),
            },
        })
    }
}

/// One of the places at hand; none when they are used up, or nothing is to be fed any more.
fn next_place<'a>(places: &mut Option<SemaphorePermit<'a>>, intake: &Intake) -> Option<SemaphorePermit<'a>> {
    if intake.is_closed() {
        *places = None;
    }
    places.as_mut()?.split(1)
}

fn describe(damage: &Damage) -> String {
    let what = match &damage.file {
        Some(file) => format!("damaged at bytes {} to {} of {}", damage.bytes.start, damage.bytes.end, file.display()),
        None => "their segment is gone, or they are no events".to_owned(),
    };
    match &damage.quarantine {
        Some(copy) => format!("{what}; a copy of the bytes is {}", copy.display()),
        None => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_holds_the_event_and_its_time() {
        let observed = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_793_607_247_120_394_001);
        let record = [&stamp(observed), "{\"ä\":1}".as_bytes()].concat();
        assert_eq!(from_record(&record), Some(("{\"ä\":1}", observed)));
        assert_eq!(from_record(b"short"), None);
        assert_eq!(from_record(b"12345678\xff"), None);
    }
}
