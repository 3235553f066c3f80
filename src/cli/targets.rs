//! Where events go: what `send` and `dlq replay` are told by options and variables.

use std::path::Path;

use anyhow::Result;
use auditwire::config::env::{self, Environment};
use auditwire::config::{Config, ConfigError, stream};

use super::exit;

/// The configuration by `--config`, else by `--to`, else by the variables.
///
/// # Errors
/// It cannot be used.
pub(crate) fn resolve(environment: &Environment, file: Option<&Path>, to: &[String]) -> Result<Config> {
    let mut warnings = Vec::new();
    let mut config = if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            setting: "--config".into(),
            value: Some(path.display().to_string()),
            why: error.to_string(),
        })?;
        stream::parse(&text, &path.display().to_string(), environment, &mut warnings)?
    } else if to.is_empty() {
        env::config(environment, &mut warnings)?
    } else {
        let mut config = env::settings(environment, &mut warnings)?;
        if config.disabled.is_none() {
            config.destinations = env::targets(environment, to.iter().map(String::as_str), &mut warnings)?;
        }
        config
    };
    warn(&warnings);
    // Somebody is watching: a destination that does not answer is said at once.
    config.max_retries = 0;
    Ok(config)
}

/// Says what was found odd about the variables.
pub(crate) fn warn(warnings: &[String]) {
    for warning in warnings {
        exit::say(format_args!("warning: {warning}"));
    }
}
