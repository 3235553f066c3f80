//! A power cut on a file system that keeps no more than it must: what is synced is there; of the rest any part may be, sector by
//! sector, and names only up to some point.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::super::disk::{Change, Script};
use super::*;

const SECTOR: usize = 512;

#[derive(Default)]
struct Model {
    files: Vec<ModelFile>,
    /// Names as they are on the device.
    durable: BTreeMap<PathBuf, usize>,
    /// Names as the process sees them.
    names: BTreeMap<PathBuf, usize>,
    unsynced_names: Vec<NameChange>,
    changes: u64,
}

#[derive(Default, Clone)]
struct ModelFile {
    durable: Vec<u8>,
    unsynced: Vec<FileChange>,
}

#[derive(Clone)]
enum FileChange {
    Write(usize, Vec<u8>),
    Length(usize),
}

enum NameChange {
    Is(PathBuf, usize),
    Gone(PathBuf),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Is(path, file) => names.insert(path.clone(), *file),
            Self::Gone(path) => names.remove(path),
        };
    }
}

impl FileChange {
    /// Applies the sectors that `reaches` says reach the device.
    fn apply(&self, bytes: &mut Vec<u8>, mut reaches: impl FnMut() -> bool) {
        match self {
            Self::Length(len) => {
                if reaches() {
                    bytes.resize(*len, 0);
                }
            }
            Self::Write(offset, data) => {
                let mut at = 0;
                while at < data.len() {
                    let start = offset + at;
                    let end = ((start / SECTOR + 1) * SECTOR).min(offset + data.len());
                    if reaches() {
                        bytes.resize(bytes.len().max(end), 0);
                        bytes[start..end].copy_from_slice(&data[at..end - offset]);
                    }
                    at = end - offset;
                }
            }
        }
    }
}

impl Model {
    fn note(&mut self, change: &Change<'_>) {
        self.changes += 1;
        match *change {
            Change::Create(path) => {
                let file = self.files.len();
                self.files.push(ModelFile::default());
                self.rename(NameChange::Is(path.to_owned(), file));
            }
            Change::Allocate(path, len) => {
                let file = self.file(path);
                let len = (len as usize).max(file.durable.len());
                file.unsynced.push(FileChange::Length(len));
            }
            Change::SetLength(path, len) => self.file(path).unsynced.push(FileChange::Length(len as usize)),
            Change::Write(path, offset, bytes) => {
                self.file(path).unsynced.push(FileChange::Write(offset as usize, bytes.to_vec()));
            }
            Change::Sync(path) => {
                let file = self.file(path);
                for change in std::mem::take(&mut file.unsynced) {
                    change.apply(&mut file.durable, || true);
                }
            }
            Change::Rename(from, to) => {
                let file = self.names[from];
                self.rename(NameChange::Gone(from.to_owned()));
                self.rename(NameChange::Is(to.to_owned(), file));
            }
            Change::Remove(path) => self.rename(NameChange::Gone(path.to_owned())),
            Change::SyncDir(_) => {
                for change in std::mem::take(&mut self.unsynced_names) {
                    change.apply(&mut self.durable);
                }
            }
        }
    }

    fn file(&mut self, path: &Path) -> &mut ModelFile {
        let file = self.names[path];
        &mut self.files[file]
    }

    fn rename(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    /// Writes what a power cut may leave.
    fn cut(&self, dir: &Path, random: &mut fastrand::Rng) {
        let mut names = self.durable.clone();
        let kept = random.usize(0..=self.unsynced_names.len());
        self.unsynced_names[..kept].iter().for_each(|change| change.apply(&mut names));
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).unwrap();
        // Sometimes nothing of the rest, sometimes nearly all.
        let share = [0.0, 0.3, 0.7, 0.97, 1.0][random.usize(..5)];
        for (path, file) in names {
            let file = &self.files[file];
            let mut bytes = file.durable.clone();
            for change in &file.unsynced {
                change.apply(&mut bytes, || random.f64() < share);
            }
            fs::write(dir.join(path.file_name().unwrap()), bytes).unwrap();
        }
    }
}

struct Recorder(Mutex<Model>);

impl Script for Recorder {
    fn judge(&self, change: &Change<'_>) -> io::Result<Option<usize>> {
        self.0.lock().unwrap().note(change);
        Ok(None)
    }
}

/// Takes a cut after every change, with what had been accepted and acknowledged before it.
struct Cutter {
    model: Mutex<(Model, fastrand::Rng)>,
    accepted: AtomicU64,
    acked: AtomicU64,
    image: PathBuf,
    checked: AtomicU64,
    every: u64,
    options: Options,
}

impl Script for Cutter {
    fn judge(&self, change: &Change<'_>) -> io::Result<Option<usize>> {
        let (model, random) = &mut *self.model.lock().unwrap();
        // Before the change, as after it, the power may go: what was answered by now must be there.
        let (accepted, acked) = (self.accepted.load(Ordering::SeqCst), self.acked.load(Ordering::SeqCst));
        model.note(change);
        if model.changes.is_multiple_of(self.every) {
            model.cut(&self.image, random);
            check(&self.image, accepted, acked, self.options);
            self.checked.fetch_add(1, Ordering::SeqCst);
        }
        Ok(None)
    }
}

fn check(image: &Path, accepted: u64, acked: u64, options: Options) {
    let (spool, recovery) = open(image, options);
    let mut reader = spool.reader("siem", Start::Oldest).unwrap();
    let start = reader.position();
    let found = drain(&mut reader);
    if options.sync == Sync::Always {
        let context = || format!("accepted {accepted}, acked {acked}, from {start}: {found:?} {recovery:?}");
        assert!(recovery.next_seq > accepted, "{}", context());
        assert!(found.lost.iter().all(|lost| *lost > accepted), "{}", context());
        assert!(recovery.missing.is_empty() && !recovery.segments_gone, "{}", context());
    }
    assert!(start <= acked + 1, "skipped from {acked} to {start}");
    let next = recovery.next_seq;
    assert_eq!(spool.append(&payload(next)).unwrap(), next);
    drop(spool);
    let (spool, recovery) = open(image, options);
    assert!(recovery.tail.is_none(), "{recovery:?}");
    drop(spool);
}

fn run(options: Options, every: u64, seed: u64) {
    let dir = quick_folder();
    let cutter = Arc::new(Cutter {
        model: Mutex::new((Model::default(), fastrand::Rng::with_seed(seed))),
        accepted: AtomicU64::new(0),
        acked: AtomicU64::new(0),
        image: dir.path().join("image"),
        checked: AtomicU64::new(0),
        every,
        options,
    });
    let disk = Disk { script: Some(cutter.clone()) };
    let (spool, _) = Spool::open_on(disk, &dir.path().join("spool"), options).unwrap();
    let mut reader = spool.reader("siem", Start::Oldest).unwrap();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut next = 1;
    while next < 120 {
        let count = random.u64(1..5);
        let records: Vec<_> = (next..next + count).map(payload).collect();
        assert_eq!(spool.append_all(&records).unwrap(), next);
        next += count;
        cutter.accepted.store(next - 1, Ordering::SeqCst);
        for _ in 0..random.u64(0..4) {
            if let Some(Item::Record { seq, .. }) = reader.try_next().unwrap() {
                // It may become durable as soon as it is written.
                cutter.acked.store(seq, Ordering::SeqCst);
                reader.acker().ack(seq).unwrap();
            }
        }
    }
    spool.close().unwrap();
    assert!(cutter.checked.load(Ordering::SeqCst) > 20);
    assert!(!cutter.model.is_poisoned(), "a check failed on the spool's own threads");
}

#[test]
fn fault_03_what_was_accepted_survives_a_power_cut_at_any_change() {
    for seed in 0..if long() { 10 } else { 2 } {
        run(tiny(), if long() { 1 } else { 3 }, seed);
    }
}

#[test]
fn fault_03_with_an_interval_a_power_cut_costs_only_what_was_not_synced() {
    for seed in 0..if long() { 10 } else { 2 } {
        run(Options { sync: Sync::Interval(Duration::from_millis(3)), ..tiny() }, if long() { 1 } else { 3 }, seed);
    }
}

#[test]
fn the_model_agrees_with_the_disk() {
    let dir = quick_folder();
    let recorder = Arc::new(Recorder(Mutex::default()));
    let place = dir.path().join("spool");
    let (spool, _) = Spool::open_on(Disk { script: Some(recorder.clone()) }, &place, tiny()).unwrap();
    spool.reader("siem", Start::Oldest).unwrap().acker().ack(1).unwrap();
    fill(&spool, 80);
    spool.close().unwrap();
    let model = recorder.0.lock().unwrap();
    for (path, file) in &model.names {
        let mut bytes = model.files[*file].durable.clone();
        model.files[*file].unsynced.iter().for_each(|change| change.apply(&mut bytes, || true));
        assert_eq!(fs::read(path).unwrap(), bytes, "{}", path.display());
    }
    assert_eq!(model.names.len() + 1, fs::read_dir(&place).unwrap().count(), "all but the lock");
}
