//! The one error callers see.

use std::fmt;
use std::time::Duration;

use crate::config::ConfigError;

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
    /// `on_full = refuse` and this destination's queue has no place.
    Full { destination: String },
    /// The event's OCSF JSON is larger than accepted.
    TooLarge { bytes: usize, max: usize },
    /// The streamer has been shut down.
    Closed,
    /// A destination refused some of the events for good; they are in the dead-letter file.
    Rejected { events: u64, destination: String },
    /// Time ran out with events outstanding.
    Undelivered { timeout: Duration, outstanding: Vec<Outstanding> },
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
        matches!(self.0, Kind::Full { .. })
    }

    /// The event is larger than `max_event_bytes` and was not accepted.
    pub fn is_too_large(&self) -> bool {
        matches!(self.0, Kind::TooLarge { .. })
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
            Kind::Undelivered { timeout, outstanding } => {
                write!(f, "not delivered within {timeout:?}:")?;
                for (index, part) in outstanding.iter().enumerate() {
                    let separator = if index == 0 { " " } else { "; " };
                    write!(f, "{separator}{} outstanding at {}", part.events, part.destination)?;
                    if let Some(error) = &part.last_error {
                        write!(f, " ({error})")?;
                    }
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Kind::Config(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self(Kind::Config(error))
    }
}
