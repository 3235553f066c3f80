//! The smallest honest program with auditwire in it: configured by the `OTEL_` variables, under a runtime with a single thread.
//!
//! ```sh
//! auditwire receive &        # or a Collector on localhost:4317
//! cargo run --example embed
//! ```

use std::process::ExitCode;
use std::time::Duration;

use auditwire::config::env::{self, Environment};
use auditwire::{ActorInfo, AuditStreamer, Error, EventOutcome, ResourceInfo, new_audit_event};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match audited().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn audited() -> Result<(), Error> {
    let mut warnings = Vec::new();
    let config = env::config(&Environment::of_process(), &mut warnings)?;
    // The specification wants some malformed variables ignored, but not in silence.
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let streamer = AuditStreamer::start(config)?;

    let event = new_audit_event("sandbox_operation", "create", EventOutcome::Permit)
        .with_actor(ActorInfo::user("u-1001").with_email("mira@example.org"))
        .with_resource(ResourceInfo::new("sandbox", "build-42"));
    // Ok means accepted: from here on the streamer answers for the event.
    let receipt = streamer.queue_event(event).await?;
    eprintln!("accepted {}", receipt.uid);

    // The error names what was not delivered, where, and why.
    streamer.shutdown(Duration::from_secs(5)).await?;
    for destination in streamer.state().destinations {
        eprintln!("{} events delivered to {}", destination.delivered, destination.target);
    }
    Ok(())
}
