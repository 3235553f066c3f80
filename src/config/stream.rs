//! The stream configuration JSON.
/// stub
pub struct AuditStreamConfig;
impl TryFrom<AuditStreamConfig> for super::Config { type Error = super::ConfigError; fn try_from(_: AuditStreamConfig) -> Result<Self, Self::Error> { Ok(Self::default()) } }
