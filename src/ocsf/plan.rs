//! What an event becomes, decided once: its class, and which of its fields OCSF can hold.

use serde_json::Value;

use super::activity::{self, Verb};
use super::address::{Endpoint, Ip, is_email};
use super::ai::Operation;
use super::class::Class::{self, Api, Authentication, Base, File, Network, Process};
use super::class::{LAUNCH, OTHER, UNKNOWN};
use super::context::Context;
use super::time::{self, Time};
use super::{Mapping, Span};
use crate::event::{AuditEvent, EventOutcome, ResourceInfo, UNCLASSIFIED_CLASS_UID};

/// Everything that encoding an event and finding its difference both need to know.
pub(super) struct Plan<'a> {
    pub(super) event: &'a AuditEvent,
    pub(super) mapping: &'a Mapping,
    pub(super) class: Class,
    pub(super) activity: u32,
    pub(super) time: Time,
    /// The actor's e-mail address, where OCSF admits it.
    pub(super) email: Option<&'a str>,
    /// The client's address, where the class has a place for it.
    pub(super) client: Option<Ip>,
    /// What `resource_id` says about the network.
    pub(super) endpoint: Option<Endpoint<'a>>,
    pub(super) pid: Option<i64>,
    pub(super) context: Option<Context>,
    pub(super) operation: Option<Operation<'a>>,
}

/// An empty text says nothing, and OCSF's constraints mean that.
pub(super) fn said(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

impl<'a> Plan<'a> {
    pub(super) fn new(event: &'a AuditEvent, mapping: &'a Mapping, span: Option<&Span>) -> Self {
        let resource = event.resource.as_ref();
        let endpoint = resource
            .filter(|resource| event.class_uid == Network.uid() || is_network(resource))
            .and_then(|resource| Endpoint::parse(said(&resource.resource_id)?));
        let pid = resource.and_then(|resource| resource.attributes.get("pid")).and_then(Value::as_i64);
        let (class, activity) = match asked_for(event, endpoint.is_some(), pid.is_some()) {
            Some(class) => (class, activity::of(class, &event.action)),
            None => classify(event, endpoint.is_some(), pid.is_some()),
        };
        let client =
            event.actor.as_ref().filter(|_| class.has_client()).and_then(|actor| Ip::parse(said(&actor.ip_address)?));
        Self {
            event,
            mapping,
            class,
            activity,
            time: time::read(&event.time, &event.uid),
            email: event.actor.as_ref().and_then(|actor| said(&actor.email).filter(|email| is_email(email))),
            client,
            endpoint: endpoint.filter(|_| matches!(class, Network | Api)),
            pid: pid.filter(|_| class == Process),
            context: Context::of(event, span),
            operation: Operation::of(event, class, mapping.version),
        }
    }

    /// The sandbox that a process was started in; no other kind of resource is one.
    pub(super) fn sandbox(&self) -> Option<&'a str> {
        let resource = self
            .event
            .resource
            .as_ref()
            .filter(|resource| self.class == Process && resource.resource_type == "sandbox")?;
        said(&resource.resource_id)
    }

    /// The path of the file; File System Activity is chosen only when there is one.
    pub(super) fn path(&self) -> &'a str {
        self.event.resource.as_ref().and_then(|resource| said(&resource.resource_id)).unwrap_or("")
    }

    /// One of `resource.attributes`.
    pub(super) fn attribute(&self, name: &str) -> Option<&'a Value> {
        self.event.resource.as_ref()?.attributes.get(name)
    }

    /// Whether there is an actor of whom something is to be said in OCSF.
    pub(super) fn has_user(&self) -> bool {
        self.event.actor.as_ref().is_some_and(|actor| {
            [&actor.user_id, &actor.email, &actor.org_id].into_iter().any(|text| said(text).is_some())
        })
    }
}

fn is_network(resource: &ResourceInfo) -> bool {
    resource.resource_type.eq_ignore_ascii_case("network")
}

/// The class that the event names, when that is one of ours and the event has what it requires.
fn asked_for(event: &AuditEvent, endpoint: bool, pid: bool) -> Option<Class> {
    if event.class_uid == UNCLASSIFIED_CLASS_UID {
        return None;
    }
    let class = Class::from_uid(event.class_uid.into())?;
    let has_all = match class {
        Base => true,
        File => event.resource.as_ref().is_some_and(|resource| said(&resource.resource_id).is_some()),
        Process => pid,
        Authentication => {
            event.actor.as_ref().is_some_and(|actor| said(&actor.user_id).or(said(&actor.email)).is_some())
        }
        Network => endpoint,
        Api => !event.action.is_empty(),
    };
    has_all.then_some(class)
}

/// The class table.
fn classify(event: &AuditEvent, endpoint: bool, pid: bool) -> (Class, u32) {
    let api = |event: &AuditEvent| (Api, activity::of(Api, &event.action));
    match event.type_name.as_str() {
        "policy_decision" => api(event),
        "auth_event" => (Authentication, activity::of(Authentication, &event.action)),
        "sandbox_operation" => {
            let verb = Verb::of(&event.action);
            let known = |class| activity::known(class, verb.as_str()).map(|activity| (class, activity));
            let resource = event.resource.as_ref();
            let is_file = resource.is_some_and(|resource| {
                resource.resource_type.eq_ignore_ascii_case("file") && said(&resource.resource_id).is_some()
            });
            let class = match resource {
                Some(_) if is_file => known(File),
                Some(resource) if endpoint && is_network(resource) => known(Network),
                Some(_) if pid => known(Process).filter(|(_, activity)| *activity == LAUNCH),
                _ => None,
            };
            class.unwrap_or_else(|| api(event))
        }
        _ if event.action.is_empty() => (Base, UNKNOWN),
        _ if event.actor.is_some() || event.resource.is_some() => api(event),
        _ => (Base, OTHER),
    }
}

/// `status_id`, `action_id` and `disposition_id`.
pub(super) type Verdict = (u32, u32, u32);

/// What an outcome means to OCSF.
pub(super) fn verdict(event: &AuditEvent) -> Verdict {
    match event.outcome {
        EventOutcome::Permit => (1, 1, 1),
        EventOutcome::Deny if event.type_name == "policy_decision" => (2, 2, 26),
        EventOutcome::Deny => (2, 2, 2),
        EventOutcome::Error => (2, 0, 27),
        EventOutcome::Info => (99, 3, 17),
    }
}
