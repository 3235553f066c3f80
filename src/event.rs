//! The audit event as callers build it and as agentkernel's `policy::streaming` writes it.
//!
//! The JSON contract is strict about what is kept: unknown fields, numbers up to `u64::MAX`, the time's text, and whether an
//! optional field was `null` or missing all survive a read and a write. Equality is equality of that JSON.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

/// `class_uid` of an event that leaves its classification to the mapper.
pub const UNCLASSIFIED_CLASS_UID: u32 = 3001;
/// `category_uid` that accompanies [`UNCLASSIFIED_CLASS_UID`].
pub const UNCLASSIFIED_CATEGORY_UID: u32 = 3;

/// One audit event. Build it with [`new_audit_event`], a struct literal, or from JSON.
#[derive(Debug, Clone)]
pub struct AuditEvent {
    /// When it happened, RFC 3339. The text is kept as written.
    pub time: String,
    /// OCSF class; [`UNCLASSIFIED_CLASS_UID`] (the default) lets the mapper choose.
    pub class_uid: u32,
    /// Kept for compatibility; the category always follows from the class.
    pub category_uid: u32,
    /// OCSF severity: 0 Unknown, 1 Informational (default), 2 Low, 3 Medium, 4 High, 5 Critical, 6 Fatal.
    pub severity_id: u32,
    /// What kind of event: `policy_decision`, `sandbox_operation`, `auth_event`, or a name of the caller's.
    pub type_name: String,
    /// Identity of the event; the same uid twice is a duplicate. [`new_audit_event`] gives a UUIDv7.
    pub uid: String,
    /// What was attempted, such as `Run`, `create`, `login`.
    pub action: String,
    /// How it ended.
    pub outcome: EventOutcome,
    /// Who attempted it.
    pub actor: Option<ActorInfo>,
    /// What it was attempted on.
    pub resource: Option<ResourceInfo>,
    /// The policy that decided.
    pub policy: Option<PolicyInfo>,
    /// The product and host that report the event.
    pub metadata: EventMetadata,
    /// Fields this type does not know, kept and delivered.
    pub extra: Map<String, Value>,
    #[doc(hidden)]
    pub absent: Absent,
}

/// How the audited action ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventOutcome {
    /// It was allowed.
    Permit,
    /// It was refused.
    Deny,
    /// Deciding or doing it failed.
    Error,
    /// Nothing was to be decided.
    Info,
}

/// Who attempted the action.
#[derive(Debug, Clone, Default)]
pub struct ActorInfo {
    /// Identifier of the user.
    pub user_id: Option<String>,
    /// E-mail address of the user.
    pub email: Option<String>,
    /// Identifier of the user's organization (tenant).
    pub org_id: Option<String>,
    /// Address the user came from.
    pub ip_address: Option<String>,
    /// Fields this type does not know, kept and delivered.
    pub extra: Map<String, Value>,
    #[doc(hidden)]
    pub absent: Absent,
}

/// What the action was attempted on.
#[derive(Debug, Clone, Default)]
pub struct ResourceInfo {
    /// Kind of resource, such as `sandbox`, `file`, `network`.
    pub resource_type: String,
    /// Identifier of the resource: a name, a path, `host:port`.
    pub resource_id: Option<String>,
    /// Anything else about the resource.
    pub attributes: HashMap<String, Value>,
    /// Fields this type does not know, kept and delivered.
    pub extra: Map<String, Value>,
    #[doc(hidden)]
    pub absent: Absent,
}

/// The policy that decided.
#[derive(Debug, Clone, Default)]
pub struct PolicyInfo {
    /// Identifier of the policy.
    pub policy_id: String,
    /// Name of the policy.
    pub policy_name: Option<String>,
    /// Version of the policy.
    pub policy_version: Option<u64>,
    /// Fields this type does not know, kept and delivered.
    pub extra: Map<String, Value>,
    #[doc(hidden)]
    pub absent: Absent,
}

/// The product and host that report the event.
#[derive(Debug, Clone)]
pub struct EventMetadata {
    /// Product that reports; default: [`set_product`], else `agentkernel`.
    pub product_name: String,
    /// Vendor of the product; default: [`set_product`], else `agentkernel`.
    pub vendor_name: String,
    /// Version of the product; default: [`set_product`], else empty (unknown).
    pub product_version: String,
    /// Host the event occurred on; `Default` asks the system once per process.
    pub hostname: Option<String>,
    /// Fields this type does not know, kept and delivered.
    pub extra: Map<String, Value>,
    #[doc(hidden)]
    pub absent: Absent,
}

/// Which fields the JSON an event was read from left out, so that writing it leaves them out again.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Absent(u16);

/// The product that reports events, for those that do not say.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Product {
    /// Name, as OCSF `metadata.product.name`.
    pub name: String,
    /// Vendor, as OCSF `metadata.product.vendor_name`.
    pub vendor_name: String,
    /// Version, as OCSF `metadata.product.version`; empty when unknown.
    #[serde(default)]
    pub version: String,
}

static PRODUCT: OnceLock<Product> = OnceLock::new();

/// Sets the product of all events of this process that do not name their own.
///
/// # Errors
/// The product that is already in force, when it is another one: events made before would disagree with those made after.
pub fn set_product(product: Product) -> Result<(), Product> {
    let in_force = PRODUCT.get_or_init(|| product.clone());
    if *in_force == product { Ok(()) } else { Err(in_force.clone()) }
}

fn product() -> Cow<'static, Product> {
    match PRODUCT.get() {
        Some(product) => Cow::Borrowed(product),
        None => Cow::Owned(Product {
            name: "agentkernel".into(),
            vendor_name: "agentkernel".into(),
            version: String::new(),
        }),
    }
}

/// The host's name, asked from the system once per process.
pub(crate) fn hostname() -> Option<&'static str> {
    static HOSTNAME: OnceLock<Option<String>> = OnceLock::new();
    HOSTNAME.get_or_init(|| gethostname::gethostname().into_string().ok().filter(|name| !name.is_empty())).as_deref()
}

impl EventMetadata {
    /// What an event read from JSON gets when it has no `metadata`: the reader's host is not the event's.
    fn unsaid() -> Self {
        let product = product().into_owned();
        Self {
            product_name: product.name,
            vendor_name: product.vendor_name,
            product_version: product.version,
            hostname: None,
            extra: Map::new(),
            absent: Absent::default(),
        }
    }
}

impl Default for EventMetadata {
    fn default() -> Self {
        Self { hostname: hostname().map(str::to_owned), ..Self::unsaid() }
    }
}

impl Default for AuditEvent {
    /// An unclassified informational event with empty texts, for `..Default::default()`.
    fn default() -> Self {
        Self {
            time: String::new(),
            class_uid: UNCLASSIFIED_CLASS_UID,
            category_uid: UNCLASSIFIED_CATEGORY_UID,
            severity_id: 1,
            type_name: String::new(),
            uid: String::new(),
            action: String::new(),
            outcome: EventOutcome::Info,
            actor: None,
            resource: None,
            policy: None,
            metadata: EventMetadata::default(),
            extra: Map::new(),
            absent: Absent::default(),
        }
    }
}

impl EventOutcome {
    /// The name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permit => "permit",
            Self::Deny => "deny",
            Self::Error => "error",
            Self::Info => "info",
        }
    }

    /// The severity that [`new_audit_event`] gives: permit and info 1, deny 3, error 4.
    pub fn severity_id(self) -> u32 {
        match self {
            Self::Permit | Self::Info => 1,
            Self::Deny => 3,
            Self::Error => 4,
        }
    }
}

/// A new event that happens now, with a UUIDv7 as `uid` and the severity of its outcome.
pub fn new_audit_event(type_name: &str, action: &str, outcome: EventOutcome) -> AuditEvent {
    AuditEvent {
        time: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
        severity_id: outcome.severity_id(),
        type_name: type_name.to_owned(),
        uid: uuid::Uuid::now_v7().to_string(),
        action: action.to_owned(),
        outcome,
        ..AuditEvent::default()
    }
}

impl AuditEvent {
    /// Sets [`actor`](Self::actor).
    #[must_use]
    pub fn with_actor(mut self, actor: ActorInfo) -> Self {
        self.actor = Some(actor);
        self
    }

    /// Sets [`resource`](Self::resource).
    #[must_use]
    pub fn with_resource(mut self, resource: ResourceInfo) -> Self {
        self.resource = Some(resource);
        self
    }

    /// Sets [`policy`](Self::policy).
    #[must_use]
    pub fn with_policy(mut self, policy: PolicyInfo) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Sets [`severity_id`](Self::severity_id).
    #[must_use]
    pub fn with_severity_id(mut self, severity_id: u32) -> Self {
        self.severity_id = severity_id;
        self
    }

    /// Sets [`time`](Self::time) from a clock reading.
    #[must_use]
    pub fn with_time<Tz: chrono::TimeZone>(mut self, time: chrono::DateTime<Tz>) -> Self
    where
        Tz::Offset: fmt::Display,
    {
        self.time = time.to_rfc3339();
        self
    }

    /// Adds a field of the caller's own, beside the known ones.
    #[must_use]
    pub fn with_extra(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extra.insert(name.into(), value.into());
        self
    }
}

impl ActorInfo {
    /// An actor known by its user identifier.
    pub fn user(user_id: impl Into<String>) -> Self {
        Self { user_id: Some(user_id.into()), ..Self::default() }
    }

    /// Sets [`email`](Self::email).
    #[must_use]
    pub fn with_email(mut self, email: impl Into<String>) -> Self {
        self.email = Some(email.into());
        self
    }

    /// Sets [`org_id`](Self::org_id).
    #[must_use]
    pub fn with_org_id(mut self, org_id: impl Into<String>) -> Self {
        self.org_id = Some(org_id.into());
        self
    }

    /// Sets [`ip_address`](Self::ip_address).
    #[must_use]
    pub fn with_ip_address(mut self, ip_address: impl fmt::Display) -> Self {
        self.ip_address = Some(ip_address.to_string());
        self
    }
}

impl ResourceInfo {
    /// A resource of a type, with its identifier.
    pub fn new(resource_type: impl Into<String>, resource_id: impl Into<String>) -> Self {
        Self { resource_type: resource_type.into(), resource_id: Some(resource_id.into()), ..Self::default() }
    }

    /// Adds one of [`attributes`](Self::attributes).
    #[must_use]
    pub fn with_attribute(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }
}

impl PolicyInfo {
    /// A policy known by its identifier.
    pub fn new(policy_id: impl Into<String>) -> Self {
        Self { policy_id: policy_id.into(), ..Self::default() }
    }

    /// Sets [`policy_name`](Self::policy_name).
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.policy_name = Some(name.into());
        self
    }

    /// Sets [`policy_version`](Self::policy_version).
    #[must_use]
    pub fn with_version(mut self, version: u64) -> Self {
        self.policy_version = Some(version);
        self
    }
}

/// An object's key, borrowed from the input when it has no escapes.
struct Name<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }
            fn visit_borrowed_str<E: de::Error>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

/// Reads and writes a struct as an object that also keeps unknown fields and remembers which optional ones were missing.
///
/// serde's `flatten` would buffer every event to do the first, and cannot do the second. Each field names its default, if any.
macro_rules! object {
    ($type:ident, $what:literal, $($field:ident: $default:expr,)*) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct ObjectVisitor;
                impl<'de> Visitor<'de> for ObjectVisitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<$type, A::Error> {
                        $(let mut $field = None;)*
                        let mut extra = Map::new();
                        while let Some(Name(name)) = map.next_key()? {
                            match &*name {
                                $(stringify!($field) => {
                                    if $field.replace(map.next_value()?).is_some() {
                                        return Err(de::Error::duplicate_field(stringify!($field)));
                                    }
                                })*
                                _ => {
                                    if extra.contains_key(&*name) {
                                        return Err(de::Error::custom(format_args!("duplicate field `{name}`")));
                                    }
                                    let value = map.next_value()?;
                                    extra.insert(name.into_owned(), value);
                                }
                            }
                        }
                        let mut absent = Absent::default();
                        let mut bit = 1;
                        $(
                            let $field = match $field {
                                Some(value) => value,
                                None => absent.default_of(bit, stringify!($field), $default)?,
                            };
                            bit <<= 1;
                        )*
                        let _ = bit;
                        Ok($type { $($field,)* extra, absent })
                    }
                }
                deserializer.deserialize_map(ObjectVisitor)
            }
        }

        impl $type {
            /// The known fields, in the order in which they are written.
            pub(crate) const FIELDS: &[&str] = &[$(stringify!($field)),*];

            /// The fields that are left out when this is written: those the source left out, unless they have a value since.
            pub(crate) fn left_out(&self) -> Absent {
                if self.absent == Absent::default() {
                    return self.absent;
                }
                let mut left_out = Absent::default();
                let mut bit = 1;
                $(
                    if self.absent.leaves_out(bit, &self.$field, $default) {
                        left_out.0 |= bit;
                    }
                    bit <<= 1;
                )*
                let _ = bit;
                left_out
            }
        }

        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                $(self.$field == other.$field &&)* self.extra == other.extra && self.left_out() == other.left_out()
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(None)?;
                let left_out = self.left_out();
                let mut bit = 1;
                $(
                    if left_out.0 & bit == 0 {
                        map.serialize_entry(stringify!($field), &self.$field)?;
                    }
                    bit <<= 1;
                )*
                let _ = bit;
                for (name, value) in &self.extra {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    };
}

impl Absent {
    fn default_of<T, E: de::Error>(
        &mut self,
        bit: u16,
        name: &'static str,
        default: Option<fn() -> T>,
    ) -> Result<T, E> {
        let default = default.ok_or_else(|| E::missing_field(name))?;
        self.0 |= bit;
        Ok(default())
    }

    /// Whether the source left the field out and it has no value since.
    fn leaves_out<T: PartialEq>(self, bit: u16, value: &T, default: Option<fn() -> T>) -> bool {
        self.0 & bit != 0 && default.is_some_and(|default| *value == default())
    }

    /// The names in it, of an object's [`FIELDS`](AuditEvent::FIELDS).
    pub(crate) fn names(self, fields: &'static [&'static str]) -> impl Iterator<Item = &'static str> {
        fields.iter().enumerate().filter(move |(place, _)| self.0 & (1 << place) != 0).map(|(_, name)| *name)
    }
}

object!(AuditEvent, "an audit event (a JSON object)",
    time: None,
    class_uid: Some(|| UNCLASSIFIED_CLASS_UID),
    category_uid: Some(|| UNCLASSIFIED_CATEGORY_UID),
    severity_id: Some(|| 1),
    type_name: None,
    uid: None,
    action: None,
    outcome: None,
    actor: Some(|| None),
    resource: Some(|| None),
    policy: Some(|| None),
    metadata: Some(EventMetadata::unsaid),
);

object!(ActorInfo, "an actor (a JSON object)",
    user_id: Some(|| None),
    email: Some(|| None),
    org_id: Some(|| None),
    ip_address: Some(|| None),
);

object!(ResourceInfo, "a resource (a JSON object)",
    resource_type: None,
    resource_id: Some(|| None),
    attributes: Some(HashMap::new),
);

object!(PolicyInfo, "a policy (a JSON object)",
    policy_id: None,
    policy_name: Some(|| None),
    policy_version: Some(|| None),
);

object!(EventMetadata, "metadata (a JSON object)",
    product_name: Some(|| product().into_owned().name),
    vendor_name: Some(|| product().into_owned().vendor_name),
    product_version: Some(|| product().into_owned().version),
    hostname: Some(|| None),
);

#[cfg(test)]
mod tests {
    use super::*;

    /// Copied from agentkernel's contract: events as its module writes them.
    const EVENTS: &str = include_str!("../tests/data/compat/events.jsonl");

    fn minimal() -> AuditEvent {
        serde_json::from_str(r#"{"time":"t","type_name":"n","uid":"u","action":"a","outcome":"permit"}"#).unwrap()
    }

    #[test]
    fn every_compatibility_event_is_written_back_as_it_was_read() {
        assert_eq!(EVENTS.lines().count(), 16);
        for line in EVENTS.lines() {
            let event: AuditEvent = serde_json::from_str(line).unwrap();
            let written = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), serde_json::from_str::<Value>(line).unwrap());
            assert_eq!(serde_json::from_str::<AuditEvent>(&written).unwrap(), event);
        }
    }

    #[test]
    fn unknown_fields_are_kept_in_every_object() {
        let line = r#"{"time":"t","type_name":"n","uid":"u","action":"a","outcome":"info","x":18446744073709551615,
            "actor":{"y":1.0},"resource":{"resource_type":"r","z":null},"policy":{"policy_id":"p","w":[1]},"metadata":{"v":{}}}"#;
        let event: AuditEvent = serde_json::from_str(line).unwrap();
        assert_eq!(event.extra["x"], u64::MAX);
        assert_eq!(serde_json::to_value(&event).unwrap(), serde_json::from_str::<Value>(line).unwrap());
    }

    #[test]
    fn null_and_missing_are_told_apart_until_a_value_is_set() {
        let mut event = minimal();
        assert_eq!(serde_json::to_value(&event).unwrap().as_object().unwrap().len(), 5);
        event.actor = Some(ActorInfo::user("u-1"));
        event.severity_id = 4;
        let written = serde_json::to_value(&event).unwrap();
        assert_eq!(written["severity_id"], 4);
        assert_eq!(written["actor"]["email"], Value::Null, "an actor built here names all its fields");
        let read_back: AuditEvent = serde_json::from_value(written).unwrap();
        assert_eq!(read_back, event, "equality is equality of the JSON");
    }

    #[test]
    fn an_event_built_here_is_read_back_equal() {
        let event = new_audit_event("policy_decision", "Run", EventOutcome::Deny)
            .with_actor(ActorInfo::user("u").with_ip_address(std::net::Ipv4Addr::LOCALHOST))
            .with_resource(ResourceInfo::new("sandbox", "s").with_attribute("n", u64::MAX))
            .with_policy(PolicyInfo::new("p").with_version(u64::MAX))
            .with_extra("trace_id", "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(event.severity_id, 3);
        assert_eq!(uuid::Uuid::parse_str(&event.uid).unwrap().get_version_num(), 7);
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<AuditEvent>(&text).unwrap(), event);
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let event = minimal();
        assert_eq!((event.class_uid, event.category_uid, event.severity_id), (3001, 3, 1));
        assert_eq!(event.metadata.product_name, "agentkernel");
        assert_eq!(event.metadata.vendor_name, "agentkernel");
        assert_eq!(event.metadata.hostname, None, "the reader's host is not the event's");
    }

    #[test]
    fn defect_13_the_product_version_is_never_this_crates_own() {
        assert_eq!(minimal().metadata.product_version, "");
        assert_eq!(EventMetadata::default().product_version, "");
    }

    #[test]
    fn defect_10_the_hostname_is_looked_up_once_and_by_a_system_call() {
        let (first, second) = (hostname().unwrap(), hostname().unwrap());
        assert!(std::ptr::eq(first, second), "the second look-up returns the first one's text");
        let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname");
        if let Ok(kernel) = kernel {
            assert_eq!(first, kernel.trim(), "the kernel's name, whatever $HOSTNAME says");
        }
    }

    #[test]
    fn bad_events_are_refused_with_the_field_named() {
        for (line, why) in [
            (r#"{"type_name":"n","uid":"u","action":"a","outcome":"permit"}"#, "missing field `time`"),
            (r#"{"time":"t","time":"t"}"#, "duplicate field `time`"),
            (r#"{"x":1,"x":1}"#, "duplicate field `x`"),
            (r#"{"outcome":"maybe"}"#, "unknown variant `maybe`"),
            (r#"{"severity_id":-1}"#, "expected u32"),
            (r#"[]"#, "an audit event (a JSON object)"),
        ] {
            let error = serde_json::from_str::<AuditEvent>(line).unwrap_err().to_string();
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
