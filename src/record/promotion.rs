//! The closed list of what becomes an attribute: a member's place in the event, and the attribute's key.

use crate::json::Str;

/// An object of the event that holds promoted values.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Parent {
    /// Holds none.
    Other,
    Event,
    Metadata,
    Product,
    Actor,
    ActorUser,
    ActorSession,
    User,
    SrcEndpoint,
    DstEndpoint,
    Api,
    ApiService,
    Resource,
    Unmapped,
    AuditSpan,
}

/// A field of the record.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Field {
    Time,
    ClassUid,
    ActivityId,
    SeverityId,
    /// The attribute that identifies the record.
    Uid,
    TraceId,
    SpanId,
    TraceFlags,
}

/// What becomes of a member of it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Promotion {
    /// It is an attribute under this key.
    Attribute(&'static str),
    /// It is a field of the record.
    Field(Field),
    /// It is both.
    Both(Field, &'static str),
    /// Members of it are.
    Object(Parent),
    /// It stays in the body alone.
    None,
}

impl Promotion {
    /// What its members are to the closed list, if it is an object.
    pub(crate) fn children(self) -> Parent {
        if let Self::Object(parent) = self { parent } else { Parent::Other }
    }
}

/// What becomes of a member, by its key as it stands in the text.
#[inline]
pub(crate) fn promotion(parent: Parent, key: Str<'_>) -> Promotion {
    // Most members are of no such object, and their keys need no look.
    if let Parent::Other = parent { Promotion::None } else { listed(parent, key.raw()) }
}

/// The closed list.
fn listed(parent: Parent, name: &str) -> Promotion {
    use Parent::*;
    use Promotion::{Attribute, Both, Object};
    match parent {
        Other => Promotion::None,
        Event => match name {
            "time" => Promotion::Field(Field::Time),
            "class_uid" => Both(Field::ClassUid, "ocsf.class_uid"),
            "class_name" => Attribute("ocsf.class_name"),
            "category_uid" => Attribute("ocsf.category_uid"),
            "category_name" => Attribute("ocsf.category_name"),
            "activity_id" => Both(Field::ActivityId, "ocsf.activity_id"),
            "activity_name" => Attribute("ocsf.activity_name"),
            "type_uid" => Attribute("ocsf.type_uid"),
            "type_name" => Attribute("ocsf.type_name"),
            "severity_id" => Both(Field::SeverityId, "ocsf.severity_id"),
            "severity" => Attribute("ocsf.severity"),
            "status_id" => Attribute("ocsf.status_id"),
            "status" => Attribute("ocsf.status"),
            "status_code" => Attribute("ocsf.status_code"),
            "status_detail" => Attribute("ocsf.status_detail"),
            "message" => Attribute("ocsf.message"),
            "action_id" => Attribute("ocsf.action_id"),
            "action" => Attribute("ocsf.action"),
            "disposition_id" => Attribute("ocsf.disposition_id"),
            "metadata" => Object(Metadata),
            "actor" => Object(Actor),
            "user" => Object(User),
            "src_endpoint" => Object(SrcEndpoint),
            "dst_endpoint" => Object(DstEndpoint),
            "api" => Object(Api),
            "resource" => Object(Resource),
            "unmapped" => Object(Unmapped),
            _ => Promotion::None,
        },
        Metadata => match name {
            "version" => Attribute("ocsf.metadata.version"),
            "uid" => Both(Field::Uid, "ocsf.metadata.uid"),
            "event_code" => Attribute("ocsf.metadata.event_code"),
            "tenant_uid" => Attribute("ocsf.metadata.tenant_uid"),
            "correlation_uid" => Both(Field::TraceId, "ocsf.metadata.correlation_uid"),
            "sequence" => Attribute("ocsf.metadata.sequence"),
            "profiles" => Attribute("ocsf.metadata.profiles"),
            "product" => Object(Product),
            _ => Promotion::None,
        },
        Product => match name {
            "name" => Attribute("ocsf.metadata.product.name"),
            "vendor_name" => Attribute("ocsf.metadata.product.vendor_name"),
            _ => Promotion::None,
        },
        Actor => match name {
            "app_name" => Attribute("ocsf.actor.app_name"),
            "user" => Object(ActorUser),
            "session" => Object(ActorSession),
            _ => Promotion::None,
        },
        ActorUser => match name {
            "uid" => Attribute("ocsf.actor.user.uid"),
            "name" => Attribute("ocsf.actor.user.name"),
            "email_addr" => Attribute("ocsf.actor.user.email_addr"),
            "type_id" => Attribute("ocsf.actor.user.type_id"),
            _ => Promotion::None,
        },
        ActorSession => match name {
            "uid" => Attribute("ocsf.actor.session.uid"),
            _ => Promotion::None,
        },
        User => match name {
            "uid" => Attribute("ocsf.user.uid"),
            "name" => Attribute("ocsf.user.name"),
            _ => Promotion::None,
        },
        SrcEndpoint => match name {
            "ip" => Attribute("ocsf.src_endpoint.ip"),
            "port" => Attribute("ocsf.src_endpoint.port"),
            "hostname" => Attribute("ocsf.src_endpoint.hostname"),
            _ => Promotion::None,
        },
        DstEndpoint => match name {
            "ip" => Attribute("ocsf.dst_endpoint.ip"),
            "hostname" => Attribute("ocsf.dst_endpoint.hostname"),
            _ => Promotion::None,
        },
        Api => match name {
            "operation" => Attribute("ocsf.api.operation"),
            "service" => Object(ApiService),
            _ => Promotion::None,
        },
        ApiService => match name {
            "name" => Attribute("ocsf.api.service.name"),
            _ => Promotion::None,
        },
        Resource => match name {
            "uid" => Attribute("ocsf.resource.uid"),
            "name" => Attribute("ocsf.resource.name"),
            "type" => Attribute("ocsf.resource.type"),
            _ => Promotion::None,
        },
        // What OCSF has no place for.
        Unmapped => match name {
            "audit_span" => Object(AuditSpan),
            _ => Promotion::None,
        },
        AuditSpan => match name {
            "span_id" => Promotion::Field(Field::SpanId),
            "trace_flags" => Promotion::Field(Field::TraceFlags),
            _ => Promotion::None,
        },
    }
}
