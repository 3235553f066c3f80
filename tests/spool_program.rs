//! The program with a spool as its user meets it: killed, resumed, looked into; and the dead-letter file.

#![cfg(unix)]

mod support;

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use auditwire::receiver::{Answer, Script};
use auditwire::{AuditEvent, ocsf};
use serde_json::Value;
use support::{Inbox, Workplace, is_long};

/// Lines of events, whose uids say which they are.
fn lines(numbers: std::ops::Range<usize>) -> String {
    numbers
        .map(|n| {
            format!(
                "{{\"time\":\"2026-11-02T08:14:07Z\",\"type_name\":\"policy_decision\",\"uid\":\"u-{n:07}\",\
                 \"action\":\"Run\",\"outcome\":\"permit\",\"actor\":{{\"user_id\":\"user-{}\"}},\
                 \"resource\":{{\"resource_type\":\"sandbox\",\"resource_id\":\"build-{n}\"}}}}\n",
                n % 97
            )
        })
        .collect()
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn sequences(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["metadata"]["sequence"].as_u64().unwrap()).collect()
}

/// `send events.jsonl --resume --spool spool --to …`
fn send(place: &Workplace, target: &str) -> Command {
    let mut send = place.auditwire(["send", "events.jsonl", "--resume", "--spool", "spool", "--to", target]);
    send.env("OTEL_BLRP_SCHEDULE_DELAY", "50");
    send
}

/// A port where nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("otlp=http://{}", listener.local_addr().unwrap())
}

/// Accepts events into `spool` and delivers none.
fn fill(place: &Workplace, events: usize) {
    place.file("events.jsonl", lines(0..events));
    let said = place.run(send(place, &nobody()).args(["--timeout", "100ms"])).code(5);
    said.said(&["kept in the spool spool"]);
}

/// What a run of kills has come to.
struct Killed {
    kills: usize,
    received: usize,
    distinct: usize,
    repeated: usize,
}

/// Sends `events`, kills the sender at random moments, with a receiver that is down a third of the time. `grow`: the input grows
/// from round to round, so that every round has something to read.
async fn kill_at_random(events: usize, kills: usize, most: Duration, grow: bool) -> Killed {
    let place = Workplace::new();
    let seed = std::env::var("TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let mut random = fastrand::Rng::with_seed(seed);
    let step = if grow { events / (kills + 1) } else { events };
    let file = place.file("events.jsonl", lines(0..step));
    let mut written = step;
    let mut inbox = Inbox::new().await;
    let began = Instant::now();
    let is_down = |began: Instant| began.elapsed().as_millis() % 600 >= 400;
    let (mut killed, mut running) = (0, None);
    let ended = loop {
        let process = running.get_or_insert_with(|| {
            let die_at = Instant::now() + Duration::from_secs_f64(random.f64() * most.as_secs_f64());
            (place.start(&mut send(&place, &inbox.target())), die_at)
        });
        match process.0.child.try_wait().unwrap() {
            Some(_) if written < events || killed < kills && grow => {}
            Some(status) => break status,
            None if killed < kills && Instant::now() >= process.1 => {
                process.0.child.kill().unwrap();
                process.0.child.wait().unwrap();
                killed += 1;
            }
            None => {
                match (is_down(began), inbox.is_up()) {
                    (true, true) => inbox.stop().await,
                    (false, false) => inbox.start().await,
                    _ => {}
                }
                inbox.take_for(Duration::from_millis(2)).await;
                assert!(began.elapsed() < Duration::from_secs(240), "{} of {events} events came", inbox.distinct());
                continue;
            }
        }
        running = None;
        let more = if killed == kills { events - written } else { step.min(events - written) };
        if grow && more > 0 {
            // Half a line, too: whoever writes it is not done.
            append(&file, &lines(written..written + more));
            written += more;
        }
    };
    assert!(ended.success(), "the last run delivers everything: {ended}");
    inbox.stop().await;

    let times = inbox.times();
    let missing = (0..events).filter(|n| !times.contains_key(&*format!("u-{n:07}"))).count();
    let last = inbox.assert_dense();
    let sent_twice = last as usize - events;
    let repeated = inbox.repeated();
    eprintln!(
        "{events} events, {killed} kills, {} times down: {} distinct, {missing} missing, {sent_twice} accepted twice, \
         {repeated} delivered twice, {:.1?}",
        inbox.stops,
        times.len(),
        began.elapsed()
    );
    assert_eq!((missing, times.len()), (0, events));
    // A kill costs the batch that was accepted and not remembered, and the request that was taken and not acknowledged.
    assert!(sent_twice <= 256 * killed, "{sent_twice} events were accepted twice");
    assert!(repeated <= 512 * (killed + inbox.stops), "{repeated} events were delivered twice");
    Killed { kills: killed, received: inbox.arrivals.len(), distinct: times.len(), repeated }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_1_killed_at_random_moments_it_loses_nothing_and_keeps_order() {
    let (events, kills) = if is_long() { (40_000, 100) } else { (4_000, 10) };
    let killed = kill_at_random(events, kills, Duration::from_millis(250), true).await;
    assert!(killed.kills >= kills / 2 && killed.received == killed.distinct + killed.repeated || killed.received > 0);
}

/// What the product is for.
#[tokio::test(flavor = "multi_thread")]
async fn fault_1_two_hundred_thousand_events_survive_ten_kills_and_a_receiver_that_is_down_a_third_of_the_time() {
    let (events, kills, most) = if is_long() { (200_000, 10, 2000) } else { (6_000, 3, 300) };
    kill_at_random(events, kills, Duration::from_millis(most), false).await;
}
