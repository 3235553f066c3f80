//! `AnyValue`, from the SDK's values and from JSON text, and back to JSON.
//!
//! JSON holds more than `AnyValue` does: integers beyond `i64`, and depth beyond what receivers decode. Such a value travels as a
//! string that begins with [`JSON_MARK`] and goes on with its JSON text; a string that begins so by itself is marked too.

use std::fmt::Write as _;

use opentelemetry::logs::AnyValue;
use opentelemetry::{Array, StringValue};
use opentelemetry_proto::tonic::common::v1::{AnyValue as ProtoValue, any_value::Value as ProtoKind};
use prost::Message;

use super::known::Known;
use super::wire::{
    LEN, VARINT, begin, bytes, end, field_len, fixed64, header, nested, tag, varint, varint_field, varint_field_len,
};
use crate::json::{Malformed, Reader, Str, Value};
use crate::record::{Parent, Promoted, Promoter, Promotion, promotion};

/// Begins a string whose rest is JSON text.
const JSON_MARK: &str = "@json:";

/// Deepest nesting of maps and arrays. prost refuses messages nested more than 100 deep, a map costs three of them, and the
/// request around the body four.
const MAX_DEPTH: usize = 24;

/// Longest path of keys, dots included, and most keys, of a member whose keys an event can choose. Stores flatten maps; one that we
/// know drops a whole record in silence for a field name beyond 128 bytes, others refuse it for too many fields. An event must
/// not be able to choose that.
const MAX_PATH: usize = 120;
const MAX_KEYS: usize = 200;

/// Members of the event in which keys can be the event's own.
const FREE_MEMBERS: [&str; 2] = ["unmapped", "resources"];

// Fields of AnyValue.
const STRING: u32 = 1;
const BOOL: u32 = 2;
const INT: u32 = 3;
const DOUBLE: u32 = 4;
const ARRAY: u32 = 5;
const KVLIST: u32 = 6;
const BYTES: u32 = 7;

// Tags: of an element of KeyValueList, of both fields of KeyValue, and of a string and an integer in AnyValue.
const PAIR: u8 = tag(1, LEN);
const KEY: u8 = tag(1, LEN);
const VALUE: u8 = tag(2, LEN);
const TEXT: u8 = tag(STRING, LEN);
const INTEGER: u8 = tag(INT, VARINT);

/// The content of an `AnyValue` message.
pub(super) fn sdk(value: &AnyValue, out: &mut Vec<u8>) {
    match value {
        AnyValue::Int(int) => varint_field(out, INT, *int as u64),
        AnyValue::Double(double) => fixed64(out, DOUBLE, double.to_bits()),
        AnyValue::String(text) => bytes(out, STRING, text.as_str().as_bytes()),
        AnyValue::Boolean(bool) => varint_field(out, BOOL, u64::from(*bool)),
        AnyValue::Bytes(raw) => bytes(out, BYTES, raw),
        AnyValue::ListAny(list) => nested(out, ARRAY, 1, |out| {
            for value in list.iter() {
                nested(out, 1, 1, |out| sdk(value, out));
            }
        }),
        AnyValue::Map(map) => nested(out, KVLIST, 1, |out| {
            for (key, value) in map.iter() {
                nested(out, 1, 1, |out| {
                    bytes(out, 1, key.as_str().as_bytes());
                    nested(out, 2, 1, |out| sdk(value, out));
                });
            }
        }),
        other => bytes(out, STRING, format!("{other:?}").as_bytes()),
    }
}

/// The content of an `AnyValue` message, from a value that becomes an attribute.
pub(super) fn promoted(value: &Promoted<'_>, out: &mut Vec<u8>) {
    match value {
        Promoted::Bool(bool) => varint_field(out, BOOL, u64::from(*bool)),
        Promoted::Int(int) => varint_field(out, INT, *int as u64),
        Promoted::Double(double) => fixed64(out, DOUBLE, double.to_bits()),
        Promoted::Text(text) => bytes(out, STRING, text.as_bytes()),
        Promoted::Texts(texts) => nested(out, ARRAY, 1, |out| {
            for text in *texts {
                nested(out, 1, 1, |out| bytes(out, STRING, text.as_bytes()));
            }
        }),
    }
}

/// The content of an `AnyValue` message, from a resource attribute.
pub(super) fn resource(value: &opentelemetry::Value, out: &mut Vec<u8>) {
    fn array<T>(out: &mut Vec<u8>, items: &[T], write: impl Fn(&T, &mut Vec<u8>)) {
        nested(out, ARRAY, 1, |out| {
            for item in items {
                nested(out, 1, 1, |out| write(item, out));
            }
        });
    }
    match value {
        opentelemetry::Value::Bool(bool) => varint_field(out, BOOL, u64::from(*bool)),
        opentelemetry::Value::I64(int) => varint_field(out, INT, *int as u64),
        opentelemetry::Value::F64(double) => fixed64(out, DOUBLE, double.to_bits()),
        opentelemetry::Value::String(text) => bytes(out, STRING, text.as_str().as_bytes()),
        opentelemetry::Value::Array(Array::Bool(items)) => {
            array(out, items, |bool, out| varint_field(out, BOOL, u64::from(*bool)));
        }
        opentelemetry::Value::Array(Array::I64(items)) => {
            array(out, items, |int, out| varint_field(out, INT, *int as u64))
        }
        opentelemetry::Value::Array(Array::F64(items)) => {
            array(out, items, |double, out| fixed64(out, DOUBLE, double.to_bits()));
        }
        opentelemetry::Value::Array(Array::String(items)) => {
            array(out, items, |text: &StringValue, out| bytes(out, STRING, text.as_str().as_bytes()));
        }
        other => bytes(out, STRING, other.as_str().as_bytes()),
    }
}

/// A `KeyValue` message as a field, its value a string. Strings are most of a record, and their lengths are known beforehand.
#[inline]
pub(super) fn string_pair(out: &mut Vec<u8>, field: u32, key: &str, text: &str) {
    let value = field_len(text.len());
    let pair = field_len(key.len()) + field_len(value);
    if pair < 128 {
        // All lengths are one byte.
        out.extend_from_slice(&[tag(field, LEN), pair as u8, KEY, key.len() as u8]);
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(&[VALUE, value as u8, TEXT, text.len() as u8]);
    } else {
        header(out, field, pair);
        bytes(out, 1, key.as_bytes());
        header(out, 2, value);
        header(out, STRING, text.len());
    }
    out.extend_from_slice(text.as_bytes());
}

/// A `KeyValue` message as a field, its value an integer.
#[inline]
pub(super) fn int_pair(out: &mut Vec<u8>, field: u32, key: &str, int: i64) {
    let value = varint_field_len(int as u64);
    header(out, field, field_len(key.len()) + field_len(value));
    bytes(out, 1, key.as_bytes());
    int_value(out, value, int);
}

/// `KeyValue.value`, an integer whose `AnyValue` takes so many bytes.
#[inline]
fn int_value(out: &mut Vec<u8>, len: usize, int: i64) {
    out.extend_from_slice(&[VALUE, len as u8, INTEGER]);
    varint(out, int as u64);
}

/// The content of an `AnyValue` message, from JSON text. Text that is not JSON is a string.
pub(super) fn json(text: &str, out: &mut Vec<u8>) {
    let start = out.len();
    if Writer::new(text, None, out).value(Parent::Other).is_err() {
        out.truncate(start);
        bytes(out, STRING, text.as_bytes());
    }
}

/// The content of an `AnyValue` message, from an event's JSON text, of which the promoter sees what it promotes on the way.
///
/// # Errors
/// The text is not a JSON object; what was written and promoted of it is of no use.
pub(super) fn event(
    text: &str,
    promoter: &mut Promoter<'_, Vec<u8>>,
    known: &mut Known,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let mut reader = Reader::new(text);
    if !text.starts_with('{') || reader.value()? != Value::Object {
        return Err(Malformed);
    }
    // No event is so short that its length takes one byte.
    let map = begin(out, KVLIST, 2);
    let mut writer = Writer { reader, promoter: Some(promoter), out, keys_left: None };
    // The time differs from event to event; what stands behind it does not.
    if writer.next_member()? {
        writer.known_run(known);
        while writer.next_member()? {}
    }
    end(out, map);
    Ok(())
}

/// Elements of a `KeyValueList`, from an event's members and the brace behind them.
///
/// # Errors
/// As [`event`].
pub(super) fn members(text: &str, promoter: &mut Promoter<'_, Vec<u8>>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut writer = Writer::new(text, Some(promoter), out);
    while writer.next_member()? {}
    Ok(())
}

/// Why a value cannot be written.
enum Stop {
    Malformed,
    /// It is in a free member, and its path is too long or it has too many keys.
    Harmful,
}

impl From<Malformed> for Stop {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Writes JSON text as `AnyValue`, in one pass.
struct Writer<'w, 'p, 'a> {
    reader: Reader<'a>,
    promoter: Option<&'w mut Promoter<'p, Vec<u8>>>,
    out: &'w mut Vec<u8>,
    /// How many keys a free member may still have; `None` outside of one.
    keys_left: Option<usize>,
}

impl<'w, 'p, 'a> Writer<'w, 'p, 'a> {
    fn new(text: &'a str, promoter: Option<&'w mut Promoter<'p, Vec<u8>>>, out: &'w mut Vec<u8>) -> Self {
        Self { reader: Reader::new(text), promoter, out, keys_left: None }
    }

    /// Reads a value and writes its content.
    fn value(&mut self, parent: Parent) -> Result<(), Stop> {
        let value = self.enter(0)?;
        self.content(value, self.expected(value), parent, 0, 0)
    }

    /// Reads and writes an event's next member; `false` when it has no more.
    fn next_member(&mut self) -> Result<bool, Malformed> {
        let Some(key) = self.reader.key()? else { return Ok(false) };
        self.member(key, Parent::Event, 1, 0).map_err(|_| Malformed)?;
        Ok(true)
    }

    /// Copies the run that follows, if it is known.
    fn known_run(&mut self, known: &mut Known) {
        let Some(promoter) = self.promoter.as_mut().filter(|promoter| promoter.count() == 0) else { return };
        if let Some(run) = known.run(self.reader.rest_text()) {
            promoter.accept(&run.fields, run.count).extend_from_slice(&run.attributes);
            self.out.extend_from_slice(&run.pairs);
            self.reader.pass(run.len());
        }
    }

    /// Reads a scalar, or enters an array or object; `None` where all is so deep that it is not looked into.
    #[inline]
    fn enter(&mut self, depth: usize) -> Result<Option<Value<'a>>, Malformed> {
        if depth < MAX_DEPTH { self.reader.value().map(Some) } else { Ok(None) }
    }

    /// Writes the content of a value that has been entered. `path` is the length of the path of keys to it, which only counts
    /// in a free member.
    fn content(
        &mut self,
        value: Option<Value<'a>>,
        expected: usize,
        parent: Parent,
        depth: usize,
        path: usize,
    ) -> Result<(), Stop> {
        let Some(value) = value else {
            marked(self.reader.skip()?, self.out);
            return Ok(());
        };
        match value {
            Value::Null => {}
            Value::Bool(bool) => varint_field(self.out, BOOL, u64::from(bool)),
            Value::Int(int) => varint_field(self.out, INT, int as u64),
            Value::Number(text) => number(text, self.out),
            Value::String(text) => {
                let text = text.text();
                if text.starts_with(JSON_MARK) {
                    marked(&serde_json::Value::from(text).to_string(), self.out);
                } else {
                    bytes(self.out, STRING, text.as_bytes());
                }
            }
            Value::Array => {
                let array = begin(self.out, ARRAY, expected);
                while self.reader.element()? {
                    let value = self.enter(depth + 1)?;
                    let expected = self.expected(value);
                    let element = begin(self.out, 1, expected);
                    self.content(value, expected, Parent::Other, depth + 1, path + 2)?;
                    end(self.out, element);
                }
                end(self.out, array);
            }
            Value::Object => {
                let map = begin(self.out, KVLIST, expected);
                while let Some(key) = self.reader.key()? {
                    self.member(key, parent, depth + 1, path)?;
                }
                end(self.out, map);
            }
        }
        Ok(())
    }

    /// Reads a member's value, writes the pair, and promotes it.
    fn member(&mut self, key: Str<'a>, parent: Parent, depth: usize, path: usize) -> Result<(), Stop> {
        let path = path + 1 + key.len();
        if let Some(left) = &mut self.keys_left {
            if path > MAX_PATH || *left == 0 {
                return Err(Stop::Harmful);
            }
            *left -= 1;
        }
        let promotion = promotion(parent, key);
        let before = self.reader;
        let value = self.enter(depth)?;
        match value {
            Some(Value::String(text)) if !text.starts_with(JSON_MARK) => short_string_pair(self.out, key, text),
            Some(Value::Int(int)) => short_int_pair(self.out, key, int),
            _ => {
                let expected = self.expected(value);
                let pair = begin(self.out, 1, expected);
                bytes(self.out, 1, key.text().as_bytes());
                let open = begin(self.out, 2, expected);
                if depth == 1 && FREE_MEMBERS.contains(&&*key.text()) {
                    self.free(value, expected, promotion, before)?;
                } else {
                    self.content(value, expected, promotion.children(), depth, path)?;
                }
                end(self.out, open);
                end(self.out, pair);
            }
        }
        match (promotion, &mut self.promoter, value) {
            (Promotion::None, _, _) | (_, None, _) | (_, _, None) => {}
            (_, Some(promoter), Some(Value::Array | Value::Object)) => {
                promoter.compound(promotion, self.reader.since(before))?;
            }
            (_, Some(promoter), Some(value)) => promoter.value(promotion, value),
        }
        Ok(())
    }

    /// Writes the content of a member in which keys can be the event's own: a map as long as these are harmless, else text.
    fn free(
        &mut self,
        value: Option<Value<'a>>,
        expected: usize,
        promotion: Promotion,
        before: Reader<'a>,
    ) -> Result<(), Stop> {
        let start = self.out.len();
        self.keys_left = Some(MAX_KEYS);
        let written = self.content(value, expected, promotion.children(), 1, "unmapped".len());
        self.keys_left = None;
        if let Err(Stop::Harmful) = written {
            self.out.truncate(start);
            self.reader = before;
            self.pass(promotion)?;
            marked(self.reader.since(before), self.out);
            return Ok(());
        }
        written
    }

    /// Passes over a value, only for what is promoted.
    fn pass(&mut self, promotion: Promotion) -> Result<(), Malformed> {
        match &mut self.promoter {
            Some(promoter) => promoter.member(promotion, &mut self.reader),
            None => self.reader.skip().map(drop),
        }
    }

    /// How many bytes the length of a value that has been entered will take, by where the next bracket closes: text and message
    /// are about as long.
    #[inline]
    fn expected(&self, value: Option<Value<'_>>) -> usize {
        const NEAR: usize = 100;
        if !matches!(value, Some(Value::Array | Value::Object)) {
            return 1;
        }
        let rest = self.reader.rest();
        if memchr::memchr2(b'}', b']', &rest[..rest.len().min(NEAR)]).is_some() { 1 } else { 2 }
    }
}

/// The longest string that is copied with what stands behind it.
const WIDE: usize = 32;

/// A pair of a map, its value a string. Most of an event are such pairs, and short ones: there is room for all of it at once, all
/// its lengths are one byte, and no copy is of a length that the compiler does not know.
#[inline]
fn short_string_pair(out: &mut Vec<u8>, key: Str<'_>, text: Str<'_>) {
    let (Some(key_bytes), Some(text_bytes)) = (key.wide::<WIDE>(), text.wide::<WIDE>()) else {
        return string_pair(out, 1, &key.text(), &text.text());
    };
    let (key, text) = (key.len(), text.len());
    let (behind_key, end) = (4 + key, 8 + key + text);
    let start = out.len();
    out.extend_from_slice(&[0; 8 + 2 * WIDE]);
    let pair = &mut out[start..];
    pair[..4].copy_from_slice(&[PAIR, (end - 2) as u8, KEY, key as u8]);
    pair[4..4 + WIDE].copy_from_slice(key_bytes);
    pair[behind_key..behind_key + 4].copy_from_slice(&[VALUE, (text + 2) as u8, TEXT, text as u8]);
    pair[behind_key + 4..behind_key + 4 + WIDE].copy_from_slice(text_bytes);
    out.truncate(start + end);
}

/// A pair of a map, its value an integer.
#[inline]
fn short_int_pair(out: &mut Vec<u8>, key: Str<'_>, int: i64) {
    let Some(key_bytes) = key.wide::<WIDE>() else {
        return int_pair(out, 1, &key.text(), int);
    };
    let (key, value) = (key.len(), varint_field_len(int as u64));
    out.extend_from_slice(&[PAIR, (key + value + 4) as u8, KEY, key as u8]);
    let start = out.len();
    out.extend_from_slice(key_bytes);
    out.truncate(start + key);
    int_value(out, value, int);
}

fn number(text: &str, out: &mut Vec<u8>) {
    if text.contains(['.', 'e', 'E'])
        && let Ok(double) = text.parse::<f64>()
    {
        fixed64(out, DOUBLE, double.to_bits());
    } else {
        marked(text, out);
    }
}

fn marked(text: &str, out: &mut Vec<u8>) {
    header(out, STRING, JSON_MARK.len() + text.len());
    out.extend_from_slice(JSON_MARK.as_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// JSON text of an SDK value, as [`body_json`] gives it of a decoded one; a value without such a form becomes a string.
pub(crate) fn any_json(value: Option<&AnyValue>) -> String {
    let mut encoded = Vec::new();
    if let Some(value) = value {
        sdk(value, &mut encoded);
    }
    ProtoValue::decode(&*encoded)
        .ok()
        .and_then(|value| body_json(&value))
        .unwrap_or_else(|| serde_json::Value::from(format!("{value:?}")).to_string())
}

/// JSON text of a decoded body: the OCSF event whose text the body was made from.
///
/// `None` when the value has no such form (bytes, or a number JSON cannot hold).
pub fn body_json(value: &ProtoValue) -> Option<String> {
    fn write(value: &ProtoValue, out: &mut String) -> Option<()> {
        match &value.value {
            None => out.push_str("null"),
            Some(ProtoKind::BoolValue(bool)) => out.push_str(if *bool { "true" } else { "false" }),
            Some(ProtoKind::IntValue(int)) => write!(out, "{int}").ok()?,
            Some(ProtoKind::DoubleValue(double)) => {
                out.push_str(&serde_json::Number::from_f64(*double)?.to_string());
            }
            Some(ProtoKind::StringValue(text)) => match text.strip_prefix(JSON_MARK) {
                Some(json) => out.push_str(json),
                None => out.push_str(&serde_json::Value::from(text.as_str()).to_string()),
            },
            Some(ProtoKind::ArrayValue(array)) => {
                out.push('[');
                for (index, value) in array.values.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write(value, out)?;
                }
                out.push(']');
            }
            Some(ProtoKind::KvlistValue(list)) => {
                out.push('{');
                for (index, pair) in list.values.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    out.push_str(&serde_json::Value::from(pair.key.as_str()).to_string());
                    out.push(':');
                    write(pair.value.as_ref().unwrap_or(&ProtoValue::default()), out)?;
                }
                out.push('}');
            }
            Some(_) => return None,
        }
        Some(())
    }
    match &value.value {
        // `body = json`: the text itself.
        Some(ProtoKind::StringValue(text)) if !text.starts_with(JSON_MARK) => Some(text.clone()),
        _ => {
            let mut out = String::new();
            write(value, &mut out)?;
            Some(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::tests::any_json;
    use proptest::prelude::*;

    fn decoded(text: &str) -> ProtoValue {
        let mut out = Vec::new();
        json(text, &mut out);
        ProtoValue::decode(&*out).expect("a protobuf decoder reads it")
    }

    proptest! {
        #[test]
        fn json_survives_a_map_body(value in any_json()) {
            let text = serde_json::json!({ "value": value }).to_string();
            let back = body_json(&decoded(&text)).unwrap();
            prop_assert_eq!(back, text);
        }
    }

    #[test]
    fn what_an_any_value_cannot_hold_travels_as_marked_strings() {
        let text = r#"{"u64":18446744073709551615,"mark":"@json:1","one":1.0,"null":null}"#;
        let value = decoded(text);
        let Some(ProtoKind::KvlistValue(list)) = &value.value else { panic!("a map") };
        let strings: Vec<_> = list
            .values
            .iter()
            .map(|pair| match &pair.value.as_ref().unwrap().value {
                Some(ProtoKind::StringValue(text)) => text.as_str(),
                _ => "not a string",
            })
            .collect();
        assert_eq!(strings, ["@json:18446744073709551615", "@json:\"@json:1\"", "not a string", "not a string"]);
        assert_eq!(body_json(&value).unwrap(), text);
    }

    #[test]
    fn depth_beyond_what_receivers_decode_becomes_text() {
        for (open, close) in [("[", "]"), ("{\"k\":", "}")] {
            let deep = format!("{{\"deep\":{}1{}}}", open.repeat(120), close.repeat(120));
            assert_eq!(body_json(&decoded(&deep)).unwrap(), deep);
        }
    }

    #[test]
    fn an_event_cannot_choose_field_names_that_make_a_store_drop_it() {
        let long = "k".repeat(MAX_PATH);
        let many: String = (0..=MAX_KEYS).map(|key| format!("\"k{key}\":1,")).collect();
        let many = many.trim_end_matches(',');
        for (unmapped, is_text) in [
            ("{\"audit_event\":{\"x\":1}}".to_owned(), false),
            (format!("{{\"audit_event\":{{\"{long}\":1}}}}"), true),
            (format!("{{\"{}\":{{\"{}\":[{{\"{}\":1}}]}}}}", &long[..50], &long[..40], &long[..30]), true),
            (format!("{{{many}}}"), true),
        ] {
            for member in FREE_MEMBERS {
                let text = format!("{{\"time\":1,\"{member}\":{unmapped}}}");
                let value = decoded(&text);
                let Some(ProtoKind::KvlistValue(list)) = &value.value else { panic!("a map") };
                let kind = &list.values[1].value.as_ref().unwrap().value;
                assert_eq!(matches!(kind, Some(ProtoKind::StringValue(_))), is_text, "{text}");
                assert_eq!(body_json(&value).unwrap(), text, "and comes back all the same");
            }
        }
    }

    #[test]
    fn text_that_is_not_json_is_kept_as_a_string() {
        let value = decoded("{\"broken\":");
        assert_eq!(value.value, Some(ProtoKind::StringValue("{\"broken\":".into())));
    }
}
