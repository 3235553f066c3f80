use super::*;
use crate::config::{Body, Compression, File, OnFull, Protocol, Sync, Tls, Webhook};
use crate::ocsf;
use crate::secret::REDACTED;

/// Copied from agentkernel's contract: the three forms of the stream configuration.
const WEBHOOK: &str = include_str!("../../../tests/data/compat/config-webhook.json");
const FILE: &str = include_str!("../../../tests/data/compat/config-file.json");
const STDOUT: &str = include_str!("../../../tests/data/compat/config-stdout.json");
/// Every field of our extension.
const FULL: &str = include_str!("../../../tests/data/config/full.json");

type Variables<'a> = &'a [(&'static str, &'a str)];

fn read(text: &str, variables: Variables<'_>) -> Result<Config, ConfigError> {
    let mut warnings = Vec::new();
    let config = parse(text, "stream.json", &variables.iter().copied().collect(), &mut warnings);
    assert_eq!(warnings, [""; 0], "{text}");
    config
}

fn resolved(text: &str, variables: Variables<'_>) -> Config {
    read(text, variables).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> String {
    read(text, &[]).unwrap_err().to_string()
}

fn program(config: &AuditStreamConfig) -> Result<Config, String> {
    let mut warnings = Vec::new();
    config.resolve(&Environment::default(), &mut warnings).map_err(|error| error.to_string())
}

fn webhook(url: &str) -> AuditStreamConfig {
    AuditStreamConfig {
        destination: StreamDestination::HttpWebhook {
            url: url.into(),
            authorization: Some("Bearer s3cr3t".into()),
            headers: HashMap::from([("X-Tenant".into(), "s3cr3t".into())]),
        },
        ..Default::default()
    }
}

fn exposed(headers: &[(String, Secret)]) -> Vec<(&str, &str)> {
    headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect()
}

#[test]
fn the_three_forms_of_the_contract_are_read_alike_by_the_type_and_by_parse() {
    for text in [WEBHOOK, FILE, STDOUT] {
        let config: AuditStreamConfig = serde_json::from_str(text).unwrap();
        let by_type = program(&config).unwrap();
        let by_parse = parse(text, "stream.json", &Environment::default(), &mut Vec::new()).unwrap();
        assert_eq!(by_type, by_parse);
    }
    let config: AuditStreamConfig = serde_json::from_str(WEBHOOK).unwrap();
    assert_eq!((config.batch_size, config.flush_interval_secs, config.max_retries), (50, 60, 5));
    let config = program(&config).unwrap();
    assert_eq!((config.batch.max_export_batch_size, config.batch.max_queue_size), (50, 2048));
    assert_eq!((config.batch.schedule_delay, config.max_retries), (Duration::from_secs(60), 5));
    let DestinationKind::Webhook(webhook) = &config.destinations[0].kind else { panic!() };
    assert_eq!(webhook.url, "https://siem.example.net/ingest");
    assert_eq!(exposed(&webhook.headers), [("x-tenant", "blue"), ("authorization", "Bearer example-token")]);
    assert_eq!(webhook.format, Format::Ocsf);

    let config: AuditStreamConfig = serde_json::from_str(FILE).unwrap();
    assert_eq!(
        (config.batch_size, config.flush_interval_secs, config.max_retries, config.ocsf_enabled),
        (10, 30, 3, true)
    );
    let config = program(&config).unwrap();
    assert_eq!(config.destinations[0].kind, DestinationKind::File(File::new("audit/out.jsonl")));
}

#[test]
fn the_default_is_standard_output() {
    let config = AuditStreamConfig::default();
    assert_eq!(config.destination, StreamDestination::Stdout);
    let config = program(&config).unwrap();
    assert_eq!(config.destinations[0].kind, DestinationKind::Stdout { format: Format::Ocsf });
    assert_eq!(config.batch.max_export_batch_size, 10);
}

#[test]
fn defect_11_ocsf_enabled_is_read() {
    let format = |text: &str, variables: Variables<'_>| match resolved(text, variables).destinations.remove(0).kind {
        DestinationKind::Stdout { format } => format,
        other => panic!("{other:?}"),
    };
    assert_eq!(format(STDOUT, &[]), Format::Audit);
    let config: AuditStreamConfig = serde_json::from_str(STDOUT).unwrap();
    assert!(!config.ocsf_enabled);
    assert_eq!(program(&config).unwrap().destinations[0].kind, DestinationKind::Stdout { format: Format::Audit });

    let variable = &[(env::AUDITWIRE_STDOUT_FORMAT, "otlp_json")];
    assert_eq!(format(r#"{"destination":{"type":"stdout"}}"#, variable), Format::OtlpJson);
    assert_eq!(format(r#"{"destination":{"type":"stdout"},"ocsf_enabled":true}"#, variable), Format::Ocsf);
    let own = r#"{"destination":{"type":"stdout","format":"ocsf"},"ocsf_enabled":false}"#;
    assert_eq!(format(own, variable), Format::Ocsf, "a destination's own format wins");

    let error = refused(r#"{"destination":{"type":"otlp"},"ocsf_enabled":false}"#);
    assert!(error.starts_with("stream.json: destination: OTLP carries OCSF"), "{error}");
}

#[test]
fn defect_5_a_flush_interval_of_zero_sends_at_once_and_does_not_spin() {
    let config = AuditStreamConfig { flush_interval_secs: 0, ..Default::default() };
    assert_eq!(program(&config).unwrap().batch.schedule_delay, SHORTEST_SCHEDULE_DELAY);
    let config = resolved(r#"{"destination":{"type":"stdout"},"flush_interval_secs":0}"#, &[]);
    assert_eq!(config.batch.schedule_delay, SHORTEST_SCHEDULE_DELAY);
}

#[test]
fn defect_9_secrets_show_neither_in_debug_nor_when_serialized() {
    let mut config = webhook("https://u:s3cr3t@siem.example.net/in?token=s3cr3t");
    assert!(program(&config).unwrap_err().contains("destination.url has credentials, too"));
    if let StreamDestination::HttpWebhook { authorization, .. } = &mut config.destination {
        *authorization = None;
    }
    let json = serde_json::to_string(&config).unwrap();
    let debug = format!("{config:?} {config:#?} {:?}", program(&config).unwrap());
    for shown in [&json, &debug] {
        assert!(!shown.contains("s3cr3t"), "{shown}");
        assert!(shown.to_ascii_lowercase().contains("x-tenant") && shown.contains("siem.example.net"), "{shown}");
        assert!(shown.contains(REDACTED), "{shown}");
    }
    let error = serde_json::from_str::<AuditStreamConfig>(&json).unwrap_err().to_string();
    assert!(error.contains("put the secret back"), "{error}");
    assert!(refused(&json).contains("put the secret back"));
}

#[test]
fn defect_9_secrets_show_in_no_error() {
    for text in [
        r#"{"destination":{"type":"http_webhook","url":"https://h","headers":"s3cr3t"}}"#,
        r#"{"destination":{"type":"http_webhook","url":"https://h","headers":{"a":{"s3cr3t":1}}}}"#,
        r#"{"destination":{"type":"http_webhook","url":"https://h","authorization":["s3cr3t"]}}"#,
        r#"{"destination":"https://u:s3cr3t@h"}"#,
        r#""s3cr3t""#,
    ] {
        let error = refused(text);
        assert!(error.starts_with("stream.json:1:") && !error.contains("s3cr3t"), "{error}");
        let error = serde_json::from_str::<AuditStreamConfig>(text).unwrap_err().to_string();
        assert!(text.starts_with('"') || !error.contains("s3cr3t"), "{error}");
    }
    for text in [
        r#"{"destination":{"type":"http_webhook","url":"ftp://u:s3cr3t@h?s3cr3t"}}"#,
        r#"{"destination":{"type":"http_webhook","url":"https://h","headers":{"a":"s3cr3t\n"}}}"#,
        r#"{"destination":{"type":"http_webhook","url":"https://h","authorization":"s3cr3t\u0000"}}"#,
        r#"{"destination":{"type":"http_webhook","url":"https://h","authorization":"s3cr3t","headers":{"Authorization":"s3cr3t"}}}"#,
        r#"{"destination":{"type":"otlp","endpoint":"https://u:s3cr3t@h"}}"#,
        r#"{"destination":{"type":"otlp","headers":{"a":"s3cr3t","A":"s3cr3t"}}}"#,
    ] {
        let error = refused(text);
        assert!(error.starts_with("stream.json: destination.") && !error.contains("s3cr3t"), "{error}");
    }
}

#[test]
fn what_a_program_sets_wrongly_is_named() {
    let error = program(&AuditStreamConfig { batch_size: 0, ..Default::default() }).unwrap_err();
    assert_eq!(error, format!("batch_size=\"0\": must be from 1 to {}", i32::MAX));
    let error = program(&AuditStreamConfig { flush_interval_secs: u64::MAX, ..Default::default() }).unwrap_err();
    assert!(error.starts_with("flush_interval_secs="), "{error}");
    let error = program(&webhook("siem.example.net?key=s3cr3t")).unwrap_err();
    assert!(error.starts_with("destination.url=\"siem.example.net?key=REDACTED\": not a URL"), "{error}");
    let mut config = webhook("https://h");
    if let StreamDestination::HttpWebhook { headers, .. } = &mut config.destination {
        headers.insert("X-Two\n".into(), "s3cr3t".into());
    }
    let error = program(&config).unwrap_err();
    assert!(error.starts_with("destination.headers: a header beginning \"X-Two\""), "{error}");
    let file = AuditStreamConfig { destination: StreamDestination::File { path: String::new() }, ..Default::default() };
    assert_eq!(program(&file).unwrap_err(), "destination.path: missing");
}

#[test]
fn the_queue_holds_at_least_a_batch() {
    let queue = |text: &str, variables: Variables<'_>| {
        let batch = resolved(&format!(r#"{{"destination":{{"type":"stdout"}}{text}}}"#), variables).batch;
        (batch.max_export_batch_size, batch.max_queue_size)
    };
    assert_eq!(queue("", &[]), (10, 2048));
    assert_eq!(queue(r#","batch_size":5000"#, &[]), (5000, 5000));
    assert_eq!(queue(r#","queue_size":5"#, &[]), (5, 5));
    assert_eq!(queue(r#","batch_size":50"#, &[(env::OTEL_BLRP_MAX_QUEUE_SIZE, "20")]), (50, 50));
    assert_eq!(queue("", &[(env::OTEL_BLRP_MAX_QUEUE_SIZE, "100")]), (10, 100));
}

#[test]
fn json_wins_over_variables_and_variables_over_defaults() {
    let variables = &[
        (env::OTEL_BLRP_MAX_EXPORT_BATCH_SIZE, "20"),
        (env::OTEL_BLRP_SCHEDULE_DELAY, "7000"),
        (env::AUDITWIRE_ON_FULL, "refuse"),
        (env::AUDITWIRE_OCSF_VERSION, "1.4.0"),
        (env::AUDITWIRE_DEAD_LETTER_PATH, "variable.jsonl"),
        (env::AUDITWIRE_MAX_EVENT_BYTES, "1kB"),
        (env::AUDITWIRE_SHUTDOWN_TIMEOUT, "1s"),
        (env::AUDITWIRE_PRODUCT_NAME, "p"),
        (env::AUDITWIRE_PRODUCT_VENDOR, "v"),
        (env::OTEL_EXPORTER_OTLP_PROTOCOL, "http/json"),
        (env::OTEL_EXPORTER_OTLP_ENDPOINT, "http://variable:4318"),
        (env::OTEL_EXPORTER_OTLP_HEADERS, "from=variable"),
        (env::OTEL_EXPORTER_OTLP_TIMEOUT, "1"),
        (env::OTEL_EXPORTER_OTLP_COMPRESSION, "gzip"),
        (env::AUDITWIRE_OTLP_BODY, "json"),
    ];
    let absent = resolved(r#"{"destination":{"type":"otlp"}}"#, variables);
    assert_eq!((absent.batch.max_export_batch_size, absent.batch.schedule_delay), (20, Duration::from_secs(7)));
    assert_eq!((absent.on_full, absent.mapping.version), (OnFull::Refuse, ocsf::Version::V1_4_0));
    assert_eq!(absent.dead_letter_path.to_str(), Some("variable.jsonl"));
    assert_eq!((absent.max_event_bytes, absent.shutdown_timeout), (1000, Duration::from_secs(1)));
    assert_eq!(absent.product.unwrap().name, "p");
    let DestinationKind::Otlp(otlp) = &absent.destinations[0].kind else { panic!() };
    assert_eq!((otlp.protocol, otlp.endpoint.as_str()), (Protocol::HttpJson, "http://variable:4318/v1/logs"));
    assert_eq!(exposed(&otlp.headers), [("from", "variable")]);
    assert_eq!((otlp.timeout, otlp.compression), (Some(Duration::from_millis(1)), Compression::Gzip));
    assert_eq!(otlp.body, Body::Json);

    let full = resolved(FULL, variables);
    assert_eq!(full, resolved(FULL, &[]), "every field is set in the JSON, so no variable has an effect");
    assert_eq!((full.batch.max_export_batch_size, full.batch.max_queue_size), (100, 4096));
    assert_eq!((full.batch.schedule_delay, full.max_retries), (Duration::from_secs(5), 7));
    assert_eq!((full.on_full, full.mapping.version), (OnFull::Drop, ocsf::Version::V1_7_0));
    assert_eq!(full.dead_letter_path.to_str(), Some("audit/dead.jsonl"));
    assert_eq!((full.max_event_bytes, full.shutdown_timeout), (65_536, Duration::from_secs(10)));
    assert_eq!(full.product.as_ref().unwrap().vendor_name, "Example");
    let names: Vec<_> = full.destinations.iter().map(|destination| destination.name.as_str()).collect();
    assert_eq!(names, ["siem", "archive", "otlp", "stdout", "otlp-2"]);
    let kinds: Vec<_> = full.destinations.iter().map(|destination| &destination.kind).collect();
    let [
        DestinationKind::Webhook(webhook),
        DestinationKind::File(file),
        DestinationKind::Otlp(otlp),
        DestinationKind::Stdout { format: Format::OtlpJson },
        DestinationKind::Otlp(http),
    ] = kinds.as_slice()
    else {
        panic!("{kinds:?}")
    };
    let expected = Webhook { timeout: None, max_request_bytes: 500_000, ..Webhook::new("https://siem.example.net/in") };
    let Webhook { headers, compression, tls, .. } = (*webhook).clone();
    assert_eq!(exposed(&headers), [("x-tenant", "blue"), ("authorization", "Bearer t")]);
    assert_eq!((compression, tls.client_key.as_deref()), (Compression::Gzip, Some("key.pem".as_ref())));
    assert_eq!(*webhook, Webhook { headers, compression, tls, ..expected });
    assert_eq!((file.format, file.sync), (Format::Audit, Sync::Never));
    assert_eq!((otlp.protocol, otlp.endpoint.as_str()), (Protocol::Grpc, "https://collector:4317"));
    assert_eq!(exposed(&otlp.headers), [("api-key", "k")]);
    assert_eq!((otlp.timeout, otlp.compression), (Some(Duration::from_secs(3)), Compression::None));
    assert_eq!((otlp.body, otlp.max_request_bytes), (Body::Message, 2 << 20));
    assert_eq!(otlp.tls.certificate.as_deref(), Some("ca.pem".as_ref()));
    assert_eq!((http.protocol, http.endpoint.as_str()), (Protocol::HttpProtobuf, "http://collector:4318/v1/logs"));
}

#[test]
fn written_certificates_win_over_variables() {
    let variables = &[
        (env::OTEL_EXPORTER_OTLP_CERTIFICATE, "general-ca.pem"),
        (env::OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE, "logs-ca.pem"),
        (env::OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE, "general-chain.pem"),
        (env::OTEL_EXPORTER_OTLP_CLIENT_KEY, "general-key.pem"),
    ];
    let otlp = r#"{"type":"otlp","endpoint":"https://h:4317","client_key":"own-key.pem"}"#;
    let config = resolved(&format!(r#"{{"destination":{otlp}}}"#), variables);
    let DestinationKind::Otlp(otlp) = &config.destinations[0].kind else { panic!() };
    let expected = Tls {
        certificate: Some("logs-ca.pem".into()),
        client_certificate: Some("general-chain.pem".into()),
        client_key: Some("own-key.pem".into()),
    };
    assert_eq!(otlp.tls, expected);
}

#[test]
fn the_webhooks_variables_count_for_a_single_webhook_only() {
    let variables = &[(env::AUDITWIRE_WEBHOOK_AUTHORIZATION, "Bearer t"), (env::AUDITWIRE_WEBHOOK_FORMAT, "audit")];
    let one = r#"{"type":"http_webhook","url":"https://one"}"#;
    let other = r#"{"type":"http_webhook","url":"https://other"}"#;
    for (text, expected) in [
        (format!(r#"{{"destination":{one}}}"#), (1, Format::Audit)),
        (format!(r#"{{"destinations":[{one},{{"type":"stdout"}}]}}"#), (1, Format::Audit)),
        (format!(r#"{{"destinations":[{one},{other}]}}"#), (0, Format::Ocsf)),
    ] {
        let config = resolved(&text, variables);
        let DestinationKind::Webhook(webhook) = &config.destinations[0].kind else { panic!() };
        assert_eq!((webhook.headers.len(), webhook.format), expected, "{text}");
    }
}

#[test]
fn mistakes_in_the_json_are_named_with_their_place() {
    for (text, expected) in [
        ("{", "stream.json:1:1: EOF"),
        ("{\n  \"destinatoin\": {}\n}", "stream.json:2:15: unknown field `destinatoin`, expected one of"),
        (
            "{\"destination\": {\"type\": \"stdout\"},\n\"batch_size\": -1}",
            "stream.json:2:16: invalid value: integer `-1`",
        ),
        ("{\"destination\":\n{\"type\": \"stdout\", \"path\": \"x\"}}", "stream.json:2:"),
        (r#"{"destination":{"type":"kafka"}}"#, "stream.json:1:"),
        (r#"{"destination":{"path":"x"}}"#, "stream.json:1:"),
        (r#"{"destination":{"type":"stdout"},"shutdown_timeout":"5"}"#, "stream.json:1:"),
        (r#"{"destination":{"type":"stdout"},"max_event_bytes":0}"#, "stream.json:1:"),
        (r#"{"destination":{"type":"stdout"},"ocsf":{"version":"2.0"}}"#, "stream.json:1:"),
        (r#"{"destination":{"type":"stdout"},"on_full":"explode"}"#, "stream.json:1:"),
        (r#"{"destination":{"type":"stdout"},"product":{"name":"p"}}"#, "stream.json:1:"),
        (r#"{"batch_size":1}"#, "stream.json: destination: missing"),
        (r#"{"destinations":[]}"#, "stream.json: destinations: the list is empty"),
        (r#"{"destination":{"type":"stdout"},"destinations":[]}"#, "stream.json: destinations: contradicts"),
        (r#"{"destination":{"type":"stdout"},"dead_letter":{"path":""}}"#, "stream.json: dead_letter.path: missing"),
        (r#"{"destination":{"type":"http_webhook"}}"#, "stream.json: destination.url: missing"),
        (r#"{"destinations":[{"type":"file"}]}"#, "stream.json: destinations[0].path: missing"),
        (
            r#"{"destinations":[{"type":"stdout","name":"a"},{"type":"stdout","name":"a"}]}"#,
            "stream.json: destinations[1].name=\"a\": another destination has this name",
        ),
        (r#"{"destination":{"type":"stdout","name":""}}"#, "stream.json: destination.name=\"\": a name"),
        (
            r#"{"destination":{"type":"stdout"},"batch_size":20,"queue_size":10}"#,
            "stream.json: queue_size=\"10\": must hold a batch, which is 20",
        ),
    ] {
        let error = refused(text);
        assert!(error.starts_with(expected), "{text}: {error}");
        assert!(!error.contains(" at line "), "the place is said once: {error}");
    }
    let error = refused("{\"destination\":\n{\"type\": \"stdout\", \"path\": \"x\"}}");
    assert!(error.contains("unknown field `path`"), "{error}");
}

#[test]
fn a_name_given_is_not_given_again() {
    let text = r#"{"destinations":[{"type":"stdout"},{"type":"file","path":"a","name":"stdout"},{"type":"stdout"}]}"#;
    let config = resolved(text, &[]);
    let names: Vec<_> = config.destinations.iter().map(|destination| destination.name.as_str()).collect();
    assert_eq!(names, ["stdout-2", "stdout", "stdout-3"]);
}

#[test]
fn a_disabled_sdk_disables_the_json_too() {
    let disabled = &[(env::OTEL_SDK_DISABLED, "true")];
    let config = resolved(FULL, disabled);
    assert_eq!((config.destinations, config.disabled.as_deref()), (vec![], Some("OTEL_SDK_DISABLED=true")));
    assert!(read("{}", disabled).is_err(), "the JSON is read all the same");
}
