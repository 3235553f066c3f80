//! An audit log exporter native to OpenTelemetry: audit events become log records that carry OCSF, go through the SDK's batch log
//! processor, and reach OTLP receivers, webhooks, JSON Lines files and standard output. Nothing accepted is lost in silence.
//!
//! ```
//! use auditwire::{ActorInfo, AuditStreamer, EventOutcome, ResourceInfo, new_audit_event};
//! use auditwire::config::{Config, Destination, DestinationKind, File};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("audit.jsonl");
//! let streamer = AuditStreamer::start(Config {
//!     destinations: vec![Destination { name: "file".into(), kind: DestinationKind::File(File::new(&path)) }],
//!     ..Config::default()
//! })?;
//! let event = new_audit_event("sandbox_operation", "create", EventOutcome::Permit)
//!     .with_actor(ActorInfo::user("u-1001"))
//!     .with_resource(ResourceInfo::new("sandbox", "build-42"));
//! let receipt = streamer.emit(&event)?;
//! streamer.shutdown_blocking(std::time::Duration::from_secs(5))?;
//! assert_eq!(receipt.uid, event.uid);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The way of an event
//!
//! ```text
//! emit(event)
//!   ocsf      AuditEvent -> OCSF JSON text, made once, shared by all destinations
//!   spool     with a spool: appended and synced, many events a sync                                -> Receipt
//!   intake    a place in every destination's queue: a credit, held until the record is settled      -> Receipt without a spool
//! per destination
//!   feed      with a spool: its records in order, as places become free
//!   record    OCSF text -> SdkLogRecord: the text as body, at most 48 flat typed attributes where somebody reads them
//!   pipeline  its own SdkLoggerProvider, the SDK's BatchLogProcessor, an exporter that encodes and hands over
//!   delivery  send, read the verdict; wait and send the same bytes again, halve, or bury in the dead-letter file
//!   ledger    settle: delivered, rejected; the credit goes back
//! ```
//!
//! # The map
//!
//! | room | holds |
//! |---|---|
//! | [`event`] | `AuditEvent` and its parts, and the JSON contract with agentkernel |
//! | [`ocsf`] | event to OCSF event and back, exactly; the schema check. Pure |
//! | [`record`] | OCSF event to OTel log record. Pure |
//! | `json`, `otlp` | a forward reader of JSON; records as OTLP bytes. Pure |
//! | `streamer`, `mapped` | the handle callers hold: [`AuditStreamer`], [`Receipt`], [`Submission`], [`State`]; the events of one call |
//! | `stream`, `gap` | an event's number and its stream; losses as events |
//! | `feed`, `intake`, `pipeline`, `delivery`, `ledger` | one destination: from the spool, gate, processor, settlement, books |
//! | [`spool`] | the durable queue: bytes on disk, cursors, recovery. It knows nothing of events |
//! | `spooling` | opening the configured spool and saying what was found |
//! | `exporter` | the verdict of an attempt, and one exporter for each protocol |
//! | [`retry`] | backoff arithmetic |
//! | `jsonl`, `dead_letter`, `dead_letters` | private append-only JSON Lines, and what is refused for good |
//! | `spooled`, [`dead_letters`] | what lies in a spool and in the dead-letter file, for whoever looks in |
//! | [`config`] | as written to resolved; [`config::env`] alone reads the environment |
//! | [`notice`] | what a streamer says without being asked |
//! | [`receiver`] | a development receiver that can be scripted: tests, demo, `auditwire receive` |
//! | [`error`], [`secret`] | serve all |
//! | `steps` | a record and a request, each by itself, for the benchmarks |
//!
//! Arrows point down: cli -> streamer -> pipeline -> {feed, delivery} -> intake -> {exporter, spool, retry} -> record -> ocsf -> event. Only
//! the program knows clap and anyhow.
//!
//! # What always holds
//!
//! - The SDK's processor drops what does not fit its queue and forgets a batch whose export fails. Neither can happen here: there
//!   are as many credits as the queue has places, and an export never fails while its streamer lives.
//! - The processor is first-in first-out and exports serially, and one task settles a destination's batches one after
//!   another: order holds, and counting tells what is settled.
//! - A destination is never given up on. What it refuses for good is in the dead-letter file before it is settled.
//! - Attribute keys come from a closed list. Nothing an event says becomes a key.
//! - A secret is a [`secret::Secret`] from where it is read to where it is sent.
//! - The caller waits for a place in a queue, never for the network.
//!
//! # What is absent on purpose
//!
//! - Filters, sampling, minimum severities: an audit pipeline that drops by rule is one rule away from dropping what matters.
//! - Several requests in flight to one destination: a failed one would be overtaken.
//! - A choice of body or format that loses part of the event, except `body = message`, which says so.
//! - The stock OTLP exporter: it hides partial success and statuses, and costs several times the CPU.

pub mod config;
pub mod dead_letters;
pub mod error;
pub mod event;
pub mod notice;
pub mod ocsf;
pub mod receiver;
pub mod record;
pub mod retry;
pub mod secret;
pub mod spool;
#[doc(hidden)]
pub mod steps;

mod dead_letter;
mod delivery;
mod exporter;
mod feed;
mod gap;
mod intake;
mod json;
mod jsonl;
mod ledger;
mod mapped;
mod otlp;
mod pipeline;
mod spooled;
mod spooling;
mod stream;
mod streamer;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use config::stream::{AuditStreamConfig, StreamDestination};
pub use error::{Error, Outstanding};
pub use event::{
    ActorInfo, AuditEvent, EventMetadata, EventOutcome, PolicyInfo, Product, ResourceInfo, new_audit_event, set_product,
};
pub use ledger::DestinationState;
pub use spooled::{SpooledEvent, SpooledEvents, spooled_events};
pub use streamer::{AuditStreamer, Builder, Receipt, State, Submission};
