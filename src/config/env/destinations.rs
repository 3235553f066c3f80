//! Destinations: those that `OTEL_LOGS_EXPORTER` lists, and those that a program names in short.

use super::*;
use crate::config::{Destination, DestinationKind, File, Format, Webhook, distinct_names, headers, url, written};
use crate::secret::Secret;

/// The destinations of `OTEL_LOGS_EXPORTER`; none at all only for `none`.
///
/// The specification has unknown names warned of and ignored. That is done as long as another destination is left: an
/// audit exporter that would start without any, or fall back to one that nobody named, does not start.
pub(super) fn listed(environment: &Environment, warnings: &mut Vec<String>) -> Result<Vec<Destination>, ConfigError> {
    const KNOWN: &str = "known are otlp, console, webhook, file and none";
    let text = environment.text(OTEL_LOGS_EXPORTER)?.unwrap_or("otlp");
    let wrong = |why: String| ConfigError::new(OTEL_LOGS_EXPORTER, text, why);
    let mut names: Vec<String> = headers::members(text).map(str::to_ascii_lowercase).collect();
    if names.iter().any(|name| name == "none") {
        return if names.len() == 1 {
            Ok(Vec::new())
        } else {
            Err(wrong("`none` contradicts the other destinations".into()))
        };
    }
    let mut destinations = Vec::new();
    while !names.is_empty() {
        let name = names.remove(0);
        if names.contains(&name) {
            return Err(wrong(format!("`{name}` is listed twice, and each event would be sent twice")));
        }
        let kind = match name.as_str() {
            "otlp" => DestinationKind::Otlp(otlp(written::Otlp::default(), "otlp", environment, warnings)?),
            "webhook" => DestinationKind::Webhook(webhook(written::Webhook::default(), "webhook", environment)?),
            "file" => DestinationKind::File(file(written::File::default(), environment)?),
            "console" => stdout(None, environment)?,
            unknown => {
                warn(warnings, OTEL_LOGS_EXPORTER, text, &format!("`{unknown}` is ignored; {KNOWN}"));
                continue;
            }
        };
        destinations.push((None, kind));
    }
    if destinations.is_empty() {
        return Err(wrong(format!("no destination is left; {KNOWN}")));
    }
    Ok(distinct_names(destinations))
}

/// One destination in the short form of `--to`: `otlp`, `otlp=URL`, `webhook`, `webhook=URL`, `file`, `file=PATH`, `stdout`.
/// All that the form does not say comes from the variables of its kind.
///
/// A URL for OTLP/HTTP that has no path gets `/v1/logs`.
///
/// # Errors
/// An unknown kind, a missing or unusable URL or path, or a variable as in [`config`].
pub fn target(environment: &Environment, spec: &str, warnings: &mut Vec<String>) -> Result<Destination, ConfigError> {
    let kind = target_kind(environment, spec, warnings)?;
    Ok(Destination { name: kind.name().to_owned(), kind })
}

/// Several destinations as by [`target`]; the second of a kind is named `otlp-2`, and so on.
///
/// # Errors
/// As [`target`].
pub fn targets<'a>(
    environment: &Environment,
    specs: impl IntoIterator<Item = &'a str>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Destination>, ConfigError> {
    let kinds: Result<Vec<_>, _> =
        specs.into_iter().map(|spec| target_kind(environment, spec, warnings).map(|kind| (None, kind))).collect();
    Ok(distinct_names(kinds?))
}

fn target_kind(
    environment: &Environment,
    spec: &str,
    warnings: &mut Vec<String>,
) -> Result<DestinationKind, ConfigError> {
    const OPTION: &str = "--to";
    let (kind, rest) = spec.split_once('=').map_or((spec, None), |(kind, rest)| (kind, Some(rest)));
    let given = rest.map(str::to_owned);
    let resolved = match (kind, rest) {
        (_, Some("")) => Err(ConfigError::new(OPTION, spec, "nothing follows the `=`")),
        ("otlp", _) => otlp(written::Otlp { endpoint: given, ..Default::default() }, OPTION, environment, warnings)
            .map(DestinationKind::Otlp),
        ("webhook", _) => {
            let url = given.map(url::SecretUrl);
            webhook(written::Webhook { url, ..Default::default() }, OPTION, environment).map(DestinationKind::Webhook)
        }
        ("file", _) => file(written::File { path: given.map(PathBuf::from), ..Default::default() }, environment)
            .map(DestinationKind::File),
        ("stdout", None) => stdout(None, environment),
        _ => {
            let why = "not a destination; known are otlp, otlp=URL, webhook, webhook=URL, file, file=PATH and stdout";
            Err(ConfigError::new(OPTION, url::shown(spec), why))
        }
    };
    // The option has no fields: the error names it whole.
    resolved.map_err(|error| match error.setting.strip_prefix("--to.") {
        Some(_) => ConfigError { setting: format!("{OPTION} {kind}"), ..error },
        None => error,
    })
}

/// Resolves a webhook. `at` is where `written` stands, for errors.
pub(in crate::config) fn webhook(
    written: written::Webhook,
    at: &str,
    environment: &Environment,
) -> Result<Webhook, ConfigError> {
    let (setting, text) = match &written.url {
        Some(url) => (format!("{at}.url"), url.0.as_str()),
        None => match environment.text(AUDITWIRE_WEBHOOK_URL)? {
            Some(text) => (AUDITWIRE_WEBHOOK_URL.to_owned(), text),
            None => return Err(ConfigError::secret(AUDITWIRE_WEBHOOK_URL, "missing: the webhook has no URL")),
        },
    };
    let url = url::http(&setting, text)?;
    let written_tls = written.tls();
    let certificates: [&[&str]; 3] =
        [&[AUDITWIRE_WEBHOOK_CERTIFICATE], &[AUDITWIRE_WEBHOOK_CLIENT_CERTIFICATE], &[AUDITWIRE_WEBHOOK_CLIENT_KEY]];

    let mut headers_at = format!("{at}.headers");
    let mut headers = match written.headers {
        Some(list) => headers::checked(&headers_at, list.into_pairs())?,
        None => match environment.text(AUDITWIRE_WEBHOOK_HEADERS)? {
            Some(text) => {
                headers_at = AUDITWIRE_WEBHOOK_HEADERS.to_owned();
                headers::list(AUDITWIRE_WEBHOOK_HEADERS, text)?
            }
            None => Vec::new(),
        },
    };
    let authorization_at = format!("{at}.authorization");
    let authorization = written_or(written.authorization.map(|secret| (authorization_at, secret)), || {
        let text = environment.text(AUDITWIRE_WEBHOOK_AUTHORIZATION)?;
        Ok(text.map(|text| (AUDITWIRE_WEBHOOK_AUTHORIZATION.to_owned(), Secret::new(text))))
    })?;
    if let Some((authorization_at, secret)) = authorization {
        if headers.iter().any(|(name, _)| name == "authorization") {
            let why = format!("{headers_at} has such a header, too; which is meant?");
            return Err(ConfigError::secret(authorization_at, why));
        }
        if !url.username().is_empty() || url.password().is_some() {
            let why = format!("{setting} has credentials, too; which are meant?");
            return Err(ConfigError::secret(authorization_at, why));
        }
        let mut checked = headers::checked(&authorization_at, vec![("authorization".into(), secret)])?;
        headers.append(&mut checked);
    }
    let default = Webhook::new(url);
    Ok(Webhook {
        headers,
        timeout: written_or(written.timeout, || {
            environment.strict(AUDITWIRE_WEBHOOK_TIMEOUT, |text| units::duration(text).map(written::Span))
        })?
        .map_or(default.timeout, written::Span::bound),
        compression: written_or(written.compression, || environment.strict(AUDITWIRE_WEBHOOK_COMPRESSION, choice))?
            .unwrap_or(default.compression),
        tls: tls(written_tls, certificates, environment)?,
        format: format(written.format, AUDITWIRE_WEBHOOK_FORMAT, environment)?,
        max_request_bytes: written.max_request_bytes.map_or(default.max_request_bytes, |size| size.0),
        ..default
    })
}

/// Resolves a file.
pub(in crate::config) fn file(written: written::File, environment: &Environment) -> Result<File, ConfigError> {
    let path = written_or(written.path, || environment.path(&[AUDITWIRE_FILE_PATH]))?;
    let path = path.ok_or_else(|| ConfigError::secret(AUDITWIRE_FILE_PATH, "missing: the file has no path"))?;
    let default = File::new(path);
    Ok(File {
        format: format(written.format, AUDITWIRE_FILE_FORMAT, environment)?,
        sync: written_or(written.sync, || environment.strict(AUDITWIRE_FILE_SYNC, choice))?.unwrap_or(default.sync),
        ..default
    })
}

/// Resolves standard output.
pub(in crate::config) fn stdout(
    written: Option<Format>,
    environment: &Environment,
) -> Result<DestinationKind, ConfigError> {
    Ok(DestinationKind::Stdout { format: format(written, AUDITWIRE_STDOUT_FORMAT, environment)? })
}

fn format(written: Option<Format>, name: &'static str, environment: &Environment) -> Result<Format, ConfigError> {
    Ok(written_or(written, || environment.strict(name, choice))?.unwrap_or(Format::Ocsf))
}
