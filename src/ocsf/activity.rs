//! Which class and activity an action belongs to: tables of verbs.

use super::class::Class::{self, Api, Authentication, Base, File, Network, Process};
use super::class::{OTHER, UNKNOWN};

/// The longest verb in the tables fits; a longer word is none of them.
const LONGEST: usize = 16;

/// The verb of an action, in lower case: `CreateSandbox`, `create_sandbox`, `s3:CreateBucket` and `sandbox.create` say `create`.
pub(super) struct Verb {
    word: [u8; LONGEST],
    len: usize,
}

impl Verb {
    pub(super) fn of(action: &str) -> Self {
        let tail = action.rsplit([':', '.', '/']).next().unwrap_or(action).as_bytes();
        let capitals = tail.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
        let mut verb = Self { word: [0; LONGEST], len: 0 };
        for (at, byte) in tail.iter().enumerate() {
            // `GET` is one word; in `GetObject` the second capital starts another.
            let starts_word = byte.is_ascii_uppercase() && at >= capitals.max(1);
            if starts_word || matches!(byte, b'_' | b'-' | b' ') {
                break;
            }
            if at == LONGEST {
                return Self { word: [0; LONGEST], len: 0 };
            }
            verb.word[at] = byte.to_ascii_lowercase();
            verb.len = at + 1;
        }
        verb
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.word[..self.len]).unwrap_or("")
    }
}

/// The activity of a class that a verb names.
pub(super) fn known(class: Class, verb: &str) -> Option<u32> {
    let id = match class {
        Base => return None,
        File => match verb {
            "create" | "mkdir" => 1,
            "read" => 2,
            "write" | "update" | "append" | "modify" | "truncate" => 3,
            "delete" | "remove" | "unlink" | "rmdir" => 4,
            "rename" | "move" => 5,
            "chmod" | "chown" => 7,
            "stat" => 8,
            "mount" => 12,
            "unmount" | "umount" => 13,
            "open" => 14,
            _ => return None,
        },
        Process => match verb {
            "exec" | "execute" | "launch" | "spawn" => 1,
            "kill" | "terminate" => 2,
            _ => return None,
        },
        Authentication => match verb {
            "login" | "logon" | "signin" | "authenticate" => 1,
            "logout" | "logoff" | "signout" => 2,
            _ => return None,
        },
        Network => match verb {
            "connect" | "open" | "dial" => 1,
            "close" | "disconnect" => 2,
            "listen" | "bind" => 7,
            _ => return None,
        },
        Api => match verb {
            "create" | "run" | "generate" | "add" | "insert" | "post" | "register" => 1,
            "read" | "get" | "list" | "describe" | "head" | "query" | "search" | "view" => 2,
            "update" | "put" | "patch" | "set" | "modify" | "write" | "start" | "stop" | "restart" | "pause"
            | "resume" | "suspend" | "enable" | "disable" | "attach" | "detach" | "rename" => 3,
            "delete" | "remove" | "terminate" | "destroy" => 4,
            _ => return None,
        },
    };
    Some(id)
}

/// The activity of an action in a class that is settled.
pub(super) fn of(class: Class, action: &str) -> u32 {
    if action.is_empty() { UNKNOWN } else { known(class, Verb::of(action).as_str()).unwrap_or(OTHER) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verb_is_found_in_every_spelling() {
        for action in [
            "create",
            "Create",
            "CREATE",
            "CreateSandbox",
            "create_sandbox",
            "create-x",
            "s3:CreateBucket",
            "sandbox.create",
        ] {
            assert_eq!(Verb::of(action).as_str(), "create", "{action}");
        }
        assert_eq!(Verb::of("GET /x/y").as_str(), "y", "a path has no verb we know");
        assert_eq!(Verb::of("").as_str(), "");
        assert_eq!(Verb::of("Überprüfen").as_str(), "Überprüfen");
        assert_eq!(Verb::of("averyveryverylongword").as_str(), "");
        assert_eq!(of(Api, "exec"), OTHER);
        assert_eq!(of(Api, ""), UNKNOWN);
        assert_eq!(of(Authentication, "token_refresh"), OTHER);
    }
}
