//! Audit events from files and standard input: JSON Lines, or one JSON array. What is no event is told with file and line, and
//! hinders nothing else.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

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
pub(crate) enum Item<'a> {
    Event(Box<AuditEvent>),
    /// No event: the text (in pieces when it is very long), and why, with the last piece.
    Malformed {
        text: &'a [u8],
        why: Option<String>,
    },
}

/// Whether to go on reading.
pub(crate) type Flow = std::ops::ControlFlow<()>;

/// Reads one source to its end; `-` is standard input.
///
/// # Errors
/// The source cannot be opened or read.
pub(crate) fn read(path: &Path, take: impl FnMut(&Place<'_>, Item<'_>, &[u8]) -> Flow) -> io::Result<Flow> {
    if path == Path::new("-") {
        return read_from("<stdin>", io::stdin().lock(), take);
    }
    // A larger buffer than the default: lines are mapped and handed over between reads.
    read_from(&path.display().to_string(), BufReader::with_capacity(256 << 10, File::open(path)?), take)
}

/// The sources that were named, or standard input.
pub(crate) fn sources(files: Vec<PathBuf>) -> Vec<PathBuf> {
    if files.is_empty() { vec![PathBuf::from("-")] } else { files }
}

fn read_from(
    file: &str,
    mut input: impl BufRead,
    mut take: impl FnMut(&Place<'_>, Item<'_>, &[u8]) -> Flow,
) -> io::Result<Flow> {
    skip_byte_order_mark(&mut input)?;
    let mut line = Vec::new();
    let mut number = 0;
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
        if number == 1 && text.starts_with(b"[") {
            let mut whole = std::mem::take(&mut line);
            input.read_to_end(&mut whole)?;
            return Ok(array(file, &whole, take));
        }
        let item = match serde_json::from_slice::<AuditEvent>(text) {
            Ok(event) => Item::Event(Box::new(event)),
            Err(error) => Item::Malformed { text, why: Some(why(&error)) },
        };
        if take(&place, item, text).is_break() {
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
    take: &mut impl FnMut(&Place<'_>, Item<'_>, &[u8]) -> Flow,
) -> io::Result<Flow> {
    loop {
        let ended = line.ends_with(b"\n");
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let why = ended.then(|| format!("the line is longer than {MAX_LINE_BYTES} bytes"));
        if take(place, Item::Malformed { text, why }, text).is_break() {
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

/// Reads a JSON array; the line of an element is where it begins.
fn array(file: &str, text: &[u8], mut take: impl FnMut(&Place<'_>, Item<'_>, &[u8]) -> Flow) -> Flow {
    let elements: Vec<&RawValue> = match serde_json::from_slice(text) {
        Ok(elements) => elements,
        Err(error) => {
            let place = Place { file, line: error.line() as u64 };
            return take(
                &place,
                Item::Malformed { text, why: Some(format!("not a JSON array: {}", why(&error))) },
                text,
            );
        }
    };
    let (mut line, mut counted) = (1, 0);
    for element in elements {
        let at = element.get().as_ptr() as usize - text.as_ptr() as usize;
        line += text[counted..at].iter().filter(|byte| **byte == b'\n').count() as u64;
        counted = at;
        let raw = element.get().as_bytes();
        let item = match serde_json::from_slice::<AuditEvent>(raw) {
            Ok(event) => Item::Event(Box::new(event)),
            Err(error) => Item::Malformed { text: raw, why: Some(why(&error)) },
        };
        if take(&Place { file, line }, item, raw).is_break() {
            return Flow::Break(());
        }
    }
    Flow::Continue(())
}

/// serde_json counts lines within the text it was given; the place says the line already.
fn why(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) => format!("{} (column {})", &text[..at], error.column()),
        None => text,
    }
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
                Item::Malformed { why, .. } => format!("{place}: {}", why.unwrap_or("…".into())),
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
        assert!(places[1].starts_with("f:3: EOF while parsing"), "{}", places[1]);
        assert!(places[3].starts_with("f:5: invalid type: null, expected an audit event"), "{}", places[3]);
    }

    #[test]
    fn an_array_is_read_with_the_lines_of_its_elements() {
        let text = format!(" [\n{EVENT},\n\n{{\"time\":1}}, {EVENT}\n]\n");
        let places = places(&text);
        assert_eq!([&places[0], &places[2]], ["f:2: u", "f:4: u"]);
        assert!(places[1].starts_with("f:4: invalid type: integer `1`, expected a string"), "{}", places[1]);
    }

    #[test]
    fn a_broken_array_is_one_complaint() {
        let places = places(&format!("[{EVENT},"));
        assert_eq!(places.len(), 1);
        assert!(places[0].starts_with("f:1: not a JSON array"), "{places:?}");
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
