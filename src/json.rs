//! A forward reader over JSON text, for the two places that walk every event: building a record and writing it as protobuf.
//!
//! It borrows from the text, allocates only for strings with escapes, and checks no more than it needs to stay in bounds:
//! the text comes from our own encoder or from a spool that checked it. Anything else ends in [`Malformed`], never in a panic.

use std::borrow::Cow;

/// The text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The next value, entered or read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// The text of a number that is no `i64`.
    Number(&'a str),
    String(Str<'a>),
    /// Elements follow; read them with [`Reader::element`].
    Array,
    /// Members follow; read them with [`Reader::key`].
    Object,
}

/// A string as it stands between its quotes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Str<'a> {
    /// From the opening quote to the end of the whole text.
    rest: &'a str,
    /// Its length without the quotes, doubled, and one more if it has escapes: a flag of its own would be padded, and such values
    /// are slow to hand around.
    len_and_escaped: usize,
}

impl<'a> Str<'a> {
    /// The string that is meant.
    #[inline]
    pub(crate) fn text(self) -> Cow<'a, str> {
        if self.is_escaped() { self.unescaped() } else { Cow::Borrowed(self.raw()) }
    }

    #[cold]
    fn unescaped(self) -> Cow<'a, str> {
        // The reader only looked for the closing quote; a bad escape leaves the text as it stands.
        serde_json::from_str(&self.rest[..self.len() + 2]).map_or_else(|_| Cow::Borrowed(self.raw()), Cow::Owned)
    }

    /// How many bytes are between the quotes.
    #[inline]
    pub(crate) fn len(self) -> usize {
        self.len_and_escaped >> 1
    }

    #[inline]
    fn is_escaped(self) -> bool {
        self.len_and_escaped & 1 != 0
    }

    /// The bytes between the quotes, escapes included: enough to compare with a plain key.
    #[inline]
    pub(crate) fn raw(self) -> &'a str {
        &self.rest[1..self.len() + 1]
    }

    /// Whether what is meant begins so.
    #[inline(always)]
    pub(crate) fn starts_with(self, beginning: &str) -> bool {
        if self.is_escaped() {
            return self.text().starts_with(beginning);
        }
        self.rest.as_bytes()[1..=self.len()].starts_with(beginning.as_bytes())
    }

    /// The string, if it has no escapes, as the beginning of so many bytes of the text: copying a number of bytes that the
    /// compiler knows costs a fraction of copying any number.
    #[inline]
    pub(crate) fn wide<const N: usize>(self) -> Option<&'a [u8; N]> {
        if self.is_escaped() || self.len() > N { None } else { self.rest.as_bytes()[1..].first_chunk() }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The text of the value that it has passed since it was `earlier`.
    pub(crate) fn since(&self, earlier: Self) -> &'a str {
        self.text[earlier.at..self.at].trim_start()
    }

    /// What is not read yet.
    #[inline(always)]
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    /// The same as text.
    pub(crate) fn rest_text(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Passes over so many bytes, which are known to be whole members.
    pub(crate) fn pass(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// Reads a scalar, or enters an array or object.
    #[inline(always)]
    pub(crate) fn value(&mut self) -> Result<Value<'a>, Malformed> {
        match self.peek()? {
            b'"' => self.string().map(Value::String),
            b'{' => {
                self.at += 1;
                Ok(Value::Object)
            }
            b'[' => {
                self.at += 1;
                Ok(Value::Array)
            }
            b't' => self.word("true", Value::Bool(true)),
            b'f' => self.word("false", Value::Bool(false)),
            b'n' => self.word("null", Value::Null),
            b'-' | b'0'..=b'9' => Ok(self.number()),
            _ => Err(Malformed),
        }
    }

    /// Inside an object: the next key, its colon passed; `None` ends the object.
    #[inline(always)]
    pub(crate) fn key(&mut self) -> Result<Option<Str<'a>>, Malformed> {
        if !self.member(b'}')? {
            return Ok(None);
        }
        let key = self.string()?;
        if self.peek()? != b':' {
            return Err(Malformed);
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// Inside an array: whether an element follows; `false` ends the array.
    #[inline(always)]
    pub(crate) fn element(&mut self) -> Result<bool, Malformed> {
        self.member(b']')
    }

    /// Passes over one value and gives its text. Of an array or object only strings and brackets are looked at.
    pub(crate) fn skip(&mut self) -> Result<&'a str, Malformed> {
        let first = self.peek()?;
        let start = self.at;
        if first != b'{' && first != b'[' {
            self.value()?;
            return Ok(&self.text[start..self.at]);
        }
        let bytes = self.text.as_bytes();
        let (mut at, mut depth) = (start, 0_usize);
        loop {
            let byte = *bytes.get(at).ok_or(Malformed)?;
            at += 1;
            match byte {
                b'"' => at += string_len(&bytes[at..])?.0 + 1,
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth == 1 => {
                    self.at = at;
                    return Ok(&self.text[start..at]);
                }
                b'}' | b']' => depth -= 1,
                _ => {}
            }
        }
    }

    /// Passes a comma if there is one; `false` when `end` closes the array or object instead.
    #[inline(always)]
    fn member(&mut self, end: u8) -> Result<bool, Malformed> {
        let mut next = self.peek()?;
        if next == b',' {
            self.at += 1;
            next = self.peek()?;
        }
        if next == end {
            self.at += 1;
            return Ok(false);
        }
        Ok(true)
    }

    #[inline(always)]
    fn string(&mut self) -> Result<Str<'a>, Malformed> {
        let start = self.at;
        if self.text.as_bytes().get(start) != Some(&b'"') {
            return Err(Malformed);
        }
        let rest = &self.text[start..];
        let (len, escaped) = string_len(&rest.as_bytes()[1..])?;
        self.at = start + len + 2;
        Ok(Str { rest, len_and_escaped: len << 1 | usize::from(escaped) })
    }

    #[inline(always)]
    fn number(&mut self) -> Value<'a> {
        let start = self.at;
        let bytes = &self.text.as_bytes()[start..];
        let negative = bytes.first() == Some(&b'-');
        let sign = usize::from(negative);
        let (mut len, mut number) = (sign, 0_i64);
        while let Some(digit @ b'0'..=b'9') = bytes.get(len) {
            // What overflows has more digits than are believed below.
            number = number.wrapping_mul(10).wrapping_add(i64::from(digit - b'0'));
            len += 1;
        }
        let more = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        if matches!(len - sign, 1..=18) && !bytes.get(len).is_some_and(more) {
            self.at = start + len;
            return Value::Int(if negative { -number } else { number });
        }
        len += bytes[len..].iter().position(|byte| !more(byte)).unwrap_or(bytes.len() - len);
        self.at = start + len;
        let text = &self.text[start..self.at];
        text.parse().map_or(Value::Number(text), Value::Int)
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, Malformed> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(Malformed);
        }
        self.at += word.len();
        Ok(value)
    }

    #[inline(always)]
    fn peek(&mut self) -> Result<u8, Malformed> {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            // Almost always, and for one comparison.
            if *byte > b' ' || !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Ok(*byte);
            }
            self.at += 1;
        }
        Err(Malformed)
    }
}

/// How long a string is whose opening quote has been passed, and whether it has escapes.
#[inline(always)]
fn string_len(bytes: &[u8]) -> Result<(usize, bool), Malformed> {
    let (mut len, mut escaped) = (0, false);
    loop {
        len += quote_or_backslash(bytes.get(len..).ok_or(Malformed)?).ok_or(Malformed)?;
        if bytes[len] == b'"' {
            return Ok((len, escaped));
        }
        escaped = true;
        len += 2;
    }
}

/// Where the first quote or backslash is. Most strings are short: eight bytes at a time find it before a search for long texts
/// has begun.
#[inline(always)]
fn quote_or_backslash(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    const QUOTES: u64 = u64::from_ne_bytes([b'"'; 8]);
    const BACKSLASHES: u64 = u64::from_ne_bytes([b'\\'; 8]);
    const SHORT: usize = 32;
    let mut at = 0;
    while at < SHORT
        && let Some(eight) = bytes[at..].first_chunk()
    {
        let eight = u64::from_le_bytes(*eight);
        // The lowest bit that is set is in the lowest byte that is zero; what is set above it may be wrong.
        let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
        let found = zeros(eight ^ QUOTES) | zeros(eight ^ BACKSLASHES);
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    memchr::memchr2(b'"', b'\\', &bytes[at..]).map(|more| at + more)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rebuild(reader: &mut Reader<'_>) -> Result<serde_json::Value, Malformed> {
        Ok(match reader.value()? {
            Value::Null => serde_json::Value::Null,
            Value::Bool(bool) => bool.into(),
            Value::Int(int) => int.into(),
            Value::Number(text) => serde_json::from_str(text).map_err(|_| Malformed)?,
            Value::String(text) => text.text().into(),
            Value::Array => {
                let mut array = Vec::new();
                while reader.element()? {
                    array.push(rebuild(reader)?);
                }
                array.into()
            }
            Value::Object => {
                let mut object = serde_json::Map::new();
                while let Some(key) = reader.key()? {
                    object.insert(key.text().into_owned(), rebuild(reader)?);
                }
                object.into()
            }
        })
    }

    pub(crate) fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_filter("JSON has no such number", |f| f.is_finite()).prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_reads_what_serde_json_writes(value in any_json()) {
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                prop_assert_eq!(&rebuild(&mut Reader::new(&text)).unwrap(), &value);
                prop_assert_eq!(Reader::new(&text).skip().unwrap(), &text);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), cut in 0_usize..64, value in any_json()) {
            let _ = rebuild(&mut Reader::new(&text));
            let _ = Reader::new(&text).skip();
            let whole = value.to_string();
            let cut = (0..=cut.min(whole.len())).rev().find(|at| whole.is_char_boundary(*at)).unwrap();
            let _ = rebuild(&mut Reader::new(&whole[..cut]));
            let _ = Reader::new(&whole[..cut]).skip();
        }
    }

    #[test]
    fn strings_of_all_lengths_end_where_they_end() {
        for len in 0..80 {
            let plain = "x".repeat(len);
            for at in 0..=len {
                let text = format!("{}\"\\{}", &plain[..at], &plain[at..]);
                let json = format!("[{},1]", serde_json::Value::from(text));
                assert_eq!(rebuild(&mut Reader::new(&json)).unwrap().to_string(), json);
            }
            let json = format!("{{\"{plain}\":\"{plain}\"}}");
            assert_eq!(rebuild(&mut Reader::new(&json)).unwrap().to_string(), json);
        }
    }

    #[test]
    fn an_integer_is_one_as_long_as_it_fits() {
        let ints = [0, 7, -1, i64::MAX, i64::MIN, 10_i64.pow(17), 10_i64.pow(18) - 1, 10_i64.pow(18)];
        for int in ints {
            assert_eq!(Reader::new(&int.to_string()).value(), Ok(Value::Int(int)));
        }
        for text in ["9223372036854775808", "-9223372036854775809", "1.0", "1e3", "-", "1-2"] {
            assert_eq!(Reader::new(text).value(), Ok(Value::Number(text)));
        }
    }
}
