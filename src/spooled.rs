//! The events in a spool's folder as delivery would write them, without opening the spool: to look at what waits, and to rescue what a
//! damaged one still holds.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::feed;
use crate::gap::{Gap, Reason};
use crate::ocsf;
use crate::spool::{self, Damage, Export, Item, SeqRange};
use crate::stream::Stream;

/// What stands at a place of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpooledEvent {
    /// An event.
    Event {
        /// Its number.
        sequence: u64,
        /// Its OCSF JSON with number and stream.
        json: Arc<str>,
    },
    /// Events that cannot be read any more.
    Lost {
        /// Which, and where they should be.
        damage: Damage,
        /// The OCSF JSON of the gap record that announces it.
        gap_record: String,
    },
}

/// The events of a spool in order. Made by [`spooled_events`].
pub struct SpooledEvents {
    export: Export,
    stream: Stream,
    destination: String,
    /// The first number that should be here.
    first: u64,
    /// The last number that was here, as far as anybody knows.
    last: u64,
}

/// The events in a spool's folder from number `from` on. Gap records name `destination` as the one that goes without.
///
/// What some destination has not acknowledged and is gone from the folder is lost, too. A live spool may be read: events that it
/// delivers meanwhile may be missing or not, and of those it is just accepting some may be there already.
///
/// # Errors
/// The folder cannot be read. Nothing in it tells which spool it is: [`io::ErrorKind::InvalidData`].
pub fn spooled_events(dir: impl AsRef<Path>, from: u64, destination: &str) -> io::Result<SpooledEvents> {
    let dir = dir.as_ref();
    let status = spool::status(dir)?;
    let export = Export::new(dir, from)?;
    let acked = || status.destinations.iter().filter(|reader| !reader.cursor_damaged).map(|reader| reader.lag.acked);
    let first = acked().min().map_or(export.position(), |acked| from.max(acked + 1));
    Ok(SpooledEvents {
        export,
        stream: Stream::new(ocsf::Mapping::default(), Some(status.id.unwrap_or(0))),
        destination: destination.to_owned(),
        first,
        last: acked().max().unwrap_or(0),
    })
}

impl SpooledEvents {
    fn try_next(&mut self) -> io::Result<Option<SpooledEvent>> {
        if self.first < self.export.position() {
            let range = SeqRange { first: self.first, last: self.export.position() - 1 };
            self.first = self.export.position();
            return Ok(Some(self.lost(gone(range))));
        }
        let damage = match self.export.try_next()? {
            Some(Item::Record { seq, payload }) => match feed::from_record(payload) {
                Some((event, _)) => {
                    self.first = seq + 1;
                    return Ok(Some(SpooledEvent::Event { sequence: seq, json: self.stream.numbered(event, seq) }));
                }
                None => gone(SeqRange { first: seq, last: seq }),
            },
            Some(Item::Damaged(damage)) => damage,
            None if self.first <= self.last => gone(SeqRange { first: self.first, last: self.last }),
            None => return Ok(None),
        };
        self.first = damage.range.last + 1;
        Ok(Some(self.lost(damage)))
    }

    fn lost(&self, damage: Damage) -> SpooledEvent {
        let SeqRange { first, last } = damage.range;
        let gap = Gap { reason: Reason::Damage, events: last - first + 1, first_sequence: first, last_sequence: last };
        SpooledEvent::Lost { gap_record: gap.event(&self.destination, &self.stream), damage }
    }
}

impl Iterator for SpooledEvents {
    type Item = io::Result<SpooledEvent>;

    /// After an error it may be asked again: nothing is skipped.
    fn next(&mut self) -> Option<Self::Item> {
        self.try_next().transpose()
    }
}

fn gone(range: SeqRange) -> Damage {
    Damage { range, file: None, bytes: 0..0, quarantine: None }
}
