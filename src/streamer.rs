//! The handle that callers hold.

mod builder;
mod submission;

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt as _;
use smallvec::SmallVec;
use tokio::runtime::Runtime;
use tokio::sync::{SemaphorePermit, TryAcquireError, watch};

use crate::config::env::Environment;
use crate::config::stream::AuditStreamConfig;
use crate::config::{Config, OnFull};
use crate::error::{Error, Kind, Outstanding};
use crate::event::AuditEvent;
use crate::gap;
use crate::ledger::DestinationState;
use crate::mapped::{Buffer, Mapped};
use crate::notice::{self, Listener, Notice};
use crate::ocsf;
use crate::pipeline::{Ending, Pipeline};
use crate::spool::Spool;
use crate::stream::Stream;
use submission::Submitted;

pub use builder::Builder;
pub use submission::Submission;

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
    /// Its number in the stream, dense from 1 (`metadata.sequence` of the delivered event). The stream is the spool's, over all
    /// restarts, or this streamer's. Events emitted by one thread have rising numbers.
    pub sequence: u64,
    /// The event's own identity.
    pub uid: String,
}

/// A streamer's books at a moment. Counts since the start.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct State {
    /// Events accepted by this streamer. Its own gap records are not among them; the destinations' books count them too.
    pub accepted: u64,
    /// Each destination's books.
    pub destinations: Vec<DestinationState>,
}

struct Inner {
    pipelines: Vec<Pipeline>,
    /// Why every call fails: the compatible constructor cannot fail itself.
    broken: Option<Error>,
    settings: Settings,
    stream: Arc<Stream>,
    spool: Option<Arc<Spool>>,
    /// Events accepted by this streamer, its own among them. Without a spool they are numbered by it.
    accepted: AtomicU64,
    /// Those of its own: gap records of events that were too large.
    announced: AtomicU64,
    closed: AtomicBool,
    stop: watch::Sender<bool>,
    /// Taken when the last handle goes.
    runtime: Mutex<Option<Runtime>>,
    listener: Listener,
    /// Whether the spool's being nearly full has been said.
    nearly_full: AtomicBool,
}

/// What of the configuration is needed at every event.
#[derive(Debug, Clone, Copy)]
struct Settings {
    on_full: OnFull,
    max_queue_size: usize,
    max_event_bytes: usize,
    shutdown_timeout: Duration,
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
                    settings: Settings {
                        on_full: OnFull::Refuse,
                        max_queue_size: 0,
                        max_event_bytes: 0,
                        shutdown_timeout: Duration::ZERO,
                    },
                    stream: Arc::new(Stream::new(ocsf::Mapping::default(), None)),
                    spool: None,
                    accepted: AtomicU64::new(0),
                    announced: AtomicU64::new(0),
                    closed: AtomicBool::new(false),
                    stop: watch::channel(true).0,
                    runtime: Mutex::new(None),
                    listener: Arc::new(notice::to_stderr),
                    nearly_full: AtomicBool::new(false),
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
        Builder::new(config)
    }

    /// Accepts an event for all destinations, from code without async: it is on disk when this returns (with a spool), or in each
    /// destination's queue. Under `on_full = block` it waits, blocking the thread, while there is no room.
    ///
    /// # Errors
    /// [`is_full`](Error::is_full), [`is_too_large`](Error::is_too_large), [`is_closed`](Error::is_closed),
    /// [`is_config`](Error::is_config): no destination has got the event.
    /// [`is_outcome_unknown`](Error::is_outcome_unknown) when the device failed under the spool.
    pub fn emit(&self, event: &AuditEvent) -> Result<Receipt, Error> {
        let sequence = self.accept(std::slice::from_ref(event))?;
        Ok(Receipt { sequence, uid: event.uid.clone() })
    }

    /// [`emit`](Self::emit) for several events, with consecutive numbers: all of them or none. With a spool they share one sync.
    ///
    /// # Errors
    /// As [`emit`](Self::emit). [`is_too_large`](Error::is_too_large) also for more events than the queue holds.
    pub fn emit_all(&self, events: &[AuditEvent]) -> Result<Vec<Receipt>, Error> {
        Ok(receipts(events, self.accept(events)?))
    }

    /// Gives the number of the first one.
    fn accept(&self, events: &[AuditEvent]) -> Result<u64, Error> {
        let mut buffer = Buffer::take();
        let mapped = buffer.get();
        self.map_or_announce(events, mapped)?;
        if let Some(spool) = &self.inner.spool {
            let first = spool.append_all(&mapped.records().collect::<Vec<_>>())?;
            self.spooled(events.len());
            return Ok(first);
        }
        match self.places_now(events.len())? {
            Some(places) => self.hand_over(mapped, places),
            None => self.hand_over(mapped, pollster::block_on(self.places(events.len()))?),
        }
    }

    /// [`emit_all`](Self::emit_all) without waiting for the device: with a spool the events have their places in the stream when
    /// this returns, and are accepted when [`Submission::wait`] says so. Several groups can be under way at a time, which then
    /// share syncs. Without a spool they are accepted when this returns.
    ///
    /// # Errors
    /// As [`emit_all`](Self::emit_all), as far as it is known yet.
    pub fn submit_all(&self, events: &[AuditEvent]) -> Result<Submission, Error> {
        let Some(spool) = &self.inner.spool else {
            let first = self.accept(events)?;
            return Ok(Submission {
                streamer: self.clone(),
                events: events.len() as u64,
                state: Submitted::Accepted(first),
            });
        };
        let mut buffer = Buffer::take();
        let mapped = buffer.get();
        self.map_or_announce(events, mapped)?;
        let appending = spool.submit_all(&mapped.records().collect::<Vec<_>>())?;
        self.spooled(events.len());
        Ok(Submission { streamer: self.clone(), events: events.len() as u64, state: Submitted::Appending(appending) })
    }

    /// Accepts an event for all destinations, as [`emit`](Self::emit) does, without blocking the thread while it waits.
    ///
    /// A full batch is sent without further calls, a smaller one after the schedule delay.
    ///
    /// # Errors
    /// As [`emit`](Self::emit).
    pub async fn queue_event(&self, event: AuditEvent) -> Result<Receipt, Error> {
        let sequence = self.accept_async(std::slice::from_ref(&event)).await?;
        Ok(Receipt { sequence, uid: event.uid })
    }

    /// [`emit_all`](Self::emit_all) without blocking the thread while it waits.
    ///
    /// # Errors
    /// As [`emit_all`](Self::emit_all).
    pub async fn queue_all(&self, events: &[AuditEvent]) -> Result<Vec<Receipt>, Error> {
        Ok(receipts(events, self.accept_async(events).await?))
    }

    /// Gives the number of the first one.
    async fn accept_async(&self, events: &[AuditEvent]) -> Result<u64, Error> {
        let mut buffer = Buffer::take();
        let mapped = buffer.get();
        if let Err(error) = self.map(events, mapped) {
            if let Some(gap) = self.too_large(events, mapped, &error) {
                self.announced(Box::pin(self.queue_event(gap)).await.is_ok());
            }
            return Err(error);
        }
        if let Some(spool) = &self.inner.spool {
            let first = spool.append_all_async(&mapped.records().collect::<Vec<_>>()).await?;
            self.spooled(events.len());
            return Ok(first);
        }
        match self.places_now(events.len())? {
            Some(places) => self.hand_over(mapped, places),
            None => {
                let places = self.places(events.len()).await?;
                self.hand_over(mapped, places)
            }
        }
    }

    /// Accepts events and returns once every destination has all of them.
    ///
    /// # Errors
    /// As [`emit`](Self::emit), at the first event that is not accepted; those before it are.
    /// [`is_rejected`](Error::is_rejected) when a destination refused events for good meanwhile.
    pub async fn stream_events(&self, events: Vec<AuditEvent>) -> Result<(), Error> {
        let rejected_before: Vec<_> = self.pipelines().map(|pipeline| pipeline.intake.ledger.rejected()).collect();
        let at_once = if self.inner.spool.is_some() { EVENTS_AT_ONCE } else { 1 };
        for events in events.chunks(at_once) {
            self.queue_all(events).await?;
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
        self.inner.make_durable().await?;
        let marks: Vec<_> = self
            .pipelines()
            .map(|pipeline| {
                let mark = pipeline.intake.mark();
                pipeline.intake.flush_to(mark);
                mark
            })
            .collect();
        let mut complete = true;
        for (pipeline, mark) in self.pipelines().zip(marks) {
            let intake = &pipeline.intake;
            complete &= intake.ledger.wait(|| intake.has_settled(mark)).await;
        }
        if complete { Ok(()) } else { Err(self.inner.undelivered(Duration::ZERO)) }
    }

    /// Events accepted and not yet delivered to the destination that is furthest behind.
    pub async fn buffered_count(&self) -> usize {
        let outstanding = self.pipelines().map(|pipeline| pipeline.intake.outstanding()).max();
        usize::try_from(outstanding.unwrap_or(0)).unwrap_or(usize::MAX)
    }

    /// Number up to which everything accepted is on the device; `None` without a spool. With
    /// [`Sync::Always`](crate::spool::Sync::Always) that is all of it.
    pub fn durable_sequence(&self) -> Option<u64> {
        self.inner.spool.as_ref().map(|spool| spool.durable_seq())
    }

    /// The books of this streamer and its destinations.
    pub fn state(&self) -> State {
        State {
            accepted: self.inner.accepted.load(Ordering::Relaxed) - self.inner.announced.load(Ordering::Relaxed),
            destinations: self.pipelines().map(|pipeline| pipeline.intake.state()).collect(),
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

    /// Maps the events of a call.
    fn map(&self, events: &[AuditEvent], mapped: &mut Mapped) -> Result<(), Error> {
        self.check()?;
        if self.inner.closed.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Closed));
        }
        let span = current_span();
        let max = self.inner.settings.max_event_bytes;
        mapped.begin(SystemTime::now());
        for event in events {
            let bytes = mapped.push(|out| self.inner.stream.encode(event, span.as_ref(), out));
            if bytes > max {
                return Err(Error::new(Kind::TooLarge { bytes, max }));
            }
        }
        Ok(())
    }

    /// Maps the events of a call; one that is too large is announced in the stream.
    fn map_or_announce(&self, events: &[AuditEvent], mapped: &mut Mapped) -> Result<(), Error> {
        self.map(events, mapped).inspect_err(|error| {
            if let Some(gap) = self.too_large(events, mapped, error) {
                // The caller has its error; whether the stream could be told as well changes nothing of it.
                self.announced(self.emit(&gap).is_ok());
            }
        })
    }

    /// The event that announces the one on which mapping stopped, if it was too large.
    fn too_large(&self, events: &[AuditEvent], mapped: &Mapped, error: &Error) -> Option<AuditEvent> {
        let bytes = error.too_large_bytes()?;
        let event = events.get(mapped.len().checked_sub(1)?)?;
        // One that announces another and is too large itself is not announced.
        (event.type_name != gap::TYPE_NAME).then(|| gap::too_large(&event.uid, bytes, &self.inner.stream))
    }

    fn announced(&self, accepted: bool) {
        self.inner.announced.fetch_add(u64::from(accepted), Ordering::Relaxed);
    }

    /// Counts events that the spool has.
    fn spooled(&self, events: usize) {
        let before = self.inner.accepted.fetch_add(events as u64, Ordering::Relaxed);
        // Not at every event: asking takes a lock that the spool is busy with.
        if before % 256 < events as u64 {
            self.inner.watch_spool();
        }
    }

    /// Places for so many events at each destination; `None` when they have to be waited for.
    fn places_now(&self, count: usize) -> Result<Option<Places<'_>>, Error> {
        let count = self.check_count(count)?;
        let mut places = Places::new();
        for pipeline in self.pipelines() {
            match (pipeline.intake.places_now(count), self.inner.settings.on_full) {
                (Ok(place), _) => places.push(Some(place)),
                (Err(TryAcquireError::Closed), _) => return Err(Error::new(Kind::Closed)),
                (Err(TryAcquireError::NoPermits), OnFull::Block) => return Ok(None),
                (Err(TryAcquireError::NoPermits), OnFull::Drop) => places.push(None),
                (Err(TryAcquireError::NoPermits), OnFull::Refuse) => {
                    return Err(Error::new(Kind::Full { destination: pipeline.intake.name.clone() }));
                }
            }
        }
        Ok(Some(places))
    }

    /// Waits for places at each destination, in their order, so that two callers never wait for each other.
    async fn places(&self, count: usize) -> Result<Places<'_>, Error> {
        let count = self.check_count(count)?;
        let mut places = Places::new();
        for pipeline in self.pipelines() {
            places.push(Some(pipeline.intake.places(count).await.map_err(|_| Error::new(Kind::Closed))?));
        }
        Ok(places)
    }

    fn check_count(&self, events: usize) -> Result<u32, Error> {
        let max = self.inner.settings.max_queue_size;
        let count = u32::try_from(events).ok().filter(|_| events <= max);
        count.ok_or_else(|| Error::new(Kind::TooMany { events, max }))
    }

    fn hand_over(&self, mapped: &Mapped, mut places: Places<'_>) -> Result<u64, Error> {
        // Asked with the places in hand: a shutdown that begins after this sees them missing and waits for the events.
        if self.inner.closed.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Closed));
        }
        let first = self.inner.accepted.fetch_add(mapped.len() as u64, Ordering::Relaxed) + 1;
        for (sequence, text) in (first..).zip(mapped.events()) {
            let event = self.inner.stream.numbered(text, sequence);
            for (pipeline, places) in self.pipelines().zip(&mut places) {
                match places.as_mut().and_then(|places| places.split(1)) {
                    Some(place) => pipeline.intake.take(place, Arc::clone(&event), mapped.observed(), None),
                    None => pipeline.intake.drop_event(sequence),
                }
            }
        }
        Ok(first)
    }
}

/// How many events of a long list are accepted together.
const EVENTS_AT_ONCE: usize = 256;

/// For each destination, places for all events of a call; `None` where they are dropped. Few have more destinations than fit here.
type Places<'a> = SmallVec<[Option<SemaphorePermit<'a>>; 4]>;

fn receipts(events: &[AuditEvent], first: u64) -> Vec<Receipt> {
    (first..).zip(events).map(|(sequence, event)| Receipt { sequence, uid: event.uid.clone() }).collect()
}

impl Inner {
    async fn shut_down(&self, timeout: Duration) -> Result<(), Error> {
        // The deadline needs a timer, and the caller may have none: it waits on our runtime.
        let intakes: Vec<_> = self.pipelines.iter().map(|pipeline| Arc::clone(&pipeline.intake)).collect();
        // Only what is on the device is delivered, or counted as outstanding. A device that fails says so when the spool is closed.
        let _ = self.make_durable().await;
        self.run(async move {
            let all_idle = futures_util::future::join_all(intakes.iter().map(|intake| intake.idle()));
            let _ = tokio::time::timeout(timeout, all_idle).await;
        })
        .await;
        let lacking = self.pipelines.iter().any(|pipeline| pipeline.intake.outstanding() > 0);
        let result = if lacking { Err(self.undelivered(timeout)) } else { Ok(()) };
        self.stop.send_replace(true);
        let endings: Vec<_> = self.pipelines.iter().map(Pipeline::end).collect();
        let (spool, listener) = (self.spool.clone(), Arc::clone(&self.listener));
        self.run(async move {
            let end = move || {
                // It wakes the feeds, which then end.
                if let Some(Err(error)) = spool.map(|spool| spool.close()) {
                    listener(&Notice::Warning { text: format!("the spool was not closed cleanly: {error}") });
                }
                endings.into_iter().for_each(Ending::wait);
            };
            let _ = tokio::task::spawn_blocking(end).await;
        })
        .await;
        result
    }

    /// Has everything accepted so far on the device, from where alone it is delivered.
    async fn make_durable(&self) -> Result<(), Error> {
        match &self.spool {
            Some(spool) => Ok(spool.flush().await?),
            None => Ok(()),
        }
    }

    fn undelivered(&self, timeout: Duration) -> Error {
        let outstanding = self
            .pipelines
            .iter()
            .map(|pipeline| Outstanding {
                destination: pipeline.intake.name.clone(),
                events: pipeline.intake.outstanding(),
                last_error: pipeline.intake.ledger.last_error(),
            })
            .filter(|part| part.events > 0)
            .collect();
        Error::new(Kind::Undelivered {
            timeout,
            outstanding,
            kept: self.spool.as_ref().map(|spool| spool.dir().to_owned()),
        })
    }

    /// Says once that the spool is nearly full, and again after it was not.
    fn watch_spool(&self) {
        let Some(spool) = &self.spool else { return };
        let usage = spool.usage();
        if self.nearly_full.swap(usage.is_high(), Ordering::Relaxed) || !usage.is_high() {
            return;
        }
        let (bytes, max) = (usage.bytes >> 20, usage.max_bytes >> 20);
        let text = format!("the spool {} holds {bytes} of {max} MiB", spool.dir().display());
        (self.listener)(&Notice::Warning { text });
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
            && let Err(error) = pollster::block_on(self.shut_down(self.settings.shutdown_timeout))
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
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<AuditStreamer>();
};
