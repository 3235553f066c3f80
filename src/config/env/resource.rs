//! Who speaks: the resource of all records, and the span that this process was started in.

use std::sync::OnceLock;

use opentelemetry_sdk::resource::{ResourceDetector, TelemetryResourceDetector};

use super::{Environment, OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME, TRACEPARENT, warn};
use crate::config::{ConfigError, headers};
use crate::{event, ocsf};

/// What the program finds out by itself, then what the variables say, which wins. Each name occurs once.
pub(super) fn resource(environment: &Environment) -> Result<Vec<(String, String)>, ConfigError> {
    let mut resource = found();
    let mut set = |name: String, value: String| match resource.iter_mut().find(|(known, _)| *known == name) {
        Some((_, old)) => *old = value,
        None => resource.push((name, value)),
    };
    if let Some(text) = environment.text(OTEL_RESOURCE_ATTRIBUTES)? {
        for (name, value) in attributes(text).map_err(|why| ConfigError::new(OTEL_RESOURCE_ATTRIBUTES, text, why))? {
            set(name, value);
        }
    }
    if let Some(name) = environment.text(OTEL_SERVICE_NAME)? {
        set("service.name".into(), name.to_owned());
    }
    Ok(resource)
}

/// The specification lets any error discard the whole variable and be reported; we report it by not starting.
fn attributes(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut attributes = Vec::new();
    for member in headers::members(text) {
        let (name, value) =
            member.split_once('=').ok_or_else(|| format!("{member:?} is not of the form name=value"))?;
        let decoded = |part: &str| headers::percent_decoded(part.trim()).map_err(|why| format!("{member:?}: {why}"));
        let (name, value) = (decoded(name)?, decoded(value)?);
        if name.is_empty() {
            return Err(format!("{member:?} has no name"));
        }
        attributes.push((name, value));
    }
    Ok(attributes)
}

fn found() -> Vec<(String, String)> {
    let mut found = vec![
        ("service.name".to_owned(), format!("unknown_service:{}", program())),
        ("service.instance.id".to_owned(), instance().to_owned()),
    ];
    found.extend(event::hostname().map(|name| ("host.name".to_owned(), name.to_owned())));
    // Only this detector: the SDK's others read the environment themselves, without percent-decoding.
    let mut sdk: Vec<_> =
        TelemetryResourceDetector.detect().iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    sdk.sort();
    found.append(&mut sdk);
    found.push(("telemetry.distro.name".to_owned(), env!("CARGO_PKG_NAME").to_owned()));
    found.push(("telemetry.distro.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
    found
}

fn program() -> String {
    let path = std::env::current_exe().ok();
    let name = path.as_deref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned())
}

/// `service.instance.id`, made once for the process.
fn instance() -> &'static str {
    static INSTANCE: OnceLock<String> = OnceLock::new();
    INSTANCE.get_or_init(|| uuid::Uuid::now_v7().to_string())
}

/// The span that this process was started in, from `TRACEPARENT` (W3C Trace Context, context/env-carriers.md).
/// A malformed value is warned of and ignored, as the specification demands.
///
/// # Errors
/// A value that is not UTF-8.
pub fn traceparent(environment: &Environment, warnings: &mut Vec<String>) -> Result<Option<ocsf::Span>, ConfigError> {
    let Some(text) = environment.text(TRACEPARENT)? else { return Ok(None) };
    let span = span(text.trim());
    if span.is_none() {
        warn(warnings, TRACEPARENT, text, "not a W3C traceparent; ignored");
    }
    Ok(span)
}

/// `00-<trace id>-<span id>-<flags>`; a later version may go on after that. The SDK's propagator takes ids that are too short.
fn span(text: &str) -> Option<ocsf::Span> {
    let mut parts = text.split('-');
    let [version] = hex(parts.next()?)?;
    let trace_id: [u8; 16] = hex(parts.next()?)?;
    let span_id: [u8; 8] = hex(parts.next()?)?;
    let [flags] = hex(parts.next()?)?;
    let too_long = version == 0 && parts.next().is_some();
    let valid = version != 0xff && !too_long && trace_id != [0; 16] && span_id != [0; 8];
    valid.then_some(ocsf::Span { trace_id, span_id, flags })
}

/// Exactly `N` bytes in lower-case hexadecimal.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, start) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[start..start + 2], 16).ok()?;
    }
    Some(bytes)
}
