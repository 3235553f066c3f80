//! Audit event to OCSF: one pass, straight to text.
//!
//! Small members come first and big ones last, because readers scan for the small ones. `time` is the very first: Splunk's
//! OCSF props take the first `"time":` of the text.

use std::ops::Range;
use std::sync::OnceLock;

use serde_json::Value;

use super::address::Host;
use super::class::Class::{Api, Authentication, Base, File, Network, Process};
use super::class::{self, Class, OTHER};
use super::difference;
use super::json::Json;
use super::plan::{Plan, Verdict, said, verdict};
use super::synthesized::{Invented, Synthesized};
use crate::event::{ActorInfo, EventOutcome, PolicyInfo, ResourceInfo};

/// Texts longer than this are not repeated among the observables.
const LONGEST_OBSERVABLE: usize = 512;
/// Most bytes of a part of `message`.
const LONGEST_PART: usize = 256;

/// Appends the event's OCSF JSON.
pub(super) fn write(plan: &Plan<'_>, out: &mut Vec<u8>) {
    out.reserve(2048);
    out.push(b'{');
    Encoder { plan, json: Json::new(out), invented: Synthesized::default(), deep: false }.write();
}

struct Encoder<'p, 'a, 'o> {
    plan: &'p Plan<'a>,
    json: Json<'o>,
    invented: Synthesized,
    /// Whether `resource.attributes` did not fit where they belong.
    deep: bool,
}

impl<'a> Encoder<'_, 'a, '_> {
    fn write(mut self) {
        let (plan, event) = (self.plan, self.plan.event);
        if plan.time.synthesized {
            self.invented.add(Invented::Time);
        }
        self.classification();
        self.message();
        self.metadata();
        if let Some(offset) = plan.time.offset {
            self.json.int("timezone_offset", offset.into());
        }
        self.operation();
        self.actor();
        self.client();
        self.target();
        self.device();
        self.traces();
        let start = self.json.mark();
        if let Some(policy) = &event.policy {
            self.policy(policy);
        }
        self.authorizations(start..self.json.mark());
        self.observables();
        if let Some(resource) = event.resource.as_ref().filter(|_| plan.class == Api) {
            self.resource(resource);
        }
        difference::write(plan, &mut self.json, self.invented, self.deep);
        self.json.end_object();
    }

    fn classification(&mut self) {
        let (plan, event, json) = (self.plan, self.plan.event, &mut self.json);
        json.int("time", plan.time.millis);
        if plan.activity == OTHER {
            class_members(plan.class, OTHER, &event.action, json);
        } else {
            json.members(KEPT.class(plan.class, plan.activity));
        }
        if event.severity_id <= 6 {
            json.members(KEPT.verdict(event.severity_id, event.outcome, verdict(event)));
        } else {
            json.int("severity_id", 99);
            json.int_text("severity", event.severity_id.into());
            verdict_members(event.outcome, verdict(event), json);
        }
        if matches!(event.severity_id, 4..=6) {
            json.name("is_alert");
            json.raw("true");
        }
    }

    /// `Run sandbox build-42 by mira: permit (policy allow-default)`
    fn message(&mut self) {
        let (event, json) = (self.plan.event, &mut self.json);
        let what = if event.action.is_empty() { &event.type_name } else { &event.action };
        json.name("message");
        json.raw("\"");
        json.display(if what.is_empty() { "event" } else { what }, LONGEST_PART);
        if let Some(resource) = &event.resource {
            let kind = Some(resource.resource_type.as_str()).filter(|text| !text.is_empty());
            for part in [kind, said(&resource.resource_id)].into_iter().flatten() {
                json.raw(" ");
                json.display(part, LONGEST_PART);
            }
        }
        let who = |actor: &'a ActorInfo| said(&actor.user_id).or(said(&actor.email)).or(said(&actor.ip_address));
        if let Some(who) = event.actor.as_ref().and_then(who) {
            json.raw(" by ");
            json.display(who, LONGEST_PART);
        }
        json.raw(": ");
        json.raw(event.outcome.as_str());
        let name = |policy: &'a PolicyInfo| {
            said(&policy.policy_name).or(Some(policy.policy_id.as_str()).filter(|text| !text.is_empty()))
        };
        if let Some(policy) = event.policy.as_ref().and_then(name) {
            json.raw(" (policy ");
            json.display(policy, LONGEST_PART);
            json.raw(")");
        }
        json.raw("\"");
    }

    fn metadata(&mut self) {
        let (plan, event) = (self.plan, self.plan.event);
        let product = &event.metadata;
        let json = &mut self.json;
        json.object("metadata");
        json.word("version", plan.mapping.version.as_str());
        for (name, text) in [("uid", &event.uid), ("event_code", &event.type_name)] {
            if !text.is_empty() {
                json.str(name, text);
            }
        }
        if let Some(context) = &plan.context {
            json.str("correlation_uid", context.trace_id.as_str());
        }
        if let Some(org) = event.actor.as_ref().and_then(|actor| said(&actor.org_id)) {
            json.str("tenant_uid", org);
        }
        json.object("product");
        if product.product_name.is_empty() {
            json.word("name", "Unknown");
            self.invented.add(Invented::Product);
        } else {
            json.str("name", &product.product_name);
        }
        for (name, text) in [("vendor_name", &product.vendor_name), ("version", &product.product_version)] {
            if !text.is_empty() {
                json.str(name, text);
            }
        }
        json.end_object();
        json.array("profiles");
        json.text("security_control");
        let session = plan.operation.as_ref().is_some_and(|operation| operation.session.is_some());
        let host = self.plan.class.actor_needs_host() && (plan.has_user() || session);
        if host || self.has_device() {
            self.json.text("host");
        }
        let json = &mut self.json;
        if self.plan.context.is_some() && plan.class == Api {
            json.text("trace");
        }
        if plan.operation.as_ref().is_some_and(|operation| operation.has_profile()) {
            json.text("ai_operation");
        }
        json.end_array();
        json.str("original_time", &event.time);
        json.word("log_name", "audit");
        if !product.product_name.is_empty() {
            json.str("log_provider", &product.product_name);
        }
        json.end_object();
    }

    fn operation(&mut self) {
        if self.plan.class != Api {
            return;
        }
        self.json.object("api");
        if self.plan.event.action.is_empty() {
            self.json.word("operation", "Unknown");
            self.invented.add(Invented::Operation);
        } else {
            self.json.str("operation", &self.plan.event.action);
        }
        self.json.end_object();
    }

    fn actor(&mut self) {
        let plan = self.plan;
        let session = plan.operation.as_ref().and_then(|operation| operation.session);
        if plan.class == Authentication {
            self.user(Invented::AuthUser, Invented::AuthUserName);
            if let Some(session) = session {
                self.json.object("session");
                self.json.str("uid", session);
                self.json.end_object();
            }
            return;
        }
        if plan.class.actor_needs_host() && !plan.has_user() && session.is_none() {
            return;
        }
        self.json.object("actor");
        if plan.has_user() || session.is_none() {
            self.user(Invented::ActorUser, Invented::ActorUserName);
        }
        if let Some(session) = session {
            self.json.object("session");
            self.json.str("uid", session);
            self.json.end_object();
        }
        self.json.end_object();
    }

    /// A user must have a name or a uid. Who has neither is called by the e-mail address, else `Unknown`.
    fn user(&mut self, whole: Invented, name: Invented) {
        let has_user = self.plan.has_user();
        let json = &mut self.json;
        json.object("user");
        let Some(actor) = self.plan.event.actor.as_ref().filter(|_| has_user) else {
            json.word("name", "Unknown");
            json.int("type_id", 0);
            json.word("type", "Unknown");
            json.end_object();
            self.invented.add(whole);
            return;
        };
        match said(&actor.user_id) {
            Some(uid) => json.str("uid", uid),
            None => {
                json.str("name", said(&actor.email).unwrap_or("Unknown"));
                self.invented.add(name);
            }
        }
        if let Some(email) = self.plan.email {
            json.str("email_addr", email);
        }
        if let Some(org) = said(&actor.org_id) {
            json.object("org");
            json.str("uid", org);
            json.end_object();
        }
        json.end_object();
    }

    fn client(&mut self) {
        if !self.plan.class.has_client() {
            return;
        }
        match &self.plan.client {
            Some(client) => {
                self.json.object("src_endpoint");
                self.json.str("ip", client.as_str());
            }
            None if self.plan.class == Api => {
                self.json.object("src_endpoint");
                self.json.word("name", "Unknown");
                self.invented.add(Invented::Client);
            }
            None => return,
        }
        self.json.end_object();
    }

    /// What the class is about, but for `resources`.
    fn target(&mut self) {
        let (plan, event) = (self.plan, self.plan.event);
        let json = &mut self.json;
        match plan.class {
            Base => {}
            Api | Network => {
                if let Some(endpoint) = &plan.endpoint {
                    json.object("dst_endpoint");
                    match &endpoint.host {
                        Host::Ip(ip) => json.str("ip", ip.as_str()),
                        Host::Name(name) => json.str("hostname", name),
                    }
                    if let Some(port) = endpoint.port {
                        json.int("port", port.into());
                    }
                    json.end_object();
                }
            }
            Authentication => {
                json.object("service");
                let product = event.metadata.product_name.as_str();
                json.str("name", if product.is_empty() { "Unknown" } else { product });
                json.end_object();
                self.invented.add(Invented::Service);
            }
            File => {
                let path = plan.path();
                let is_folder = path.ends_with('/');
                json.object("file");
                json.str("name", file_name(path));
                json.str("path", path);
                json.int("type_id", if is_folder { 2 } else { 0 });
                json.word("type", if is_folder { "Folder" } else { "Unknown" });
                json.end_object();
            }
            Process => {
                json.object("process");
                json.int("pid", plan.pid.unwrap_or_default());
                if let Some(sandbox) = plan.sandbox() {
                    json.str("sandbox", sandbox);
                }
                if let Some(Value::String(line)) = plan.attribute("cmd_line") {
                    json.str("cmd_line", line);
                }
                json.end_object();
            }
        }
    }

    fn has_device(&self) -> bool {
        matches!(self.plan.class, File | Process) || said(&self.plan.event.metadata.hostname).is_some()
    }

    fn device(&mut self) {
        if !self.has_device() {
            return;
        }
        self.json.object("device");
        match said(&self.plan.event.metadata.hostname) {
            Some(hostname) => self.json.str("hostname", hostname),
            None => {
                self.json.word("name", "Unknown");
                self.invented.add(Invented::Device);
            }
        }
        self.json.int("type_id", 0);
        self.json.word("type", "Unknown");
        self.json.end_object();
    }

    fn traces(&mut self) {
        if let Some(context) = self.plan.context.as_ref().filter(|_| self.plan.class == Api) {
            self.json.object("trace");
            self.json.str("uid", context.trace_id.as_str());
            self.json.end_object();
        }
        if let Some(operation) = &self.plan.operation {
            operation.write(&mut self.json);
        }
    }

    fn policy(&mut self, policy: &PolicyInfo) {
        // A policy needs an id or a name. A version alone is part of the difference.
        if policy.policy_id.is_empty() && said(&policy.policy_name).is_none() {
            return;
        }
        let json = &mut self.json;
        json.object("policy");
        if !policy.policy_id.is_empty() {
            json.str("uid", &policy.policy_id);
        }
        if let Some(name) = said(&policy.policy_name) {
            json.str("name", name);
        }
        if let Some(version) = policy.policy_version {
            json.int_text("version", version);
        }
        json.end_object();
    }

    /// `policy` is where the policy has been written: with a comma in front, which it needs here too.
    fn authorizations(&mut self, policy: Range<usize>) {
        let event = self.plan.event;
        let decided = matches!(event.outcome, EventOutcome::Permit | EventOutcome::Deny);
        if !decided || (event.policy.is_none() && event.type_name != "policy_decision") {
            return;
        }
        self.json.array("authorizations");
        self.json.comma();
        self.json.raw("{");
        self.json.word("decision", event.outcome.as_str());
        self.json.again(policy);
        self.json.end_object();
        self.json.end_array();
    }

    fn observables(&mut self) {
        let (plan, event) = (self.plan, self.plan.event);
        let mark = self.json.mark();
        self.json.array("observables");
        let start = self.json.mark();
        let writes_user = !plan.class.actor_needs_host() || plan.has_user();
        if let Some(actor) = event.actor.as_ref().filter(|_| writes_user) {
            let (uid, email) = if plan.class == Authentication {
                (
                    r#"{"name":"user.uid","type_id":31,"type":"User Object: uid","value":"#,
                    r#"{"name":"user.email_addr","type_id":5,"type":"Email Address","value":"#,
                )
            } else {
                (
                    r#"{"name":"actor.user.uid","type_id":31,"type":"User Object: uid","value":"#,
                    r#"{"name":"actor.user.email_addr","type_id":5,"type":"Email Address","value":"#,
                )
            };
            self.observable(uid, said(&actor.user_id));
            self.observable(email, plan.email);
        }
        self.observable(
            r#"{"name":"src_endpoint.ip","type_id":2,"type":"IP Address","value":"#,
            plan.client.as_ref().map(|ip| ip.as_str()),
        );
        match plan.endpoint.as_ref().map(|endpoint| &endpoint.host) {
            Some(Host::Ip(ip)) => self
                .observable(r#"{"name":"dst_endpoint.ip","type_id":2,"type":"IP Address","value":"#, Some(ip.as_str())),
            Some(Host::Name(name)) => {
                self.observable(r#"{"name":"dst_endpoint.hostname","type_id":1,"type":"Hostname","value":"#, Some(name))
            }
            None => {}
        }
        self.observable(
            r#"{"name":"device.hostname","type_id":1,"type":"Hostname","value":"#,
            said(&event.metadata.hostname),
        );
        match plan.class {
            Api => self.observable(
                r#"{"name":"resources.uid","type_id":10,"type":"Resource UID","value":"#,
                event.resource.as_ref().and_then(|resource| said(&resource.resource_id)),
            ),
            File => {
                self.observable(r#"{"name":"file.path","type_id":45,"type":"File Path","value":"#, Some(plan.path()))
            }
            Process => {
                let mut text = itoa::Buffer::new();
                let pid = text.format(plan.pid.unwrap_or_default());
                self.observable(r#"{"name":"process.pid","type_id":15,"type":"Process ID","value":"#, Some(pid));
            }
            _ => {}
        }
        if self.json.mark() == start { self.json.undo(mark) } else { self.json.end_array() }
    }

    /// `head` is the observable up to its value.
    fn observable(&mut self, head: &'static str, value: Option<&str>) {
        let Some(value) = value.filter(|value| value.len() <= LONGEST_OBSERVABLE) else { return };
        self.json.comma();
        self.json.raw(head);
        self.json.string(value);
        self.json.end_object();
    }

    fn resource(&mut self, resource: &ResourceInfo) {
        let json = &mut self.json;
        json.array("resources");
        json.comma();
        json.raw("{");
        match said(&resource.resource_id) {
            Some(uid) => json.str("uid", uid),
            // A resource must have a name or a uid.
            None if resource.resource_type.is_empty() => {
                json.word("name", "Unknown");
                self.invented.add(Invented::ResourceName);
            }
            None => {
                json.str("name", &resource.resource_type);
                self.invented.add(Invented::ResourceName);
            }
        }
        if !resource.resource_type.is_empty() {
            json.str("type", &resource.resource_type);
        }
        if !resource.attributes.is_empty() {
            self.deep = !json.map("data", &resource.attributes);
        }
        json.end_object();
        json.end_array();
    }
}

/// What follows from class and activity.
fn class_members(class: Class, activity: u32, activity_name: &str, json: &mut Json<'_>) {
    let caption = class.activity_caption(activity);
    json.int("class_uid", class.uid().into());
    json.word("class_name", class.caption());
    json.int("category_uid", class.category_uid().into());
    json.word("category_name", class::category_name(class.category_uid()));
    json.int("activity_id", activity.into());
    json.str("activity_name", activity_name);
    json.int("type_uid", i64::from(class.uid() * 100 + activity));
    json.name("type_name");
    json.raw("\"");
    json.raw(class.caption());
    json.raw(": ");
    json.raw(caption);
    json.raw("\"");
}

/// What follows from the outcome.
fn verdict_members(outcome: EventOutcome, (status, action, disposition): Verdict, json: &mut Json<'_>) {
    json.int("status_id", status.into());
    json.word("status", if status == 99 { outcome.as_str() } else { class::status_name(status) });
    json.word("status_code", outcome.as_str());
    json.int("action_id", action.into());
    json.word("action", class::action_name(action));
    json.int("disposition_id", disposition.into());
    json.word("disposition", class::disposition_name(disposition));
}

/// Runs of members that are the same in many events, kept as they were first written: a third of an event's names.
struct Kept {
    class: [[OnceLock<Vec<u8>>; Self::ACTIVITIES]; 6],
    verdict: [[OnceLock<Vec<u8>>; Self::VERDICTS]; 7],
}

static KEPT: Kept = Kept {
    class: [const { [const { OnceLock::new() }; Kept::ACTIVITIES] }; 6],
    verdict: [const { [const { OnceLock::new() }; Kept::VERDICTS] }; 7],
};

impl Kept {
    /// One more than the highest id but [`OTHER`].
    const ACTIVITIES: usize = 15;
    /// Four outcomes, one of them with two dispositions.
    const VERDICTS: usize = 5;

    fn class(&self, class: Class, activity: u32) -> &[u8] {
        self.class[class as usize][activity as usize]
            .get_or_init(|| written(|json| class_members(class, activity, class.activity_caption(activity), json)))
    }

    fn verdict(&self, severity: u32, outcome: EventOutcome, verdict: Verdict) -> &[u8] {
        let variant = if verdict.2 == 26 { 4 } else { outcome as usize };
        self.verdict[severity as usize][variant].get_or_init(|| {
            written(|json| {
                json.int("severity_id", severity.into());
                json.word("severity", class::severity_name(severity));
                verdict_members(outcome, verdict, json);
            })
        })
    }
}

/// Members, with a comma in front.
fn written(write: impl FnOnce(&mut Json<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut Json::new(&mut out));
    out
}

/// The last part of a path that is not empty.
fn file_name(path: &str) -> &str {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or("");
    if name.is_empty() { path } else { name }
}
