//! The stream configuration: agentkernel's types with its JSON, and our extension of that JSON by `destinations`.
//!
//! What a configuration leaves out comes from the variables of [`mod@env`], then from the defaults. The variables of
//! the webhook count for a configuration with a single webhook only: with several, each says all its own, so that a
//! credential never goes where it was not meant to.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::env::{self, Environment, SHORTEST_SCHEDULE_DELAY};
use super::url::SecretUrl;
use super::{Batch, Config, ConfigError, DestinationKind, Format, Spool, distinct_names, written};
use crate::secret::Secret;

/// agentkernel's stream configuration, field for field. `Debug` and `Serialize` show no secret; what they wrote is refused
/// when read back.
///
/// In JSON each field but `destination` may be absent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditStreamConfig {
    /// Where events go. Default standard output.
    pub destination: StreamDestination,
    /// Events in one request, at most. Default 10.
    #[serde(default = "batch_size")]
    pub batch_size: usize,
    /// How long an event waits for others, in seconds; 0 sends at once (after 10 ms). Default 30.
    #[serde(default = "flush_interval_secs")]
    pub flush_interval_secs: u64,
    /// Failed attempts in a row after which a destination is announced as failing; events are kept regardless. Default 3.
    #[serde(default = "max_retries")]
    pub max_retries: u32,
    /// Whether events are written as OCSF, or as they were given. Default true.
    #[serde(default = "ocsf_enabled")]
    pub ocsf_enabled: bool,
}

/// Where a stream goes, as agentkernel writes it: JSON with the tag `type`.
#[derive(Clone, PartialEq)]
pub enum StreamDestination {
    /// A URL that takes JSON arrays by `POST`.
    HttpWebhook {
        /// Where; `http` or `https`.
        url: String,
        /// `Authorization` header, verbatim.
        authorization: Option<String>,
        /// Further headers.
        headers: HashMap<String, String>,
    },
    /// A JSON Lines file.
    File {
        /// Where; parent folders are created.
        path: String,
    },
    /// Standard output, JSON Lines.
    Stdout,
}

fn batch_size() -> usize {
    10
}

fn flush_interval_secs() -> u64 {
    30
}

fn max_retries() -> u32 {
    3
}

fn ocsf_enabled() -> bool {
    true
}

impl Default for AuditStreamConfig {
    fn default() -> Self {
        Self {
            destination: StreamDestination::Stdout,
            batch_size: batch_size(),
            flush_interval_secs: flush_interval_secs(),
            max_retries: max_retries(),
            ocsf_enabled: ocsf_enabled(),
        }
    }
}

impl AuditStreamConfig {
    /// The configuration that a streamer is built from. What these fields do not cover comes from the environment.
    ///
    /// Warnings are one line each. The queue holds at least a batch, and 2048 events unless `OTEL_BLRP_MAX_QUEUE_SIZE` says
    /// otherwise.
    ///
    /// # Errors
    /// A field that cannot be used, by its name (`destination.url`), or a variable as in [`env::settings`].
    pub fn resolve(&self, environment: &Environment, warnings: &mut Vec<String>) -> Result<Config, ConfigError> {
        let written = written::Stream {
            destination: Some(self.destination.written()),
            batch_size: Some(self.batch_size),
            flush_interval_secs: Some(self.flush_interval_secs),
            max_retries: Some(self.max_retries),
            ocsf_enabled: Some(self.ocsf_enabled),
            ..Default::default()
        };
        resolve(written, "", environment, warnings)
    }
}

impl StreamDestination {
    fn written(&self) -> written::Destination {
        match self {
            Self::HttpWebhook { url, authorization, headers } => {
                let headers = headers.iter().map(|(name, value)| (name.clone(), Secret::new(value))).collect();
                written::Destination::HttpWebhook(written::Webhook {
                    url: Some(SecretUrl(url.clone())),
                    authorization: authorization.as_ref().map(Secret::new),
                    headers: Some(written::Headers(headers)),
                    ..Default::default()
                })
            }
            Self::File { path } => {
                written::Destination::File(written::File { path: Some(path.into()), ..Default::default() })
            }
            Self::Stdout => written::Destination::Stdout(written::Stdout::default()),
        }
    }
}

/// [`StreamDestination`] in JSON and in `Debug`, its secrets in custody.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Guarded {
    HttpWebhook {
        url: SecretUrl,
        #[serde(default)]
        authorization: Option<Secret>,
        #[serde(default)]
        headers: HashMap<String, Secret>,
    },
    File {
        path: String,
    },
    Stdout,
}

impl From<&StreamDestination> for Guarded {
    fn from(destination: &StreamDestination) -> Self {
        match destination.clone() {
            StreamDestination::HttpWebhook { url, authorization, headers } => Self::HttpWebhook {
                url: SecretUrl(url),
                authorization: authorization.map(Secret::new),
                headers: headers.into_iter().map(|(name, value)| (name, Secret::new(value))).collect(),
            },
            StreamDestination::File { path } => Self::File { path },
            StreamDestination::Stdout => Self::Stdout,
        }
    }
}

impl fmt::Debug for StreamDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Guarded::from(self).fmt(f)
    }
}

impl Serialize for StreamDestination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Guarded::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for StreamDestination {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let guarded =
            Guarded::deserialize(deserializer).map_err(|error| de::Error::custom(without_text(&error.to_string())))?;
        Ok(match guarded {
            Guarded::HttpWebhook { url, authorization, headers } => Self::HttpWebhook {
                url: url.0,
                authorization: authorization.map(|secret| secret.expose().to_owned()),
                headers: headers.into_iter().map(|(name, value)| (name, value.expose().to_owned())).collect(),
            },
            Guarded::File { path } => Self::File { path },
            Guarded::Stdout => Self::Stdout,
        })
    }
}

/// serde quotes a text of the wrong type, and that text may be a secret: `invalid type: string "…", expected a map`.
fn without_text(message: &str) -> String {
    match (message.find(": string \""), message.rfind("\", expected ")) {
        (Some(from), Some(to)) if from < to => {
            format!("{}{}", &message[..from + ": string".len()], &message[to + 1..])
        }
        _ => message.to_owned(),
    }
}

/// Reads the stream configuration as JSON. `origin` is the file's name, for errors.
///
/// Beside the fields of [`AuditStreamConfig`], all of which but the destination may be absent, an object has
/// - `destinations`: a list in place of `destination`
/// - `queue_size`, `on_full` (`block`, `refuse`, `drop`), `max_event_bytes`, `shutdown_timeout`
/// - `product`: `name`, `vendor_name`, `version` · `dead_letter`: `path` · `ocsf`: `version`
///
/// and a destination, by its `type`, beside an optional `name`
/// - `http_webhook`: `url`, `authorization`, `headers`, `format`, `timeout`, `compression`, `certificate`, `client_certificate`,
///   `client_key`, `max_request_bytes`
/// - `file`: `path`, `format`, `sync` (`batch`, `never`) · `stdout`: `format`
/// - `otlp`: `protocol`, `endpoint`, `headers`, `timeout`, `compression`, `certificate`, `client_certificate`, `client_key`,
///   `body` (`map`, `json`, `message`), `max_request_bytes`
///
/// `format` is `ocsf`, `audit` or `otlp_json`; durations are texts such as `10s`, sizes numbers of bytes or texts such as `2MiB`.
///
/// ```
/// use auditwire::config::{env::Environment, stream};
///
/// let text = r#"{"destinations": [
///     {"type": "otlp", "endpoint": "https://collector:4317"},
///     {"type": "file", "path": "audit/out.jsonl", "name": "archive"}
/// ]}"#;
/// // A program takes `Environment::of_process()`.
/// let environment = Environment::from_iter([("OTEL_SERVICE_NAME", "gatekeeper")]);
/// let mut warnings = Vec::new();
/// let config = stream::parse(text, "stream.json", &environment, &mut warnings)?;
/// assert_eq!(config.destinations[1].name, "archive");
/// # Ok::<(), auditwire::config::ConfigError>(())
/// ```
///
/// # Errors
/// `FILE:LINE:COLUMN` for what is no such JSON, an unknown field among it; for an object that begins earlier the position is
/// its end. `FILE: FIELD` for a value that cannot be used.
pub fn parse(
    text: &str,
    origin: &str,
    environment: &Environment,
    warnings: &mut Vec<String>,
) -> Result<Config, ConfigError> {
    let written = serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let message = error.to_string();
        let why = message.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&message);
        ConfigError::secret(format!("{origin}:{line}:{column}"), without_text(why))
    })?;
    resolve(written, &format!("{origin}: "), environment, warnings)
}

/// Resolves what was written; `origin` precedes each field's name in errors.
fn resolve(
    written: written::Stream,
    origin: &str,
    environment: &Environment,
    warnings: &mut Vec<String>,
) -> Result<Config, ConfigError> {
    let defaults = Batch {
        max_export_batch_size: batch_size(),
        schedule_delay: Duration::from_secs(flush_interval_secs()),
        ..Batch::default()
    };
    let mut config = env::settings_or(defaults, environment, warnings)?;
    config.batch = batch(&written, config.batch, origin)?;
    if let Some(max_retries) = written.max_retries {
        config.max_retries = max_retries;
    }
    if let Some(on_full) = written.on_full {
        config.on_full = on_full;
    }
    if let Some(product) = written.product {
        config.product = Some(product);
    }
    if let Some(dead_letter) = written.dead_letter {
        if dead_letter.path.as_os_str().is_empty() {
            return Err(ConfigError::secret(format!("{origin}dead_letter.path"), "missing"));
        }
        config.dead_letter_path = dead_letter.path;
    }
    if let Some(ocsf) = written.ocsf {
        config.mapping.version = ocsf.version;
    }
    if let Some(size) = written.max_event_bytes {
        config.max_event_bytes = size.0;
    }
    if let Some(timeout) = written.shutdown_timeout {
        config.shutdown_timeout = timeout.0;
    }
    if let Some(written) = written.spool {
        config.spool = spool(&written, config.spool, origin)?;
    }
    let list = match (written.destination, written.destinations) {
        (Some(only), None) => vec![(format!("{origin}destination"), only)],
        (None, Some(list)) if list.is_empty() => {
            return Err(ConfigError::secret(format!("{origin}destinations"), "the list is empty"));
        }
        (None, Some(list)) => {
            let named = |(index, written)| (format!("{origin}destinations[{index}]"), written);
            list.into_iter().enumerate().map(named).collect()
        }
        (Some(_), Some(_)) => {
            let why = "contradicts `destination`: write one of the two";
            return Err(ConfigError::secret(format!("{origin}destinations"), why));
        }
        (None, None) => return Err(ConfigError::secret(format!("{origin}destination"), "missing")),
    };
    config.destinations = destinations(list, written.ocsf_enabled, environment, warnings)?;
    // Read all the same, so that a mistake shows before the day it is enabled.
    if config.disabled.is_some() {
        config.destinations.clear();
    }
    Ok(config)
}

/// The spool as written, over what the variables say.
fn spool(written: &written::Spool, variables: Option<Spool>, origin: &str) -> Result<Option<Spool>, ConfigError> {
    let mode = written.mode.map(|mode| mode.0);
    if mode == Some(None) {
        return Ok(None);
    }
    let mut spool = match (&written.dir, variables) {
        (Some(dir), Some(variables)) => Spool { dir: dir.clone(), ..variables },
        (Some(dir), None) => Spool::new(dir),
        (None, Some(variables)) => variables,
        (None, None) => return Err(ConfigError::secret(format!("{origin}spool.dir"), "missing")),
    };
    if let Some(Some(sync)) = mode {
        spool.sync = sync;
    }
    if let Some(size) = written.max_bytes {
        spool.max_bytes = size.0 as u64;
    }
    if let Some(timeout) = written.block_timeout {
        spool.block_timeout = Some(timeout.0);
    }
    if let Some(best_effort) = &written.best_effort {
        spool.best_effort = best_effort.iter().map(|(name, events)| (name.clone(), events.get())).collect();
    }
    if let Some(names) = &written.start_at_end {
        spool.start_at_end.clone_from(names);
    }
    if let Some(rate) = written.drain_rate {
        spool.drain_rate = Some(rate.get());
    }
    Ok(Some(spool))
}

fn batch(written: &written::Stream, mut batch: Batch, origin: &str) -> Result<Batch, ConfigError> {
    // Numbers that the batch processor's standard variables could express.
    const LARGEST: usize = i32::MAX as usize;
    let named = |name: &str, size: Option<usize>| match size {
        Some(size) if size == 0 || size > LARGEST => {
            let why = format!("must be from 1 to {LARGEST}");
            Err(ConfigError::new(format!("{origin}{name}"), size.to_string(), why))
        }
        size => Ok(size),
    };
    let size = named("batch_size", written.batch_size)?;
    let queue = named("queue_size", written.queue_size)?;
    batch.max_export_batch_size = size.unwrap_or(batch.max_export_batch_size);
    if let Some(queue) = queue {
        if size.is_some_and(|size| size > queue) {
            let why = format!("must hold a batch, which is {}", batch.max_export_batch_size);
            return Err(ConfigError::new(format!("{origin}queue_size"), queue.to_string(), why));
        }
        batch.max_export_batch_size = batch.max_export_batch_size.min(queue);
    }
    batch.max_queue_size = queue.unwrap_or(batch.max_queue_size.max(batch.max_export_batch_size));
    if let Some(seconds) = written.flush_interval_secs {
        if u32::try_from(seconds).is_err() {
            let setting = format!("{origin}flush_interval_secs");
            return Err(ConfigError::new(setting, seconds.to_string(), "longer than a century"));
        }
        batch.schedule_delay = Duration::from_secs(seconds).max(SHORTEST_SCHEDULE_DELAY);
    }
    Ok(batch)
}

/// Resolves destinations, each with the place where it is written.
fn destinations(
    list: Vec<(String, written::Destination)>,
    ocsf_enabled: Option<bool>,
    environment: &Environment,
    warnings: &mut Vec<String>,
) -> Result<Vec<super::Destination>, ConfigError> {
    let format = ocsf_enabled.map(|enabled| if enabled { Format::Ocsf } else { Format::Audit });
    let webhooks = list.iter().filter(|(_, written)| matches!(written, written::Destination::HttpWebhook(_))).count();
    let nothing = Environment::default();
    let of_webhook = if webhooks == 1 { environment } else { &nothing };

    let mut names = HashSet::new();
    let mut resolved = Vec::with_capacity(list.len());
    for (at, mut written) in list {
        let name = written.take_name();
        if let Some(name) = &name {
            let wrong = |why| ConfigError::new(format!("{at}.name"), name, why);
            if name.is_empty() || name.chars().any(char::is_control) {
                return Err(wrong("a name is a line of text"));
            }
            if !names.insert(name.clone()) {
                return Err(wrong("another destination has this name"));
            }
        }
        let missing = |field: &str| Err(ConfigError::secret(format!("{at}.{field}"), "missing"));
        let kind = match written {
            written::Destination::HttpWebhook(webhook) if webhook.url.is_none() => return missing("url"),
            written::Destination::HttpWebhook(webhook) => {
                let webhook = written::Webhook { format: webhook.format.or(format), ..webhook };
                DestinationKind::Webhook(env::webhook(webhook, &at, of_webhook)?)
            }
            written::Destination::File(file) if file.path.as_ref().is_none_or(|path| path.as_os_str().is_empty()) => {
                return missing("path");
            }
            written::Destination::File(file) => {
                let file = written::File { format: file.format.or(format), ..file };
                DestinationKind::File(env::file(file, environment)?)
            }
            written::Destination::Stdout(stdout) => env::stdout(stdout.format.or(format), environment)?,
            written::Destination::Otlp(_) if ocsf_enabled == Some(false) => {
                let why = "OTLP carries OCSF, which `ocsf_enabled` switches off; write `format` at the other destinations instead";
                return Err(ConfigError::secret(at, why));
            }
            written::Destination::Otlp(otlp) => DestinationKind::Otlp(env::otlp(otlp, &at, environment, warnings)?),
        };
        resolved.push((name, kind));
    }
    Ok(distinct_names(resolved))
}

#[cfg(test)]
mod tests;
