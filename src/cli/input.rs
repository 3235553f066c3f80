//! Audit events from files and standard input: JSON Lines, or one JSON array. What is no event is told with file and line, and
//! hinders nothing else.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use auditwire::AuditEvent;
use serde_json::value::RawValue;

/// Longest line, in bytes: an event is 1 MiB at most by default, and what is longer by far is not worth the memory.
const MAX_LINE_BYTES: usize = 16 << 20;

/// Where an event stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    pub(crate) file: &'a str,
    pub(crate) line: u64,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What stood at a place.
pub(crate) enum Item {
    Event(Box<AuditEvent>),
    /// No event, and why. A line that is very long comes in pieces; the last one has the reason.
    Malformed(Option<String>),
}

/// Whether to go on reading.
pub(crate) type Flow = std::ops::ControlFlow<()>;

/// Reads one source to its end; `-` is standard input. Each item comes with its bytes as they were read.
///
/// # Errors
/// The source cannot be opened or read.
pub(crate) fn read(path: &Path, take: impl FnMut(&Place<'_>, Item, &[u8]) -> Flow) -> io::Result<Flow> {
    if is_stdin(path) {
        return read_from("<stdin>", io::stdin().lock(), take);
    }
    // A larger buffer than the default: lines are mapped and handed over between reads.
    read_from(&path.display().to_string(), BufReader::with_capacity(256 << 10, File::open(path)?), take)
}

/// The sources that were named, or standard input.
///
/// # Errors
/// One of them is not there: better said before the others are sent than in the middle.
pub(crate) fn sources(files: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    for path in files.iter().filter(|path| !is_stdin(path)) {
        let kind = std::fs::metadata(path).map(|file| file.is_dir());
        if kind.with_context(|| format!("cannot read {}", path.display()))? {
            bail!("cannot read {}: it is a directory", path.display());
        }
    }
    Ok(if files.is_empty() { vec![PathBuf::from("-")] } else { files })
}

/// Whether the source is standard input.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

fn read_from(
    file: &str,
    mut input: impl BufRead,
    mut take: impl FnMut(&Place<'_>, Item, &[u8]) -> Flow,
) -> io::Result<Flow> {
    skip_byte_order_mark(&mut input)?;
    let mut line = Vec::new();
    let mut number = 0;
    let mut begun = false;
    loop {
        line.clear();
        number += 1;
        if input.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line)? == 0 {
            return Ok(Flow::Continue(()));
        }
        let place = Place { file, line: number };
        if line.len() > MAX_LINE_BYTES && !line.ends_with(b"\n") {
            if pass_long_line(&mut input, &place, &mut line, &mut take)?.is_break() {
                return Ok(Flow::Break(()));
            }
            continue;
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        // An array is only recognized where nothing came before it.
        if !begun && text.starts_with(b"[") {
            let mut whole = std::mem::take(&mut line);
            input.read_to_end(&mut whole)?;
            return Ok(array(file, number, &whole, take));
        }
        begun = true;
        let item = match serde_json::from_slice::<AuditEvent>(text) {
            Ok(event) => Item::Event(Box::new(event)),
            Err(error) => {
                // What `jq` prints without `-c`, for one.
                let hint = if error.is_eof() { "; an event is one line" } else { "" };
                Item::Malformed(Some(format!("{}{hint}", why(&error))))
            }
        };
        if take(&place, item, line.strip_suffix(b"\n").unwrap_or(&line)).is_break() {
            return Ok(Flow::Break(()));
        }
    }
}

fn skip_byte_order_mark(input: &mut impl BufRead) -> io::Result<()> {
    if input.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        input.consume(3);
    }
    Ok(())
}

/// Hands a line that is too long on in pieces.
fn pass_long_line(
    input: &mut impl BufRead,
    place: &Place<'_>,
    line: &mut Vec<u8>,
    take: &mut impl FnMut(&Place<'_>, Item, &[u8]) -> Flow,
) -> io::Result<Flow> {
    loop {
        let ended = line.ends_with(b"\n");
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let why = ended.then(|| format!("the line is longer than {MAX_LINE_BYTES} bytes"));
        if take(place, Item::Malformed(why), text).is_break() {
            return Ok(Flow::Break(()));
        }
        if ended {
            return Ok(Flow::Continue(()));
        }
        line.clear();
        if input.take(MAX_LINE_BYTES as u64).read_until(b'\n', line)? == 0 {
            line.push(b'\n');
        }
    }
}

/// Reads a JSON array that begins in line `first`; the line of an element is where it begins. Where the text stops being an
/// array, what is left of it is one complaint.
fn array(file: &str, first: u64, text: &[u8], mut take: impl FnMut(&Place<'_>, Item, &[u8]) -> Flow) -> Flow {
    let (mut line, mut counted) = (first, 0);
    let mut take_at = |at: usize, item, raw| {
        line += text[counted..at].iter().filter(|byte| **byte == b'\n').count() as u64;
        counted = at;
        take(&Place { file, line }, item, raw)
    };
    let past_space = |at: usize| text.len() - text[at..].trim_ascii_start().len();

    let behind_bracket = past_space(0) + 1;
    let mut at = past_space(behind_bracket);
    let mut more = text.get(at) != Some(&b']');
    at += usize::from(!more);
    let broken = loop {
        at = past_space(at);
        if !more {
            if at == text.len() {
                return Flow::Continue(());
            }
            break "text after its end".to_owned();
        }
        let mut values = serde_json::Deserializer::from_slice(&text[at..]).into_iter::<&RawValue>();
        let raw = match values.next() {
            Some(Ok(raw)) => raw.get(),
            Some(Err(error)) => break without_place(&error),
            None => break "it has no end".to_owned(),
        };
        let item = match serde_json::from_str::<AuditEvent>(raw) {
            Ok(event) => Item::Event(Box::new(event)),
            Err(error) => Item::Malformed(Some(without_place(&error))),
        };
        if take_at(at, item, raw.as_bytes()).is_break() {
            return Flow::Break(());
        }
        at = past_space(at + raw.len());
        more = match text.get(at) {
            Some(b',') => true,
            Some(b']') => false,
            _ => break "expected `,` or `]`".to_owned(),
        };
        at += 1;
    };
    let why = format!("not a JSON array from here on: {broken}");
    take_at(at, Item::Malformed(Some(why)), &text[at..])
}

fn why(error: &serde_json::Error) -> String {
    let not_json = if error.is_data() { "" } else { "not JSON: " };
    format!("{not_json}{} (column {})", without_place(error), error.column())
}

/// The line is said already; serde_json counts lines within the text it was given.
fn without_place(error: &serde_json::Error) -> String {
    let mut text = error.to_string();
    text.truncate(text.rfind(" at line ").unwrap_or(text.len()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"time":"t","type_name":"n","uid":"u","action":"a","outcome":"permit"}"#;

    fn places(text: &str) -> Vec<String> {
        let mut places = Vec::new();
        let flow = read_from("f", text.as_bytes(), |place, item, _| {
            places.push(match item {
                Item::Event(event) => format!("{place}: {}", event.uid),
                Item::Malformed(why) => format!("{place}: {}", why.unwrap_or("…".into())),
            });
            Flow::Continue(())
        });
        assert!(flow.unwrap().is_continue());
        places
    }

    #[test]
    fn lines_keep_their_numbers_and_bad_ones_hinder_nothing() {
        let text = format!("\u{feff}{EVENT}\r\n\n{{\"x\":\n{EVENT}\nnull\n{EVENT}");
        let places = places(&text);
        assert_eq!(places.len(), 5, "{places:?}");
        assert_eq!([&places[0], &places[2], &places[4]], ["f:1: u", "f:4: u", "f:6: u"]);
        assert!(places[1].starts_with("f:3: not JSON: EOF while parsing"), "{}", places[1]);
        assert!(places[3].starts_with("f:5: invalid type: null, expected an audit event"), "{}", places[3]);
    }

    #[test]
    fn an_array_is_read_with_the_lines_of_its_elements() {
        let text = format!("\n [\n{EVENT},\n\n{{\"time\":1}}, {EVENT}\n]\n");
        let places = places(&text);
        assert_eq!([&places[0], &places[2]], ["f:3: u", "f:5: u"]);
        assert!(places[1].starts_with("f:5: invalid type: integer `1`, expected a string"), "{}", places[1]);
    }

    #[test]
    fn a_broken_array_is_read_up_to_where_it_breaks() {
        for (text, complaint) in [
            ("[EVENT,\n", "f:2: not a JSON array from here on: it has no end"),
            ("[EVENT,\n]", "f:2: not a JSON array from here on: expected value"),
            ("[EVENT\nEVENT]", "f:2: not a JSON array from here on: expected `,` or `]`"),
            ("[EVENT", "f:1: not a JSON array from here on: expected `,` or `]`"),
            ("[EVENT,{\n\"a\"", "f:1: not a JSON array from here on: EOF while parsing an object"),
            ("[EVENT]\n\n x", "f:3: not a JSON array from here on: text after its end"),
        ] {
            let places = places(&text.replace("EVENT", EVENT));
            assert_eq!(places, ["f:1: u", complaint], "{text}");
        }
        assert_eq!(places("[").len(), 1);
        assert_eq!(places(" [ ] \n").len(), 0);
    }

    #[test]
    fn what_is_rejected_is_kept_as_it_was_read() {
        let text = b"  \xff\0 {\r\n\n{\n".as_slice();
        let mut kept = Vec::new();
        let keep = |_: &Place<'_>, item, raw: &[u8]| {
            assert!(matches!(item, Item::Malformed(Some(_))));
            kept.push(raw.to_vec());
            Flow::Continue(())
        };
        assert!(read_from("f", text, keep).unwrap().is_continue());
        assert_eq!(kept, [b"  \xff\0 {\r".as_slice(), b"{"]);
    }

    #[test]
    fn pretty_printed_input_gets_a_hint() {
        let places = places("{\n  \"time\": 1\n}");
        assert!(places[0].ends_with("; an event is one line"), "{places:?}");
    }

    #[test]
    fn a_line_beyond_all_measure_is_passed_over_in_pieces() {
        let text = format!("{}\n{EVENT}\n", "x".repeat(MAX_LINE_BYTES * 2 + 10));
        let places = places(&text);
        assert_eq!(places.first().unwrap(), "f:1: …");
        assert!(places[places.len() - 2].starts_with("f:1: the line is longer than"), "{places:?}");
        assert_eq!(places.last().unwrap(), "f:2: u");
    }
}
