//! The AI agent that acts for the actor, where the event names one in OpenTelemetry's words. [`crate::ocsf`] has the table of names.

use serde_json::Value;

use super::Version;
use super::class::Class::{self, Api, Base, Process};
use super::json::Json;
use crate::event::AuditEvent;

/// What an event says about the AI that acted.
#[derive(Debug, Default)]
pub(super) struct Operation<'a> {
    /// The session of the actor, not the agent's.
    pub(super) session: Option<&'a str>,
    model: Option<(&'a str, &'a str)>,
    agent_id: Option<&'a str>,
    agent_name: Option<&'a str>,
    agent_version: Option<&'a str>,
    conversation: Option<&'a str>,
    input_tokens: Option<i64>,
    output_tokens: Option<i64>,
    profile: bool,
    names_agent: bool,
}

impl<'a> Operation<'a> {
    pub(super) fn of(event: &'a AuditEvent, class: Class, version: Version) -> Option<Self> {
        let attributes = event.resource.as_ref().map(|resource| &resource.attributes);
        let ours = |name: &String| name.starts_with("gen_ai.") || name == "session.id";
        if !event.extra.keys().any(ours) && !attributes.is_some_and(|attributes| attributes.keys().any(ours)) {
            return None;
        }
        let value = |name: &str| event.extra.get(name).or_else(|| attributes?.get(name));
        let text = |name: &str| value(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let count = |name: &str| value(name).and_then(Value::as_i64);
        let model = text("gen_ai.response.model").or_else(|| text("gen_ai.request.model"));
        let provider = text("gen_ai.provider.name").or_else(|| text("gen_ai.system"));
        let mut operation = Self {
            session: text("session.id"),
            model: model.zip(provider),
            agent_id: text("gen_ai.agent.id"),
            agent_name: text("gen_ai.agent.name"),
            agent_version: text("gen_ai.agent.version"),
            conversation: text("gen_ai.conversation.id"),
            input_tokens: count("gen_ai.usage.input_tokens"),
            output_tokens: count("gen_ai.usage.output_tokens"),
            ..Self::default()
        };
        let (has_model, has_agent) = (operation.model.is_some(), operation.has_agent());
        operation.names_agent = version == Version::V1_9_0 && class != Base && has_agent;
        operation.profile = match version {
            Version::V1_9_0 => class != Base && (has_model || has_agent),
            Version::V1_8_0 => matches!(class, Api | Process) && has_model,
            _ => false,
        };
        Some(operation)
    }

    fn has_agent(&self) -> bool {
        self.agent_id.or(self.agent_name).is_some()
    }

    /// Whether the profile `ai_operation` is declared.
    pub(super) fn has_profile(&self) -> bool {
        self.profile
    }

    /// Writes the attributes of the profile.
    pub(super) fn write(&self, json: &mut Json<'_>) {
        if !self.profile {
            return;
        }
        if self.names_agent {
            json.object("ai_agent");
            self.write_agent(json);
            if let Some(conversation) = self.conversation {
                json.str("instance_uid", conversation);
            }
            self.write_model(json);
            json.end_object();
        } else {
            self.write_model(json);
        }
        self.write_message_context(json);
    }

    fn write_agent(&self, json: &mut Json<'_>) {
        for (name, text) in [("uid", self.agent_id), ("name", self.agent_name), ("version", self.agent_version)] {
            if let Some(text) = text {
                json.str(name, text);
            }
        }
    }

    fn write_model(&self, json: &mut Json<'_>) {
        if let Some((name, provider)) = self.model {
            json.object("ai_model");
            json.str("name", name);
            json.str("ai_provider", provider);
            json.end_object();
        }
    }

    fn write_message_context(&self, json: &mut Json<'_>) {
        let counts = self.input_tokens.or(self.output_tokens).is_some();
        if !self.has_agent() && self.conversation.is_none() && !counts {
            return;
        }
        // The object must name an application or a service: the agent, else whoever runs the model.
        let provider = self.model.map(|(_, provider)| provider);
        if !self.has_agent() && provider.is_none() {
            return;
        }
        json.object("message_context");
        if let Some(conversation) = self.conversation {
            json.str("uid", conversation);
        }
        if self.has_agent() {
            json.int("ai_role_id", 4);
            json.word("ai_role", "Agent");
        }
        json.object("service");
        if self.has_agent() {
            self.write_agent(json);
        } else if let Some(provider) = provider {
            json.str("name", provider);
        }
        json.end_object();
        if let Some(tokens) = self.input_tokens {
            json.int("prompt_tokens", tokens);
        }
        if let Some(tokens) = self.output_tokens {
            json.int("completion_tokens", tokens);
        }
        json.end_object();
    }
}
