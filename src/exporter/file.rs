//! JSON Lines file, appended.

use std::io;
use std::sync::Arc;

use super::{Batch, Verdict};
use crate::config;
use crate::jsonl::JsonLines;

#[derive(Debug)]
pub(crate) struct File {
    lines: Arc<JsonLines>,
}

impl File {
    pub(super) fn new(config: &config::File) -> Self {
        Self { lines: Arc::new(JsonLines::new(&config.path, config.sync)) }
    }

    pub(super) fn target(&self) -> String {
        self.lines.path().display().to_string()
    }

    pub(super) async fn send(&self, batch: &Batch) -> Verdict {
        let (lines, payload) = (Arc::clone(&self.lines), batch.payload.clone());
        // Disk I/O off the thread that serves all destinations.
        let written = tokio::task::spawn_blocking(move || lines.append(&payload)).await;
        match written.map_err(io::Error::other).flatten() {
            Ok(()) => Verdict::DELIVERED,
            Err(error) => Verdict::Retry { after: None, why: error.to_string() },
        }
    }
}
