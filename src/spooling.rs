//! Opening the spool that a configuration names, and saying what was found there.

use std::sync::Arc;

use crate::config::{self, Config, ConfigError, Destination, OnFull};
use crate::error::{Error, Kind};
use crate::feed::{self, STAMP_BYTES};
use crate::gap;
use crate::notice::{Listener, Notice};
use crate::spool::{self, OpenError, Options, Recovery, Spool};
use crate::stream::Stream;

/// Opens the spool, or a fresh one beside it where its damage leaves open what was accepted: auditing goes on, and the alarm is
/// raised.
///
/// Gives the alarms too: losses whose extent nobody knows, which the stream has yet to announce.
pub(crate) fn open(
    spool: &config::Spool,
    config: &Config,
    listener: &Listener,
) -> Result<(Arc<Spool>, Vec<String>), Error> {
    let on_full = match config.on_full {
        OnFull::Block => spool::OnFull::Block { timeout: spool.block_timeout },
        OnFull::Refuse => spool::OnFull::Refuse,
        OnFull::Drop => {
            let why = "not possible with a spool, which never drops; use `block` or `refuse`".into();
            return Err(ConfigError { setting: "on_full".into(), value: Some("drop".into()), why }.into());
        }
    };
    let unknown = |name: &&String| config.destinations.iter().all(|destination| destination.name != **name);
    for (setting, name) in [
        ("spool.best_effort", spool.best_effort.keys().find(unknown)),
        ("spool.start_at_end", spool.start_at_end.iter().find(unknown)),
    ] {
        if let Some(name) = name {
            let why = "no destination has this name".into();
            return Err(ConfigError { setting: setting.into(), value: Some(name.clone()), why }.into());
        }
    }
    let options = Options {
        max_bytes: spool.max_bytes,
        max_record_bytes: (config.max_event_bytes + STAMP_BYTES) as u64,
        sync: spool.sync,
        on_full,
        ..Options::default()
    };
    let warn = |text: String| listener(&Notice::Warning { text });
    let (opened, recovery, refusals) = Spool::open_beside(&spool.dir, options).map_err(|error| match error {
        OpenError::Options { why } => {
            let setting = "spool.max_bytes".into();
            Error::from(ConfigError { setting, value: Some(spool.max_bytes.to_string()), why })
        }
        error => Error::new(Kind::Spool(error.to_string())),
    })?;
    let mut alarms = Vec::new();
    for refusal in refusals {
        alarms.push(format!(
            "{refusal}; it is left as it is, `auditwire spool salvage` rescues what is intact; auditing goes on in {}",
            opened.dir().display()
        ));
    }
    report(&recovery, &opened, &mut alarms, warn);
    for alarm in &alarms {
        warn(format!("ALARM: {alarm}"));
    }
    Ok((Arc::new(opened), alarms))
}

/// Announces alarms in the stream itself.
pub(crate) fn announce(alarms: &[String], spool: &Spool, stream: &Stream, listener: &Listener) {
    for alarm in alarms {
        if let Err(error) = feed::append(spool, stream, &gap::unknown(alarm, stream)) {
            listener(&Notice::Warning { text: format!("the stream could not be told of an alarm: {error}") });
        }
    }
}

fn report(recovery: &Recovery, spool: &Spool, alarms: &mut Vec<String>, warn: impl Fn(String)) {
    let dir = spool.dir().display();
    for warning in &recovery.warnings {
        warn(format!("spool {dir}: {warning:?}"));
    }
    if let Some(tail) = &recovery.tail {
        let saved = tail.saved.as_ref().map(|path| format!(", kept in {}", path.display())).unwrap_or_default();
        warn(format!(
            "spool {dir}: {} bytes behind the last intact event were torn by a crash and cut{saved}",
            tail.torn_bytes
        ));
        if tail.shortened_by > 0 {
            alarms.push(format!(
                "spool {dir}: its last file is {} bytes shorter than it was made, which no crash does",
                tail.shortened_by
            ));
        }
    }
    if recovery.segments_gone {
        warn(format!(
            "ALARM: spool {dir}: its segments are gone; what was not delivered is lost, and how much is unknown"
        ));
    }
    for destination in &recovery.cursors_reset {
        warn(format!("spool {dir}: the cursor of {destination} was damaged; it gets again what the spool holds"));
    }
}

/// A destination that is configured no more keeps its events, and their space, until somebody removes it.
pub(crate) fn announce_strangers(spool: &Spool, destinations: &[Destination], listener: &Listener) {
    let strange = |name: &str| destinations.iter().all(|destination| destination.name != name);
    for lag in spool.destinations().into_iter().filter(|lag| strange(&lag.destination)) {
        let (dir, name, records) = (spool.dir().display(), lag.destination, lag.records);
        let text = format!(
            "the spool {dir} keeps {records} events for {name}, which is not configured; \
             `auditwire spool remove {dir} {name}` gives them up"
        );
        listener(&Notice::Warning { text });
    }
}
