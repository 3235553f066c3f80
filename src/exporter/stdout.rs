//! Standard output, JSON Lines, for debugging and pipes.

use std::io::{self, Write as _};

use super::{Batch, Verdict};

#[derive(Debug)]
pub(crate) struct Stdout;

impl Stdout {
    pub(super) async fn send(&self, batch: &Batch) -> Verdict {
        let lines = batch.payload.clone();
        // A reader that stops reading stops this write, and nothing else.
        let written = tokio::task::spawn_blocking(move || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&lines).and_then(|()| stdout.flush())
        });
        match written.await.map_err(io::Error::other).flatten() {
            Ok(()) => Verdict::DELIVERED,
            // The reader has gone for good: nobody will ever take these lines.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Verdict::Closed { why: "the pipe is closed".into() }
            }
            Err(error) => Verdict::Retry { after: None, why: error.to_string() },
        }
    }
}
