//! `auditwire demo`: a receiver and a sender in one process, on a free port, with sample events.

use anyhow::{Context as _, Result, ensure};
use auditwire::config::{Config, Destination, DestinationKind, Otlp};
use auditwire::receiver::{self, Receiver};
use auditwire::{ActorInfo, AuditEvent, AuditStreamer, EventOutcome, PolicyInfo, ResourceInfo, new_audit_event};

use super::exit::{self, Exit};
use super::print;
use super::show::Show;

/// See it work: send sample events to a receiver in this process, and print what it decoded
///
/// Everything stays on this machine: OTLP/gRPC on a free port of the loopback interface. Ends by itself.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print each record's body, too: the whole OCSF event
    #[arg(long)]
    body: bool,
}

pub(crate) fn run(args: &Args) -> Result<Exit> {
    // As an embedding program has it: a runtime of its own, which the streamer does not depend on.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(demo(Show::on_stdout(args.body)))
}

async fn demo(show: Show) -> Result<Exit> {
    let mut receiver =
        Receiver::start(receiver::Options { otlp_grpc: Some(receiver::ANY_PORT), ..Default::default() }).await?;
    let address = receiver.otlp_grpc_addr().context("the receiver has no address")?;
    exit::say(format_args!("an OTLP/gRPC receiver listens on {address}"));

    let config = Config {
        destinations: vec![Destination {
            name: "otlp".into(),
            kind: DestinationKind::Otlp(Otlp::grpc(format!("http://{address}"))),
        }],
        resource: vec![("service.name".into(), "auditwire-demo".into())],
        ..Config::default()
    };
    let streamer = AuditStreamer::start(config)?;
    let events = samples();
    let count = events.len();
    exit::say(format_args!("{count} audit events are sent; this is what the receiver decoded:"));
    streamer.stream_events(events).await?;
    streamer.shutdown(std::time::Duration::from_secs(5)).await?;
    receiver.stop().await;

    let mut decoded = 0;
    let mut out = Vec::new();
    while let Some(received) = receiver.next().await {
        decoded += received.len();
        show.write(&mut out, &received)?;
    }
    print(&String::from_utf8(out)?)?;
    ensure!(decoded == count, "{count} events were sent and {decoded} records decoded");
    let state = streamer.state();
    exit::say(format_args!(
        "accepted {}, delivered {}, decoded {decoded}",
        state.accepted, state.destinations[0].delivered
    ));
    exit::say(format_args!("next: auditwire receive, and in another terminal: auditwire send FILE"));
    Ok(Exit::Success)
}

/// A morning in a sandbox host's life.
fn samples() -> Vec<AuditEvent> {
    let mira = || {
        ActorInfo::user("u-1001")
            .with_email("mira@example.org")
            .with_org_id("org-blue")
            .with_ip_address("198.51.100.24")
    };
    let sandbox = || ResourceInfo::new("sandbox", "build-42");
    vec![
        new_audit_event("auth_event", "login", EventOutcome::Permit).with_actor(mira()),
        new_audit_event("policy_decision", "Run", EventOutcome::Permit)
            .with_actor(mira())
            .with_resource(sandbox().with_attribute("image", "rust:1.95").with_attribute("vcpus", 2))
            .with_policy(PolicyInfo::new("allow-default").with_name("Default run policy").with_version(12)),
        new_audit_event("sandbox_operation", "create", EventOutcome::Permit)
            .with_actor(mira())
            .with_resource(sandbox()),
        new_audit_event("sandbox_operation", "exec", EventOutcome::Permit)
            .with_actor(mira())
            .with_resource(sandbox().with_attribute("pid", 4311).with_attribute("argv", vec!["cargo", "test"])),
        new_audit_event("policy_decision", "Network", EventOutcome::Deny)
            .with_actor(mira())
            .with_resource(ResourceInfo::new("network", "203.0.113.9:443").with_attribute("protocol", "tcp"))
            .with_policy(PolicyInfo::new("no-egress").with_name("Egress restriction").with_version(3)),
        new_audit_event("sandbox_operation", "write", EventOutcome::Error)
            .with_actor(mira())
            .with_resource(ResourceInfo::new("file", "/workspace/src/main.rs").with_attribute("bytes", 2310)),
        new_audit_event("sandbox_operation", "delete", EventOutcome::Permit)
            .with_actor(mira())
            .with_resource(sandbox()),
        new_audit_event("auth_event", "logout", EventOutcome::Info).with_actor(mira()),
    ]
}
