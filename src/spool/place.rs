//! The folder: its rights, its lock, and whether its file system is one to trust.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::disk::Disk;
use super::error::OpenError;

const LOCK: &str = "LOCK";

/// What makes a spool's place less safe than it could be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// A network file system: a second host may not see the lock, and a sync may not mean what it says.
    NetworkFileSystem {
        /// Its kind.
        kind: &'static str,
    },
    /// A file system in memory, or in a container's own layer: it does not outlive the machine, or the container.
    TemporaryFileSystem {
        /// Its kind.
        kind: &'static str,
    },
    /// Others can enter the folder.
    OpenToOthers {
        /// Its rights.
        mode: u32,
    },
}

/// Makes sure there is a folder.
pub(super) fn prepare(disk: &Disk, dir: &Path) -> Result<Vec<Warning>, OpenError> {
    // The folders that are missing, the innermost first.
    let missing: Vec<&Path> =
        dir.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(OpenError::io(dir))?;
    for made in missing {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        disk.sync_dir(parent).map_err(OpenError::io(parent))?;
    }
    let mode = fs::metadata(dir).map_err(OpenError::io(dir))?.mode() & 0o7777;
    let mut warnings = Vec::new();
    if mode & 0o077 != 0 {
        warnings.push(Warning::OpenToOthers { mode });
    }
    warnings.extend(file_system(dir));
    Ok(warnings)
}

/// Takes the lock. It is the kernel's: it goes with the process, however that ends.
pub(super) fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK);
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = open.map_err(OpenError::io(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { dir: dir.to_owned(), pid: holder(&mut file) }),
        Err(TryLockError::Error(error)) => return Err(OpenError::io(path)(error)),
    }
    // The name is a courtesy to whoever comes second; on a full disk it may be missing.
    let _ = sign(&mut file);
    Ok(file)
}

fn sign(file: &mut File) -> io::Result<()> {
    file.rewind()?;
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Who has the spool in a folder open now. It only looks: trying the lock could keep a starting process out. Only Linux tells.
#[cfg(target_os = "linux")]
pub(super) fn locked_by(dir: &Path) -> Option<u32> {
    let mut file = File::open(dir.join(LOCK)).ok()?;
    let metadata = file.metadata().ok()?;
    let (device, inode) = (metadata.dev(), metadata.ino());
    let id = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let held = locks.lines().any(|line| line.contains(" FLOCK ") && line.split_whitespace().any(|field| field == id));
    held.then(|| holder(&mut file))?
}

#[cfg(not(target_os = "linux"))]
pub(super) fn locked_by(_: &Path) -> Option<u32> {
    None
}

#[cfg(target_os = "linux")]
fn file_system(dir: &Path) -> Option<Warning> {
    let kind = rustix::fs::statfs(dir).ok()?.f_type;
    // The numbers of statfs(2); some are negative as the kernel's signed type.
    #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "magic numbers of 32 bits")]
    let kind = kind as u32;
    let network = |kind| Some(Warning::NetworkFileSystem { kind });
    let temporary = |kind| Some(Warning::TemporaryFileSystem { kind });
    match kind {
        0x0000_6969 => network("nfs"),
        0x0000_517B | 0xFF53_4D42 | 0xFE53_4D42 => network("smb"),
        0x0102_1997 => network("9p"),
        0x00C3_6400 => network("ceph"),
        0x5346_414F => network("afs"),
        0x6573_5546 => network("fuse"),
        0x0102_1994 => temporary("tmpfs"),
        0x8584_58F6 => temporary("ramfs"),
        0x794C_7630 => temporary("overlayfs"),
        _ => None,
    }
}

#[cfg(not(target_os = "linux"))]
fn file_system(_: &Path) -> Option<Warning> {
    None
}
