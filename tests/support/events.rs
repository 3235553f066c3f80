//! Audit events for tests: adversarial and realistic ones, from a seed.

use auditwire::AuditEvent;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Map, Value, json};

/// So many events as a user would have them, each another: those of the compatibility page again and again, a millisecond apart
/// until now, of every severity, one in three with a trace context.
pub(crate) fn samples(count: usize) -> Vec<AuditEvent> {
    let samples: Vec<AuditEvent> =
        include_str!("../data/compat/events.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let now = chrono::Utc::now();
    let event = |n: usize| {
        let mut event = samples[n % samples.len()].clone();
        event.uid = format!("0c8f7c7e-3f3e-4c36-9b4c-{n:012x}");
        event.severity_id = [0, 1, 2, 3, 4, 5, 6, 99][n / samples.len() % 8];
        if n.is_multiple_of(3) {
            event = event.with_extra("trace_id", format!("0af7651916cd43dd{n:016x}"));
            event = event.with_extra("span_id", format!("b7ad6b71{:08x}", n + 1)).with_extra("trace_flags", n % 2);
        }
        event.with_time(now - chrono::Duration::milliseconds((count - n) as i64))
    };
    (0..count).map(event).collect()
}

/// [`samples`], with every tenth replaced by one that a parser may stumble over.
pub(crate) fn mixed(count: usize) -> Vec<AuditEvent> {
    let mut events = samples(count);
    for (event, document) in events.iter_mut().step_by(10).zip(documents(7, count.div_ceil(10))) {
        let uid = std::mem::take(&mut event.uid);
        *event = AuditEvent { uid, ..serde_json::from_value(document).unwrap() };
    }
    events
}

// Strategies are boxed because, nested by value, they overflow the stack of a test thread.

/// As many JSON texts of audit events as asked for; the same seed gives the same events.
#[allow(dead_code, reason = "not every test binary needs it")]
pub(crate) fn documents(seed: u64, count: usize) -> impl Iterator<Item = Value> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = document();
    (0..count).map(move |_| strategy.new_tree(&mut runner).unwrap().current())
}

/// Any JSON object that parses as an audit event.
pub(crate) fn document() -> impl Strategy<Value = Value> {
    let head = (time(), type_name(), text(), action(), select(vec!["permit", "deny", "error", "info"]));
    let numbers = (field(class_uid()), field(select(vec![0_u32, 3, 6, u32::MAX])), field(severity_id()));
    let objects = (nullable(actor()), nullable(resource()), nullable(policy()), field(metadata()));
    (head, numbers, objects, extra()).prop_map(|(head, numbers, objects, extra)| {
        let mut event = extra;
        for (name, value) in [("time", head.0), ("type_name", head.1), ("uid", head.2), ("action", head.3)] {
            event.insert(name.into(), value.into());
        }
        event.insert("outcome".into(), head.4.into());
        put(&mut event, "class_uid", numbers.0.map(Value::from));
        put(&mut event, "category_uid", numbers.1.map(Value::from));
        put(&mut event, "severity_id", numbers.2.map(Value::from));
        put(&mut event, "actor", objects.0);
        put(&mut event, "resource", objects.1);
        put(&mut event, "policy", objects.2);
        put(&mut event, "metadata", objects.3.map(Value::from));
        Value::Object(event)
    })
}

fn put(object: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        object.insert(name.into(), value);
    }
}

/// Missing or there.
fn field<T: std::fmt::Debug + Clone>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    proptest::option::weighted(0.7, value)
}

/// Missing, null or there.
fn nullable<T: Into<Value> + std::fmt::Debug + Clone>(
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<Value>> {
    field(proptest::option::weighted(0.8, value).prop_map(|value| value.map_or(Value::Null, Into::into)))
}

fn class_uid() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => Just(3001_u32),
        4 => select(vec![0, 1001, 1007, 3002, 4001, 6003]),
        1 => select(vec![1, 2004, 3003, 6002, u32::MAX]),
        1 => any::<u32>(),
    ]
}

fn severity_id() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..=6_u32, 1 => select(vec![7, 98, 99, 100, u32::MAX])]
}

fn type_name() -> impl Strategy<Value = String> {
    prop_oneof![
        9 => select(vec!["policy_decision", "sandbox_operation", "auth_event", "license_check"]).prop_map(String::from),
        1 => text(),
    ]
}

fn action() -> impl Strategy<Value = String> {
    let known = vec![
        "Run",
        "create",
        "delete",
        "exec",
        "login",
        "Logout",
        "token_refresh",
        "connect",
        "open",
        "close",
        "listen",
        "read",
        "WRITE",
        "chmod",
        "rename",
        "stat",
        "mount",
        "terminate",
        "kill",
        "s3:GetObject",
        "GET",
        "",
    ];
    prop_oneof![8 => select(known).prop_map(String::from), 1 => text()]
}

/// Texts that somebody's parser has stumbled over.
fn text() -> BoxedStrategy<String> {
    let odd = vec![
        "",
        " ",
        "\0",
        "\n",
        "\r\n",
        "\u{2028}\u{202e}",
        "\"\\\u{7f}",
        "büild-🔒",
        "\u{10ffff}",
        "null",
        "99",
        "Unknown",
        "Other",
        "{\"time\":1}",
        "a.b[0].c",
        "unmapped",
        "Ünïcode",
    ];
    prop_oneof![
        4 => "[a-z0-9-]{1,12}",
        3 => select(odd).prop_map(String::from),
        2 => any::<String>(),
        1 => (1..4000_usize).prop_map(|length| "x\u{1}é".repeat(length)),
    ]
    .boxed()
}

fn time() -> BoxedStrategy<String> {
    let odd = vec![
        "2016-12-31T23:59:60Z",
        "2026-11-02T08:14:07.123456789012+05:45",
        "2026-11-02t08:14:07z",
        "2026-11-02 08:14:07-00:00",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:60Z",
        "9999-12-31T23:59:59-23:59",
        "1969-12-31T23:59:59Z",
        "now",
        "1793607247",
        "2026-11-02T08:14:07+23:59",
        "2026-02-30T00:00:00Z",
    ];
    prop_oneof![
        4 => (0..253_402_300_800_i64, 0..1_000_000_000_u32)
            .prop_map(|(seconds, nanos)| chrono::DateTime::from_timestamp(seconds, nanos).unwrap().to_rfc3339()),
        3 => select(odd).prop_map(String::from),
        1 => text(),
    ]
    .boxed()
}

fn actor() -> BoxedStrategy<Map<String, Value>> {
    let email = prop_oneof![
        select(vec!["mira@example.org", "alice@localhost", "a@b@c.d", "ü@example.org", "a@x.y\n", "@"])
            .prop_map(String::from),
        text()
    ];
    let address = prop_oneof![
        select(vec![
            "192.0.2.55",
            "2001:db8::17",
            "2001:DB8::17",
            "::ffff:10.0.0.1",
            " 10.0.0.1",
            "fe80::1%eth0",
            "999.1.1.1",
            "010.0.0.1",
            "1:2:3:4:5:6:7:8",
            "host",
            "::"
        ])
        .prop_map(String::from),
        text()
    ];
    let fields = (nullable(text()), nullable(email), nullable(text()), nullable(address), extra());
    fields
        .prop_map(|(user_id, email, org_id, ip_address, extra)| {
            let mut actor = extra;
            put(&mut actor, "user_id", user_id);
            put(&mut actor, "email", email);
            put(&mut actor, "org_id", org_id);
            put(&mut actor, "ip_address", ip_address);
            actor
        })
        .boxed()
}

fn resource() -> BoxedStrategy<Map<String, Value>> {
    let kind = prop_oneof![
        9 => select(vec!["sandbox", "file", "network", "File", "NETWORK", "directory", ""]).prop_map(String::from),
        1 => text(),
    ];
    let id = prop_oneof![
        select(vec![
            "build-42",
            "/workspace/src/main.rs",
            "/",
            "//",
            "dir/",
            "203.0.113.9:443",
            "pypi.example.com:443",
            "[2001:db8::1]:80",
            "2001:DB8::1",
            "h:0443",
            "h:65536",
            "https://x/"
        ])
        .prop_map(String::from),
        text()
    ];
    (kind, nullable(id), field(attributes()), extra())
        .prop_map(|(kind, id, attributes, extra)| {
            let mut resource = extra;
            resource.insert("resource_type".into(), kind.into());
            put(&mut resource, "resource_id", id);
            put(&mut resource, "attributes", attributes.map(Value::from));
            resource
        })
        .boxed()
}

fn policy() -> BoxedStrategy<Map<String, Value>> {
    let version = select(vec![0, 3, i64::MAX as u64 + 1, u64::MAX]);
    (text(), nullable(text()), nullable(version), extra())
        .prop_map(|(id, name, version, extra)| {
            let mut policy = extra;
            policy.insert("policy_id".into(), id.into());
            put(&mut policy, "policy_name", name);
            put(&mut policy, "policy_version", version);
            policy
        })
        .boxed()
}

fn metadata() -> BoxedStrategy<Map<String, Value>> {
    (field(text()), field(text()), field(text()), nullable(text()), extra())
        .prop_map(|(name, vendor, version, host, extra)| {
            let mut metadata = extra;
            put(&mut metadata, "product_name", name.map(Value::from));
            put(&mut metadata, "vendor_name", vendor.map(Value::from));
            put(&mut metadata, "product_version", version.map(Value::from));
            put(&mut metadata, "hostname", host);
            metadata
        })
        .boxed()
}

/// What the mapping looks at, among other things.
fn attributes() -> BoxedStrategy<Map<String, Value>> {
    let known = select(vec![
        ("pid", json!(4311)),
        ("pid", json!(-1)),
        ("pid", json!(u64::MAX)),
        ("pid", json!(1.0)),
        ("cmd_line", json!("rm -rf /")),
        ("gen_ai.request.model", json!("m-1")),
        ("gen_ai.provider.name", json!("example")),
        ("gen_ai.agent.id", json!("agent-7")),
        ("gen_ai.conversation.id", json!("c-1")),
        ("gen_ai.usage.input_tokens", json!(12)),
        ("gen_ai.tool.name", json!("shell")),
        ("session.id", json!("s-1")),
        ("session.id", json!(7)),
    ]);
    (proptest::collection::vec(known, 0..6), other_fields())
        .prop_map(|(known, mut attributes)| {
            attributes.extend(known.into_iter().map(|(name, value)| (name.to_owned(), value)));
            attributes
        })
        .boxed()
}

/// Unknown fields, the trace context among them. Names of known fields are left out: they would be those fields.
fn extra() -> BoxedStrategy<Map<String, Value>> {
    const KNOWN: &[&str] = &[
        "time",
        "class_uid",
        "category_uid",
        "severity_id",
        "type_name",
        "uid",
        "action",
        "outcome",
        "actor",
        "resource",
        "policy",
        "metadata",
        "user_id",
        "email",
        "org_id",
        "ip_address",
        "resource_type",
        "resource_id",
        "attributes",
        "policy_id",
        "policy_name",
        "policy_version",
        "product_name",
        "vendor_name",
        "product_version",
        "hostname",
    ];
    let known = select(vec![
        ("trace_id", json!("0af7651916cd43dd8448eb211c80319c")),
        ("trace_id", json!("00000000000000000000000000000000")),
        ("trace_id", json!(null)),
        ("span_id", json!("b7ad6b7169203331")),
        ("trace_flags", json!(1)),
        ("gen_ai.system", json!("example")),
        ("gen_ai.response.model", json!("m-2")),
        ("audit_event", json!({"time": 1})),
    ]);
    let fields = (proptest::collection::vec(known, 0..4), other_fields()).prop_map(|(known, mut fields)| {
        fields.extend(known.into_iter().map(|(name, value)| (name.to_owned(), value)));
        fields.retain(|name, _| !KNOWN.contains(&name.as_str()));
        fields
    });
    prop_oneof![2 => Just(Map::new()), 1 => fields].boxed()
}

fn other_fields() -> BoxedStrategy<Map<String, Value>> {
    proptest::collection::vec((text(), value()), 0..3).prop_map(|fields| fields.into_iter().collect()).boxed()
}

fn value() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        select(vec![json!(u64::MAX), json!(1.0), json!(-0.0), json!(5e-324), json!(1.7976931348623157e308), json!(1)]),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    let tree = leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((text(), inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    });
    let deep = (10..110_usize, any::<bool>()).prop_map(|(levels, arrays)| {
        (0..levels).fold(json!("deep"), |inner, _| if arrays { json!([inner]) } else { json!({"k": inner}) })
    });
    prop_oneof![9 => tree, 1 => deep].boxed()
}
