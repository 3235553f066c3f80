//! What a streamer is made of, and in which order.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use opentelemetry_sdk::logs::LoggerProviderBuilder;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::{AuditStreamer, Inner, Settings};
use crate::config::{Config, ConfigError, Sync};
use crate::error::{Error, Kind};
use crate::event;
use crate::jsonl::JsonLines;
use crate::notice::{self, Listener, Notice};
use crate::pipeline::{self, Extend, Pipeline, Shared};
use crate::spool::Spool;
use crate::spooling;
use crate::stream::Stream;

/// Sets up an [`AuditStreamer`].
pub struct Builder {
    config: Config,
    listener: Listener,
    extend: Option<Box<Extend>>,
}

impl Builder {
    pub(super) fn new(config: Config) -> Self {
        Self { config, listener: Arc::new(notice::to_stderr), extend: None }
    }

    /// Hears what the streamer has to say: a destination that fails, events that were refused. Default: one line each on
    /// standard error. It is called on the streamer's threads and must not block; if it panics, that notice goes unheard.
    #[must_use]
    pub fn on_notice(mut self, listener: impl Fn(&Notice) + Send + std::marker::Sync + 'static) -> Self {
        // A panic in somebody's listener must not end the delivery that called it.
        self.listener = Arc::new(move |notice: &Notice| {
            let _ = std::panic::catch_unwind(AssertUnwindSafe(|| listener(notice)));
        });
        self
    }

    /// Extends each destination's logger provider by processors or exporters of the caller's own. They see each record with all its
    /// attributes and the OCSF event's JSON text as the body, before it is exported, and what they change is exported.
    #[must_use]
    pub fn extend_provider(
        mut self,
        extend: impl Fn(&str, LoggerProviderBuilder) -> LoggerProviderBuilder + Send + std::marker::Sync + 'static,
    ) -> Self {
        self.extend = Some(Box::new(extend));
        self
    }

    /// Starts the streamer. Nothing is connected yet: a destination that cannot be reached is retried, not an error.
    ///
    /// # Errors
    /// The configuration cannot be used (certificates are read here), or the system gives no threads.
    pub fn start(self) -> Result<AuditStreamer, Error> {
        let Self { config, listener, extend } = self;
        if let Some(why) = &config.disabled {
            listener(&Notice::Warning { text: format!("nothing is exported: {why}") });
        } else if config.destinations.is_empty() {
            let error = ConfigError { setting: "destinations".into(), value: None, why: "there is none".into() };
            return Err(error.into());
        }
        if config.batch.max_queue_size == 0 || config.batch.max_export_batch_size == 0 {
            let setting = "max_queue_size and max_export_batch_size".into();
            return Err(ConfigError { setting, value: Some("0".into()), why: "must be at least 1".into() }.into());
        }
        if let Some(product) = &config.product {
            event::set_product(product.clone()).map_err(|in_force| ConfigError {
                setting: "product".into(),
                value: Some(product.name.clone()),
                why: format!("this process already reports as {}", in_force.name),
            })?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("auditwire")
            .enable_all()
            .build()
            .map_err(|error| Error::new(Kind::Start(error.to_string())))?;
        let assembled = assemble(&config, &listener, extend.as_deref(), &runtime);
        let (pipelines, stream, spool, stop) = match assembled {
            Ok(assembled) => assembled,
            Err(error) => {
                // A runtime may not be dropped where the caller may be: inside another one.
                runtime.shutdown_background();
                return Err(error);
            }
        };
        Ok(AuditStreamer {
            inner: Arc::new(Inner {
                pipelines,
                broken: None,
                settings: Settings {
                    on_full: config.on_full,
                    max_queue_size: config.batch.max_queue_size,
                    max_event_bytes: config.max_event_bytes,
                    shutdown_timeout: config.shutdown_timeout,
                },
                stream,
                spool,
                accepted: AtomicU64::new(0),
                announced: AtomicU64::new(0),
                closed: AtomicBool::new(false),
                stop,
                runtime: Mutex::new(Some(runtime)),
                listener,
                nearly_full: AtomicBool::new(false),
            }),
        })
    }
}

type Assembled = (Vec<Pipeline>, Arc<Stream>, Option<Arc<Spool>>, watch::Sender<bool>);

fn assemble(
    config: &Config,
    listener: &Listener,
    extend: Option<&Extend>,
    runtime: &Runtime,
) -> Result<Assembled, Error> {
    let destinations = if config.disabled.is_some() { &[][..] } else { &config.destinations };
    let (spool, alarms) = match &config.spool {
        Some(spool) if config.disabled.is_none() => {
            let (spool, alarms) = spooling::open(spool, config, listener)?;
            (Some(spool), alarms)
        }
        _ => (None, Vec::new()),
    };
    let stream = Arc::new(Stream::new(config.mapping, spool.as_ref().map(|spool| spool.id())));
    let (stop, stopped) = watch::channel(false);
    let shared = Shared {
        config,
        resource: &pipeline::resource(&config.resource),
        runtime: runtime.handle(),
        dead_letters: &Arc::new(JsonLines::new(&config.dead_letter_path, Sync::Batch)),
        listener,
        extend,
        stop: &stopped,
        stream: &stream,
        spool: spool.as_ref(),
    };
    let pipelines: Result<Vec<_>, _> =
        destinations.iter().map(|destination| Pipeline::start(destination, &shared)).collect();
    let pipelines = pipelines.inspect_err(|_| {
        // The feeds of those that did start wait on it.
        if let Some(spool) = &spool {
            let _ = spool.close();
        }
    })?;
    if let Some(spool) = &spool {
        spooling::announce(&alarms, spool, &stream, listener);
        spooling::announce_strangers(spool, destinations, listener);
    }
    Ok((pipelines, stream, spool, stop))
}
