//! The development receiver, tested with clients that are not ours: tonic's and reqwest.

mod support;

use std::error::Error as _;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use auditwire::receiver::{
    ANY_PORT, Answer, Options, Payload, Protocol, Received, Receiver, Script, Tls, Wait, attribute, json,
    parse_otlp_json, records, uid, write_jsonl,
};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use prost::Message;
use serde_json::{Value, json};
use support::{Collector, TO_FILE, TlsMaterial, VictoriaLogs, built, http_client};
use tokio::time::timeout;
use tonic::Code;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_types::{StatusExt, pb};

const SOON: Duration = Duration::from_secs(10);

async fn start(script: Script) -> Receiver {
    start_with(Options { script, ..Options::default() }).await
}

async fn start_with(options: Options) -> Receiver {
    let all = Options { otlp_grpc: Some(ANY_PORT), otlp_http: Some(ANY_PORT), webhook: Some(ANY_PORT), ..options };
    Receiver::start(all).await.unwrap()
}

async fn next(receiver: &mut Receiver) -> Received {
    timeout(SOON, receiver.next()).await.expect("a request in time").expect("a running receiver")
}

async fn stop(receiver: &mut Receiver) {
    timeout(SOON, receiver.stop()).await.expect("the receiver stops in time");
}

fn value(value: Any) -> Option<AnyValue> {
    Some(AnyValue { value: Some(value) })
}

fn pair(key: &str, any: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: value(any), ..KeyValue::default() }
}

fn batch(uids: &[&str]) -> ExportLogsServiceRequest {
    let log_records = uids.iter().map(|uid| LogRecord {
        time_unix_nano: SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        severity_number: 13,
        severity_text: "WARN".to_owned(),
        event_name: "ocsf.authentication.logon".to_owned(),
        body: value(Any::KvlistValue(KeyValueList {
            values: vec![
                pair("message", Any::StringValue("hello".to_owned())),
                pair("empty", Any::ArrayValue(ArrayValue::default())),
            ],
        })),
        attributes: vec![
            pair("log.record.uid", Any::StringValue((*uid).to_owned())),
            pair("ocsf.class_uid", Any::IntValue(3002)),
        ],
        ..LogRecord::default()
    });
    let scope_logs = vec![ScopeLogs { log_records: log_records.collect(), ..ScopeLogs::default() }];
    ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] }
}

fn uids(received: &Received) -> Vec<&str> {
    received.records().filter_map(uid).collect()
}

async fn grpc(addr: SocketAddr) -> LogsServiceClient<Channel> {
    LogsServiceClient::connect(format!("http://{addr}")).await.unwrap()
}

fn http() -> reqwest::Client {
    http_client().build().unwrap()
}

fn otlp_post(client: &reqwest::Client, addr: SocketAddr, media_type: &str) -> reqwest::RequestBuilder {
    let body = match media_type {
        "application/json" => serde_json::to_vec(&batch(&["h"])).unwrap(),
        _ => batch(&["h"]).encode_to_vec(),
    };
    client.post(format!("http://{addr}/v1/logs")).header("content-type", media_type).body(body)
}

fn hook_post(client: &reqwest::Client, addr: SocketAddr, body: &Value) -> reqwest::RequestBuilder {
    client.post(format!("http://{addr}/services/audit")).body(body.to_string())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The addresses of a receiver that serves all protocols.
fn addrs(receiver: &Receiver) -> (SocketAddr, SocketAddr, SocketAddr) {
    (receiver.otlp_grpc_addr().unwrap(), receiver.otlp_http_addr().unwrap(), receiver.webhook_addr().unwrap())
}

#[tokio::test]
async fn each_protocol_is_decoded_and_answered_ok() {
    let mut receiver = start(Script::new()).await;
    let (grpc_addr, http_addr, hook_addr) = addrs(&receiver);

    let mut request = tonic::Request::new(batch(&["a", "b"]));
    request.metadata_mut().insert("authorization", "Bearer t".parse().unwrap());
    let response = grpc(grpc_addr).await.export(request).await.unwrap().into_inner();
    assert_eq!(response.partial_success, Some(Default::default()));
    let received = next(&mut receiver).await;
    assert_eq!(received.protocol, Protocol::OtlpGrpc);
    assert_eq!(received.header("Authorization"), Some("Bearer t"));
    assert_eq!((uids(&received), received.len(), received.accepted()), (vec!["a", "b"], 2, true));
    let record = received.records().next().unwrap();
    assert_eq!(json(attribute(record, "ocsf.class_uid").unwrap()), json!(3002));
    assert_eq!(json(record.body.as_ref().unwrap()), json!({"message": "hello", "empty": []}));
    let Payload::Otlp(request) = &received.payload else { panic!("not OTLP") };
    assert_eq!(received.bytes, request.encoded_len());

    let client = http();
    for media_type in ["application/x-protobuf", "application/json", "Application/JSON; charset=utf-8"] {
        let body_type =
            if media_type.contains("json") || media_type.contains("JSON") { "application/json" } else { media_type };
        let request = otlp_post(&client, http_addr, body_type).header("x-tenant", "7");
        let mut request = request.build().unwrap();
        request.headers_mut().insert("content-type", media_type.parse().unwrap());
        let response = client.execute(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], body_type);
        let body = response.bytes().await.unwrap();
        match body_type {
            "application/json" => assert_eq!(&body[..], br#"{"partialSuccess":{}}"#),
            _ => drop(ExportLogsServiceResponse::decode(body).unwrap()),
        }
        let received = next(&mut receiver).await;
        assert_eq!((received.protocol, uids(&received)), (Protocol::OtlpHttp, vec!["h"]));
        assert_eq!(received.header("x-tenant"), Some("7"));
    }

    for (body, elements) in [(json!([{"a": 1}, {"b": 2}]), 2), (json!({"a": 1}), 1), (json!([]), 0)] {
        assert_eq!(hook_post(&client, hook_addr, &body).send().await.unwrap().status(), 200);
        let received = next(&mut receiver).await;
        assert_eq!((received.protocol, received.len()), (Protocol::Webhook, elements));
        assert_eq!(received.is_empty(), elements == 0);
        assert_eq!(received.payload, Payload::Json(body));
    }
    assert_eq!(receiver.requests(), 7);
    stop(&mut receiver).await;
    assert!(receiver.next().await.is_none());
}

#[tokio::test]
async fn a_status_is_spelled_as_each_protocol_spells_it() {
    let statuses = [
        (400, Code::InvalidArgument),
        (401, Code::Unauthenticated),
        (403, Code::PermissionDenied),
        (404, Code::Unimplemented),
        (413, Code::ResourceExhausted),
        (429, Code::ResourceExhausted),
        (500, Code::Internal),
        (502, Code::Unavailable),
        (503, Code::Unavailable),
        (504, Code::DeadlineExceeded),
    ];
    let script = statuses.iter().fold(Script::new(), |script, (status, _)| script.times(4, Answer::status(*status)));
    let mut receiver = start(script).await;
    let (grpc_addr, http_addr, hook_addr) = addrs(&receiver);
    let (mut grpc, client) = (grpc(grpc_addr).await, http());

    for (status, code) in statuses {
        let refused = grpc.export(batch(&["a"])).await.unwrap_err();
        assert_eq!(refused.code(), code);
        assert!(refused.get_details_retry_info().is_none());
        if status == 413 {
            assert!(refused.message().contains("message larger than max"), "{}", refused.message());
        }

        let response = otlp_post(&client, http_addr, "application/x-protobuf").send().await.unwrap();
        assert_eq!(response.status(), status);
        assert!(response.headers().get("retry-after").is_none());
        let body = pb::Status::decode(response.bytes().await.unwrap()).unwrap();
        assert_eq!((body.code, body.message.as_str()), (code as i32, refused.message()));

        let response = otlp_post(&client, http_addr, "application/json").send().await.unwrap();
        assert_eq!(response.status(), status);
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        assert_eq!(body, json!({"code": code as i32, "message": refused.message()}));

        let response = hook_post(&client, hook_addr, &json!([])).send().await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.text().await.unwrap(), refused.message());

        for _ in 0..4 {
            assert!(!next(&mut receiver).await.accepted());
        }
    }
}

#[tokio::test]
async fn a_code_has_its_http_status_too() {
    let mut receiver = start(Script::new().times(2, Answer::code(Code::DataLoss).message("gone"))).await;
    let (grpc_addr, http_addr, _) = addrs(&receiver);
    let refused = grpc(grpc_addr).await.export(batch(&["a"])).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::DataLoss, "gone"));
    assert_eq!(otlp_post(&http(), http_addr, "application/json").send().await.unwrap().status(), 500);
    stop(&mut receiver).await;
}

#[tokio::test]
async fn any_2xx_is_success() {
    let mut receiver = start(Script::new().times(3, Answer::status(202))).await;
    let (grpc_addr, http_addr, hook_addr) = addrs(&receiver);
    let client = http();
    grpc(grpc_addr).await.export(batch(&["a"])).await.unwrap();
    let response = otlp_post(&client, http_addr, "application/json").send().await.unwrap();
    assert_eq!(response.status(), 202);
    assert_eq!(response.text().await.unwrap(), r#"{"partialSuccess":{}}"#);
    assert_eq!(hook_post(&client, hook_addr, &json!([])).send().await.unwrap().status(), 202);
    for _ in 0..3 {
        assert!(next(&mut receiver).await.accepted());
    }
}

#[tokio::test]
async fn when_to_come_back_is_said_in_every_form() {
    let from_now = Duration::from_millis(1500);
    let waits = [Wait::Seconds(7), Wait::Date(from_now), Wait::Raw("soon".to_owned())];
    let script = waits.iter().fold(Script::new(), |s, wait| s.times(3, Answer::status(503).wait(wait.clone())));
    let mut receiver = start(script).await;
    let (grpc_addr, http_addr, hook_addr) = addrs(&receiver);
    let (mut grpc, client) = (grpc(grpc_addr).await, http());

    for wait in waits {
        let refused = grpc.export(batch(&["a"])).await.unwrap_err();
        let info = refused.get_details_retry_info().and_then(|info| info.retry_delay);
        match &wait {
            Wait::Seconds(seconds) => assert_eq!(info, Some(Duration::from_secs(*seconds))),
            Wait::Date(from_now) => assert_eq!(info, Some(*from_now)),
            Wait::Raw(text) => assert_eq!((info, refused.details()), (None, text.as_bytes())),
        }
        let before = SystemTime::now();
        let otlp = otlp_post(&client, http_addr, "application/json").send().await.unwrap();
        let hook = hook_post(&client, hook_addr, &json!([])).send().await.unwrap();
        for response in [otlp, hook] {
            let said = response.headers()["retry-after"].to_str().unwrap();
            match &wait {
                Wait::Seconds(seconds) => assert_eq!(said, seconds.to_string()),
                Wait::Date(from_now) => {
                    let date = httpdate::parse_http_date(said).unwrap();
                    assert!(date >= before + *from_now, "never earlier than asked for");
                    assert!(date <= SystemTime::now() + *from_now + Duration::from_secs(1));
                }
                Wait::Raw(text) => assert_eq!(said, text),
            }
        }
    }
    stop(&mut receiver).await;
}

#[tokio::test]
async fn partial_success_reaches_each_client() {
    let partial = Answer::PartialSuccess { rejected: 2, message: "two were odd".to_owned() };
    let mut receiver = start(Script::new().times(4, partial)).await;
    let (grpc_addr, http_addr, hook_addr) = addrs(&receiver);
    let client = http();

    let response = grpc(grpc_addr).await.export(batch(&["a"])).await.unwrap().into_inner();
    let partial = response.partial_success.clone().unwrap();
    assert_eq!((partial.rejected_log_records, partial.error_message.as_str()), (2, "two were odd"));
    let protobuf = otlp_post(&client, http_addr, "application/x-protobuf").send().await.unwrap();
    assert_eq!(ExportLogsServiceResponse::decode(protobuf.bytes().await.unwrap()).unwrap(), response);
    let text = otlp_post(&client, http_addr, "application/json").send().await.unwrap().text().await.unwrap();
    assert_eq!(text, r#"{"partialSuccess":{"errorMessage":"two were odd","rejectedLogRecords":"2"}}"#);
    let response = hook_post(&client, hook_addr, &json!([1])).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.text().await.unwrap().contains("two were odd")), (200, true));
    assert!(next(&mut receiver).await.accepted());
}

#[tokio::test]
async fn a_delay_comes_before_its_answer_and_after_the_arrival() {
    let delay = Duration::from_millis(80);
    let mut receiver = start(Script::new().then(Answer::status(503).delay(delay))).await;
    let mut grpc = grpc(receiver.otlp_grpc_addr().unwrap()).await;
    let begun = Instant::now();
    let call = tokio::spawn(async move { grpc.export(batch(&["a"])).await });
    let received = next(&mut receiver).await;
    assert!(!call.is_finished());
    assert_eq!(received.answer, Answer::status(503).delay(delay));
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(begun.elapsed() >= delay);
}

/// Whether a client saw its connection reset, wherever in its chain of errors that is.
fn was_reset(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| (*error).source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn a_cut_connection_is_reset_whether_or_not_the_request_was_stored() {
    for (answer, stored) in [(Answer::Cut, false), (Answer::StoreThenCut, true)] {
        let mut receiver = start(Script::new().times(3, answer)).await;
        let (grpc_addr, http_addr, hook_addr) = addrs(&receiver);
        let client = http();

        let mut grpc = grpc(grpc_addr).await;
        let status = grpc.export(batch(&["a"])).await.unwrap_err();
        assert!(status.source().is_some_and(was_reset), "{status:?}");
        let error = otlp_post(&client, http_addr, "application/json").send().await.unwrap_err();
        assert!(was_reset(&error), "{error:?}");
        let error = hook_post(&client, hook_addr, &json!([])).send().await.unwrap_err();
        assert!(was_reset(&error), "{error:?}");
        for _ in 0..3 {
            assert_eq!(next(&mut receiver).await.accepted(), stored);
        }

        // The same clients come back on new connections.
        grpc.export(batch(&["b"])).await.unwrap();
        assert!(otlp_post(&client, http_addr, "application/json").send().await.unwrap().status().is_success());
        stop(&mut receiver).await;
        while timeout(SOON, receiver.next()).await.unwrap().is_some() {}
    }
}

#[tokio::test]
async fn what_hangs_ends_with_the_receiver() {
    let mut receiver = start(Script::new().times(3, Answer::Hang)).await;
    let (grpc_addr, http_addr, hook_addr) = addrs(&receiver);
    let mut grpc = grpc(grpc_addr).await;
    let client = http();
    let calls = [
        tokio::spawn(async move { grpc.export(batch(&["a"])).await.is_err() }),
        tokio::spawn(otlp_post(&client, http_addr, "application/json").send()).map_to_error(),
        tokio::spawn(hook_post(&client, hook_addr, &json!([])).send()).map_to_error(),
    ];
    for _ in 0..3 {
        assert!(!next(&mut receiver).await.accepted());
    }
    assert!(calls.iter().all(|call| !call.is_finished()));
    stop(&mut receiver).await;
    for call in calls {
        assert!(timeout(SOON, call).await.unwrap().unwrap());
    }
    // No call holds on to the receiver's other end.
    assert!(timeout(SOON, receiver.next()).await.unwrap().is_none());
}

/// So that calls of different clients fit in one list.
trait MapToError {
    fn map_to_error(self) -> tokio::task::JoinHandle<bool>;
}

impl<T: Send + 'static> MapToError for tokio::task::JoinHandle<reqwest::Result<T>> {
    fn map_to_error(self) -> tokio::task::JoinHandle<bool> {
        tokio::spawn(async move { self.await.unwrap().is_err() })
    }
}

#[tokio::test]
async fn rules_look_at_the_request_and_win_over_the_list() {
    let script = Script::new()
        .then(Answer::status(503))
        .rule(|received| uids(received).contains(&"poison").then(|| Answer::status(400)))
        .rule(|received| (received.bytes > 1000).then(|| Answer::status(413)));
    let mut receiver = start(script).await;
    let mut grpc = grpc(receiver.otlp_grpc_addr().unwrap()).await;

    assert_eq!(grpc.export(batch(&["a", "poison"])).await.unwrap_err().code(), Code::InvalidArgument);
    grpc.export(batch(&["a"])).await.unwrap();
    let many = ["a"; 50];
    assert_eq!(grpc.export(batch(&many)).await.unwrap_err().code(), Code::ResourceExhausted);
    let answers =
        [next(&mut receiver).await.answer, next(&mut receiver).await.answer, next(&mut receiver).await.answer];
    assert_eq!(
        answers,
        [Answer::status(400), Answer::Ok, Answer::status(413)],
        "the first took the list's 503 with it"
    );
}

#[tokio::test]
async fn requests_are_taken_in_the_order_in_which_the_script_answered_them() {
    let mut receiver =
        start((0..50).fold(Script::new(), |s, n| s.then(Answer::status(500).message(n.to_string())))).await;
    let grpc = grpc(receiver.otlp_grpc_addr().unwrap()).await;
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let mut grpc = grpc.clone();
            tokio::spawn(async move { grpc.export(batch(&["a"])).await.unwrap_err() })
        })
        .collect();
    for n in 0..50 {
        assert_eq!(next(&mut receiver).await.answer, Answer::status(500).message(n.to_string()));
    }
    for call in calls {
        assert_eq!(call.await.unwrap().code(), Code::Internal);
    }
}

#[tokio::test]
async fn gzip_is_understood_everywhere() {
    let mut receiver = start(Script::new()).await;
    let (grpc_addr, http_addr, hook_addr) = addrs(&receiver);
    let client = http();

    let mut grpc = grpc(grpc_addr).await.send_compressed(CompressionEncoding::Gzip);
    grpc.export(batch(&["g"])).await.unwrap();
    let received = next(&mut receiver).await;
    assert_eq!((uids(&received), received.header("grpc-encoding")), (vec!["g"], Some("gzip")));

    let plain = batch(&["z"]).encode_to_vec();
    let request = otlp_post(&client, http_addr, "application/x-protobuf").body(gzip(&plain));
    assert_eq!(request.header("content-encoding", "gzip").send().await.unwrap().status(), 200);
    let received = next(&mut receiver).await;
    assert_eq!((uids(&received), received.bytes), (vec!["z"], plain.len()));

    let request = hook_post(&client, hook_addr, &json!(null)).body(gzip(b"[{}]"));
    assert_eq!(request.header("content-encoding", "gzip").send().await.unwrap().status(), 200);
    assert_eq!(next(&mut receiver).await.bytes, 4);
}

#[tokio::test]
async fn the_limit_holds_before_and_after_decompression() {
    let fits = batch(&["a"; 10]);
    let limit = fits.encoded_len();
    let mut receiver = start_with(Options { max_request_bytes: limit, ..Options::default() }).await;
    let (grpc_addr, http_addr, hook_addr) = addrs(&receiver);
    let client = http();
    let mut plain = grpc(grpc_addr).await;
    let mut zipped = plain.clone().send_compressed(CompressionEncoding::Gzip);

    let large = batch(&["a"; 11]);
    plain.export(fits.clone()).await.unwrap();
    zipped.export(fits.clone()).await.unwrap();
    assert_eq!(plain.export(large.clone()).await.unwrap_err().code(), Code::OutOfRange);
    // tonic takes a compressed message that unfolds beyond the limit for a resource that is used up.
    assert!(zipped.export(batch(&["a"; 2000])).await.is_err());

    let post = |body: Vec<u8>, encoding: &str| {
        let request = otlp_post(&client, http_addr, "application/x-protobuf").body(body);
        request.header("content-encoding", encoding.to_owned()).send()
    };
    assert_eq!(post(fits.encode_to_vec(), "identity").await.unwrap().status(), 200);
    assert_eq!(post(gzip(&fits.encode_to_vec()), "gzip").await.unwrap().status(), 200);
    assert_eq!(post(large.encode_to_vec(), "identity").await.unwrap().status(), 413);
    assert_eq!(post(gzip(&large.encode_to_vec()), "gzip").await.unwrap().status(), 413);
    // Far above the limit the client still hears the answer, and the connection stays of use.
    assert_eq!(post(vec![0; 20 << 20], "identity").await.unwrap().status(), 413);
    let bomb = gzip(&vec![b' '; 64 << 20]);
    assert_eq!(post(bomb, "gzip").await.unwrap().status(), 413);
    let text = Value::from("x".repeat(limit));
    assert_eq!(hook_post(&client, hook_addr, &json!([text])).send().await.unwrap().status(), 413);

    assert_eq!(receiver.requests(), 11);
    stop(&mut receiver).await;
    let mut decoded = 0;
    while receiver.next().await.is_some() {
        decoded += 1;
    }
    assert_eq!(decoded, 4);
}

#[tokio::test]
async fn bad_input_is_refused_without_touching_the_script() {
    let mut receiver = start(Script::new().then(Answer::status(503))).await;
    let (grpc_addr, http_addr, hook_addr) = addrs(&receiver);
    let client = http();
    let logs = format!("http://{http_addr}/v1/logs");
    let protobuf = ("content-type", "application/x-protobuf");
    let json_type = ("content-type", "application/json");
    let refusals = [
        (client.post(format!("http://{http_addr}/v1/traces")).header(protobuf.0, protobuf.1), 404),
        (client.post(format!("http://{http_addr}/v1/logs/")).header(protobuf.0, protobuf.1), 404),
        (client.get(&logs), 405),
        (client.put(&logs).header(json_type.0, json_type.1).body("{}"), 405),
        (client.post(&logs).body("{}"), 415),
        (client.post(&logs).header("content-type", "text/plain").body("{}"), 415),
        (client.post(&logs).header(json_type.0, json_type.1).header("content-encoding", "zstd").body("{}"), 415),
        (client.post(&logs).header(json_type.0, json_type.1).header("content-encoding", "gzip").body("{}"), 400),
        (client.post(&logs).header(json_type.0, json_type.1).body("{"), 400),
        (client.post(&logs).header(json_type.0, json_type.1).body("[]"), 400),
        (client.post(&logs).header(json_type.0, json_type.1).body(r#"{"resourceLogs": 1}"#), 400),
        (client.post(&logs).header(json_type.0, json_type.1).body(vec![0xff, 0xfe]), 400),
        (client.post(&logs).header(protobuf.0, protobuf.1).body("not protobuf"), 400),
        (client.get(format!("http://{hook_addr}/")), 405),
        (client.post(format!("http://{hook_addr}/")).body("[1,"), 400),
        (client.post(format!("http://{hook_addr}/")).body(""), 400),
        (client.post(format!("http://{hook_addr}/")).body("3"), 400),
        (client.post(format!("http://{hook_addr}/")).body(r#""text""#), 400),
    ];
    let count = refusals.len() as u64;
    for (request, status) in refusals {
        let (client, request) = request.build_split();
        let request = request.unwrap();
        let what = format!("{} {}", request.method(), request.url());
        let response = client.execute(request).await.unwrap();
        assert_eq!(response.status(), status, "{what}");
        if status == 405 {
            assert_eq!(response.headers()["allow"], "POST");
        }
    }

    let http2 = http_client().http2_prior_knowledge().build().unwrap();
    let other = format!("http://{grpc_addr}/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    let response = http2.post(other).header("content-type", "application/grpc").send().await.unwrap();
    assert_eq!(response.headers()["grpc-status"], (Code::Unimplemented as i32).to_string());

    assert_eq!(receiver.requests(), count + 1);
    assert!(receiver.try_next().is_none());
    let first = otlp_post(&client, http_addr, "application/json").send().await.unwrap();
    assert_eq!(first.status(), 503, "the script's first answer is still there");
    // An empty request is a valid one, in either encoding.
    for (name, media_type) in [protobuf, json_type] {
        let body = if media_type == json_type.1 { "{}" } else { "" };
        assert_eq!(client.post(&logs).header(name, media_type).body(body).send().await.unwrap().status(), 200);
    }
    stop(&mut receiver).await;
}

#[tokio::test]
async fn omitted_and_unknown_fields_of_otlp_json_are_no_mistake() {
    let text = json!({"unknown": 1, "resourceLogs": [{"scopeLogs": [{"logRecords": [{
        "timeUnixNano": "1700000000000000001",
        "body": {"kvlistValue": {}},
        "attributes": [
            {"key": "list", "value": {"arrayValue": {}}},
            {"key": "nothing", "value": {}},
            {"key": "number", "value": {"intValue": 7}},
            {"key": "bytes", "value": {"bytesValue": "AAEC"}},
            {"key": "half", "value": {"doubleValue": 0.5}},
        ],
    }]}]}]});
    let request = parse_otlp_json(text.to_string().as_bytes()).unwrap();
    let record = records(&request).next().unwrap();
    assert_eq!(record.time_unix_nano, 1_700_000_000_000_000_001);
    assert_eq!(json(record.body.as_ref().unwrap()), json!({}));
    let values: Vec<_> = record.attributes.iter().map(|a| a.value.as_ref().map_or(Value::Null, json)).collect();
    assert_eq!(values, [json!([]), Value::Null, json!(7), json!("AAEC"), json!(0.5)]);
    assert_eq!(json(&AnyValue { value: Some(Any::DoubleValue(f64::NEG_INFINITY)) }), json!("-Infinity"));
}

/// As a Collector writes it.
#[test]
fn a_pair_without_a_key_has_an_empty_one() {
    let text = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{
        "body": {"kvlistValue": {"values": [{"value": {"intValue": "7"}}]}}}]}]}]}"#;
    let request = parse_otlp_json(text.as_bytes()).unwrap();
    let record = records(&request).next().unwrap();
    assert_eq!(json(record.body.as_ref().unwrap()), json!({"": 7}));
}

#[tokio::test]
async fn raw_answers_go_out_as_they_stand() {
    let raw = |status, headers: &[(&str, &str)], body: &str| Answer::Raw {
        status,
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        body: body.as_bytes().to_vec(),
    };
    let script = Script::new()
        .then(raw(307, &[("location", "http://127.0.0.1:1/elsewhere")], ""))
        .then(raw(200, &[("content-type", "text/html")], "<p>welcome</p>"))
        .then(raw(200, &[("content-length", "100")], "too short"))
        .then(raw(502, &[], "bad gateway"));
    let mut receiver = start(script).await;
    let client = http_client().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let post = || otlp_post(&client, receiver.otlp_http_addr().unwrap(), "application/json").send();

    let response = post().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.headers()["location"].to_str().unwrap()),
        (307, "http://127.0.0.1:1/elsewhere")
    );
    assert_eq!(post().await.unwrap().text().await.unwrap(), "<p>welcome</p>");
    assert!(post().await.unwrap().text().await.is_err());
    let mut grpc = grpc(receiver.otlp_grpc_addr().unwrap()).await;
    assert_eq!(grpc.export(batch(&["a"])).await.unwrap_err().code(), Code::Unavailable);
    let accepted = [
        next(&mut receiver).await.accepted(),
        next(&mut receiver).await.accepted(),
        next(&mut receiver).await.accepted(),
    ];
    assert_eq!(accepted, [false, true, true]);
}

fn tls_endpoint(addr: SocketAddr, tls: ClientTlsConfig) -> Endpoint {
    Channel::from_shared(format!("https://{addr}")).unwrap().tls_config(tls).unwrap()
}

#[tokio::test]
async fn tls_is_spoken_by_each_protocol_and_a_client_certificate_can_be_demanded() {
    let material = TlsMaterial::new();
    let trusting = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&material.ca));
    let known = trusting.clone().identity(Identity::from_pem(&material.client, &material.client_key));
    let ca = reqwest::Certificate::from_pem(material.ca.as_bytes()).unwrap();
    let identity =
        reqwest::Identity::from_pem(format!("{}{}", material.client, material.client_key).as_bytes()).unwrap();
    let trusting_http = http_client().tls_certs_only([ca.clone()]).build().unwrap();
    let known_http = http_client().tls_certs_only([ca]).identity(identity).build().unwrap();

    for (tls, demands) in [(material.one_way(), false), (material.mutual(), true)] {
        let mut receiver = start_with(Options { tls: Some(tls), ..Options::default() }).await;
        let (grpc_addr, http_addr, hook_addr) = addrs(&receiver);
        for (grpc_tls, client, welcome) in [(&known, &known_http, true), (&trusting, &trusting_http, !demands)] {
            let called = match tls_endpoint(grpc_addr, grpc_tls.clone()).connect().await {
                Ok(channel) => LogsServiceClient::new(channel).export(batch(&["a"])).await.is_ok(),
                Err(_) => false,
            };
            assert_eq!(called, welcome);
            let body = batch(&["h"]).encode_to_vec();
            let otlp =
                client.post(format!("https://{http_addr}/v1/logs")).header("content-type", "application/x-protobuf");
            assert_eq!(otlp.body(body).send().await.is_ok_and(|r| r.status() == 200), welcome);
            // The certificate is good for the name as well as for the address.
            let hook = client.post(format!("https://localhost:{}/", hook_addr.port())).body("[]");
            assert_eq!(hook.send().await.is_ok_and(|r| r.status() == 200), welcome);
        }
        // Plain text to a TLS port, and a CA that did not sign the server.
        assert!(hook_post(&http(), hook_addr, &json!([])).send().await.is_err());
        let stranger = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&TlsMaterial::new().ca));
        assert!(tls_endpoint(grpc_addr, stranger).connect().await.is_err());
        stop(&mut receiver).await;
    }
}

#[tokio::test]
async fn unusable_tls_material_stops_the_start_and_is_named() {
    let material = TlsMaterial::new();
    let good = material.mutual();
    for (tls, named) in [
        (Tls { cert: String::new(), ..good.clone() }, "TLS certificate"),
        (Tls { key: "no key".to_owned(), ..good.clone() }, "TLS key"),
        (Tls { key: material.client_key.clone(), ..good.clone() }, "TLS certificate"),
        (Tls { client_ca: Some("no CA".to_owned()), ..good.clone() }, "TLS client CA"),
    ] {
        let options = Options { otlp_grpc: Some(ANY_PORT), tls: Some(tls), ..Options::default() };
        let error = Receiver::start(options).await.unwrap_err().to_string();
        assert!(error.contains(named) && error.contains("OTLP/gRPC"), "{error}");
    }
    assert!(!format!("{good:?}").contains("PRIVATE KEY"));
}

#[tokio::test]
async fn a_stopped_receiver_can_be_started_on_the_same_port() {
    let first = start(Script::new()).await;
    let (grpc_addr, http_addr, hook_addr) = addrs(&first);
    // Clients with connections that are alive when the receiver goes.
    let (mut grpc, client) = (grpc(grpc_addr).await, http());
    let mut running = Some(first);
    for round in 0..5 {
        let mut receiver = match running.take() {
            Some(receiver) => receiver,
            None => Receiver::start(Options {
                otlp_grpc: Some(grpc_addr),
                otlp_http: Some(http_addr),
                webhook: Some(hook_addr),
                ..Options::default()
            })
            .await
            .unwrap(),
        };
        grpc.export(batch(&["a"])).await.unwrap();
        assert_eq!(otlp_post(&client, http_addr, "application/json").send().await.unwrap().status(), 200);
        assert_eq!(hook_post(&client, hook_addr, &json!([])).send().await.unwrap().status(), 200);
        stop(&mut receiver).await;
        // What was answered is there after the stop.
        assert_eq!(receiver.requests(), 3, "round {round}");
        for _ in 0..3 {
            assert!(receiver.next().await.is_some());
        }
        assert!(receiver.next().await.is_none());
        assert_eq!(grpc.export(batch(&["b"])).await.unwrap_err().code(), Code::Unavailable);
        assert!(hook_post(&client, hook_addr, &json!([])).send().await.unwrap_err().is_connect());
    }
}

#[tokio::test]
async fn dropping_it_stops_it() {
    let receiver = start(Script::new()).await;
    let (grpc_addr, _, _) = addrs(&receiver);
    let mut grpc = grpc(grpc_addr).await;
    grpc.export(batch(&["a"])).await.unwrap();
    drop(receiver);
    assert!(grpc.export(batch(&["b"])).await.is_err());
    let again = Receiver::start(Options { otlp_grpc: Some(grpc_addr), ..Options::default() }).await.unwrap();
    grpc.export(batch(&["c"])).await.unwrap();
    drop(again);
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let receiver = start(Script::new()).await;
    let addr = receiver.webhook_addr().unwrap();
    let error = Receiver::start(Options { webhook: Some(addr), ..Options::default() }).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().starts_with(&format!("cannot serve webhook on {addr}: ")), "{error}");
}

#[tokio::test]
#[should_panic(expected = "the rule failed")]
async fn a_panic_in_a_rule_fails_the_test() {
    let mut receiver = start(Script::new().rule(|_| panic!("the rule failed"))).await;
    assert!(hook_post(&http(), receiver.webhook_addr().unwrap(), &json!([])).send().await.is_err());
    receiver.stop().await;
}

#[tokio::test]
async fn jsonl_is_what_a_collector_writes_and_what_a_webhook_got() {
    let mut receiver = start(Script::new()).await;
    grpc(receiver.otlp_grpc_addr().unwrap()).await.export(batch(&["a", "b"])).await.unwrap();
    let body = json!([{"n": 1}, {"n": 2.5}]);
    hook_post(&http(), receiver.webhook_addr().unwrap(), &body).send().await.unwrap();
    let (otlp, hook) = (next(&mut receiver).await, next(&mut receiver).await);

    let mut lines = Vec::new();
    write_jsonl(&mut lines, &otlp).unwrap();
    assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 1);
    assert_eq!(Payload::Otlp(parse_otlp_json(&lines).unwrap()), otlp.payload);

    lines.clear();
    write_jsonl(&mut lines, &hook).unwrap();
    assert_eq!(lines, b"{\"n\":1}\n{\"n\":2.5}\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_collector_takes_what_the_receiver_takes_and_survives_a_restart() {
    if built().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector::start(TO_FILE, dir.path());
    let sent = batch(&["a", "b"]);
    let mut client = grpc(collector.otlp_grpc_addr()).await;
    client.export(sent.clone()).await.unwrap();
    // Empty lists are omitted in the Collector's JSON; what is read equals what was sent all the same.
    let written: Vec<_> = records(&sent).cloned().collect();
    assert_eq!(collector.wait_for(2), written);

    collector.stop();
    assert_eq!(client.export(batch(&["lost"])).await.unwrap_err().code(), Code::Unavailable);
    collector.restart();
    let response = otlp_post(&http(), collector.otlp_http_addr(), "application/json").send().await.unwrap();
    assert_eq!(response.status(), 200);
    let found = collector.wait_for(3);
    assert_eq!(found.iter().filter_map(uid).collect::<Vec<_>>(), ["a", "b", "h"]);
    collector.kill();
    collector.restart();
    client.export(batch(&["c"])).await.unwrap();
    assert_eq!(collector.wait_for(4).len(), 4);
}

/// A Collector that waits for what lies behind it, here our receiver, and passes its refusals on.
const SYNCHRONOUS: &str = "
receivers:
  otlp:
    protocols:
      grpc: {endpoint: '${env:OTLP_GRPC}'}
      http: {endpoint: '${env:OTLP_HTTP}'}
exporters:
  EXPORTER
    endpoint: ENDPOINT
    tls: {insecure: true}
    sending_queue: {enabled: false}
    retry_on_failure: {enabled: false}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    logs: {receivers: [otlp], exporters: [NAME]}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_real_collector_understands_what_the_receiver_answers() {
    if built().is_none() {
        return;
    }
    let partial = Answer::PartialSuccess { rejected: 1, message: "one was odd".to_owned() };
    let answers = [
        (Answer::Ok, Code::Ok),
        (Answer::status(503), Code::Unavailable),
        (Answer::status(429).wait(Wait::Seconds(3)), Code::ResourceExhausted),
        (Answer::status(401), Code::Unauthenticated),
        (Answer::status(400), Code::InvalidArgument),
        (Answer::Cut, Code::Unavailable),
        (partial, Code::Ok),
    ];
    for name in ["otlp_grpc", "otlp_http"] {
        let script = answers.iter().fold(Script::new(), |script, (answer, _)| script.then(answer.clone()));
        let mut receiver = start(script).await;
        let endpoint = match name {
            "otlp_grpc" => receiver.otlp_grpc_addr().unwrap().to_string(),
            _ => format!("http://{}", receiver.otlp_http_addr().unwrap()),
        };
        let config =
            SYNCHRONOUS.replace("EXPORTER", &format!("{name}:")).replace("ENDPOINT", &endpoint).replace("NAME", name);
        let dir = tempfile::tempdir().unwrap();
        let collector = Collector::start(&config, dir.path());
        let mut client = grpc(collector.otlp_grpc_addr()).await;
        for (answer, code) in &answers {
            let told = match client.export(batch(&["a"])).await {
                Ok(_) => Code::Ok,
                Err(status) => status.code(),
            };
            assert_eq!(told, *code, "{name} {answer}");
            let received = next(&mut receiver).await;
            assert_eq!(
                (&received.answer, received.header("content-encoding").or(received.header("grpc-encoding"))),
                (answer, Some("gzip"))
            );
        }
        assert!(collector.log().contains("one was odd"), "the partial success was read");
        stop(&mut receiver).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_victoria_logs_finds_what_it_took() {
    if built().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut store = VictoriaLogs::start(dir.path());
    let request = http().post(store.otlp_logs_url()).header("content-type", "application/x-protobuf");
    let response = request.body(batch(&["a", "b"]).encode_to_vec()).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(store.wait_for("*", 2).await, 2);
    store.restart();
    assert_eq!(store.wait_for("ocsf.class_uid:3002", 2).await, 2);
    assert_eq!(store.count("log.record.uid:a").await, 1);
    let found = store.query("log.record.uid:b").await;
    assert_eq!(found[0]["event_name"], "ocsf.authentication.logon", "{found:?}");
}
