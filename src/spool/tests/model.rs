//! Random operations, with reopening and damage, against a model of a few lines.

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Append(u64),
    Read {
        destination: usize,
        records: usize,
    },
    Ack {
        destination: usize,
        back: u64,
    },
    Rewind {
        destination: usize,
    },
    Add {
        destination: usize,
        at_end: bool,
    },
    Remove {
        destination: usize,
    },
    Reopen,
    /// Damages a byte of a record of a sealed segment, chosen by these.
    Damage {
        segment: usize,
        record: usize,
    },
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn step() -> impl Strategy<Value = Step> {
    let destination = 0..NAMES.len();
    prop_oneof![
        8 => (1..6u64).prop_map(Step::Append),
        8 => (destination.clone(), 0..20usize).prop_map(|(destination, records)| Step::Read { destination, records }),
        4 => (destination.clone(), 0..3u64).prop_map(|(destination, back)| Step::Ack { destination, back }),
        1 => destination.clone().prop_map(|destination| Step::Rewind { destination }),
        1 => (destination.clone(), any::<bool>()).prop_map(|(destination, at_end)| Step::Add { destination, at_end }),
        1 => destination.prop_map(|destination| Step::Remove { destination }),
        2 => Just(Step::Reopen),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(segment, record)| Step::Damage { segment, record }),
    ]
}

/// What a destination has read and acknowledged.
#[derive(Debug, Default, Clone)]
struct Place {
    acked: u64,
    read: u64,
}

/// Paths that must have been taken for the test to mean anything.
#[derive(Default)]
struct Seen {
    full: Cell<u32>,
    rolled: Cell<u32>,
    reclaimed: Cell<u32>,
    backlog_reopened: Cell<u32>,
    damage_met: Cell<u32>,
}

fn count(cell: &Cell<u32>) {
    cell.set(cell.get() + 1);
}

struct Run<'a> {
    dir: tempfile::TempDir,
    spool: Spool,
    readers: BTreeMap<usize, Reader>,
    places: BTreeMap<usize, Place>,
    last: u64,
    oldest: u64,
    /// The highest number that everyone had acknowledged at some time.
    passed: u64,
    damaged: Vec<u64>,
    /// Each is damaged once: after that we could not find our way in it.
    damaged_segments: Vec<std::path::PathBuf>,
    seen: &'a Seen,
}

const OPTIONS: fn() -> Options = || Options { max_bytes: 12 << 10, on_full: OnFull::Refuse, ..tiny() };

impl<'a> Run<'a> {
    fn new(seen: &'a Seen) -> Self {
        let dir = quick_folder();
        let (spool, _) = open(dir.path(), OPTIONS());
        let (readers, places) = (BTreeMap::new(), BTreeMap::new());
        Self {
            dir,
            spool,
            readers,
            places,
            last: 0,
            oldest: 1,
            passed: 0,
            damaged: Vec::new(),
            damaged_segments: Vec::new(),
            seen,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Append(records) => self.append(records),
            Step::Read { destination, records } => self.read(destination, records),
            Step::Ack { destination, back } => {
                if let (Some(reader), Some(place)) = (self.readers.get(&destination), self.places.get_mut(&destination))
                {
                    let seq = place.read.saturating_sub(back);
                    reader.acker().ack(seq).unwrap();
                    place.acked = place.acked.max(seq);
                    assert_eq!(reader.acker().acked(), place.acked);
                }
            }
            Step::Rewind { destination } => {
                if let (Some(reader), Some(place)) =
                    (self.readers.get_mut(&destination), self.places.get_mut(&destination))
                {
                    reader.rewind();
                    place.read = place.acked;
                }
            }
            Step::Add { destination, at_end } => {
                let start = if at_end { Start::End } else { Start::Oldest };
                let reader = self.spool.reader(NAMES[destination], start).unwrap();
                let at = reader.position() - 1;
                let place = self.places.entry(destination).or_insert(Place { acked: at, read: at });
                assert_eq!(at, place.acked);
                place.read = at;
                self.readers.insert(destination, reader);
            }
            Step::Remove { destination } => {
                let known = self.places.remove(&destination).is_some();
                self.readers.remove(&destination);
                assert_eq!(self.spool.remove_destination(NAMES[destination]).unwrap(), known);
            }
            Step::Reopen => self.reopen(),
            Step::Damage { segment, record } => self.damage(segment, record),
        }
        assert!(self.spool.usage().bytes <= OPTIONS().max_bytes);
        let oldest = self.spool.shared.queue.lock().segments()[0].base;
        if oldest > std::mem::replace(&mut self.oldest, oldest) {
            count(&self.seen.reclaimed);
        }
        self.passed = self.passed.max(self.passed_by_all());
        assert!(oldest <= self.passed + 1, "deleted before everyone had passed");
    }

    fn passed_by_all(&self) -> u64 {
        self.places.values().map(|place| place.acked).min().unwrap_or(0)
    }

    fn append(&mut self, records: u64) {
        let records: Vec<_> = (self.last + 1..=self.last + records).map(payload).collect();
        let before = self.spool.shared.queue.lock().segments().len();
        match self.spool.append_all(&records) {
            Ok(first) => {
                assert_eq!(first, self.last + 1);
                self.last += records.len() as u64;
                if self.spool.shared.queue.lock().segments().len() > before {
                    count(&self.seen.rolled);
                }
            }
            Err(AppendError::Full { source: None }) => {
                count(&self.seen.full);
                let oldest = segment::list(self.dir.path()).unwrap()[0];
                // Full only while somebody, or nobody at all, has yet to pass the oldest segment, or a moment after that.
                if self.passed_by_all() == self.last {
                    until(|| segment::list(self.dir.path()).unwrap()[0] > oldest);
                }
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn read(&mut self, destination: usize, records: usize) {
        let (Some(reader), Some(place)) = (self.readers.get_mut(&destination), self.places.get_mut(&destination))
        else {
            return;
        };
        for _ in 0..records {
            match reader.try_next().unwrap() {
                Some(Item::Record { seq, payload: bytes }) => {
                    assert_eq!((seq, bytes), (place.read + 1, &payload(seq)[..]));
                    place.read = seq;
                }
                Some(Item::Damaged(damage)) => {
                    assert_eq!(damage.range.first, place.read + 1);
                    for seq in damage.range.first..=damage.range.last {
                        assert!(self.damaged.contains(&seq), "{seq} is reported and was never damaged");
                    }
                    place.read = damage.range.last;
                    count(&self.seen.damage_met);
                }
                None => {
                    assert_eq!(place.read, self.last, "all that was accepted can be read");
                    return;
                }
            }
        }
    }

    fn reopen(&mut self) {
        self.readers.clear();
        self.spool.close().unwrap();
        let (spool, recovery) = open(self.dir.path(), OPTIONS());
        assert_eq!(recovery.next_seq, self.last + 1);
        assert!(recovery.tail.is_none() && recovery.missing.is_empty(), "{recovery:?}");
        let known: BTreeMap<_, _> = spool.destinations().into_iter().map(|lag| (lag.destination, lag.acked)).collect();
        assert!(known.into_iter().eq(self.places.iter().map(|(&name, place)| (NAMES[name].to_owned(), place.acked))));
        self.spool = spool;
        for (&destination, place) in &mut self.places {
            place.read = place.acked;
            if place.acked < self.last {
                count(&self.seen.backlog_reopened);
            }
            self.readers.insert(destination, self.spool.reader(NAMES[destination], Start::Oldest).unwrap());
        }
    }

    fn damage(&mut self, segment: usize, record: usize) {
        // Closed first: a segment may be reclaimed at any moment before.
        self.readers.clear();
        self.spool.close().unwrap();
        self.damage_sealed(segment, record);
        self.reopen();
    }

    fn damage_sealed(&mut self, segment: usize, record: usize) {
        // Not the last one: a reader may have it in its window already, and opening would report it.
        let sealed = segments(self.dir.path());
        let sealed = &sealed[..sealed.len() - 1];
        let Some(path) = sealed.get(segment.checked_rem(sealed.len()).unwrap_or(0)) else { return };
        if self.damaged_segments.contains(path) {
            return;
        }
        let mut bytes = fs::read(path).unwrap();
        let records: Vec<_> = anatomy(path).into_iter().filter(|(seq, _)| *seq > 0).collect();
        let Some((seq, range)) = records.get(record.checked_rem(records.len()).unwrap_or(0)) else { return };
        bytes[range.start + record % range.len()] ^= 0x40;
        fs::write(path, bytes).unwrap();
        self.damaged.push(*seq);
        self.damaged_segments.push(path.clone());
    }
}

#[test]
fn fault_38_random_operations_against_a_model() {
    let seen = Seen::default();
    let cases = if long() { 500 } else { 40 };
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let steps = proptest::collection::vec(step(), 1..120);
    runner
        .run(&steps, |steps| {
            let mut run = Run::new(&seen);
            run.step(&Step::Add { destination: 0, at_end: false });
            steps.iter().for_each(|step| run.step(step));
            run.step(&Step::Reopen);
            let all: Vec<_> = run.readers.keys().copied().collect();
            all.into_iter().for_each(|destination| run.read(destination, usize::MAX));
            Ok(())
        })
        .unwrap();
    for (path, cell) in [
        ("full", &seen.full),
        ("rolled", &seen.rolled),
        ("reclaimed", &seen.reclaimed),
        ("reopened with a backlog", &seen.backlog_reopened),
        ("met damage", &seen.damage_met),
    ] {
        assert!(cell.get() > 0, "no run has ever {path}");
    }
}
