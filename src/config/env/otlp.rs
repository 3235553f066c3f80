//! An OTLP receiver: protocol/exporter.md of the specification, with what a caller wrote before the variables.

use reqwest::Url;

use super::*;
use crate::config::{Otlp, Protocol, Tls, headers, url, written};
use crate::secret::Secret;

/// Resolves an OTLP destination. `at` is where `written` stands, for errors.
///
/// The default protocol is gRPC rather than `http/protobuf`, which the specification allows "for strong reasons". Ours: a
/// status with its details (RetryInfo) tells an overload from a refusal and how long to wait, and on that hangs whether an
/// audit event is sent again or becomes a dead letter; over HTTP any proxy on the way answers with statuses of its own.
pub(in crate::config) fn otlp(
    written: written::Otlp,
    at: &str,
    environment: &Environment,
    warnings: &mut Vec<String>,
) -> Result<Otlp, ConfigError> {
    let protocols = [OTEL_EXPORTER_OTLP_LOGS_PROTOCOL, OTEL_EXPORTER_OTLP_PROTOCOL];
    let timeouts = [OTEL_EXPORTER_OTLP_LOGS_TIMEOUT, OTEL_EXPORTER_OTLP_TIMEOUT];
    let compressions = [OTEL_EXPORTER_OTLP_LOGS_COMPRESSION, OTEL_EXPORTER_OTLP_COMPRESSION];
    let certificates: [&[&str]; 3] = [
        &[OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE, OTEL_EXPORTER_OTLP_CERTIFICATE],
        &[OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE, OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE],
        &[OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY, OTEL_EXPORTER_OTLP_CLIENT_KEY],
    ];
    let named = written_or(written.protocol, || environment.lenient(&protocols, choice, warnings))?;
    let protocol = named.unwrap_or(Protocol::Grpc);
    let (setting, endpoint) = endpoint(written.endpoint.as_deref(), at, protocol, environment, warnings)?;
    let tls = tls(written.tls(), certificates, environment)?;
    if named.is_none() && endpoint.ends_with(":4318") {
        let why = format!(
            "4318 is the usual port of OTLP/HTTP, but without {OTEL_EXPORTER_OTLP_PROTOCOL} it is spoken to by gRPC"
        );
        warn(warnings, &setting, &endpoint, &why);
    }
    if endpoint.starts_with("http:") && tls != Tls::default() {
        warn(warnings, &setting, &endpoint, "http means no TLS: the certificates that are set are not used");
    }
    let default = Otlp::grpc(endpoint);
    Ok(Otlp {
        protocol,
        headers: headers(written.headers, at, protocol, environment)?,
        timeout: written_or(written.timeout.map(written::Span::bound), || {
            environment.lenient(&timeouts, milliseconds, warnings)
        })?
        .unwrap_or(default.timeout),
        compression: written_or(written.compression, || environment.lenient(&compressions, choice, warnings))?
            .unwrap_or(default.compression),
        tls,
        body: written_or(written.body, || environment.strict(AUDITWIRE_OTLP_BODY, choice))?.unwrap_or(default.body),
        max_request_bytes: written.max_request_bytes.map_or(default.max_request_bytes, |size| size.0),
        ..default
    })
}

fn headers(
    written: Option<written::Headers>,
    at: &str,
    protocol: Protocol,
    environment: &Environment,
) -> Result<Vec<(String, Secret)>, ConfigError> {
    let written_at = format!("{at}.headers");
    let (setting, headers) = match written {
        Some(list) => (written_at.as_str(), headers::checked(&written_at, list.into_pairs())?),
        None => match environment.first(&[OTEL_EXPORTER_OTLP_LOGS_HEADERS, OTEL_EXPORTER_OTLP_HEADERS])? {
            Some((name, text)) => (name, headers::list(name, text)?),
            None => return Ok(Vec::new()),
        },
    };
    match headers.iter().find(|(name, _)| protocol == Protocol::Grpc && name.ends_with("-bin")) {
        Some((name, _)) => {
            Err(ConfigError::secret(setting, format!("header {name:?} is binary in gRPC: not supported")))
        }
        None => Ok(headers),
    }
}

/// What an HTTP endpoint stands for.
enum Form {
    /// The base URL of all signals.
    Base,
    /// The complete URL.
    Complete,
    /// The base URL when it has no path, else the complete one.
    ByPath,
}

/// The setting that names the endpoint, and the endpoint.
fn endpoint(
    written: Option<&str>,
    at: &str,
    protocol: Protocol,
    environment: &Environment,
    warnings: &mut Vec<String>,
) -> Result<(String, String), ConfigError> {
    let written_at = format!("{at}.endpoint");
    let (setting, text, form) = if let Some(text) = written {
        (written_at.as_str(), text, Form::ByPath)
    } else if let Some(text) = environment.text(OTEL_EXPORTER_OTLP_LOGS_ENDPOINT)? {
        (OTEL_EXPORTER_OTLP_LOGS_ENDPOINT, text, Form::Complete)
    } else if let Some(text) = environment.text(OTEL_EXPORTER_OTLP_ENDPOINT)? {
        (OTEL_EXPORTER_OTLP_ENDPOINT, text, Form::Base)
    } else if protocol == Protocol::Grpc {
        (OTEL_EXPORTER_OTLP_ENDPOINT, "http://localhost:4317", Form::Base)
    } else {
        (OTEL_EXPORTER_OTLP_ENDPOINT, "http://localhost:4318", Form::Base)
    };
    let insecure = environment.flag(&[OTEL_EXPORTER_OTLP_LOGS_INSECURE, OTEL_EXPORTER_OTLP_INSECURE], warnings)?;

    let text = text.trim();
    let wrong = |why: &str| ConfigError::new(setting, url::shown(text), why);
    let mut url = if protocol == Protocol::Grpc && !text.contains("://") {
        let scheme = if insecure { "http" } else { "https" };
        url::http(setting, &format!("{scheme}://{text}")).map_err(|error| wrong(&error.why))?
    } else {
        url::http(setting, text)?
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("credentials do not belong in an OTLP endpoint; put them in the headers"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("an OTLP endpoint has neither query nor fragment"));
    }
    if protocol == Protocol::Grpc {
        if url.path() != "/" {
            let why =
                format!("a gRPC endpoint has no path; for OTLP/HTTP set {OTEL_EXPORTER_OTLP_PROTOCOL}=http/protobuf");
            return Err(wrong(&why));
        }
        return Ok((setting.to_owned(), url.origin().ascii_serialization()));
    }
    match form {
        Form::Base => append_path(&mut url),
        Form::ByPath if url.path() == "/" => append_path(&mut url),
        Form::ByPath | Form::Complete => {}
    }
    Ok((setting.to_owned(), url.into()))
}

fn append_path(base: &mut Url) {
    let path = format!("{}/v1/logs", base.path().trim_end_matches('/'));
    base.set_path(&path);
}
