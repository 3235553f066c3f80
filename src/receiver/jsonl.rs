//! What arrived, as a file holds it.

use std::io::{self, Write};

use super::{Payload, Received};

/// Writes JSON Lines: for OTLP the request in its OTLP/JSON form, as a Collector's file exporter does; for a webhook each
/// element.
///
/// # Errors
/// The writer's.
pub fn write_jsonl(out: &mut impl Write, received: &Received) -> io::Result<()> {
    match &received.payload {
        Payload::Otlp(request) => {
            serde_json::to_writer(&mut *out, request)?;
            out.write_all(b"\n")?;
        }
        Payload::Json(_) => {
            for element in received.elements() {
                serde_json::to_writer(&mut *out, element)?;
                out.write_all(b"\n")?;
            }
        }
    }
    out.flush()
}
