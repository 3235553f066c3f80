//! The task that settles one destination's batches, in order: send, read the verdict, wait and send again, halve, or bury.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use opentelemetry::StringValue;
use tokio::sync::{mpsc, watch};

use crate::dead_letter::{self, Refusal};
use crate::exporter::{Batch, Exporter, Verdict};
use crate::intake::Intake;
use crate::notice::Notice;
use crate::retry::Backoff;

pub(crate) struct Delivery {
    pub(crate) exporter: Exporter,
    pub(crate) intake: Arc<Intake>,
    pub(crate) backoff: Backoff,
    /// Attempts in a row that may fail before the destination is announced as failing.
    pub(crate) max_retries: u32,
}

/// The destination has ended for good.
#[derive(Clone, Copy)]
struct Ended;

impl Delivery {
    /// Settles batches until there are no more, or `stop` turns true, which ends any wait at once.
    pub(crate) async fn run(self, mut batches: mpsc::Receiver<Batch>, mut stop: watch::Receiver<bool>) {
        let settle_all = async {
            while let Some(batch) = batches.recv().await {
                if let Err(Ended) = self.settle(batch).await {
                    self.intake.end();
                    while let Some(batch) = batches.recv().await {
                        self.intake.leave(batch.total());
                    }
                }
            }
        };
        tokio::select! {
            biased;
            // An error means the streamer is gone, which stops us too.
            _ = stop.wait_for(|stop| *stop) => {}
            () = settle_all => {}
        }
        self.intake.ledger.stop();
    }

    async fn settle(&self, mut batch: Batch) -> Result<(), Ended> {
        let unencodable = batch.take_unencodable();
        if !unencodable.is_empty() {
            self.dead_letter(&unencodable, unencodable.len() as u64, "the record could not be encoded").await;
        }
        let settled = self.settle_encoded(batch).await;
        // Counted last: settlement goes by the order of the batch, and what stands in front must not be acknowledged for these.
        match settled {
            Ok(()) => self.intake.settle(0, unencodable.len() as u64),
            Err(Ended) => self.intake.leave(unencodable.len() as u64),
        }
        settled
    }

    async fn settle_encoded(&self, batch: Batch) -> Result<(), Ended> {
        if batch.len() == 0 {
            return Ok(());
        }
        // Halves still to be settled, the first one last.
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            if part.len() > 1 && part.bytes() > self.exporter.max_request_bytes() {
                let (first, second) = part.halves();
                parts.extend([second, first]);
                continue;
            }
            match self.send(&part).await {
                Sent::Accepted { rejected, why } => {
                    let rejected = rejected.min(part.len() as u64);
                    if rejected > 0 {
                        // Which ones it does not say: all of the request go to the file, counted as what they are.
                        let delivered = part.len() as u64 - rejected;
                        self.dead_letter(part.events(), rejected, &why).await;
                        self.intake.settle(delivered, rejected);
                    } else {
                        self.intake.settle(part.len() as u64, 0);
                    }
                }
                Sent::Refused { why } if part.len() == 1 => self.bury(part.events(), 1, &why).await,
                Sent::Refused { .. } => {
                    let (first, second) = part.halves();
                    parts.extend([second, first]);
                }
                Sent::Ended => {
                    let lost = part.len() + parts.iter().map(Batch::len).sum::<usize>();
                    self.intake.leave(lost as u64);
                    return Err(Ended);
                }
            }
        }
        Ok(())
    }

    /// Sends one part until the destination takes or refuses it.
    async fn send(&self, part: &Batch) -> Sent {
        let mut failures = 0_u32;
        loop {
            let attempt = AssertUnwindSafe(self.exporter.send(part)).catch_unwind().await;
            let verdict = attempt.unwrap_or_else(|panic| Verdict::Retry { after: None, why: panicked(&*panic) });
            let (after, why, act) = match verdict {
                Verdict::Delivered { rejected, message } => {
                    self.recovered();
                    if rejected == 0
                        && let Some(text) = message.clone()
                    {
                        (self.intake.listener)(&Notice::Remark { destination: self.name().to_owned(), text });
                    }
                    let why = format!("partial success: {}", message.as_deref().unwrap_or("no reason given"));
                    return Sent::Accepted { rejected, why };
                }
                Verdict::TooLarge { why } | Verdict::Rejected { why } => {
                    self.recovered();
                    return Sent::Refused { why };
                }
                Verdict::Closed { why } => {
                    (self.intake.listener)(&Notice::Ended { destination: self.name().to_owned(), why });
                    return Sent::Ended;
                }
                Verdict::Retry { after, why } => (after, why, false),
                // Waiting alone will not help, so attempts are few: the longest wait from the start.
                Verdict::Unauthorized { why } => (Some(self.backoff.max), why, true),
            };
            failures = failures.saturating_add(1);
            self.failed(failures, why, act);
            tokio::time::sleep(self.backoff.wait(failures, after, fastrand::f64())).await;
        }
    }

    /// Says that the destination is failing once it has failed often enough, and again when the reason changes.
    fn failed(&self, failures: u32, why: String, act: bool) {
        let ledger = &self.intake.ledger;
        let news = ledger.fail(&why);
        if failures <= self.max_retries && !act {
            return;
        }
        let known = ledger.set_failing(true);
        if news || !known {
            (self.intake.listener)(&Notice::Failing {
                destination: self.name().to_owned(),
                target: self.intake.target.clone(),
                why,
                act,
            });
        }
    }

    fn recovered(&self) {
        if self.intake.ledger.set_failing(false) {
            (self.intake.listener)(&Notice::Recovered {
                destination: self.name().to_owned(),
                target: self.intake.target.clone(),
            });
        }
    }

    /// Keeps refused events in the dead-letter file and settles them.
    async fn bury(&self, events: &[StringValue], rejected: u64, why: &str) {
        self.dead_letter(events, rejected, why).await;
        self.intake.settle(0, rejected);
    }

    /// Returns once the dead letter is on disk: until then the events are nowhere else.
    async fn dead_letter(&self, events: &[StringValue], rejected: u64, why: &str) {
        let path = self.intake.dead_letters.path().to_owned();
        let mut failures = 0_u32;
        loop {
            let file = Arc::clone(&self.intake.dead_letters);
            let (destination, target, reason) = (self.name().to_owned(), self.intake.target.clone(), why.to_owned());
            let events = events.to_vec();
            let written = tokio::task::spawn_blocking(move || {
                let events: Vec<_> = events.iter().map(StringValue::as_str).collect();
                let refusal = Refusal { destination: &destination, target: &target, why: &reason, rejected };
                dead_letter::append(&file, refusal, &events)
            });
            let error = match written.await {
                Ok(Ok(())) => {
                    (self.intake.listener)(&Notice::DeadLettered {
                        destination: self.name().to_owned(),
                        events: rejected,
                        why: why.to_owned(),
                        path,
                    });
                    return;
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            failures = failures.saturating_add(1);
            if self.intake.ledger.fail(&format!("dead-letter file: {error}")) {
                (self.intake.listener)(&Notice::DeadLetterFailed { path: path.clone(), why: error });
            }
            tokio::time::sleep(self.backoff.wait(failures, None, fastrand::f64())).await;
        }
    }

    fn name(&self) -> &str {
        &self.intake.name
    }
}

/// What became of a part, at last.
enum Sent {
    Accepted { rejected: u64, why: String },
    Refused { why: String },
    Ended,
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    format!("the exporter panicked: {text}")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, SystemTime};

    use tokio::runtime::Handle;
    use tokio::time::Instant;

    use super::*;
    use crate::config::{Config, Destination, DestinationKind, Format, Otlp, Webhook};
    use crate::exporter::Encoding;
    use crate::jsonl::JsonLines;
    use crate::otlp::Envelope;
    use crate::pipeline::{self, Pipeline, Shared};
    use crate::receiver::{ANY_PORT, Answer, Options, Receiver, Script, Wait};
    use crate::stream::Stream;

    /// Runs `test` with what pipelines share, on the runtime of the test, so that its clock is theirs.
    async fn with_shared<T>(test: impl AsyncFnOnce(&Shared<'_>, &Mutex<Vec<Notice>>) -> T) -> T {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { max_retries: 0, ..Config::default() };
        let notices = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&notices);
        let (_running, stop) = watch::channel(false);
        let shared = Shared {
            config: &config,
            resource: &pipeline::resource(&[]),
            runtime: &Handle::current(),
            dead_letters: &Arc::new(JsonLines::new(&folder.path().join("dead.jsonl"), crate::config::Sync::Never)),
            listener: &(Arc::new(move |notice: &Notice| kept.lock().unwrap().push(notice.clone())) as _),
            extend: None,
            stop: &stop,
            stream: &Arc::new(Stream::new(config.mapping, None)),
            spool: None,
        };
        test(&shared, &notices).await
    }

    async fn delivered(pipeline: &Pipeline) {
        let place = pipeline.intake.places(1).await.unwrap();
        pipeline.intake.take(place, r#"{"time":0,"metadata":{"uid":"u"}}"#.into(), SystemTime::now(), None);
        let intake = &pipeline.intake;
        intake.flush_to(intake.mark());
        assert!(intake.ledger.wait(|| intake.has_settled(1)).await);
    }

    /// Minutes pass in moments: the clock is paused, and jumps whenever everybody waits for it.
    #[tokio::test(start_paused = true)]
    async fn what_a_server_asks_for_is_waited_for_in_every_form() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        // A date is cut to whole seconds.
        for (wait, least) in [
            (Wait::Seconds(120), minutes(2)),
            (Wait::Date(minutes(3)), minutes(3) - Duration::from_secs(1)),
            // Capped, garbage and past: never for ever, never a hot loop.
            (Wait::Seconds(1_000_000_000), minutes(5)),
            (Wait::Raw("soon".into()), Duration::from_millis(50)),
            (Wait::Seconds(0), Duration::from_millis(50)),
        ] {
            for by_grpc in [true, false] {
                if by_grpc && matches!(wait, Wait::Raw(_)) {
                    continue;
                }
                with_shared(async |shared, notices| {
                    let script = Script::new().then(Answer::status(503).wait(wait.clone()));
                    let options =
                        Options { otlp_grpc: Some(ANY_PORT), webhook: Some(ANY_PORT), script, ..Options::default() };
                    let receiver = Receiver::start(options).await.unwrap();
                    let kind = if by_grpc {
                        let url = format!("http://{}", receiver.otlp_grpc_addr().unwrap());
                        DestinationKind::Otlp(Otlp { timeout: None, ..Otlp::grpc(url) })
                    } else {
                        let url = format!("http://{}", receiver.webhook_addr().unwrap());
                        DestinationKind::Webhook(Webhook { timeout: None, ..Webhook::new(url) })
                    };
                    let pipeline = Pipeline::start(&Destination { name: "d".into(), kind }, shared).unwrap();
                    let began = Instant::now();
                    delivered(&pipeline).await;
                    let waited = began.elapsed();
                    assert!(waited >= least, "{wait:?}: waited {waited:?}");
                    assert!(waited <= minutes(6), "{wait:?}: waited {waited:?}");
                    assert_eq!(receiver.requests(), 2, "{wait:?}");
                    assert_eq!(notices.lock().unwrap().len(), 2, "failing once, recovered once");
                })
                .await;
            }
        }
    }

    #[tokio::test]
    async fn a_panic_of_an_exporter_is_a_failed_attempt_and_no_more() {
        with_shared(async |shared, notices| {
            let envelope = Envelope::new(shared.resource);
            let encoding = Encoding::Json { format: Format::Ocsf, separator: b'\n', envelope };
            let panics = Exporter::Panics(AtomicBool::new(false));
            let pipeline = Pipeline::with_exporter("struck", panics, encoding, shared).unwrap();
            delivered(&pipeline).await;
            let state = pipeline.intake.state();
            assert_eq!((state.delivered, state.retries, state.outstanding), (1, 1, 0));
            let text = format!("{:?}", notices.lock().unwrap());
            assert!(text.contains("the exporter panicked: a defect in an exporter"), "{text}");
        })
        .await;
    }
}
