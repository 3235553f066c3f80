//! What a streamer says without being asked: each a line for a person, or a value for a program that handles it.

use std::fmt;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

/// Something an operator should hear.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// A setting was ignored, or exporting is disabled, as the specification demands.
    Warning {
        /// Names variable and value.
        text: String,
    },
    /// A destination does not take events; they are kept and tried again. Said again when the reason changes.
    Failing {
        /// Name of the destination.
        destination: String,
        /// Where it is.
        target: String,
        /// Why the last attempt failed.
        why: String,
        /// Whether someone has to act (credentials, address), because waiting will not help.
        act: bool,
    },
    /// A destination that was failing takes events again.
    Recovered {
        /// Name of the destination.
        destination: String,
        /// Where it is.
        target: String,
    },
    /// A destination refused events for good; they are in the dead-letter file.
    DeadLettered {
        /// Name of the destination.
        destination: String,
        /// How many events.
        events: u64,
        /// The answer's status and text.
        why: String,
        /// The dead-letter file.
        path: PathBuf,
    },
    /// The dead-letter file cannot be written; the events are kept and their destination waits.
    DeadLetterFailed {
        /// The dead-letter file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A destination accepted everything and has something to say (OTLP partial success with nothing rejected).
    Remark {
        /// Name of the destination.
        destination: String,
        /// Its message.
        text: String,
    },
    /// Events were dropped because the queue was full and `on_full` is `drop`; a gap record announces them in the stream.
    Dropped {
        /// Name of the destination.
        destination: String,
        /// How many events the gap record counts.
        events: u64,
    },
    /// Events were lost before a destination could have them (damage of the spool); a gap record announces them in its stream.
    Lost {
        /// Name of the destination.
        destination: String,
        /// Sequence number of the first.
        first: u64,
        /// Sequence number of the last.
        last: u64,
        /// Why, and where the damaged bytes are kept.
        why: String,
    },
    /// A destination has ended for good (the reader of standard output has gone); its events are lost there.
    Ended {
        /// Name of the destination.
        destination: String,
        /// Why.
        why: String,
    },
    /// The streamer ended with events outstanding.
    Undelivered {
        /// What is outstanding where.
        text: String,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Warning { text } | Self::Undelivered { text } => f.write_str(text),
            Self::Failing { destination, target, why, act } => {
                let next = if *act { "kept and retried slowly; someone has to act" } else { "kept and retried" };
                write!(f, "{destination} ({target}) does not take events: {why}; {next}")
            }
            Self::Recovered { destination, target } => write!(f, "{destination} ({target}) takes events again"),
            Self::DeadLettered { destination, events, why, path } => {
                write!(f, "{destination} refused {events} events for good: {why}; kept in {}", path.display())
            }
            Self::DeadLetterFailed { path, why } => {
                write!(
                    f,
                    "the dead-letter file {} cannot be written: {why}; its events are kept and wait",
                    path.display()
                )
            }
            Self::Remark { destination, text } => write!(f, "{destination} accepted everything and says: {text}"),
            Self::Dropped { destination, events } => {
                write!(f, "{destination}: the queue was full, {events} events were dropped there")
            }
            Self::Lost { destination, first, last, why } => {
                write!(f, "{destination}: events {first} to {last} are lost: {why}")
            }
            Self::Ended { destination, why } => write!(f, "{destination} has ended: {why}"),
        }
    }
}

/// Who hears notices.
pub(crate) type Listener = Arc<dyn Fn(&Notice) + Send + Sync>;

/// One line on standard error. A closed standard error is no reason to stop auditing.
pub(crate) fn to_stderr(notice: &Notice) {
    let _ = writeln!(std::io::stderr().lock(), "auditwire: {notice}");
}
