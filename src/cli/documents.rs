//! JSON documents from files and standard input: JSON Lines, one array, or one object over several lines. A malformed one has its
//! place and hinders no other.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Longest line in bytes. What is longer is passed over without being kept.
const LONGEST_LINE: u64 = 16 << 20;

/// One document and where it stands.
#[derive(Debug)]
pub(crate) struct Document<'a> {
    pub(crate) file: &'a str,
    /// The line on which it begins.
    pub(crate) line: u64,
    /// Its text, or why there is none.
    pub(crate) text: Result<&'a str, String>,
    /// Nothing more has been read yet: a good moment to let go of what is written.
    pub(crate) last_for_now: bool,
}

/// `FILE:LINE`
impl fmt::Display for Document<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Whether to go on.
pub(crate) type Flow = io::Result<ControlFlow<()>>;

/// Reads the files one after another, or standard input when there are none; `-` is standard input too.
///
/// # Errors
/// A file cannot be opened or read, or `take` fails. The error names the file when it is the file's.
pub(crate) fn read_all(files: &[PathBuf], mut take: impl FnMut(&Document<'_>) -> Flow) -> Flow {
    let standard_input = [PathBuf::from("-")];
    for path in if files.is_empty() { &standard_input } else { files } {
        let name = if path == Path::new("-") { "<stdin>".to_owned() } else { path.display().to_string() };
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
        let input: Box<dyn Read> = if path == Path::new("-") {
            Box::new(io::stdin().lock())
        } else {
            Box::new(File::open(path).map_err(named)?)
        };
        let reader = Reader { file: &name, input: BufReader::with_capacity(256 << 10, input) };
        if reader.read(&mut take)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

struct Reader<'a, R> {
    file: &'a str,
    input: BufReader<R>,
}

impl<R: Read> Reader<'_, R> {
    fn read(mut self, take: &mut impl FnMut(&Document<'_>) -> Flow) -> Flow {
        if self.fill()?.starts_with(b"\xef\xbb\xbf") {
            self.input.consume(3);
        }
        let mut line = Vec::new();
        let (mut number, mut is_first) = (0, true);
        loop {
            line.clear();
            number += 1;
            if self.line(&mut line)? == 0 {
                return Ok(ControlFlow::Continue(()));
            }
            let text = line.trim_ascii();
            if text.is_empty() {
                continue;
            }
            // What spans lines is only recognized where nothing came before it.
            if std::mem::take(&mut is_first) && (text.starts_with(b"[") || is_cut_off(text)) {
                let mut whole = std::mem::take(&mut line);
                self.input.read_to_end(&mut whole).map_err(|error| self.named(&error))?;
                return self.whole(&whole, number, take);
            }
            if self.take_one(text, number, take)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    fn named(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.file))
    }

    fn fill(&mut self) -> io::Result<&[u8]> {
        let file = self.file;
        self.input.fill_buf().map_err(|error| io::Error::new(error.kind(), format!("{file}: {error}")))
    }

    /// Reads a line. Of one that is too long, only as much is kept as shows that it is.
    fn line(&mut self, line: &mut Vec<u8>) -> io::Result<usize> {
        let read = self.input.by_ref().take(LONGEST_LINE + 1).read_until(b'\n', line);
        let read = read.map_err(|error| self.named(&error))?;
        while line.len() as u64 > LONGEST_LINE && !line.ends_with(b"\n") {
            let (skipped, ended) = {
                let rest = self.fill()?;
                let end = rest.iter().position(|byte| *byte == b'\n');
                (end.map_or(rest.len(), |end| end + 1), end.is_some() || rest.is_empty())
            };
            self.input.consume(skipped);
            if ended {
                break;
            }
        }
        Ok(read)
    }

    fn take_one(&self, text: &[u8], line: u64, take: &mut impl FnMut(&Document<'_>) -> Flow) -> Flow {
        let text = if text.len() as u64 > LONGEST_LINE {
            Err(format!("the line is longer than {LONGEST_LINE} bytes"))
        } else {
            std::str::from_utf8(text).map_err(|error| format!("not UTF-8 from byte {} on", error.valid_up_to()))
        };
        take(&Document { file: self.file, line, text, last_for_now: self.input.buffer().is_empty() })
    }

    /// One object or array over several lines. If it is neither, each line is a document after all.
    fn whole(&self, text: &[u8], first_line: u64, take: &mut impl FnMut(&Document<'_>) -> Flow) -> Flow {
        let count = |text: &[u8]| text.iter().filter(|byte| **byte == b'\n').count() as u64;
        let trimmed = text.trim_ascii();
        let start = trimmed.as_ptr() as usize - text.as_ptr() as usize;
        let documents: Vec<(usize, &[u8])> = if let Some(elements) = elements(trimmed) {
            elements.into_iter().map(|(at, element)| (start + at, element)).collect()
        } else if serde_json::from_slice::<serde::de::IgnoredAny>(trimmed).is_ok() {
            vec![(start, trimmed)]
        } else {
            let lines = text.split_inclusive(|byte| *byte == b'\n').scan(0, |at, line| {
                *at += line.len();
                Some((*at - line.len(), line.trim_ascii()))
            });
            lines.filter(|(_, line)| !line.is_empty()).collect()
        };
        let (mut line, mut counted) = (first_line, 0);
        for (at, document) in documents {
            line += count(&text[counted..at]);
            counted = at;
            if self.take_one(document, line, take)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Whether a line is the beginning of a JSON object that goes on.
fn is_cut_off(line: &[u8]) -> bool {
    line.starts_with(b"{") && serde_json::from_slice::<serde::de::IgnoredAny>(line).is_err_and(|error| error.is_eof())
}

/// The elements of an array with their places, found by brackets and commas alone, so that one malformed element is one complaint.
/// `None` when the text is no array from end to end.
fn elements<'t>(text: &'t [u8]) -> Option<Vec<(usize, &'t [u8])>> {
    let inside = text.strip_prefix(b"[")?.strip_suffix(b"]")?;
    let mut elements = Vec::new();
    let (mut depth, mut in_string, mut escaped, mut start) = (0_usize, false, false, 0);
    for (at, byte) in inside.iter().enumerate() {
        if in_string {
            in_string = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.checked_sub(1)?,
            b',' if depth == 0 => {
                elements.push((start, &inside[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    if depth != 0 || in_string {
        return None;
    }
    let last = &inside[start..];
    if !elements.is_empty() || !last.trim_ascii().is_empty() {
        elements.push((start, last));
    }
    let trimmed = |(at, element): (usize, &'t [u8])| {
        let space = element.len() - element.trim_ascii_start().len();
        (1 + at + space, element.trim_ascii())
    };
    Some(elements.into_iter().map(trimmed).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(text: &[u8]) -> Vec<String> {
        let mut seen = Vec::new();
        let reader = Reader { file: "f", input: BufReader::new(text) };
        let flow = reader.read(&mut |document| {
            seen.push(match &document.text {
                Ok(text) => format!("{document} {text}"),
                Err(why) => format!("{document} ! {why}"),
            });
            Ok(ControlFlow::Continue(()))
        });
        assert!(flow.unwrap().is_continue());
        seen
    }

    #[test]
    fn lines_are_documents() {
        assert_eq!(documents("\u{feff}\n{}\r\n\n x\n{}".as_bytes()), ["f:2 {}", "f:4 x", "f:5 {}"]);
        assert_eq!(documents(b"{}\n\xff\n{}"), ["f:1 {}", "f:2 ! not UTF-8 from byte 0 on", "f:3 {}"]);
        assert!(documents(b"").is_empty());
    }

    #[test]
    fn an_array_or_an_object_may_span_lines() {
        assert_eq!(documents(b"\n [{\"a\":\n\"],\"},\n\n x, {}\n]\n"), ["f:2 {\"a\":\n\"],\"}", "f:5 x", "f:5 {}"]);
        assert_eq!(documents(b"{\n\"a\":1\n}\n"), ["f:1 {\n\"a\":1\n}"]);
        assert!(documents(b"[]").is_empty());
        assert_eq!(documents(b"[,]").len(), 2, "two empty elements, and neither is JSON");
    }

    #[test]
    fn a_first_line_that_is_cut_off_does_not_spoil_the_others() {
        assert_eq!(documents(b"{\"a\":\n{}\n\n{}\n"), ["f:1 {\"a\":", "f:2 {}", "f:4 {}"]);
        assert_eq!(documents(b"[1\n{}\n"), ["f:1 [1", "f:2 {}"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_one_complaint() {
        let mut text = vec![b'x'; LONGEST_LINE as usize * 2];
        text.extend_from_slice(b"\n{}\n");
        let documents = documents(&text);
        assert_eq!(documents.len(), 2);
        assert!(documents[0].starts_with("f:1 ! the line is longer than"));
        assert_eq!(documents[1], "f:2 {}");
    }
}
