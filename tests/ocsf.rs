//! The mapping held against its promises: any event gives valid OCSF, and any OCSF of ours gives the event back.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use auditwire::event::AuditEvent;
use auditwire::ocsf::{Finding, Mapping, Span, Version, Versions, decode, encode, validate, validate_versions};
use auditwire::record::OtlpJson;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const SPAN: Span = Span { trace_id: [0x0a; 16], span_id: [0x0b; 8], flags: 1 };
const COMPATIBILITY: &str = include_str!("data/compat/events.jsonl");

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ocsf")
}

fn to_ocsf(event: &AuditEvent, mapping: &Mapping, span: Option<&Span>) -> String {
    let mut out = Vec::new();
    encode(event, mapping, span, &mut out);
    String::from_utf8(out).unwrap()
}

fn check_valid(ocsf: &str, versions: Versions) {
    let report = validate_versions(ocsf, versions);
    assert!(report.is_valid(), "{:#?}\n{ocsf}", report.errors);
    // Nothing that the schema calls deprecated is written, nor anything that it does not know, but for the agent in 1.9.
    let places = ["metadata.profiles", "ai_agent", "ai_model", "message_context"];
    let later = |finding: &Finding| versions == Versions::Known && places.contains(&finding.path.as_str());
    assert!(report.warnings.iter().all(later), "{:#?}\n{ocsf}", report.warnings);
}

fn check_reversible(document: &Value, event: &AuditEvent, ocsf: &str) {
    let back = decode(ocsf).unwrap_or_else(|error| panic!("{error}\n{ocsf}"));
    assert_eq!(back, *event, "{ocsf}");
    // Equality of values has 0.0 equal to -0.0; their texts differ.
    assert_eq!(serde_json::to_value(&back).unwrap().to_string(), document.to_string(), "{ocsf}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_event_becomes_valid_ocsf_and_comes_back(document in support::events::document(), with_span in any::<bool>()) {
        let event: AuditEvent = serde_json::from_value(document.clone()).unwrap();
        let span = with_span.then_some(&SPAN);
        for version in Version::ALL {
            let mapping = Mapping { version };
            let ocsf = to_ocsf(&event, &mapping, span);
            assert!(ocsf.starts_with(r#"{"time":"#) && ocsf.lines().count() == 1, "{ocsf}");
            assert_eq!(ocsf, to_ocsf(&event.clone(), &mapping, span), "the same event gives the same bytes");
            check_valid(&ocsf, if version == Version::V1_8_0 { Versions::Schema } else { Versions::Known });
            check_reversible(&document, &event, &ocsf);
        }
    }
}

#[test]
fn compatibility_events_are_valid_and_come_back() {
    for line in COMPATIBILITY.lines() {
        let event: AuditEvent = serde_json::from_str(line).unwrap();
        let ocsf = to_ocsf(&event, &Mapping::default(), Some(&SPAN));
        check_valid(&ocsf, Versions::Schema);
        check_reversible(&serde_json::from_str(line).unwrap(), &event, &ocsf);
    }
}

#[test]
fn the_validator_finds_each_fault_and_no_other() {
    let cases: BTreeMap<String, Value> =
        serde_json::from_str(&std::fs::read_to_string(data().join("cases.json")).unwrap()).unwrap();
    assert_eq!(cases.len(), 30);
    for (name, event) in cases {
        let report = validate_versions(&event.to_string(), Versions::Schema);
        assert_eq!(report.is_valid(), name.starts_with("00_"), "{name}: {report:?}");
    }
}

#[test]
fn duplicate_keys_and_other_texts_are_not_events() {
    let kind = |text: &str| validate(text).errors.first().map(|finding| (finding.kind, finding.message.clone()));
    let (bad, message) = kind(r#"{"class_uid":0,"metadata":{"uid":1,"uid":1}}"#).unwrap();
    assert_eq!(bad, "bad_json");
    assert!(message.starts_with(r#"duplicate key "uid""#), "{message}");
    for (text, expected) in
        [("", "bad_json"), ("{", "bad_json"), ("[]", "not_object"), ("{} {}", "bad_json"), ("{\"a\":NaN}", "bad_json")]
    {
        assert_eq!(kind(text).unwrap().0, expected, "{text}");
    }
    assert_eq!(kind(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))).unwrap().0, "bad_json");
}

/// Changes one thing of an event, somewhere.
fn spoil(node: &mut Value, leave_alone: &[&str], random: &mut fastrand::Rng) {
    let go_on = random.u8(..) < 170;
    match node {
        Value::Object(members) if !members.is_empty() => {
            let name = members.keys().nth(random.usize(..members.len())).unwrap().clone();
            let inner = members[&name].is_object() || members[&name].is_array();
            let go_on = go_on && inner && !leave_alone.contains(&name.as_str());
            if go_on { spoil(&mut members[&name], leave_alone, random) } else { spoil_member(members, &name, random) }
        }
        Value::Array(items) if !items.is_empty() => {
            let place = random.usize(..items.len());
            if go_on { spoil(&mut items[place], leave_alone, random) } else { items[place] = something(random) }
        }
        other => *other = something(random),
    }
}

fn spoil_member(members: &mut Map<String, Value>, name: &str, random: &mut fastrand::Rng) {
    match random.u8(..6) {
        0 => {
            members.remove(name);
        }
        1 => {
            members.insert(name.to_owned(), Value::Null);
        }
        2 => {
            let strays = [
                "foo",
                "policy",
                "uid",
                "ip",
                "app_name",
                "invoked_by",
                "proxy",
                "tid",
                "trace",
                "cloud",
                "type_id",
                "is_mfa",
            ];
            members.insert(random.choice(strays).unwrap().to_owned(), something(random));
        }
        3 if members[name].is_i64() => {
            let number = members[name].as_i64().unwrap();
            members.insert(name.to_owned(), json!(number + random.i64(-2..3)));
        }
        _ => {
            members.insert(name.to_owned(), something(random));
        }
    }
}

fn something(random: &mut fastrand::Rng) -> Value {
    let things = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(99),
        json!(-1),
        json!(1.0),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("Other"),
        json!("Unknown"),
        json!("1"),
        json!("10.0.0.1"),
        json!("a@b.c"),
        json!("x@y"),
        json!([]),
        json!({}),
        json!(["host"]),
        json!([1, "1", null]),
        json!({"name": "x"}),
        json!({"uid": 1}),
        json!("fe80::1%eth0"),
        json!("10.0.0.1\n"),
        json!([{"name": "actor.user.uid", "type_id": 31, "value": "u"}]),
        json!([{"name": "resources[0].uid", "type_id": 1}]),
        json!([{"name": "unmapped", "type_id": 0}, {"name": "actor", "type_id": 1}, {"name": "time[x]", "type_id": 1}]),
        json!(["security_control", "security_control"]),
        json!(["load_balancer", "nonsense", "cloud"]),
    ];
    random.choice(things).unwrap()
}

#[test]
fn a_spoiled_event_is_refused_or_read_and_never_worse() {
    let mut random = fastrand::Rng::with_seed(5);
    let (mut read, mut refused) = (0, 0);
    for document in support::events::documents(5, 2000) {
        let event: AuditEvent = serde_json::from_value(document).unwrap();
        let mut ocsf: Value = serde_json::from_str(&to_ocsf(&event, &Mapping::default(), Some(&SPAN))).unwrap();
        for _ in 0..random.u8(1..4) {
            spoil(&mut ocsf, &[], &mut random);
        }
        match decode(&ocsf.to_string()) {
            // Whatever it is now, it is an event like any other.
            Ok(event) => {
                let ocsf = to_ocsf(&event, &Mapping::default(), None);
                check_valid(&ocsf, Versions::Schema);
                check_reversible(&serde_json::to_value(&event).unwrap(), &event, &ocsf);
                read += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
    }
    assert!(read > 300 && refused > 300, "both are tried: {read} were read, {refused} refused");
}

type Verdict = Vec<(String, String)>;

fn verdict(findings: &[Finding]) -> Verdict {
    let mut verdict: Verdict = findings.iter().map(|finding| (finding.kind.to_owned(), finding.path.clone())).collect();
    verdict.sort();
    verdict
}

fn python_verdict(report: &Value, list: &str, kind: &str) -> Verdict {
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let findings = report[list].as_array().unwrap();
    let mut verdict: Verdict = findings.iter().map(|finding| (text(finding, kind), text(finding, "path"))).collect();
    verdict.sort();
    verdict
}

fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("python3 is absent: our validator was not held against ocsf_validate.py");
    }
    found
}

fn schema() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ocsf/ocsf-1.8.0-subset.json")
}

/// Holds our validator against the other one, and says how many of the events are valid.
fn check_python_agrees(events: &[Value]) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.json");
    std::fs::write(&file, serde_json::to_string(&events).unwrap()).unwrap();
    let script = data().join("ocsf_validate.py");
    let output =
        Command::new("python3").arg(script).args(["--json", "--schema"]).args([&schema(), &file]).output().unwrap();
    let reports: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(reports.len(), events.len(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut valid = 0;
    for (event, python) in events.iter().zip(&reports) {
        let ours = validate_versions(&event.to_string(), Versions::Schema);
        valid += usize::from(ours.is_valid());
        assert_eq!(verdict(&ours.errors), python_verdict(python, "errors", "error"), "{event}");
        assert_eq!(verdict(&ours.warnings), python_verdict(python, "warnings", "warning"), "{event}");
    }
    valid
}

#[test]
fn the_python_validator_agrees_on_events_of_ours() {
    if !has_python() {
        return;
    }
    let mut random = fastrand::Rng::with_seed(4);
    let mut events = Vec::new();
    for (at, document) in support::events::documents(4, 1200).enumerate() {
        let event: AuditEvent = serde_json::from_value(document).unwrap();
        let mut ocsf: Value = serde_json::from_str(&to_ocsf(&event, &Mapping::default(), None)).unwrap();
        // Every third as it is.
        for _ in 0..at % 3 {
            // What lies in these two is anybody's.
            spoil(&mut ocsf, &["unmapped", "data"], &mut random);
        }
        events.push(ocsf);
    }
    let valid = check_python_agrees(&events);
    assert!((400..1000).contains(&valid), "both kinds of verdict are compared: {valid} are valid");
}

#[test]
fn the_python_validator_agrees_on_events_of_others() {
    if !has_python() {
        return;
    }
    let script = data().join("foreign_events.py");
    let output = Command::new("python3").arg(script).arg(schema()).args(["7", "1000"]).output().unwrap();
    let events: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(events.len(), 1000);
    check_python_agrees(&events);
}

fn event(fields: Value) -> AuditEvent {
    let mut event = json!({
        "time": "2026-11-02T08:14:07.120394+00:00", "type_name": "sandbox_operation", "uid": "0c8f7c7e-3f3e-4c36-9b4c-9d6b0a0f0001",
        "action": "create", "outcome": "permit", "actor": {"user_id": "u-1001", "ip_address": "198.51.100.24"},
        "metadata": {"product_name": "agentkernel", "vendor_name": "agentkernel", "product_version": "0.18.1", "hostname": "vm-3"},
    });
    event.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    serde_json::from_value(event).unwrap()
}

/// A row of the class table: a name for its file, the class and activity it must become, and the event.
fn rows() -> Vec<(&'static str, u32, u32, AuditEvent)> {
    let decision = |outcome: &str| {
        event(json!({
            "type_name": "policy_decision", "action": "Run", "outcome": outcome, "severity_id": 3,
            "resource": {"resource_type": "sandbox", "resource_id": "build-42", "attributes": {"image": "rust:1.95"}},
            "policy": {"policy_id": "p-1", "policy_name": "Run policy", "policy_version": 12},
        }))
    };
    let sandbox = |action: &str, outcome: &str| {
        let resource = json!({"resource_type": "sandbox", "resource_id": "build-42", "attributes": {}});
        event(json!({"action": action, "outcome": outcome, "resource": resource}))
    };
    let on = |action: &str, kind: &str, id: &str, attributes: Value| {
        let resource = json!({"resource_type": kind, "resource_id": id, "attributes": attributes});
        event(json!({"action": action, "outcome": "deny", "resource": resource}))
    };
    let auth =
        |action: &str, outcome: &str| event(json!({"type_name": "auth_event", "action": action, "outcome": outcome}));
    let file = |action: &str| on(action, "file", "/workspace/src/main.rs", json!({}));
    vec![
        ("decision_permit", 6003, 1, decision("permit")),
        ("decision_deny", 6003, 1, decision("deny")),
        ("decision_error", 6003, 1, decision("error")),
        ("decision_info", 6003, 1, decision("info")),
        ("decision_other_verb", 6003, 99, event(json!({"type_name": "policy_decision", "action": "Evaluate"}))),
        ("sandbox_create", 6003, 1, sandbox("create", "permit")),
        ("sandbox_list", 6003, 2, sandbox("list", "permit")),
        ("sandbox_start", 6003, 3, sandbox("start", "deny")),
        ("sandbox_stop", 6003, 3, sandbox("stop", "error")),
        ("sandbox_delete", 6003, 4, sandbox("delete", "info")),
        ("sandbox_exec", 6003, 99, sandbox("exec", "permit")),
        ("process_launch", 1007, 1, on("exec", "sandbox", "build-42", json!({"pid": 4311, "argv": ["id"]}))),
        ("file_create", 1001, 1, file("create")),
        ("file_read", 1001, 2, file("read")),
        ("file_write", 1001, 3, file("write")),
        ("file_delete", 1001, 4, file("delete")),
        ("file_rename", 1001, 5, file("rename")),
        ("file_chmod", 1001, 7, file("chmod")),
        ("file_stat", 1001, 8, file("stat")),
        ("file_open", 1001, 14, file("open")),
        ("file_other_verb", 6003, 99, file("fsync")),
        ("folder_create", 1001, 1, on("create", "file", "/workspace/src/", json!({}))),
        ("network_connect", 4001, 1, on("connect", "network", "pypi.example.com:443", json!({}))),
        ("network_close", 4001, 2, on("close", "network", "203.0.113.9:443", json!({"protocol": "tcp"}))),
        ("network_listen", 4001, 7, on("listen", "network", "[2001:db8::1]:80", json!({}))),
        ("network_not_parsable", 6003, 99, on("connect", "network", "https://x/", json!({}))),
        ("auth_login", 3002, 1, auth("login", "permit")),
        ("auth_login_denied", 3002, 1, auth("login", "deny")),
        ("auth_login_error", 3002, 1, auth("authenticate", "error")),
        ("auth_logout", 3002, 2, auth("logout", "info")),
        ("auth_token", 3002, 99, auth("token_refresh", "permit")),
        ("auth_mfa", 3002, 99, auth("mfa", "deny")),
        ("other_with_actor", 6003, 99, event(json!({"type_name": "license_check", "action": "verify"}))),
        ("other_without", 0, 99, event(json!({"type_name": "license_check", "action": "verify", "actor": null}))),
        ("other_without_action", 0, 0, event(json!({"type_name": "license_check", "action": ""}))),
        ("minimal", 6003, 2, serde_json::from_str(COMPATIBILITY.lines().last().unwrap()).unwrap()),
        (
            "explicit_class",
            3002,
            1,
            event(json!({"class_uid": 3002, "category_uid": 3, "type_name": "x", "action": "login"})),
        ),
        ("explicit_class_unfit", 6003, 1, event(json!({"class_uid": 1007, "category_uid": 1}))),
        ("explicit_class_foreign", 6003, 1, event(json!({"class_uid": 2004, "category_uid": 2}))),
        ("severity_outside", 6003, 1, event(json!({"severity_id": 42}))),
        ("alert", 6003, 1, event(json!({"severity_id": 5}))),
        ("time_unusable", 6003, 1, event(json!({"time": "yesterday"}))),
        (
            "email_and_address_unfit",
            3002,
            1,
            event(json!({
                "type_name": "auth_event", "action": "login",
                "actor": {"user_id": null, "email": "alice@localhost", "org_id": "org-1", "ip_address": "2001:DB8::1"},
            })),
        ),
        (
            "trace",
            6003,
            1,
            event(json!({
                "trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331", "trace_flags": 1,
            })),
        ),
        (
            "agent",
            6003,
            99,
            on(
                "exec",
                "sandbox",
                "build-42",
                json!({
                    "gen_ai.request.model": "m-1", "gen_ai.provider.name": "example", "gen_ai.agent.id": "agent-7",
                    "gen_ai.agent.name": "builder", "gen_ai.conversation.id": "c-1", "gen_ai.tool.name": "shell",
                    "gen_ai.usage.input_tokens": 12, "session.id": "s-1",
                }),
            ),
        ),
    ]
}

#[test]
fn each_row_of_the_class_table_has_its_golden_file() {
    let folder = data().join("golden");
    let refresh = std::env::var_os("TEST_REFRESH").is_some_and(|value| value == "1");
    let mut differing = String::new();
    for (name, class_uid, activity_id, event) in rows() {
        let mut texts = vec![(format!("{name}.json"), Version::V1_8_0)];
        if name == "agent" {
            texts.push((format!("{name}-1.9.json"), Version::V1_9_0));
        }
        for (file, version) in texts {
            let ocsf = to_ocsf(&event, &Mapping { version }, None);
            check_valid(&ocsf, if version == Version::V1_8_0 { Versions::Schema } else { Versions::Known });
            check_reversible(&serde_json::to_value(&event).unwrap(), &event, &ocsf);
            let value: Value = serde_json::from_str(&ocsf).unwrap();
            assert_eq!(
                (&value["class_uid"], &value["activity_id"]),
                (&json!(class_uid), &json!(activity_id)),
                "{name}"
            );
            // The line as it is sent, so that the order of keys is held too.
            let text = ocsf + "\n";
            let path = folder.join(&file);
            if refresh {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, &text).unwrap();
            } else if std::fs::read_to_string(&path).ok().as_deref() != Some(&text) {
                writeln!(differing, "{file}: now {text}").unwrap();
            }
        }
    }
    assert!(differing.is_empty(), "TEST_REFRESH=1 cargo test --test ocsf writes these anew:\n{differing}");
}

/// How many events the long version takes.
fn many() -> usize {
    if std::env::var_os("TEST_LONG").is_some() { 20_000 } else { 2_000 }
}

/// The whole way through the program: any events in, valid OCSF out by both validators, and the same events back.
#[test]
fn generated_events_go_through_the_program_and_come_back() {
    let place = support::Workplace::new();
    let path = place.path("events.jsonl");
    let mut input = BufWriter::new(File::create(&path).unwrap());
    for document in support::events::documents(6, many()) {
        writeln!(input, "{document}").unwrap();
    }
    drop(input);

    let run = |arguments: &[&str], out: &str| {
        let mut command = place.auditwire(arguments);
        command.stdout(File::create(place.path(out)).unwrap()).stderr(File::create(place.path("said")).unwrap());
        let status = command.status().unwrap();
        assert!(status.success(), "{arguments:?}: {}", place.read("said"));
        place.read("said")
    };
    run(&["send", "events.jsonl", "--to", "stdout"], "ocsf.jsonl");
    let said = run(&["validate", "ocsf.jsonl"], "verdicts");
    assert_eq!(said, format!("{} valid, 0 invalid\n", many()));
    run(&["convert", "--from", "ocsf", "--to", "audit", "ocsf.jsonl"], "back.jsonl");

    let sorted = |name: &str| {
        let lines = BufReader::new(File::open(place.path(name)).unwrap()).lines();
        lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap().to_string())
    };
    let mut back = sorted("back.jsonl");
    for (at, line) in sorted("events.jsonl").enumerate() {
        assert_eq!(back.next().as_ref(), Some(&line), "event {at}");
    }
    assert_eq!(back.next(), None);

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ocsf/ocsf_validate.py");
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ocsf/ocsf-1.8.0-subset.json");
    let ocsf = place.path("ocsf.jsonl");
    match Command::new("python3").args([script, "--schema", schema, "--quiet"]).arg(ocsf).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(said.trim(), format!("{} passed, 0 failed", many()));
        }
        Err(error) => eprintln!("skipped: ocsf_validate.py needs python3: {error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever an event says, the record's attributes are of the closed list, few, and its body is there.
    #[test]
    fn no_event_chooses_an_attribute_key(document in support::events::document()) {
        let event: AuditEvent = serde_json::from_value(document).unwrap();
        let line = OtlpJson::new(&[]).line(&event, &Mapping::default());
        let data: Value = serde_json::from_slice(&line).unwrap();
        let record = &data["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
        let keys: Vec<&str> =
            record["attributes"].as_array().unwrap().iter().map(|pair| pair["key"].as_str().unwrap()).collect();
        prop_assert!(keys.len() <= auditwire::record::MAX_ATTRIBUTES);
        let expected = support::expected::PROMOTED;
        for (at, key) in keys.iter().enumerate() {
            let known = *key == auditwire::record::UID || key.strip_prefix("ocsf.").is_some_and(|path| expected.contains(&path));
            prop_assert!(known, "{key} is not of the closed list");
            prop_assert!(!keys[..at].contains(key), "{key} is there twice");
        }
        prop_assert!(!record["body"]["kvlistValue"]["values"].as_array().unwrap().is_empty());
    }
}

#[test]
fn defect_11_a_policy_decision_is_api_activity_and_not_account_change() {
    let event = auditwire::new_audit_event("policy_decision", "Run", auditwire::EventOutcome::Deny);
    assert_eq!((event.class_uid, event.category_uid), (3001, 3), "the old module's mislabelled default");
    let ocsf: Value = serde_json::from_str(&to_ocsf(&event, &Mapping::default(), None)).unwrap();
    assert_eq!((&ocsf["class_uid"], &ocsf["category_uid"]), (&6003.into(), &6.into()));
}
