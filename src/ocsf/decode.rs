//! OCSF back to the audit event: the exact reversal of the encoder.

use std::fmt;

use serde_json::{Map, Value, json};

use super::address;
use super::class::Class::{self, Api, Authentication, File, Network, Process};
use super::class::OTHER;
use super::synthesized::Invented;
use crate::event::{
    ActorInfo, AuditEvent, EventMetadata, PolicyInfo, ResourceInfo, UNCLASSIFIED_CATEGORY_UID, UNCLASSIFIED_CLASS_UID,
};

/// Why a text could not be turned back into an audit event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    path: String,
    what: String,
}

impl DecodeError {
    fn new(path: impl Into<String>, what: impl fmt::Display) -> Self {
        Self { path: path.into(), what: what.to_string() }
    }

    /// Where in the OCSF event it is, such as `unmapped.audit_event.actor`; empty for the event itself.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.what) } else { write!(f, "{}: {}", self.path, self.what) }
    }
}

impl std::error::Error for DecodeError {}

type Result<T> = std::result::Result<T, DecodeError>;

/// Rebuilds the audit event from the OCSF event that [`encode`](super::encode()) made of it, byte for byte of its texts.
///
/// Events of other producers are refused: an audit event made of them would have lost what they say.
///
/// # Errors
/// The text is not a JSON object, nests deeper than 128, or is not an event that we made.
pub fn decode(text: &str) -> Result<AuditEvent> {
    let ocsf: Value = serde_json::from_str(text).map_err(|error| DecodeError::new("", format!("not JSON: {error}")))?;
    let Value::Object(ocsf) = ocsf else { return Err(DecodeError::new("", "not a JSON object")) };
    let event = Reader::new(&ocsf)?.read()?;
    // What stands in `unmapped` is data like any other: the event's own reader judges it.
    serde_json::from_value(event).map_err(|error| DecodeError::new("", format!("not an audit event: {error}")))
}

struct Reader<'a> {
    ocsf: &'a Map<String, Value>,
    class: Class,
    activity: u32,
}

impl<'a> Reader<'a> {
    fn new(ocsf: &'a Map<String, Value>) -> Result<Self> {
        let number = |name: &str| match ocsf.get(name) {
            Some(value) => value.as_u64().ok_or_else(|| DecodeError::new(name, "not a whole number")),
            None => Err(DecodeError::new(name, "missing")),
        };
        let class_uid = number("class_uid")?;
        let class = Class::from_uid(class_uid).ok_or_else(|| {
            DecodeError::new("class_uid", format!("{class_uid} is no class that audit events become"))
        })?;
        let activity = u32::try_from(number("activity_id")?).unwrap_or(u32::MAX);
        Ok(Self { ocsf, class, activity })
    }

    /// A value deep in the OCSF event.
    fn get(&self, path: &str) -> Option<&'a Value> {
        let mut names = path.split('.');
        let mut value = self.ocsf.get(names.next()?)?;
        for name in names {
            value = value.get(name)?;
        }
        Some(value)
    }

    fn text(&self, path: &str) -> Result<Option<&'a str>> {
        match self.get(path) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(DecodeError::new(path, "not text")),
        }
    }

    /// A text that our encoder always writes.
    fn ours(&self, path: &str) -> Result<&'a str> {
        self.text(path)?
            .ok_or_else(|| DecodeError::new(path, "missing: only events made from audit events can be turned back"))
    }

    fn is_invented(&self, invented: Invented) -> bool {
        let list = self.get("unmapped.audit_synthesized").and_then(Value::as_array);
        list.is_some_and(|list| list.iter().any(|path| path.as_str() == Some(invented.path())))
    }

    fn read(&self) -> Result<Value> {
        let outcome = self.ours("status_code")?;
        if !matches!(outcome, "permit" | "deny" | "error" | "info") {
            return Err(DecodeError::new(
                "status_code",
                format!(
                    "{outcome:?} is not permit, deny, error or info: only events made from audit events can be turned back"
                ),
            ));
        }
        let product = if self.is_invented(Invented::Product) { None } else { self.text("metadata.product.name")? };
        let mut event = json!({
            "time": self.ours("metadata.original_time")?,
            "class_uid": UNCLASSIFIED_CLASS_UID,
            "category_uid": UNCLASSIFIED_CATEGORY_UID,
            "severity_id": self.severity()?,
            "type_name": self.text("metadata.event_code")?.unwrap_or(""),
            "uid": self.text("metadata.uid")?.unwrap_or(""),
            "action": self.action()?,
            "outcome": outcome,
            "actor": self.actor()?,
            "resource": self.resource()?,
            "policy": self.policy()?,
            "metadata": {
                "product_name": product.unwrap_or(""),
                "vendor_name": self.text("metadata.product.vendor_name")?.unwrap_or(""),
                "product_version": self.text("metadata.product.version")?.unwrap_or(""),
                "hostname": self.text("device.hostname")?,
            },
        });
        self.add_difference(&mut event, "unmapped.audit_event", |value, _| Ok(value.clone()))?;
        self.add_difference(&mut event, "unmapped.audit_deep", |value, path| {
            let text = value.as_str().ok_or_else(|| DecodeError::new(path, "not text"))?;
            serde_json::from_str(text).map_err(|error| DecodeError::new(path, format!("not JSON: {error}")))
        })?;
        self.take_absent(&mut event)?;
        Ok(event)
    }

    fn severity(&self) -> Result<u32> {
        let bad = |path, what: &str| DecodeError::new(path, what);
        match self.ocsf.get("severity_id").and_then(Value::as_u64) {
            Some(99) => {
                let text = self.ours("severity")?;
                text.parse().map_err(|_| {
                    bad("severity", "not a number, as severity_id 99 has in events made from audit events")
                })
            }
            Some(id @ 0..=6) => Ok(id as u32),
            _ => Err(bad("severity_id", "not 0 to 6 or 99")),
        }
    }

    fn action(&self) -> Result<&'a str> {
        match self.class {
            Api if self.is_invented(Invented::Operation) => Ok(""),
            Api => self.ours("api.operation"),
            _ if self.activity == OTHER => self.ours("activity_name"),
            class => Ok(class.verb(self.activity)),
        }
    }

    fn actor(&self) -> Result<Value> {
        let user = if self.class == Authentication { "user" } else { "actor.user" };
        let client = if self.class.has_client() { self.text("src_endpoint.ip")? } else { None };
        let [user_id, email, org_id] = [
            self.text(&format!("{user}.uid"))?,
            self.text(&format!("{user}.email_addr"))?,
            self.text(&format!("{user}.org.uid"))?,
        ];
        if user_id.or(email).or(org_id).or(client).is_none() {
            return Ok(Value::Null);
        }
        Ok(json!({"user_id": user_id, "email": email, "org_id": org_id, "ip_address": client}))
    }

    fn resource(&self) -> Result<Value> {
        let resource =
            |kind: &str, id: Option<&str>| json!({"resource_type": kind, "resource_id": id, "attributes": {}});
        Ok(match self.class {
            Api => {
                let Some(resources) = self.ocsf.get("resources") else { return Ok(Value::Null) };
                let Some([Value::Object(first)]) = resources.as_array().map(Vec::as_slice) else {
                    return Err(DecodeError::new("resources", "not one object, as in events made from audit events"));
                };
                json!({
                    "resource_type": first.get("type").cloned().unwrap_or_else(|| "".into()),
                    "resource_id": first.get("uid"),
                    "attributes": first.get("data").cloned().unwrap_or_else(|| json!({})),
                })
            }
            File => resource("file", Some(self.ours("file.path")?)),
            Process => match self.text("process.sandbox")? {
                Some(sandbox) => resource("sandbox", Some(sandbox)),
                None => Value::Null,
            },
            Network => {
                let host = match self.text("dst_endpoint.ip")? {
                    Some(ip) => ip,
                    None => self.ours("dst_endpoint.hostname")?,
                };
                let mut id = String::new();
                let _ = address::compose(host, self.get("dst_endpoint.port").and_then(Value::as_u64), &mut id);
                resource("network", Some(&id))
            }
            _ => Value::Null,
        })
    }

    fn policy(&self) -> Result<Value> {
        let (id, name, version) = (self.text("policy.uid")?, self.text("policy.name")?, self.text("policy.version")?);
        if id.or(name).is_none() {
            return Ok(Value::Null);
        }
        let version = match version {
            Some(text) => {
                Some(text.parse::<u64>().map_err(|_| DecodeError::new("policy.version", "not a whole number"))?)
            }
            None => None,
        };
        Ok(json!({"policy_id": id.unwrap_or(""), "policy_name": name, "policy_version": version}))
    }

    /// Lays the difference over the event. Only the event's own four objects are merged; every other value is one piece.
    fn add_difference(
        &self,
        event: &mut Value,
        path: &str,
        convert: impl Fn(&Value, &str) -> Result<Value>,
    ) -> Result<()> {
        let Some(difference) = self.get(path) else { return Ok(()) };
        let difference = difference.as_object().ok_or_else(|| DecodeError::new(path, "not an object"))?;
        for (name, value) in difference {
            let path = format!("{path}.{name}");
            let inner = match name.as_str() {
                "actor" => ActorInfo::FIELDS,
                "resource" => ResourceInfo::FIELDS,
                "policy" => PolicyInfo::FIELDS,
                "metadata" => EventMetadata::FIELDS,
                _ => {
                    event[name] = convert(value, &path)?;
                    continue;
                }
            };
            let members = value.as_object().ok_or_else(|| DecodeError::new(&path, "not an object"))?;
            if event[name].is_null() {
                event[name] = inner.iter().map(|name| ((*name).to_owned(), empty(name))).collect::<Map<_, _>>().into();
            }
            for (member, value) in members {
                event[name][member] = convert(value, &format!("{path}.{member}"))?;
            }
        }
        Ok(())
    }

    fn take_absent(&self, event: &mut Value) -> Result<()> {
        const PATH: &str = "unmapped.audit_absent";
        let Some(list) = self.get(PATH) else { return Ok(()) };
        let list = list.as_array().ok_or_else(|| DecodeError::new(PATH, "not an array"))?;
        for field in list {
            let field = field.as_str().ok_or_else(|| DecodeError::new(PATH, "not texts"))?;
            let (object, name) = match field.split_once('.') {
                Some((object, name)) => (event.get_mut(object), name),
                None => (Some(&mut *event), field),
            };
            let object = object
                .filter(|_| field.contains('.') || AuditEvent::FIELDS.contains(&name))
                .and_then(Value::as_object_mut);
            let gone = object.and_then(|object| object.remove(name));
            let gone = gone.ok_or_else(|| DecodeError::new(PATH, format!("{field:?} is no field of this event")))?;
            // These three have no value when they are missing; the others have a default, which is written like any value.
            if matches!(field, "actor" | "resource" | "policy") && !gone.is_null() {
                return Err(DecodeError::new(PATH, format!("{field:?} is there all the same")));
            }
        }
        Ok(())
    }
}

/// What a field of one of the inner objects is before anything is known of it.
fn empty(name: &str) -> Value {
    match name {
        "resource_type" | "policy_id" => "".into(),
        "attributes" => json!({}),
        _ => Value::Null,
    }
}
