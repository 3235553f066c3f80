//! How far a destination has acknowledged: one small file each.
//!
//! Two slots, 4096 bytes apart. Acknowledgements are written, in place, into the slot that is not the last one synced; a sync
//! makes it that. So an intact slot is always there, and an acknowledgement needs no new disk space.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile};
use super::format::{get_u32, get_u64, put_u32, put_u64};

const MAGIC: &[u8; 8] = b"AUDCUR01";
const SLOT: usize = 64;
const SLOT_OFFSETS: [u64; 2] = [0, 4096];
const FILE_LEN: usize = 8192;
const PREFIX: &str = "cursor-";
const BEING_CREATED: &str = "cursor.tmp";

pub(super) struct Cursor {
    name: String,
    file: DiskFile,
    spool_id: u64,
    state: Mutex<State>,
    /// Numbers up to here are acknowledged on the device.
    durable: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct State {
    acked: u64,
    generation: u64,
    /// The slot that must not be touched: the last one synced.
    keep: usize,
    /// Something has been acknowledged since the last sync.
    dirty: bool,
    /// A sync is under way, or the last one failed: the slot is to be written again.
    unwritten: bool,
    syncing: bool,
}

/// What a cursor file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) spool_id: u64,
    pub(super) generation: u64,
    pub(super) acked: u64,
    index: usize,
}

impl Slot {
    fn encode(&self) -> [u8; SLOT] {
        let mut bytes = [0; SLOT];
        bytes[..8].copy_from_slice(MAGIC);
        put_u64(&mut bytes, 8, self.generation);
        put_u64(&mut bytes, 16, self.acked);
        put_u64(&mut bytes, 24, self.spool_id);
        let crc = crc32c::crc32c(&bytes[..60]);
        put_u32(&mut bytes, 60, crc);
        bytes
    }

    fn decode(bytes: &[u8], index: usize) -> Option<Self> {
        let bytes: &[u8; SLOT] = bytes.first_chunk()?;
        let intact = &bytes[..8] == MAGIC && crc32c::crc32c(&bytes[..60]) == get_u32(bytes, 60);
        intact.then(|| Self {
            generation: get_u64(bytes, 8),
            acked: get_u64(bytes, 16),
            spool_id: get_u64(bytes, 24),
            index,
        })
    }
}

/// The newest intact slot of a cursor file.
pub(super) fn read(path: &Path) -> io::Result<Option<Slot>> {
    let bytes = fs::read(path)?;
    let slots = SLOT_OFFSETS.iter().enumerate().filter_map(|(index, &offset)| {
        let slot = bytes.get(offset as usize..offset as usize + SLOT)?;
        Slot::decode(slot, index)
    });
    Ok(slots.max_by_key(|slot| slot.generation))
}

/// The destinations that have a cursor file in a folder.
pub(super) fn list(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let file = entry?.file_name();
        names.extend(file.to_str().and_then(|file| file.strip_prefix(PREFIX)).and_then(decode_name));
    }
    names.sort_unstable();
    Ok(names)
}

/// The file of a destination's cursor. Letters, digits, `.`, `_` and `-` stand for themselves; other bytes are written `%2f`.
pub(super) fn path(dir: &Path, name: &str) -> PathBuf {
    use std::fmt::Write as _;
    let mut file = PREFIX.to_owned();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            file.push(char::from(byte));
        } else {
            let _ = write!(file, "%{byte:02x}");
        }
    }
    dir.join(file)
}

fn decode_name(file: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(file.len());
    let mut rest = file.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

impl Cursor {
    /// A new cursor file, durable when this returns; replaces one of the same name.
    pub(super) fn create(disk: &Disk, dir: &Path, name: &str, spool_id: u64, acked: u64) -> io::Result<Self> {
        let slot = Slot { spool_id, generation: 0, acked, index: 0 };
        let mut bytes = vec![0; FILE_LEN];
        bytes[..SLOT].copy_from_slice(&slot.encode());
        let mut file = disk.write_file(&dir.join(BEING_CREATED), &bytes)?;
        disk.rename(&mut file, &path(dir, name))?;
        disk.sync_dir(dir)?;
        Ok(Self::at(file, name, slot))
    }

    /// Goes on where an intact slot stands. What it says is synced first: what a process has left unsynced may yet be lost.
    pub(super) fn open(disk: &Disk, dir: &Path, name: &str, slot: Slot) -> io::Result<Self> {
        let file = disk.open(&path(dir, name))?;
        file.sync()?;
        Ok(Self::at(file, name, slot))
    }

    fn at(file: DiskFile, name: &str, slot: Slot) -> Self {
        let state = State {
            acked: slot.acked,
            generation: slot.generation,
            keep: slot.index,
            dirty: false,
            unwritten: false,
            syncing: false,
        };
        Self {
            name: name.to_owned(),
            file,
            spool_id: slot.spool_id,
            state: Mutex::new(state),
            durable: AtomicU64::new(slot.acked),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn path(&self) -> &Path {
        &self.file.path
    }

    /// Numbers up to here are acknowledged.
    pub(super) fn acked(&self) -> u64 {
        self.lock().acked
    }

    pub(super) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.lock().dirty
    }

    /// Acknowledges everything up to `seq`. Gives whether this is the first acknowledgement since the last sync.
    pub(super) fn ack(&self, seq: u64) -> io::Result<bool> {
        let mut state = self.lock();
        if seq <= state.acked {
            return Ok(false);
        }
        state.acked = seq;
        state.generation += 1;
        let first = !std::mem::replace(&mut state.dirty, true);
        if state.syncing {
            // The slot that is being synced is left alone; the next sync writes this.
            state.unwritten = true;
            return Ok(first);
        }
        state.unwritten = true;
        self.write(&state)?;
        state.unwritten = false;
        Ok(first)
    }

    fn write(&self, state: &State) -> io::Result<()> {
        let index = 1 - state.keep;
        let slot = Slot { spool_id: self.spool_id, generation: state.generation, acked: state.acked, index };
        self.file.write_all_at(&slot.encode(), SLOT_OFFSETS[index])
    }

    /// Puts on the device what has been acknowledged. Called by one thread at a time.
    pub(super) fn sync(&self) -> io::Result<()> {
        let mut state = self.lock();
        if !state.dirty {
            return Ok(());
        }
        if state.unwritten {
            self.write(&state)?;
            state.unwritten = false;
        }
        let acked = state.acked;
        state.syncing = true;
        state.dirty = false;
        drop(state);
        let synced = self.file.sync();
        let mut state = self.lock();
        state.syncing = false;
        match &synced {
            Ok(()) => {
                state.keep = 1 - state.keep;
                self.durable.store(acked, Ordering::Release);
            }
            // The kernel may have forgotten the page: it is written anew before the next sync.
            Err(_) => (state.dirty, state.unwritten) = (true, true),
        }
        synced
    }
}
