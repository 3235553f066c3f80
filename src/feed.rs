//! The thread that brings a destination its events from the spool: in order, as places become free, and gaps where bytes are
//! damaged.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::gap::{Gap, Reason};
use crate::intake::Intake;
use crate::notice::Notice;
use crate::retry::Backoff;
use crate::spool::{Damage, Item, Reader, Ready, SeqRange};
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

pub(crate) struct Feed {
    pub(crate) reader: Reader,
    pub(crate) intake: Arc<Intake>,
    pub(crate) stream: Arc<Stream>,
    pub(crate) backoff: Backoff,
}

enum Next {
    Event { sequence: u64, event: Arc<str>, observed: SystemTime },
    Lost(Damage),
    Nothing,
}

impl Feed {
    /// Feeds until the intake or the spool is closed.
    pub(crate) fn run(mut self) {
        let mut failures = 0;
        loop {
            let next = match self.next() {
                Ok(next) => next,
                Err(why) => {
                    failures += 1;
                    if self.intake.ledger.fail(&why) {
                        let text = format!("{}: the spool cannot be read: {why}; tried again", self.intake.name);
                        (self.intake.listener)(&Notice::Warning { text });
                    }
                    std::thread::sleep(self.backoff.wait(failures, None, fastrand::f64()).min(Duration::from_secs(1)));
                    continue;
                }
            };
            failures = 0;
            if let Next::Nothing = next {
                match pollster::block_on(self.reader.readable()) {
                    Ready::Ended => return,
                    _ => continue,
                }
            }
            let Ok(place) = pollster::block_on(self.intake.places(1)) else { return };
            match next {
                Next::Event { sequence, event, observed } => {
                    self.intake.take(place, event, observed, Some(sequence));
                    self.intake.fed(sequence);
                }
                Next::Lost(damage) => {
                    let SeqRange { first, last } = damage.range;
                    let gap = Gap {
                        reason: Reason::Damage,
                        events: last - first + 1,
                        first_sequence: first,
                        last_sequence: last,
                    };
                    self.intake.announce(place, gap, Some(last));
                    self.intake.fed(last);
                    let (destination, why) = (self.intake.name.clone(), describe(&damage));
                    (self.intake.listener)(&Notice::Lost { destination, first, last, why });
                }
                Next::Nothing => unreachable!("waited for above"),
            }
        }
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
