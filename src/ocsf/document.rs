//! A JSON text as the validator sees it: integers told from floats, duplicate keys found, members sorted by name.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node<'a> {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Cow<'a, str>),
    Array(Vec<Node<'a>>),
    Object(Object<'a>),
}

/// The members of an object, sorted by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Object<'a>(Vec<(Cow<'a, str>, Node<'a>)>);

impl<'a> Object<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&Node<'a>> {
        self.0.binary_search_by(|(member, _)| (**member).cmp(name)).ok().map(|at| &self.0[at].1)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }
}

impl Node<'_> {
    pub(super) fn as_str(&self) -> Option<&str> {
        if let Node::Str(text) = self { Some(text) } else { None }
    }

    pub(super) fn as_object(&self) -> Option<&Object<'_>> {
        if let Node::Object(object) = self { Some(object) } else { None }
    }

    /// Whether it is this number, however it is written.
    pub(super) fn is_number(&self, number: i64) -> bool {
        match self {
            Node::Int(int) => *int == i128::from(number),
            Node::Float(float) => *float == number as f64,
            _ => false,
        }
    }
}

/// How a value is shown in a message: short, and never more than a line.
impl fmt::Display for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Null => f.write_str("null"),
            Node::Bool(bool) => write!(f, "{bool}"),
            Node::Int(int) => write!(f, "{int}"),
            Node::Float(float) => write!(f, "{float:?}"),
            Node::Str(text) if text.chars().count() > 60 => {
                write!(f, "{:?}…", text.chars().take(60).collect::<String>())
            }
            Node::Str(text) => write!(f, "{text:?}"),
            Node::Array(_) => f.write_str("an array"),
            Node::Object(_) => f.write_str("an object"),
        }
    }
}

impl<'de> Deserialize<'de> for Node<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, bool: bool) -> Result<Self::Value, E> {
        Ok(Node::Bool(bool))
    }

    fn visit_i64<E>(self, int: i64) -> Result<Self::Value, E> {
        Ok(Node::Int(int.into()))
    }

    fn visit_u64<E>(self, int: u64) -> Result<Self::Value, E> {
        Ok(Node::Int(int.into()))
    }

    fn visit_f64<E>(self, float: f64) -> Result<Self::Value, E> {
        Ok(Node::Float(float))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Node::Str(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Node::Str(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Vec<(Cow<'de, str>, Node<'de>)> = Vec::new();
        while let Some(Node::Str(name)) = map.next_key()? {
            members.push((name, map.next_value()?));
        }
        members.sort_by(|(one, _), (other, _)| one.cmp(other));
        if let Some(pair) = members.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(de::Error::custom(format_args!("duplicate key {:?}", pair[0].0)));
        }
        Ok(Node::Object(Object(members)))
    }
}
