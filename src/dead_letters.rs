//! The dead-letter file, for whoever has to decide what becomes of it: read it, and take out what is settled.
//!
//! A streamer may append at any time. It holds the file's lock (flock) while it does, and looks afterwards whether the path still
//! names that file. [`remove`] holds the lock of the file it replaces until the new one has its name, so an append lies either before
//! the copy or in the new file. Letters are taken out by what they say, not by their place: two removals do not disturb each other.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::jsonl::is_at;

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Its place in the file, from 1. It moves up when those before it are removed.
    pub number: u64,
    /// Tells it from others, wherever it stands.
    pub id: LetterId,
    /// What it says, or why it cannot be read.
    pub content: Result<DeadLetter, String>,
}

/// Tells a letter from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LetterId {
    hash: u64,
    length: usize,
}

/// Events that a destination refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// When, in RFC 3339.
    pub time: String,
    /// Name of the destination.
    pub destination: String,
    /// Where it was.
    pub target: String,
    /// Its answer.
    pub why: String,
    /// How many of the events were refused. A partial success does not say which.
    pub rejected: u64,
    /// The events' OCSF JSON.
    pub events: Vec<String>,
}

#[derive(Deserialize)]
struct Written {
    time: String,
    destination: String,
    #[serde(default)]
    target: String,
    why: String,
    #[serde(default)]
    rejected: u64,
    events: Vec<Box<RawValue>>,
}

/// The letters of a file, oldest first. No file is no letters.
///
/// # Errors
/// The file cannot be opened; the iterator's: it cannot be read.
pub fn read(path: impl AsRef<Path>) -> io::Result<impl Iterator<Item = io::Result<Letter>>> {
    let file = match File::open(path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let lines = file.into_iter().flat_map(|file| BufReader::new(file).split(b'\n'));
    let letters = (1..).zip(lines).map(|(number, line)| {
        let line = line?;
        Ok(Letter { number, id: LetterId::of(&line), content: DeadLetter::parse(&line) })
    });
    Ok(letters)
}

/// Takes letters out of the file; gives how many were there. The file is replaced by a new one, complete and on disk.
///
/// # Errors
/// The file is as it was.
pub fn remove(path: impl AsRef<Path>, letters: &[LetterId]) -> io::Result<u64> {
    // A link stays one.
    let path = fs::canonicalize(path)?;
    let mut left: HashMap<LetterId, u64> = HashMap::new();
    letters.iter().for_each(|letter| *left.entry(*letter).or_default() += 1);
    let file = locked(&path)?;
    let mut temporary = path.clone().into_os_string();
    temporary.push(".new");
    let temporary = Path::new(&temporary);
    let removed = copy(&file, temporary, left).and_then(|removed| fs::rename(temporary, &path).map(|()| removed));
    let removed = removed.inspect_err(|_| {
        let _ = fs::remove_file(temporary);
    })?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    // The lock goes with the old file: whoever waits for it sees that the path names another.
    Ok(removed)
}

/// Writes a new file without some of the lines; gives how many were left out.
fn copy(file: &File, path: &Path, mut without: HashMap<LetterId, u64>) -> io::Result<u64> {
    let mut copy = BufWriter::new(create_like(file, path)?);
    let mut removed = 0;
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        match without.get_mut(&LetterId::of(&line)) {
            Some(count) if *count > 0 => {
                *count -= 1;
                removed += 1;
            }
            _ => {
                copy.write_all(&line)?;
                copy.write_all(b"\n")?;
            }
        }
    }
    copy.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(removed)
}

/// The file that the path names, with its lock.
fn locked(path: &Path) -> io::Result<File> {
    loop {
        let file = File::open(path)?;
        file.lock()?;
        if is_at(&file, path) {
            return Ok(file);
        }
    }
}

/// A private file with the same owner: the streamer may be another user's process and has to be able to append.
fn create_like(file: &File, path: &Path) -> io::Result<File> {
    // What an interrupted removal left is nobody's: whoever holds the lock is alone.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let copy = options.open(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let (old, new) = (file.metadata()?, copy.metadata()?);
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            std::os::unix::fs::fchown(&copy, Some(old.uid()), Some(old.gid()))?;
        }
    }
    Ok(copy)
}

impl LetterId {
    fn of(line: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        line.hash(&mut hasher);
        Self { hash: hasher.finish(), length: line.len() }
    }
}

impl DeadLetter {
    fn parse(line: &[u8]) -> Result<Self, String> {
        let written: Written = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let Written { time, destination, target, why, rejected, events } = written;
        let events = events.into_iter().map(|event| Box::<str>::from(event).into()).collect();
        Ok(Self { time, destination, target, why, rejected, events })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::config::Sync;
    use crate::dead_letter::{self, Refusal};
    use crate::jsonl::JsonLines;

    fn append(file: &JsonLines, why: &str) {
        let refusal = Refusal { destination: "otlp", target: "http://there", why, rejected: 1 };
        dead_letter::append(file, refusal, &["{\"a\": 1}"]).unwrap();
    }

    fn reasons(path: &Path) -> Vec<String> {
        read(path).unwrap().map(|letter| letter.unwrap().content.unwrap().why).collect()
    }

    #[test]
    fn letters_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead.jsonl");
        assert_eq!(read(&path).unwrap().count(), 0);
        append(&JsonLines::new(&path, Sync::Batch), "400: no");
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"cut of").unwrap();
        let letters: Vec<_> = read(&path).unwrap().map(Result::unwrap).collect();
        let letter = letters[0].content.as_ref().unwrap();
        assert_eq!((&*letter.destination, &*letter.why, letter.rejected), ("otlp", "400: no", 1));
        assert_eq!(letter.events, ["{\"a\": 1}"]);
        assert!(letters[1].content.is_err() && letters[1].number == 2);
    }

    #[test]
    fn only_what_is_named_goes_and_a_link_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("dead.jsonl"), folder.path().join("link"));
        let file = JsonLines::new(&path, Sync::Batch);
        ["a", "b", "c"].iter().for_each(|why| append(&file, why));
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let ids: Vec<_> = read(&link).unwrap().map(|letter| letter.unwrap().id).collect();
        assert_eq!(remove(&link, &[ids[0], ids[2], ids[2]]).unwrap(), 2);
        assert!(link.is_symlink());
        assert_eq!(reasons(&path), ["b"]);
        append(&file, "d");
        assert_eq!(reasons(&path), ["b", "d"]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn what_is_appended_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead.jsonl");
        append(&JsonLines::new(&path, Sync::Never), "first");
        let done = AtomicBool::new(false);
        let appended = std::thread::scope(|scope| {
            let remover = scope.spawn(|| {
                let mut removed = Vec::new();
                while !done.load(Ordering::SeqCst) {
                    let letters: Vec<Letter> = read(&path).unwrap().take(2).map(Result::unwrap).collect();
                    let ids: Vec<_> = letters.iter().map(|letter| letter.id).collect();
                    assert_eq!(remove(&path, &ids).unwrap(), ids.len() as u64);
                    removed.extend(letters.into_iter().map(|letter| letter.content.unwrap().why));
                }
                removed
            });
            let writers: Vec<_> = (0..2)
                .map(|writer| {
                    let path = &path;
                    scope.spawn(move || {
                        let file = JsonLines::new(path, Sync::Never);
                        (0..300).for_each(|number| append(&file, &format!("{writer}-{number}")));
                    })
                })
                .collect();
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            done.store(true, Ordering::SeqCst);
            let mut appended = remover.join().unwrap();
            appended.extend(reasons(&path));
            appended
        });
        let mut distinct = appended.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!((appended.len(), distinct.len()), (601, 601));
    }
}
