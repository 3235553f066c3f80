//! Segment files: their names, and how one comes into being.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskFile};
use super::format::{SEGMENT_HEADER, SegmentHeader};

const BEING_CREATED: &str = "segment.tmp";

/// The file of the segment whose first record has the number `base`.
pub(super) fn path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("seg-{base:020}.log"))
}

/// The bases of all segments in a folder, in order.
pub(super) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut bases = Vec::new();
    for entry in fs::read_dir(dir)? {
        bases.extend(entry?.file_name().to_str().and_then(base_of));
    }
    bases.sort_unstable();
    Ok(bases)
}

fn base_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("seg-")?.strip_suffix(".log")?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// A file with disk space and no header yet, made ahead of need.
pub(super) struct Prepared {
    pub(super) file: DiskFile,
    pub(super) size: u64,
    allocated: bool,
}

impl Prepared {
    pub(super) fn new(disk: &Disk, dir: &Path, size: u64) -> io::Result<Self> {
        let path = dir.join(BEING_CREATED);
        let prepare = || {
            let file = disk.create(&path)?;
            let allocated = file.allocate(size)?;
            file.sync()?;
            Ok(Self { file, size, allocated })
        };
        prepare().inspect_err(|_| {
            // What it holds of a full disk is wanted back; if that fails, the next opening does it.
            let _ = disk.remove(&path);
        })
    }

    /// Gives it its header and its name; it is part of the spool once the folder has been synced too.
    pub(super) fn name(mut self, disk: &Disk, dir: &Path, header: SegmentHeader) -> io::Result<DiskFile> {
        let size = if self.allocated { self.size } else { 0 };
        let header = SegmentHeader { size, ..header };
        self.file.write_all_at(&header.encode(), 0)?;
        self.file.sync()?;
        disk.rename(&mut self.file, &path(dir, header.base))?;
        Ok(self.file)
    }
}

/// Removes what an interrupted creation left.
pub(super) fn remove_leftover(disk: &Disk, dir: &Path) -> io::Result<()> {
    match disk.remove(&dir.join(BEING_CREATED)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Reads a segment's header; `None` when the file is too short for one.
pub(super) fn read_header(file: &fs::File) -> io::Result<Option<[u8; SEGMENT_HEADER as usize]>> {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = [0; SEGMENT_HEADER as usize];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}
