//! HTTP webhook: `POST` of a JSON array of events.

use bytes::Bytes;
use http::StatusCode;

use super::http::{Answer, Client, Settings};
use super::{Batch, Verdict};
use crate::config::{self, ConfigError};

#[derive(Debug)]
pub(crate) struct Webhook {
    client: Client,
    max_request_bytes: usize,
}

impl Webhook {
    pub(super) fn new(destination: &str, config: &config::Webhook) -> Result<Self, ConfigError> {
        let client = Client::new(&Settings {
            destination,
            url: &config.url,
            headers: &config.headers,
            timeout: config.timeout,
            compression: config.compression,
            tls: &config.tls,
            content_type: "application/json",
        })?;
        Ok(Self { client, max_request_bytes: config.max_request_bytes })
    }

    pub(super) fn max_request_bytes(&self) -> usize {
        self.max_request_bytes
    }

    /// Without the path: it is the credential at more than one vendor.
    pub(super) fn target(&self) -> String {
        self.client.origin()
    }

    pub(super) async fn send(&self, batch: &Batch) -> Verdict {
        match self.client.post(body(batch)).await {
            Ok(answer) => verdict(&answer),
            Err(why) => Verdict::Retry { after: None, why },
        }
    }
}

/// The events as an array.
pub(super) fn body(batch: &Batch) -> Vec<Bytes> {
    let elements = batch.payload.strip_suffix(b",").map_or(batch.payload.len(), <[u8]>::len);
    vec![Bytes::from_static(b"["), batch.payload.slice(..elements), Bytes::from_static(b"]")]
}

/// What an HTTP status means to a webhook (RFC 9110): 408, 425, 429 and 5xx pass; 400 and 422 are about the records, 413 about
/// their number; everything else is about us or the address, which someone has to mend.
fn verdict(answer: &Answer) -> Verdict {
    let why = || answer.why();
    match answer.status {
        status if status.is_success() => Verdict::DELIVERED,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Verdict::Retry { after: answer.retry_after, why: why() }
        }
        status if status.is_server_error() => Verdict::Retry { after: answer.retry_after, why: why() },
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Verdict::Rejected { why: why() },
        StatusCode::PAYLOAD_TOO_LARGE => Verdict::TooLarge { why: why() },
        _ => Verdict::Unauthorized { why: why() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_meaning() {
        let of = |status: u16| {
            let status = StatusCode::from_u16(status).unwrap();
            match verdict(&Answer { status, retry_after: None, body: Vec::new() }) {
                Verdict::Delivered { .. } => "delivered",
                Verdict::Retry { .. } => "retry",
                Verdict::TooLarge { .. } => "too large",
                Verdict::Rejected { .. } => "rejected",
                Verdict::Unauthorized { .. } => "unauthorized",
                Verdict::Closed { .. } => "closed",
            }
        };
        for (statuses, meaning) in [
            (&[200, 201, 202, 204][..], "delivered"),
            (&[408, 425, 429, 500, 501, 502, 503, 504, 529], "retry"),
            (&[413], "too large"),
            (&[400, 422], "rejected"),
            (&[301, 302, 307, 401, 403, 404, 405, 407, 410, 415, 418], "unauthorized"),
        ] {
            for status in statuses {
                assert_eq!(of(*status), meaning, "{status}");
            }
        }
    }
}
