//! Request headers as settings. Their values are secrets, so no error shows one.

use http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::ConfigError;
use crate::secret::Secret;

/// How a request is framed is not the configuration's to say.
const FRAMING: [&str; 6] = ["connection", "content-encoding", "content-length", "te", "transfer-encoding", "upgrade"];

/// Reads `name=value,name=value` with percent-encoded values: the list form of W3C Baggage, without metadata.
pub(crate) fn list(setting: &str, text: &str) -> Result<Vec<(String, Secret)>, ConfigError> {
    let mut headers = Vec::new();
    for (index, member) in members(text).enumerate() {
        let Some((name, value)) = member.split_once('=') else {
            return Err(ConfigError::secret(setting, format!("header {} is not of the form name=value", index + 1)));
        };
        let name = name.trim();
        let value = percent_decoded(value.trim())
            .map_err(|why| ConfigError::secret(setting, format!("the value of header {}: {why}", index + 1)))?;
        headers.push((name.to_owned(), Secret::new(value)));
    }
    checked(setting, headers)
}

/// Holds headers against HTTP: valid names, valid values, none twice. Gives them with names in lower case.
pub(crate) fn checked(setting: &str, headers: Vec<(String, Secret)>) -> Result<Vec<(String, Secret)>, ConfigError> {
    let mut known: Vec<(String, Secret)> = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let Ok(valid) = HeaderName::from_bytes(name.as_bytes()) else {
            // `Authorization: Bearer x==` splits inside the secret: what follows a valid beginning is not shown.
            let beginning: String =
                name.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
            let why = format!("a header beginning {beginning:?} has a name that HTTP does not allow");
            return Err(ConfigError::secret(setting, why));
        };
        let wrong = |why: &str| Err(ConfigError::secret(setting, format!("header {name:?} {why}")));
        // gRPC metadata is ASCII; what HTTP takes beyond that, receivers read in different ways.
        if !HeaderValue::from_str(value.expose()).is_ok_and(|value| value.to_str().is_ok()) {
            return wrong("has a value with other characters than visible ASCII");
        }
        if FRAMING.contains(&valid.as_str()) {
            return wrong("frames the request and cannot be set");
        }
        if known.iter().any(|(name, _)| name == valid.as_str()) {
            return wrong("is given twice");
        }
        known.push((valid.as_str().to_owned(), value));
    }
    Ok(known)
}

/// The members of a list, trimmed; empty ones, such as after a last comma, are none.
pub(crate) fn members(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|member| !member.is_empty())
}

/// Percent-decoding that refuses what it cannot decode.
pub(crate) fn percent_decoded(text: &str) -> Result<String, &'static str> {
    let complete = |rest: &str| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    if !text.split('%').skip(1).all(complete) {
        return Err("a % is not followed by two hexadecimal digits (a % itself is written %25)");
    }
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err("what is percent-encoded is not UTF-8"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposed(text: &str) -> Vec<(String, String)> {
        let headers = list("X_HEADERS", text).unwrap();
        headers.into_iter().map(|(name, value)| (name, value.expose().to_owned())).collect()
    }

    #[test]
    fn lists_are_decoded() {
        let expected = [("api-key", "a=b=="), ("x-tenant", "blue, green"), ("authorization", "Bearer t")];
        let expected: Vec<_> = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(exposed("api-key=a=b==, X-Tenant = blue%2C%20green ,,Authorization=Bearer t,"), expected);
        assert_eq!(exposed(" , "), []);
    }

    #[test]
    fn defect_9_bad_headers_are_refused_without_their_value() {
        for text in [
            "s3cr3t",
            "a=1,s3cr3t",
            "bad name=s3cr3t",
            "Authorization: Bearer s3cr3t==",
            "Authorization: Bearer s3cr3t==%",
            "=s3cr3t",
            "a=s3cr3t%",
            "a=s3cr3t%zz",
            "a=s3cr3t%2",
            "a=s3cr3t%FF",
            "a=s3cr3t%0A",
            "a=s3cr3t%C3%A9",
            "a=s3cr3t,A=s3cr3t",
            "Content-Length=s3cr3t",
        ] {
            let error = list("X_HEADERS", text).unwrap_err().to_string();
            assert!(error.starts_with("X_HEADERS: ") && !error.contains("s3cr3t"), "{text}: {error}");
        }
    }
}
