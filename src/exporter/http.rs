//! POST of a body, for webhook and OTLP/HTTP: headers, timeout, compression, a bounded answer; and how an answer's wait is read.

use std::convert::Infallible;
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::body::{Body, Frame, SizeHint};

use super::Pool;
use super::tls::Material;
use crate::config::{Compression, ConfigError, Tls, url::shown};
use crate::secret::Secret;

/// Longest answer that is read; OTLP's limit for responses. What comes behind it is left unread.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// How long a connection may take to open.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Names us to the receiver, as the OTLP exporter specification asks.
pub(super) const USER_AGENT: &str = concat!(
    env!("CARGO_PKG_NAME"),
    "/",
    env!("CARGO_PKG_VERSION"),
    " OTel-OTLP-Exporter-Rust/",
    env!("CARGO_PKG_VERSION")
);

/// Settings of a client, whichever protocol speaks through it.
pub(super) struct Settings<'a> {
    pub(super) destination: &'a str,
    pub(super) url: &'a str,
    pub(super) headers: &'a [(String, Secret)],
    pub(super) timeout: Option<Duration>,
    pub(super) compression: Compression,
    pub(super) tls: &'a Tls,
    pub(super) content_type: &'static str,
}

#[derive(Debug)]
pub(super) struct Client {
    client: reqwest::Client,
    url: reqwest::Url,
    headers: HeaderMap,
    compression: Compression,
    /// For compressed bodies.
    pool: Pool,
}

/// A body in the parts it is made of, none of them copied.
struct Parts(std::vec::IntoIter<Bytes>);

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.find(|part| !part.is_empty()).map(|part| Ok(Frame::data(part))))
    }

    /// Exact, so that it is sent with its length: not every receiver takes a chunked body.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_slice().iter().map(|part| part.len() as u64).sum())
    }
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// How long the receiver asks to be left alone.
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Vec<u8>,
}

impl Client {
    pub(super) fn new(settings: &Settings<'_>) -> Result<Self, ConfigError> {
        let error = |value, why: String| ConfigError { setting: format!("{}: url", settings.destination), value, why };
        let shown = Some(shown(settings.url));
        let url = reqwest::Url::parse(settings.url).map_err(|why| error(shown.clone(), why.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(error(shown, "not an http:// or https:// URL".into()));
        }
        let mut headers = self::headers(settings.destination, settings.headers)?;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(settings.content_type));
        if settings.compression == Compression::Gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let connect_timeout = settings.timeout.map_or(CONNECT_TIMEOUT, |timeout| timeout.min(CONNECT_TIMEOUT));
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(Material::read(settings.destination, settings.tls)?.rustls()?)
            .user_agent(USER_AGENT)
            .connect_timeout(connect_timeout)
            .tcp_keepalive(Duration::from_secs(30))
            // A redirect would send the events, and the credentials, where nobody configured them to go.
            .redirect(reqwest::redirect::Policy::none())
            // Every retry is ours to count and to space.
            .retry(reqwest::retry::never());
        if let Some(timeout) = settings.timeout {
            builder = builder.timeout(timeout);
        }
        let client = builder.build().map_err(|why| error(shown, chain(&why.without_url())))?;
        Ok(Self { client, url, headers, compression: settings.compression, pool: Pool::default() })
    }

    /// Sends a body and reads the answer.
    ///
    /// # Errors
    /// No answer came; the text says why.
    pub(super) async fn post(&self, mut body: Vec<Bytes>) -> Result<Answer, String> {
        if self.compression == Compression::Gzip {
            body = vec![gzip(body, &self.pool).await?];
        }
        let body = reqwest::Body::wrap(Parts(body.into_iter()));
        let request = self.client.post(self.url.clone()).headers(self.headers.clone()).body(body);
        let mut response = request.send().await.map_err(|error| chain(&error.without_url()))?;
        let status = response.status();
        let retry_after = retry_after(response.headers(), SystemTime::now());
        let mut body = Vec::new();
        while body.len() < MAX_ANSWER_BYTES {
            match response.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk[..chunk.len().min(MAX_ANSWER_BYTES - body.len())]),
                Ok(None) => break,
                // The receiver may have stored the request; sending it again can double it, not losing it comes first.
                Err(error) => return Err(format!("{status}, then {}", chain(&error.without_url()))),
            }
        }
        Ok(Answer { status, retry_after, body })
    }

    /// Scheme, host and port.
    pub(super) fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// The URL without its secrets.
    pub(super) fn target(&self) -> String {
        shown(self.url.as_str())
    }
}

impl Answer {
    /// The status and the beginning of the body, for a person.
    pub(super) fn why(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        match excerpt(&text) {
            "" => self.status.to_string(),
            text => format!("{}: {text}", self.status),
        }
    }
}

/// The first line of a text, at most 200 bytes of it.
pub(super) fn excerpt(text: &str) -> &str {
    let line = text.trim().lines().next().unwrap_or_default();
    let end = (0..=line.len().min(200)).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
    &line[..end]
}

/// Compresses a body of these parts, into a buffer of the pool.
///
/// # Errors
/// It failed; the text says why.
pub(super) async fn gzip(parts: Vec<Bytes>, pool: &Pool) -> Result<Bytes, String> {
    let pool = pool.clone();
    // A megabyte takes milliseconds, which other destinations on this thread would wait for.
    let compressed = tokio::task::spawn_blocking(move || {
        let mut encoder = flate2::write::GzEncoder::new(pool.take(), flate2::Compression::fast());
        parts.iter().try_for_each(|part| encoder.write_all(part))?;
        encoder.finish().map(|bytes| pool.lend(bytes))
    });
    match compressed.await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(format!("compression failed: {error}")),
        Err(error) => Err(format!("compression failed: {error}")),
    }
}

/// Headers of a request, their values marked as sensitive. A value that cannot be a header is named, never shown.
pub(super) fn headers(destination: &str, headers: &[(String, Secret)]) -> Result<HeaderMap, ConfigError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let error = |why: &str| ConfigError {
            setting: format!("{destination}: header {name:?}"),
            value: None,
            why: why.to_owned(),
        };
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| error("not a header name"))?;
        let mut value = HeaderValue::from_str(value.expose())
            .map_err(|_| error("its value has characters a header cannot carry"))?;
        value.set_sensitive(true);
        map.insert(name, value);
    }
    Ok(map)
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds or a date, a date in the past being no wait. Anything else is ignored.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// An error and its causes in one line; a cause that the line already tells is left out.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_str(value).unwrap());
        // 2026-11-02 08:00:00 UTC
        retry_after(&headers, SystemTime::UNIX_EPOCH + Duration::from_secs(1_793_606_400))
    }

    #[test]
    fn defect_4_both_forms_of_retry_after_are_read() {
        assert_eq!(wait("120"), Some(Duration::from_secs(120)));
        assert_eq!(wait("Mon, 02 Nov 2026 08:01:30 GMT"), Some(Duration::from_secs(90)));
        assert_eq!(wait("Mon, 02 Nov 2026 07:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("1000000000"), Some(Duration::from_secs(1_000_000_000)));
        for garbage in ["", "-1", "soon", "1.5", "99999999999999999999999"] {
            assert_eq!(wait(garbage), None, "{garbage}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), SystemTime::UNIX_EPOCH), None);
    }

    #[test]
    fn a_header_that_cannot_be_sent_is_named_without_its_value() {
        let error = headers("webhook", &[("authorization".into(), Secret::new("s3cr3t\n"))]).unwrap_err().to_string();
        assert!(error.contains("authorization") && !error.contains("s3cr3t"), "{error}");
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt("  one\ntwo"), "one");
        assert_eq!(excerpt(&"ä".repeat(200)).len(), 200);
    }
}
