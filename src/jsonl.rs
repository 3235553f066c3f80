//! A private, append-only JSON Lines file: what the file destination and the dead letters write.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::config::Sync;

/// Opened at the first append. Parent folders are created, the mode is 0600, and a file that was moved away (logrotate) is
/// followed by a new one. Each append holds the file's lock, so that another process may append, or replace the file by a shorter
/// one (`auditwire dlq`), and nothing is cut off or lost by it.
#[derive(Debug)]
pub(crate) struct JsonLines {
    path: PathBuf,
    sync: Sync,
    open: Mutex<Option<File>>,
}

impl JsonLines {
    pub(crate) fn new(path: &Path, sync: Sync) -> Self {
        Self { path: path.to_owned(), sync, open: Mutex::new(None) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends whole lines or nothing: after a failed write the file is cut back to where it was.
    pub(crate) fn append(&self, lines: &[u8]) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.locked(&mut open)?;
        let before = file.metadata()?;
        let written = file.write_all(lines).and_then(|()| match self.sync {
            // A pipe or terminal has nothing to sync, and says so with an error.
            Sync::Batch if before.is_file() => file.sync_data(),
            _ => Ok(()),
        });
        if written.is_err() {
            // Lines that may be there in part would be there twice after the retry.
            let _ = file.set_len(before.len());
        }
        let _ = file.unlock();
        if written.is_err() {
            *open = None;
        }
        written
    }

    /// The file that the path names now, with its lock.
    fn locked<'f>(&self, open: &'f mut Option<File>) -> io::Result<&'f mut File> {
        loop {
            let (mut file, is_new) = match open.take() {
                Some(file) => (file, false),
                None => (open_private(&self.path)?, true),
            };
            // Where there are no locks (some network file systems) it goes without.
            let _ = file.lock();
            let is_regular = file.metadata()?.is_file();
            // Else it was moved away, or replaced, before we had the lock.
            if is_at(&file, &self.path) || (is_new && !is_regular) {
                if is_new && is_regular && cut_short(&self.path)? {
                    // A crash left its last line without an end.
                    file.write_all(b"\n")?;
                }
                return Ok(open.insert(file));
            }
        }
    }
}

/// Opens for appending.
fn open_private(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn cut_short(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// Whether the path still names the open file.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        match (file.metadata(), std::fs::metadata(path)) {
            (Ok(open), Ok(named)) => open.dev() == named.dev() && open.ino() == named.ino(),
            _ => false,
        }
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn defect_8_the_file_is_private_and_its_folders_are_created() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/out.jsonl");
        JsonLines::new(&path, Sync::Batch).append(b"{}\n").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_line_that_a_crash_cut_is_ended_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        std::fs::write(&path, b"{\"whole\":1}\n{\"cut\":").unwrap();
        JsonLines::new(&path, Sync::Batch).append(b"{\"next\":1}\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"whole\":1}\n{\"cut\":\n{\"next\":1}\n");
    }

    #[test]
    fn a_rotated_file_is_followed_by_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let (path, rotated) = (folder.path().join("out.jsonl"), folder.path().join("out.jsonl.1"));
        let lines = JsonLines::new(&path, Sync::Never);
        lines.append(b"1\n").unwrap();
        std::fs::rename(&path, &rotated).unwrap();
        lines.append(b"2\n").unwrap();
        assert_eq!(std::fs::read_to_string(&rotated).unwrap(), "1\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "2\n");
    }

    #[test]
    fn a_full_disk_is_an_error_and_not_a_line() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            return eprintln!("skipped: this system has no /dev/full");
        }
        let error = JsonLines::new(full, Sync::Batch).append(b"{}\n").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
