//! What OCSF requires and an event does not say: made up by the encoder, named in `unmapped.audit_synthesized`.

/// Something made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Invented {
    Time,
    Product,
    Operation,
    ActorUser,
    ActorUserName,
    AuthUser,
    AuthUserName,
    Client,
    Service,
    Device,
    ResourceName,
}

use Invented::*;

const ALL: [Invented; 11] =
    [Time, Product, Operation, ActorUser, ActorUserName, AuthUser, AuthUserName, Client, Service, Device, ResourceName];

impl Invented {
    /// The path in the OCSF event.
    pub(super) fn path(self) -> &'static str {
        match self {
            Time => "time",
            Product => "metadata.product.name",
            Operation => "api.operation",
            ActorUser => "actor.user",
            ActorUserName => "actor.user.name",
            AuthUser => "user",
            AuthUserName => "user.name",
            Client => "src_endpoint",
            Service => "service",
            Device => "device",
            ResourceName => "resources.name",
        }
    }
}

/// A set of what was made up.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Synthesized(u16);

impl Synthesized {
    pub(super) fn add(&mut self, invented: Invented) {
        self.0 |= 1 << invented as u16;
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Invented> {
        ALL.into_iter().filter(move |invented| self.0 & (1 << *invented as u16) != 0)
    }
}
