//! The command line: clap types and calls into the library.

mod convert;
mod demo;
mod documents;
mod exit;
mod input;
mod progress;
mod receive;
mod send;
mod validate;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use exit::Exit;

/// Send audit events as OCSF-carrying OpenTelemetry log records, and lose none
///
/// Audit events become OpenTelemetry log records that carry OCSF, and go to OTLP/gRPC, OTLP/HTTP, webhooks, files and
/// standard output. Configured by the standard OTEL_ variables; `auditwire send --help` names the rest.
#[derive(Debug, Parser)]
#[command(name = "auditwire", version, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  auditwire demo                                    see it work, on this machine alone
  auditwire send events.jsonl --to stdout           what an event becomes
  auditwire send events.jsonl                       to the collector that the OTEL_ variables name
  tail -F audit.jsonl | auditwire send --to otlp=http://collector:4317 --to file=kept.jsonl
  auditwire receive                                 a receiver to look at what arrives";

#[derive(Debug, Subcommand)]
enum Command {
    Send(send::Args),
    Receive(receive::Args),
    Validate(validate::Args),
    Convert(convert::Args),
    Demo(demo::Args),
    /// Print shell completions, for `source <(auditwire completions bash)` and the like
    Completions {
        /// The shell that shall complete
        shell: Shell,
    },
}

/// Parses the command line, runs the command, says what went wrong.
pub(crate) fn run() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Send(args) => send::run(args),
        Command::Receive(args) => receive::run(args).map(|()| Exit::Success),
        Command::Validate(args) => validate::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Demo(args) => demo::run(&args),
        Command::Completions { shell } => completions(shell).map(|()| Exit::Success),
    };
    result.unwrap_or_else(|error| exit::report(&error)).into()
}

fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "auditwire", &mut script);
    match io::stdout().lock().write_all(&script) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
