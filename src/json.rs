//! A forward reader over JSON text, for the two places that walk every event: building a record and writing it as protobuf.
//!
//! It borrows from the text, allocates only for strings with escapes, and checks no more than it needs to stay in bounds:
//! the text comes from our own encoder or from a spool that checked it. Anything else ends in [`Malformed`], never in a panic.

use std::borrow::Cow;

/// The text is not JSON at the byte offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) usize);

/// The next value, entered or read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    /// The number's text.
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
    /// With the quotes.
    quoted: &'a str,
    escaped: bool,
}

impl<'a> Str<'a> {
    /// The string that is meant.
    pub(crate) fn text(self) -> Cow<'a, str> {
        if self.escaped {
            // The reader only looked for the closing quote; a bad escape leaves the text as it stands.
            serde_json::from_str(self.quoted).map_or_else(|_| Cow::Borrowed(self.raw()), Cow::Owned)
        } else {
            Cow::Borrowed(self.raw())
        }
    }

    /// The bytes between the quotes, escapes included: enough to compare with a plain key.
    pub(crate) fn raw(self) -> &'a str {
        &self.quoted[1..self.quoted.len() - 1]
    }
}

pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Reads a scalar, or enters an array or object.
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
            b'-' | b'0'..=b'9' => {
                let start = self.at;
                let rest = &self.text.as_bytes()[start..];
                let number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
                self.at += rest.iter().position(|byte| !number(byte)).unwrap_or(rest.len());
                Ok(Value::Number(&self.text[start..self.at]))
            }
            _ => Err(Malformed(self.at)),
        }
    }

    /// Inside an object: the next key, its colon passed; `None` ends the object.
    pub(crate) fn key(&mut self) -> Result<Option<Str<'a>>, Malformed> {
        if !self.member(b'}')? {
            return Ok(None);
        }
        let key = self.string()?;
        if self.peek()? != b':' {
            return Err(Malformed(self.at));
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// Inside an array: whether an element follows; `false` ends the array.
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
        let mut depth = 0_usize;
        loop {
            match bytes.get(self.at).ok_or(Malformed(self.at))? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Ok(&self.text[start..self.at]);
            }
        }
    }

    /// Passes a comma if there is one; `false` when `end` closes the array or object instead.
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

    fn string(&mut self) -> Result<Str<'a>, Malformed> {
        let bytes = self.text.as_bytes();
        if bytes.get(self.at) != Some(&b'"') {
            return Err(Malformed(self.at));
        }
        let start = self.at;
        let mut at = start + 1;
        let mut escaped = false;
        loop {
            let rest = bytes.get(at..).ok_or(Malformed(start))?;
            at += memchr::memchr2(b'"', b'\\', rest).ok_or(Malformed(start))?;
            if bytes[at] == b'"' {
                break;
            }
            escaped = true;
            at += 2;
        }
        self.at = at + 1;
        Ok(Str { quoted: &self.text[start..self.at], escaped })
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, Malformed> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(Malformed(self.at));
        }
        self.at += word.len();
        Ok(value)
    }

    fn peek(&mut self) -> Result<u8, Malformed> {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Ok(*byte);
            }
            self.at += 1;
        }
        Err(Malformed(self.at))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rebuild(reader: &mut Reader<'_>) -> Result<serde_json::Value, Malformed> {
        Ok(match reader.value()? {
            Value::Null => serde_json::Value::Null,
            Value::Bool(bool) => bool.into(),
            Value::Number(text) => serde_json::from_str(text).map_err(|_| Malformed(0))?,
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
}
