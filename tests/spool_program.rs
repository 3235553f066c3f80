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

/// Sends `events`, kills the sender at random moments, with a receiver that is down a third of the time. `grow`: the input grows
/// from round to round, so that every round has something to read. Gives how often it was killed.
async fn kill_at_random(events: usize, kills: usize, most: Duration, grow: bool) -> usize {
    let place = Workplace::new();
    let seed = std::env::var("TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let mut random = fastrand::Rng::with_seed(seed);
    let step = if grow { events / (kills + 1) } else { events };
    let file = place.file("events.jsonl", lines(0..step));
    let mut written = step;
    let mut inbox = Inbox::new().await;
    let began = Instant::now();
    // Long enough for a long run that waiting for the next attempt is not most of it.
    let third = if events > 100_000 { 1000 } else { 200 };
    let is_down = |began: Instant| began.elapsed().as_millis() % (3 * third) >= 2 * third;
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
    // A kill costs the batches that were accepted and not remembered, and the request that was taken and not acknowledged.
    assert!(sent_twice <= 9 * 256 * killed, "{sent_twice} events were accepted twice");
    assert!(repeated <= 512 * (killed + inbox.stops), "{repeated} events were delivered twice");
    killed
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_1_killed_at_random_moments_it_loses_nothing_and_keeps_order() {
    let (events, kills) = if is_long() { (40_000, 100) } else { (4_000, 10) };
    assert_eq!(kill_at_random(events, kills, Duration::from_millis(250), true).await, kills);
}

/// What the product is for.
#[tokio::test(flavor = "multi_thread")]
async fn fault_1_two_hundred_thousand_events_survive_ten_kills_and_a_receiver_that_is_down_a_third_of_the_time() {
    let (events, kills, most) = if is_long() { (200_000, 10, 2000) } else { (6_000, 3, 300) };
    let killed = kill_at_random(events, kills, Duration::from_millis(most), false).await;
    assert!(killed == kills || !is_long(), "only {killed} kills came before the end");
}

#[test]
fn a_file_is_gone_on_in_under_any_name_and_begun_anew_when_it_is_another() {
    let place = Workplace::new();
    let sent = |name: &str| {
        let mut send = place.auditwire(["send", name, "--resume", "--spool", "spool", "--to", "stdout"]);
        let ended = place.run(&mut send).code(0);
        let uids =
            json_lines(&ended.stdout).into_iter().map(|event| event["metadata"]["uid"].as_str().unwrap().to_owned());
        (uids.collect::<Vec<_>>(), ended.stderr)
    };
    let uids = |numbers: std::ops::Range<usize>| numbers.map(|n| format!("u-{n:07}")).collect::<Vec<_>>();
    let file = place.file("a.jsonl", lines(0..3));
    assert_eq!(sent("a.jsonl").0, uids(0..3));
    assert_eq!(sent("a.jsonl").0, uids(0..0));

    // Fault 31: a line is not taken before it is whole.
    let more = lines(3..5);
    append(&file, &more[..more.len() - 10]);
    let (taken, said) = sent("a.jsonl");
    assert_eq!(taken, uids(3..4));
    assert!(said.contains("a.jsonl:5: this line has no end yet"), "{said}");
    append(&file, &more[more.len() - 10..]);
    fs::rename(&file, place.path("b.jsonl")).unwrap();
    assert_eq!(sent("b.jsonl").0, uids(4..5));

    // Fault 30: copied and truncated, and grown again to the same length.
    fs::write(place.path("b.jsonl"), lines(10..12)).unwrap();
    let (taken, said) = sent("b.jsonl");
    assert_eq!(taken, uids(10..12));
    assert!(said.contains("b.jsonl: it has been truncated since it was sent"), "{said}");
    fs::write(place.path("b.jsonl"), lines(20..22)).unwrap();
    let (taken, said) = sent("b.jsonl");
    assert_eq!(taken, uids(20..22));
    assert!(said.contains("b.jsonl: it holds something else than before"), "{said}");

    // An array goes on at its next element.
    let array = |numbers| format!("[\n{}\n]\n", lines(numbers).trim_end().replace('\n', ",\n"));
    place.file("c.json", array(30..32));
    assert_eq!(sent("c.json").0, uids(30..32));
    fs::write(place.path("c.json"), array(30..34)).unwrap();
    assert_eq!(sent("c.json").0, uids(32..34));
}

#[test]
fn what_is_malformed_is_told_once_and_not_again() {
    let place = Workplace::new();
    place.file("events.jsonl", format!("{}{{}}\n{}", lines(0..2), lines(2..3)));
    let mut send = send(&place, "stdout");
    send.args(["--rejects", "rejects"]);
    let ended = place.run(&mut send).code(3).said(&["events.jsonl:3: missing field `time`"]);
    assert_eq!(sequences(&json_lines(&ended.stdout)), [1, 2, 3]);
    place.run(&mut send).code(0).said(&["read 0, malformed 0, accepted 0"]);
    assert_eq!(place.read("rejects"), "{}\n");
}

#[test]
fn resume_is_refused_where_it_cannot_be_kept() {
    let place = Workplace::new();
    place.file("events.jsonl", lines(0..1));
    let refused = |arguments: &[&str], code, why: &str| {
        place.run(&mut place.auditwire(arguments)).code(code).said(&[why]);
    };
    refused(&["send", "events.jsonl", "--resume", "--to", "stdout"], 2, "--resume: there is no spool");
    refused(&["send", "--resume", "--spool", "s", "--to", "stdout"], 2, "standard input cannot be read again");
    refused(&["send", "/dev/null", "--resume", "--spool", "s", "--to", "stdout"], 1, "no regular file");
}

#[test]
fn the_spool_of_the_option_counts_over_that_of_the_variables() {
    let place = Workplace::new();
    place.file("events.jsonl", lines(0..2));
    let mut send = send(&place, &nobody());
    send.args(["--timeout", "50ms"]).env("AUDITWIRE_SPOOL_DIR", "other").env("AUDITWIRE_SPOOL_MAX_BYTES", "32MiB");
    place.run(&mut send).code(5).said(&["2 outstanding at otlp", "kept in the spool spool"]);
    assert!(!place.path("other").exists());
    let mut check = place.auditwire(["send", "--check", "--to", "stdout", "--spool", "there"]);
    assert!(place.run(&mut check).code(0).stdout.contains("spool: there"));
}

#[test]
fn a_dead_destination_is_no_reason_to_stop_reading_into_the_spool() {
    let place = Workplace::new();
    place.file("events.jsonl", lines(0..5000));
    let ended = place.run(send(&place, &nobody()).args(["--timeout", "300ms"])).code(5);
    ended.said(&["read 5000, malformed 0, accepted 5000, ", "5000 outstanding at otlp"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_accepts_nothing_twice() {
    let place = Workplace::new();
    let file = place.file("events.jsonl", "");
    let mut inbox = Inbox::new().await;
    for round in 0..2 {
        append(&file, &lines(round * 3000..round * 3000 + 3000));
        let sending = place.start(&mut send(&place, &inbox.target()));
        inbox.take_until(round * 3000 + 100).await;
        sending.signal("TERM");
        let ended = sending.end();
        assert!(matches!(ended.code, Some(0 | 5)), "{ended:?}");
    }
    let sending = place.start(&mut send(&place, &inbox.target()));
    inbox.take_until(6_000).await;
    sending.end().code(0);
    inbox.stop().await;
    assert_eq!((inbox.assert_dense(), inbox.distinct()), (6_000, 6_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_is_not_held_up_by_batches() {
    let place = Workplace::new();
    let mut inbox = Inbox::new().await;
    let mut send = place.auditwire(["send", "--spool", "spool", "--to", &inbox.target()]);
    send.env("OTEL_BLRP_SCHEDULE_DELAY", "20").stdin(std::process::Stdio::piped());
    let mut sending = place.start(&mut send);
    let mut stdin = sending.stdin();
    for n in 0..3 {
        // With a piece of the next line behind it, which is no reason to wait.
        let (this, next) = (lines(n..n + 1), lines(n + 1..n + 2));
        let begun = if n == 0 { 0 } else { 20 };
        stdin.write_all(format!("{}{}", &this[begun..], &next[..20]).as_bytes()).unwrap();
        inbox.take_until(n + 1).await;
    }
    drop(stdin);
    sending.end().code(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_verify_and_export_show_what_waits() {
    let place = Workplace::new();
    fill(&place, 300);
    let spool = |arguments: &[&str]| place.run(&mut place.auditwire([&["spool"], arguments].concat()));
    let status = spool(&["status", "spool"]).code(0).stdout;
    assert!(status.contains("spool: 300 events in 1 segments, "), "{status}");
    assert!(status.contains("otlp: 300 events outstanding, ") && status.contains("not open"), "{status}");
    let json: Value = serde_json::from_str(&spool(&["status", "spool", "--format", "json"]).code(0).stdout).unwrap();
    let otlp = &json["destinations"][0];
    assert_eq!(
        (&json["first_sequence"], &json["next_sequence"], &otlp["outstanding"]),
        (&1.into(), &301.into(), &300.into())
    );
    assert!(otlp["waiting_seconds"].as_f64().unwrap() < 60.0 && otlp["bytes"].as_u64().unwrap() > 100_000, "{json}");
    assert!(spool(&["verify", "spool"]).code(0).stdout.contains("spool: intact; 300 events"));

    let exported = spool(&["export", "spool"]).code(0).stdout;
    let events = json_lines(&exported);
    assert_eq!(sequences(&events), (1..=300).collect::<Vec<_>>());
    assert_eq!(events[0]["metadata"]["loggers"][0]["uid"], json["stream"]);
    exported.lines().for_each(|line| assert!(ocsf::validate(line).is_valid(), "{line}"));
    assert_eq!(json_lines(&spool(&["export", "spool", "--from", "299"]).code(0).stdout).len(), 2);
    spool(&["export", "spool", "--destination", "nobody"]).code(1).said(&["knows no destination nobody, only otlp"]);
    spool(&["status", "nowhere"]).code(1).said(&["cannot read nowhere: No such file"]);
    spool(&["status"]).code(2).said(&["AUDITWIRE_SPOOL_DIR"]);
    spool(&["status", "."]).code(1).said(&["no spool"]);

    let mut inbox = Inbox::new().await;
    place
        .run(&mut place.auditwire(["send", "--spool", "spool", "--to", &inbox.target()]))
        .code(0)
        .said(&["delivered 300"]);
    inbox.stop().await;
    assert_eq!(inbox.assert_dense(), 300);
    let status = spool(&["status", "spool"]).code(0).stdout;
    assert!(status.contains("otlp: nothing outstanding"), "{status}");
    assert_eq!(spool(&["export", "spool"]).code(0).stdout, "");
}

#[test]
fn exported_is_byte_for_byte_what_is_delivered() {
    let place = Workplace::new();
    fill(&place, 50);
    let exported = place.run(&mut place.auditwire(["spool", "export", "spool"])).code(0).stdout;
    // A second destination begins at the oldest event.
    let mut send = place.auditwire(["send", "--spool", "spool", "--to", "file=out.jsonl"]);
    place.run(&mut send).code(0).said(&["keeps 50 events for otlp, which is not configured"]);
    assert_eq!(place.read("out.jsonl"), exported);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_spool_can_be_looked_into_and_not_be_taken() {
    let place = Workplace::new();
    place.file("events.jsonl", lines(0..300));
    let mut sending = place.start(&mut send(&place, &nobody()));
    sending.said("does not take events");
    let pid = sending.child.id();
    let spool = |arguments: &[&str]| place.run(&mut place.auditwire([&["spool"], arguments].concat()));
    let accepted = support::poll(|| {
        let status = spool(&["status", "spool"]).code(0).stdout;
        status.contains("otlp: 300 events outstanding").then_some(status)
    });
    assert!(accepted.unwrap().contains(&format!("open in process {pid}")));
    spool(&["verify", "spool"]).code(0);
    assert_eq!(spool(&["export", "spool"]).code(0).stdout.lines().count(), 300);
    let taken = format!("in use by process {pid}");
    spool(&["remove", "spool", "otlp", "--yes"]).code(1).said(&[&taken]);
    place.run(&mut send(&place, "stdout")).code(1).said(&[&taken]);
    sending.signal("KILL");
    drop(sending);
    spool(&["remove", "spool", "otlp", "--yes"]).code(0);
}

#[test]
fn damage_is_named_and_the_rest_is_salvaged() {
    let place = Workplace::new();
    fill(&place, 300);
    let spool = |arguments: &[&str]| place.run(&mut place.auditwire([&["spool"], arguments].concat()));
    let segment = fs::read_dir(place.path("spool")).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.into_iter().find(|path| path.extension().is_some_and(|it| it == "log")).unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    for n in [100, 101, 200] {
        let needle = format!("u-{n:07}");
        let at = bytes.windows(needle.len()).position(|window| window == needle.as_bytes()).unwrap();
        bytes[at] = b'X';
    }
    fs::write(&segment, bytes).unwrap();

    let verified = spool(&["verify", "spool"]).code(1).stdout;
    assert!(verified.contains(": events 101 to 102 are lost\n"), "{verified}");
    assert!(verified.contains(": events 201 to 201 are lost\n") && verified.contains("seg-"), "{verified}");
    assert!(verified.contains("spool: DAMAGED; 297 events are intact"), "{verified}");

    let salvaged = spool(&["salvage", "spool", "out.jsonl"]).code(1);
    salvaged.said(&["events 101 to 102 are lost", "297 events rescued to out.jsonl, 3 lost"]);
    let text = place.read("out.jsonl");
    text.lines().for_each(|line| assert!(ocsf::validate(line).is_valid(), "{line}"));
    let events: Vec<AuditEvent> = text.lines().map(|line| ocsf::decode(line).unwrap()).collect();
    let gaps: Vec<_> = events.iter().filter(|event| event.type_name == "audit_gap").collect();
    let gap = |n: usize| &gaps[n].resource.as_ref().unwrap().attributes;
    assert_eq!((events.len(), gaps.len()), (299, 2));
    assert_eq!(
        (&gap(0)["first_sequence"], &gap(0)["last_sequence"], &gap(0)["count"]),
        (&101.into(), &102.into(), &2.into())
    );
    assert_eq!(events[100].type_name, "audit_gap", "in its place");
    spool(&["salvage", "spool", "out.jsonl"]).code(1).said(&["cannot write out.jsonl"]);
    assert_eq!(spool(&["export", "spool"]).code(1).stdout.lines().count(), 299);

    // What was rescued can be sent.
    let mut convert = place.auditwire(["convert", "--from", "ocsf", "--to", "audit", "out.jsonl"]);
    let converted = place.run(&mut convert).code(0).stdout;
    assert_eq!(converted.lines().count(), 299);
}

#[test]
fn a_destination_is_given_up_only_when_told_so() {
    let place = Workplace::new();
    fill(&place, 20);
    let spool = |arguments: &[&str]| place.run(&mut place.auditwire([&["spool"], arguments].concat()));
    let ended = spool(&["remove", "spool", "otlp"]).code(2);
    ended.said(&["would not get 20 events that it has not confirmed, numbers 1 to 20; --yes gives them up"]);
    assert!(spool(&["status", "spool"]).stdout.contains("20 events outstanding"));
    spool(&["remove", "spool", "webhook"]).code(1).said(&["knows no destination webhook, only otlp"]);
    spool(&["remove", "spool", "otlp", "--yes"]).code(0).said(&["otlp is removed and will not get 20 events"]);
    assert!(!spool(&["status", "spool"]).stdout.contains("otlp"));
}

/// Sends five events of which two are refused for good, each by itself.
async fn refuse(place: &Workplace) {
    fn script() -> Script {
        Script::new().rule(|received| {
            let bad = received
                .records()
                .filter_map(auditwire::receiver::uid)
                .any(|uid| ["u-0000001", "u-0000003"].contains(&uid));
            bad.then(|| Answer::status(400).message("bad\u{7} event"))
        })
    }
    let mut inbox = Inbox::scripted(script).await;
    place.file("events.jsonl", lines(0..5));
    place.run(&mut place.auditwire(["send", "events.jsonl", "--to", &inbox.target()])).code(4);
    inbox.stop().await;
    assert_eq!(inbox.distinct(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_sent_again_and_dropped() {
    let place = Workplace::new();
    refuse(&place).await;
    let dlq = |arguments: &[&str]| place.run(&mut place.auditwire([&["dlq"], arguments].concat()));
    let list = dlq(&["list"]).code(0).stdout;
    let rows: Vec<_> = list.lines().collect();
    assert_eq!(rows.len(), 2, "{list}");
    assert!(rows[1].starts_with("   2  20") && rows[1].contains("  otlp  1 event  "), "{list}");
    assert!(list.contains("bad\u{fffd} event"), "{list}");
    let shown = dlq(&["show", "2"]).code(0).stdout;
    assert_eq!(json_lines(&shown)[0]["metadata"]["uid"], "u-0000003");
    let audit = dlq(&["show", "2", "--format", "audit"]).code(0).stdout;
    let sent: Vec<_> = lines(3..4).lines().map(|line| serde_json::from_str::<AuditEvent>(line).unwrap()).collect();
    assert_eq!(serde_json::from_str::<AuditEvent>(&audit).unwrap(), sent[0]);
    dlq(&["show", "3"]).code(1).said(&["has no number 3; it has 2 letters"]);
    dlq(&["list", "--file", "other"]).code(0);

    // A destination that is dead, one that is not configured, one that refuses it again, and one that takes it.
    dlq(&["replay", "2", "--to", &nobody(), "--timeout", "100ms"]).code(5).said(&["0 events delivered"]);
    dlq(&["replay", "--timeout", "100ms"]).code(5);
    assert_eq!(dlq(&["list"]).stdout, list);
    let mut inbox = Inbox::scripted(|| Script::new().times(1, Answer::status(400))).await;
    dlq(&["replay", "1", "--to", &inbox.target()]).code(4).said(&["0 events delivered, 1 refused again"]);
    let now = dlq(&["list"]).stdout;
    assert_eq!((now.lines().count(), now.contains("scripted 400")), (2, true), "{now}");
    dlq(&["replay", "--to", &inbox.target()]).code(0).said(&["2 events delivered, 0 refused again"]);
    inbox.take_until(2).await;
    assert_eq!(dlq(&["list"]).code(0).stdout, "");
    inbox.stop().await;
    assert_eq!(inbox.times().into_values().collect::<Vec<_>>(), [1, 1]);

    refuse(&place).await;
    dlq(&["drop", "1-2"]).code(2).said(&["2 events would be gone; --yes drops them"]);
    dlq(&["drop", "2", "--yes"]).code(0).said(&["1 letters with 1 events dropped"]);
    assert_eq!(json_lines(&dlq(&["show", "1"]).stdout)[0]["metadata"]["uid"], "u-0000001");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_is_none_is_told_and_stays() {
    let place = Workplace::new();
    refuse(&place).await;
    append(
        &place.path("dead-letters.jsonl"),
        "{\"time\":\"t\",\"destination\":\"d\",\"why\":\"w\",\"events\":[{}]}\nno letter\n",
    );
    let mut inbox = Inbox::new().await;
    let mut replay = place.auditwire(["dlq", "replay", "--to", &inbox.target()]);
    place.run(&mut replay).code(3).said(&[
        "dead-letters.jsonl:3: ",
        "dead-letters.jsonl:4: no dead letter: ",
        "2 events delivered, 0 refused again, 2 letters left as they are",
    ]);
    inbox.stop().await;
    let list = place.run(&mut place.auditwire(["dlq", "list"])).code(0).stdout;
    assert_eq!((inbox.distinct(), list.lines().count()), (2, 2), "{list}");
}

#[test]
fn a_reader_of_standard_output_that_goes_away_leaves_its_events_in_the_spool() {
    let place = Workplace::new();
    place.file("events.jsonl", lines(0..3000));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut send = send(&place, "stdout");
    let sending = send.stdout(writer).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let ended = sending.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(5), "{said}");
    assert!(said.contains("kept in the spool spool") && !said.contains("lost"), "{said}");
    let ended = place.run(&mut self::send(&place, "stdout")).code(0);
    let uids: HashSet<_> = ended.stdout.lines().map(|line| line.split("u-").nth(1).unwrap()[..7].to_owned()).collect();
    assert_eq!(uids.len(), 3000);
}
