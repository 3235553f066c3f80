//! `AnyValue`, from the SDK's values and from JSON text, and back to JSON.
//!
//! JSON holds more than `AnyValue` does: integers beyond `i64`, and depth beyond what receivers decode. Such a value travels as a
//! string that begins with [`JSON_MARK`] and goes on with its JSON text; a string that begins so by itself is marked too.

use std::fmt::Write as _;

use opentelemetry::logs::AnyValue;
use opentelemetry::{Array, StringValue};
use opentelemetry_proto::tonic::common::v1::{AnyValue as ProtoValue, any_value::Value as ProtoKind};
use prost::Message;

use super::wire::{begin, bytes, end, field_len, fixed64, header, nested, varint_field};
use crate::json::{Malformed, Reader, Value};
use crate::record::Promoted;

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
    header(out, field, field_len(key.len()) + field_len(value));
    bytes(out, 1, key.as_bytes());
    header(out, 2, value);
    bytes(out, STRING, text.as_bytes());
}

/// The content of an `AnyValue` message, from JSON text. Text that is not JSON is a string.
pub(super) fn json(text: &str, out: &mut Vec<u8>) {
    let start = out.len();
    if value(&mut Reader::new(text), 0, out).is_err() {
        out.truncate(start);
        bytes(out, STRING, text.as_bytes());
    }
}

fn value(reader: &mut Reader<'_>, depth: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
    if depth == MAX_DEPTH {
        let deeper = reader.skip()?;
        marked(deeper, out);
        return Ok(());
    }
    let read = reader.value()?;
    write(read, reader, depth, out)
}

/// Writes a value that has been read or entered.
fn write(read: Value<'_>, reader: &mut Reader<'_>, depth: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
    match read {
        Value::Null => {}
        Value::Bool(bool) => varint_field(out, BOOL, u64::from(bool)),
        Value::Number(text) => number(text, out),
        Value::String(text) => {
            let text = text.text();
            if text.starts_with(JSON_MARK) {
                marked(&serde_json::Value::from(text).to_string(), out);
            } else {
                bytes(out, STRING, text.as_bytes());
            }
        }
        Value::Array => {
            let array = begin(out, ARRAY, 1);
            while reader.element()? {
                let element = begin(out, 1, 1);
                value(reader, depth + 1, out)?;
                end(out, element);
            }
            end(out, array);
        }
        Value::Object => {
            let map = begin(out, KVLIST, if depth == 0 { 2 } else { 1 });
            while let Some(key) = reader.key()? {
                member(&key.text(), reader, depth, out)?;
            }
            end(out, map);
        }
    }
    Ok(())
}

fn member(key: &str, reader: &mut Reader<'_>, depth: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let is_free = depth == 0 && FREE_MEMBERS.contains(&key);
    let read = if is_free || depth + 1 == MAX_DEPTH { None } else { Some(reader.value()?) };
    if let Some(Value::String(text)) = read {
        let text = text.text();
        if !text.starts_with(JSON_MARK) {
            string_pair(out, 1, key, &text);
            return Ok(());
        }
    }
    let pair = begin(out, 1, 1);
    bytes(out, 1, key.as_bytes());
    let open = begin(out, 2, 1);
    match read {
        Some(read) => write(read, reader, depth + 1, out)?,
        None if is_free => free_member(reader.skip()?, out)?,
        None => value(reader, depth + 1, out)?,
    }
    end(out, open);
    end(out, pair);
    Ok(())
}

/// A member in which keys can be the event's own: a map as long as these are harmless, else text.
fn free_member(text: &str, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut keys = 0;
    if is_harmless(&mut Reader::new(text), "unmapped".len(), 0, &mut keys)? {
        value(&mut Reader::new(text), 1, out)
    } else {
        marked(text, out);
        Ok(())
    }
}

fn is_harmless(reader: &mut Reader<'_>, path: usize, depth: usize, keys: &mut usize) -> Result<bool, Malformed> {
    if depth == MAX_DEPTH {
        // What lies deeper becomes text by itself.
        reader.skip()?;
        return Ok(true);
    }
    match reader.value()? {
        Value::Object => {
            while let Some(key) = reader.key()? {
                *keys += 1;
                let path = path + 1 + key.raw().len();
                if path > MAX_PATH || *keys > MAX_KEYS || !is_harmless(reader, path, depth + 1, keys)? {
                    return Ok(false);
                }
            }
        }
        Value::Array => {
            while reader.element()? {
                if !is_harmless(reader, path + 2, depth + 1, keys)? {
                    return Ok(false);
                }
            }
        }
        _ => {}
    }
    Ok(true)
}

fn number(text: &str, out: &mut Vec<u8>) {
    if let Ok(int) = text.parse::<i64>() {
        varint_field(out, INT, int as u64);
    } else if text.contains(['.', 'e', 'E'])
        && let Ok(double) = text.parse::<f64>()
    {
        fixed64(out, DOUBLE, double.to_bits());
    } else {
        marked(text, out);
    }
}

fn marked(text: &str, out: &mut Vec<u8>) {
    bytes(out, STRING, format!("{JSON_MARK}{text}").as_bytes());
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
