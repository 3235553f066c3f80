//! Delivery held against its promises, with real servers: nothing accepted goes missing, nothing is sent twice without need,
//! order is kept, and what cannot be delivered is told and kept.

mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use auditwire::config::{
    Batch, Body, Compression, Config, Destination, DestinationKind, File, Format, OnFull, Otlp, Protocol, Tls, Webhook,
};
use auditwire::notice::Notice;
use auditwire::receiver::{self, ANY_PORT, Answer, Receiver, Script, Wait};
use auditwire::retry::Backoff;
use auditwire::{AuditEvent, AuditStreamConfig, AuditStreamer, EventOutcome, StreamDestination, new_audit_event};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use support::{PATIENCE, TlsMaterial};
use tempfile::TempDir;

/// Waits that a test can afford; what they are by default is tested where they are computed.
const BACKOFF: Backoff = Backoff {
    initial: Duration::from_millis(20),
    max: Duration::from_millis(100),
    floor: Duration::from_millis(5),
    max_server_wait: Duration::from_secs(300),
};

/// A configuration for one or more destinations, its dead letters in a folder of the test's own.
fn config(destinations: Vec<Destination>, folder: &Path) -> Config {
    Config {
        destinations,
        backoff: BACKOFF,
        dead_letter_path: folder.join("dead.jsonl"),
        batch: Batch { schedule_delay: Duration::from_millis(20), ..Batch::default() },
        ..Config::default()
    }
}

fn destination(name: &str, kind: DestinationKind) -> Destination {
    Destination { name: name.into(), kind }
}

fn grpc(receiver: &Receiver) -> Destination {
    let address = receiver.otlp_grpc_addr().expect("it serves gRPC");
    destination("otlp", DestinationKind::Otlp(Otlp::grpc(format!("http://{address}"))))
}

fn http(receiver: &Receiver, protocol: Protocol) -> Destination {
    let address = receiver.otlp_http_addr().expect("it serves HTTP");
    let otlp = Otlp { protocol, ..Otlp::grpc(format!("http://{address}/v1/logs")) };
    destination("otlp", DestinationKind::Otlp(otlp))
}

fn webhook(receiver: &Receiver) -> Destination {
    let address = receiver.webhook_addr().expect("it serves the webhook");
    destination("webhook", DestinationKind::Webhook(Webhook::new(format!("http://{address}/ingest"))))
}

async fn receiver(script: Script) -> Receiver {
    let options = receiver::Options {
        otlp_grpc: Some(ANY_PORT),
        otlp_http: Some(ANY_PORT),
        webhook: Some(ANY_PORT),
        script,
        ..receiver::Options::default()
    };
    Receiver::start(options).await.expect("loopback has free ports")
}

/// An address where nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind(ANY_PORT).expect("loopback has free ports");
    format!("http://{}", listener.local_addr().expect("it is bound"))
}

/// An event that says which one it is.
fn event(thread: usize, number: usize) -> AuditEvent {
    let mut event = new_audit_event("policy_decision", "Run", EventOutcome::Permit);
    event.uid = uid(thread, number);
    event
}

fn uid(thread: usize, number: usize) -> String {
    format!("{thread}-{number:06}")
}

fn events(count: usize) -> Vec<AuditEvent> {
    (0..count).map(|number| event(0, number)).collect()
}

fn uids(count: usize) -> Vec<String> {
    (0..count).map(|number| uid(0, number)).collect()
}

fn uid_of(record: &LogRecord) -> String {
    receiver::uid(record).expect("every record has its uid").to_owned()
}

/// The uids that a receiver accepted, in order of arrival, over whichever protocol.
async fn accepted(receiver: &mut Receiver) -> Vec<String> {
    receiver.stop().await;
    let mut uids = Vec::new();
    while let Some(received) = receiver.next().await {
        if received.accepted() {
            uids.extend(received.records().map(uid_of));
            let elements = received.elements().iter();
            uids.extend(elements.map(|element| element["metadata"]["uid"].as_str().expect("a uid").to_owned()));
        }
    }
    uids
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

/// The uids in the dead-letter file, and the reasons given.
fn dead_letters(folder: &Path) -> (Vec<String>, Vec<String>) {
    let letters = lines(&folder.join("dead.jsonl"));
    let uids = letters.iter().flat_map(|letter| letter["events"].as_array().expect("events"));
    let uids = uids.map(|event| event["metadata"]["uid"].as_str().expect("a uid").to_owned()).collect();
    (uids, letters.iter().map(|letter| letter["why"].as_str().expect("a reason").to_owned()).collect())
}

/// A streamer whose notices are kept.
fn listened(config: Config) -> (AuditStreamer, Arc<Mutex<Vec<Notice>>>) {
    let notices = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&notices);
    let streamer = AuditStreamer::builder(config).on_notice(move |notice| kept.lock().unwrap().push(notice.clone()));
    (streamer.start().expect("the configuration is good"), notices)
}

fn quiet(config: Config) -> AuditStreamer {
    listened(config).0
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it takes moments, not half a minute")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_events_from_four_threads_arrive_exactly_once_and_in_order_at_each_of_four_destinations() {
    const THREADS: usize = 4;
    const EACH: usize = 2500;
    let folder = TempDir::new().unwrap();
    let (mut by_grpc, mut by_http, mut by_webhook) =
        (receiver(Script::new()).await, receiver(Script::new()).await, receiver(Script::new()).await);
    let path = folder.path().join("out.jsonl");
    let streamer = quiet(config(
        vec![
            grpc(&by_grpc),
            Destination { name: "otlp-2".into(), ..http(&by_http, Protocol::HttpProtobuf) },
            webhook(&by_webhook),
            destination("file", DestinationKind::File(File::new(&path))),
        ],
        folder.path(),
    ));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let streamer = streamer.clone();
            std::thread::spawn(move || {
                let mut last = 0;
                for number in 0..EACH {
                    let receipt = streamer.emit(&event(thread, number)).expect("it is accepted");
                    assert!(receipt.sequence > last, "one thread's numbers rise");
                    last = receipt.sequence;
                }
            })
        })
        .collect();
    tokio::task::spawn_blocking(|| threads.into_iter().for_each(|thread| thread.join().unwrap())).await.unwrap();
    within(streamer.shutdown(PATIENCE)).await.expect("everything is delivered");

    let written = lines(&path).iter().map(|line| line["metadata"]["uid"].as_str().unwrap().to_owned()).collect();
    for (name, uids) in [
        ("gRPC", accepted(&mut by_grpc).await),
        ("HTTP", accepted(&mut by_http).await),
        ("webhook", accepted(&mut by_webhook).await),
        ("file", written),
    ] {
        assert_eq!(uids.len(), THREADS * EACH, "{name}");
        for thread in 0..THREADS {
            let of_thread = uids.iter().filter(|uid| uid.starts_with(&format!("{thread}-"))).cloned();
            let expected: Vec<_> = (0..EACH).map(|number| uid(thread, number)).collect();
            assert_eq!(of_thread.collect::<Vec<_>>(), expected, "{name}, thread {thread}");
        }
    }
}

fn tiny_queue(on_full: OnFull, config: Config) -> Config {
    let batch = Batch { max_queue_size: 8, max_export_batch_size: 4, ..config.batch };
    Config { batch, on_full, ..config }
}

fn slow() -> Script {
    Script::new().rule(|_| Some(Answer::Ok.delay(Duration::from_millis(200))))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_7_a_full_queue_blocks_and_loses_nothing() {
    let folder = TempDir::new().unwrap();
    let mut receiver = receiver(slow()).await;
    let streamer = quiet(tiny_queue(OnFull::Block, config(vec![grpc(&receiver)], folder.path())));
    let mut most = 0;
    for event in events(40) {
        within(streamer.queue_event(event)).await.unwrap();
        most = most.max(streamer.buffered_count().await);
    }
    within(streamer.flush()).await.unwrap();
    assert!(most <= 8, "the queue is bounded, {most} were in it");
    assert_eq!(streamer.buffered_count().await, 0);
    assert_eq!(accepted(&mut receiver).await, uids(40));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_exactly_what_it_says() {
    let folder = TempDir::new().unwrap();
    let mut receiver = receiver(slow()).await;
    let streamer = quiet(tiny_queue(OnFull::Refuse, config(vec![grpc(&receiver)], folder.path())));
    let (mut kept, mut refused) = (Vec::new(), 0);
    for event in events(200) {
        let uid = event.uid.clone();
        match streamer.emit(&event) {
            Ok(receipt) => {
                assert_eq!(receipt.uid, uid);
                kept.push(uid);
            }
            Err(error) => {
                assert!(error.is_full(), "{error}");
                assert!(error.to_string().contains("otlp"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(kept.len() >= 8 && refused > 0, "{} kept, {refused} refused", kept.len());
    within(streamer.shutdown(PATIENCE)).await.unwrap();
    assert_eq!(streamer.state().accepted as usize, kept.len());
    assert_eq!(accepted(&mut receiver).await, kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_dropped_is_counted_and_announced_in_the_stream() {
    let folder = TempDir::new().unwrap();
    let mut receiver = receiver(slow()).await;
    let (streamer, notices) = listened(tiny_queue(OnFull::Drop, config(vec![grpc(&receiver)], folder.path())));
    for event in events(200) {
        streamer.emit(&event).expect("dropping is no error");
    }
    within(streamer.shutdown(PATIENCE)).await.unwrap();
    let state = streamer.state().destinations.remove(0);
    receiver.stop().await;
    let (mut arrived, mut announced) = (0, 0);
    while let Some(received) = receiver.next().await {
        for record in received.records() {
            let event = receiver::json(record.body.as_ref().unwrap());
            if event["metadata"]["event_code"] == "audit_gap" {
                announced += event["resources"][0]["data"]["count"].as_u64().unwrap();
            } else {
                arrived += 1;
            }
        }
    }
    assert!(announced > 0);
    assert_eq!(arrived + announced, 200, "each event has arrived or been announced as missing");
    assert_eq!(state.dropped, announced);
    let said: u64 = notices
        .lock()
        .unwrap()
        .iter()
        .map(|notice| if let Notice::Dropped { events, .. } = notice { *events } else { 0 })
        .sum();
    assert_eq!(said, announced);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_1_a_server_that_is_down_for_three_seconds_gets_everything_once_it_is_up() {
    let folder = TempDir::new().unwrap();
    let mut first = receiver(Script::new()).await;
    let (grpc, hook) = (grpc(&first), webhook(&first));
    let options = receiver::Options {
        otlp_grpc: first.otlp_grpc_addr(),
        webhook: first.webhook_addr(),
        ..receiver::Options::default()
    };
    first.stop().await;
    let (streamer, notices) = listened(config(vec![grpc, hook], folder.path()));
    let began = Instant::now();
    for event in events(1000) {
        streamer.emit(&event).unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(3), "defect 2: retries are not the caller's to wait for");
    tokio::time::sleep_until((began + Duration::from_secs(3)).into()).await;
    assert_eq!(streamer.buffered_count().await, 1000);
    let failing = notices.lock().unwrap().iter().filter(|notice| matches!(notice, Notice::Failing { .. })).count();
    assert_eq!(failing, 2, "each destination is said to be failing once: {:?}", notices.lock().unwrap());

    let mut second = Receiver::start(options).await.unwrap();
    within(streamer.flush()).await.unwrap();
    let state = streamer.state();
    for destination in &state.destinations {
        assert!(destination.retries > 3 && !destination.failing, "{destination:?}");
        assert!(destination.last_error.as_ref().unwrap().contains("refused"), "{destination:?}");
    }
    let recovered = notices.lock().unwrap().iter().filter(|notice| matches!(notice, Notice::Recovered { .. })).count();
    assert_eq!(recovered, 2);
    let arrived = accepted(&mut second).await;
    assert_eq!(arrived.len(), 2000);
    let mut times = HashMap::<_, usize>::new();
    arrived.into_iter().for_each(|uid| *times.entry(uid).or_default() += 1);
    assert!(times.values().all(|times| *times == 2), "once at each destination");
}

#[test]
fn defect_2_retries_are_not_the_callers_to_wait_for() {
    let folder = TempDir::new().unwrap();
    // Attempts that fail at once, and an hour between them: whoever waited for one would not come back.
    let hour = Duration::from_secs(3600);
    let backoff = Backoff { initial: hour, max: hour, floor: hour, max_server_wait: hour };
    let dead = destination("dead", DestinationKind::Webhook(Webhook::new(nobody())));
    let mut config = Config { backoff, ..config(vec![dead], folder.path()) };
    config.batch.max_export_batch_size = 1;
    let (streamer, notices) = listened(config);
    streamer.emit(&event(0, 0)).unwrap();
    let began = Instant::now();
    while streamer.state().destinations[0].retries == 0 {
        assert!(began.elapsed() < PATIENCE, "{:?}", notices.lock().unwrap());
        std::thread::yield_now();
    }
    for event in events(100) {
        streamer.emit(&event).expect("it is accepted while the destination waits for its next attempt");
    }
    assert_eq!(streamer.state().destinations[0].outstanding, 101);
    let error = streamer.shutdown_blocking(Duration::ZERO).unwrap_err();
    assert_eq!(error.outstanding()[0].events, 101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_servers_ask_for_is_waited_for() {
    let ask = |status: u16, wait: Wait| Script::new().then(Answer::status(status).wait(wait));
    for (script, least) in [
        (ask(503, Wait::Seconds(1)), Duration::from_secs(1)),
        // A date has whole seconds: two from now are more than one.
        (ask(503, Wait::Date(Duration::from_secs(2))), Duration::from_secs(1)),
        (ask(429, Wait::Seconds(1)), Duration::from_secs(1)),
    ] {
        let folder = TempDir::new().unwrap();
        let receiver = receiver(script).await;
        for target in [grpc(&receiver)] {
            let streamer = quiet(config(vec![target], folder.path()));
            let began = Instant::now();
            within(streamer.stream_events(events(1))).await.unwrap();
            assert!(began.elapsed() >= least);
            assert_eq!(streamer.state().destinations[0].retries, 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partial_success_is_counted_and_kept_and_nothing_is_sent_again() {
    let folder = TempDir::new().unwrap();
    let script = Script::new()
        .then(Answer::PartialSuccess { rejected: 3, message: "too old".into() })
        .then(Answer::PartialSuccess { rejected: 0, message: "be careful".into() });
    let receiver = receiver(script).await;
    let (streamer, notices) = listened(config(vec![grpc(&receiver)], folder.path()));
    let error = within(streamer.stream_events(events(10))).await.unwrap_err();
    assert!(error.is_rejected(), "{error}");
    within(streamer.stream_events(vec![event(1, 0)])).await.expect("a message alone is a warning");

    let state = streamer.state().destinations.remove(0);
    assert_eq!((state.delivered, state.rejected, state.outstanding, state.retries), (8, 3, 0, 0));
    let letters = lines(&folder.path().join("dead.jsonl"));
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["rejected"], 3);
    assert_eq!(letters[0]["events"].as_array().unwrap().len(), 10, "the server does not say which three");
    assert!(letters[0]["why"].as_str().unwrap().contains("too old"));
    assert!(
        notices
            .lock()
            .unwrap()
            .iter()
            .any(|notice| matches!(notice, Notice::Remark { text, .. } if text == "be careful"))
    );
    assert_eq!(receiver.requests(), 2);
}

/// Refuses every request that holds one of the poisonous uids.
fn poison(uids: &'static [&'static str], answer: fn() -> Answer) -> Script {
    Script::new().rule(move |received| {
        let of_records = received.records().filter_map(receiver::uid).any(|uid| uids.contains(&uid));
        let of_elements = received
            .elements()
            .iter()
            .any(|element| element["metadata"]["uid"].as_str().is_some_and(|uid| uids.contains(&uid)));
        (of_records || of_elements).then(answer)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_record_goes_to_the_dead_letter_file_and_never_takes_its_neighbours_along() {
    const POISON: [&str; 2] = ["0-000100", "0-000311"];
    for (protocol, reason) in
        [("grpc", "InvalidArgument: no such thing"), ("http", "400 Bad Request"), ("webhook", "400")]
    {
        let folder = TempDir::new().unwrap();
        let mut receiver = receiver(poison(&POISON, || Answer::status(400).message("no such thing"))).await;
        let target = match protocol {
            "grpc" => grpc(&receiver),
            "http" => http(&receiver, Protocol::HttpJson),
            _ => webhook(&receiver),
        };
        let (streamer, notices) = listened(config(vec![target], folder.path()));
        let error = within(streamer.stream_events(events(512))).await.unwrap_err();
        assert!(error.is_rejected(), "{error}");
        let requests = receiver.requests();
        assert!(requests <= 40, "two records of 512 are found by halving, in {requests} requests");

        let expected: Vec<_> = uids(512).into_iter().filter(|uid| !POISON.contains(&uid.as_str())).collect();
        assert_eq!(accepted(&mut receiver).await, expected, "{protocol}: in order, each once");
        let (buried, reasons) = dead_letters(folder.path());
        assert_eq!(buried, POISON, "{protocol}");
        assert!(reasons.iter().all(|why| why.contains(reason) && why.contains("no such thing")), "{reasons:?}");
        let told =
            notices.lock().unwrap().iter().filter(|notice| matches!(notice, Notice::DeadLettered { .. })).count();
        assert_eq!(told, 2);
        let state = streamer.state().destinations.remove(0);
        assert_eq!((state.delivered, state.rejected, state.outstanding), (510, 2, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_wait_when_the_dead_letter_file_cannot_be_written() {
    let folder = TempDir::new().unwrap();
    let mut receiver = receiver(poison(&["0-000000"], || Answer::status(400))).await;
    // A folder where the file should be.
    let path = folder.path().join("dead.jsonl");
    std::fs::create_dir(&path).unwrap();
    let (streamer, notices) = listened(config(vec![webhook(&receiver)], folder.path()));
    streamer.emit(&event(0, 0)).unwrap();
    within(async {
        while !notices.lock().unwrap().iter().any(|notice| matches!(notice, Notice::DeadLetterFailed { .. })) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(streamer.buffered_count().await, 1, "it is nowhere else");
    std::fs::remove_dir(&path).unwrap();
    within(streamer.shutdown(PATIENCE)).await.unwrap();
    assert_eq!(dead_letters(folder.path()).0, ["0-000000"]);
    assert!(accepted(&mut receiver).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_too_large_for_the_receiver_is_halved() {
    const LIMIT: usize = 40_000;
    let too_large = || {
        Script::new().rule(|received| {
            let words = "grpc: received message larger than max";
            (received.bytes > LIMIT).then(|| Answer::status(413).message(words))
        })
    };
    for by_grpc in [true, false] {
        let folder = TempDir::new().unwrap();
        let mut receiver = receiver(too_large()).await;
        let target = if by_grpc { grpc(&receiver) } else { webhook(&receiver) };
        let streamer = quiet(config(vec![target], folder.path()));
        within(streamer.stream_events(events(300))).await.unwrap();
        assert_eq!(accepted(&mut receiver).await, uids(300));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_stay_below_four_mebibytes() {
    let folder = TempDir::new().unwrap();
    let mut receiver = receiver(Script::new()).await;
    let streamer = quiet(config(vec![grpc(&receiver), webhook(&receiver)], folder.path()));
    let large: Vec<_> = events(64)
        .into_iter()
        .map(|event| {
            let resource = auditwire::ResourceInfo::new("sandbox", "s").with_attribute("blob", "x".repeat(200_000));
            event.with_resource(resource)
        })
        .collect();
    within(streamer.stream_events(large)).await.unwrap();
    receiver.stop().await;
    let mut largest = HashMap::new();
    while let Some(received) = receiver.next().await {
        assert!(received.accepted());
        let largest = largest.entry(received.protocol.to_string()).or_insert(0);
        *largest = received.bytes.max(*largest);
    }
    assert_eq!(largest.len(), 2);
    for (protocol, bytes) in largest {
        assert!(bytes > 400_000 && bytes < 4 << 20, "{protocol}: {bytes}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_too_large_is_refused_where_its_caller_hears_it() {
    let folder = TempDir::new().unwrap();
    let receiver = receiver(Script::new()).await;
    let streamer = quiet(config(vec![grpc(&receiver)], folder.path()));
    let error = streamer.emit(&event(0, 0).with_extra("blob", "x".repeat(2 << 20))).unwrap_err();
    assert!(error.is_too_large(), "{error}");
    assert!(error.to_string().contains("1048576"), "{error}");
    let state = streamer.state();
    assert_eq!((state.accepted, state.destinations[0].accepted), (0, 1), "a gap record tells the stream's readers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_key_costs_no_event() {
    let folder = TempDir::new().unwrap();
    for status in [401, 403, 404, 302] {
        let mut receiver = receiver(Script::new().times(2, Answer::status(status))).await;
        let (streamer, notices) = listened(config(vec![webhook(&receiver)], folder.path()));
        within(streamer.stream_events(events(20))).await.unwrap();
        assert_eq!(accepted(&mut receiver).await, uids(20), "{status}");
        let alarm = |notice: &Notice| matches!(notice, Notice::Failing { act: true, why, .. } if why.contains(&status.to_string()));
        assert!(notices.lock().unwrap().iter().any(alarm), "{:?}", notices.lock().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_retryable_status_and_every_broken_connection_is_retried() {
    let broken = |status| Answer::status(status);
    for answer in
        [broken(408), broken(425), broken(429), broken(500), broken(502), broken(503), broken(504), Answer::Cut]
    {
        let folder = TempDir::new().unwrap();
        let name = answer.to_string();
        let mut receiver = receiver(Script::new().times(2, answer)).await;
        let streamer = quiet(config(vec![webhook(&receiver)], folder.path()));
        within(streamer.stream_events(events(3))).await.unwrap();
        assert_eq!(accepted(&mut receiver).await, uids(3), "{name}");
        assert_eq!(streamer.state().destinations[0].retries, 2, "{name}");
    }
    for answer in [broken(503), broken(504), Answer::code(tonic::Code::Aborted), Answer::Cut] {
        let folder = TempDir::new().unwrap();
        let name = answer.to_string();
        let mut receiver = receiver(Script::new().times(2, answer)).await;
        let streamer = quiet(config(vec![grpc(&receiver)], folder.path()));
        within(streamer.stream_events(events(3))).await.unwrap();
        assert_eq!(accepted(&mut receiver).await, uids(3), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_23_a_lost_reply_doubles_that_batch_at_most_and_the_uid_tells() {
    for by_grpc in [true, false] {
        let folder = TempDir::new().unwrap();
        let mut receiver = receiver(Script::new().then(Answer::StoreThenCut)).await;
        let target = if by_grpc { grpc(&receiver) } else { webhook(&receiver) };
        let streamer = quiet(config(vec![target], folder.path()));
        within(streamer.stream_events(events(50))).await.unwrap();
        let arrived = accepted(&mut receiver).await;
        let mut once = arrived.clone();
        once.sort();
        once.dedup();
        assert_eq!(once, uids(50));
        assert_eq!(arrived.len() - once.len(), arrived.iter().filter(|uid| arrived[..50].contains(uid)).count() / 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_3_a_server_that_never_answers_is_given_up_on_and_asked_again() {
    let folder = TempDir::new().unwrap();
    let mut receiver = receiver(Script::new().times(3, Answer::Hang)).await;
    let timeout = Some(Duration::from_millis(300));
    let with_timeout = |mut target: Destination| {
        match &mut target.kind {
            DestinationKind::Otlp(otlp) => otlp.timeout = timeout,
            DestinationKind::Webhook(webhook) => webhook.timeout = timeout,
            _ => {}
        }
        target
    };
    let targets = vec![
        with_timeout(grpc(&receiver)),
        with_timeout(Destination { name: "otlp-2".into(), ..http(&receiver, Protocol::HttpProtobuf) }),
        with_timeout(webhook(&receiver)),
    ];
    let streamer = quiet(config(targets, folder.path()));
    within(streamer.stream_events(events(5))).await.unwrap();
    let arrived = accepted(&mut receiver).await;
    assert_eq!(arrived.len(), 15, "5 at each of three destinations");
    assert_eq!(streamer.state().destinations.iter().map(|each| each.retries).sum::<u64>(), 3);
}

#[test]
fn shutdown_with_a_dead_destination_ends_in_time_and_says_what_is_outstanding() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("out.jsonl");
    let dead = destination("dead", DestinationKind::Otlp(Otlp::grpc(nobody())));
    let alive = destination("file", DestinationKind::File(File::new(&path)));
    let streamer = quiet(config(vec![dead, alive], folder.path()));
    for event in events(16) {
        streamer.emit(&event).unwrap();
    }
    let began = Instant::now();
    let error = streamer.shutdown_blocking(Duration::from_millis(500)).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let outstanding = error.outstanding();
    assert_eq!(outstanding.len(), 1, "the other one has everything: {error}");
    assert_eq!((outstanding[0].destination.as_str(), outstanding[0].events), ("dead", 16));
    assert!(error.to_string().contains("16 outstanding at dead") && error.to_string().contains("refused"), "{error}");
    assert_eq!(lines(&path).len(), 16, "one dead destination delays no other");
    assert!(streamer.emit(&event(0, 0)).unwrap_err().is_closed());
    assert!(streamer.shutdown_blocking(Duration::ZERO).unwrap_err().is_closed());
}

#[test]
fn it_works_without_any_runtime() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("out.jsonl");
    let streamer = quiet(config(vec![destination("file", DestinationKind::File(File::new(&path)))], folder.path()));
    // Another executor altogether polls the async methods.
    pollster::block_on(async {
        streamer.queue_event(event(0, 0)).await.unwrap();
        streamer.stream_events(vec![event(0, 1)]).await.unwrap();
        streamer.emit(&event(0, 2)).unwrap();
        streamer.flush().await.unwrap();
        assert_eq!(lines(&path).len(), 3);
        streamer.shutdown(PATIENCE).await.unwrap();
    });
}

#[tokio::test(flavor = "current_thread")]
async fn it_works_under_a_current_thread_runtime() {
    let folder = TempDir::new().unwrap();
    let mut receiver = receiver(Script::new()).await;
    let streamer = quiet(config(vec![grpc(&receiver), webhook(&receiver)], folder.path()));
    for event in events(100) {
        streamer.queue_event(event).await.unwrap();
    }
    within(streamer.flush()).await.unwrap();
    within(streamer.stream_events(vec![event(1, 0)])).await.unwrap();
    within(streamer.shutdown(PATIENCE)).await.unwrap();
    drop(streamer);
    assert_eq!(accepted(&mut receiver).await.len(), 202);
}

#[test]
fn defect_12_dropping_the_last_handle_delivers_what_is_outstanding() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("out.jsonl");
    let mut config = config(vec![destination("file", DestinationKind::File(File::new(&path)))], folder.path());
    config.batch.schedule_delay = Duration::from_secs(3600);
    let streamer = quiet(config);
    let clone = streamer.clone();
    streamer.emit(&event(0, 0)).unwrap();
    drop(streamer);
    clone.emit(&event(0, 1)).unwrap();
    drop(clone);
    assert_eq!(lines(&path).len(), 2);
}

#[test]
fn dropping_the_last_handle_with_a_dead_destination_says_what_is_lost() {
    let folder = TempDir::new().unwrap();
    let mut config = config(vec![destination("dead", DestinationKind::Otlp(Otlp::grpc(nobody())))], folder.path());
    config.shutdown_timeout = Duration::from_millis(100);
    let (streamer, notices) = listened(config);
    streamer.emit(&event(0, 0)).unwrap();
    drop(streamer);
    let notices = notices.lock().unwrap();
    assert!(
        matches!(notices.last(), Some(Notice::Undelivered { text }) if text.contains("1 outstanding at dead")),
        "{notices:?}"
    );
}

#[test]
#[cfg(target_os = "linux")]
fn defect_6_no_thread_outlives_the_last_handle() {
    // In a process of its own: other tests have threads too.
    if std::env::var_os("TEST_THREADS_IN_CHILD").is_none() {
        let test = "defect_6_no_thread_outlives_the_last_handle";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let status =
            child.args([test, "--exact", "--test-threads=1"]).env("TEST_THREADS_IN_CHILD", "1").status().unwrap();
        return assert!(status.success());
    }
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let folder = TempDir::new().unwrap();
    let before = threads();
    let path = folder.path().join("out.jsonl");
    let streamer = quiet(config(vec![destination("file", DestinationKind::File(File::new(&path)))], folder.path()));
    streamer.emit(&event(0, 0)).unwrap();
    assert!(threads() > before);
    drop(streamer);
    let began = Instant::now();
    while threads() > before {
        assert!(began.elapsed() < PATIENCE, "{} threads are left of {before}", threads());
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_an_own_authority_and_client_certificates_on_every_protocol() {
    let folder = TempDir::new().unwrap();
    let material = TlsMaterial::new();
    let options = receiver::Options {
        otlp_grpc: Some(ANY_PORT),
        otlp_http: Some(ANY_PORT),
        webhook: Some(ANY_PORT),
        tls: Some(material.mutual()),
        ..receiver::Options::default()
    };
    let mut receiver = Receiver::start(options).await.unwrap();
    let tls = Tls {
        certificate: Some(material.ca_path()),
        client_certificate: Some(material.client_path()),
        client_key: Some(material.client_key_path()),
    };
    let otlp = |protocol, endpoint| Otlp {
        protocol,
        tls: tls.clone(),
        compression: Compression::Gzip,
        headers: vec![("x-tenant".into(), auditwire::secret::Secret::new("blue"))],
        ..Otlp::grpc(endpoint)
    };
    let (grpc, http, hook) = (
        format!("https://localhost:{}", receiver.otlp_grpc_addr().unwrap().port()),
        format!("https://localhost:{}/v1/logs", receiver.otlp_http_addr().unwrap().port()),
        format!("https://localhost:{}/", receiver.webhook_addr().unwrap().port()),
    );
    let destinations = vec![
        destination("grpc", DestinationKind::Otlp(otlp(Protocol::Grpc, grpc.clone()))),
        destination("protobuf", DestinationKind::Otlp(otlp(Protocol::HttpProtobuf, http.clone()))),
        destination("json", DestinationKind::Otlp(otlp(Protocol::HttpJson, http))),
        destination(
            "webhook",
            DestinationKind::Webhook(Webhook {
                tls: tls.clone(),
                compression: Compression::Gzip,
                headers: vec![("authorization".into(), auditwire::secret::Secret::new("Bearer s3cr3t"))],
                ..Webhook::new(hook)
            }),
        ),
    ];
    let streamer = quiet(config(destinations, folder.path()));
    within(streamer.stream_events(events(25))).await.unwrap();
    receiver.stop().await;
    let mut records = 0;
    while let Some(received) = receiver.next().await {
        records += received.len();
        match received.protocol {
            receiver::Protocol::Webhook => assert_eq!(received.header("authorization"), Some("Bearer s3cr3t")),
            _ => assert_eq!(received.header("x-tenant"), Some("blue")),
        }
    }
    assert_eq!(records, 100);

    // Without the authority the server is not trusted, and the reason says so.
    let stranger = Otlp { protocol: Protocol::Grpc, ..Otlp::grpc(grpc) };
    let (streamer, notices) = listened(config(vec![destination("x", DestinationKind::Otlp(stranger))], folder.path()));
    streamer.emit(&event(0, 0)).unwrap();
    let _ = within(streamer.shutdown(Duration::from_millis(500))).await;
    let text = format!("{:?}", streamer.state());
    assert!(text.contains("certificate") || text.contains("refused"), "{text}: {:?}", notices.lock().unwrap());
}

#[test]
fn certificates_that_cannot_be_used_stop_the_start() {
    let folder = TempDir::new().unwrap();
    let junk = folder.path().join("junk.pem");
    std::fs::write(&junk, "no certificate").unwrap();
    let missing = PathBuf::from("/nonexistent/ca.pem");
    for (tls, words) in [
        (Tls { certificate: Some(missing), ..Tls::default() }, "/nonexistent/ca.pem"),
        (Tls { certificate: Some(junk.clone()), ..Tls::default() }, "no PEM certificate"),
        (Tls { client_key: Some(junk), ..Tls::default() }, "without the other"),
    ] {
        for otlp in [
            Otlp::grpc("https://localhost:1"),
            Otlp { protocol: Protocol::HttpJson, ..Otlp::grpc("https://localhost:1/") },
        ] {
            let target = destination("otlp", DestinationKind::Otlp(Otlp { tls: tls.clone(), ..otlp }));
            let error = AuditStreamer::start(config(vec![target], folder.path())).unwrap_err();
            assert!(error.is_config() && error.to_string().contains(words), "{error}");
        }
    }
}

#[test]
fn a_panic_of_a_processor_stops_neither_the_caller_nor_other_destinations() {
    #[derive(Debug)]
    struct Panics;
    impl opentelemetry_sdk::logs::LogProcessor for Panics {
        fn emit(&self, _: &mut opentelemetry_sdk::logs::SdkLogRecord, _: &opentelemetry::InstrumentationScope) {
            panic!("a defect in a processor of the user's");
        }
        fn force_flush(&self) -> opentelemetry_sdk::error::OTelSdkResult {
            Ok(())
        }
        fn shutdown_with_timeout(&self, _: Duration) -> opentelemetry_sdk::error::OTelSdkResult {
            Ok(())
        }
    }
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let file = |name: &str| destination(name, DestinationKind::File(File::new(path(name))));
    let streamer = AuditStreamer::builder(config(vec![file("struck"), file("spared")], folder.path()))
        .on_notice(|_| {})
        .extend_provider(|name, builder| if name == "struck" { builder.with_log_processor(Panics) } else { builder })
        .start()
        .unwrap();
    for event in events(3) {
        streamer.emit(&event).expect("the caller does not notice");
    }
    streamer.shutdown_blocking(PATIENCE).unwrap();
    assert_eq!(lines(&path("spared")).len(), 3);
    let (buried, reasons) = dead_letters(folder.path());
    assert_eq!(buried, uids(3), "what did not get through is kept");
    assert!(reasons[0].contains("panicked"), "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_a_listener_ends_no_delivery() {
    let folder = TempDir::new().unwrap();
    let mut receiver = receiver(Script::new().times(3, Answer::status(503))).await;
    let config = Config { max_retries: 0, ..config(vec![webhook(&receiver)], folder.path()) };
    let streamer = AuditStreamer::builder(config).on_notice(|_| panic!("a defect in a listener")).start().unwrap();
    within(streamer.stream_events(events(3))).await.unwrap();
    assert_eq!(accepted(&mut receiver).await, uids(3));
}

#[test]
fn processors_and_stock_exporters_on_the_provider_see_the_whole_record() {
    let seen = opentelemetry_sdk::logs::InMemoryLogExporter::default();
    let folder = TempDir::new().unwrap();
    let file = destination("file", DestinationKind::File(File::new(folder.path().join("out.jsonl"))));
    let stock = seen.clone();
    let streamer = AuditStreamer::builder(config(vec![file], folder.path()))
        .on_notice(|_| {})
        .extend_provider(move |_, builder| builder.with_simple_exporter(stock.clone()))
        .start()
        .unwrap();
    let event = event(0, 7).with_actor(auditwire::ActorInfo::user("u-1"));
    streamer.emit(&event).unwrap();
    let logs = seen.get_emitted_logs().unwrap();
    assert_eq!(logs.len(), 1);
    let record = &logs[0].record;
    let attributes: HashMap<_, _> =
        record.attributes_iter().map(|(key, value)| (key.as_str(), format!("{value:?}"))).collect();
    assert!(attributes["log.record.uid"].contains("0-000007"), "{attributes:?}");
    assert!(attributes["ocsf.class_uid"].contains("Int(6003)"), "{attributes:?}");
    assert!(attributes["ocsf.actor.user.uid"].contains("u-1"), "{attributes:?}");
    assert_eq!(record.event_name(), Some("ocsf.api_activity.create"));
    let Some(opentelemetry::logs::AnyValue::String(body)) = record.body() else { panic!("a text body") };
    assert_eq!(auditwire::ocsf::decode(body.as_str()).unwrap(), event);
    streamer.shutdown_blocking(PATIENCE).unwrap();
}

#[test]
fn an_event_emitted_inside_the_sdks_own_work_is_not_discarded() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("out.jsonl");
    let streamer = quiet(config(vec![destination("file", DestinationKind::File(File::new(&path)))], folder.path()));
    {
        let _suppressed = opentelemetry::Context::enter_telemetry_suppressed_scope();
        streamer.emit(&event(0, 0)).unwrap();
    }
    streamer.shutdown_blocking(PATIENCE).unwrap();
    assert_eq!(lines(&path).len(), 1);
}

#[test]
fn the_current_span_is_on_the_record() {
    use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("out.jsonl");
    let file = File { format: Format::OtlpJson, ..File::new(&path) };
    let streamer = quiet(config(vec![destination("file", DestinationKind::File(file))], folder.path()));
    let (trace, span) = (TraceId::from(0x0af7_6519_u128), SpanId::from(0xb7ad_u64));
    let remote = SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::default());
    let _current = opentelemetry::Context::new().with_remote_span_context(remote).attach();
    streamer.emit(&event(0, 0)).unwrap();
    streamer.shutdown_blocking(PATIENCE).unwrap();
    let record = lines(&path)[0]["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0].clone();
    assert_eq!(record["traceId"], trace.to_string());
    assert_eq!(record["spanId"], span.to_string());
    assert_eq!(record["flags"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_format_and_each_body_gives_the_event_back() {
    const EVENTS: &str = include_str!("data/compat/events.jsonl");
    let events: Vec<AuditEvent> = EVENTS.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let folder = TempDir::new().unwrap();
    let mut receiver = receiver(Script::new()).await;
    let DestinationKind::Otlp(otlp) = grpc(&receiver).kind else { unreachable!() };
    let path = |name: &str| folder.path().join(name);
    let file = |name: &str, format| destination(name, DestinationKind::File(File { format, ..File::new(path(name)) }));
    let streamer = quiet(config(
        vec![
            file("ocsf", Format::Ocsf),
            file("audit", Format::Audit),
            destination("json", DestinationKind::Otlp(Otlp { body: Body::Json, ..otlp.clone() })),
            destination("map", DestinationKind::Otlp(Otlp { body: Body::Map, ..otlp })),
        ],
        folder.path(),
    ));
    within(streamer.stream_events(events.clone())).await.unwrap();

    let text = std::fs::read_to_string(path("audit")).unwrap();
    let inputs: Vec<serde_json::Value> = EVENTS.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>(),
        inputs
    );
    let text = std::fs::read_to_string(path("ocsf")).unwrap();
    assert!(text.lines().all(|line| line.starts_with("{\"time\":")), "time comes first");
    let decoded: Vec<_> = text.lines().map(|line| auditwire::ocsf::decode(line).unwrap()).collect();
    assert_eq!(decoded, events);

    receiver.stop().await;
    let mut bodies = Vec::new();
    while let Some(received) = receiver.next().await {
        for record in received.records() {
            let body = auditwire::record::body_json(record.body.as_ref().unwrap()).expect("the body has a JSON form");
            bodies.push(body);
        }
    }
    assert_eq!(bodies.len(), 32);
    for (index, line) in text.lines().enumerate() {
        let same = bodies.iter().filter(|body| *body == line).count();
        assert_eq!(same, 2, "event {index} is in a json and in a map body, byte for byte");
    }
}

/// A chunked body is refused by more than one receiver (411).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_sent_with_its_length() {
    let folder = TempDir::new().unwrap();
    let mut receiver = receiver(Script::new()).await;
    let with = |compression| {
        let [mut webhook, mut otlp] = [webhook(&receiver), http(&receiver, Protocol::HttpProtobuf)];
        if let DestinationKind::Webhook(webhook) = &mut webhook.kind {
            webhook.compression = compression;
        }
        if let DestinationKind::Otlp(otlp) = &mut otlp.kind {
            otlp.compression = compression;
        }
        [webhook, otlp]
    };
    for destinations in [with(Compression::None), with(Compression::Gzip)] {
        let streamer = AuditStreamer::start(config(destinations.into(), folder.path())).unwrap();
        streamer.emit_all(&events(3)).unwrap();
        for _ in 0..2 {
            let received = within(receiver.next()).await.unwrap();
            let length: usize = received.header("content-length").expect("it is there").parse().unwrap();
            let is_plain = received.header("content-encoding").is_none();
            assert!(if is_plain { length == received.bytes } else { length < received.bytes });
            assert_eq!(received.header("transfer-encoding"), None);
        }
        within(streamer.shutdown(PATIENCE)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_compatible_streamer_keeps_the_old_semantics() {
    let receiver = receiver(Script::new()).await;
    let config = AuditStreamConfig {
        destination: StreamDestination::HttpWebhook {
            url: format!("http://{}/ingest", receiver.webhook_addr().unwrap()),
            authorization: Some("Bearer t".into()),
            headers: HashMap::from([("X-Tenant".into(), "blue".into())]),
        },
        batch_size: 5,
        flush_interval_secs: 3600,
        ..AuditStreamConfig::default()
    };
    let streamer = AuditStreamer::new(config);
    let mut receiver = receiver;
    for event in events(5) {
        streamer.queue_event(event).await.unwrap();
    }
    let received = within(receiver.next()).await.unwrap();
    assert_eq!(received.len(), 5, "a full batch is sent without further calls");
    assert_eq!(received.header("authorization"), Some("Bearer t"));
    assert_eq!(received.header("x-tenant"), Some("blue"));
    assert_eq!(received.header("content-type"), Some("application/json"));

    // The receiver had the batch before its answer was back.
    within(async {
        while streamer.buffered_count().await > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    streamer.queue_event(event(0, 5)).await.unwrap();
    assert_eq!(streamer.buffered_count().await, 1);
    within(streamer.flush()).await.unwrap();
    assert_eq!(streamer.buffered_count().await, 0);
    within(streamer.stream_events(vec![event(0, 6)])).await.unwrap();
    assert_eq!(within(receiver.next()).await.unwrap().len() + within(receiver.next()).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_5_a_flush_interval_of_zero_sends_at_once() {
    let mut receiver = receiver(Script::new()).await;
    let url = format!("http://{}/", receiver.webhook_addr().unwrap());
    let destination = StreamDestination::HttpWebhook { url, authorization: None, headers: HashMap::new() };
    let streamer =
        AuditStreamer::new(AuditStreamConfig { destination, flush_interval_secs: 0, ..AuditStreamConfig::default() });
    streamer.queue_event(event(0, 0)).await.unwrap();
    assert_eq!(within(receiver.next()).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_background_flush_runs_by_itself() {
    let mut receiver = receiver(Script::new()).await;
    let url = format!("http://{}/", receiver.webhook_addr().unwrap());
    let destination = StreamDestination::HttpWebhook { url, authorization: None, headers: HashMap::new() };
    let streamer =
        AuditStreamer::new(AuditStreamConfig { destination, flush_interval_secs: 1, ..AuditStreamConfig::default() });
    streamer.queue_event(event(0, 0)).await.unwrap();
    assert_eq!(within(receiver.next()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_fails_every_call_of_the_compatible_streamer() {
    let destination =
        StreamDestination::HttpWebhook { url: "not a url".into(), authorization: None, headers: HashMap::new() };
    let streamer = AuditStreamer::new(AuditStreamConfig { destination, ..AuditStreamConfig::default() });
    assert!(streamer.queue_event(event(0, 0)).await.unwrap_err().is_config());
    assert!(streamer.emit(&event(0, 0)).unwrap_err().is_config());
    assert!(streamer.flush().await.unwrap_err().is_config());
    assert!(streamer.stream_events(events(1)).await.unwrap_err().to_string().contains("url"));
}

#[test]
fn defect_12_concurrent_flushes_do_not_reorder() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("out.jsonl");
    let streamer = quiet(config(vec![destination("file", DestinationKind::File(File::new(&path)))], folder.path()));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while streamer.state().accepted < 500 {
                    pollster::block_on(streamer.flush()).unwrap();
                }
            });
        }
        for event in events(500) {
            streamer.emit(&event).unwrap();
        }
    });
    streamer.shutdown_blocking(PATIENCE).unwrap();
    let written: Vec<_> =
        lines(&path).iter().map(|line| line["metadata"]["uid"].as_str().unwrap().to_owned()).collect();
    assert_eq!(written, uids(500));
}

#[test]
fn shutdown_loses_nothing_that_was_accepted_while_it_began() {
    for round in 0..20 {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("out.jsonl");
        let streamer = quiet(config(vec![destination("file", DestinationKind::File(File::new(&path)))], folder.path()));
        let accepted = std::thread::scope(|scope| {
            let emitting: Vec<_> = (0..3)
                .map(|thread| {
                    let streamer = &streamer;
                    scope.spawn(move || {
                        (0..).take_while(|number| streamer.emit(&event(thread, *number)).is_ok()).count()
                    })
                })
                .collect();
            while streamer.state().accepted < 50 * round {
                std::thread::yield_now();
            }
            streamer.shutdown_blocking(PATIENCE).unwrap();
            emitting.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!(lines(&path).len(), accepted, "round {round}");
    }
}
