//! The program as its user meets it: a subprocess, real receivers, exit codes and lines on standard error.

#![cfg(unix)]

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use auditwire::receiver::{
    ANY_PORT, Answer, Options, Payload, Received, Receiver, Script, attribute, json, records, uid,
};
use serde_json::{Value, json};
use support::{Workplace, http_client};
use tokio::net::TcpSocket;

/// Sixteen events, as agentkernel wrote them.
const EVENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/compat/events.jsonl");

const EVENT: &str = r#"{"time":"2026-11-02T08:14:07Z","type_name":"n","uid":"u-1","action":"a","outcome":"permit"}"#;

async fn receiver(script: Script) -> Receiver {
    let all = Some(ANY_PORT);
    Receiver::start(Options { otlp_grpc: all, otlp_http: all, webhook: all, script, ..Options::default() })
        .await
        .unwrap()
}

/// `--to otlp=…` for a receiver's gRPC port.
fn to_grpc(receiver: &Receiver) -> String {
    format!("otlp=http://{}", receiver.otlp_grpc_addr().unwrap())
}

/// Stops the receiver and gives what it took.
async fn taken(receiver: &mut Receiver) -> Vec<Received> {
    receiver.stop().await;
    let mut all = Vec::new();
    while let Some(received) = receiver.next().await {
        all.extend(Some(received).filter(Received::accepted));
    }
    all
}

/// A port that nobody listens to, as long as this lives.
struct DeadPort(#[allow(dead_code, reason = "held")] TcpSocket, SocketAddr);

impl DeadPort {
    fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(ANY_PORT).unwrap();
        let address = socket.local_addr().unwrap();
        Self(socket, address)
    }

    fn target(&self) -> String {
        format!("otlp=http://{}", self.1)
    }
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// The uids of the sixteen events, in order.
fn event_uids() -> Vec<String> {
    let uid = |event: &Value| event["uid"].as_str().unwrap().to_owned();
    json_lines(&fs::read_to_string(EVENTS).unwrap()).iter().map(uid).collect()
}

fn ocsf_uids(events: &[Value]) -> Vec<String> {
    events.iter().map(|event| event["metadata"]["uid"].as_str().unwrap().to_owned()).collect()
}

fn otlp_uids(taken: &[Received]) -> Vec<String> {
    taken.iter().flat_map(Received::records).map(|record| uid(record).unwrap().to_owned()).collect()
}

#[test]
fn demo_shows_eight_decoded_records_and_ends() {
    let place = Workplace::new();
    let ended = place.run(&mut place.auditwire(["demo"])).code(0).said(&["accepted 8, delivered 8, decoded 8"]);
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 8, "{lines:?}");
    for line in &lines {
        assert!(line.contains("  ocsf.") && line.contains("  mira@example.org  ") && line.contains("  uid "), "{line}");
        assert!(!line.contains('…'), "{line}");
    }
    assert!(lines[4].contains("  WARN   ocsf.api_activity.other  "), "{}", lines[4]);

    let ended = place.run(&mut place.auditwire(["demo", "--body"])).code(0);
    let bodies: Vec<_> = ended.stdout.lines().filter_map(|line| line.strip_prefix("    {\"time\":")).collect();
    assert_eq!(bodies.len(), 8, "{}", ended.stdout);
}

#[test]
fn send_to_stdout_prints_ocsf_with_time_first() {
    let place = Workplace::new();
    let ended = place.run(&mut place.auditwire(["send", EVENTS, "--to", "stdout"])).code(0);
    assert_eq!(ended.stderr, "auditwire: read 16, malformed 0, accepted 16, delivered 16, rejected 0\n");
    assert!(ended.stdout.lines().all(|line| line.starts_with("{\"time\":")), "{}", ended.stdout);
    assert_eq!(ocsf_uids(&json_lines(&ended.stdout)), event_uids());

    let ended = place.run(&mut place.auditwire(["send", "--quiet", EVENTS, "--to", "stdout"])).code(0);
    assert_eq!((&*ended.stderr, ended.stdout.lines().count()), ("", 16));
}

#[test]
fn the_audit_format_gives_the_input_back() {
    let place = Workplace::new();
    let mut send = place.auditwire(["send", EVENTS, "--to", "stdout"]);
    let ended = place.run(send.env("AUDITWIRE_STDOUT_FORMAT", "audit")).code(0);
    assert_eq!(json_lines(&ended.stdout), json_lines(&fs::read_to_string(EVENTS).unwrap()));
}

#[test]
fn a_dead_port_is_undelivered_and_named() {
    let (place, port) = (Workplace::new(), DeadPort::new());
    let begun = Instant::now();
    let ended = place.run(&mut place.auditwire(["send", EVENTS, "--to", &port.target(), "--timeout", "500ms"])).code(5);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let destination = format!("otlp (http://{})", port.1);
    let ended = ended.said(&[
        &format!("{destination} does not take events: "),
        "Connection refused",
        &format!("accepted 16, delivered 0, rejected 0; 16 outstanding at {destination}: "),
    ]);
    assert_eq!(ended.stdout, "");
}

/// More events than the queue holds: reading stops at the full queue, and the timeout holds there, too.
#[test]
fn a_dead_port_and_a_full_queue_are_undelivered() {
    let (place, port) = (Workplace::new(), DeadPort::new());
    let mut send = place.auditwire(["send", EVENTS, "--to", &port.target(), "--timeout", "300ms"]);
    send.env("OTEL_BLRP_MAX_QUEUE_SIZE", "5").env("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "5");
    place.run(&mut send).code(5).said(&["accepted 5, ", "not read to the end", "5 outstanding at otlp"]);
}

#[test]
fn malformed_input_is_named_kept_and_hinders_nothing() {
    let place = Workplace::new();
    let bad: [&[u8]; 3] = [b"  {\"time\": \r", b"\xff\xfe not text\0", b"{\"time\":\"t\",\"uid\":7}"];
    let mut text = format!("{EVENT}\n").into_bytes();
    for line in bad {
        text.extend_from_slice(line);
        text.extend_from_slice(format!("\n{EVENT}\n\n").as_bytes());
    }
    let file = place.file("events.jsonl", &text);
    place.file("rejects", "before\n");
    let mut send = place.auditwire(["send", "events.jsonl", "--to", "stdout", "--rejects", "rejects"]);
    let ended = place.run(&mut send).code(3).said(&[
        "events.jsonl:2: not JSON: EOF while parsing",
        "; an event is one line\n",
        "events.jsonl:5: not JSON: ",
        "events.jsonl:8: invalid type: integer `7`, expected a string",
        "read 7, malformed 3, accepted 4, delivered 4, rejected 0",
    ]);
    assert_eq!(ended.stdout.lines().count(), 4);
    let kept = [b"before\n", bad[0], b"\n", bad[1], b"\n", bad[2], b"\n"].concat();
    assert_eq!(fs::read(place.path("rejects")).unwrap(), kept);

    fs::remove_file(place.path("rejects")).unwrap();
    let mut send = place.auditwire(["send", "--strict", "--to", "stdout", "--rejects", "rejects"]);
    let ended = place.run(send.arg(file).arg(EVENTS)).code(3).said(&[
        "events.jsonl:2: not JSON",
        "; stopped here (--strict)\n",
        "read 2, malformed 1, accepted 1, delivered 1",
    ]);
    assert_eq!(ended.stdout.lines().count(), 1);
    assert_eq!(fs::read(place.path("rejects")).unwrap(), [bad[0], b"\n"].concat());
    assert_eq!(fs::metadata(place.path("rejects")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn an_event_that_is_too_large_is_a_reject() {
    let place = Workplace::new();
    let large = EVENT.replace("\"u-1\"", &format!("\"{}\"", "u".repeat(4000)));
    place.file("events.jsonl", format!("{large}\n{EVENT}\n"));
    let mut send = place.auditwire(["send", "events.jsonl", "--to", "stdout", "--rejects", "rejects"]);
    let ended = place.run(send.env("AUDITWIRE_MAX_EVENT_BYTES", "2kB")).code(3);
    // The record that announces it to the stream's readers is delivered, and nobody's event.
    let ended = ended.said(&["events.jsonl:1: the event is ", "read 2, malformed 1, accepted 1, delivered 2"]);
    assert!(ended.stdout.lines().next().unwrap().contains("event_too_large"), "{}", ended.stdout);
    assert_eq!(ended.stdout.lines().count(), 2);
    assert_eq!(place.read("rejects"), format!("{large}\n"));
}

#[test]
fn arrays_standard_input_and_several_files_are_read() {
    let place = Workplace::new();
    let array = format!("\n [\n{EVENT},\n {{}}, {EVENT}\n]\n");
    let file = place.file("array.json", &array);
    let ended = place.run(&mut place.auditwire(["send", "array.json", "--to", "stdout"])).code(3);
    assert_eq!(ended.said(&["array.json:4: missing field `time`\n"]).stdout.lines().count(), 2);

    // An array that was cut off is sent up to there; the rest is kept.
    place.file("cut.json", format!("[{EVENT},\n{{\"time\":"));
    let ended = place.run(&mut place.auditwire(["send", "cut.json", "--to", "stdout", "--rejects", "rest"])).code(3);
    assert_eq!(ended.said(&["cut.json:2: not a JSON array from here on"]).stdout.lines().count(), 1);
    assert_eq!(place.read("rest"), "{\"time\":\n");

    let stdin = |arguments: &[&str]| {
        let mut send = place.auditwire(arguments);
        place.run(send.stdin(fs::File::open(&file).unwrap())).code(3).said(&["<stdin>:4: "]).stdout.lines().count()
    };
    assert_eq!(stdin(&["send", "--to", "stdout"]), 2);
    assert_eq!(stdin(&["send", EVENTS, "-", EVENTS, "--to", "stdout"]), 34);

    place.run(&mut place.auditwire(["send", "--to", "stdout"])).code(0).said(&["read 0, malformed 0, accepted 0"]);
}

#[test]
fn a_file_that_is_not_there_is_said_before_anything_is_sent() {
    let place = Workplace::new();
    let ended = place.run(&mut place.auditwire(["send", EVENTS, "missing.jsonl", "--to", "stdout"])).code(1);
    assert_eq!((&*ended.stdout, ended.times("\n")), ("", 1));
    ended.said(&["error: cannot read missing.jsonl: No such file"]);
    place
        .run(&mut place.auditwire(["send", ".", "--to", "stdout"]))
        .code(1)
        .said(&["cannot read .: it is a directory"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_destinations_get_all_events() {
    let place = Workplace::new();
    let mut receiver = receiver(Script::new()).await;
    let hook = format!("webhook=http://{}/in", receiver.webhook_addr().unwrap());
    let grpc = to_grpc(&receiver);
    let targets = ["--to", &grpc, "--to", &hook, "--to", "file=new/folder/out.jsonl", "--to", "stdout"];
    let ended = place.run(place.auditwire(["send", EVENTS]).args(targets)).code(0);
    let all = "delivered 16, rejected 0";
    assert_eq!(ended.times(all), 4, "{}", ended.stderr);
    assert_eq!(place.read("new/folder/out.jsonl"), ended.stdout);
    assert_eq!(ocsf_uids(&json_lines(&ended.stdout)), event_uids());
    let taken = taken(&mut receiver).await;
    assert_eq!(otlp_uids(&taken), event_uids());
    let elements: Vec<_> = taken.iter().flat_map(Received::elements).cloned().collect();
    assert_eq!(elements, json_lines(&ended.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_comes_back_is_said_once_each_way() {
    let (place, port) = (Workplace::new(), DeadPort::new());
    let address = port.1;
    let mut sending = place.start(&mut place.auditwire(["send", EVENTS, "--to", &port.target()]));
    sending.said("does not take events");
    drop(port);
    let mut receiver = Receiver::start(Options { otlp_grpc: Some(address), ..Options::default() })
        .await
        .expect("the port is free again");
    let ended = sending.end().code(0).said(&["delivered 16, rejected 0"]);
    assert_eq!(ended.times("does not take events"), 1, "{}", ended.stderr);
    assert_eq!(ended.times(&format!("otlp (http://{address}) takes events again")), 1, "{}", ended.stderr);
    assert_eq!(otlp_uids(&taken(&mut receiver).await), event_uids());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_good_is_a_dead_letter_and_an_exit_code() {
    let place = Workplace::new();
    let poisoned = event_uids()[3].clone();
    let is_poison = move |received: &Received| received.records().any(|record| uid(record) == Some(&poisoned));
    let script = Script::new().rule(move |received| is_poison(received).then(|| Answer::status(400)));
    let mut receiver = receiver(script).await;
    let mut send = place.auditwire(["send", EVENTS, "--to", &to_grpc(&receiver), "--dead-letters", "dead/l.jsonl"]);
    place.run(&mut send).code(4).said(&[
        "delivered 15, rejected 1",
        "refused 1 events for good",
        "kept in dead/l.jsonl",
    ]);
    assert!(place.read("dead/l.jsonl").contains(&event_uids()[3]));
    assert_eq!(otlp_uids(&taken(&mut receiver).await).len(), 15);
}

/// The three configurations of agentkernel, unchanged but for where they point.
#[tokio::test(flavor = "multi_thread")]
async fn agentkernel_configurations_are_read() {
    let place = Workplace::new();
    let config = |name: &str| {
        let path = format!("{}/tests/data/compat/{name}", env!("CARGO_MANIFEST_DIR"));
        fs::read_to_string(path).unwrap()
    };

    // Its relative path leads into the folder that the program runs in.
    let file = place.file("file.json", config("config-file.json"));
    place.run(place.auditwire(["send", EVENTS, "--config"]).arg(file)).code(0).said(&["delivered 16"]);
    assert_eq!(ocsf_uids(&json_lines(&place.read("audit/out.jsonl"))), event_uids());
    assert_eq!(fs::metadata(place.path("audit/out.jsonl")).unwrap().permissions().mode() & 0o777, 0o600);

    let file = place.file("stdout.json", config("config-stdout.json"));
    let ended = place.run(place.auditwire(["send", EVENTS, "--config"]).arg(file)).code(0);
    assert_eq!(json_lines(&ended.stdout), json_lines(&fs::read_to_string(EVENTS).unwrap()));

    let mut receiver = receiver(Script::new()).await;
    let url = format!("http://{}/ingest", receiver.webhook_addr().unwrap());
    let text = config("config-webhook.json").replace("https://siem.example.net/ingest", &url);
    let file = place.file("webhook.json", &text);
    place.run(place.auditwire(["send", EVENTS, "--config"]).arg(&file)).code(0).said(&["delivered 16"]);
    let taken = taken(&mut receiver).await;
    assert_eq!(taken.iter().map(Received::len).sum::<usize>(), 16);
    for request in &taken {
        assert_eq!(request.header("authorization"), Some("Bearer example-token"));
        assert_eq!(request.header("x-tenant"), Some("blue"));
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert!(matches!(&request.payload, Payload::Json(Value::Array(_))));
    }

    // What it comes to, without its secret.
    let ended = place.run(place.auditwire(["send", "--check", "--config"]).arg(&file)).code(0);
    assert!(ended.stdout.contains(&url) && ended.stdout.contains("authorization"), "{}", ended.stdout);
    assert!(!ended.stdout.contains("example-token"), "{}", ended.stdout);
}

#[test]
fn bad_settings_are_named_with_their_value_and_never_with_a_secret() {
    const SECRET: &str = "hunter2";
    let place = Workplace::new();
    place.file("typo.json", r#"{"destination": {"type": "stdout"}, "batchsize": 3}"#);
    place.file(
        "secret.json",
        r#"{"destination": {"type": "http_webhook", "url": "http://h/", "authorization": ["hunter2"]}}"#,
    );
    place.file("broken.json", "{\n  \"destination\": \n");
    /// Arguments, variables, and what is said, the setting first.
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (&["--to", "smtp=mail"], &[], &["--to=\"smtp=mail\"", "not a destination"]),
        (&["--to", "file="], &[], &["--to=\"file=\""]),
        (&["--to", "otlp=http://me:hunter2@h"], &[], &["--to otlp", "credentials"]),
        (&["--to", "webhook=nowhere"], &[], &["--to webhook", "nowhere"]),
        (&["--to", "webhook"], &[], &["AUDITWIRE_WEBHOOK_URL", "missing"]),
        (&["--to", "stdout"], &[("AUDITWIRE_STDOUT_FORMAT", "xml")], &["AUDITWIRE_STDOUT_FORMAT=\"xml\"", "`audit`"]),
        (&[], &[("AUDITWIRE_ON_FULL", "panic")], &["AUDITWIRE_ON_FULL=\"panic\""]),
        (
            &[],
            &[("AUDITWIRE_STDOUT_FROMAT", "ocsf")],
            &["AUDITWIRE_STDOUT_FROMAT", "is AUDITWIRE_STDOUT_FORMAT meant?"],
        ),
        (&[], &[("OTEL_LOGS_EXPORTER", "jaeger")], &["OTEL_LOGS_EXPORTER=\"jaeger\"", "no destination is left"]),
        (&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://h")], &["OTEL_EXPORTER_OTLP_ENDPOINT=\"ftp://h\""]),
        (
            &[],
            &[("OTEL_EXPORTER_OTLP_HEADERS", "authorization:hunter2")],
            &["OTEL_EXPORTER_OTLP_HEADERS", "name=value"],
        ),
        (&[], &[("OTEL_CONFIG_FILE", "otel.yaml")], &["OTEL_CONFIG_FILE=\"otel.yaml\"", "not supported"]),
        (
            &["--to", "otlp=https://localhost:1"],
            &[("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem")],
            &["certificate=\"/nowhere/ca.pem\"", "No such file"],
        ),
        (&["--config", "missing.json"], &[], &["--config=\"missing.json\": No such file"]),
        (&["--config", "typo.json"], &[], &["typo.json:1:", "batchsize"]),
        (&["--config", "secret.json"], &[], &["secret.json:1:", "a secret must be a string"]),
        (&["--config", "broken.json"], &[], &["broken.json:3:"]),
        (&["--config", "typo.json", "--to", "stdout"], &[], &["--config <FILE>", "--to"]),
        (&["--timeout", "30"], &[], &["--timeout", "'30'", "such as 30s"]),
        (&["--frobnicate"], &[], &["--frobnicate"]),
    ];
    for (arguments, variables, said) in cases {
        let mut send = place.auditwire(["send", EVENTS]);
        let ended = place.run(send.args(*arguments).envs(variables.iter().copied()));
        let case = format!("{arguments:?} {variables:?}: {}", ended.stderr);
        assert_eq!((ended.code, &*ended.stdout), (Some(2), ""), "{case}");
        assert!(said.iter().all(|text| ended.stderr.contains(text)), "{case}");
        assert!(!ended.stderr.contains(SECRET), "{case}");
        let first = ended.stderr.lines().next().unwrap();
        assert!(first.contains("error: ") && first.matches(said[0]).count() == 1, "{case}");
    }
}

#[test]
fn a_number_that_the_specification_is_lenient_with_is_a_warning() {
    let place = Workplace::new();
    let mut send = place.auditwire(["send", EVENTS, "--to", "stdout"]);
    let ended = place.run(send.env("OTEL_BLRP_SCHEDULE_DELAY", "soon")).code(0);
    assert_eq!(ended.times("auditwire: warning: OTEL_BLRP_SCHEDULE_DELAY=\"soon\""), 1, "{}", ended.stderr);
}

#[test]
fn exporting_that_is_switched_off_is_said_aloud() {
    let place = Workplace::new();
    for (name, value) in [("OTEL_SDK_DISABLED", "true"), ("OTEL_LOGS_EXPORTER", "none")] {
        let ended = place.run(place.auditwire(["send", "--quiet", EVENTS]).env(name, value)).code(0);
        assert_eq!(ended.stderr, format!("auditwire: nothing is exported: {name}={value}\n"));
        assert_eq!(ended.stdout, "");
    }
}

#[test]
fn defect_12_a_closed_pipe_ends_cleanly() {
    let place = Workplace::new();
    place.file("many.jsonl", format!("{EVENT}\n").repeat(20_000));
    let mut send = place.auditwire(["send", "many.jsonl", "--to", "stdout"]);
    let mut child = send.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"time\":"), "{line}");
    // The reader is gone with the end of the statement above, long before all is written.
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("stdout has ended: the pipe is closed") && said.contains(" lost at stdout"), "{said}");
    assert!(!said.contains("panicked"), "{said}");

    // The other commands that print.
    for arguments in [&["demo"][..], &["completions", "bash"], &["send", "--check"], &["--help"]] {
        let mut child = place.auditwire(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    }
}

#[test]
fn a_closed_standard_error_is_no_reason_to_fail() {
    let place = Workplace::new();
    for arguments in [&["demo"][..], &["send", EVENTS, "--to", "stdout"]] {
        let mut command = Command::new("sh");
        command.args(["-c", "\"$@\" 2>&-", "sh", env!("CARGO_BIN_EXE_auditwire")]).args(arguments).env_clear();
        place.run(command.env("AUDITWIRE_DEAD_LETTER_PATH", place.path("dead")).stdin(Stdio::null())).code(0);
    }
}

#[test]
fn a_check_sends_nothing_not_even_from_the_spool() {
    let (place, port) = (Workplace::new(), DeadPort::new());
    let spooled = |arguments: &[&str]| {
        let mut send = place.auditwire(arguments);
        send.env("AUDITWIRE_SPOOL_DIR", place.path("spool"));
        place.run(&mut send)
    };
    spooled(&["send", EVENTS, "--to", &port.target(), "--timeout", "200ms"]).code(5).said(&["16 outstanding at otlp"]);
    let ended = spooled(&["send", "--check", "--to", &port.target()]).code(0);
    let [otlp, spool, dead_letters] = ended.stdout.lines().collect::<Vec<_>>()[..] else { panic!("{}", ended.stdout) };
    assert!(otlp.starts_with(&format!("otlp: OTLP/gRPC to http://{}", port.1)), "{otlp}");
    assert!(spool.ends_with("/spool") && dead_letters.ends_with("/dead-letters.jsonl"), "{}", ended.stdout);
    assert_eq!(spooled(&["send", "--check", "--to", "stdout"]).code(0).stdout.lines().count(), 3);

    // The next run, with nothing to read, delivers what was kept.
    let out = format!("file={}", place.path("out.jsonl").display());
    spooled(&["send", "--to", &out]).code(0).said(&["read 0, "]);
    assert_eq!(ocsf_uids(&json_lines(&place.read("out.jsonl"))), event_uids());
}

/// Events that were accepted, standard input that stays open, and nobody who takes them.
#[test]
fn a_signal_leaves_a_bounded_grace_and_a_second_one_none() {
    let (place, port) = (Workplace::new(), DeadPort::new());
    let start = |grace: &str| {
        let mut send = place.auditwire(["send", EVENTS, "-", "--to", &port.target()]);
        let mut sending = place.start(send.env("AUDITWIRE_SHUTDOWN_TIMEOUT", grace).stdin(Stdio::piped()));
        let stdin = sending.stdin();
        sending.said("does not take events");
        (sending, stdin)
    };
    for signal in ["TERM", "INT"] {
        let (sending, _stdin) = start("200ms");
        sending.signal(signal);
        sending.end().code(5).said(&["for 200ms at most", "not read to the end", "; 16 outstanding at otlp"]);
    }
    let (mut sending, _stdin) = start("1h");
    sending.signal("TERM");
    sending.said("another signal ends this at once");
    sending.signal("TERM");
    sending.end().code(5).said(&["; 16 outstanding at otlp"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_loses_nothing_that_was_accepted() {
    let place = Workplace::new();
    let mut receiver = receiver(Script::new()).await;
    let mut send = place.auditwire(["send", "--to", &to_grpc(&receiver)]);
    // Nothing would be sent by itself.
    let mut sending = place.start(send.env("OTEL_BLRP_SCHEDULE_DELAY", "3600000").stdin(Stdio::piped()));
    let mut stdin = sending.stdin();
    stdin.write_all(format!("{EVENT}\n{EVENT}\nno event\n").as_bytes()).unwrap();
    sending.said("<stdin>:3: ");
    sending.signal("TERM");
    sending.end().code(5).said(&["read 3, malformed 1, accepted 2, delivered 2, rejected 0; not read to the end\n"]);
    assert_eq!(otlp_uids(&taken(&mut receiver).await), ["u-1", "u-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn receive_answers_by_its_script_counts_and_writes() {
    let place = Workplace::new();
    let arguments = ["receive", "--otlp-grpc", "0", "--webhook", "127.0.0.1:0", "--count", "32", "-o", "out.jsonl"];
    let mut receiving = place.start(place.auditwire(arguments).args(["--fail", "503x3,429:1"]));
    receiving.said("listening for webhook on ");
    let said = receiving.said("listening for OTLP/gRPC on ");
    let address = |protocol: &str| {
        let line = said.lines().find(|line| line.contains(protocol)).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    let begun = Instant::now();
    let grpc = format!("otlp=http://{}", address("OTLP/gRPC"));
    let ended = place.run(&mut place.auditwire(["send", EVENTS, "--to", &grpc])).code(0);
    assert_eq!(ended.times("does not take events"), 2, "{}", ended.stderr);
    assert_eq!(ended.times("takes events again"), 1, "{}", ended.stderr);
    assert!(begun.elapsed() >= Duration::from_secs(1), "the second that 429 asked for");

    let url = format!("http://{}/any/path", address("webhook"));
    let events: Vec<_> = event_uids().iter().map(|uid| json!({"uid": uid})).collect();
    let body = serde_json::to_vec(&events).unwrap();
    assert!(http_client().build().unwrap().post(url).body(body).send().await.unwrap().status().is_success());

    receiving.end().code(0).said(&[
        "refused as told: OTLP/gRPC with 16 records: 503",
        "6 requests, 32 records accepted, 4 requests refused",
    ]);
    let out = place.read("out.jsonl");
    let request = auditwire::receiver::parse_otlp_json(out.lines().next().unwrap().as_bytes()).unwrap();
    let uids: Vec<_> = records(&request).map(|record| uid(record).unwrap().to_owned()).collect();
    assert_eq!(uids, event_uids());
    assert_eq!(json_lines(&out)[1..], events);
    assert_eq!(fs::metadata(place.path("out.jsonl")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn receive_prints_a_line_for_each_record_and_ends_on_a_signal() {
    let place = Workplace::new();
    let mut receiving = place.start(&mut place.auditwire(["receive", "--otlp-http", "0", "--body"]));
    let said = receiving.said("listening for OTLP/HTTP on ");
    let address = said.trim_end().rsplit(' ').next().unwrap();
    let mut send = place.auditwire(["send", EVENTS, "--to", "otlp", "--to", "stdout"]);
    send.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"));
    let sent = place.run(send.env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")).code(0).stdout;
    receiving.signal("TERM");
    let ended = receiving.end().code(0).said(&["1 requests, 16 records accepted, 0 requests refused"]);
    let (heads, bodies): (Vec<_>, Vec<_>) = ended.stdout.lines().partition(|line| !line.starts_with("    "));
    assert_eq!(heads.len(), 16);
    for (head, uid) in heads.iter().zip(event_uids()) {
        assert!(head.ends_with(&format!("  uid {uid}")), "{head}");
    }
    // The map keeps the order of the event and its values; a number that OTLP has no type for is its text.
    assert_eq!(bodies.len(), 16);
    for (body, line) in bodies.iter().zip(sent.lines()) {
        let body = body.trim_start().replace(r#""@json:18446744073709551615""#, "18446744073709551615");
        assert_eq!(body, line);
    }
}

#[test]
fn receive_refuses_what_it_cannot_do() {
    let place = Workplace::new();
    let taken = std::net::TcpListener::bind(ANY_PORT).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ended = place.run(&mut place.auditwire(["receive", "--webhook", &port])).code(1);
    ended.said(&[&format!("cannot serve webhook on 127.0.0.1:{port}"), "in use"]);
    for (arguments, said) in [
        (&["--fail", "503xx"][..], "no number of times"),
        (&["--max-request-bytes", "much"], "16MiB"),
        (&["--otlp-http", "nowhere"], "neither PORT nor HOST:PORT"),
        (&["--out", "o", "--body"], "--body"),
    ] {
        place.run(place.auditwire(["receive"]).args(arguments)).code(2).said(&[said]);
    }
}

#[test]
fn completions_are_scripts() {
    let place = Workplace::new();
    for (shell, has) in [("bash", "complete -F"), ("zsh", "#compdef auditwire"), ("fish", "complete -c auditwire")] {
        let ended = place.run(&mut place.auditwire(["completions", shell])).code(0);
        for text in [has, "dead-letters", "receive", "demo"] {
            assert!(ended.stdout.contains(text), "{shell}: {text}");
        }
        let script = place.file("script", &ended.stdout);
        match Command::new(shell).arg("-n").arg(script).output() {
            Ok(output) => assert!(output.status.success(), "{shell}: {output:?}"),
            Err(error) => note(&format!("skipped: {shell} does not check its completions: {error}")),
        }
    }
    place.run(&mut place.auditwire(["completions", "csh"])).code(2).said(&["bash", "zsh", "fish"]);
}

#[test]
fn help_and_version_are_there() {
    let place = Workplace::new();
    let ended = place.run(&mut place.auditwire(["--version"])).code(0);
    assert_eq!(ended.stdout, format!("auditwire {}\n", env!("CARGO_PKG_VERSION")));
    for (arguments, has) in [
        (&["--help"][..], &["send", "receive", "demo", "completions", "Examples:"][..]),
        (&["send", "--help"], &["--to", "--timeout", "Exit codes:", "OTEL_EXPORTER_OTLP_ENDPOINT"]),
        (&["receive", "--help"], &["--otlp-grpc", "4317", "4318", "8088", "--fail"]),
        (&["demo", "--help"], &["loopback"]),
        (&["completions", "--help"], &["source <(auditwire completions bash)"]),
        (&["help", "send"], &["Exit codes:"]),
    ] {
        let ended = place.run(&mut place.auditwire(arguments)).code(0);
        assert!(has.iter().all(|text| ended.stdout.contains(text)), "{arguments:?}: {}", ended.stdout);
        assert_eq!(ended.stderr, "");
        assert!(ended.stdout.lines().all(|line| line.chars().count() <= 110), "{}", ended.stdout);
    }
    place.run(&mut place.auditwire::<&str>([])).code(2).said(&["Usage: auditwire <COMMAND>", "Examples:"]);
    place.run(&mut place.auditwire(["sned"])).code(2).said(&["'send'"]);
}

/// `script` gives the program a terminal; without it the test skips.
#[test]
fn a_terminal_gets_a_progress_bar_and_a_pipe_silence() {
    let (place, port) = (Workplace::new(), DeadPort::new());
    let program = env!("CARGO_BIN_EXE_auditwire");
    let line = format!("'{program}' send '{EVENTS}' --to {} --timeout 1s", port.target());
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-c", &line, "/dev/null"]).env_clear().env("TERM", "xterm").env("SHELL", "/bin/sh");
    script.env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
    script.env("AUDITWIRE_DEAD_LETTER_PATH", place.path("dead"));
    if Command::new("script").arg("--version").output().is_err() {
        return note("skipped: the progress bar needs a terminal, which the program `script` would give");
    }
    let ended = place.run(&mut script);
    for text in ["16 events · ", "16 outstanding · ", "auditwire: otlp (http://", "auditwire: read 16, "] {
        assert!(ended.stdout.contains(text), "{text}: {}", ended.stdout);
    }

    let ended = place.run(&mut place.auditwire(["send", EVENTS, "--to", &port.target(), "--timeout", "300ms"]));
    assert!(!ended.stderr.contains(" events · "), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 2, "{}", ended.stderr);
    assert!(!ended.stderr.contains('\r') && !ended.stderr.contains('\u{1b}'), "{:?}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_s_trace_context_reaches_the_records() {
    let place = Workplace::new();
    let mut receiver = receiver(Script::new()).await;
    let traced = EVENT.replace("\"u-1\"", "\"u-2\",\"trace_id\":\"11111111111111111111111111111111\"");
    place.file("events.jsonl", format!("{EVENT}\n{traced}\n"));
    let mut send = place.auditwire(["send", "events.jsonl", "--to", &to_grpc(&receiver)]);
    send.env("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    place.run(&mut send).code(0);
    let taken = taken(&mut receiver).await;
    let records: Vec<_> = taken.iter().flat_map(Received::records).collect();
    assert_eq!(records[0].trace_id, 0x0af7651916cd43dd8448eb211c80319c_u128.to_be_bytes());
    assert_eq!(records[0].span_id, 0xb7ad6b7169203331_u64.to_be_bytes());
    assert_eq!(records[0].flags & 0xff, 1);
    assert_eq!(records[1].trace_id, [0x11; 16], "an event's own trace wins");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_standard_variables_reach_the_wire() {
    for protocol in ["grpc", "http/protobuf", "http/json"] {
        let place = Workplace::new();
        let port = DeadPort::new();
        let mut receiver = receiver(Script::new()).await;
        let endpoint = match protocol {
            "grpc" => format!("http://{}", receiver.otlp_grpc_addr().unwrap()),
            _ => format!("http://{}/v1/logs", receiver.otlp_http_addr().unwrap()),
        };
        let mut send = place.auditwire(["send", EVENTS]);
        send.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", port.1))
            .env("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", endpoint)
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "nonsense")
            .env("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", protocol)
            .env("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=a%20b, x-tenant = blue")
            .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
            .env("OTEL_SERVICE_NAME", "wins")
            .env("OTEL_RESOURCE_ATTRIBUTES", "service.name=loses,deployment.environment.name=a%2Cb%3Dc");
        place.run(&mut send).code(0).said(&["delivered 16, rejected 0"]);
        let taken = taken(&mut receiver).await;
        assert_eq!(otlp_uids(&taken), event_uids(), "{protocol}");
        for request in &taken {
            assert_eq!(request.header("x-api-key"), Some("a b"), "{protocol}");
            assert_eq!(request.header("x-tenant"), Some("blue"), "{protocol}");
            let (name, kind) = match protocol {
                "grpc" => ("grpc-encoding", "application/grpc"),
                "http/json" => ("content-encoding", "application/json"),
                _ => ("content-encoding", "application/x-protobuf"),
            };
            assert_eq!(request.header(name), Some("gzip"), "{protocol}");
            assert_eq!(request.header("content-type"), Some(kind), "{protocol}");
            let Payload::Otlp(payload) = &request.payload else { panic!("{protocol}: {:?}", request.payload) };
            let resource = payload.resource_logs[0].resource.as_ref().unwrap();
            let value = |name: &str| {
                let pair = resource.attributes.iter().find(|pair| pair.key == name);
                pair.and_then(|pair| pair.value.as_ref()).map(json)
            };
            assert_eq!(value("service.name"), Some(json!("wins")), "{protocol}");
            assert_eq!(value("deployment.environment.name"), Some(json!("a,b=c")), "{protocol}");
            let record = request.records().next().unwrap();
            assert_eq!(attribute(record, "ocsf.class_uid").map(json), Some(json!(6003)), "{protocol}");
        }
    }
}

/// The general endpoint alone: for HTTP the path of the signal is added.
#[tokio::test(flavor = "multi_thread")]
async fn the_general_endpoint_is_completed() {
    let place = Workplace::new();
    let mut receiver = receiver(Script::new()).await;
    let mut send = place.auditwire(["send", EVENTS]);
    send.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", receiver.otlp_http_addr().unwrap()));
    place.run(send.env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")).code(0);
    assert_eq!(otlp_uids(&taken(&mut receiver).await), event_uids());
}

/// What a sender wrote never steers the terminal of whoever looks at it.
#[test]
fn control_characters_are_not_printed() {
    let place = Workplace::new();
    let mut receiving = place.start(&mut place.auditwire(["receive", "--otlp-grpc", "0", "--count", "1"]));
    let said = receiving.said("listening for OTLP/gRPC on ");
    let target = format!("otlp=http://{}", said.trim_end().rsplit(' ').next().unwrap());
    place.file("events.jsonl", EVENT.replace("\"a\"", r#""clear\u001b[2J\nscreen""#));
    place.run(&mut place.auditwire(["send", "events.jsonl", "--to", &target])).code(0);
    let ended = receiving.end().code(0);
    assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
    assert!(!ended.stdout.contains('\u{1b}'), "{:?}", ended.stdout);
}

/// A line past the test harness, which would swallow it.
fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
