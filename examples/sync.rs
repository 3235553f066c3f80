//! auditwire in a program without async: `emit` from any thread, `shutdown_blocking` at the end.
//!
//! ```sh
//! cargo run --example sync   # writes audit.jsonl
//! ```

use std::time::Duration;

use auditwire::config::{Config, Destination, DestinationKind, File};
use auditwire::{ActorInfo, AuditStreamer, Error, EventOutcome, new_audit_event};

fn main() -> Result<(), Error> {
    let file = Destination { name: "file".into(), kind: DestinationKind::File(File::new("audit.jsonl")) };
    let streamer = AuditStreamer::start(Config { destinations: vec![file], ..Config::default() })?;

    std::thread::scope(|scope| {
        let workers = ["mira", "jon"].map(|user| {
            let streamer = streamer.clone();
            scope.spawn(move || {
                let event = new_audit_event("auth_event", "login", EventOutcome::Permit);
                streamer.emit(&event.with_actor(ActorInfo::user(user))).map(|_receipt| ())
            })
        });
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })?;

    streamer.shutdown_blocking(Duration::from_secs(5))
}
