//! JSON documents from files and standard input: JSON Lines, one array, or objects over several lines. A malformed one has its place
//! and hinders no other.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

/// Longest line in bytes: an event is 1 MiB at most by default, and what is longer by far is not worth the memory.
const LONGEST_LINE: usize = 16 << 20;

/// One document and where it stands.
#[derive(Debug)]
pub(crate) struct Document<'a> {
    pub(crate) file: &'a str,
    /// The line on which it begins.
    pub(crate) line: u64,
    /// Its text, or why there is none.
    pub(crate) text: Result<&'a str, String>,
    /// The bytes that were read for it, without the end of the line.
    pub(crate) raw: &'a [u8],
    /// Where it ends.
    pub(crate) end: Mark,
    /// It is a piece of a line that is too long to be held; the last piece says so.
    pub(crate) goes_on: bool,
    /// The file ends in the middle of this line: whoever writes it may not be done.
    pub(crate) unfinished: bool,
    /// The next one has not been read yet: a good moment to let go of what is held.
    pub(crate) last_for_now: bool,
}

/// How far a file has been read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Bytes.
    pub(crate) offset: u64,
    /// Lines that end there or before.
    pub(crate) lines: u64,
    /// It lies within an array, which can only be read from its beginning.
    pub(crate) in_array: bool,
}

/// `FILE:LINE`
impl fmt::Display for Document<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Whether to go on, or the taker's error.
pub(crate) type Flow<E = io::Error> = Result<ControlFlow<()>, E>;

/// Reads the files one after another, or standard input when there are none; `-` is standard input too. Of a line that is too
/// long only its last piece is given.
///
/// # Errors
/// A file cannot be opened or read, or `take` fails. The error names the file when it is the file's.
pub(crate) fn read_all(files: &[PathBuf], mut take: impl FnMut(&Document<'_>) -> Flow) -> Flow {
    let standard_input = [PathBuf::from("-")];
    for path in if files.is_empty() { &standard_input } else { files } {
        let mut whole = |document: &Document<'_>| match document.goes_on {
            true => Ok(ControlFlow::Continue(())),
            false => take(document),
        };
        if Source::open(path)?.read(Mark::default(), &mut whole)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Whether a path means standard input.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// An open file, or standard input.
pub(crate) struct Source {
    pub(crate) name: String,
    /// `None`: standard input.
    pub(crate) file: Option<File>,
}

impl Source {
    /// Opens it; `-` is standard input.
    ///
    /// # Errors
    /// It cannot be opened. The error names it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if is_stdin(path) {
            return Ok(Self { name: "<stdin>".to_owned(), file: None });
        }
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| named(&name, &error))?;
        Ok(Self { name, file: Some(file) })
    }

    /// Reads on from a place where it has been read to before.
    ///
    /// # Errors
    /// It cannot be read (the error names it), or `take` fails.
    pub(crate) fn read<E: From<io::Error>>(
        self,
        from: Mark,
        take: &mut impl FnMut(&Document<'_>) -> Flow<E>,
    ) -> Flow<E> {
        let at = if from.in_array { Mark::default() } else { from };
        let may_wait = match &self.file {
            None => true,
            Some(file) => !file.metadata().map_err(|error| named(&self.name, &error))?.is_file(),
        };
        let input: Box<dyn Read> = match self.file {
            None => Box::new(io::stdin().lock()),
            Some(mut file) => {
                if at.offset > 0 {
                    file.seek(SeekFrom::Start(at.offset)).map_err(|error| named(&self.name, &error))?;
                }
                Box::new(file)
            }
        };
        // A larger buffer than the default: what is read is handed over between reads.
        let input = BufReader::with_capacity(256 << 10, input);
        Reader { file: &self.name, input, may_wait, at }.read(from, take)
    }
}

fn named(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot read {name}: {error}"))
}

struct Reader<'a, R> {
    file: &'a str,
    input: BufReader<R>,
    /// More may come later: it is no regular file.
    may_wait: bool,
    at: Mark,
}

impl<R: Read> Reader<'_, R> {
    fn read<E: From<io::Error>>(mut self, from: Mark, take: &mut impl FnMut(&Document<'_>) -> Flow<E>) -> Flow<E> {
        if self.at.offset == 0 && self.fill()?.starts_with(b"\xef\xbb\xbf") {
            self.input.consume(3);
            self.at.offset += 3;
        }
        let mut line = Vec::new();
        let mut is_first = self.at.offset <= 3;
        loop {
            line.clear();
            let start = self.at;
            if self.line(&mut line)? == 0 {
                return Ok(ControlFlow::Continue(()));
            }
            let text = line.trim_ascii();
            if text.is_empty() {
                continue;
            }
            // An array is only recognized where nothing came before it.
            let flow = if std::mem::take(&mut is_first) && text.starts_with(b"[") {
                self.input.read_to_end(&mut line).map_err(|error| named(self.file, &error))?;
                return self.array(&line, start, from, take);
            } else if line.len() > LONGEST_LINE {
                self.pass_long_line(start, &mut line, take)?
            } else if opens_object(text) {
                self.object(start, &mut line, take)?
            } else {
                self.take_one(start, &line, self.at, self.is_drained(), take)?
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
    }

    fn fill(&mut self) -> io::Result<&[u8]> {
        let file = self.file;
        self.input.fill_buf().map_err(|error| named(file, &error))
    }

    /// Appends a line, or as much of it as may be held.
    fn line(&mut self, line: &mut Vec<u8>) -> io::Result<usize> {
        let read = self.input.by_ref().take(LONGEST_LINE as u64 + 1).read_until(b'\n', line);
        let read = read.map_err(|error| named(self.file, &error))?;
        self.at.offset += read as u64;
        self.at.lines += u64::from(read > 0 && line.ends_with(b"\n"));
        Ok(read)
    }

    /// Whether a reader would have to wait for the next line.
    fn is_drained(&self) -> bool {
        self.may_wait && !self.input.buffer().contains(&b'\n')
    }

    /// A line, or what was read as one document over several.
    fn take_one<E>(
        &self,
        start: Mark,
        line: &[u8],
        end: Mark,
        last_for_now: bool,
        take: &mut impl FnMut(&Document<'_>) -> Flow<E>,
    ) -> Flow<E> {
        let text = std::str::from_utf8(line.trim_ascii());
        take(&Document {
            file: self.file,
            line: start.lines + 1,
            text: text.map_err(|error| format!("not JSON: not UTF-8 from byte {} on", error.valid_up_to())),
            raw: line.strip_suffix(b"\n").unwrap_or(line),
            end,
            goes_on: false,
            unfinished: !end.in_array && !line.ends_with(b"\n"),
            last_for_now,
        })
    }

    /// Hands a line that is too long on in pieces.
    fn pass_long_line<E: From<io::Error>>(
        &mut self,
        start: Mark,
        line: &mut Vec<u8>,
        take: &mut impl FnMut(&Document<'_>) -> Flow<E>,
    ) -> Flow<E> {
        loop {
            let goes_on = !line.ends_with(b"\n") && !self.fill()?.is_empty();
            let piece = Document {
                file: self.file,
                line: start.lines + 1,
                text: Err(format!("the line is longer than {LONGEST_LINE} bytes")),
                raw: line.strip_suffix(b"\n").unwrap_or(line),
                end: self.at,
                goes_on,
                unfinished: false,
                last_for_now: self.is_drained(),
            };
            let flow = take(&piece)?;
            if flow.is_break() || !goes_on {
                return Ok(flow);
            }
            line.clear();
            self.line(line)?;
        }
    }

    /// Reads on to the end of the object that a line has begun. If there is none, each line is a document of its own after all.
    fn object<E: From<io::Error>>(
        &mut self,
        start: Mark,
        text: &mut Vec<u8>,
        take: &mut impl FnMut(&Document<'_>) -> Flow<E>,
    ) -> Flow<E> {
        // What is printed over several lines is indented: a brace where a line begins is the object's end, or another document.
        while text.len() <= LONGEST_LINE {
            match self.fill()?.first() {
                None | Some(b'{') => break,
                Some(b'}') => {
                    self.line(text)?;
                    if serde_json::from_slice::<IgnoredAny>(text).is_ok() {
                        return self.take_one(start, text, self.at, self.is_drained(), take);
                    }
                    break;
                }
                Some(_) => _ = self.line(text)?,
            }
        }
        let (mut at, drained) = (start, self.is_drained());
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let start = at;
            at.offset += line.len() as u64;
            at.lines += u64::from(line.ends_with(b"\n"));
            if line.trim_ascii().is_empty() {
                continue;
            }
            let flow = self.take_one(start, line, at, drained && at == self.at, take)?;
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// What begins with a bracket: an array, as far as it is one. If it is none, each line is a document after all.
    fn array<E: From<io::Error>>(
        &self,
        text: &[u8],
        start: Mark,
        from: Mark,
        take: &mut impl FnMut(&Document<'_>) -> Flow<E>,
    ) -> Flow<E> {
        let place = |piece: &[u8]| piece.as_ptr() as usize - text.as_ptr() as usize;
        let array = elements(text.trim_ascii()).filter(Elements::is_array);
        let is_array = array.is_some();
        let (pieces, broken) = match array {
            Some(array) => (array.complete, array.broken),
            None => (text.split_inclusive(|byte| *byte == b'\n').collect(), None),
        };
        let pieces: Vec<_> = pieces.into_iter().filter(|piece| is_array || !piece.trim_ascii().is_empty()).collect();
        let mut end = Mark { in_array: is_array, ..start };
        let mut counted = 0;
        let mut count_to = |end: &mut Mark, at: usize| {
            end.lines += text[counted..at].iter().filter(|byte| **byte == b'\n').count() as u64;
            (counted, end.offset) = (at, start.offset + at as u64);
        };
        let last = pieces.len().saturating_sub(1);
        for (index, piece) in pieces.into_iter().enumerate() {
            count_to(&mut end, place(piece));
            let begin = end;
            count_to(&mut end, place(piece) + piece.len());
            if is_array && from.in_array && end.offset <= from.offset {
                continue;
            }
            let flow = self.take_one(begin, piece, end, index == last && broken.is_none(), take)?;
            if flow.is_break() {
                return Ok(flow);
            }
        }
        let Some((rest, why)) = broken else { return Ok(ControlFlow::Continue(())) };
        count_to(&mut end, place(rest));
        let begin = end;
        count_to(&mut end, text.len());
        if from.in_array && end.offset <= from.offset {
            return Ok(ControlFlow::Continue(()));
        }
        take(&Document {
            file: self.file,
            line: begin.lines + 1,
            text: Err(format!("not a JSON array from here on: {why}")),
            raw: &text[place(rest)..],
            end,
            goes_on: false,
            unfinished: true,
            last_for_now: true,
        })
    }
}

/// Whether a line begins an object that goes on in the next.
fn opens_object(line: &[u8]) -> bool {
    // Most lines end with a brace, and need no second look.
    line.starts_with(b"{")
        && !line.ends_with(b"}")
        && serde_json::from_slice::<IgnoredAny>(line).is_err_and(|error| error.is_eof())
}

/// The elements of an array, found by brackets and commas alone, so that one malformed element is one complaint.
struct Elements<'t> {
    complete: Vec<&'t [u8]>,
    /// Where the text stops being an array, and why.
    broken: Option<(&'t [u8], &'static str)>,
}

impl Elements<'_> {
    /// One that is broken is an array all the same if it has begun as one of objects.
    fn is_array(&self) -> bool {
        let is_object = |text: &&[u8]| text.starts_with(b"{") && serde_json::from_slice::<IgnoredAny>(text).is_ok();
        self.broken.is_none() || self.complete.first().is_some_and(is_object)
    }
}

/// `None` when the text does not begin with a bracket.
fn elements(text: &[u8]) -> Option<Elements<'_>> {
    let inside = text.strip_prefix(b"[")?;
    let mut complete = Vec::new();
    let (mut depth, mut in_string, mut escaped, mut start) = (0_usize, false, false, 0);
    let mut end = None;
    for (at, byte) in inside.iter().enumerate() {
        if in_string {
            in_string = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' if depth > 0 => depth -= 1,
            b']' | b'}' => {
                end = Some((at, *byte));
                break;
            }
            b',' if depth == 0 => {
                complete.push(inside[start..at].trim_ascii());
                start = at + 1;
            }
            _ => {}
        }
    }
    let last = inside[start..end.map_or(inside.len(), |(at, _)| at)].trim_ascii();
    let broken = match end {
        Some((at, b']')) => {
            if !complete.is_empty() || !last.is_empty() {
                complete.push(last);
            }
            let rest = inside[at + 1..].trim_ascii();
            (!rest.is_empty()).then_some((rest, "text after its end"))
        }
        Some(_) => Some((last, "a brace too many")),
        // The last element may be complete, and only the bracket missing.
        None if !last.is_empty() && serde_json::from_slice::<IgnoredAny>(last).is_ok() => {
            complete.push(last);
            Some((&inside[inside.len()..], "it has no end"))
        }
        None => Some((last, "it has no end")),
    };
    Some(Elements { complete, broken })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(text: &[u8]) -> Reader<'_, &[u8]> {
        Reader { file: "f", input: BufReader::new(text), may_wait: true, at: Mark::default() }
    }

    fn documents(text: &[u8]) -> Vec<String> {
        let mut seen = Vec::new();
        let flow = reader(text).read::<io::Error>(Mark::default(), &mut |document| {
            seen.push(match &document.text {
                _ if document.goes_on => format!("{document} …"),
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
        assert_eq!(documents(b"{}\n\xff\n{}"), ["f:1 {}", "f:2 ! not JSON: not UTF-8 from byte 0 on", "f:3 {}"]);
        assert!(documents(b"").is_empty());
    }

    #[test]
    fn where_nothing_is_waited_for_nothing_is_let_go_of() {
        for may_wait in [true, false] {
            let reader = Reader { may_wait, ..reader(b"{}\n{}\n") };
            let mut last_for_now = Vec::new();
            let flow = reader.read::<io::Error>(Mark::default(), &mut |document| {
                last_for_now.push(document.last_for_now);
                Ok(ControlFlow::Continue(()))
            });
            assert!(flow.unwrap().is_continue());
            assert_eq!(last_for_now, [false, may_wait]);
        }
    }

    #[test]
    fn an_array_or_an_object_may_span_lines() {
        assert_eq!(documents(b"\n [{\"a\":\n\"],\"},\n\n x, {}\n]\n"), ["f:2 {\"a\":\n\"],\"}", "f:5 x", "f:5 {}"]);
        assert_eq!(documents(b"{\n\"a\":1\n}\n"), ["f:1 {\n\"a\":1\n}"]);
        assert_eq!(documents(b"{}\n{\n \"a\": {\n }\n}\n{\n}\n"), ["f:1 {}", "f:2 {\n \"a\": {\n }\n}", "f:6 {\n}"]);
        assert!(documents(b" [ ] \n").is_empty());
        assert_eq!(documents(b"[,]").len(), 2, "two empty elements, and neither is JSON");
    }

    #[test]
    fn a_line_that_is_cut_off_does_not_spoil_the_others() {
        assert_eq!(documents(b"{\"a\":\n{}\n\n{}\n"), ["f:1 {\"a\":", "f:2 {}", "f:4 {}"]);
        assert_eq!(documents(b"{}\n{\"a\":\n\n x\n{}"), ["f:1 {}", "f:2 {\"a\":", "f:4 x", "f:5 {}"]);
        assert_eq!(documents(b"[1\n{}\n"), ["f:1 [1", "f:2 {}"]);
        assert_eq!(documents(b"["), ["f:1 ["]);
    }

    #[test]
    fn an_array_is_read_up_to_where_it_breaks() {
        for (text, complaint) in [
            ("[{},\n", "f:1 ! not a JSON array from here on: it has no end"),
            ("[{}", "f:1 ! not a JSON array from here on: it has no end"),
            ("[{},{\n\"a\"", "f:1 ! not a JSON array from here on: it has no end"),
            ("[{}]\n\n x", "f:3 ! not a JSON array from here on: text after its end"),
            ("[{},\n1}", "f:2 ! not a JSON array from here on: a brace too many"),
        ] {
            assert_eq!(documents(text.as_bytes()), ["f:1 {}", complaint], "{text}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_one_complaint_and_given_in_pieces() {
        let mut text = vec![b'x'; LONGEST_LINE * 2 + 10];
        text.extend_from_slice(b"\n{}\n");
        let documents = documents(&text);
        assert_eq!(documents[..2], ["f:1 …", "f:1 …"]);
        assert!(documents[2].starts_with("f:1 ! the line is longer than"));
        assert_eq!(documents[3..], ["f:2 {}"]);
    }

    #[test]
    fn what_was_read_is_there_byte_for_byte() {
        let mut raw = Vec::new();
        let _ = reader(b"  \xff\0 {\r\n\n[ x\n{\n 1\n").read::<io::Error>(Mark::default(), &mut |document| {
            raw.push(document.raw.to_vec());
            Ok(ControlFlow::Continue(()))
        });
        assert_eq!(raw, [b"  \xff\0 {\r".as_slice(), b"[ x", b"{", b" 1"]);
    }

    #[test]
    fn reading_goes_on_behind_every_document() {
        for text in ["{}\n\n{\n \"a\":1\n}\n x\n{\"b\":\n{}\n{}", "\u{feff}[{},\n 1 , {\"a\":\n2}\n]\n", "[{},\n1,"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("f");
            std::fs::write(&path, text).unwrap();
            let read = |from: Mark| {
                let mut seen = Vec::new();
                let flow = Source::open(&path).unwrap().read::<io::Error>(from, &mut |document| {
                    seen.push((document.end, document.line, format!("{:?}", document.text)));
                    Ok(ControlFlow::Continue(()))
                });
                flow.map(|_| seen).unwrap()
            };
            let all = read(Mark::default());
            assert!(all.len() > 2);
            for (index, document) in all.iter().enumerate() {
                assert_eq!(read(document.0), all[index + 1..], "{text:?} {document:?}");
            }
        }
    }
}
