//! A stream: one streamer's events with their numbers, by which a receiver can prove that nothing is missing.
//!
//! Each event carries its number (`metadata.sequence`, dense from 1) and the stream's id (`metadata.loggers[0].uid`). With a spool the
//! stream is the spool and goes on over restarts; in memory it is this process's.

use std::cell::RefCell;
use std::sync::{Arc, LazyLock};

use memchr::memmem::Finder;

use crate::event::AuditEvent;
use crate::ocsf;

#[derive(Debug)]
pub(crate) struct Stream {
    id: String,
    mapping: ocsf::Mapping,
    /// What stands behind the number in each event.
    logger: String,
}

/// Where the number goes: the encoder writes `metadata` once, before anything whose keys an event could choose.
static METADATA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"metadata\":{"));

impl Stream {
    /// The stream of a spool, or a new one.
    pub(crate) fn new(mapping: ocsf::Mapping, spool_id: Option<u64>) -> Self {
        let id = match spool_id {
            Some(id) => format!("{id:016x}"),
            None => uuid::Uuid::now_v7().to_string(),
        };
        let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        let logger = format!(r#","loggers":[{{"name":"{name}","uid":"{id}","version":"{version}"}}],"#);
        Self { id, mapping, logger }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Appends the event's OCSF JSON, without a number.
    pub(crate) fn encode(&self, event: &AuditEvent, span: Option<&ocsf::Span>, out: &mut Vec<u8>) {
        ocsf::encode(event, &self.mapping, span, out);
    }

    /// The event's JSON with its number and the stream's id, shared by the destinations.
    pub(crate) fn numbered(&self, event: &str, sequence: u64) -> Arc<str> {
        thread_local! {
            // The text is put together here, so that the shared one is allocated once and in its size.
            static SCRATCH: RefCell<String> = const { RefCell::new(String::new()) };
        }
        let Some(at) = METADATA.find(event.as_bytes()) else { return event.into() };
        let (before, after) = event.split_at(at + METADATA.needle().len());
        SCRATCH.with_borrow_mut(|text| {
            text.clear();
            text.push_str(before);
            text.push_str("\"sequence\":");
            text.push_str(itoa::Buffer::new().format(sequence));
            text.push_str(&self.logger);
            text.push_str(after);
            text.as_str().into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventOutcome, new_audit_event};

    #[test]
    fn a_numbered_event_is_valid_and_still_gives_the_event_back() {
        for spool_id in [None, Some(u64::MAX)] {
            let stream = Stream::new(ocsf::Mapping::default(), spool_id);
            let event = new_audit_event("policy_decision", "\"metadata\":{ \"", EventOutcome::Deny);
            let mut text = Vec::new();
            stream.encode(&event, None, &mut text);
            let text = stream.numbered(std::str::from_utf8(&text).unwrap(), i32::MAX as u64);
            let report = ocsf::validate(&text);
            assert!(report.is_valid(), "{report:?}\n{text}");
            assert_eq!(ocsf::decode(&text).unwrap(), event);
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json["metadata"]["sequence"], i32::MAX);
            assert_eq!(json["metadata"]["loggers"][0]["uid"], stream.id());
            assert!(text.starts_with("{\"time\":"));
        }
    }
}
