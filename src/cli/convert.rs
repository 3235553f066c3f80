//! `auditwire convert`: a filter between the forms of an event.

use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use auditwire::config::env::{self, Environment};
use auditwire::event::AuditEvent;
use auditwire::ocsf::{self, Mapping, Version};
use auditwire::record::OtlpJson;

use super::documents::{self, Document};
use super::exit::{self, Exit};

/// Turn audit events into OCSF, and OCSF back into the audit events it was made from
///
/// Reads JSON Lines, an array, or one object, and writes a line for each event. An OCSF event that was made from an audit event
/// gives exactly that event back; one of another producer is refused. What cannot be converted is told with file and line on
/// standard error, and hinders nothing else; the exit code is then 3.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the input is
    #[arg(long, value_enum)]
    from: From,
    /// What to write
    #[arg(long, value_enum)]
    to: To,
    /// OCSF version to write, 1.4.0 to 1.9.0
    #[arg(long, value_name = "VERSION", default_value_t)]
    ocsf_version: Version,
    /// Files to read; `-`, or none, is standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// What the input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum From {
    /// Audit events
    Audit,
    /// OCSF events made from audit events
    Ocsf,
}

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum To {
    /// OCSF events
    Ocsf,
    /// Audit events
    Audit,
    /// OTLP/JSON `LogsData`, one record a line
    #[value(name = "otlp_json", alias = "otlp-json")]
    OtlpJson,
}

/// Runs the command.
///
/// # Errors
/// A file cannot be read, or standard output cannot be written.
pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    let mut warnings = Vec::new();
    let resource = env::settings(&Environment::of_process(), &mut warnings)?.resource;
    warnings.iter().for_each(|warning| exit::say(format_args!("warning: {warning}")));
    let bad = convert(&args, &OtlpJson::new(&resource), &mut out, &mut io::stderr())?;
    Ok(if bad == 0 { Exit::Success } else { Exit::BadInput })
}

/// How many could not be converted. A reader of `out` that goes away ends it early.
fn convert(args: &Args, otlp_json: &OtlpJson, out: &mut impl Write, complaints: &mut impl Write) -> io::Result<u64> {
    let mut bad = 0;
    let mut line = Vec::new();
    let written = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(io::Error::new(error.kind(), format!("standard output: {error}"))),
        Ok(()) => Ok(ControlFlow::Continue(())),
    };
    let _ = documents::read_all(&args.files, |document| {
        line.clear();
        let result = match one(args, otlp_json, document, &mut line) {
            Ok(()) => {
                line.push(b'\n');
                out.write_all(&line)
            }
            Err(why) => {
                bad += 1;
                // Nobody there to read complaints is no reason to stop.
                let _ = writeln!(complaints, "{document}: {}", why.replace(char::is_control, "\u{fffd}"));
                Ok(())
            }
        };
        written(result.and_then(|()| if document.last_for_now { out.flush() } else { Ok(()) }))
    })?;
    let _ = written(out.flush())?;
    Ok(bad)
}

fn one(args: &Args, otlp_json: &OtlpJson, document: &Document<'_>, line: &mut Vec<u8>) -> Result<(), String> {
    let text = document.text.as_ref().map_err(Clone::clone)?;
    let event: AuditEvent = match args.from {
        From::Audit => serde_json::from_str(text).map_err(|error| error.to_string())?,
        From::Ocsf => ocsf::decode(text).map_err(|error| error.to_string())?,
    };
    let mapping = Mapping { version: args.ocsf_version };
    match args.to {
        To::Ocsf => ocsf::encode(&event, &mapping, None, line),
        To::OtlpJson => line.extend_from_slice(&otlp_json.line(&event, &mapping)),
        To::Audit => serde_json::to_writer(line, &event).map_err(|error| error.to_string())?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(input: &str, from: From, to: To) -> (String, String, u64) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("e");
        std::fs::write(&file, input).unwrap();
        let (mut out, mut complaints) = (Vec::new(), Vec::new());
        let args = Args { from, to, ocsf_version: Version::default(), files: vec![file.clone()] };
        let bad = convert(&args, &OtlpJson::new(&[]), &mut out, &mut complaints).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap().replace(&file.display().to_string(), "F");
        (text(out), text(complaints), bad)
    }

    #[test]
    fn there_and_back_is_where_it_began() {
        let events = include_str!("../../tests/data/compat/events.jsonl");
        let (there, complaints, _) = converted(events, From::Audit, To::Ocsf);
        assert_eq!((there.lines().count(), complaints.as_str()), (16, ""));
        assert!(there.lines().all(|line| line.starts_with(r#"{"time":"#)));
        let (back, ..) = converted(&there, From::Ocsf, To::Audit);
        let sorted = |text: &str| -> Vec<String> {
            text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap().to_string()).collect()
        };
        assert_eq!(sorted(&back), sorted(events));
    }

    #[test]
    fn a_malformed_line_is_told_and_hinders_nothing() {
        let event = r#"{"time":"t","type_name":"n","uid":"u","action":"a","outcome":"permit"}"#;
        let (out, complaints, bad) =
            converted(&format!("{event}\n{{\"time\":1}}\nnull\n{event}\n"), From::Audit, To::Audit);
        assert_eq!((out.lines().count(), bad), (2, 2));
        assert!(complaints.starts_with("F:2: invalid type: integer `1`, expected a string"), "{complaints}");
        assert!(complaints.contains("\nF:3: invalid type: null"), "{complaints}");
        let (_, complaints, _) = converted(r#"{"class_uid":6003,"activity_id":1}"#, From::Ocsf, To::Audit);
        assert!(
            complaints.starts_with("F:1: status_code: missing: only events made from audit events"),
            "{complaints}"
        );
    }
}
