//! Configuration from the environment: the standard variables of the OpenTelemetry specification and ours.
//!
//! An empty value is an unset one. Where the specification (sdk-environment-variables.md, common.md) demands that a malformed
//! value is warned of and ignored - numbers, durations, choices, booleans - that is done, and the more general variable or the
//! default holds. Everywhere else, and for every variable of ours, a malformed value stops the start.
//!
//! The lookup order of an OTLP setting is: the caller's own (JSON, option), `OTEL_EXPORTER_OTLP_LOGS_X`,
//! `OTEL_EXPORTER_OTLP_X`, default. A list of headers replaces the more general one, it is not merged with it.

mod destinations;
mod otlp;
mod resource;
mod variables;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{Deserialize, IntoDeserializer};

pub(super) use self::destinations::{file, stdout, webhook};
pub use self::destinations::{target, targets};
pub(super) use self::otlp::otlp;
pub use self::resource::traceparent;
pub use self::variables::*;
use super::{Batch, Config, ConfigError, Limits, Spool, Tls, units};
use crate::event::Product;
use crate::ocsf;

/// The shortest [`Batch::schedule_delay`]: with none at all the SDK's thread would spin.
pub const SHORTEST_SCHEDULE_DELAY: Duration = Duration::from_millis(10);

/// "No limit" for a duration that has no such value: 24 days, the longest that the specification can express.
const NO_LIMIT: Duration = Duration::from_millis(LARGEST_INTEGER as u64);

/// Integers of the specification end here.
const LARGEST_INTEGER: u32 = i32::MAX as u32;

/// Variables as they were at one moment. `Debug` shows their names, never their values.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// The variables of this process. Nothing else in the library reads them.
    pub fn of_process() -> Self {
        std::env::vars_os().collect()
    }

    /// Sets a variable, as an option of the command line that goes before it does.
    #[must_use]
    pub fn with(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// The value of a variable, unless it is unset or empty.
    fn text(&self, name: &'static str) -> Result<Option<&str>, ConfigError> {
        match self.0.get(OsStr::new(name)).map(|value| value.to_str()) {
            None | Some(Some("")) => Ok(None),
            Some(Some(text)) => Ok(Some(text)),
            Some(None) => Err(ConfigError::secret(name, "the value is not UTF-8")),
        }
    }

    /// The first variable of a list that is set.
    fn first(&self, names: &[&'static str]) -> Result<Option<(&'static str, &str)>, ConfigError> {
        for name in names {
            if let Some(text) = self.text(name)? {
                return Ok(Some((name, text)));
            }
        }
        Ok(None)
    }

    fn path(&self, names: &[&'static str]) -> Result<Option<PathBuf>, ConfigError> {
        Ok(self.first(names)?.map(|(_, text)| PathBuf::from(text)))
    }

    /// A standard number, duration or choice: what cannot be read is warned of and passed over, as the specification demands.
    fn lenient<T>(
        &self,
        names: &[&'static str],
        read: impl Fn(&str) -> Result<T, String>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<T>, ConfigError> {
        for name in names {
            let Some(text) = self.text(name)? else { continue };
            match read(text.trim()) {
                Ok(value) => return Ok(Some(value)),
                Err(why) => warn(warnings, name, text, &format!("{why}; ignored")),
            }
        }
        Ok(None)
    }

    /// A variable of ours: what cannot be read stops the start.
    fn strict<T>(
        &self,
        name: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        read(text.trim()).map(Some).map_err(|why| ConfigError::new(name, text, why))
    }

    /// A standard boolean: only `true`, in any case, is true.
    fn flag(&self, names: &[&'static str], warnings: &mut Vec<String>) -> Result<bool, ConfigError> {
        let Some((name, text)) = self.first(names)? else { return Ok(false) };
        let is_true = text.eq_ignore_ascii_case("true");
        if !is_true && !text.eq_ignore_ascii_case("false") {
            warn(warnings, name, text, "neither true nor false; taken as false");
        }
        Ok(is_true)
    }

    /// Protects from typing errors: a variable with our prefix that nobody reads is a setting that its author believes in.
    fn refuse_unknown(&self) -> Result<(), ConfigError> {
        const PREFIX: &str = "AUDITWIRE_";
        let known = || VARIABLES.iter().map(|variable| variable.name).filter(|name| name.starts_with(PREFIX));
        for (name, value) in &self.0 {
            let name = name.to_string_lossy();
            if name.starts_with(PREFIX) && !value.is_empty() && !known().any(|known| known == name) {
                let nearest = known().min_by_key(|known| distance(known, &name)).unwrap_or_default();
                return Err(ConfigError::secret(name, format!("no such variable; is {nearest} meant?")));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<Name: Into<OsString>, Value: Into<OsString>> FromIterator<(Name, Value)> for Environment {
    fn from_iter<I: IntoIterator<Item = (Name, Value)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// The complete configuration: [`settings`], and the destinations that `OTEL_LOGS_EXPORTER` lists.
///
/// Warnings are one line each and name variable and value. Destinations are empty only with
/// [`disabled`](Config::disabled), which says why.
///
/// # Errors
/// The first variable that cannot be used, where the specification does not demand a mere warning.
pub fn config(environment: &Environment, warnings: &mut Vec<String>) -> Result<Config, ConfigError> {
    let mut config = settings(environment, warnings)?;
    if config.disabled.is_none() {
        config.destinations = destinations::listed(environment, warnings)?;
        if config.destinations.is_empty() {
            config.disabled = Some(format!("{OTEL_LOGS_EXPORTER}=none"));
        }
    }
    Ok(config)
}

/// Everything but the destinations, for a program that names its own, as by [`targets`].
///
/// With `OTEL_SDK_DISABLED` nothing else is read, so that a broken configuration can be switched off.
///
/// # Errors
/// As [`config`].
pub fn settings(environment: &Environment, warnings: &mut Vec<String>) -> Result<Config, ConfigError> {
    settings_or(Batch::default(), environment, warnings)
}

/// [`settings`] with other defaults for the batch processor.
pub(super) fn settings_or(
    defaults: Batch,
    environment: &Environment,
    warnings: &mut Vec<String>,
) -> Result<Config, ConfigError> {
    if let Some(path) = environment.text(OTEL_CONFIG_FILE)? {
        let why =
            "declarative configuration is not supported yet, and it would make all other variables void; unset it";
        return Err(ConfigError::new(OTEL_CONFIG_FILE, path, why));
    }
    if environment.flag(&[OTEL_SDK_DISABLED], warnings)? {
        return Ok(Config { disabled: Some(format!("{OTEL_SDK_DISABLED}=true")), ..Config::default() });
    }
    environment.refuse_unknown()?;

    let default = Config::default();
    Ok(Config {
        batch: batch(defaults, environment, warnings)?,
        on_full: environment.strict(AUDITWIRE_ON_FULL, choice)?.unwrap_or(default.on_full),
        mapping: ocsf::Mapping {
            version: environment
                .strict(AUDITWIRE_OCSF_VERSION, |text| {
                    text.parse().map_err(|error: ocsf::UnknownVersion| error.to_string())
                })?
                .unwrap_or(default.mapping.version),
        },
        limits: limits(environment, warnings)?,
        resource: resource::resource(environment)?,
        product: product(environment)?,
        dead_letter_path: dead_letter_path(environment)?,
        max_event_bytes: environment
            .strict(AUDITWIRE_MAX_EVENT_BYTES, |text| units::size(text).and_then(not_zero))?
            .unwrap_or(default.max_event_bytes),
        shutdown_timeout: environment
            .strict(AUDITWIRE_SHUTDOWN_TIMEOUT, units::duration)?
            .unwrap_or(default.shutdown_timeout),
        spool: spool(environment)?,
        ..default
    })
}

/// The spool by its variables; `None` without a folder, or with the mode `memory`.
fn spool(environment: &Environment) -> Result<Option<Spool>, ConfigError> {
    let dir = environment.path(&[AUDITWIRE_SPOOL_DIR])?;
    let mode = environment.strict(AUDITWIRE_SPOOL_MODE, spool_mode)?;
    let max_bytes = environment.strict(AUDITWIRE_SPOOL_MAX_BYTES, |text| units::size(text).and_then(not_zero))?;
    let block_timeout = environment.strict(AUDITWIRE_SPOOL_BLOCK_TIMEOUT, units::duration)?;
    let best_effort = environment.strict(AUDITWIRE_SPOOL_BEST_EFFORT, lag_limits)?.unwrap_or_default();
    let start_at_end = environment.strict(AUDITWIRE_SPOOL_START_AT_END, names)?.unwrap_or_default();
    let drain_rate = environment.strict(AUDITWIRE_SPOOL_DRAIN_RATE, |text| integer(text).and_then(not_zero))?;
    let (Some(dir), Some(sync)) = (dir, mode.unwrap_or(Some(crate::spool::Sync::Always))) else { return Ok(None) };
    let default = Spool::new(dir);
    Ok(Some(Spool {
        sync,
        max_bytes: max_bytes.map_or(default.max_bytes, |size| size as u64),
        block_timeout,
        best_effort,
        start_at_end,
        drain_rate: drain_rate.map(|rate| rate as u32),
        ..default
    }))
}

fn names(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<_> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if names.iter().any(String::is_empty) { Err("a name is empty".into()) } else { Ok(names) }
}

fn lag_limits(text: &str) -> Result<BTreeMap<String, u64>, String> {
    let limit = |pair: &str| {
        let (name, events) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is not name=events"))?;
        let events = events.trim().parse().ok().filter(|events| *events > 0);
        Ok((name.trim().to_owned(), events.ok_or_else(|| format!("{pair:?} has no number of events above 0"))?))
    };
    text.split(',').map(limit).collect()
}

/// `sync`, `interval=DURATION`, or `memory`, which is no spool.
pub(super) fn spool_mode(text: &str) -> Result<Option<crate::spool::Sync>, String> {
    match text.split_once('=') {
        None if text.eq_ignore_ascii_case("sync") => Ok(Some(crate::spool::Sync::Always)),
        None if text.eq_ignore_ascii_case("memory") => Ok(None),
        Some((name, duration)) if name.eq_ignore_ascii_case("interval") => {
            let interval = units::duration(duration)?;
            if interval.is_zero() {
                return Err("the interval must be more than 0; `sync` syncs at once".into());
            }
            Ok(Some(crate::spool::Sync::Interval(interval)))
        }
        _ => Err("must be `sync`, `interval=DURATION` or `memory`".into()),
    }
}

fn batch(defaults: Batch, environment: &Environment, warnings: &mut Vec<String>) -> Result<Batch, ConfigError> {
    let positive = |text: &str| integer(text).and_then(not_zero);
    let queue = environment.lenient(&[OTEL_BLRP_MAX_QUEUE_SIZE], positive, warnings)?;
    let batch = environment.lenient(&[OTEL_BLRP_MAX_EXPORT_BATCH_SIZE], positive, warnings)?;
    let delay = environment.lenient(&[OTEL_BLRP_SCHEDULE_DELAY], milliseconds, warnings)?;
    let timeout = environment.lenient(&[OTEL_BLRP_EXPORT_TIMEOUT], milliseconds, warnings)?;

    let max_queue_size = queue.unwrap_or(defaults.max_queue_size);
    if let Some(batch) = batch.filter(|batch| *batch > max_queue_size) {
        let why = format!("more than the queue's {max_queue_size}, which is taken instead");
        warn(warnings, OTEL_BLRP_MAX_EXPORT_BATCH_SIZE, &batch.to_string(), &why);
    }
    Ok(Batch {
        max_queue_size,
        max_export_batch_size: batch.unwrap_or(defaults.max_export_batch_size).min(max_queue_size),
        schedule_delay: delay.map_or(defaults.schedule_delay, |delay| delay.unwrap_or(SHORTEST_SCHEDULE_DELAY)),
        export_timeout: timeout.map_or(defaults.export_timeout, |bound| bound.unwrap_or(NO_LIMIT)),
    })
}

fn limits(environment: &Environment, warnings: &mut Vec<String>) -> Result<Limits, ConfigError> {
    let count = [OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT, OTEL_ATTRIBUTE_COUNT_LIMIT];
    let length = [OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT, OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT];
    Ok(Limits {
        attribute_count: environment.lenient(&count, integer, warnings)?.unwrap_or(Limits::default().attribute_count),
        attribute_value_length: environment.lenient(&length, integer, warnings)?,
    })
}

fn product(environment: &Environment) -> Result<Option<Product>, ConfigError> {
    let missing = |name, other| Err(ConfigError::secret(name, format!("missing, but {other} is set")));
    let version = environment.text(AUDITWIRE_PRODUCT_VERSION)?;
    match (environment.text(AUDITWIRE_PRODUCT_NAME)?, environment.text(AUDITWIRE_PRODUCT_VENDOR)?) {
        (Some(name), Some(vendor)) => Ok(Some(Product {
            name: name.to_owned(),
            vendor_name: vendor.to_owned(),
            version: version.unwrap_or_default().to_owned(),
        })),
        (Some(_), None) => missing(AUDITWIRE_PRODUCT_VENDOR, AUDITWIRE_PRODUCT_NAME),
        (None, Some(_)) => missing(AUDITWIRE_PRODUCT_NAME, AUDITWIRE_PRODUCT_VENDOR),
        (None, None) if version.is_some() => missing(AUDITWIRE_PRODUCT_NAME, AUDITWIRE_PRODUCT_VERSION),
        (None, None) => Ok(None),
    }
}

/// What a caller wrote, else what the variables say.
fn written_or<T>(
    written: Option<T>,
    variables: impl FnOnce() -> Result<Option<T>, ConfigError>,
) -> Result<Option<T>, ConfigError> {
    match written {
        Some(value) => Ok(Some(value)),
        None => variables(),
    }
}

/// Certificates: what was written, else the variables named for certificate, client certificate and client key.
fn tls(written: Tls, names: [&[&'static str]; 3], environment: &Environment) -> Result<Tls, ConfigError> {
    let [certificate, client_certificate, client_key] = names;
    let tls = Tls {
        certificate: written_or(written.certificate, || environment.path(certificate))?,
        client_certificate: written_or(written.client_certificate, || environment.path(client_certificate))?,
        client_key: written_or(written.client_key, || environment.path(client_key))?,
    };
    let missing = |names: &[&'static str], set: &PathBuf| {
        let why = format!("missing: mTLS needs the client's certificate and its key, and only {set:?} is set");
        Err(ConfigError::secret(names.last().copied().unwrap_or_default(), why))
    };
    match (&tls.client_certificate, &tls.client_key) {
        (Some(set), None) => missing(client_key, set),
        (None, Some(set)) => missing(client_certificate, set),
        _ => Ok(tls),
    }
}

/// A state folder that is not absolute is none (XDG Base Directory Specification).
fn dead_letter_path(environment: &Environment) -> Result<PathBuf, ConfigError> {
    if let Some(path) = environment.path(&[AUDITWIRE_DEAD_LETTER_PATH])? {
        return Ok(path);
    }
    let absolute = |name| Ok(environment.path(&[name])?.filter(|path| path.is_absolute()));
    let state = match absolute(XDG_STATE_HOME)? {
        Some(state) => Some(state),
        None => absolute(HOME)?.map(|home| home.join(".local/state")),
    };
    Ok(match state {
        Some(state) => state.join("auditwire/dead-letters.jsonl"),
        None => Config::default().dead_letter_path,
    })
}

/// A choice by its name, in any case; the error lists the accepted ones.
pub(super) fn choice<'de, T: Deserialize<'de>>(text: &str) -> Result<T, String> {
    let name = text.to_ascii_lowercase().into_deserializer();
    T::deserialize(name).map_err(|error: serde::de::value::Error| error.to_string())
}

pub(super) fn not_zero(number: usize) -> Result<usize, String> {
    if number == 0 { Err("must be more than 0".into()) } else { Ok(number) }
}

fn integer(text: &str) -> Result<usize, String> {
    let number = text.parse::<u32>().ok().filter(|number| *number <= LARGEST_INTEGER);
    let number = number.ok_or_else(|| format!("not an integer from 0 to {LARGEST_INTEGER}"))?;
    usize::try_from(number).map_err(|error| error.to_string())
}

/// A standard duration or timeout; 0 is none.
fn milliseconds(text: &str) -> Result<Option<Duration>, String> {
    let number = integer(text).map_err(|why| format!("{why} (milliseconds)"))?;
    Ok(Some(Duration::from_millis(number as u64)).filter(|duration| !duration.is_zero()))
}

/// Adds a warning, once.
fn warn(warnings: &mut Vec<String>, name: &str, text: &str, why: &str) {
    let line = ConfigError::new(name, text, why).to_string();
    if !warnings.contains(&line) {
        warnings.push(line);
    }
}

/// How many letters must be added, left out or replaced to get from one name to the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, a) in from.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], above + 1);
        for (left, b) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[left + 1];
            row[left + 1] = replaced.min(row[left] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests;
