//! `auditwire send --resume`: how far each input file has been accepted.
//!
//! Each input has a small file in the spool's folder, named by the input's device and inode, so that a rename does not matter. It is
//! written in place, which works on a full disk, into two slots by turns, so that one of them is always whole:
//!
//! ```text
//! slot (304)  magic "AUDINP01" | generation u64 | offset u64 | lines u64 | in_array u32 | head u32 | tail u32 |
//!             the input's first bytes (128) | its bytes before the offset (128) | crc32c u32;  two of them, at 0 and 4096
//! ```
//!
//! A position is written after its events are on the device: it is never ahead of them, and a kill costs duplicates of what was
//! under way.
//! It is synced every second and at the end, so a power cut costs those of a second.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::documents::Mark;

const MAGIC: &[u8; 8] = b"AUDINP01";
const SLOT: usize = 304;
const SECOND_SLOT: u64 = 4096;
/// Bytes of the input by which it is recognized: so many of its beginning, and so many before the position.
const SAMPLE: usize = 128;
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// The positions of all inputs of a run.
pub(crate) struct Positions {
    dir: PathBuf,
    inputs: Vec<Input>,
    /// Accepted, and perhaps not on the device yet: sequence number, index of the input, position.
    waiting: VecDeque<(u64, usize, Mark)>,
    synced: Instant,
}

/// Where reading begins, and why there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// The input is new here.
    Beginning,
    /// It has been accepted up to here.
    At(Mark),
    /// It begins anew: it is shorter than what was accepted of it, or its bytes are others.
    Anew(&'static str),
}

struct Input {
    input: File,
    kept: File,
    generation: u64,
    head: Vec<u8>,
    dirty: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    generation: u64,
    mark: Mark,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Positions {
    /// Positions in a spool's folder.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), inputs: Vec::new(), waiting: VecDeque::new(), synced: Instant::now() }
    }

    /// Turns to an input, and finds where to go on.
    ///
    /// # Errors
    /// The input is no regular file, or its position cannot be read or created.
    pub(crate) fn turn_to(&mut self, input: &File) -> io::Result<Start> {
        let metadata = input.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no regular file, so it cannot be read again"));
        }
        let path = self.dir.join(format!("input-{:x}-{:x}", metadata.dev(), metadata.ino()));
        let (kept, slot) = open(&path)?;
        let start = match &slot {
            None => Start::Beginning,
            Some(slot) if metadata.len() < slot.mark.offset => Start::Anew("it has been truncated"),
            Some(slot) if !slot.fits(input)? => Start::Anew("it holds something else than before"),
            Some(slot) => Start::At(slot.mark),
        };
        let generation = slot.map_or(0, |slot| slot.generation);
        self.inputs.push(Input { input: input.try_clone()?, kept, generation, head: Vec::new(), dirty: false });
        Ok(start)
    }

    /// The current input has been accepted up to here, which holds once everything up to `sequence` is on the device.
    pub(crate) fn accepted(&mut self, mark: Mark, sequence: u64) {
        let index = self.inputs.len() - 1;
        match self.waiting.back_mut() {
            Some((last, of, waiting)) if (*last, *of) == (sequence, index) => *waiting = mark,
            _ => self.waiting.push_back((sequence, index, mark)),
        }
    }

    /// Writes what holds now that everything up to `durable` is on the device.
    ///
    /// # Errors
    /// A position could not be written: what is behind it will come twice.
    pub(crate) fn write(&mut self, durable: u64) -> io::Result<()> {
        let mut due: Option<(usize, Mark)> = None;
        while let Some(&(sequence, index, mark)) = self.waiting.front()
            && sequence <= durable
        {
            self.waiting.pop_front();
            if let Some((before, mark)) = due.replace((index, mark))
                && before != index
            {
                self.inputs[before].write(mark)?;
            }
        }
        if let Some((index, mark)) = due {
            self.inputs[index].write(mark)?;
        }
        if self.synced.elapsed() >= SYNC_EVERY { self.sync() } else { Ok(()) }
    }

    /// Has everything that was written on the device.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        for input in self.inputs.iter_mut().filter(|input| input.dirty) {
            input.kept.sync_data()?;
            input.dirty = false;
        }
        self.synced = Instant::now();
        Ok(())
    }
}

impl Input {
    fn write(&mut self, mark: Mark) -> io::Result<()> {
        if self.head.len() < SAMPLE {
            self.head = sample(&self.input, 0, mark.offset.min(SAMPLE as u64))?;
        }
        let generation = self.generation + 1;
        let tail = tail(&self.input, mark.offset)?;
        let slot = Slot { generation, mark, head: self.head.clone(), tail };
        self.kept.write_all_at(&slot.encode(), generation % 2 * SECOND_SLOT)?;
        (self.generation, self.dirty) = (generation, true);
        Ok(())
    }
}

impl Slot {
    /// Whether the input is still the one whose position this is.
    fn fits(&self, input: &File) -> io::Result<bool> {
        Ok(sample(input, 0, self.head.len() as u64)? == self.head && tail(input, self.mark.offset)? == self.tail)
    }

    fn encode(&self) -> [u8; SLOT] {
        let mut bytes = Vec::with_capacity(SLOT);
        bytes.extend_from_slice(MAGIC);
        for number in [self.generation, self.mark.offset, self.mark.lines] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for number in [u32::from(self.mark.in_array), self.head.len() as u32, self.tail.len() as u32] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for sample in [&self.head, &self.tail] {
            bytes.extend_from_slice(sample);
            bytes.resize(bytes.len() + SAMPLE - sample.len(), 0);
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes.try_into().expect("it has its length")
    }

    fn decode(bytes: &[u8; SLOT]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        let rest = body.strip_prefix(MAGIC).filter(|_| crc32c::crc32c(body) == u32::from_le_bytes(*crc))?;
        let (numbers, rest) = rest.split_first_chunk::<24>()?;
        let long = |index: usize| u64::from_le_bytes(*numbers[index * 8..].first_chunk().expect("there are three"));
        let (lengths, samples) = rest.split_first_chunk::<12>()?;
        let short = |index: usize| u32::from_le_bytes(*lengths[index * 4..].first_chunk().expect("there are three"));
        let (head, tail) = samples.split_at(SAMPLE);
        Some(Self {
            generation: long(0),
            mark: Mark { offset: long(1), lines: long(2), in_array: short(0) != 0 },
            head: head.get(..short(1) as usize)?.to_vec(),
            tail: tail.get(..short(2) as usize)?.to_vec(),
        })
    }
}

/// Opens a position's file, creates it if need be, and gives its newest whole slot.
fn open(path: &Path) -> io::Result<(File, Option<Slot>)> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if file.metadata()?.len() < SECOND_SLOT + SLOT as u64 {
        // Space for both slots, so that a full disk does not matter later.
        file.write_all_at(&[0; SECOND_SLOT as usize * 2], 0)?;
        file.sync_all()?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
    }
    let slot = |at| -> io::Result<Option<Slot>> {
        let mut bytes = [0; SLOT];
        file.read_exact_at(&mut bytes, at)?;
        Ok(Slot::decode(&bytes))
    };
    let newest = [slot(0)?, slot(SECOND_SLOT)?].into_iter().flatten().max_by_key(|slot| slot.generation);
    Ok((file, newest))
}

/// The bytes before an offset.
fn tail(file: &File, offset: u64) -> io::Result<Vec<u8>> {
    let length = offset.min(SAMPLE as u64);
    sample(file, offset - length, length)
}

/// Bytes of a file, fewer where it ends.
fn sample(file: &File, at: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(read);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(offset: u64) -> Mark {
        Mark { offset, lines: offset / 2, in_array: false }
    }

    fn start(folder: &Path, input: &Path) -> Start {
        Positions::new(folder).turn_to(&File::open(input).unwrap()).unwrap()
    }

    #[test]
    fn a_position_is_found_again_under_any_name_and_only_for_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        std::fs::write(&one, "1\n2\n3\n".repeat(100)).unwrap();
        let mut positions = Positions::new(folder.path());
        assert_eq!(positions.turn_to(&File::open(&one).unwrap()).unwrap(), Start::Beginning);
        for (offset, sequence) in [(2, 1), (400, 7), (500, 9)] {
            positions.accepted(mark(offset), sequence);
        }
        positions.write(8).unwrap();
        positions.sync().unwrap();
        std::fs::rename(&one, &other).unwrap();
        assert_eq!(start(folder.path(), &other), Start::At(mark(400)), "9 is not on the device yet");

        std::fs::write(&other, "1\n").unwrap();
        assert_eq!(start(folder.path(), &other), Start::Anew("it has been truncated"));
        for text in ["4\n2\n3\n".repeat(100), "1\n2\n3\n".repeat(60) + &"4\n".repeat(200)] {
            std::fs::write(&other, text).unwrap();
            assert_eq!(start(folder.path(), &other), Start::Anew("it holds something else than before"));
        }
    }

    #[test]
    fn a_torn_slot_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in");
        std::fs::write(&input, "x".repeat(1000)).unwrap();
        let mut positions = Positions::new(folder.path());
        positions.turn_to(&File::open(&input).unwrap()).unwrap();
        for offset in [10, 20] {
            positions.accepted(mark(offset), 1);
            positions.write(1).unwrap();
        }
        let kept = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let kept = kept.into_iter().find(|path| path != &input).unwrap();
        let mut bytes = std::fs::read(&kept).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&kept, &bytes).unwrap();
        assert_eq!(start(folder.path(), &input), Start::At(mark(10)));
        bytes[SECOND_SLOT as usize + 300] ^= 1;
        std::fs::write(&kept, &bytes).unwrap();
        assert_eq!(start(folder.path(), &input), Start::Beginning);
    }

    #[test]
    fn positions_of_two_inputs_wait_for_their_own_events() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = ["a", "b"].map(|name| folder.path().join(name));
        let mut positions = Positions::new(folder.path());
        for (input, sequence) in inputs.iter().zip([5, 6]) {
            std::fs::write(input, "x".repeat(100)).unwrap();
            positions.turn_to(&File::open(input).unwrap()).unwrap();
            positions.accepted(mark(50), sequence);
        }
        positions.write(5).unwrap();
        assert_eq!(inputs.each_ref().map(|input| start(folder.path(), input)), [Start::At(mark(50)), Start::Beginning]);
        positions.write(6).unwrap();
        assert_eq!(start(folder.path(), &inputs[1]), Start::At(mark(50)));
    }
}
