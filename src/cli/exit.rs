//! Exit codes: a type, so that a script can rely on them.

use std::io::Write as _;
use std::process::ExitCode;

use auditwire::config::ConfigError;

/// How a command ended. The first that applies, from the bottom up, is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Exit {
    /// All done.
    Success = 0,
    /// Something failed that the message names.
    Failure = 1,
    /// The command line or the configuration cannot be used (as clap's own).
    Usage = 2,
    /// Some of the input was no audit event; all the rest was done.
    BadInput = 3,
    /// A destination refused events for good; they are in the dead-letter file.
    Rejected = 4,
    /// Events were not delivered, or the input was not read to its end.
    Undelivered = 5,
}

/// For `--help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0  all events delivered
  1  a failure that the message names
  2  the command line or the configuration cannot be used
  3  some input was no audit event; all the rest was delivered
  4  a destination refused events for good; they are in the dead-letter file
  5  events were not delivered, or a signal came before the end of the input";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Says an error and its causes in one line, a cause that its effect has said already only once.
pub(crate) fn report(error: &anyhow::Error) -> Exit {
    let mut parts: Vec<String> = error.chain().map(ToString::to_string).collect();
    parts.dedup_by(|cause, effect| effect.ends_with(&**cause));
    say(format_args!("error: {}", parts.join(": ")));
    let is_config = error.chain().any(|cause| {
        cause.is::<ConfigError>() || cause.downcast_ref::<auditwire::Error>().is_some_and(auditwire::Error::is_config)
    });
    if is_config { Exit::Usage } else { Exit::Failure }
}

/// One line on standard error. Nobody there to read it is no reason to fail.
pub(crate) fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "auditwire: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_that_help_promises() {
        for (exit, code) in [
            (Exit::Success, 0),
            (Exit::Failure, 1),
            (Exit::Usage, 2),
            (Exit::BadInput, 3),
            (Exit::Rejected, 4),
            (Exit::Undelivered, 5),
        ] {
            assert_eq!(exit as u8, code);
            assert!(HELP.contains(&format!("\n  {code}  ")));
        }
    }
}
