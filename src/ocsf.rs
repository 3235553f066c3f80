//! Audit event to OCSF event and back, pure.
//!
//! Every event that parses as an [`AuditEvent`] becomes an event that is valid under OCSF 1.8.0, and can be rebuilt from it
//! exactly: [`decode()`] of what [`encode()`] wrote is the event, its numbers, nulls, missing fields and unknown fields included.
//! What OCSF has no place for lies under `unmapped`.
//!
//! | input | OCSF class |
//! |---|---|
//! | `policy_decision` | 6003 API Activity |
//! | `auth_event` | 3002 Authentication |
//! | `sandbox_operation` on a `file`, with a verb of files | 1001 File System Activity |
//! | `sandbox_operation` on a `network` resource `host[:port]`, with a verb of connections | 4001 Network Activity |
//! | `sandbox_operation` `exec` with an integer `attributes.pid` | 1007 Process Activity |
//! | any other `sandbox_operation` | 6003 API Activity |
//! | anything else with an action, and an actor or a resource | 6003 API Activity |
//! | anything else | 0 Base Event |
//!
//! A `class_uid` that the event names is honoured if it is one of these and the event has what the class requires.
//! `category_uid` always follows from the class. An outcome becomes `status_code` as it is, and `status_id`, `action_id` and
//! `disposition_id` by table.
//!
//! What the encoder must invent, because OCSF requires it, is named in `unmapped.audit_synthesized`. `time` is among it where the
//! event's text is no RFC 3339 time from 1970 to 9999: it is clamped; read as UTC when it states no offset; taken from a UUIDv7
//! `uid`; or 0. The text itself is always `metadata.original_time`.
//!
//! # `unmapped`
//!
//! | member | content |
//! |---|---|
//! | `audit_event` | fields, in the event's own shape, that override what the decoder reads; `resource.attributes` as a whole |
//! | `audit_deep` | the same shape, but each value is JSON text: values nested deeper than 16, too deep for protobuf readers on the way |
//! | `audit_synthesized` | paths in the OCSF event of what was made up |
//! | `audit_absent` | fields, as `actor.email`, that the decoder would yield and the event's JSON does not have |
//! | `audit_span` | `span_id` and `trace_flags` of the span; the trace id is `metadata.correlation_uid`. The decoder passes over it |
//!
//! # Traces
//!
//! `trace_id`, `span_id` (hexadecimal) and `trace_flags` (a number or two hexadecimal digits) among the event's extra fields win
//! over the span that the event was emitted in. A valid trace id becomes `metadata.correlation_uid` and, on 6003, `trace.uid`.
//!
//! # AI agents
//!
//! The actor is the human principal. The agent that acts for them is read from OpenTelemetry's names, in the event's extra fields
//! first and in `resource.attributes` then:
//!
//! | name | OCSF 1.8 (classes 6003 and 1007) | OCSF 1.9 (all classes but 0) |
//! |---|---|---|
//! | `gen_ai.response.model`, `gen_ai.request.model` | `ai_model.name` | `ai_agent.ai_model.name` |
//! | `gen_ai.provider.name`, `gen_ai.system` | `ai_model.ai_provider` | `ai_agent.ai_model.ai_provider` |
//! | `gen_ai.agent.id`, `.name`, `.version` | `message_context.service` | `ai_agent.uid`, `.name`, `.version`; `message_context.service` |
//! | `gen_ai.conversation.id` | `message_context.uid` | `ai_agent.instance_uid`; `message_context.uid` |
//! | `gen_ai.usage.input_tokens`, `.output_tokens` | `message_context.prompt_tokens`, `.completion_tokens` | the same |
//! | `session.id` | `actor.session.uid`, on 3002 `session.uid`; in every version and class | the same |
//!
//! The profile `ai_operation` wants a model with its name and provider in 1.8; without both, and before 1.8, nothing of it is
//! written. In 1.9 the model stands in `ai_model` where no agent is named. The fields themselves always stay where the event has
//! them, in `resources[0].data` or `unmapped`, and so do the names of tools, for which OCSF has no place. `delegation` of 1.9 is
//! not written: events do not say who delegated.

mod activity;
mod address;
mod ai;
mod class;
mod context;
mod decode;
mod difference;
mod document;
mod encode;
mod json;
mod plan;
mod report;
mod schema;
mod synthesized;
mod time;
mod validate;

use std::fmt;
use std::str::FromStr;

pub use class::{
    action_name, activity_name, category_name, class_name, disposition_name, event_name, severity_name, status_name,
};
pub use decode::{DecodeError, decode};
pub use report::{Finding, Report};
pub use validate::{Versions, validate, validate_versions};

use crate::event::AuditEvent;

/// How events become OCSF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mapping {
    /// `metadata.version`. Default 1.8.0.
    pub version: Version,
}

/// OCSF versions whose schema our events are valid under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// 1.4.0
    V1_4_0,
    /// 1.5.0
    V1_5_0,
    /// 1.6.0
    V1_6_0,
    /// 1.7.0
    V1_7_0,
    /// 1.8.0
    #[default]
    V1_8_0,
    /// 1.9.0
    V1_9_0,
}

impl Version {
    /// All of them, in order.
    pub const ALL: [Self; 6] = [Self::V1_4_0, Self::V1_5_0, Self::V1_6_0, Self::V1_7_0, Self::V1_8_0, Self::V1_9_0];

    /// As in `metadata.version`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1_4_0 => "1.4.0",
            Self::V1_5_0 => "1.5.0",
            Self::V1_6_0 => "1.6.0",
            Self::V1_7_0 => "1.7.0",
            Self::V1_8_0 => "1.8.0",
            Self::V1_9_0 => "1.9.0",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Version {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        Self::ALL.into_iter().find(|version| version.as_str() == text).ok_or_else(|| UnknownVersion(text.to_owned()))
    }
}

/// A text that is not one of the OCSF versions we write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownVersion(String);

impl fmt::Display for UnknownVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not an OCSF version that can be written; accepted are", self.0)?;
        for (at, version) in Version::ALL.iter().enumerate() {
            write!(f, "{} {version}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownVersion {}

/// The span in which an event was emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// W3C trace id.
    pub trace_id: [u8; 16],
    /// W3C span id.
    pub span_id: [u8; 8],
    /// W3C trace flags.
    pub flags: u8,
}

/// Appends the event's OCSF JSON to `out`, `time` first, in one line, without a newline.
///
/// A `trace_id` among the event's extra fields wins over `span`. The same event always gives the same bytes.
pub fn encode(event: &AuditEvent, mapping: &Mapping, span: Option<&Span>, out: &mut Vec<u8>) {
    encode::write(&plan::Plan::new(event, mapping, span), out);
}

#[cfg(test)]
mod tests;
