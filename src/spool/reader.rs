//! Reading: durable records in order, from where a destination has acknowledged, and what is missing between them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cursor::Cursor;
use super::error::ReadError;
use super::queue::View;
use super::scan::{Bounds, Scanner, Step};
use super::segment;
use super::signal::Changed;
use super::{Readable, SeqRange, Shared};

/// The next thing a reader meets.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A record, intact.
    Record {
        /// Its number.
        seq: u64,
        /// Its bytes, as they were appended.
        payload: &'a [u8],
    },
    /// Records that are gone. It is met once by each reader that passes the place, until the place is acknowledged.
    Damaged(Damage),
}

/// Records that cannot be read any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Their numbers.
    pub range: SeqRange,
    /// The segment where they should be; `None` when there is no such segment.
    pub file: Option<PathBuf>,
    /// The bytes in their place.
    pub bytes: Range<u64>,
    /// A copy of these bytes, for whoever wants to know. `None` when there are none, or the disk had no room.
    pub quarantine: Option<PathBuf>,
}

/// What came of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// There is something to read.
    More,
    /// The time is over.
    TimedOut,
    /// The spool is closed, or its device failed: there will be nothing more. What is acknowledged still counts.
    Ended,
}

/// Reads a destination's records.
///
/// It reads large pieces and holds no more than one of them. Only what is on the device is seen, so nothing leaves that a crash could
/// still take back.
pub struct Reader {
    shared: Arc<Shared>,
    cursor: Arc<Cursor>,
    next: u64,
    segment: Option<Open>,
}

/// Acknowledges for a destination. Cheap to clone, independent of the reader.
#[derive(Clone)]
pub struct Acker {
    shared: Arc<Shared>,
    cursor: Arc<Cursor>,
}

struct Open {
    base: u64,
    sealed: bool,
    scanner: Scanner,
}

/// What a turn of the reader's loop has found.
enum Turn {
    Record { seq: u64, payload: Range<usize> },
    Damaged(Damage),
    Nothing,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, cursor: Arc<Cursor>) -> Self {
        let next = cursor.acked() + 1;
        Self { shared, cursor, next, segment: None }
    }

    /// The destination's name.
    pub fn destination(&self) -> &str {
        self.cursor.name()
    }

    /// Number of the record that comes next, or would come next.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Acknowledges for this reader's destination.
    pub fn acker(&self) -> Acker {
        Acker { shared: Arc::clone(&self.shared), cursor: Arc::clone(&self.cursor) }
    }

    /// Goes to the first record that is not acknowledged: back to read again what was not delivered, or ahead over what was
    /// given up.
    pub fn rewind(&mut self) {
        self.next = self.cursor.acked() + 1;
        self.segment = None;
    }

    /// The next record or damage; `None` when there is nothing more on the device. Does not wait for appends, only for the disk.
    ///
    /// # Errors
    /// The disk cannot be read now. Nothing is skipped.
    pub fn try_next(&mut self) -> Result<Option<Item<'_>>, ReadError> {
        match self.turn()? {
            Turn::Record { seq, payload } => {
                let open = self.segment.as_ref().expect("a record lies in an open segment");
                Ok(Some(Item::Record { seq, payload: open.scanner.payload(payload) }))
            }
            Turn::Damaged(damage) => Ok(Some(Item::Damaged(damage))),
            Turn::Nothing => Ok(None),
        }
    }

    /// Waits until [`try_next`](Self::try_next) has something to give. May be dropped and called again.
    pub async fn readable(&self) -> Ready {
        self.wait_until(None).await
    }

    /// [`readable`](Self::readable) for code without async, for so long at most.
    pub fn wait(&self, timeout: Duration) -> Ready {
        pollster::block_on(self.wait_until(Instant::now().checked_add(timeout)))
    }

    async fn wait_until(&self, deadline: Option<Instant>) -> Ready {
        loop {
            let epoch = {
                let state = self.shared.queue.lock();
                if state.view(self.next).is_some() {
                    return Ready::More;
                }
                if state.has_ended() {
                    return Ready::Ended;
                }
                state.readable.epoch()
            };
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ready::TimedOut;
            }
            Changed::new(Readable(&self.shared), epoch, deadline).await;
        }
    }

    fn turn(&mut self) -> Result<Turn, ReadError> {
        loop {
            if self.segment.is_none() {
                let view = self.shared.queue.lock().view(self.next);
                let Some(view) = view else { return Ok(Turn::Nothing) };
                if view.base > self.next {
                    // What lay before has no segment any more.
                    return Ok(Turn::Damaged(self.miss(view.base - 1, None, 0..0, None)));
                }
                if let Some(turn) = self.open(view)? {
                    return Ok(turn);
                }
            }
            let open = self.segment.as_mut().expect("just opened");
            let step = open.scanner.step();
            let path = || segment::path(&self.shared.dir, open.base);
            match step.map_err(|source| ReadError { file: path(), source })? {
                Step::Record { seq, payload } => {
                    self.next = seq + 1;
                    return Ok(Turn::Record { seq, payload });
                }
                Step::Lost { first, last, bytes } => {
                    let (path, base) = (path(), open.base);
                    let quarantine = self.quarantine(base, &bytes);
                    debug_assert_eq!(first, self.next, "the scanner and the reader count alike");
                    return Ok(Turn::Damaged(self.miss(last, Some(path), bytes, quarantine)));
                }
                // It cost no record, so it is nobody's business here; verifying the spool shows it.
                Step::Noise { .. } => {}
                Step::End if open.sealed => {
                    self.next = self.next.max(open.scanner.bounds().promised);
                    self.segment = None;
                }
                Step::End => {
                    let base = open.base;
                    let Some(view) = self.shared.queue.lock().view(self.next) else { return Ok(Turn::Nothing) };
                    if view.base == base {
                        let open = self.segment.as_mut().expect("it is open");
                        open.scanner.extend(bounds(view));
                        open.sealed = view.sealed;
                    } else {
                        self.segment = None;
                    }
                }
            }
        }
    }

    /// Opens the segment that holds the next record.
    fn open(&mut self, view: View) -> Result<Option<Turn>, ReadError> {
        let path = segment::path(&self.shared.dir, view.base);
        match File::open(&path) {
            Ok(file) => {
                let scanner = Scanner::new(file, self.shared.spool_id, view.base, self.next, bounds(view));
                self.segment = Some(Open { base: view.base, sealed: view.sealed, scanner });
                Ok(None)
            }
            // Someone has removed it. Or we have, after it was acknowledged: then nothing is missed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let acked = self.cursor.acked();
                if acked + 1 >= view.end {
                    self.next = acked + 1;
                    return self.turn().map(Some);
                }
                Ok(Some(Turn::Damaged(self.miss(view.end - 1, Some(path), 0..0, None))))
            }
            Err(source) => Err(ReadError { file: path, source }),
        }
    }

    fn miss(&mut self, last: u64, file: Option<PathBuf>, bytes: Range<u64>, quarantine: Option<PathBuf>) -> Damage {
        let range = SeqRange { first: self.next, last };
        self.next = last + 1;
        Damage { range, file, bytes, quarantine }
    }

    /// Copies damaged bytes to a file of their own, once.
    fn quarantine(&self, base: u64, bytes: &Range<u64>) -> Option<PathBuf> {
        if bytes.is_empty() {
            return None;
        }
        let path = self.shared.dir.join(format!("damaged-{base:020}-{}.bin", bytes.start));
        if path.exists() {
            return Some(path);
        }
        let mut copy = vec![0; (bytes.end - bytes.start) as usize];
        let file = File::open(segment::path(&self.shared.dir, base)).ok()?;
        file.read_exact_at(&mut copy, bytes.start).ok()?;
        self.shared.disk.write_file(&path, &copy).ok().map(|_| path)
    }
}

fn bounds(view: View) -> Bounds {
    Bounds { limit: view.bytes, promised: view.end, ceiling: view.end }
}

impl Acker {
    /// Acknowledges every record up to and including `seq`: none of them will be read again, and their space may be reclaimed. A
    /// lower number than before changes nothing.
    ///
    /// # Errors
    /// The cursor could not be written. The acknowledgement counts in this process and is written again with the next one; if
    /// the process ends before that, the records are read again.
    pub fn ack(&self, seq: u64) -> io::Result<()> {
        // What was never given to read cannot be acknowledged.
        let (seq, reclaims) = {
            let state = self.shared.queue.lock();
            let seq = seq.min(state.durable_end() - 1);
            let second = state.segments().get(1).is_some_and(|second| second.base <= seq + 1);
            (seq, second || (seq + 1 == state.next_seq() && state.is_last_half_full()))
        };
        let acked = self.cursor.ack(seq);
        if reclaims {
            self.shared.keeper.nudge();
        } else if !matches!(acked, Ok(false)) {
            self.shared.keeper.by(Instant::now() + super::keeper::TICK);
        }
        acked.map(|_| ())
    }

    /// Everything up to this number is acknowledged.
    pub fn acked(&self) -> u64 {
        self.cursor.acked()
    }
}
