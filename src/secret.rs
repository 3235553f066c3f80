//! A text that is never printed, serialized or logged.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What stands in place of a secret wherever one would be shown.
pub const REDACTED: &str = "REDACTED";

/// A credential. `Debug` and `Serialize` give [`REDACTED`]; only [`expose`](Self::expose) gives the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text into custody.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde's own error would quote the value.
        let text =
            String::deserialize(deserializer).map_err(|_| serde::de::Error::custom("a secret must be a string"))?;
        if text == REDACTED {
            return Err(serde::de::Error::custom(
                "the secret is REDACTED: this configuration was written for display; put the secret back",
            ));
        }
        Ok(Self(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_in_no_way() {
        let secret = Secret::new("Bearer s3cr3t");
        assert_eq!(format!("{secret:?}"), REDACTED);
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"REDACTED\"");
        assert_eq!(secret.expose(), "Bearer s3cr3t");
    }

    #[test]
    fn a_redacted_configuration_is_refused_when_read() {
        let error = serde_json::from_str::<Secret>("\"REDACTED\"").unwrap_err();
        assert!(error.to_string().contains("put the secret back"), "{error}");
    }

    #[test]
    fn a_secret_of_the_wrong_type_is_not_quoted() {
        let error = serde_json::from_str::<Secret>("12345678").unwrap_err().to_string();
        assert!(error.contains("must be a string") && !error.contains("12345678"), "{error}");
    }
}
