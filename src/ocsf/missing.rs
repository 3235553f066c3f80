//! Which fields an event's JSON leaves out, asked of the event's own `Serialize`, so that there is one rule for it.

use serde::ser::{Error as _, Impossible, Serialize, SerializeMap, Serializer};
use std::fmt::{self, Display};

/// Bit `n` is set when the object's JSON has no field `names[n]`. The names are in the order in which they are written.
pub(super) fn fields(object: &impl Serialize, names: &[&'static str]) -> u16 {
    let mut names = Names { names, next: 0, missing: (1 << names.len()) - 1 };
    let _ = object.serialize(Object(&mut names));
    names.missing
}

struct Names<'a> {
    names: &'a [&'static str],
    next: usize,
    missing: u16,
}

struct Object<'a, 'n>(&'a mut Names<'n>);

/// Why a serializer of ours stops. Nobody sees it.
#[derive(Debug)]
pub(super) struct Stop;

impl Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a map with text keys")
    }
}

impl std::error::Error for Stop {}

impl serde::ser::Error for Stop {
    fn custom<T: Display>(_: T) -> Self {
        Self
    }
}

/// The methods of a serializer that takes one kind of thing only.
macro_rules! refuse {
    ($($method:ident($($type:ty),*);)*) => {
        $(fn $method(self, $(_: $type),*) -> Result<Self::Ok, Stop> { Err(Stop) })*
    };
    (compound) => {
        type SerializeSeq = Impossible<(), Stop>;
        type SerializeTuple = Impossible<(), Stop>;
        type SerializeTupleStruct = Impossible<(), Stop>;
        type SerializeTupleVariant = Impossible<(), Stop>;
        type SerializeStruct = Impossible<(), Stop>;
        type SerializeStructVariant = Impossible<(), Stop>;

        refuse! {
            serialize_bool(bool); serialize_i8(i8); serialize_i16(i16); serialize_i32(i32); serialize_i64(i64);
            serialize_u8(u8); serialize_u16(u16); serialize_u32(u32); serialize_u64(u64);
            serialize_f32(f32); serialize_f64(f64); serialize_char(char); serialize_bytes(&[u8]);
            serialize_none(); serialize_unit(); serialize_unit_struct(&'static str);
            serialize_unit_variant(&'static str, u32, &'static str);
        }
        fn serialize_some<T: ?Sized + Serialize>(self, _: &T) -> Result<(), Stop> {
            Err(Stop)
        }
        fn serialize_newtype_struct<T: ?Sized + Serialize>(self, _: &'static str, _: &T) -> Result<(), Stop> {
            Err(Stop)
        }
        fn serialize_newtype_variant<T: ?Sized + Serialize>(
            self, _: &'static str, _: u32, _: &'static str, _: &T,
        ) -> Result<(), Stop> {
            Err(Stop)
        }
        fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Stop> {
            Err(Stop)
        }
        fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Stop> {
            Err(Stop)
        }
        fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Stop> {
            Err(Stop)
        }
        fn serialize_tuple_variant(
            self, _: &'static str, _: u32, _: &'static str, _: usize,
        ) -> Result<Self::SerializeTupleVariant, Stop> {
            Err(Stop)
        }
        fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Stop> {
            Err(Stop)
        }
        fn serialize_struct_variant(
            self, _: &'static str, _: u32, _: &'static str, _: usize,
        ) -> Result<Self::SerializeStructVariant, Stop> {
            Err(Stop)
        }
    };
}

impl<'a, 'n> Serializer for Object<'a, 'n> {
    type Ok = ();
    type Error = Stop;
    type SerializeMap = Self;
    refuse!(compound);

    fn serialize_str(self, _: &str) -> Result<(), Stop> {
        Err(Stop)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, Stop> {
        Ok(self)
    }
}

impl SerializeMap for Object<'_, '_> {
    type Ok = ();
    type Error = Stop;

    fn serialize_entry<K: ?Sized + Serialize, V: ?Sized + Serialize>(&mut self, key: &K, _: &V) -> Result<(), Stop> {
        // The known fields come first. Stopping after the last one skips the unknown.
        if self.0.next == self.0.names.len() {
            return Err(Stop);
        }
        key.serialize(Key(self.0))
    }

    fn serialize_key<T: ?Sized + Serialize>(&mut self, _: &T) -> Result<(), Stop> {
        Err(Stop::custom("entries only"))
    }

    fn serialize_value<T: ?Sized + Serialize>(&mut self, _: &T) -> Result<(), Stop> {
        Err(Stop::custom("entries only"))
    }

    fn end(self) -> Result<(), Stop> {
        Ok(())
    }
}

struct Key<'a, 'n>(&'a mut Names<'n>);

impl Serializer for Key<'_, '_> {
    type Ok = ();
    type Error = Stop;
    type SerializeMap = Impossible<(), Stop>;
    refuse!(compound);

    fn serialize_str(self, key: &str) -> Result<(), Stop> {
        let names = self.0;
        match names.names[names.next..].iter().position(|name| *name == key) {
            Some(skipped) => {
                names.missing &= !(1 << (names.next + skipped));
                names.next += skipped + 1;
                Ok(())
            }
            None => Err(Stop),
        }
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Stop> {
        Err(Stop)
    }
}
