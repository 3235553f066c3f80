//! The one error callers see.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::ConfigError;
use crate::spool;

/// Why a call did not do what it says. Ask with the `is_…` methods; the text is for people.
#[derive(Debug, Clone)]
pub struct Error(Kind);

/// What happened; each variant says when.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// The configuration cannot be used.
    Config(ConfigError),
    /// The operating system gave no thread or runtime at start.
    Start(String),
    /// The spool cannot be opened.
    Spool(String),
    /// `on_full = refuse` and this destination's queue has no place.
    Full { destination: String },
    /// The spool has no room, and may not wait for any (longer).
    SpoolFull { why: Option<String> },
    /// The device failed under the spool.
    Poisoned { why: String },
    /// More events at once than the queue holds.
    TooMany { events: usize, max: usize },
    /// The event's OCSF JSON is larger than accepted.
    TooLarge { bytes: usize, max: usize },
    /// The streamer has been shut down.
    Closed,
    /// A destination refused some of the events for good; they are in the dead-letter file.
    Rejected { events: u64, destination: String },
    /// Time ran out with events outstanding.
    Undelivered { timeout: Duration, outstanding: Vec<Outstanding>, kept: Option<PathBuf> },
}

/// What one destination has not confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outstanding {
    /// The destination's name.
    pub destination: String,
    /// Events accepted and not settled.
    pub events: u64,
    /// Why the last attempt failed, if one did.
    pub last_error: Option<String>,
}

impl Error {
    pub(crate) fn new(kind: Kind) -> Self {
        Self(kind)
    }

    /// The configuration cannot be used; the text names setting and value.
    pub fn is_config(&self) -> bool {
        matches!(self.0, Kind::Config(_))
    }

    /// The queue is full and the event was not accepted by any destination.
    pub fn is_full(&self) -> bool {
        matches!(self.0, Kind::Full { .. } | Kind::SpoolFull { .. })
    }

    /// The device failed under the spool: whether the event was accepted is unknown until the spool is opened again, and nothing
    /// more is accepted until then.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self.0, Kind::Poisoned { .. })
    }

    /// The event is larger than `max_event_bytes`, or there are more events than the queue holds; none was accepted.
    pub fn is_too_large(&self) -> bool {
        matches!(self.0, Kind::TooLarge { .. } | Kind::TooMany { .. })
    }

    /// Size of the event that is too large.
    pub(crate) fn too_large_bytes(&self) -> Option<usize> {
        match self.0 {
            Kind::TooLarge { bytes, .. } => Some(bytes),
            _ => None,
        }
    }

    /// The streamer has been shut down and the event was not accepted.
    pub fn is_closed(&self) -> bool {
        matches!(self.0, Kind::Closed)
    }

    /// A destination refused some of the events; they are in the dead-letter file.
    pub fn is_rejected(&self) -> bool {
        matches!(self.0, Kind::Rejected { .. })
    }

    /// What is outstanding where, when time ran out before everything was delivered; empty for other errors.
    pub fn outstanding(&self) -> &[Outstanding] {
        match &self.0 {
            Kind::Undelivered { outstanding, .. } => outstanding,
            _ => &[],
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Config(error) => error.fmt(f),
            Kind::Start(why) => write!(f, "cannot start: {why}"),
            Kind::Full { destination } => {
                write!(f, "the queue of destination {destination} is full, event not accepted")
            }
            Kind::Spool(why) => write!(f, "the spool cannot be opened: {why}"),
            Kind::SpoolFull { why: None } => f.write_str("the spool is full, event not accepted"),
            Kind::SpoolFull { why: Some(why) } => {
                write!(f, "the disk has no room for the spool, event not accepted: {why}")
            }
            Kind::Poisoned { why } => {
                write!(f, "the device failed under the spool, and whether the event was accepted is unknown: {why}")
            }
            Kind::TooMany { events, max } => {
                write!(f, "{events} events at once are more than the {max} that the queue holds")
            }
            Kind::TooLarge { bytes, max } => {
                write!(f, "the event is {bytes} bytes of OCSF JSON, more than the {max} accepted")
            }
            Kind::Closed => f.write_str("the streamer has been shut down, event not accepted"),
            Kind::Rejected { events, destination } => {
                write!(
                    f,
                    "destination {destination} refused {events} events for good; they are in the dead-letter file"
                )
            }
            Kind::Undelivered { timeout, outstanding, kept } => {
                write!(f, "not delivered within {timeout:?}:")?;
                for (index, part) in outstanding.iter().enumerate() {
                    let separator = if index == 0 { " " } else { "; " };
                    write!(f, "{separator}{} outstanding at {}", part.events, part.destination)?;
                    if let Some(error) = &part.last_error {
                        write!(f, " ({error})")?;
                    }
                }
                match kept {
                    Some(dir) => write!(f, "; kept in the spool {}", dir.display()),
                    None => Ok(()),
                }
            }
        }
    }
}

// No source: what a configuration error says is said by this one already.
impl std::error::Error for Error {}

impl From<spool::AppendError> for Error {
    fn from(error: spool::AppendError) -> Self {
        Self(match error {
            spool::AppendError::Full { source } => Kind::SpoolFull { why: source.map(|source| source.to_string()) },
            spool::AppendError::TooLarge { bytes, max } => Kind::TooLarge { bytes: bytes as usize, max: max as usize },
            spool::AppendError::Poisoned { source } => Kind::Poisoned { why: source.to_string() },
            spool::AppendError::Closed => Kind::Closed,
        })
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self(Kind::Config(error))
    }
}
