//! Standard output, JSON Lines, for debugging and pipes.

use std::io::{self, Write as _};
use std::time::Duration;

use super::{Batch, Verdict};

#[derive(Debug)]
pub(crate) struct Stdout;

impl Stdout {
    pub(super) async fn send(&self, batch: &Batch) -> Verdict {
        let lines = batch.payload.clone();
        // A reader that stops reading stops this write, and nothing else.
        let written = tokio::task::spawn_blocking(move || write_all(&lines));
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

/// Writes everything or fails for good: what is written in part would be written again by a retry.
fn write_all(mut lines: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    while !lines.is_empty() {
        match stdout.write(lines) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => lines = &lines[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Somebody made the pipe non-blocking, and its reader is slow.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(error),
        }
    }
    stdout.flush()
}
