//! The OCSF schema that the validator judges by, as data.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::OnceLock;

use regex::Regex;
use serde::Deserialize;

/// See `NOTICE` beside it for the origin.
const SUBSET: &str = include_str!("ocsf-1.8.0-subset.json");

/// A compiled schema.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) version: String,
    pub(super) classes: HashMap<i128, Item>,
    pub(super) objects: HashMap<String, Item>,
    pub(super) profiles: BTreeSet<String>,
    pub(super) types: HashMap<String, Type>,
    /// Caption and uid by the category's key.
    pub(super) categories: HashMap<String, Category>,
}

/// A class or an object.
#[derive(Debug, Deserialize)]
pub(super) struct Item {
    pub(super) name: String,
    pub(super) caption: String,
    #[serde(default)]
    pub(super) category: String,
    #[serde(default)]
    uid: i128,
    pub(super) attributes: BTreeMap<String, Attribute>,
    #[serde(default)]
    pub(super) constraints: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub(super) profiles: Vec<String>,
    pub(super) observable: Option<i64>,
    #[serde(rename = "@deprecated")]
    pub(super) deprecated: Option<Deprecated>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Attribute {
    #[serde(rename = "type")]
    pub(super) type_name: String,
    pub(super) object_type: Option<String>,
    #[serde(default)]
    pub(super) is_array: bool,
    pub(super) requirement: Option<String>,
    #[serde(default)]
    pub(super) profiles: Option<Vec<String>>,
    #[serde(rename = "enum", default)]
    pub(super) values: BTreeMap<String, EnumValue>,
    pub(super) sibling: Option<String>,
    pub(super) observable: Option<i64>,
    #[serde(rename = "@deprecated")]
    pub(super) deprecated: Option<Deprecated>,
}

#[derive(Debug, Deserialize)]
pub(super) struct EnumValue {
    pub(super) caption: String,
    #[serde(rename = "@deprecated")]
    pub(super) deprecated: Option<Deprecated>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Deprecated {
    #[serde(default)]
    pub(super) message: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Category {
    pub(super) caption: String,
    pub(super) uid: i64,
}

/// What JSON a type is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Primitive {
    Boolean,
    Float,
    Integer,
    Long,
    Text,
    Any,
}

/// A type with what it inherits from the type it refines.
#[derive(Debug)]
pub(super) struct Type {
    pub(super) primitive: Primitive,
    pub(super) range: Option<(i128, i128)>,
    pub(super) max_len: Option<usize>,
    pub(super) regex: Option<Regex>,
    pub(super) observable: Option<i64>,
}

impl Attribute {
    pub(super) fn is_required(&self) -> bool {
        self.requirement.as_deref() == Some("required")
    }
}

/// The schema built into the program, read once.
pub(super) fn get() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| match read(SUBSET) {
        Ok(schema) => schema,
        // The text is part of the program: a test reads it.
        Err(error) => unreachable!("the built-in OCSF schema is damaged: {error}"),
    })
}

#[derive(Deserialize)]
struct Compiled {
    version: String,
    classes: HashMap<String, Item>,
    objects: HashMap<String, Item>,
    profiles: HashMap<String, serde::de::IgnoredAny>,
    dictionary: Dictionary,
    categories: Attributes<Category>,
}

#[derive(Deserialize)]
struct Dictionary {
    types: Attributes<RawType>,
}

#[derive(Deserialize)]
struct Attributes<T> {
    attributes: HashMap<String, T>,
}

#[derive(Deserialize)]
struct RawType {
    #[serde(rename = "type")]
    base: Option<String>,
    range: Option<(i128, i128)>,
    max_len: Option<usize>,
    regex: Option<String>,
    observable: Option<i64>,
}

fn read(text: &str) -> Result<Schema, String> {
    let compiled: Compiled = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let raw = &compiled.dictionary.types.attributes;
    let types = raw.keys().map(|name| Ok((name.clone(), read_type(name, raw)?))).collect::<Result<_, String>>()?;
    Ok(Schema {
        version: compiled.version,
        classes: compiled.classes.into_values().map(|class| (class.uid, class)).collect(),
        objects: compiled.objects,
        profiles: compiled.profiles.into_keys().collect(),
        types,
        categories: compiled.categories.attributes,
    })
}

fn read_type(name: &str, all: &HashMap<String, RawType>) -> Result<Type, String> {
    let own = all.get(name).ok_or_else(|| format!("no type {name}"))?;
    let base = own.base.as_ref().and_then(|base| all.get(base));
    let primitive = match own.base.as_deref().unwrap_or(name) {
        "boolean_t" => Primitive::Boolean,
        "float_t" => Primitive::Float,
        "integer_t" => Primitive::Integer,
        "long_t" => Primitive::Long,
        "string_t" => Primitive::Text,
        "json_t" => Primitive::Any,
        other => return Err(format!("type {name} refines {other}, which is no primitive")),
    };
    let regex = own.regex.as_deref().or_else(|| base?.regex.as_deref()).map(compile).transpose()?;
    Ok(Type {
        primitive,
        range: own.range.or_else(|| base?.range),
        max_len: own.max_len.or_else(|| base?.max_len),
        regex,
        observable: own.observable,
    })
}

/// The schema's expressions are written for dialects whose `$` also stands before a last line feed.
fn compile(pattern: &str) -> Result<Regex, String> {
    let mut translated = String::with_capacity(pattern.len() + 16);
    let (mut escaped, mut in_class) = (false, false);
    for c in pattern.chars() {
        match c {
            '$' if !escaped && !in_class => translated.push_str(r"\n?\z"),
            _ => translated.push(c),
        }
        in_class = !escaped && (c == '[' || (in_class && c != ']'));
        escaped = !escaped && c == '\\';
    }
    Regex::new(&translated).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ocsf::address::is_email;
    use proptest::prelude::*;

    #[test]
    fn the_built_in_schema_is_whole() {
        let schema = get();
        assert_eq!((schema.version.as_str(), schema.classes.len(), schema.objects.len()), ("1.8.0", 10, 127));
        for item in schema.classes.values().chain(schema.objects.values()) {
            for (name, attribute) in &item.attributes {
                let known = match &attribute.object_type {
                    Some(object) => schema.objects.contains_key(object),
                    None => schema.types.contains_key(&attribute.type_name),
                };
                assert!(known, "{}.{name}", item.name);
            }
        }
    }

    #[test]
    fn a_dollar_in_a_class_is_a_dollar() {
        let regex = compile(r"^[a$]+\$$").unwrap();
        assert!(regex.is_match("a$$") && regex.is_match("a$\n") && !regex.is_match("a"));
    }

    proptest! {
        #[test]
        fn the_encoder_and_the_schema_agree_on_email_addresses(text in "[a@.,-é\n+]{0,12}") {
            let regex = get().types["email_t"].regex.as_ref().unwrap();
            prop_assert_eq!(is_email(&text), regex.is_match(&text) && !text.ends_with('\n'));
        }
    }
}
