//! One destination: its logger provider with the SDK's batch log processor, our exporter in it, and the delivery task behind.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use opentelemetry::logs::LoggerProvider as _;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::{
    BatchConfigBuilder, BatchLogProcessor, LogBatch, LogExporter, LoggerProviderBuilder, SdkLoggerProvider,
};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::config::{Config, Destination};
use crate::delivery::Delivery;
use crate::error::{Error, Kind};
use crate::exporter::{self, Encoding, Exporter, Pool};
use crate::feed::Feed;
use crate::intake::{Intake, Parts, Spooled};
use crate::jsonl::JsonLines;
use crate::notice::Listener;
use crate::otlp::{SCOPE_NAME, SCOPE_VERSION};
use crate::spool::{Spool, Start};
use crate::stream::Stream;

/// Adds what the user wants to see records before they are exported: processors of their own, stock exporters.
pub(crate) type Extend = dyn Fn(&str, LoggerProviderBuilder) -> LoggerProviderBuilder + Send + Sync;

pub(crate) struct Pipeline {
    pub(crate) intake: Arc<Intake>,
    provider: SdkLoggerProvider,
    /// With a spool: the thread that feeds from it, until it is joined.
    feed: Mutex<Option<JoinHandle<()>>>,
}

/// What all pipelines of a streamer share.
pub(crate) struct Shared<'a> {
    pub(crate) config: &'a Config,
    pub(crate) resource: &'a Resource,
    pub(crate) runtime: &'a Handle,
    pub(crate) dead_letters: &'a Arc<JsonLines>,
    pub(crate) listener: &'a Listener,
    pub(crate) extend: Option<&'a Extend>,
    pub(crate) stop: &'a watch::Receiver<bool>,
    pub(crate) stream: &'a Arc<Stream>,
    pub(crate) spool: Option<&'a Arc<Spool>>,
}

impl Pipeline {
    pub(crate) fn start(destination: &Destination, shared: &Shared<'_>) -> Result<Self, Error> {
        let (exporter, encoding) = Exporter::new(destination, shared.resource)?;
        Self::with_exporter(&destination.name, exporter, encoding, shared)
    }

    pub(crate) fn with_exporter(
        name: &str,
        exporter: Exporter,
        encoding: Encoding,
        shared: &Shared<'_>,
    ) -> Result<Self, Error> {
        let spooled = match shared.spool.zip(shared.config.spool.as_ref()) {
            Some((spool, options)) => {
                let at_end = options.start_at_end.iter().any(|it| it == name);
                let start = if at_end { Start::End } else { Start::Oldest };
                let reader = spool.reader(name, start).map_err(|error| {
                    Error::new(Kind::Spool(format!("no cursor for {name} in {}: {error}", spool.dir().display())))
                })?;
                Some((reader, spool, options))
            }
            None => None,
        };
        let config = shared.config;
        let batch = config.batch;
        let processor_config = BatchConfigBuilder::default()
            .with_max_queue_size(batch.max_queue_size)
            .with_max_export_batch_size(batch.max_export_batch_size)
            .with_scheduled_delay(batch.schedule_delay)
            .build();
        // Nobody but our encoder reads records, unless the user said so.
        let encoding = if shared.extend.is_none() { encoding.of_text(config.limits) } else { encoding };
        let is_record_read = encoding.reads_record() || shared.extend.is_some();
        // One batch is being sent, one waits here, one is encoded and waits to get here: sending never waits for encoding.
        let (batches, encoded) = mpsc::channel(1);
        let processor = BatchLogProcessor::builder(Encoder { encoding, pool: Pool::default(), batches })
            .with_batch_config(processor_config)
            .build();
        // The user's processors come first: what they change is what we export.
        let builder = SdkLoggerProvider::builder().with_resource(shared.resource.clone());
        let builder = match shared.extend {
            Some(extend) => extend(name, builder),
            None => builder,
        };
        let provider = builder.with_log_processor(processor).build();
        let scope = InstrumentationScope::builder(SCOPE_NAME).with_version(SCOPE_VERSION).build();
        let intake = Arc::new(Intake::new(Parts {
            name: name.to_owned(),
            target: exporter.target(),
            logger: provider.logger_with_scope(scope),
            provider: provider.clone(),
            runtime: shared.runtime.clone(),
            capacity: batch.max_queue_size,
            limits: config.limits,
            is_record_read,
            stream: Arc::clone(shared.stream),
            spooled: spooled.as_ref().map(|(reader, spool, _)| Spooled::new(Arc::clone(spool), reader.acker())),
            dead_letters: Arc::clone(shared.dead_letters),
            listener: Arc::clone(shared.listener),
        }));
        let delivery = Delivery {
            exporter,
            intake: Arc::clone(&intake),
            backoff: config.backoff,
            max_retries: config.max_retries,
        };
        shared.runtime.spawn(delivery.run(encoded, shared.stop.clone()));
        let feed = match spooled {
            Some((reader, _, options)) => {
                let feed = Feed {
                    reader,
                    intake: Arc::clone(&intake),
                    stream: Arc::clone(shared.stream),
                    backoff: config.backoff,
                    rate: options.drain_rate,
                    max_lag: options.best_effort.get(name).copied(),
                    untold: None,
                };
                let thread = std::thread::Builder::new().name("auditwire-feed".into()).spawn(move || feed.run());
                Some(thread.map_err(|error| Error::new(Kind::Start(error.to_string())))?)
            }
            None => None,
        };
        Ok(Self { intake, provider, feed: Mutex::new(feed) })
    }

    /// Refuses those who still wait for a place, and gives what takes time to end.
    pub(crate) fn end(&self) -> Ending {
        self.intake.close();
        let feed = self.feed.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ending { provider: self.provider.clone(), feed }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // When another destination kept the streamer from starting, the feed of this one must not wait for a place for ever.
        self.intake.close();
    }
}

/// The threads of a pipeline that has stopped.
pub(crate) struct Ending {
    provider: SdkLoggerProvider,
    feed: Option<JoinHandle<()>>,
}

impl Ending {
    /// Returns once the threads are gone; a processor of the user's may hold its own up for a second.
    pub(crate) fn wait(self) {
        // What is outstanding has been told; the SDK's result knows no better.
        let _ = self.provider.shutdown_with_timeout(Duration::from_secs(1));
        if let Some(feed) = self.feed {
            // A panic there has been printed, and there is nothing left for it to do.
            let _ = feed.join();
        }
    }
}

/// The SDK-facing end of a destination: encodes on the processor's thread and hands over to the delivery task.
#[derive(Debug)]
struct Encoder {
    encoding: Encoding,
    pool: Pool,
    batches: mpsc::Sender<exporter::Batch>,
}

impl LogExporter for Encoder {
    /// Returns once the batch is in the bounded window in front of the delivery task, whose records keep their credits. It is an
    /// error only when delivery has stopped.
    async fn export(&self, records: LogBatch<'_>) -> OTelSdkResult {
        let batch = self.encoding.batch(&records, &self.pool);
        self.batches.send(batch).await.map_err(|_| OTelSdkError::AlreadyShutdown)
    }
}

/// The resource that the records' source is described with. The last value of a name wins.
pub(crate) fn resource(attributes: &[(String, String)]) -> Resource {
    /// Version of the semantic conventions whose names the resource uses.
    const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";
    let mut last: Vec<&(String, String)> = Vec::new();
    for attribute in attributes {
        last.retain(|(name, _)| *name != attribute.0);
        last.push(attribute);
    }
    let attributes = last.into_iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    Resource::builder_empty().with_schema_url(attributes, SCHEMA_URL).build()
}
