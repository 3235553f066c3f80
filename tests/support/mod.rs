//! What integration tests share: TLS material, and the real programs that `tests/receivers/build` builds.
//!
//! Everything here blocks, so that tests without a runtime can use it too; a test whose own receiver has to answer
//! meanwhile runs on a multi-thread runtime.

// Each test program includes this module and uses a part of it.
#![allow(dead_code, unused_imports, unreachable_pub)]

mod collector;
mod command;
pub mod events;
pub mod expected;
mod inbox;
mod program;
mod tls;
mod victoria_logs;

pub use collector::{Collector, TO_FILE};
pub use command::{Ended, Running, Workplace};
pub use inbox::{Arrival, Inbox};
pub use program::{built, poll};
pub use tls::TlsMaterial;
pub use victoria_logs::VictoriaLogs;

/// How long a test waits for what should take moments.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Plain HTTP and HTTPS by the same TLS provider as the program; it has to be named before a client is built.
pub fn http_client() -> reqwest::ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(PATIENCE)
}

/// Whether the long version of a test is asked for.
pub fn is_long() -> bool {
    std::env::var_os("TEST_LONG").is_some()
}
