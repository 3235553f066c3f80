//! `unmapped`: the smallest difference between an event and what the decoder reads from its OCSF attributes.
//! [`crate::ocsf`] has the table of its members.
//!
//! The difference is computed from the same decisions that the encoder writes by, not by decoding. A property test holds the
//! two together.

use serde_json::{Map, Value};

use super::class::Class::{Api, Authentication, Base, File, Network, Process};
use super::json::Json;
use super::plan::{Plan, said};
use super::synthesized::Synthesized;
use crate::event::{
    Absent, ActorInfo, AuditEvent, EventMetadata, PolicyInfo, ResourceInfo, UNCLASSIFIED_CATEGORY_UID,
    UNCLASSIFIED_CLASS_UID,
};

/// What the decoder reads for `resource` from the OCSF attributes.
struct Readable<'a> {
    exists: bool,
    resource_type: &'a str,
    resource_id: Option<&'a str>,
    attributes: bool,
}

/// Writes `unmapped`, unless there is nothing to say.
///
/// `attributes_left` says that `resource.attributes` belong into `resources` but were too deep.
pub(super) fn write(plan: &Plan<'_>, json: &mut Json<'_>, invented: Synthesized, attributes_left: bool) {
    let mark = json.mark();
    json.object("unmapped");
    let start = json.mark();
    let mut difference = Difference { plan, json, attributes_left, deep: attributes_left, as_text: false };
    difference.section("audit_event");
    if difference.deep {
        difference.as_text = true;
        difference.section("audit_deep");
    }
    let first = json.mark();
    json.array("audit_synthesized");
    let empty = json.mark();
    invented.iter().for_each(|invented| json.text(invented.path()));
    if json.mark() == empty {
        json.undo(first)
    } else {
        json.end_array()
    }
    absent(plan, json);
    span(plan, json);
    if json.mark() == start { json.undo(mark) } else { json.end_object() }
}

struct Difference<'p, 'a, 'j, 'o> {
    plan: &'p Plan<'a>,
    json: &'j mut Json<'o>,
    attributes_left: bool,
    /// Some value was too deep for `audit_event`.
    deep: bool,
    /// Writing `audit_deep` now: values that were too deep, and nothing else.
    as_text: bool,
}

impl<'a> Difference<'_, 'a, '_, '_> {
    fn section(&mut self, name: &'static str) {
        let plan = self.plan;
        let event = plan.event;
        self.nested(name, false, |this| {
            if !this.as_text {
                if event.class_uid != UNCLASSIFIED_CLASS_UID {
                    this.json.int("class_uid", event.class_uid.into());
                }
                if event.category_uid != UNCLASSIFIED_CATEGORY_UID {
                    this.json.int("category_uid", event.category_uid.into());
                }
                let read = plan.class.verb(plan.activity);
                let carried = plan.class == Api || plan.activity == super::class::OTHER || event.action == read;
                if !carried {
                    this.json.str("action", &event.action);
                }
            }
            if let Some(actor) = &event.actor {
                this.actor(actor);
            }
            if let Some(resource) = &event.resource {
                this.resource(resource);
            }
            if let Some(policy) = &event.policy {
                this.policy(policy);
            }
            this.metadata(&event.metadata);
            this.extra(&event.extra, AuditEvent::FIELDS);
        });
    }

    /// An object that is left out when it would be empty, unless its being there is the news.
    fn nested(&mut self, name: &'static str, keep: bool, members: impl FnOnce(&mut Self)) {
        let mark = self.json.mark();
        self.json.object(name);
        let start = self.json.mark();
        members(self);
        if self.json.mark() == start && (!keep || self.as_text) { self.json.undo(mark) } else { self.json.end_object() }
    }

    /// A text the decoder reads as `read`, from the OCSF attributes.
    fn text(&mut self, name: &'static str, text: &Option<String>, read: Option<&str>) {
        if self.as_text || text.as_deref() == read {
            return;
        }
        match text {
            Some(text) => self.json.str(name, text),
            None => {
                self.json.name(name);
                self.json.raw("null");
            }
        }
    }

    fn actor(&mut self, actor: &ActorInfo) {
        let plan = self.plan;
        let client = plan.client.as_ref().map(|ip| ip.as_str());
        let read = (said(&actor.user_id), plan.email, said(&actor.org_id), client);
        self.nested("actor", read == (None, None, None, None), |this| {
            this.text("user_id", &actor.user_id, read.0);
            this.text("email", &actor.email, read.1);
            this.text("org_id", &actor.org_id, read.2);
            this.text("ip_address", &actor.ip_address, read.3);
            this.extra(&actor.extra, ActorInfo::FIELDS);
        });
    }

    fn readable<'r>(&self, resource: &'r ResourceInfo) -> Readable<'r>
    where
        'a: 'r,
    {
        let none = Readable {
            exists: false,
            resource_type: "",
            resource_id: None,
            attributes: resource.attributes.is_empty(),
        };
        let id = said(&resource.resource_id);
        match self.plan.class {
            Base | Authentication => none,
            Api => Readable {
                exists: true,
                resource_type: &resource.resource_type,
                resource_id: id,
                attributes: none.attributes || !self.attributes_left,
            },
            File => Readable { exists: true, resource_type: "file", resource_id: id, ..none },
            Process => match self.plan.sandbox() {
                Some(sandbox) => {
                    Readable { exists: true, resource_type: "sandbox", resource_id: Some(sandbox), ..none }
                }
                None => none,
            },
            // The decoder composes a text of its own; one that no event has stands for it here.
            Network => {
                let exact = self.plan.endpoint.as_ref().zip(id).is_some_and(|(endpoint, id)| endpoint.is_exact(id));
                Readable { exists: true, resource_type: "network", resource_id: id.filter(|_| exact), ..none }
            }
        }
    }

    fn resource(&mut self, resource: &ResourceInfo) {
        let read = self.readable(resource);
        self.nested("resource", !read.exists, |this| {
            if !this.as_text && resource.resource_type != read.resource_type {
                this.json.str("resource_type", &resource.resource_type);
            }
            this.text("resource_id", &resource.resource_id, read.resource_id);
            if !read.attributes {
                if this.as_text {
                    this.json.map_as_text("attributes", &resource.attributes);
                } else if this.attributes_left || !this.json.map("attributes", &resource.attributes) {
                    this.deep = true;
                }
            }
            this.extra(&resource.extra, ResourceInfo::FIELDS);
        });
    }

    fn policy(&mut self, policy: &PolicyInfo) {
        let exists = !policy.policy_id.is_empty() || said(&policy.policy_name).is_some();
        self.nested("policy", !exists, |this| {
            this.text("policy_name", &policy.policy_name, said(&policy.policy_name));
            if let Some(version) = policy.policy_version.filter(|_| !exists && !this.as_text) {
                this.json.uint("policy_version", version);
            }
            this.extra(&policy.extra, PolicyInfo::FIELDS);
        });
    }

    fn metadata(&mut self, metadata: &EventMetadata) {
        self.nested("metadata", false, |this| {
            this.text("hostname", &metadata.hostname, said(&metadata.hostname));
            this.extra(&metadata.extra, EventMetadata::FIELDS);
        });
    }

    /// Fields that we do not know. One with a known field's name cannot come from JSON and would be a second field of that name.
    fn extra(&mut self, extra: &Map<String, Value>, known: &[&str]) {
        for (name, value) in extra.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
            if self.as_text {
                self.json.own_as_text(name, value);
            } else if !self.json.own(name, value) {
                self.deep = true;
            }
        }
    }
}

fn absent(plan: &Plan<'_>, json: &mut Json<'_>) {
    let event = plan.event;
    let mark = json.mark();
    json.array("audit_absent");
    let start = json.mark();
    let mut list = |prefix: &'static str, left_out: Absent, fields: &'static [&'static str]| {
        for name in left_out.names(fields) {
            json.comma();
            json.raw("\"");
            json.raw(prefix);
            json.raw(name);
            json.raw("\"");
        }
    };
    list("", event.left_out(), AuditEvent::FIELDS);
    if let Some(actor) = &event.actor {
        list("actor.", actor.left_out(), ActorInfo::FIELDS);
    }
    if let Some(resource) = &event.resource {
        list("resource.", resource.left_out(), ResourceInfo::FIELDS);
    }
    if let Some(policy) = &event.policy {
        list("policy.", policy.left_out(), PolicyInfo::FIELDS);
    }
    list("metadata.", event.metadata.left_out(), EventMetadata::FIELDS);
    if json.mark() == start { json.undo(mark) } else { json.end_array() }
}

fn span(plan: &Plan<'_>, json: &mut Json<'_>) {
    let Some(context) = &plan.context else { return };
    let mark = json.mark();
    json.object("audit_span");
    let start = json.mark();
    if let Some(span_id) = &context.span_id {
        json.str("span_id", span_id.as_str());
    }
    if let Some(flags) = context.flags {
        json.int("trace_flags", flags.into());
    }
    if json.mark() == start { json.undo(mark) } else { json.end_object() }
}
