//! The events that are measured: distinct ones, about 650 bytes each as a line of JSON.

use std::io::Write;

use auditwire::{
    ActorInfo, AuditEvent, EventMetadata, EventOutcome, PolicyInfo, Product, ResourceInfo, new_audit_event, set_product,
};

/// Events are taken from a pool and used again: what is measured is not how they are made.
const POOL: usize = 1024;

pub(crate) fn pool() -> Vec<AuditEvent> {
    // In force before the first event, so that reading and making events agree.
    let product = Product { name: "agentd".into(), vendor_name: "Example".into(), version: "2.4.1".into() };
    set_product(product).expect("nothing else has set it");
    (0..POOL).map(event).collect()
}

fn event(number: usize) -> AuditEvent {
    let (type_name, action, outcome) = match number % 8 {
        0..4 => ("sandbox_operation", "create", EventOutcome::Permit),
        4 | 5 => ("policy_decision", "Run", EventOutcome::Permit),
        6 => ("policy_decision", "Run", EventOutcome::Deny),
        _ => ("auth_event", "login", EventOutcome::Permit),
    };
    let user = number % 97;
    let mut event = new_audit_event(type_name, action, outcome)
        .with_actor(
            ActorInfo::user(format!("u-{user:04}"))
                .with_email(format!("user{user:04}@example.org"))
                .with_org_id("org-7f3a")
                .with_ip_address(format_args!("10.20.{}.{}", number % 16, number % 251)),
        )
        .with_resource(
            ResourceInfo::new("sandbox", format!("build-{number:05}"))
                .with_attribute("image", "registry.example.org/base/python:3.12")
                .with_attribute("cpu", 2)
                .with_attribute("memory_mb", 2048),
        )
        .with_policy(PolicyInfo::new("pol-sandbox-default").with_name("Sandboxes of builders").with_version(17));
    event.metadata = EventMetadata { hostname: Some("worker-03.example.org".into()), ..EventMetadata::default() };
    event
}

/// Writes events as JSON Lines, each with an identity of its own.
pub(crate) fn write_lines(out: &mut impl Write, lines: usize) -> std::io::Result<()> {
    let mut pool = pool();
    let mut line = Vec::new();
    for number in 0..lines {
        let event = &mut pool[number % POOL];
        event.uid = format!("0198a3c1-5b7e-7000-8000-{number:012x}");
        line.clear();
        serde_json::to_writer(&mut line, event)?;
        line.push(b'\n');
        out.write_all(&line)?;
    }
    Ok(())
}
