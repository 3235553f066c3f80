//! The stream configuration as written: agentkernel's JSON, extended. Everything may be absent; `null` is absent, too.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::url::SecretUrl;
use super::{Body, Compression, Format, OnFull, Protocol, Sync, Tls, env, units};
use crate::event::Product;
use crate::ocsf;
use crate::secret::Secret;

/// A whole configuration.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stream {
    pub(crate) destination: Option<Destination>,
    pub(crate) destinations: Option<Vec<Destination>>,
    pub(crate) batch_size: Option<usize>,
    pub(crate) flush_interval_secs: Option<u64>,
    pub(crate) max_retries: Option<u32>,
    pub(crate) ocsf_enabled: Option<bool>,
    pub(crate) queue_size: Option<usize>,
    pub(crate) on_full: Option<OnFull>,
    pub(crate) product: Option<Product>,
    pub(crate) dead_letter: Option<DeadLetter>,
    pub(crate) ocsf: Option<Ocsf>,
    pub(crate) max_event_bytes: Option<Size>,
    pub(crate) shutdown_timeout: Option<Span>,
    pub(crate) spool: Option<Spool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spool {
    pub(crate) dir: Option<PathBuf>,
    pub(crate) mode: Option<SpoolMode>,
    pub(crate) max_bytes: Option<Size>,
    pub(crate) block_timeout: Option<Span>,
    pub(crate) best_effort: Option<BTreeMap<String, NonZeroU64>>,
    pub(crate) start_at_end: Option<Vec<String>>,
    pub(crate) drain_rate: Option<NonZeroU32>,
}

/// When an event is accepted; `None` is `memory`.
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "String")]
pub(crate) struct SpoolMode(pub(crate) Option<crate::spool::Sync>);

impl TryFrom<String> for SpoolMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        env::spool_mode(&text).map(Self).map_err(|why| format!("{text:?}: {why}"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeadLetter {
    pub(crate) path: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ocsf {
    #[serde(deserialize_with = "version")]
    pub(crate) version: ocsf::Version,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Destination {
    HttpWebhook(Webhook),
    File(File),
    Stdout(Stdout),
    Otlp(Otlp),
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct Webhook {
    pub(crate) name: Option<String>,
    pub(crate) url: Option<SecretUrl>,
    pub(crate) authorization: Option<Secret>,
    pub(crate) headers: Option<Headers>,
    pub(crate) format: Option<Format>,
    pub(crate) timeout: Option<Span>,
    pub(crate) compression: Option<Compression>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) client_certificate: Option<PathBuf>,
    pub(crate) client_key: Option<PathBuf>,
    pub(crate) max_request_bytes: Option<Size>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) name: Option<String>,
    pub(crate) path: Option<PathBuf>,
    pub(crate) format: Option<Format>,
    pub(crate) sync: Option<Sync>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stdout {
    pub(crate) name: Option<String>,
    pub(crate) format: Option<Format>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct Otlp {
    pub(crate) name: Option<String>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) endpoint: Option<String>,
    pub(crate) headers: Option<Headers>,
    pub(crate) timeout: Option<Span>,
    pub(crate) compression: Option<Compression>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) client_certificate: Option<PathBuf>,
    pub(crate) client_key: Option<PathBuf>,
    pub(crate) body: Option<Body>,
    pub(crate) max_request_bytes: Option<Size>,
}

impl Destination {
    pub(crate) fn take_name(&mut self) -> Option<String> {
        match self {
            Self::HttpWebhook(Webhook { name, .. })
            | Self::File(File { name, .. })
            | Self::Stdout(Stdout { name, .. })
            | Self::Otlp(Otlp { name, .. }) => name.take(),
        }
    }
}

impl Webhook {
    pub(crate) fn tls(&self) -> Tls {
        Tls {
            certificate: self.certificate.clone(),
            client_certificate: self.client_certificate.clone(),
            client_key: self.client_key.clone(),
        }
    }
}

impl Otlp {
    pub(crate) fn tls(&self) -> Tls {
        Tls {
            certificate: self.certificate.clone(),
            client_certificate: self.client_certificate.clone(),
            client_key: self.client_key.clone(),
        }
    }
}

/// Header names with their values.
#[derive(Deserialize, Default)]
pub(crate) struct Headers(pub(crate) BTreeMap<String, Secret>);

impl Headers {
    pub(crate) fn into_pairs(self) -> Vec<(String, Secret)> {
        self.0.into_iter().collect()
    }
}

/// A duration in the form of [`units::duration`].
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "String")]
pub(crate) struct Span(pub(crate) Duration);

impl Span {
    /// As the bound of a request: 0 is none.
    pub(crate) fn bound(self) -> Option<Duration> {
        Some(self.0).filter(|duration| !duration.is_zero())
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        units::duration(&text).map(Self).map_err(|why| format!("{text:?}: {why}"))
    }
}

/// A size above 0: a number of bytes, or a text in the form of [`units::size`].
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "serde_json::Value")]
pub(crate) struct Size(pub(crate) usize);

impl TryFrom<serde_json::Value> for Size {
    type Error = String;

    fn try_from(value: serde_json::Value) -> Result<Self, String> {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let size = units::size(&text).and_then(env::not_zero);
        size.map(Self).map_err(|why| format!("{text:?}: {why}"))
    }
}

fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ocsf::Version, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(de::Error::custom)
}
