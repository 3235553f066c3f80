//! Reading OTLP log data: records, attributes, values, and the JSON form.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde_json::Value;

/// The records of a request, in order, whatever their resource and scope.
pub fn records(request: &ExportLogsServiceRequest) -> impl Iterator<Item = &LogRecord> {
    request.resource_logs.iter().flat_map(|resource| &resource.scope_logs).flat_map(|scope| &scope.log_records)
}

/// The value of an attribute.
pub fn attribute<'a>(record: &'a LogRecord, key: &str) -> Option<&'a AnyValue> {
    record.attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()
}

/// The id by which a duplicate is recognised, attribute `log.record.uid`.
pub fn uid(record: &LogRecord) -> Option<&str> {
    match attribute(record, "log.record.uid")?.value.as_ref()? {
        Any::StringValue(uid) => Some(uid),
        _ => None,
    }
}

/// A value as the JSON a person expects: numbers as numbers, maps as objects, bytes as base64, no value as null.
/// A number that JSON does not have is text, as the specification's mapping to other formats has it.
pub fn json(value: &AnyValue) -> Value {
    match &value.value {
        None | Some(Any::StringValueStrindex(_)) => Value::Null,
        Some(Any::StringValue(text)) => Value::from(text.as_str()),
        Some(Any::BoolValue(truth)) => Value::from(*truth),
        Some(Any::IntValue(number)) => Value::from(*number),
        Some(Any::DoubleValue(number)) if number.is_finite() => Value::from(*number),
        Some(Any::DoubleValue(number)) => Value::from(match number {
            n if n.is_nan() => "NaN",
            n if n.is_sign_positive() => "Infinity",
            _ => "-Infinity",
        }),
        Some(Any::ArrayValue(array)) => array.values.iter().map(json).collect(),
        Some(Any::KvlistValue(list)) => Value::Object(
            list.values.iter().map(|pair| (pair.key.clone(), pair.value.as_ref().map_or(Value::Null, json))).collect(),
        ),
        // The OTLP form of bytes is base64 already.
        Some(Any::BytesValue(_)) => serde_json::to_value(value)
            .ok()
            .and_then(|mut v| v.get_mut("bytesValue").map(Value::take))
            .unwrap_or_default(),
    }
}

/// Reads the OTLP/JSON form of a request, or of one line that a Collector's file exporter wrote.
///
/// The generated types insist on fields that a sender may omit, so `{"arrayValue": {}}` is completed first.
///
/// # Errors
/// The text is no JSON, or not that of a request.
pub fn parse_otlp_json(text: &[u8]) -> serde_json::Result<ExportLogsServiceRequest> {
    let mut value = serde_json::from_slice(text)?;
    if !matches!(value, Value::Object(_)) {
        // The generated types would take an array for a list of fields.
        return Err(serde::de::Error::custom("the request is no object"));
    }
    complete(&mut value);
    serde_json::from_value(value)
}

fn complete(value: &mut Value) {
    match value {
        Value::Array(elements) => elements.iter_mut().for_each(complete),
        Value::Object(fields) => {
            for list in ["arrayValue", "kvlistValue"] {
                if let Some(Value::Object(list)) = fields.get_mut(list) {
                    list.entry("values").or_insert_with(|| Value::Array(Vec::new()));
                }
            }
            // Of a pair with an empty key a Collector writes the value alone.
            if let Some(Value::Object(_)) = fields.get("value") {
                fields.entry("key").or_insert_with(|| Value::from(""));
            }
            fields.values_mut().for_each(complete);
        }
        _ => {}
    }
}
