use std::os::unix::ffi::OsStringExt;

use super::*;
use crate::config::{Body, Compression, DestinationKind, Format, OnFull, Otlp, Protocol, Sync, Webhook};

type Variables<'a> = &'a [(&'static str, &'a str)];

fn environment(variables: Variables<'_>) -> Environment {
    variables.iter().copied().collect()
}

/// All that variables lead to.
#[derive(Debug, PartialEq)]
struct Outcome {
    config: Result<Config, ConfigError>,
    span: Result<Option<ocsf::Span>, ConfigError>,
    warnings: Vec<String>,
}

impl Outcome {
    /// What is said about a variable, in an error or a warning.
    fn said(&self) -> String {
        let error = self.config.as_ref().err().map(ToString::to_string);
        self.warnings.iter().cloned().chain(error).collect::<Vec<_>>().join("\n")
    }
}

fn outcome(variables: Variables<'_>) -> Outcome {
    let mut warnings = Vec::new();
    let environment = environment(variables);
    let config = config(&environment, &mut warnings);
    let span = traceparent(&environment, &mut warnings);
    Outcome { config, span, warnings }
}

fn resolved(variables: Variables<'_>) -> Config {
    let outcome = outcome(variables);
    assert_eq!(outcome.warnings, [""; 0], "{variables:?}");
    outcome.config.unwrap_or_else(|error| panic!("{variables:?}: {error}"))
}

fn refused(variables: Variables<'_>) -> String {
    match outcome(variables).config {
        Err(error) => error.to_string(),
        Ok(config) => panic!("{variables:?} was taken: {config:?}"),
    }
}

fn otlp_of(variables: Variables<'_>) -> Otlp {
    match resolved(variables).destinations.remove(0).kind {
        DestinationKind::Otlp(otlp) => otlp,
        other => panic!("{other:?}"),
    }
}

fn webhook_of(variables: &[(&'static str, &str)]) -> Webhook {
    let mut all = vec![(OTEL_LOGS_EXPORTER, "webhook"), (AUDITWIRE_WEBHOOK_URL, "https://siem.example.net/in")];
    all.extend(variables);
    match resolved(&all).destinations.remove(0).kind {
        DestinationKind::Webhook(webhook) => webhook,
        other => panic!("{other:?}"),
    }
}

/// What a malformed value does.
#[derive(Debug, PartialEq)]
enum Malformed {
    Stops(&'static str),
    Warns(&'static str),
    /// Any text is a value.
    Never,
}
use Malformed::{Never, Stops, Warns};

const SPOOL: (&str, &str) = (AUDITWIRE_SPOOL_DIR, "spool");
const HTTPS: (&str, &str) = (OTEL_EXPORTER_OTLP_ENDPOINT, "https://collector:4317");
const BARE: (&str, &str) = (OTEL_EXPORTER_OTLP_ENDPOINT, "collector:4317");
const WEBHOOK: (&str, &str) = (OTEL_LOGS_EXPORTER, "webhook");
const URL: (&str, &str) = (AUDITWIRE_WEBHOOK_URL, "https://siem.example.net/in");
const FILE: (&str, &str) = (OTEL_LOGS_EXPORTER, "file");
const PATH: (&str, &str) = (AUDITWIRE_FILE_PATH, "out.jsonl");

/// Each variable: the others it needs, a value that has an effect, and what a malformed one does.
#[rustfmt::skip]
const CASES: &[(&str, Variables<'static>, &str, Malformed)] = &[
    (OTEL_SDK_DISABLED, &[], "TRUE", Warns("yes")),
    (OTEL_LOGS_EXPORTER, &[], "console", Stops("kafka")),
    (OTEL_CONFIG_FILE, &[], "otel.yaml", Never),
    (OTEL_EXPORTER_OTLP_PROTOCOL, &[], "HTTP/protobuf", Warns("grcp")),
    (OTEL_EXPORTER_OTLP_LOGS_PROTOCOL, &[], "http/json", Warns("http")),
    (OTEL_EXPORTER_OTLP_ENDPOINT, &[], "http://collector:4317", Stops("ftp://collector:4317")),
    (OTEL_EXPORTER_OTLP_LOGS_ENDPOINT, &[], "http://collector:4317", Stops("http://:4317")),
    (OTEL_EXPORTER_OTLP_HEADERS, &[], "a=b", Stops("a")),
    (OTEL_EXPORTER_OTLP_LOGS_HEADERS, &[], "a=b", Stops("a b=c")),
    (OTEL_EXPORTER_OTLP_TIMEOUT, &[], "500", Warns("10s")),
    (OTEL_EXPORTER_OTLP_LOGS_TIMEOUT, &[], "0", Warns("-1")),
    (OTEL_EXPORTER_OTLP_COMPRESSION, &[], "GZIP", Warns("zstd")),
    (OTEL_EXPORTER_OTLP_LOGS_COMPRESSION, &[], "gzip", Warns("yes")),
    (OTEL_EXPORTER_OTLP_INSECURE, &[BARE], "True", Warns("1")),
    (OTEL_EXPORTER_OTLP_LOGS_INSECURE, &[BARE], "true", Warns("on")),
    (OTEL_EXPORTER_OTLP_CERTIFICATE, &[HTTPS], "ca.pem", Never),
    (OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE, &[HTTPS], "ca.pem", Never),
    (OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE, &[HTTPS, (OTEL_EXPORTER_OTLP_CLIENT_KEY, "key.pem")], "chain.pem", Never),
    (OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE, &[HTTPS, (OTEL_EXPORTER_OTLP_CLIENT_KEY, "key.pem")], "chain.pem", Never),
    (OTEL_EXPORTER_OTLP_CLIENT_KEY, &[HTTPS, (OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE, "chain.pem")], "key.pem", Never),
    (OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY, &[HTTPS, (OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE, "chain.pem")], "key.pem", Never),
    (OTEL_SERVICE_NAME, &[], "gatekeeper", Never),
    (OTEL_RESOURCE_ATTRIBUTES, &[], "a=b%2Cc", Stops("a=%zz")),
    (TRACEPARENT, &[], "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Warns("00-abc-def-01")),
    (OTEL_BLRP_SCHEDULE_DELAY, &[], "0", Warns("2147483648")),
    (OTEL_BLRP_MAX_QUEUE_SIZE, &[], "4096", Warns("0")),
    (OTEL_BLRP_MAX_EXPORT_BATCH_SIZE, &[], "100", Warns("many")),
    (OTEL_BLRP_EXPORT_TIMEOUT, &[], "0", Warns("1.5")),
    (OTEL_ATTRIBUTE_COUNT_LIMIT, &[], "0", Warns("-1")),
    (OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT, &[], "64", Warns("all")),
    (OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT, &[], "0", Warns("none")),
    (OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT, &[], "256", Warns("+ 1")),
    (AUDITWIRE_OTLP_BODY, &[], "JSON", Stops("xml")),
    (AUDITWIRE_WEBHOOK_URL, &[WEBHOOK], "http://siem/in", Stops("siem/in")),
    (AUDITWIRE_WEBHOOK_AUTHORIZATION, &[WEBHOOK, URL], "Bearer t", Stops("Bearer \n")),
    (AUDITWIRE_WEBHOOK_HEADERS, &[WEBHOOK, URL], "a=b", Stops("a")),
    (AUDITWIRE_WEBHOOK_TIMEOUT, &[WEBHOOK, URL], "0s", Stops("10000")),
    (AUDITWIRE_WEBHOOK_COMPRESSION, &[WEBHOOK, URL], "gzip", Stops("zstd")),
    (AUDITWIRE_WEBHOOK_FORMAT, &[WEBHOOK, URL], "otlp_json", Stops("csv")),
    (AUDITWIRE_WEBHOOK_CERTIFICATE, &[WEBHOOK, URL], "ca.pem", Never),
    (AUDITWIRE_WEBHOOK_CLIENT_CERTIFICATE, &[WEBHOOK, URL, (AUDITWIRE_WEBHOOK_CLIENT_KEY, "key.pem")], "chain.pem", Never),
    (AUDITWIRE_WEBHOOK_CLIENT_KEY, &[WEBHOOK, URL, (AUDITWIRE_WEBHOOK_CLIENT_CERTIFICATE, "chain.pem")], "key.pem", Never),
    (AUDITWIRE_FILE_PATH, &[FILE], "out.jsonl", Never),
    (AUDITWIRE_FILE_FORMAT, &[FILE, PATH], "audit", Stops("csv")),
    (AUDITWIRE_FILE_SYNC, &[FILE, PATH], "never", Stops("sometimes")),
    (AUDITWIRE_STDOUT_FORMAT, &[(OTEL_LOGS_EXPORTER, "console")], "audit", Stops("pretty")),
    (AUDITWIRE_ON_FULL, &[], "refuse", Stops("panic")),
    (AUDITWIRE_OCSF_VERSION, &[], "1.4.0", Stops("1.8")),
    (AUDITWIRE_DEAD_LETTER_PATH, &[], "dead.jsonl", Never),
    (XDG_STATE_HOME, &[], "/state", Never),
    (HOME, &[], "/home/auditor", Never),
    (AUDITWIRE_MAX_EVENT_BYTES, &[], "16MiB", Stops("0")),
    (AUDITWIRE_SHUTDOWN_TIMEOUT, &[], "1m", Stops("60")),
    (AUDITWIRE_SPOOL_DIR, &[], "spool", Never),
    (AUDITWIRE_SPOOL_MODE, &[SPOOL], "interval=500ms", Stops("interval=0s")),
    (AUDITWIRE_SPOOL_MAX_BYTES, &[SPOOL], "64MiB", Stops("lots")),
    (AUDITWIRE_SPOOL_BLOCK_TIMEOUT, &[SPOOL], "30s", Stops("30")),
    (AUDITWIRE_SPOOL_BEST_EFFORT, &[SPOOL], "otlp=1000", Stops("otlp=0")),
    (AUDITWIRE_SPOOL_START_AT_END, &[SPOOL], "otlp", Stops("otlp,,file")),
    (AUDITWIRE_SPOOL_DRAIN_RATE, &[SPOOL], "500", Stops("0")),
    (AUDITWIRE_PRODUCT_NAME, &[(AUDITWIRE_PRODUCT_VENDOR, "v")], "p", Never),
    (AUDITWIRE_PRODUCT_VENDOR, &[(AUDITWIRE_PRODUCT_NAME, "p")], "v", Never),
    (AUDITWIRE_PRODUCT_VERSION, &[(AUDITWIRE_PRODUCT_NAME, "p"), (AUDITWIRE_PRODUCT_VENDOR, "v")], "1.0", Never),
];

fn with<'a>(others: Variables<'a>, name: &'static str, value: &'a str) -> Vec<(&'static str, &'a str)> {
    others.iter().copied().chain([(name, value)]).collect()
}

/// Whether a default is a value and not words about it.
fn is_value(default: &str) -> bool {
    default != "unset" && !default.contains(' ')
}

#[test]
fn each_variable_of_the_table_has_an_effect_and_each_default_is_true() {
    let names: Vec<_> = CASES.iter().map(|(name, ..)| *name).collect();
    assert_eq!(names, VARIABLES.iter().map(|variable| variable.name).collect::<Vec<_>>());
    for ((name, others, good, _), variable) in CASES.iter().zip(VARIABLES) {
        let unset = outcome(others);
        let set = outcome(&with(others, name, good));
        assert_ne!(set, unset, "{name}={good} has no effect");
        assert_eq!(set.warnings, [""; 0], "{name}={good}");
        assert_eq!(outcome(&with(others, name, "")), unset, "an empty {name} is an unset one");
        if is_value(variable.default) && !variable.default.contains(['$', ':']) {
            assert_eq!(outcome(&with(others, name, variable.default)), unset, "{name}'s default");
        }
    }
}

#[test]
fn malformed_values_stop_the_start_or_warn_as_the_specification_says() {
    for (name, others, _, malformed) in CASES {
        match malformed {
            Never => {}
            Stops(value) => {
                let error = refused(&with(others, name, value));
                assert!(error.starts_with(name), "{name}={value}: {error}");
                assert!(!error.contains('\n'), "{error}");
            }
            Warns(value) => {
                let unset = outcome(others);
                let set = outcome(&with(others, name, value));
                assert_eq!((&set.config, &set.span), (&unset.config, &unset.span), "{name}={value} is ignored");
                let [warning] = set.warnings.as_slice() else { panic!("{name}={value}: {:?}", set.warnings) };
                assert!(warning.starts_with(&format!("{name}={value:?}: ")), "{warning}");
                assert!(!warning.contains('\n'), "{warning}");
            }
        }
    }
}

#[test]
fn a_value_that_is_not_utf_8_stops_the_start_and_names_the_variable() {
    for (name, others, ..) in CASES {
        let bad = OsString::from_vec(vec![b'/', 0xff]);
        let others = others.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let environment: Environment = others.chain([(OsString::from(name), bad)]).collect();
        let mut warnings = Vec::new();
        let error = match traceparent(&environment, &mut warnings) {
            Err(error) => error,
            Ok(_) => config(&environment, &mut warnings).unwrap_err(),
        };
        assert_eq!(error.to_string(), format!("{name}: the value is not UTF-8"));
    }
}

#[test]
fn the_readme_shows_the_table() {
    const README: &str = include_str!("../../../README.md");
    let (_, rest) = README.split_once("<!-- variables:begin -->").unwrap();
    let (table, _) = rest.split_once("<!-- variables:end -->").unwrap();
    let rows = VARIABLES.iter().map(|Variable { name, default, meaning }| {
        let default = if is_value(default) { format!("`{default}`") } else { default.to_string() };
        format!("| `{name}` | {default} | {meaning} |\n")
    });
    let expected = format!("\n| Variable | Default | Meaning |\n|---|---|---|\n{}", rows.collect::<String>());
    assert_eq!(table, expected, "put this into README.md:\n{expected}");
}

#[test]
fn the_signals_own_variable_wins_over_the_general_one() {
    let chain = (OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE, "c.pem");
    let key = (OTEL_EXPORTER_OTLP_CLIENT_KEY, "k.pem");
    #[rustfmt::skip]
    let cases: &[(&str, &str, Variables<'_>, &str, &str)] = &[
        (OTEL_EXPORTER_OTLP_LOGS_PROTOCOL, OTEL_EXPORTER_OTLP_PROTOCOL, &[], "http/json", "http/protobuf"),
        (OTEL_EXPORTER_OTLP_LOGS_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT, &[], "http://a:1", "http://b:2"),
        (OTEL_EXPORTER_OTLP_LOGS_HEADERS, OTEL_EXPORTER_OTLP_HEADERS, &[], "a=1", "b=2"),
        (OTEL_EXPORTER_OTLP_LOGS_TIMEOUT, OTEL_EXPORTER_OTLP_TIMEOUT, &[], "0", "2"),
        (OTEL_EXPORTER_OTLP_LOGS_COMPRESSION, OTEL_EXPORTER_OTLP_COMPRESSION, &[], "none", "gzip"),
        (OTEL_EXPORTER_OTLP_LOGS_INSECURE, OTEL_EXPORTER_OTLP_INSECURE, &[BARE], "false", "true"),
        (OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE, OTEL_EXPORTER_OTLP_CERTIFICATE, &[HTTPS], "a", "b"),
        (OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE, OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE, &[HTTPS, key], "a", "b"),
        (OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY, OTEL_EXPORTER_OTLP_CLIENT_KEY, &[HTTPS, chain], "a", "b"),
        (OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT, OTEL_ATTRIBUTE_COUNT_LIMIT, &[], "1", "2"),
        (OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT, OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT, &[], "1", "2"),
    ];
    for (own, general, others, a, b) in cases {
        let both = outcome(&[*others, &[(*own, *a), (*general, *b)]].concat());
        assert_eq!(both, outcome(&with(others, own, a)), "{own} over {general}");
        assert_ne!(both, outcome(&with(others, general, b)), "{general} has an effect");
        let empty = outcome(&[*others, &[(*own, ""), (*general, *b)]].concat());
        assert_eq!(empty, outcome(&with(others, general, b)), "an empty {own} leaves it to {general}");
    }
}

#[test]
fn an_ignored_value_leaves_it_to_the_general_variable() {
    let outcome = outcome(&[(OTEL_EXPORTER_OTLP_LOGS_COMPRESSION, "brotli"), (OTEL_EXPORTER_OTLP_COMPRESSION, "gzip")]);
    let DestinationKind::Otlp(otlp) = &outcome.config.unwrap().destinations[0].kind else { panic!() };
    assert_eq!(otlp.compression, Compression::Gzip);
    assert_eq!(
        outcome.warnings,
        [
            r#"OTEL_EXPORTER_OTLP_LOGS_COMPRESSION="brotli": unknown variant `brotli`, expected `none` or `gzip`; ignored"#
        ]
    );
}

#[test]
fn nothing_set_is_otlp_over_grpc_to_this_machine() {
    let config = resolved(&[]);
    assert_eq!(config.destinations.len(), 1);
    assert_eq!(config.destinations[0].name, "otlp");
    assert_eq!(config.destinations[0].kind, DestinationKind::Otlp(Otlp::grpc("http://localhost:4317")));
    assert_eq!((config.disabled, config.batch, config.limits), (None, Batch::default(), Limits::default()));
}

#[test]
fn endpoints_are_read_as_the_specification_says() {
    const GENERAL: &str = OTEL_EXPORTER_OTLP_ENDPOINT;
    const LOGS: &str = OTEL_EXPORTER_OTLP_LOGS_ENDPOINT;
    for (protocol, name, text, expected) in [
        ("grpc", GENERAL, "http://collector:4317", "http://collector:4317"),
        ("grpc", GENERAL, "https://collector:4317/", "https://collector:4317"),
        ("grpc", LOGS, "collector:4317", "https://collector:4317"),
        ("grpc", LOGS, "[::1]:4317", "https://[::1]:4317"),
        ("http/protobuf", GENERAL, "", "http://localhost:4318/v1/logs"),
        ("http/protobuf", GENERAL, "http://collector:4318", "http://collector:4318/v1/logs"),
        ("http/json", GENERAL, "http://collector:4318/", "http://collector:4318/v1/logs"),
        ("http/json", GENERAL, "https://gw/otlp", "https://gw/otlp/v1/logs"),
        ("http/json", GENERAL, "https://gw/otlp/", "https://gw/otlp/v1/logs"),
        ("http/json", LOGS, "https://gw/otlp/", "https://gw/otlp/"),
        ("http/json", LOGS, "https://gw", "https://gw/"),
    ] {
        let otlp = otlp_of(&[(OTEL_EXPORTER_OTLP_PROTOCOL, protocol), (name, text)]);
        assert_eq!(otlp.endpoint, expected, "{protocol} {name}={text}");
    }
    let insecure = otlp_of(&[BARE, (OTEL_EXPORTER_OTLP_INSECURE, "true")]);
    assert_eq!(insecure.endpoint, "http://collector:4317");
    let scheme_wins = otlp_of(&[HTTPS, (OTEL_EXPORTER_OTLP_INSECURE, "true")]);
    assert_eq!(scheme_wins.endpoint, "https://collector:4317");
}

#[test]
fn unusable_endpoints_stop_the_start() {
    for (protocol, text, why) in [
        ("grpc", "http://collector:4317/v1/logs", "a gRPC endpoint has no path"),
        ("grpc", "unix:///run/otel.sock", "must begin with http"),
        ("grpc", "collector:port", "not a URL"),
        ("http/json", "collector:4318", "must begin with http"),
        ("http/json", "http://collector:4318/?key=s3cr3t", "neither query nor fragment"),
        ("grpc", "https://user:s3cr3t@collector:4317", "put them in the headers"),
        ("grpc", "user:s3cr3t@collector:4317", "put them in the headers"),
    ] {
        let error = refused(&[(OTEL_EXPORTER_OTLP_PROTOCOL, protocol), (OTEL_EXPORTER_OTLP_ENDPOINT, text)]);
        assert!(error.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT=\""), "{error}");
        assert!(error.contains(why) && !error.contains("s3cr3t"), "{error}");
    }
}

#[test]
fn likely_mistakes_are_warned_of() {
    let port = outcome(&[(OTEL_EXPORTER_OTLP_ENDPOINT, "http://collector:4318")]).said();
    assert!(
        port.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT=\"http://collector:4318\": 4318 is the usual port"),
        "{port}"
    );
    let plain = outcome(&[(OTEL_EXPORTER_OTLP_CERTIFICATE, "ca.pem")]).said();
    assert!(plain.contains("http means no TLS"), "{plain}");
    let batch = outcome(&[(OTEL_BLRP_MAX_QUEUE_SIZE, "100"), (OTEL_BLRP_MAX_EXPORT_BATCH_SIZE, "200")]);
    assert_eq!(
        batch.said(),
        r#"OTEL_BLRP_MAX_EXPORT_BATCH_SIZE="200": more than the queue's 100, which is taken instead"#
    );
    assert_eq!(batch.config.unwrap().batch.max_export_batch_size, 100);
    assert_eq!(resolved(&[(OTEL_BLRP_MAX_QUEUE_SIZE, "100")]).batch.max_export_batch_size, 100);
}

#[test]
fn headers_replace_the_general_ones_and_are_decoded() {
    let otlp = otlp_of(&[
        (OTEL_EXPORTER_OTLP_HEADERS, "dropped=1"),
        (OTEL_EXPORTER_OTLP_LOGS_HEADERS, "Authorization=Bearer%20t,x-tenant=blue"),
    ]);
    let headers: Vec<_> = otlp.headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(headers, [("authorization", "Bearer t"), ("x-tenant", "blue")]);
    let error = refused(&[(OTEL_EXPORTER_OTLP_HEADERS, "key-bin=s3cr3t")]);
    assert!(error.contains("key-bin") && !error.contains("s3cr3t"), "{error}");
}

#[test]
fn zero_means_no_bound_and_no_linger() {
    assert_eq!(otlp_of(&[(OTEL_EXPORTER_OTLP_TIMEOUT, "0")]).timeout, None);
    assert_eq!(otlp_of(&[(OTEL_EXPORTER_OTLP_TIMEOUT, "250")]).timeout, Some(Duration::from_millis(250)));
    assert_eq!(webhook_of(&[(AUDITWIRE_WEBHOOK_TIMEOUT, "0s")]).timeout, None);
    let batch = resolved(&[(OTEL_BLRP_SCHEDULE_DELAY, "0"), (OTEL_BLRP_EXPORT_TIMEOUT, "0")]).batch;
    assert_eq!((batch.schedule_delay, batch.export_timeout), (SHORTEST_SCHEDULE_DELAY, NO_LIMIT));
}

#[test]
fn mtls_needs_certificate_and_key() {
    let error = refused(&[HTTPS, (OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE, "chain.pem")]);
    assert!(error.starts_with("OTEL_EXPORTER_OTLP_CLIENT_KEY: missing") && error.contains("chain.pem"), "{error}");
    let error = refused(&[WEBHOOK, URL, (AUDITWIRE_WEBHOOK_CLIENT_KEY, "key.pem")]);
    assert!(error.starts_with("AUDITWIRE_WEBHOOK_CLIENT_CERTIFICATE: missing"), "{error}");
}

#[test]
fn exporters_are_a_list() {
    let config = resolved(&[(OTEL_LOGS_EXPORTER, "otlp, Console,webhook,file,"), URL, PATH]);
    let names: Vec<_> = config.destinations.iter().map(|destination| destination.name.as_str()).collect();
    assert_eq!(names, ["otlp", "stdout", "webhook", "file"]);

    let none = resolved(&[(OTEL_LOGS_EXPORTER, "none")]);
    assert_eq!((none.destinations, none.disabled.as_deref()), (vec![], Some("OTEL_LOGS_EXPORTER=none")));

    let some = outcome(&[(OTEL_LOGS_EXPORTER, "kafka,console")]);
    assert_eq!(some.config.as_ref().unwrap().destinations.len(), 1);
    assert!(some.said().starts_with("OTEL_LOGS_EXPORTER=\"kafka,console\": `kafka` is ignored"), "{}", some.said());

    for (text, why) in [
        ("kafka", "no destination is left"),
        (",", "no destination is left"),
        ("none,otlp", "`none` contradicts"),
        ("otlp,OTLP", "listed twice"),
        ("webhook", "the webhook has no URL"),
        ("file", "the file has no path"),
    ] {
        let error = refused(&[(OTEL_LOGS_EXPORTER, text)]);
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn a_disabled_sdk_reads_nothing_else_and_says_so() {
    let config = resolved(&[(OTEL_SDK_DISABLED, "true"), (OTEL_EXPORTER_OTLP_ENDPOINT, "::")]);
    assert_eq!((config.destinations, config.disabled.as_deref()), (vec![], Some("OTEL_SDK_DISABLED=true")));
    assert!(refused(&[(OTEL_SDK_DISABLED, "true"), (OTEL_CONFIG_FILE, "x")]).starts_with("OTEL_CONFIG_FILE=\"x\""));
}

#[test]
fn the_resource_holds_what_was_found_and_what_was_said() {
    let value = |config: &Config, name: &str| {
        let mut values = config.resource.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} occurs once");
        value
    };
    let found = resolved(&[]);
    assert!(value(&found, "service.name").unwrap().starts_with("unknown_service:auditwire"));
    let instance = value(&found, "service.instance.id").unwrap();
    assert!(uuid::Uuid::parse_str(&instance).is_ok());
    assert_eq!(value(&resolved(&[]), "service.instance.id"), Some(instance), "once per process");
    assert_eq!(value(&found, "host.name").as_deref(), event_hostname());
    assert_eq!(value(&found, "telemetry.sdk.name").as_deref(), Some("opentelemetry"));
    assert_eq!(value(&found, "telemetry.sdk.language").as_deref(), Some("rust"));
    assert!(value(&found, "telemetry.sdk.version").unwrap().starts_with("0."));
    assert_eq!(value(&found, "telemetry.distro.name").as_deref(), Some("auditwire"));
    assert_eq!(value(&found, "telemetry.distro.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));

    let attributes = (OTEL_RESOURCE_ATTRIBUTES, "service.name=a, host.name=h,team%2Cx=blue%3Dgreen ,host.name=i,");
    let said = resolved(&[attributes]);
    assert_eq!(value(&said, "service.name").as_deref(), Some("a"));
    assert_eq!(value(&said, "host.name").as_deref(), Some("i"), "the last of a name wins");
    assert_eq!(value(&said, "team,x").as_deref(), Some("blue=green"));
    let named = resolved(&[attributes, (OTEL_SERVICE_NAME, "gatekeeper")]);
    assert_eq!(value(&named, "service.name").as_deref(), Some("gatekeeper"));

    for text in ["a", "=b", "a=%", "a=%F", "a=%FF", "ok=1,b"] {
        let error = refused(&[(OTEL_RESOURCE_ATTRIBUTES, text)]);
        assert!(error.starts_with(&format!("OTEL_RESOURCE_ATTRIBUTES={text:?}: ")), "{error}");
    }
}

fn event_hostname() -> Option<&'static str> {
    crate::event::hostname()
}

#[test]
fn traceparents() {
    let mut warnings = Vec::new();
    let mut read = |text: &str| traceparent(&environment(&[(TRACEPARENT, text)]), &mut warnings).unwrap();
    let span = read("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
    assert_eq!(span.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes());
    assert_eq!((span.span_id, span.flags), (0x00f0_67aa_0ba9_02b7_u64.to_be_bytes(), 1));
    assert_eq!(read(""), None);
    let malformed = [
        "x",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
    ];
    for text in malformed {
        assert_eq!(read(text), None, "{text}");
    }
    assert_eq!(warnings.len(), malformed.len(), "{warnings:?}");
}

#[test]
fn ours_are_read() {
    let webhook = webhook_of(&[
        (AUDITWIRE_WEBHOOK_AUTHORIZATION, "Bearer t"),
        (AUDITWIRE_WEBHOOK_HEADERS, "X-Tenant=blue"),
        (AUDITWIRE_WEBHOOK_FORMAT, "Audit"),
        (AUDITWIRE_WEBHOOK_COMPRESSION, "gzip"),
        (AUDITWIRE_WEBHOOK_TIMEOUT, "2s"),
    ]);
    let headers: Vec<_> = webhook.headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(headers, [("x-tenant", "blue"), ("authorization", "Bearer t")]);
    assert_eq!((webhook.format, webhook.compression), (Format::Audit, Compression::Gzip));
    assert_eq!(webhook.timeout, Some(Duration::from_secs(2)));

    let config = resolved(&[
        FILE,
        PATH,
        (AUDITWIRE_FILE_SYNC, "never"),
        (AUDITWIRE_ON_FULL, "drop"),
        (AUDITWIRE_OCSF_VERSION, "1.5.0"),
        (AUDITWIRE_MAX_EVENT_BYTES, "64KiB"),
        (AUDITWIRE_SHUTDOWN_TIMEOUT, "500ms"),
    ]);
    let DestinationKind::File(file) = &config.destinations[0].kind else { panic!() };
    assert_eq!((file.path.as_path(), file.sync), ("out.jsonl".as_ref(), Sync::Never));
    assert_eq!((config.on_full, config.mapping.version), (OnFull::Drop, ocsf::Version::V1_5_0));
    assert_eq!((config.max_event_bytes, config.shutdown_timeout), (65_536, Duration::from_millis(500)));
    assert_eq!(otlp_of(&[(AUDITWIRE_OTLP_BODY, "message")]).body, Body::Message);
}

#[test]
fn the_default_dead_letter_file_lies_in_the_state_folder() {
    for (variables, expected) in [
        (&[][..], "auditwire-dead-letters.jsonl"),
        (&[(HOME, "/home/a")], "/home/a/.local/state/auditwire/dead-letters.jsonl"),
        (&[(HOME, "/home/a"), (XDG_STATE_HOME, "/s")], "/s/auditwire/dead-letters.jsonl"),
        (&[(HOME, "/home/a"), (XDG_STATE_HOME, "s")], "/home/a/.local/state/auditwire/dead-letters.jsonl"),
        (&[(HOME, "/home/a"), (AUDITWIRE_DEAD_LETTER_PATH, "d.jsonl")], "d.jsonl"),
    ] {
        assert_eq!(resolved(variables).dead_letter_path.to_str(), Some(expected));
    }
}

#[test]
fn typing_errors_are_caught() {
    let unknown = |name: &'static str| refused(&[(name, "s3cr3t")]);
    for (name, nearest) in [
        ("AUDITWIRE_WEBHOOK_AUTHORISATION", AUDITWIRE_WEBHOOK_AUTHORIZATION),
        ("AUDITWIRE_FILE", AUDITWIRE_FILE_PATH),
        ("AUDITWIRE_ONFULL", AUDITWIRE_ON_FULL),
    ] {
        assert_eq!(unknown(name), format!("{name}: no such variable; is {nearest} meant?"));
    }
    resolved(&[("AUDITWIRE_UNKNOWN", ""), ("AUDITWIREX", "1"), ("OTEL_UNKNOWN", "1")]);
}

#[test]
fn targets_take_the_rest_from_the_variables_of_their_kind() {
    let environment = environment(&[
        (OTEL_EXPORTER_OTLP_PROTOCOL, "http/protobuf"),
        (OTEL_EXPORTER_OTLP_HEADERS, "api-key=k"),
        URL,
        (AUDITWIRE_WEBHOOK_AUTHORIZATION, "Bearer t"),
        (AUDITWIRE_FILE_FORMAT, "audit"),
    ]);
    let mut warnings = Vec::new();
    let specs = [
        "otlp=http://c:4318",
        "otlp=http://c:4318/x",
        "otlp",
        "webhook=http://w/?a=b",
        "webhook",
        "file=a=b.jsonl",
        "stdout",
    ];
    let list = targets(&environment, specs, &mut warnings).unwrap();
    let names: Vec<_> = list.iter().map(|destination| destination.name.as_str()).collect();
    assert_eq!(names, ["otlp", "otlp-2", "otlp-3", "webhook", "webhook-2", "file", "stdout"]);
    let places: Vec<_> = list
        .iter()
        .map(|destination| match &destination.kind {
            DestinationKind::Otlp(otlp) => {
                assert_eq!((otlp.protocol, otlp.headers.len()), (Protocol::HttpProtobuf, 1));
                otlp.endpoint.as_str()
            }
            DestinationKind::Webhook(webhook) => {
                assert_eq!(webhook.headers.len(), 1);
                webhook.url.as_str()
            }
            DestinationKind::File(file) => {
                assert_eq!(file.format, Format::Audit);
                file.path.to_str().unwrap()
            }
            DestinationKind::Stdout { .. } => "-",
        })
        .collect();
    assert_eq!(
        places,
        [
            "http://c:4318/v1/logs",
            "http://c:4318/x",
            "http://localhost:4318/v1/logs",
            "http://w/?a=b",
            "https://siem.example.net/in",
            "a=b.jsonl",
            "-"
        ]
    );
    assert_eq!(target(&environment, "stdout", &mut warnings).unwrap().name, "stdout");
    assert_eq!(warnings, [""; 0]);
}

#[test]
fn unusable_targets_are_named() {
    for (spec, expected) in [
        ("kafka=x", r#"--to="kafka=x": not a destination; known are otlp, otlp=URL"#),
        ("wehbook=https://u:s3cr3t@h", r#"--to="wehbook=https://REDACTED@h": not a destination"#),
        ("stdout=x", r#"--to="stdout=x": not a destination"#),
        ("console", r#"--to="console": not a destination"#),
        ("file=", r#"--to="file=": nothing follows"#),
        ("otlp=ftp://h", r#"--to otlp="ftp://h": the URL must begin"#),
        ("webhook=nowhere?key=s3cr3t", r#"--to webhook="nowhere?key=REDACTED": not a URL"#),
        ("webhook", "AUDITWIRE_WEBHOOK_URL: missing"),
        ("file", "AUDITWIRE_FILE_PATH: missing"),
    ] {
        let error = target(&environment(&[]), spec, &mut Vec::new()).unwrap_err().to_string();
        assert!(error.starts_with(expected) && !error.contains("s3cr3t"), "{error}");
    }
}

#[test]
fn settings_name_no_destination() {
    let mut warnings = Vec::new();
    let environment = environment(&[(OTEL_LOGS_EXPORTER, "none"), (AUDITWIRE_ON_FULL, "refuse")]);
    let settings = settings(&environment, &mut warnings).unwrap();
    assert_eq!((settings.destinations, settings.disabled, settings.on_full), (vec![], None, OnFull::Refuse));
}

#[test]
fn defect_9_secrets_show_neither_in_debug_nor_in_errors_nor_in_warnings() {
    let good = [
        (OTEL_LOGS_EXPORTER, "otlp,webhook"),
        (OTEL_EXPORTER_OTLP_HEADERS, "api-key=s3cr3t"),
        (AUDITWIRE_WEBHOOK_URL, "https://siem.example.net/in?token=s3cr3t"),
        (AUDITWIRE_WEBHOOK_AUTHORIZATION, "Bearer s3cr3t"),
        (AUDITWIRE_WEBHOOK_HEADERS, "X-Key=s3cr3t"),
    ];
    let environment = environment(&good);
    let config = resolved(&good);
    let shown = format!("{environment:?} {config:?} {config:#?}");
    assert!(shown.contains("siem.example.net") && shown.contains("api-key"), "{shown}");
    assert!(!shown.contains("s3cr3t"), "{shown}");

    for bad in [
        (OTEL_EXPORTER_OTLP_HEADERS, "s3cr3t"),
        (OTEL_EXPORTER_OTLP_ENDPOINT, "ftp://u:s3cr3t@h"),
        (AUDITWIRE_WEBHOOK_URL, "u:s3cr3t@h"),
        (AUDITWIRE_WEBHOOK_URL, "https://u:s3cr3t@h"),
        (AUDITWIRE_WEBHOOK_AUTHORIZATION, "s3cr3t\n"),
        (AUDITWIRE_WEBHOOK_HEADERS, "authorization=s3cr3t"),
        ("AUDITWIRE_WEBHOOK_TOKEN", "s3cr3t"),
    ] {
        let error = refused(&good.iter().copied().chain([bad]).collect::<Vec<_>>());
        assert!(!error.contains("s3cr3t"), "{error}");
    }
}
