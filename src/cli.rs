//! The command line: clap types and calls into the library.

mod check;
mod convert;
mod demo;
mod dlq;
mod documents;
mod exit;
mod progress;
mod reader;
mod receive;
mod resume;
mod send;
mod show;
mod signals;
mod spool;
mod targets;
mod validate;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use exit::Exit;

/// Send audit events as OCSF-carrying OpenTelemetry log records, and lose none
///
/// Audit events become OpenTelemetry log records that carry OCSF, and go to OTLP/gRPC, OTLP/HTTP, webhooks, files and
/// standard output. Configured by the standard OTEL_ variables: see `auditwire send --help`.
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
    Spool(spool::Args),
    Dlq(dlq::Args),
    /// Print a completion script for a shell
    ///
    /// bash: source <(auditwire completions bash)
    /// zsh:  auditwire completions zsh > "${fpath[1]}/_auditwire"
    /// fish: auditwire completions fish > ~/.config/fish/completions/auditwire.fish
    #[command(verbatim_doc_comment)]
    Completions {
        /// The shell
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
        Command::Spool(args) => spool::run(args),
        Command::Dlq(args) => dlq::run(args),
        Command::Completions { shell } => completions(shell).map(|()| Exit::Success),
    };
    result.unwrap_or_else(|error| exit::report(&error)).into()
}

fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "auditwire", &mut script);
    print(&String::from_utf8(script)?)
}

/// Writes to standard output. A reader who has gone has enough.
fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
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
