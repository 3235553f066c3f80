//! What can go wrong, one enum per operation.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a spool was not opened. Nothing in its folder has been changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or another handle of this one, has it open.
    Locked {
        /// The spool's folder.
        dir: PathBuf,
        /// The holder, as it wrote itself into the lock file.
        pid: Option<u32>,
    },
    /// Another version of this program wrote it.
    Version {
        /// The segment that says so.
        file: PathBuf,
        /// Its format version.
        version: u32,
        /// Its flags.
        flags: u32,
    },
    /// Damage that leaves open what was accepted: a person must look at it. [`Spool::open_beside`](super::Spool::open_beside) goes
    /// on without it, and [`Export`](super::Export) rescues what is intact.
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        why: &'static str,
    },
    /// The options contradict each other.
    Options {
        /// How.
        why: String,
    },
    /// The system refused something.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Why records were not accepted.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum AppendError {
    /// There is no room: [`Options::max_bytes`](super::Options::max_bytes) is reached, or the disk gives no more (`source` then
    /// says why). None of the records has been accepted. It passes when destinations acknowledge, or the disk is freed.
    Full {
        /// What the disk said; `None` when it is our own limit.
        source: Option<Arc<io::Error>>,
    },
    /// A record, or the batch as a whole, is longer than it may be. It would never be accepted.
    TooLarge {
        /// Its length in bytes.
        bytes: u64,
        /// What is allowed.
        max: u64,
    },
    /// The device failed while these records, or earlier ones, were written. Whether these are kept is unknown until the spool is
    /// opened again; nothing more is accepted until then.
    Poisoned {
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The spool has been closed. The records have not been accepted.
    Closed,
}

/// Why the next record could not be read. Nothing is lost and the reader stands where it stood: it may be tried again.
#[derive(Debug)]
pub struct ReadError {
    /// The segment.
    pub file: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl OpenError {
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// Whether the spool itself is what is wrong, and a new one beside it would do.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Version { .. } | Self::Corrupt { .. })
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked { dir, pid: Some(pid) } => write!(f, "{}: in use by process {pid}", dir.display()),
            Self::Locked { dir, pid: None } => write!(f, "{}: in use by another process", dir.display()),
            Self::Version { file, version, flags } => {
                write!(f, "{}: format version {version} with flags {flags:#x} is not known here", file.display())
            }
            Self::Corrupt { file, offset, why } => write!(f, "{}: damaged at byte {offset}: {why}", file.display()),
            Self::Options { why } => f.write_str(why),
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { source: Some(source) } => write!(f, "the spool is full: {source}"),
            Self::Full { source: None } => f.write_str("the spool is full"),
            Self::TooLarge { bytes, max } => write!(f, "{bytes} bytes are too many for the spool, it takes {max}"),
            Self::Poisoned { source } => write!(f, "the spool's device failed, outcome unknown: {source}"),
            Self::Closed => f.write_str("the spool is closed"),
        }
    }
}

impl std::error::Error for AppendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Full { source: Some(source) } | Self::Poisoned { source } => Some(source),
            _ => None,
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.source)
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
