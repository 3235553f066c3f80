//! The calls that change the disk, in one place, so that tests can make them fail.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The file system, or a test's idea of one.
#[derive(Clone, Default)]
pub(super) struct Disk {
    #[cfg(test)]
    pub(super) script: Option<std::sync::Arc<dyn Script>>,
}

/// A file that is written.
pub(super) struct DiskFile {
    pub(super) file: File,
    pub(super) path: PathBuf,
    disk: Disk,
}

/// A change that is about to be made.
#[allow(dead_code, reason = "only tests look into it")]
pub(super) enum Change<'a> {
    Create(&'a Path),
    Allocate(&'a Path, u64),
    Write(&'a Path, u64, &'a [u8]),
    SetLength(&'a Path, u64),
    Sync(&'a Path),
    Rename(&'a Path, &'a Path),
    Remove(&'a Path),
    SyncDir(&'a Path),
}

/// Decides what becomes of a change.
#[cfg(test)]
pub(super) trait Script: Send + Sync {
    /// `Ok(None)`: it is made. `Ok(Some(n))`: of a write only `n` bytes are.
    fn judge(&self, change: &Change<'_>) -> io::Result<Option<usize>>;
}

impl Disk {
    #[cfg(test)]
    fn judge(&self, change: &Change<'_>) -> io::Result<Option<usize>> {
        self.script.as_ref().map_or(Ok(None), |script| script.judge(change))
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the tests' version does more")]
    fn judge(&self, _: &Change<'_>) -> io::Result<Option<usize>> {
        Ok(None)
    }

    /// A new, empty file; what had its name is gone.
    pub(super) fn create(&self, path: &Path) -> io::Result<DiskFile> {
        self.judge(&Change::Create(path))?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(DiskFile { file, path: path.to_owned(), disk: self.clone() })
    }

    pub(super) fn open(&self, path: &Path) -> io::Result<DiskFile> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(DiskFile { file, path: path.to_owned(), disk: self.clone() })
    }

    pub(super) fn rename(&self, file: &mut DiskFile, to: &Path) -> io::Result<()> {
        self.judge(&Change::Rename(&file.path, to))?;
        fs::rename(&file.path, to)?;
        to.clone_into(&mut file.path);
        Ok(())
    }

    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        self.judge(&Change::Remove(path))?;
        fs::remove_file(path)
    }

    /// Makes the names in a folder durable.
    pub(super) fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.judge(&Change::SyncDir(dir))?;
        File::open(dir)?.sync_all()
    }

    /// Writes a small file of its own in one go, durably.
    pub(super) fn write_file(&self, path: &Path, bytes: &[u8]) -> io::Result<DiskFile> {
        let file = self.create(path)?;
        file.write_all_at(bytes, 0)?;
        file.sync()?;
        Ok(file)
    }
}

impl DiskFile {
    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(written) = self.disk.judge(&Change::Write(&self.path, offset, bytes))? {
            self.file.write_all_at(&bytes[..written], offset)?;
            return self.write_all_at(&bytes[written..], offset + written as u64);
        }
        self.file.write_all_at(bytes, offset)
    }

    /// Puts data, and the metadata needed to read it, on the device. After an error nobody knows what is there, and a second try
    /// would succeed without knowing either: the kernel forgets pages it failed to write.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.disk.judge(&Change::Sync(&self.path))?;
        self.file.sync_data()
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.judge(&Change::SetLength(&self.path, len))?;
        self.file.set_len(len)
    }

    /// How long it is, if what is written to it twice goes to the same place; 0 where the file system never overwrites.
    pub(super) fn overwritable(&self) -> u64 {
        if copies_on_write(&self.file) { 0 } else { self.file.metadata().map_or(0, |metadata| metadata.len()) }
    }

    /// Reserves `len` bytes of disk and makes the file that long, filled with zeros. `false`: this file system cannot.
    pub(super) fn allocate(&self, len: u64) -> io::Result<bool> {
        self.disk.judge(&Change::Allocate(&self.path, len))?;
        allocate(&self.file, len)
    }

    /// Forgets what the page cache holds, so that the next read sees the device.
    pub(super) fn drop_cache(&self) {
        #[cfg(target_os = "linux")]
        // A hint; without it the read sees what the last process wrote, as any other program would.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, len: u64) -> io::Result<bool> {
    use rustix::io::Errno;
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(_: &File, _: u64) -> io::Result<bool> {
    Ok(false)
}

#[cfg(target_os = "linux")]
fn copies_on_write(file: &File) -> bool {
    const BTRFS: u32 = 0x9123_683E;
    const ZFS: u32 = 0x2FC1_2FC1;
    const BCACHEFS: u32 = 0xCA45_1A4E;
    const F2FS: u32 = 0xF2F5_2010;
    #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "magic numbers of 32 bits")]
    let kind = rustix::fs::fstatfs(file).map(|statfs| statfs.f_type as u32);
    kind.is_ok_and(|kind| matches!(kind, BTRFS | ZFS | BCACHEFS | F2FS))
}

#[cfg(not(target_os = "linux"))]
fn copies_on_write(_: &File) -> bool {
    true
}

/// Whether an error means that the disk, or the user's share of it, is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// Whether an error in making a file may pass by itself: the disk is full, or files are short.
pub(super) fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    is_full(error)
        || [Errno::MFILE, Errno::NFILE].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
