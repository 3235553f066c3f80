//! The handle that callers hold.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::logs::LoggerProviderBuilder;
use tokio::runtime::Runtime;
use tokio::sync::{SemaphorePermit, TryAcquireError, watch};

use crate::config::env::Environment;
use crate::config::stream::AuditStreamConfig;
use crate::config::{Config, ConfigError, OnFull, Sync};
use crate::error::{Error, Kind, Outstanding};
use crate::event::{self, AuditEvent};
use crate::intake::shared;
use crate::jsonl::JsonLines;
use crate::ledger::DestinationState;
use crate::notice::{self, Listener, Notice};
use crate::ocsf;
use crate::pipeline::{self, Extend, Pipeline, Shared};

/// Streams audit events to the destinations of its configuration.
///
/// A handle is cheap to clone; all clones feed the same queues. Work happens on threads of the streamer's own, so it serves callers
/// under any async runtime and under none. Dropping the last handle delivers what is outstanding, for
/// [`shutdown_timeout`](Config::shutdown_timeout) at most; [`shutdown`](Self::shutdown) does so and tells the result.
#[derive(Clone)]
pub struct AuditStreamer {
    inner: Arc<Inner>,
}

/// Proof that an event has been accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// Position in this streamer's stream, from 1. Events emitted by one thread have rising numbers.
    pub sequence: u64,
    /// The event's own identity.
    pub uid: String,
}

/// A streamer's books at a moment. Counts since the start.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct State {
    /// Events accepted.
    pub accepted: u64,
    /// Each destination's books.
    pub destinations: Vec<DestinationState>,
}

/// Sets up an [`AuditStreamer`].
pub struct Builder {
    config: Config,
    listener: Listener,
    extend: Box<Extend>,
}

struct Inner {
    pipelines: Vec<Pipeline>,
    /// Why every call fails: the compatible constructor cannot fail itself.
    broken: Option<Error>,
    on_full: OnFull,
    mapping: ocsf::Mapping,
    max_event_bytes: usize,
    shutdown_timeout: Duration,
    sequence: AtomicU64,
    closed: AtomicBool,
    stop: watch::Sender<bool>,
    /// Taken when the last handle goes.
    runtime: Mutex<Option<Runtime>>,
    listener: Listener,
}

impl Builder {
    /// Hears what the streamer has to say: a destination that fails, events that were refused. Default: one line each on
    /// standard error. It is called on the streamer's threads and must not block.
    #[must_use]
    pub fn on_notice(mut self, listener: impl Fn(&Notice) + Send + std::marker::Sync + 'static) -> Self {
        self.listener = Arc::new(listener);
        self
    }

    /// Extends each destination's logger provider by processors or exporters of the caller's own. They see each record with all its
    /// attributes and the OCSF event's JSON text as the body, before it is exported, and what they change is exported.
    #[must_use]
    pub fn extend_provider(
        mut self,
        extend: impl Fn(&str, LoggerProviderBuilder) -> LoggerProviderBuilder + Send + std::marker::Sync + 'static,
    ) -> Self {
        self.extend = Box::new(extend);
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
        let (stop, stopped) = watch::channel(false);
        let resource = pipeline::resource(&config.resource);
        let dead_letters = Arc::new(JsonLines::new(&config.dead_letter_path, Sync::Batch));
        let parts = Shared {
            config: &config,
            resource: &resource,
            runtime: runtime.handle(),
            dead_letters: &dead_letters,
            listener: &listener,
            extend: &*extend,
            stop: &stopped,
        };
        let destinations = if config.disabled.is_some() { &[][..] } else { &config.destinations };
        let pipelines = destinations.iter().map(|destination| Pipeline::start(destination, &parts)).collect();
        let pipelines = match pipelines {
            Ok(pipelines) => pipelines,
            Err(error) => {
                // A runtime may not be dropped where the caller may be: inside another one.
                runtime.shutdown_background();
                return Err(error.into());
            }
        };
        Ok(AuditStreamer {
            inner: Arc::new(Inner {
                pipelines,
                broken: None,
                on_full: config.on_full,
                mapping: config.mapping,
                max_event_bytes: config.max_event_bytes,
                shutdown_timeout: config.shutdown_timeout,
                sequence: AtomicU64::new(0),
                closed: AtomicBool::new(false),
                stop,
                runtime: Mutex::new(Some(runtime)),
                listener,
            }),
        })
    }
}

impl AuditStreamer {
    /// A streamer for agentkernel's stream configuration.
    ///
    /// It cannot fail, as it could not there. A configuration that cannot be used is said on standard error, and every call then
    /// returns it as the error. [`start`](Self::start) fails at once instead.
    pub fn new(config: AuditStreamConfig) -> Self {
        let mut warnings = Vec::new();
        let resolved = config.resolve(&Environment::of_process(), &mut warnings);
        for text in warnings {
            notice::to_stderr(&Notice::Warning { text });
        }
        let started = resolved.map_err(Error::from).and_then(Self::start);
        started.unwrap_or_else(|error| {
            notice::to_stderr(&Notice::Warning { text: error.to_string() });
            Self {
                inner: Arc::new(Inner {
                    pipelines: Vec::new(),
                    broken: Some(error),
                    on_full: OnFull::Refuse,
                    mapping: ocsf::Mapping::default(),
                    max_event_bytes: 0,
                    shutdown_timeout: Duration::ZERO,
                    sequence: AtomicU64::new(0),
                    closed: AtomicBool::new(false),
                    stop: watch::channel(true).0,
                    runtime: Mutex::new(None),
                    listener: Arc::new(notice::to_stderr),
                }),
            }
        })
    }

    /// A streamer for a configuration.
    ///
    /// # Errors
    /// The configuration cannot be used (certificates are read here), or the system gives no threads.
    pub fn start(config: Config) -> Result<Self, Error> {
        Self::builder(config).start()
    }

    /// Sets up a streamer that is listened to, or whose providers are extended.
    pub fn builder(config: Config) -> Builder {
        Builder { config, listener: Arc::new(notice::to_stderr), extend: Box::new(|_, builder| builder) }
    }

    /// Accepts an event for all destinations, from code without async. Under `on_full = block` it waits, blocking the thread, while
    /// a destination's queue is full.
    ///
    /// # Errors
    /// [`is_full`](Error::is_full) under `on_full = refuse`, [`is_too_large`](Error::is_too_large),
    /// [`is_closed`](Error::is_closed), [`is_config`](Error::is_config). No destination has got the event then.
    pub fn emit(&self, event: &AuditEvent) -> Result<Receipt, Error> {
        match self.accept_now(event)? {
            Admission::Accepted(receipt) => Ok(receipt),
            Admission::MustWait(text) => pollster::block_on(self.accept(event, text)),
        }
    }

    /// Accepts an event for all destinations. Under `on_full = block` it waits while a destination's queue is full.
    ///
    /// A full batch is sent without further calls, a smaller one after the schedule delay.
    ///
    /// # Errors
    /// As [`emit`](Self::emit).
    pub async fn queue_event(&self, event: AuditEvent) -> Result<Receipt, Error> {
        match self.accept_now(&event)? {
            Admission::Accepted(receipt) => Ok(receipt),
            Admission::MustWait(text) => self.accept(&event, text).await,
        }
    }

    /// Accepts events and returns once every destination has all of them.
    ///
    /// # Errors
    /// As [`emit`](Self::emit), at the first event that is not accepted; those before it are.
    /// [`is_rejected`](Error::is_rejected) when a destination refused events for good meanwhile.
    pub async fn stream_events(&self, events: Vec<AuditEvent>) -> Result<(), Error> {
        let rejected_before: Vec<_> = self.pipelines().map(|pipeline| pipeline.intake.ledger.rejected()).collect();
        for event in events {
            self.queue_event(event).await?;
        }
        self.flush().await?;
        for (pipeline, before) in self.pipelines().zip(rejected_before) {
            let events = pipeline.intake.ledger.rejected() - before;
            if events > 0 {
                return Err(Error::new(Kind::Rejected { events, destination: pipeline.intake.name.clone() }));
            }
        }
        Ok(())
    }

    /// Sends what has been accepted so far and returns once nothing of it is outstanding, however long that takes.
    ///
    /// # Errors
    /// [`outstanding`](Error::outstanding) when the streamer was shut down meanwhile; [`is_config`](Error::is_config).
    pub async fn flush(&self) -> Result<(), Error> {
        self.check()?;
        let marks: Vec<_> = self
            .pipelines()
            .map(|pipeline| {
                let mark = pipeline.intake.ledger.accepted();
                pipeline.flush_soon();
                mark
            })
            .collect();
        let mut complete = true;
        for (pipeline, mark) in self.pipelines().zip(marks) {
            complete &= pipeline.intake.ledger.settled(mark).await;
        }
        if complete { Ok(()) } else { Err(undelivered(&self.inner.pipelines, Duration::ZERO)) }
    }

    /// Events accepted and not yet delivered to the destination that is furthest behind.
    pub async fn buffered_count(&self) -> usize {
        let outstanding = self.pipelines().map(|pipeline| pipeline.intake.ledger.outstanding()).max();
        usize::try_from(outstanding.unwrap_or(0)).unwrap_or(usize::MAX)
    }

    /// The books of this streamer and its destinations.
    pub fn state(&self) -> State {
        State {
            accepted: self.inner.sequence.load(Ordering::Relaxed),
            destinations: self
                .pipelines()
                .map(|pipeline| pipeline.intake.ledger.state(&pipeline.intake.name, &pipeline.intake.target))
                .collect(),
        }
    }

    /// Accepts nothing more, delivers what is outstanding, for `timeout` at most, and ends. Waits for places and retries end at
    /// the deadline.
    ///
    /// # Errors
    /// [`outstanding`](Error::outstanding) names what was not delivered where; [`is_closed`](Error::is_closed) when it was shut
    /// down before.
    pub async fn shutdown(&self, timeout: Duration) -> Result<(), Error> {
        self.check()?;
        if self.inner.closed.swap(true, Ordering::SeqCst) {
            return Err(Error::new(Kind::Closed));
        }
        self.inner.shut_down(timeout).await
    }

    /// [`shutdown`](Self::shutdown) for code without async; blocks the thread.
    ///
    /// # Errors
    /// As [`shutdown`](Self::shutdown).
    pub fn shutdown_blocking(&self, timeout: Duration) -> Result<(), Error> {
        pollster::block_on(self.shutdown(timeout))
    }

    fn pipelines(&self) -> impl Iterator<Item = &Pipeline> {
        self.inner.pipelines.iter()
    }

    fn check(&self) -> Result<(), Error> {
        match &self.inner.broken {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Maps the event and accepts it, unless a place has to be waited for.
    fn accept_now(&self, event: &AuditEvent) -> Result<Admission, Error> {
        self.check()?;
        let text = self.map(event)?;
        let mut places = Vec::with_capacity(self.inner.pipelines.len());
        for pipeline in self.pipelines() {
            match (pipeline.intake.place_now(), self.inner.on_full) {
                (Ok(place), _) => places.push(Some(place)),
                (Err(TryAcquireError::Closed), _) => return Err(Error::new(Kind::Closed)),
                (Err(TryAcquireError::NoPermits), OnFull::Block) => return Ok(Admission::MustWait(text)),
                (Err(TryAcquireError::NoPermits), OnFull::Drop) => places.push(None),
                (Err(TryAcquireError::NoPermits), OnFull::Refuse) => {
                    return Err(Error::new(Kind::Full { destination: pipeline.intake.name.clone() }));
                }
            }
        }
        Ok(Admission::Accepted(self.hand_over(event, &text, places)?))
    }

    /// Waits for a place at each destination, in their order, so that two callers never wait for each other.
    async fn accept(&self, event: &AuditEvent, text: Arc<str>) -> Result<Receipt, Error> {
        let mut places = Vec::with_capacity(self.inner.pipelines.len());
        for pipeline in self.pipelines() {
            places.push(Some(pipeline.intake.place().await.map_err(|_| Error::new(Kind::Closed))?));
        }
        self.hand_over(event, &text, places)
    }

    fn map(&self, event: &AuditEvent) -> Result<Arc<str>, Error> {
        let mut text = Vec::with_capacity(2048);
        ocsf::encode(event, &self.inner.mapping, current_span().as_ref(), &mut text);
        if text.len() > self.inner.max_event_bytes {
            return Err(Error::new(Kind::TooLarge { bytes: text.len(), max: self.inner.max_event_bytes }));
        }
        Ok(shared(&text))
    }

    fn hand_over(
        &self,
        event: &AuditEvent,
        text: &Arc<str>,
        places: Vec<Option<SemaphorePermit<'_>>>,
    ) -> Result<Receipt, Error> {
        // Asked with the places in hand: a shutdown that begins after this sees them missing and waits for the event.
        if self.inner.closed.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Closed));
        }
        let sequence = self.inner.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let observed = SystemTime::now();
        for (pipeline, place) in self.pipelines().zip(places) {
            match place {
                Some(place) => pipeline.intake.take(place, Arc::clone(text), observed),
                None => pipeline.intake.drop_event(sequence),
            }
        }
        Ok(Receipt { sequence, uid: event.uid.clone() })
    }
}

enum Admission {
    Accepted(Receipt),
    MustWait(Arc<str>),
}

impl Inner {
    async fn shut_down(&self, timeout: Duration) -> Result<(), Error> {
        self.pipelines.iter().for_each(Pipeline::flush_soon);
        // The deadline needs a timer, and the caller may have none: it waits on our runtime.
        let intakes: Vec<_> = self.pipelines.iter().map(|pipeline| Arc::clone(&pipeline.intake)).collect();
        self.run(async move {
            let all_idle = futures_util::future::join_all(intakes.iter().map(|intake| intake.idle()));
            let _ = tokio::time::timeout(timeout, all_idle).await;
        })
        .await;
        let lacking = self.pipelines.iter().any(|pipeline| pipeline.intake.ledger.outstanding() > 0);
        let result = if lacking { Err(undelivered(&self.pipelines, timeout)) } else { Ok(()) };
        self.stop.send_replace(true);
        let providers: Vec<_> = self.pipelines.iter().map(Pipeline::end).collect();
        self.run(async move {
            let shut_down = move || {
                for provider in providers {
                    // What is outstanding has been told; the SDK's result knows no better.
                    let _ = provider.shutdown_with_timeout(Duration::from_secs(1));
                }
            };
            let _ = tokio::task::spawn_blocking(shut_down).await;
        })
        .await;
        result
    }

    /// Runs a future on the streamer's runtime, whatever polls this one.
    async fn run(&self, future: impl Future<Output = ()> + Send + 'static) {
        let task = {
            let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
            runtime.as_ref().map(|runtime| runtime.spawn(future))
        };
        if let Some(task) = task {
            // It ends early only with the runtime.
            let _ = task.await;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.closed.swap(true, Ordering::SeqCst)
            && self.broken.is_none()
            && let Err(error) = pollster::block_on(self.shut_down(self.shutdown_timeout))
        {
            (self.listener)(&Notice::Undelivered { text: error.to_string() });
        }
        if let Some(runtime) = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for AuditStreamer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditStreamer").field("state", &self.state()).finish_non_exhaustive()
    }
}

fn undelivered(pipelines: &[Pipeline], timeout: Duration) -> Error {
    let outstanding = pipelines
        .iter()
        .map(|pipeline| Outstanding {
            destination: pipeline.intake.name.clone(),
            events: pipeline.intake.ledger.outstanding(),
            last_error: pipeline.intake.ledger.last_error(),
        })
        .filter(|part| part.events > 0)
        .collect();
    Error::new(Kind::Undelivered { timeout, outstanding })
}

/// The OpenTelemetry span that is current where the event is emitted.
fn current_span() -> Option<ocsf::Span> {
    Context::map_current(|context| {
        let span = context.span();
        let context = span.span_context();
        context.is_valid().then(|| ocsf::Span {
            trace_id: context.trace_id().to_bytes(),
            span_id: context.span_id().to_bytes(),
            flags: context.trace_flags().to_u8(),
        })
    })
}

/// Handles go to any thread.
const _: fn() = || {
    fn is_send_and_sync<T: Send + std::marker::Sync>() {}
    is_send_and_sync::<AuditStreamer>();
};
