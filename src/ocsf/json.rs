//! JSON text written straight into a byte buffer, without a tree and without recursion.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::{Map, Value};
use smallvec::SmallVec;

/// Deepest nesting of a value of the event's own.
///
/// A protobuf reader gives up at 100 nested messages, and a JSON object inside an OTel value costs three. Deeper values
/// travel as text.
pub(super) const DEEPEST: usize = 16;

/// Appends JSON to a buffer and sets the commas.
pub(super) struct Json<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Json<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    #[inline(always)]
    pub(super) fn raw(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    /// Where the text ends now, for [`undo`](Self::undo).
    pub(super) fn mark(&self) -> usize {
        self.out.len()
    }

    /// Appends what stands between two marks once more.
    pub(super) fn again(&mut self, range: Range<usize>) {
        self.out.extend_from_within(range);
    }

    /// Takes back everything since the mark.
    pub(super) fn undo(&mut self, mark: usize) {
        self.out.truncate(mark);
    }

    /// A comma, unless the object or array has just begun. No value of ours ends in an opening bracket.
    #[inline(always)]
    pub(super) fn comma(&mut self) {
        if !matches!(self.out.last(), Some(b'{' | b'[')) {
            self.out.push(b',');
        }
    }

    /// The name of a member; one of ours, so it needs no escapes.
    // Inlined, so that a name that is known there is a store or two: there are some sixty in an event.
    #[inline(always)]
    pub(super) fn name(&mut self, name: &'static str) {
        self.comma();
        self.out.push(b'"');
        self.raw(name);
        self.raw("\":");
    }

    /// Members that have been written before, with a comma in front.
    pub(super) fn members(&mut self, members: &[u8]) {
        self.out.extend_from_slice(members);
    }

    /// A member that is text.
    #[inline(always)]
    pub(super) fn str(&mut self, name: &'static str, text: &str) {
        self.name(name);
        string(self.out, text);
    }

    /// A member that is text of ours, which needs no escapes.
    #[inline(always)]
    pub(super) fn word(&mut self, name: &'static str, text: &'static str) {
        self.name(name);
        self.out.push(b'"');
        self.raw(text);
        self.out.push(b'"');
    }

    /// A member that is an integer.
    #[inline(always)]
    pub(super) fn int(&mut self, name: &'static str, number: i64) {
        self.name(name);
        if number < 0 {
            self.out.push(b'-');
        }
        self.digits(number.unsigned_abs());
    }

    /// A member that is an integer without a sign.
    #[inline(always)]
    pub(super) fn uint(&mut self, name: &'static str, number: u64) {
        self.name(name);
        self.digits(number);
    }

    /// A member that is an integer, written as text.
    #[inline(always)]
    pub(super) fn int_text(&mut self, name: &'static str, number: u64) {
        self.name(name);
        self.out.push(b'"');
        self.digits(number);
        self.out.push(b'"');
    }

    pub(super) fn digits(&mut self, number: u64) {
        self.raw(itoa::Buffer::new().format(number));
    }

    /// A member that is an object.
    #[inline(always)]
    pub(super) fn object(&mut self, name: &'static str) {
        self.name(name);
        self.out.push(b'{');
    }

    /// A member that is an array.
    #[inline(always)]
    pub(super) fn array(&mut self, name: &'static str) {
        self.name(name);
        self.out.push(b'[');
    }

    pub(super) fn text(&mut self, text: &str) {
        self.comma();
        string(self.out, text);
    }

    /// A string, where the comma or name has been written.
    pub(super) fn string(&mut self, text: &str) {
        string(self.out, text);
    }

    /// Part of a string that has been begun by hand: one line, at most `most` bytes.
    pub(super) fn display(&mut self, text: &str, most: usize) {
        if text.len() <= most && is_plain(text.as_bytes()) {
            return self.raw(text);
        }
        let cut = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        for c in text[..cut].chars() {
            match c {
                '"' => self.raw("\\\""),
                '\\' => self.raw("\\\\"),
                ' '..='~' => self.out.push(c as u8),
                // What could start a line or turn the reading direction would let an event forge its neighbours.
                '\u{0}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    self.out.push(b' ');
                }
                _ => self.raw(c.encode_utf8(&mut [0; 4])),
            }
        }
        if cut < text.len() {
            self.raw("…");
        }
    }

    /// Appends a value. Gives up, leaving what it wrote, where the value is nested deeper than `deepest`.
    fn value(&mut self, value: &Value, deepest: usize) -> bool {
        let mut open: Vec<Frame<'_>> = Vec::new();
        let mut next = Some(value);
        loop {
            if let Some(value) = next.take() {
                match value {
                    Value::Array(_) | Value::Object(_) if open.len() == deepest => return false,
                    Value::Array(items) => {
                        self.out.push(b'[');
                        open.push(Frame::Array(items.iter()));
                    }
                    Value::Object(members) => {
                        self.out.push(b'{');
                        open.push(Frame::Object(members.iter()));
                    }
                    scalar => self.scalar(scalar),
                }
            }
            match open.last_mut() {
                None => return true,
                Some(Frame::Array(items)) => match items.next() {
                    Some(item) => {
                        self.comma();
                        next = Some(item);
                    }
                    None => {
                        self.out.push(b']');
                        open.pop();
                    }
                },
                Some(Frame::Object(members)) => match members.next() {
                    Some((name, member)) => {
                        self.comma();
                        string(self.out, name);
                        self.out.push(b':');
                        next = Some(member);
                    }
                    None => {
                        self.out.push(b'}');
                        open.pop();
                    }
                },
            }
        }
    }

    fn scalar(&mut self, value: &Value) {
        match value {
            Value::Null => self.raw("null"),
            Value::Bool(true) => self.raw("true"),
            Value::Bool(false) => self.raw("false"),
            Value::String(text) => string(self.out, text),
            Value::Number(number) => match number.as_u64() {
                Some(number) => self.digits(number),
                None => {
                    use std::io::Write;
                    let _ = write!(self.out, "{number}");
                }
            },
            Value::Array(_) | Value::Object(_) => {}
        }
    }

    /// A member with a name and value of the event's own. Writes nothing and says `false` where the value is too deep.
    pub(super) fn own(&mut self, name: &str, value: &Value) -> bool {
        let mark = self.mark();
        self.comma();
        string(self.out, name);
        self.out.push(b':');
        let fits = self.value(value, DEEPEST);
        if !fits {
            self.undo(mark);
        }
        fits
    }

    /// Like [`own`](Self::own), but as the text of the JSON, whatever its depth. Writes nothing where the value is not too deep.
    pub(super) fn own_as_text(&mut self, name: &str, value: &Value) {
        let mut text = Vec::new();
        if Json::new(&mut text).value(value, DEEPEST) {
            return;
        }
        text.clear();
        Json::new(&mut text).value(value, usize::MAX);
        self.comma();
        string(self.out, name);
        self.out.push(b':');
        string(self.out, &String::from_utf8_lossy(&text));
    }

    /// A member that is a map of the event's own, its names in order: a `HashMap` has none, and the text must be the same each time.
    pub(super) fn map(&mut self, name: &'static str, map: &HashMap<String, Value>) -> bool {
        let mark = self.mark();
        self.name(name);
        let fits = self.map_value(map, DEEPEST);
        if !fits {
            self.undo(mark);
        }
        fits
    }

    /// Like [`own_as_text`](Self::own_as_text), for a map.
    pub(super) fn map_as_text(&mut self, name: &'static str, map: &HashMap<String, Value>) {
        let mut text = Vec::new();
        if Json::new(&mut text).map_value(map, DEEPEST) {
            return;
        }
        text.clear();
        Json::new(&mut text).map_value(map, usize::MAX);
        self.name(name);
        string(self.out, &String::from_utf8_lossy(&text));
    }

    fn map_value(&mut self, map: &HashMap<String, Value>, deepest: usize) -> bool {
        let mut members: SmallVec<[(&String, &Value); 16]> = map.iter().collect();
        members.sort_unstable_by_key(|(name, _)| *name);
        self.out.push(b'{');
        for (name, value) in members {
            self.comma();
            string(self.out, name);
            self.out.push(b':');
            if !self.value(value, deepest - 1) {
                return false;
            }
        }
        self.out.push(b'}');
        true
    }

    pub(super) fn end_object(&mut self) {
        self.out.push(b'}');
    }

    pub(super) fn end_array(&mut self) {
        self.out.push(b']');
    }
}

enum Frame<'a> {
    Array(std::slice::Iter<'a, Value>),
    Object(<&'a Map<String, Value> as IntoIterator>::IntoIter),
}

/// Appends a string with quotes and the escapes that JSON demands.
///
/// U+0085, U+2028 and U+2029 are escaped too: JSON does not demand it, but readers of lines take them for line ends.
fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    if is_plain(text.as_bytes()) {
        out.extend_from_slice(text.as_bytes());
    } else {
        escape(out, text.as_bytes());
    }
    out.push(b'"');
}

/// Whether there are only printable ASCII characters, and none that JSON escapes. Eight bytes at a time: nearly every text is so.
fn is_plain(text: &[u8]) -> bool {
    const ONES: u64 = u64::MAX / 255;
    // The highest bit of a byte is set where the byte is none of those. A borrow or carry comes only from a byte that is none.
    let odd = |bytes: [u8; 8]| {
        let word = u64::from_le_bytes(bytes);
        let all = |byte: u8| ONES * u64::from(byte);
        let below_space = word.wrapping_sub(all(b' '));
        let quote = (word ^ all(b'"')).wrapping_sub(ONES);
        let backslash = (word ^ all(b'\\')).wrapping_sub(ONES);
        let delete = word.wrapping_add(ONES);
        (word | below_space | quote | backslash | delete) & (ONES << 7)
    };
    let Some(last) = text.last_chunk() else {
        let mut bytes = [b' '; 8];
        bytes[..text.len()].copy_from_slice(text);
        return odd(bytes) == 0;
    };
    // What the chunks leave over is at the end, and looking at some bytes twice does no harm.
    text.as_chunks().0.iter().fold(odd(*last), |sum, chunk| sum | odd(*chunk)) == 0
}

/// Appends what stands between the quotes.
fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut clean = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        // The common case is one comparison with a table.
        if !SPECIAL[usize::from(byte)] {
            continue;
        }
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0xc2 if bytes[at..].starts_with("\u{85}".as_bytes()) => b"\\u0085",
            0xe2 if bytes[at..].starts_with("\u{2028}".as_bytes()) => b"\\u2028",
            0xe2 if bytes[at..].starts_with("\u{2029}".as_bytes()) => b"\\u2029",
            0xc2 | 0xe2 => continue,
            _ => &[b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]],
        };
        out.extend_from_slice(&bytes[clean..at]);
        out.extend_from_slice(escape);
        clean = at
            + match byte {
                0xc2 => 2,
                0xe2 => 3,
                _ => 1,
            };
    }
    out.extend_from_slice(&bytes[clean..]);
}

/// Bytes that may begin something to be escaped.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        special[byte] = true;
        byte += 1;
    }
    special[b'"' as usize] = true;
    special[b'\\' as usize] = true;
    special[0xc2] = true;
    special[0xe2] = true;
    special
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_plain_only_if_each_of_its_bytes_is() {
        for (length, filler) in (0..=20).flat_map(|length| [(length, b' '), (length, b'~')]) {
            let mut text = vec![filler; length];
            assert!(is_plain(&text));
            for (at, byte) in (0..length).flat_map(|at| (0..=255).map(move |byte| (at, byte))) {
                text[at] = byte;
                let plain = matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
                assert_eq!(is_plain(&text), plain, "{byte} at {at} of {length}");
                text[at] = filler;
            }
        }
    }
}
