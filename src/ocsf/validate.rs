//! Judges OCSF events, ours or not, by the schema built into the program.
//!
//! Errors are what the OCSF server's validation reports as errors and, with a name that begins with `strict_`, rules that the
//! specification states and the server does not check. Integers from 2^64 on are taken for floats, and text nested deeper than 128
//! is not read.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;

use super::document::{Node, Object};
use super::report::{Finding, Report};
use super::schema::{self, Attribute, Item, Primitive, Schema, Type};

/// Which `metadata.version` is judged at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Versions {
    /// 1.4 to 1.9. Within OCSF 1 nothing is removed or made stricter, so one schema serves them all: what it does not know
    /// is an error before 1.9 and a warning from 1.9 on.
    #[default]
    Known,
    /// That of the schema, 1.8.0, and no other.
    Schema,
}

/// Judges the JSON text of one OCSF event of any version from 1.4 to 1.9.
pub fn validate(text: &str) -> Report {
    validate_versions(text, Versions::Known)
}

/// Like [`validate`], with a choice of versions.
pub fn validate_versions(text: &str, versions: Versions) -> Report {
    let schema = schema::get();
    let document = serde_json::from_str::<Node<'_>>(text);
    let mut judge = Judge { schema, later: false, profiles: BTreeSet::new(), report: Report::default() };
    match &document {
        Ok(Node::Object(event)) => judge.event(event, versions),
        Ok(_) => judge.error("not_object", "", "event is not a JSON object"),
        Err(error) => judge.error("bad_json", "", error),
    }
    judge.report
}

struct Judge<'e> {
    schema: &'static Schema,
    /// The event is of a later version than the schema, which may know what the schema does not.
    later: bool,
    profiles: BTreeSet<&'e str>,
    report: Report,
}

impl<'e> Judge<'e> {
    fn error(&mut self, kind: &'static str, path: &str, message: impl fmt::Display) {
        self.report.errors.push(Finding { kind, path: path.into(), message: message.to_string() });
    }

    fn warn(&mut self, kind: &'static str, path: &str, message: impl fmt::Display) {
        self.report.warnings.push(Finding { kind, path: path.into(), message: message.to_string() });
    }

    /// An error, unless a later version may have added what the schema does not know.
    fn unknown(&mut self, kind: &'static str, path: &str, message: impl fmt::Display) {
        if self.later { self.warn(kind, path, message) } else { self.error(kind, path, message) }
    }

    fn event(&mut self, event: &'e Object<'e>, versions: Versions) {
        let schema = self.schema;
        let metadata = event.get("metadata").and_then(Node::as_object);
        let version = metadata.and_then(|metadata| metadata.get("version")?.as_str());
        self.later = versions == Versions::Known && version.and_then(minor) == Some(9);
        let class = match event.get("class_uid") {
            Some(Node::Int(uid)) => match schema.classes.get(uid) {
                Some(class) => class,
                None => {
                    return self.unknown(
                        "class_uid_unknown",
                        "class_uid",
                        format_args!("no class {uid} in the schema"),
                    );
                }
            },
            Some(other) => return self.error("class_uid_unknown", "class_uid", format_args!("no class {other}")),
            None => return self.error("class_uid_unknown", "class_uid", "missing"),
        };
        self.declared(metadata, class);
        if let Some(deprecated) = &class.deprecated {
            self.warn("class_deprecated", "class_uid", &deprecated.message);
        }
        self.item(event, class, "");
        self.constraints(event, class, "");
        if let Some(version) = version {
            let judged = match versions {
                Versions::Known => minor(version).is_some_and(|minor| (4..=9).contains(&minor)),
                Versions::Schema => version == schema.version,
            };
            if !judged {
                let message = format!("{version:?} cannot be judged by the schema {}", schema.version);
                self.error("version_differs", "metadata.version", message);
            }
        }
        if let (Some(Node::Int(activity)), Some(Node::Int(type_uid)), Some(Node::Int(class_uid))) =
            (event.get("activity_id"), event.get("type_uid"), event.get("class_uid"))
        {
            let expected = class_uid * 100 + activity;
            if *type_uid != expected {
                self.error("type_uid_incorrect", "type_uid", format_args!("{type_uid}, expected {expected}"));
            }
        }
        self.names(event, class);
        self.observables(event, class);
    }

    /// Profiles, which decide what other attributes there may be.
    fn declared(&mut self, metadata: Option<&'e Object<'e>>, class: &Item) {
        const PATH: &str = "metadata.profiles";
        let Some(Node::Array(profiles)) = metadata.and_then(|metadata| metadata.get("profiles")) else { return };
        self.profiles = profiles.iter().filter_map(Node::as_str).collect();
        for profile in self.profiles.clone() {
            if !self.schema.profiles.contains(profile) {
                self.unknown("profile_unknown", PATH, format_args!("no profile {profile:?}"));
            } else if !class.profiles.iter().any(|of_class| of_class == profile) {
                self.unknown(
                    "strict_profile_not_of_class",
                    PATH,
                    format_args!("{profile} does not apply to {}", class.name),
                );
            }
        }
        if self.profiles.len() != profiles.len() {
            self.error("strict_profile_duplicate", PATH, "the same profile twice, or one that is not text");
        }
    }

    fn applies(&self, attribute: &Attribute) -> bool {
        match attribute.profiles.as_deref() {
            None | Some([]) => true,
            Some(profiles) => profiles.iter().any(|profile| self.profiles.contains(profile.as_str())),
        }
    }

    /// The captions that go with the class.
    fn names(&mut self, event: &Object<'_>, class: &Item) {
        let caption = &class.caption;
        self.sibling(event, "class_name", caption);
        if let Some(category) = self.schema.categories.get(&class.category) {
            self.sibling(event, "category_name", &category.caption);
            if let Some(uid) = event.get("category_uid").filter(|uid| !uid.is_number(category.uid)) {
                let message = format!("{uid}, class {} is of category {}", class.name, category.uid);
                self.error("strict_category_uid", "category_uid", message);
            }
        }
        let id = event.get("activity_id");
        let Some(activity) =
            id.and_then(enum_key).and_then(|key| class.attributes.get("activity_id")?.values.get(&key))
        else {
            return;
        };
        if !id.is_some_and(|id| id.is_number(99)) {
            self.sibling(event, "activity_name", &activity.caption);
        }
        self.sibling(event, "type_name", &format!("{caption}: {}", activity.caption));
    }

    fn sibling(&mut self, event: &Object<'_>, name: &str, expected: &str) {
        if let Some(found) = event.get(name).filter(|found| found.as_str() != Some(expected)) {
            self.error("strict_name_sibling", name, format_args!("{found}, expected {expected:?}"));
        }
    }

    fn constraints(&mut self, object: &Object<'_>, item: &Item, path: &str) {
        for (kind, names) in &item.constraints {
            let present =
                names.iter().filter(|name| object.get(name).is_some_and(|value| *value != Node::Null)).count();
            let failed = match kind.as_str() {
                "at_least_one" => present < 1,
                "just_one" => present != 1,
                _ => false,
            };
            if failed {
                let message =
                    format!("{} of {} must be present, {present} are", kind.replace('_', " "), names.join(", "));
                // One of the attributes that the schema does not know may be the one that counts.
                if object.names().all(|name| item.attributes.contains_key(name)) {
                    self.error("constraint_failed", path, message);
                } else {
                    self.unknown("constraint_failed", path, message);
                }
            }
        }
    }

    fn item(&mut self, object: &Object<'_>, item: &Item, path: &str) {
        // An object without attributes of its own, such as `unmapped`, may hold anything.
        if item.attributes.values().any(|attribute| self.applies(attribute)) {
            for name in object.names() {
                match item.attributes.get(name) {
                    Some(attribute) if self.applies(attribute) => {}
                    Some(attribute) => {
                        let profiles = attribute.profiles.as_deref().unwrap_or_default().join(" or ");
                        self.error(
                            "attribute_unknown",
                            &join(path, name),
                            format_args!("needs the profile {profiles}"),
                        );
                    }
                    None => {
                        self.unknown(
                            "attribute_unknown",
                            &join(path, name),
                            format_args!("no attribute of {}", item.name),
                        );
                    }
                }
            }
        }
        for (name, attribute) in &item.attributes {
            if self.applies(attribute) {
                self.attribute(object, name, attribute, path);
            }
        }
    }

    fn attribute(&mut self, object: &Object<'_>, name: &str, attribute: &Attribute, parent: &str) {
        let Some(value) = object.get(name) else {
            if attribute.is_required() {
                self.error("attribute_required_missing", &join(parent, name), "required and missing");
            }
            return;
        };
        let path = &*join(parent, name);
        if *value == Node::Null && attribute.type_name != "json_t" {
            self.error("strict_null", path, "null");
            if attribute.is_required() {
                self.error("attribute_required_missing", path, "required and null");
            }
            return;
        }
        if let Some(deprecated) = &attribute.deprecated {
            self.warn("attribute_deprecated", path, &deprecated.message);
        }
        if attribute.is_array {
            let Node::Array(items) = value else {
                return self.error("attribute_wrong_type", path, format_args!("{value}, expected an array"));
            };
            if attribute.is_required() && items.is_empty() {
                self.error("strict_empty_required_array", path, "required and empty");
            }
            for (at, item) in items.iter().enumerate() {
                self.value(item, attribute, &format!("{path}[{at}]"));
            }
            for (at, item) in items.iter().enumerate() {
                self.enumerated(item, Some(at), object, attribute, path);
            }
        } else {
            self.value(value, attribute, path);
            self.enumerated(value, None, object, attribute, path);
        }
    }

    /// The values of an enumeration, and the caption beside it. `at` is the place in an array.
    fn enumerated(
        &mut self,
        value: &Node<'_>,
        at: Option<usize>,
        object: &Object<'_>,
        attribute: &Attribute,
        path: &str,
    ) {
        if attribute.values.is_empty() {
            return;
        }
        let Some(known) = enum_key(value).and_then(|key| attribute.values.get(&key)) else {
            return self.unknown(
                "attribute_enum_value_unknown",
                path,
                format_args!("{value} is not one of its values"),
            );
        };
        if known.deprecated.is_some() {
            self.warn("attribute_enum_value_deprecated", path, format_args!("{value} is deprecated"));
        }
        let Some(sibling) = attribute.sibling.as_deref() else { return };
        // The captions of the class are `names`' business.
        if matches!(sibling, "type_name" | "class_name" | "category_name") {
            return;
        }
        let other = *value == Node::Int(99);
        match object.get(sibling) {
            None if other => {
                self.error("strict_enum_other_without_sibling", path, format_args!("99 (Other) needs {sibling}"));
            }
            Some(found) if sibling != "activity_name" => {
                let found = match (at, found) {
                    (None, found) => Some(found),
                    (Some(at), Node::Array(items)) => items.get(at),
                    (Some(_), _) => None,
                };
                let is_caption = found.and_then(Node::as_str) == Some(&known.caption);
                if other && is_caption {
                    self.warn("enum_sibling_suspicious_other", path, "the source's value is recommended for 99");
                } else if !other && !is_caption {
                    let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent);
                    let found = found.unwrap_or(&Node::Null);
                    let message = format!("{found}, expected {:?}", known.caption);
                    self.error("strict_enum_sibling", &join(parent, sibling), message);
                }
            }
            _ => {}
        }
    }

    fn value(&mut self, value: &Node<'_>, attribute: &Attribute, path: &str) {
        if let Some(object) = &attribute.object_type {
            let Some(item) = self.schema.objects.get(object) else { return };
            let Node::Object(value) = value else {
                return self.error(
                    "attribute_wrong_type",
                    path,
                    format_args!("{value}, expected an object ({object})"),
                );
            };
            if item.deprecated.is_some() {
                self.warn("object_deprecated", path, &item.name);
            }
            self.item(value, item, path);
            self.constraints(value, item, path);
            return;
        }
        let name = attribute.type_name.as_str();
        let Some(kind) = self.schema.types.get(name) else { return };
        let fits = match (kind.primitive, value) {
            (Primitive::Boolean, Node::Bool(_))
            | (Primitive::Float, Node::Float(_))
            | (Primitive::Text, Node::Str(_)) => true,
            (Primitive::Integer, Node::Int(int)) => i64::try_from(*int).is_ok(),
            (Primitive::Long, Node::Int(_)) | (Primitive::Any, _) => true,
            _ => false,
        };
        if !fits {
            return self.error("attribute_wrong_type", path, format_args!("{value}, expected {name}"));
        }
        match value {
            Node::Int(int) => self.number(*int, kind, name, path),
            Node::Str(text) => self.text(text, kind, name, path),
            _ => {}
        }
    }

    fn number(&mut self, int: i128, kind: &Type, name: &str, path: &str) {
        if let Some((least, most)) = kind.range.filter(|(least, most)| !(*least..=*most).contains(&int)) {
            self.error("attribute_value_exceeds_range", path, format_args!("{int} is not in {least} to {most}"));
        }
        if name == "timestamp_t" && !(0..=253_402_300_799_999).contains(&int) {
            self.error("strict_timestamp", path, format_args!("{int} is not milliseconds from 1970 to 9999"));
        }
    }

    fn text(&mut self, text: &str, kind: &Type, name: &str, path: &str) {
        if let Some(most) = kind.max_len {
            let length = text.chars().count();
            if length > most {
                self.error(
                    "attribute_value_exceeds_max_len",
                    path,
                    format_args!("{length} characters, {most} are allowed"),
                );
            }
        }
        if kind.regex.as_ref().is_some_and(|regex| !regex.is_match(text)) {
            let shown = Node::Str(text.into());
            self.error("strict_regex", path, format_args!("{shown} is not of the form of {name}"));
        }
    }

    fn observables(&mut self, event: &Object<'_>, class: &'static Item) {
        let Some(Node::Array(observables)) = event.get("observables") else { return };
        // Each name is resolved once, however many observables have it: an event may hold as many of both as it likes.
        let mut resolved = HashMap::new();
        for (at, observable) in observables.iter().enumerate() {
            let Some(observable) = observable.as_object() else { continue };
            let Some(name) = observable.get("name").and_then(Node::as_str) else { continue };
            let path = format!("observables[{at}]");
            let reference = resolved.entry(name).or_insert_with(|| {
                let (values, attribute) = self.resolve(event, class, name)?;
                Some((values.into_iter().filter_map(shown).collect::<HashSet<_>>(), attribute))
            });
            let Some((values, attribute)) = reference else {
                self.unknown(
                    "observable_name_invalid_reference",
                    &(path + ".name"),
                    format_args!("{name:?} names nothing"),
                );
                continue;
            };
            let value = observable.get("value");
            if attribute.object_type.is_none() {
                let said = value.and_then(Node::as_str);
                if !said.is_some_and(|said| values.contains(said)) {
                    let message = format!("{} is not what {name} is", value.unwrap_or(&Node::Null));
                    self.error("strict_observable_value", &path, message);
                }
            }
            let object = attribute.object_type.as_ref().and_then(|object| self.schema.objects.get(object));
            let of_type = self.schema.types.get(&attribute.type_name).and_then(|kind| kind.observable);
            let expected = attribute.observable.or(of_type).or(object.and_then(|object| object.observable));
            let found = observable.get("type_id");
            if let Some(expected) = expected.filter(|expected| !found.is_some_and(|found| found.is_number(*expected))) {
                let message = format!("{}, expected {expected} for {name}", found.unwrap_or(&Node::Null));
                self.error("strict_observable_type", &(path + ".type_id"), message);
            }
        }
    }

    /// The attribute that an observable's name points to, and the values it has in the event.
    fn resolve<'n>(
        &self,
        event: &'n Object<'n>,
        class: &'static Item,
        name: &str,
    ) -> Option<(Vec<&'n Node<'n>>, &'static Attribute)> {
        let mut item = Some(class);
        let mut objects = vec![event];
        let mut values: Vec<&Node<'_>> = Vec::new();
        let mut attribute = None;
        for part in parts(name) {
            let (part, index) = match part.split_once('[') {
                None => (part, None),
                Some((part, index)) => {
                    let index = index.strip_suffix(']')?;
                    if !index.bytes().all(|byte| byte.is_ascii_digit()) {
                        return None;
                    }
                    (part, index.parse::<usize>().ok())
                }
            };
            let found = item?.attributes.get(part).filter(|found| self.applies(found))?;
            values = Vec::new();
            for value in objects.iter().filter_map(|object| object.get(part)) {
                match value {
                    Node::Array(items) => match index.and_then(|index| items.get(index)) {
                        Some(item) => values.push(item),
                        None => values.extend(items),
                    },
                    Node::Null => {}
                    other => values.push(other),
                }
            }
            objects = values.iter().filter_map(|value| value.as_object()).collect();
            item = found.object_type.as_ref().and_then(|object| self.schema.objects.get(object));
            attribute = Some(found);
        }
        Some((values, attribute?))
    }
}

/// The minor version of OCSF 1, also of a pre-release.
fn minor(version: &str) -> Option<u32> {
    let (minor, patch) = version.strip_prefix("1.")?.split_once('.')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(minor) && patch.starts_with(|c: char| c.is_ascii_digit())).then(|| minor.parse().ok())?
}

/// How an enumeration's value is named in the schema. Floats, truth values and objects are never among them.
fn enum_key(value: &Node<'_>) -> Option<String> {
    match value {
        Node::Int(int) => Some(int.to_string()),
        Node::Str(text) => Some(text.to_string()),
        _ => None,
    }
}

/// How an observable shows a value. An array or an object is shown by none.
fn shown<'n>(value: &'n Node<'_>) -> Option<Cow<'n, str>> {
    match value {
        Node::Str(text) => Some(Cow::Borrowed(text)),
        Node::Array(_) | Node::Object(_) => None,
        scalar => Some(Cow::Owned(scalar.to_string())),
    }
}

/// The parts of a dotted name. A dot in brackets separates nothing.
fn parts(name: &str) -> Vec<&str> {
    let (mut parts, mut end, mut in_brackets) = (Vec::new(), name.len(), false);
    // From the end on, where a bracket that closes is seen before the dot that it encloses.
    for (at, byte) in name.bytes().enumerate().rev() {
        match byte {
            b']' => in_brackets = true,
            b'[' => in_brackets = false,
            b'.' if !in_brackets => {
                parts.push(&name[at + 1..end]);
                end = at;
            }
            _ => {}
        }
    }
    parts.push(&name[..end]);
    parts.reverse();
    parts
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
