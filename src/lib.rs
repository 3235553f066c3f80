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
pub mod record;
pub mod receiver;
pub mod retry;
pub mod secret;
mod streamer;
pub use streamer::{AuditStreamer, Builder, Receipt, State};
