//! The verdict on an OCSF event.

use std::fmt;

/// Something that is wrong, or worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// A stable name, such as `attribute_required_missing`.
    pub kind: &'static str,
    /// Where it is, such as `observables[0].name`; empty for the event itself.
    pub path: String,
    /// What is wrong, for people.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "event" } else { &self.path };
        write!(f, "{path}: {} ({})", self.message, self.kind)
    }
}

/// The verdict on one event.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Report {
    /// What makes the event invalid.
    pub errors: Vec<Finding>,
    /// What does not.
    pub warnings: Vec<Finding>,
}

impl Report {
    /// Whether there are no errors.
    pub fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }
}
