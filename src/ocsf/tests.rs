//! What only hand-built events can do, the errors of the decoder, and our captions against the schema's.

use serde_json::{Map, Value, json};

use super::class::Class::{Api, Authentication, Base, File, Network, Process};
use super::*;
use crate::event::{ActorInfo, EventOutcome, PolicyInfo, ResourceInfo};

fn event() -> AuditEvent {
    serde_json::from_str(
        r#"{"time":"2026-11-02T08:14:07Z","type_name":"policy_decision","uid":"u","action":"Run","outcome":"permit"}"#,
    )
    .unwrap()
}

fn text(event: &AuditEvent) -> String {
    let mut out = Vec::new();
    encode(event, &Mapping::default(), None, &mut out);
    String::from_utf8(out).unwrap()
}

/// Equality of JSON: a field that was missing when the event was read and has been set since is not missing in what comes back.
fn check_back(event: &AuditEvent) {
    let back = decode(&text(event)).unwrap();
    assert_eq!(serde_json::to_string(&back).unwrap(), serde_json::to_string(event).unwrap());
}

fn valid(event: &AuditEvent) -> Value {
    let text = text(event);
    let report = validate_versions(&text, Versions::Schema);
    assert!(report.is_valid(), "{:#?}", report.errors);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn encode_appends() {
    let mut out = b"before".to_vec();
    encode(&event(), &Mapping::default(), None, &mut out);
    assert!(out.starts_with(br#"before{"time":1793607247000,"class_uid":6003,"#));
}

#[test]
fn an_extra_field_with_a_known_name_is_not_written_twice() {
    let mut actor = ActorInfo::user("u");
    actor.extra.insert("email".into(), json!("x@y.z"));
    let event = event().with_extra("time", 1).with_extra("metadata", json!({})).with_extra("mine", 2).with_actor(actor);
    assert_eq!(valid(&event)["unmapped"]["audit_event"], json!({"mine": 2}));
}

#[test]
fn values_too_deep_for_others_travel_as_text() {
    let nested = |levels| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    for (levels, is_text) in [(15, false), (16, true)] {
        let event = event().with_resource(ResourceInfo::new("r", "i").with_attribute("a", nested(levels)));
        let ocsf = valid(&event);
        assert_eq!(ocsf["resources"][0]["data"].is_null(), is_text, "{levels}");
        assert_eq!(ocsf["unmapped"]["audit_deep"]["resource"]["attributes"].is_string(), is_text);
        check_back(&event);
    }
    for (levels, is_text) in [(16, false), (17, true)] {
        let event = event().with_extra("x", nested(levels));
        assert_eq!(valid(&event)["unmapped"]["audit_deep"]["x"].is_string(), is_text, "{levels}");
        check_back(&event);
    }
}

#[test]
fn no_depth_exhausts_the_stack() {
    let mut value = json!(1);
    for _ in 0..1_000_000 {
        value = Value::Array(vec![value]);
    }
    let event = event().with_resource(ResourceInfo::new("r", "i").with_attribute("a", value));
    valid(&event);
    let error = decode(&text(&event)).unwrap_err().to_string();
    assert!(
        error.starts_with("unmapped.audit_deep.resource.attributes: not JSON: recursion limit exceeded"),
        "{error}"
    );
    // serde_json drops such a value by recursion, which is not what is tested here.
    std::mem::forget(event);
}

#[test]
fn the_message_is_one_short_line() {
    let long = "é".repeat(400);
    let event =
        AuditEvent { action: "a\n\"\\\u{202e}\u{2028}b".into(), ..event() }.with_resource(ResourceInfo::new("r", long));
    let ocsf = valid(&event);
    let message = ocsf["message"].as_str().unwrap();
    assert_eq!(message, format!("a \"\\  b r {}…: permit", "é".repeat(128)));
}

#[test]
fn a_huge_text_is_not_repeated_among_the_observables() {
    let event =
        event().with_actor(ActorInfo::user("u".repeat(513))).with_resource(ResourceInfo::new("r", "i".repeat(512)));
    let ocsf = valid(&event);
    let names: Vec<_> = ocsf["observables"].as_array().unwrap().iter().map(|observable| &observable["name"]).collect();
    assert_eq!(names, ["resources.uid"]);
}

#[test]
fn readers_of_lines_see_one_line() {
    let event = event().with_extra("\u{2028}", "\u{85}\u{2029}\u{c}\r\n\u{a0}â");
    let text = text(&event);
    assert!(!text.contains(['\u{85}', '\u{2028}', '\u{2029}']) && text.contains("\u{a0}â"), "{text}");
    check_back(&event);
}

#[test]
fn an_explicit_class_is_honoured_where_the_event_can_fill_it() {
    let class = |class_uid, event: AuditEvent| valid(&AuditEvent { class_uid, ..event })["class_uid"].as_u64().unwrap();
    let on = |kind: &str, id: &str| event().with_resource(ResourceInfo::new(kind, id));
    assert_eq!(class(0, event()), 0);
    assert_eq!(class(1001, on("thing", "/x")), 1001);
    assert_eq!(class(1001, on("thing", "")), 6003);
    assert_eq!(class(1007, event().with_resource(ResourceInfo::new("s", "i").with_attribute("pid", 7))), 1007);
    assert_eq!(class(1007, event().with_resource(ResourceInfo::new("s", "i").with_attribute("pid", "7"))), 6003);
    assert_eq!(class(3002, event().with_actor(ActorInfo::user("u"))), 3002);
    assert_eq!(class(3002, event().with_actor(ActorInfo::default())), 6003);
    assert_eq!(class(4001, on("thing", "h:1")), 4001);
    assert_eq!(class(4001, on("thing", "h h")), 6003);
    assert_eq!(class(6003, AuditEvent { type_name: "auth_event".into(), ..event() }), 6003);
    assert_eq!(class(6003, AuditEvent { type_name: "auth_event".into(), action: String::new(), ..event() }), 3002);
    assert_eq!(class(3001, AuditEvent { type_name: "auth_event".into(), ..event() }), 3002);
}

#[test]
fn a_typical_event_leaves_nothing_over() {
    let event = crate::event::new_audit_event("policy_decision", "Run", EventOutcome::Permit)
        .with_actor(ActorInfo::user("u").with_ip_address(std::net::Ipv4Addr::LOCALHOST))
        .with_resource(ResourceInfo::new("sandbox", "s").with_attribute("n", u64::MAX))
        .with_policy(PolicyInfo::new("p").with_version(u64::MAX));
    assert_eq!(valid(&event).get("unmapped"), None);
    check_back(&event);
}

#[test]
fn what_cannot_be_turned_back_is_said_with_its_path() {
    let ocsf = valid(&event().with_policy(PolicyInfo::new("p")).with_resource(ResourceInfo::new("r", "i")));
    let error = |path: &[&str], value: Value| {
        let mut ocsf = ocsf.clone();
        let place = path.iter().fold(&mut ocsf, |at, name| &mut at[name]);
        *place = value;
        decode(&ocsf.to_string()).expect_err(&path.join(".")).to_string()
    };
    for (path, value, expected) in [
        (&["class_uid"][..], json!(2004), "class_uid: 2004 is no class that audit events become"),
        (&["activity_id"], json!("1"), "activity_id: not a whole number"),
        (
            &["status_code"],
            json!("ok"),
            r#"status_code: "ok" is not permit, deny, error or info: only events made from audit events"#,
        ),
        (&["status_code"], json!(1), "status_code: not text"),
        (&["severity_id"], json!(7), "severity_id: not 0 to 6 or 99"),
        (&["severity_id"], json!(99), "severity: not a number"),
        (&["metadata", "original_time"], Value::Null, "metadata.original_time: not text"),
        (&["policy", "version"], json!("1.2"), "policy.version: not a whole number"),
        (&["resources"], json!([]), "resources: not one object"),
        (&["resources"], json!([{"type": 1}]), "not an audit event: invalid type: integer `1`, expected a string"),
        (&["unmapped", "audit_event"], json!(1), "unmapped.audit_event: not an object"),
        (&["unmapped", "audit_event"], json!({"actor": 1}), "unmapped.audit_event.actor: not an object"),
        (&["unmapped", "audit_event"], json!({"outcome": "x"}), "not an audit event: unknown variant `x`"),
        (&["unmapped", "audit_deep"], json!({"x": "["}), "unmapped.audit_deep.x: not JSON: EOF"),
        (
            &["unmapped", "audit_absent"],
            json!(["resource"]),
            r#"unmapped.audit_absent: "resource" is there all the same"#,
        ),
        (&["unmapped", "audit_absent"], json!(["nope"]), r#"unmapped.audit_absent: "nope" is no field of this event"#),
    ] {
        let error = error(path, value);
        assert!(error.starts_with(expected), "{error}");
    }
    let error = decode("[]").unwrap_err();
    assert_eq!((error.path(), error.to_string().as_str()), ("", "not a JSON object"));
    assert!(decode("{").unwrap_err().to_string().starts_with("not JSON: EOF"));
}

#[test]
fn versions_are_read_and_written() {
    for version in Version::ALL {
        assert_eq!(version.to_string().parse(), Ok(version));
    }
    assert_eq!(
        "1.3.0".parse::<Version>().unwrap_err().to_string(),
        r#""1.3.0" is not an OCSF version that can be written; accepted are 1.4.0, 1.5.0, 1.6.0, 1.7.0, 1.8.0, 1.9.0"#
    );
}

#[test]
fn captions_are_the_schemas() {
    let schema = schema::get();
    let caption = |class: &schema::Item, attribute: &str, id: u32| {
        class.attributes[attribute].values.get(&id.to_string()).map(|value| value.caption.clone())
    };
    for class in [Base, File, Process, Authentication, Network, Api] {
        let item = &schema.classes[&i128::from(class.uid())];
        assert_eq!(class_name(class.uid()), item.caption);
        assert_eq!(caption(item, "category_uid", class.category_uid()).unwrap(), category_name(class.category_uid()));
        for id in 0..100 {
            // Where we have a caption of our own it is that one; other activities are never made.
            let ours = activity_name(class.uid(), id);
            if id == 0 || id == 99 || ours != "Unknown" {
                assert_eq!(caption(item, "activity_id", id).unwrap(), ours);
            }
            let one_of_ours =
                |ours: &str, schema: Option<String>| id != 0 && ours == "Unknown" || schema.unwrap() == ours;
            assert!(one_of_ours(severity_name(id), caption(item, "severity_id", id)));
            assert!(one_of_ours(status_name(id), caption(item, "status_id", id)));
            assert!(one_of_ours(action_name(id), caption(item, "action_id", id)));
            assert!(one_of_ours(disposition_name(id), caption(item, "disposition_id", id)));
        }
    }
}

#[test]
fn agents_appear_where_the_version_has_a_place() {
    let mut attributes = Map::new();
    for (name, value) in [
        ("gen_ai.request.model", json!("m-1")),
        ("gen_ai.provider.name", json!("example")),
        ("gen_ai.agent.id", json!("agent-7")),
    ] {
        attributes.insert(name.into(), value);
    }
    let resource = |without: &str| {
        let mut resource = ResourceInfo::new("sandbox", "s");
        resource.attributes.extend(attributes.clone().into_iter().filter(|(name, _)| name != without));
        event().with_resource(resource)
    };
    let ocsf = |event: &AuditEvent, version| -> Value {
        let mut out = Vec::new();
        encode(event, &Mapping { version }, None, &mut out);
        serde_json::from_slice(&out).unwrap()
    };
    let model = json!({"name": "m-1", "ai_provider": "example"});
    let in_1_8 = ocsf(&resource(""), Version::V1_8_0);
    assert_eq!(in_1_8["ai_model"], model);
    assert_eq!(in_1_8["message_context"]["service"], json!({"uid": "agent-7"}));
    assert_eq!(in_1_8.get("ai_agent"), None);
    let in_1_9 = ocsf(&resource(""), Version::V1_9_0);
    assert_eq!(in_1_9["ai_agent"], json!({"uid": "agent-7", "ai_model": model}));
    assert_eq!(in_1_9.get("ai_model"), None);
    assert_eq!(ocsf(&resource("gen_ai.agent.id"), Version::V1_9_0)["ai_model"], model);
    for event in [resource("gen_ai.provider.name"), resource("gen_ai.request.model")] {
        let ocsf = ocsf(&event, Version::V1_8_0);
        assert_eq!(
            (ocsf.get("ai_model"), ocsf.get("message_context")),
            (None, None),
            "1.8 wants the name and the provider"
        );
    }
    let before = ocsf(&resource(""), Version::V1_7_0);
    assert_eq!(before["metadata"]["profiles"], json!(["security_control"]));
}

#[test]
fn many_observables_of_many_values_are_judged_in_time() {
    let many = 50_000;
    let tags = (0..many).map(|at| format!(r#"{{"name":"n{at}","value":"x"}}"#)).collect::<Vec<_>>().join(",");
    let observables = (0..many)
        .map(|at| format!(r#"{{"name":"metadata.tags.name","type_id":0,"value":"n{at}"}}"#))
        .collect::<Vec<_>>()
        .join(",");
    let text = format!(
        r#"{{"time":0,"class_uid":0,"category_uid":0,"activity_id":0,"type_uid":0,"severity_id":0,"observables":[{observables}],
        "metadata":{{"version":"1.8.0","product":{{"name":"p"}},"tags":[{tags}]}}}}"#
    );
    // Compared one by one these are minutes.
    let report = validate(&text);
    assert!(report.is_valid(), "{:?}", report.errors.first());
}
