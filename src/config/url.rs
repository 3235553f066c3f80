//! URLs as settings: read strictly, shown without what may be secret in them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ConfigError;
use crate::secret::REDACTED;

/// The URL with its userinfo and the values of its query replaced by [`REDACTED`]. The text need not be a valid URL.
pub(crate) fn shown(url: &str) -> String {
    let (url, fragment) = url.split_once('#').map_or((url, ""), |(url, _)| (url, "#REDACTED"));
    let (rest, query) = url.split_once('?').map_or((url, None), |(rest, query)| (rest, Some(query)));
    let (scheme, rest) = rest.split_once("://").map_or(("", rest), |(scheme, rest)| (scheme, rest));
    let mut shown = String::new();
    if !scheme.is_empty() {
        shown.push_str(scheme);
        shown.push_str("://");
    }
    // The last @, wherever it is: a password that was not encoded may hold a slash.
    match rest.rsplit_once('@') {
        Some((_, host)) => {
            shown.push_str(REDACTED);
            shown.push('@');
            shown.push_str(host);
        }
        None => shown.push_str(rest),
    }
    for (index, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
        shown.push(if index == 0 { '?' } else { '&' });
        if let Some((name, _)) = pair.split_once('=') {
            shown.push_str(name);
            shown.push('=');
        }
        shown.push_str(REDACTED);
    }
    shown.push_str(fragment);
    shown
}

/// Reads an `http` or `https` URL.
pub(crate) fn http(setting: &str, text: &str) -> Result<reqwest::Url, ConfigError> {
    let wrong = |why: &str| ConfigError::new(setting, shown(text), why);
    let url = reqwest::Url::parse(text).map_err(|error| wrong(&format!("not a URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("the URL must begin with http:// or https://"));
    }
    if text.contains(REDACTED) {
        return Err(wrong("the URL was written for display; put the secret back"));
    }
    Ok(url)
}

/// A URL that is shown, and written, by [`shown`].
#[derive(Clone)]
pub(crate) struct SecretUrl(pub(crate) String);

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", shown(&self.0))
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&shown(&self.0))
    }
}

impl<'de> Deserialize<'de> for SecretUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.contains(REDACTED) {
            return Err(serde::de::Error::custom(
                "the URL is REDACTED: this configuration was written for display; put the secret back",
            ));
        }
        Ok(Self(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_is_not_shown() {
        for (url, expected) in [
            ("https://siem.example.net/ingest", "https://siem.example.net/ingest"),
            ("https://user:s3cr3t@host/p", "https://REDACTED@host/p"),
            ("https://user:s3/c@r3t@host/p", "https://REDACTED@host/p"),
            ("https://host/p?token=s3cr3t&s3cr3t#s3cr3t", "https://host/p?token=REDACTED&REDACTED#REDACTED"),
            ("user:s3cr3t@host:4317", "REDACTED@host:4317"),
            ("::not a url", "::not a url"),
        ] {
            assert_eq!(shown(url), expected);
        }
    }

    #[test]
    fn bad_urls_are_named_without_their_secrets() {
        for text in ["ftp://u:s3cr3t@host", "https://u:s3cr3t@:99999/", "siem.example.net", "https://u:s3cr3t@ho st/"] {
            let error = http("X_URL", text).unwrap_err().to_string();
            assert!(error.starts_with("X_URL=\"") && !error.contains("s3cr3t"), "{error}");
        }
    }
}
