//! TLS as a user configures it: by the standard variables, and by the system's roots, on a server whose certificates the test makes.

mod support;

use auditwire::receiver::{ANY_PORT, Options, Receiver, Script, Tls};
use support::{TlsMaterial, Workplace};

const EVENTS: &str = include_str!("data/compat/events.jsonl");

async fn receiver(tls: Tls) -> Receiver {
    let options = Options {
        otlp_grpc: Some(ANY_PORT),
        otlp_http: Some(ANY_PORT),
        webhook: Some(ANY_PORT),
        tls: Some(tls),
        script: Script::new(),
        ..Options::default()
    };
    Receiver::start(options).await.expect("loopback has free ports")
}

/// What `--to` says for each protocol, and the variable that chooses it.
fn targets(receiver: &Receiver) -> [(String, &'static str); 4] {
    let [grpc, http, webhook] = [receiver.otlp_grpc_addr(), receiver.otlp_http_addr(), receiver.webhook_addr()]
        .map(|address| format!("https://localhost:{}", address.expect("all are served").port()));
    [
        (format!("otlp={grpc}"), "grpc"),
        (format!("otlp={http}"), "http/protobuf"),
        (format!("otlp={http}"), "http/json"),
        (format!("webhook={webhook}"), "grpc"),
    ]
}

async fn records(receiver: &mut Receiver) -> Vec<usize> {
    receiver.stop().await;
    let mut records = Vec::new();
    while let Some(received) = receiver.next().await {
        records.push(received.len());
    }
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_own_authority_and_a_client_certificate_come_from_the_standard_variables() {
    let material = TlsMaterial::new();
    let mut receiver = receiver(material.mutual()).await;
    let place = Workplace::new();
    let events = place.file("events.jsonl", EVENTS);
    for (to, protocol) in targets(&receiver) {
        let mut send = place.auditwire(["send", "events.jsonl", "--to", &to]);
        for prefix in ["OTEL_EXPORTER_OTLP_", "AUDITWIRE_WEBHOOK_"] {
            send.env(format!("{prefix}CERTIFICATE"), material.ca_path())
                .env(format!("{prefix}CLIENT_CERTIFICATE"), material.client_path())
                .env(format!("{prefix}CLIENT_KEY"), material.client_key_path())
                .env(format!("{prefix}COMPRESSION"), "gzip");
        }
        tokio::task::block_in_place(|| place.run(send.env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)).code(0));
    }
    assert!(events.exists());
    assert_eq!(records(&mut receiver).await, [16; 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_the_systems_roots_are_trusted() {
    let material = TlsMaterial::new();
    let mut receiver = receiver(material.one_way()).await;
    let place = Workplace::new();
    place.file("events.jsonl", EVENTS);
    for (to, protocol) in targets(&receiver) {
        let mut send = place.auditwire(["send", "events.jsonl", "--to", &to, "--timeout", "30s"]);
        send.env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
        // Where the system's roots are: of a system that trusts the test's authority.
        let trusting = send.env("SSL_CERT_FILE", material.ca_path());
        tokio::task::block_in_place(|| place.run(trusting).code(0));
    }
    assert_eq!(records(&mut receiver).await, [16; 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_nobody_vouches_for_gets_nothing_and_is_named() {
    let material = TlsMaterial::new();
    let stranger = TlsMaterial::new();
    let mut receiver = receiver(material.one_way()).await;
    let place = Workplace::new();
    place.file("events.jsonl", EVENTS);
    for (to, protocol) in targets(&receiver) {
        let mut send = place.auditwire(["send", "events.jsonl", "--to", &to, "--timeout", "500ms"]);
        send.env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol).env("SSL_CERT_FILE", stranger.ca_path());
        let ended = tokio::task::block_in_place(|| place.run(&mut send).code(5));
        assert!(ended.stderr.contains("certificate"), "{to}: {}", ended.stderr);
    }
    assert!(records(&mut receiver).await.is_empty());
}
