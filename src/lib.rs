//! map (to be written)

pub mod config;
mod dead_letter;
mod delivery;
pub mod error;
pub mod event;
mod exporter;
mod intake;
mod json;
mod jsonl;
mod ledger;
pub mod notice;
pub mod ocsf;
mod otlp;
mod pipeline;
pub mod receiver;
pub mod record;
pub mod retry;
pub mod secret;
pub mod spool;
mod streamer;
pub use config::stream::{AuditStreamConfig, StreamDestination};
pub use error::{Error, Outstanding};
pub use event::{
    ActorInfo, AuditEvent, EventMetadata, EventOutcome, PolicyInfo, Product, ResourceInfo, new_audit_event, set_product,
};
pub use ledger::DestinationState;
pub use streamer::{AuditStreamer, Builder, Receipt, State};
