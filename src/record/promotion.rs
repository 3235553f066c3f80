//! The closed list of what becomes an attribute: a member's place in the event, and the attribute's key.

/// An object of the event that holds promoted values.
#[derive(Debug, Clone, Copy)]
pub(super) enum Parent {
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
}

/// What becomes of a member of it.
pub(super) enum Promotion {
    /// It is an attribute under this key.
    Attribute(&'static str),
    /// Members of it are.
    Object(Parent),
    /// It stays in the body alone.
    None,
}

/// The closed list.
pub(super) fn promotion(parent: Parent, name: &str) -> Promotion {
    use Parent::*;
    use Promotion::{Attribute, Object};
    match parent {
        Event => match name {
            "class_uid" => Attribute("ocsf.class_uid"),
            "class_name" => Attribute("ocsf.class_name"),
            "category_uid" => Attribute("ocsf.category_uid"),
            "category_name" => Attribute("ocsf.category_name"),
            "activity_id" => Attribute("ocsf.activity_id"),
            "activity_name" => Attribute("ocsf.activity_name"),
            "type_uid" => Attribute("ocsf.type_uid"),
            "type_name" => Attribute("ocsf.type_name"),
            "severity_id" => Attribute("ocsf.severity_id"),
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
            _ => Promotion::None,
        },
        Metadata => match name {
            "version" => Attribute("ocsf.metadata.version"),
            "uid" => Attribute("ocsf.metadata.uid"),
            "event_code" => Attribute("ocsf.metadata.event_code"),
            "tenant_uid" => Attribute("ocsf.metadata.tenant_uid"),
            "correlation_uid" => Attribute("ocsf.metadata.correlation_uid"),
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
    }
}
