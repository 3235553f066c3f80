//! `auditwire validate`: OCSF events, ours or not, held against the schema built into the program.

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use auditwire::ocsf::{self, Finding, Report};
use serde::Serialize;

use super::documents::{self, Document};
use super::exit::Exit;

/// Check OCSF events against the schema
///
/// Reads OCSF events of any producer and of the versions 1.4 to 1.9: JSON Lines, an array, or one object. They are judged by the
/// schema 1.8.0 that is built into the program (ten classes: 0, 1001, 1007, 3001 to 3004, 4001, 6002, 6003) and by rules of the
/// specification that the schema does not state. What only 1.9 knows is a warning.
///
/// Each invalid event is told in one line. The exit code is 1 if there is any.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Files to read; `-`, or none, is standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How to tell the verdicts
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Tell every error of an event, each in a line of its own, not only the first
    #[arg(long)]
    all: bool,
    /// Tell warnings too
    #[arg(long)]
    warnings: bool,
}

/// How the verdicts are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// `FILE:LINE: path: what is wrong`, for invalid events only
    Text,
    /// A JSON object a line for every event, valid ones too, with all errors and warnings
    Json,
}

/// One line of `--format json`.
#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    line: u64,
    valid: bool,
    errors: &'a [Finding],
    warnings: &'a [Finding],
}

/// Runs the command.
///
/// # Errors
/// A file cannot be read, or standard output cannot be written.
pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let mut out = BufWriter::new(io::stdout().lock());
    let (valid, invalid) = validate(&args, &mut out)?;
    // Nobody there to read the summary is no reason to fail.
    let _ = writeln!(io::stderr().lock(), "{valid} valid, {invalid} invalid");
    Ok(if invalid == 0 { Exit::Success } else { Exit::Failure })
}

/// How many were valid, and how many not. A reader of `out` that goes away ends it early.
fn validate(args: &Args, out: &mut impl Write) -> io::Result<(u64, u64)> {
    let (mut valid, mut invalid) = (0, 0);
    let written = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(io::Error::new(error.kind(), format!("standard output: {error}"))),
        Ok(()) => Ok(ControlFlow::Continue(())),
    };
    let _ = documents::read_all(&args.files, |document| {
        let report = judge(document);
        *(if report.is_valid() { &mut valid } else { &mut invalid }) += 1;
        let told = tell(args, document, &report, out);
        written(told.and_then(|()| if document.last_for_now { out.flush() } else { Ok(()) }))
    })?;
    let _ = written(out.flush())?;
    Ok((valid, invalid))
}

fn judge(document: &Document<'_>) -> Report {
    match &document.text {
        Ok(text) => ocsf::validate(text),
        Err(why) => Report {
            errors: vec![Finding { kind: "bad_json", path: String::new(), message: why.clone() }],
            warnings: Vec::new(),
        },
    }
}

fn tell(args: &Args, document: &Document<'_>, report: &Report, out: &mut impl Write) -> io::Result<()> {
    if args.format == Format::Json {
        let Report { errors, warnings } = report;
        let line = Line { file: document.file, line: document.line, valid: report.is_valid(), errors, warnings };
        serde_json::to_writer(&mut *out, &line)?;
        return out.write_all(b"\n");
    }
    match report.errors.as_slice() {
        [] => {}
        errors if args.all => {
            for error in errors {
                one_line(out, format_args!("{document}: {error}"))?;
            }
        }
        [only] => one_line(out, format_args!("{document}: {only}"))?,
        [first, others @ ..] => one_line(out, format_args!("{document}: {first}, and {} more", others.len()))?,
    }
    if args.warnings {
        for warning in &report.warnings {
            one_line(out, format_args!("{document}: warning: {warning}"))?;
        }
    }
    Ok(())
}

/// Names and values of an event are anybody's: none of them ends the line or drives the terminal.
fn one_line(out: &mut impl Write, text: fmt::Arguments<'_>) -> io::Result<()> {
    let text = text.to_string();
    if text.chars().any(char::is_control) {
        let plain: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        writeln!(out, "{plain}")
    } else {
        writeln!(out, "{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(events: &str, change: impl FnOnce(&mut Args)) -> (String, u64, u64) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("e.jsonl");
        std::fs::write(&file, events).unwrap();
        let mut args = Args { files: vec![file.clone()], format: Format::Text, all: false, warnings: false };
        change(&mut args);
        let mut out = Vec::new();
        let (valid, invalid) = validate(&args, &mut out).unwrap();
        (String::from_utf8(out).unwrap().replace(&file.display().to_string(), "F"), valid, invalid)
    }

    const VALID: &str = r#"{"class_uid":0,"category_uid":0,"activity_id":0,"type_uid":0,"time":0,"severity_id":1,"metadata":{"version":"1.8.0","product":{"name":"p"}}}"#;

    #[test]
    fn one_line_for_each_invalid_event() {
        let text = format!("{VALID}\n{}\n{{\n[]\n", VALID.replace("\"time\":0,\"severity_id\":1", "\"time\":-1"));
        let (told, valid, invalid) = told(&text, |_| {});
        assert_eq!((valid, invalid), (1, 3));
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 3, "{told}");
        assert_eq!(lines[0], "F:2: severity_id: required and missing (attribute_required_missing), and 1 more");
        assert!(lines[1].starts_with("F:3: event: EOF while parsing an object"), "{told}");
        assert_eq!(lines[2], "F:4: event: event is not a JSON object (not_object)");
    }

    #[test]
    fn all_errors_and_json_are_there_when_asked_for() {
        let text = VALID.replace("\"time\":0,\"severity_id\":1", "\"time\":-1,\"a\\nb\":1");
        let (told_all, ..) = told(&text, |args| args.all = true);
        assert_eq!(told_all.lines().count(), 3, "{told_all}");
        assert!(told_all.contains("F:1: a\u{fffd}b: no attribute of base_event"), "{told_all}");
        let (json, ..) = told(&text, |args| args.format = Format::Json);
        let line: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((line["valid"].as_bool(), line["errors"].as_array().unwrap().len()), (Some(false), 3));
        assert_eq!(line["errors"][0]["kind"], "attribute_unknown");
    }

    #[test]
    fn a_closed_pipe_ends_it_in_peace() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("e.jsonl");
        std::fs::write(&file, "{}\n{}\n").unwrap();
        let args = Args { files: vec![file], format: Format::Text, all: false, warnings: false };
        assert_eq!(validate(&args, &mut Closed).unwrap(), (0, 1));
    }
}
