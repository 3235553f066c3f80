//! The six OCSF classes that audit events become, and every caption we write: static, so that no caller allocates a name.

/// A class of OCSF 1.8.0 that the mapper fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Base,
    File,
    Process,
    Authentication,
    Network,
    Api,
}

use Class::{Api, Authentication, Base, File, Network, Process};

/// Activity 0, for events whose action is empty.
pub(super) const UNKNOWN: u32 = 0;
/// Activity 99: the action itself becomes the name.
pub(super) const OTHER: u32 = 99;

/// Activity 1 of Process Activity.
pub(super) const LAUNCH: u32 = 1;

/// One activity: id, caption, the part of the event name, and the action that the decoder reads from the id alone.
type Activity = (u32, &'static str, &'static str, &'static str);

impl Class {
    pub(super) fn from_uid(uid: u64) -> Option<Self> {
        [Base, File, Process, Authentication, Network, Api].into_iter().find(|class| u64::from(class.uid()) == uid)
    }

    pub(super) fn uid(self) -> u32 {
        match self {
            Base => 0,
            File => 1001,
            Process => 1007,
            Authentication => 3002,
            Network => 4001,
            Api => 6003,
        }
    }

    pub(super) fn category_uid(self) -> u32 {
        self.uid() / 1000
    }

    pub(super) fn caption(self) -> &'static str {
        match self {
            Base => "Base Event",
            File => "File System Activity",
            Process => "Process Activity",
            Authentication => "Authentication",
            Network => "Network Activity",
            Api => "API Activity",
        }
    }

    /// Whether the class has `src_endpoint` for the client's address. On 4001 it is the flow's source, another thing.
    pub(super) fn has_client(self) -> bool {
        matches!(self, Api | Authentication)
    }

    /// Whether `actor` comes with the profile `host` only.
    pub(super) fn actor_needs_host(self) -> bool {
        matches!(self, Base | Network)
    }

    fn activities(self) -> &'static [Activity] {
        match self {
            Base => &[],
            File => &[
                (1, "Create", "create", "create"),
                (2, "Read", "read", "read"),
                (3, "Update", "update", "write"),
                (4, "Delete", "delete", "delete"),
                (5, "Rename", "rename", "rename"),
                (7, "Set Security", "set_security", "chmod"),
                (8, "Get Attributes", "get_attributes", "stat"),
                (12, "Mount", "mount", "mount"),
                (13, "Unmount", "unmount", "unmount"),
                (14, "Open", "open", "open"),
            ],
            Process => &[(LAUNCH, "Launch", "launch", "exec"), (2, "Terminate", "terminate", "kill")],
            Authentication => &[(1, "Logon", "logon", "login"), (2, "Logoff", "logoff", "logout")],
            Network => {
                &[(1, "Open", "open", "connect"), (2, "Close", "close", "close"), (7, "Listen", "listen", "listen")]
            }
            Api => &[
                (1, "Create", "create", "create"),
                (2, "Read", "read", "read"),
                (3, "Update", "update", "update"),
                (4, "Delete", "delete", "delete"),
            ],
        }
    }

    fn activity(self, id: u32) -> Option<&'static Activity> {
        self.activities().iter().find(|activity| activity.0 == id)
    }

    pub(super) fn activity_caption(self, id: u32) -> &'static str {
        match (id, self.activity(id)) {
            (_, Some(activity)) => activity.1,
            (OTHER, None) => "Other",
            (_, None) => "Unknown",
        }
    }

    /// The action an activity stands for, where no other attribute carries the action.
    pub(super) fn verb(self, id: u32) -> &'static str {
        self.activity(id).map_or("", |activity| activity.3)
    }
}

/// The event name of a record, `ocsf.<class>.<activity>`: low cardinality, never made of the event's texts.
///
/// `ocsf.event` when the class is not one that we make.
pub fn event_name(class_uid: u32, activity_id: u32) -> &'static str {
    // Written out because a name must be static; the test holds it against the tables above.
    match (class_uid, activity_id) {
        (0, 0) => "ocsf.base_event.unknown",
        (0, _) => "ocsf.base_event.other",
        (1001, 0) => "ocsf.file_activity.unknown",
        (1001, 1) => "ocsf.file_activity.create",
        (1001, 2) => "ocsf.file_activity.read",
        (1001, 3) => "ocsf.file_activity.update",
        (1001, 4) => "ocsf.file_activity.delete",
        (1001, 5) => "ocsf.file_activity.rename",
        (1001, 7) => "ocsf.file_activity.set_security",
        (1001, 8) => "ocsf.file_activity.get_attributes",
        (1001, 12) => "ocsf.file_activity.mount",
        (1001, 13) => "ocsf.file_activity.unmount",
        (1001, 14) => "ocsf.file_activity.open",
        (1001, _) => "ocsf.file_activity.other",
        (1007, 0) => "ocsf.process_activity.unknown",
        (1007, 1) => "ocsf.process_activity.launch",
        (1007, 2) => "ocsf.process_activity.terminate",
        (1007, _) => "ocsf.process_activity.other",
        (3002, 0) => "ocsf.authentication.unknown",
        (3002, 1) => "ocsf.authentication.logon",
        (3002, 2) => "ocsf.authentication.logoff",
        (3002, _) => "ocsf.authentication.other",
        (4001, 0) => "ocsf.network_activity.unknown",
        (4001, 1) => "ocsf.network_activity.open",
        (4001, 2) => "ocsf.network_activity.close",
        (4001, 7) => "ocsf.network_activity.listen",
        (4001, _) => "ocsf.network_activity.other",
        (6003, 0) => "ocsf.api_activity.unknown",
        (6003, 1) => "ocsf.api_activity.create",
        (6003, 2) => "ocsf.api_activity.read",
        (6003, 3) => "ocsf.api_activity.update",
        (6003, 4) => "ocsf.api_activity.delete",
        (6003, _) => "ocsf.api_activity.other",
        _ => "ocsf.event",
    }
}

/// Caption of a class that we make, else `Unknown`.
pub fn class_name(class_uid: u32) -> &'static str {
    Class::from_uid(class_uid.into()).map_or("Unknown", Class::caption)
}

/// Caption of a category, else `Unknown`.
pub fn category_name(category_uid: u32) -> &'static str {
    match category_uid {
        0 => "Uncategorized",
        1 => "System Activity",
        2 => "Findings",
        3 => "Identity & Access Management",
        4 => "Network Activity",
        5 => "Discovery",
        6 => "Application Activity",
        7 => "Remediation",
        8 => "Unmanned Systems",
        _ => "Unknown",
    }
}

/// Caption of an activity: `Other` for 99, whose real name is the event's own; `Unknown` when we never make it.
pub fn activity_name(class_uid: u32, activity_id: u32) -> &'static str {
    Class::from_uid(class_uid.into()).map_or("Unknown", |class| class.activity_caption(activity_id))
}

/// Caption of `severity_id`.
pub fn severity_name(severity_id: u32) -> &'static str {
    match severity_id {
        1 => "Informational",
        2 => "Low",
        3 => "Medium",
        4 => "High",
        5 => "Critical",
        6 => "Fatal",
        99 => "Other",
        _ => "Unknown",
    }
}

/// Caption of `status_id`.
pub fn status_name(status_id: u32) -> &'static str {
    match status_id {
        1 => "Success",
        2 => "Failure",
        99 => "Other",
        _ => "Unknown",
    }
}

/// Caption of `action_id`.
pub fn action_name(action_id: u32) -> &'static str {
    match action_id {
        1 => "Allowed",
        2 => "Denied",
        3 => "Observed",
        4 => "Modified",
        99 => "Other",
        _ => "Unknown",
    }
}

/// Caption of `disposition_id`, for those that we make; else `Unknown`.
pub fn disposition_name(disposition_id: u32) -> &'static str {
    match disposition_id {
        1 => "Allowed",
        2 => "Blocked",
        17 => "Logged",
        26 => "Unauthorized",
        27 => "Error",
        99 => "Other",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [(Class, &str); 6] = [
        (Base, "base_event"),
        (File, "file_activity"),
        (Process, "process_activity"),
        (Authentication, "authentication"),
        (Network, "network_activity"),
        (Api, "api_activity"),
    ];

    #[test]
    fn every_activity_has_its_event_name() {
        for (class, key) in KEYS {
            let rest = [(UNKNOWN, "", "unknown", ""), (OTHER, "", "other", "")];
            for (id, _, name, _) in class.activities().iter().chain(&rest) {
                assert_eq!(event_name(class.uid(), *id), format!("ocsf.{key}.{name}"));
            }
        }
        assert_eq!(event_name(2004, 1), "ocsf.event");
    }
}
