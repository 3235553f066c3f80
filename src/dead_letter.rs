//! Records that a destination refuses for good: kept in a JSON Lines file with the destination, its answer and the time.

use std::io;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::jsonl::JsonLines;

/// One line of the file.
#[derive(Serialize)]
struct DeadLetter<'a> {
    time: String,
    destination: &'a str,
    target: &'a str,
    /// The answer's status and text.
    why: &'a str,
    /// How many of `events` were refused. A partial success does not say which.
    rejected: u64,
    events: Vec<&'a RawValue>,
}

/// Who refused, and where it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal<'a> {
    pub(crate) destination: &'a str,
    pub(crate) target: &'a str,
    pub(crate) why: &'a str,
    pub(crate) rejected: u64,
}

/// Appends one dead letter; it is on disk when this returns.
///
/// # Errors
/// It is not on disk: the records have to be kept elsewhere until it is.
pub(crate) fn append(file: &JsonLines, refusal: Refusal<'_>, events: &[&str]) -> io::Result<()> {
    let quoted: Vec<_> = events
        .iter()
        .map(|text| {
            // What a user's processor put in place of the event may not be JSON.
            serde_json::from_str::<Box<RawValue>>(text)
                .or_else(|_| serde_json::value::to_raw_value(text))
                .map_err(io::Error::other)
        })
        .collect::<Result<_, _>>()?;
    let letter = DeadLetter {
        time: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        destination: refusal.destination,
        target: refusal.target,
        why: refusal.why,
        rejected: refusal.rejected,
        events: quoted.iter().map(AsRef::as_ref).collect(),
    };
    let mut line = serde_json::to_vec(&letter).map_err(io::Error::other)?;
    line.push(b'\n');
    file.append(&line)
}
