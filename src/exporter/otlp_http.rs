//! OTLP/HTTP, `http/protobuf` and `http/json`.

use bytes::Bytes;
use http::StatusCode;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use prost::Message;

use super::http::{Answer, Client, Settings, excerpt};
use super::otlp_grpc::says_too_large;
use super::{Batch, Verdict};
use crate::config::{ConfigError, Otlp, Protocol};
use crate::otlp::Envelope;

#[derive(Debug)]
pub(crate) struct OtlpHttp {
    client: Client,
    json: bool,
    envelope: Envelope,
    max_request_bytes: usize,
}

impl OtlpHttp {
    pub(super) fn new(destination: &str, config: &Otlp, envelope: Envelope) -> Result<Self, ConfigError> {
        let json = config.protocol == Protocol::HttpJson;
        let client = Client::new(&Settings {
            destination,
            url: &config.endpoint,
            headers: &config.headers,
            timeout: config.timeout,
            compression: config.compression,
            tls: &config.tls,
            content_type: if json { "application/json" } else { "application/x-protobuf" },
        })?;
        Ok(Self { client, json, envelope, max_request_bytes: config.max_request_bytes })
    }

    pub(super) fn max_request_bytes(&self) -> usize {
        // JSON is about twice the size of protobuf for our records.
        if self.json { self.max_request_bytes / 2 } else { self.max_request_bytes }
    }

    pub(super) fn target(&self) -> String {
        self.client.target()
    }

    pub(super) fn body(&self, batch: &Batch) -> Vec<Bytes> {
        match self.json {
            true => vec![self.envelope.json(&batch.payload).into()],
            false => self.envelope.request(batch.payload.clone()),
        }
    }

    pub(super) async fn send(&self, batch: &Batch) -> Verdict {
        match self.client.post(self.body(batch)).await {
            Ok(answer) => verdict(&answer, self.json),
            Err(why) => Verdict::Retry { after: None, why },
        }
    }
}

/// What an HTTP status means in OTLP (OTLP specification 1.10, "Failures", "Retryable Response Codes" and "Bad Data").
///
/// Beyond it, what is about us or the address and not about the records is held instead of dropped.
fn verdict(answer: &Answer, json: bool) -> Verdict {
    match answer.status {
        status if status.is_success() => accepted(answer, json),
        StatusCode::TOO_MANY_REQUESTS if answer.retry_after.is_none() && too_large_behind(answer) => {
            Verdict::TooLarge { why: why(answer, json) }
        }
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Verdict::Retry { after: answer.retry_after, why: why(answer, json) },
        StatusCode::PAYLOAD_TOO_LARGE => Verdict::TooLarge { why: why(answer, json) },
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Verdict::Rejected { why: why(answer, json) },
        status if status.is_server_error() => Verdict::Rejected { why: why(answer, json) },
        _ => Verdict::Unauthorized { why: why(answer, json) },
    }
}

/// A Collector says 429 when a gRPC server behind it found the request too large, since to gRPC that too is an exhausted
/// resource; sent again as it is, it would never get through.
fn too_large_behind(answer: &Answer) -> bool {
    let text = String::from_utf8_lossy(&answer.body);
    text.contains("Permanent error") && says_too_large(&text)
}

/// A partial success is read where there is one. A body that is neither ours to read nor empty does not undo the 2xx.
fn accepted(answer: &Answer, json: bool) -> Verdict {
    if json {
        return serde_json::from_slice(&answer.body)
            .map_or(Verdict::DELIVERED, |response| json_partial_success(&response));
    }
    ExportLogsServiceResponse::decode(&*answer.body).map_or(Verdict::DELIVERED, |response| partial_success(&response))
}

/// OTLP/JSON writes 64-bit integers as strings and reads numbers too; the message types read only numbers.
fn json_partial_success(response: &serde_json::Value) -> Verdict {
    let partial = &response["partialSuccess"];
    let rejected = &partial["rejectedLogRecords"];
    let rejected = rejected.as_i64().or_else(|| rejected.as_str()?.parse().ok()).unwrap_or(0);
    let error_message = partial["errorMessage"].as_str().unwrap_or_default().to_owned();
    let partial = ExportLogsPartialSuccess { rejected_log_records: rejected, error_message };
    partial_success(&ExportLogsServiceResponse { partial_success: Some(partial) })
}

/// OTLP specification, "Partial Success": nothing is sent again; rejected records are counted, a message alone is a warning.
pub(super) fn partial_success(response: &ExportLogsServiceResponse) -> Verdict {
    match &response.partial_success {
        None => Verdict::DELIVERED,
        Some(partial) => Verdict::Delivered {
            rejected: u64::try_from(partial.rejected_log_records).unwrap_or(0),
            message: Some(excerpt(&partial.error_message).to_owned()).filter(|message| !message.is_empty()),
        },
    }
}

/// The status, and the message of the `google.rpc.Status` that the body should be.
fn why(answer: &Answer, json: bool) -> String {
    let message = if json {
        serde_json::from_slice::<serde_json::Value>(&answer.body)
            .ok()
            .and_then(|status| status.get("message").and_then(|message| message.as_str().map(str::to_owned)))
    } else {
        tonic_types::Status::decode(&*answer.body).ok().map(|status| status.message)
    };
    match message.as_deref().map(excerpt) {
        Some(message) if !message.is_empty() => format!("{}: {message}", answer.status),
        _ => answer.why(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: Vec<u8>) -> Answer {
        Answer { status: StatusCode::from_u16(status).unwrap(), retry_after: None, body }
    }

    #[test]
    fn only_what_the_specification_calls_retryable_is_retried() {
        for status in 300..600_u16 {
            let retried = matches!(verdict(&answer(status, Vec::new()), false), Verdict::Retry { .. });
            assert_eq!(retried, matches!(status, 429 | 502 | 503 | 504), "{status}");
        }
        for held in [301, 401, 403, 404, 405, 415] {
            assert!(matches!(verdict(&answer(held, Vec::new()), false), Verdict::Unauthorized { .. }), "{held}");
        }
        assert!(matches!(verdict(&answer(413, Vec::new()), false), Verdict::TooLarge { .. }));
        assert!(matches!(verdict(&answer(400, Vec::new()), false), Verdict::Rejected { .. }));
    }

    #[test]
    fn a_collector_says_429_of_what_is_too_large_behind_it() {
        let message =
            "Permanent error: rpc error: code = ResourceExhausted desc = grpc: received message larger than max";
        let status = tonic_types::Status { code: 8, message: message.into(), details: Vec::new() };
        let json = format!(r#"{{"code":8,"message":"{message}"}}"#).into_bytes();
        for (body, json) in [(status.encode_to_vec(), false), (json, true)] {
            assert!(matches!(verdict(&answer(429, body), json), Verdict::TooLarge { .. }));
        }
        assert!(matches!(verdict(&answer(429, b"quota too large".to_vec()), false), Verdict::Retry { .. }));
    }

    #[test]
    fn partial_success_is_read_in_both_encodings() {
        let partial = ExportLogsPartialSuccess { rejected_log_records: 3, error_message: "too old".into() };
        let response = ExportLogsServiceResponse { partial_success: Some(partial) };
        let expected = Verdict::Delivered { rejected: 3, message: Some("too old".into()) };
        assert_eq!(verdict(&answer(200, response.encode_to_vec()), false), expected);
        assert_eq!(verdict(&answer(200, serde_json::to_vec(&response).unwrap()), true), expected);
        let text = br#"{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"too old"}}"#;
        assert_eq!(verdict(&answer(200, text.to_vec()), true), expected, "64-bit integers are strings in OTLP/JSON");
    }

    #[test]
    fn a_2xx_with_another_body_is_delivered() {
        for body in [&b""[..], b"{}", b"ok", b"<html>", b"\xff\xff\xff"] {
            for json in [true, false] {
                assert_eq!(verdict(&answer(200, body.to_vec()), json), Verdict::DELIVERED, "{body:?}");
            }
        }
    }

    #[test]
    fn the_reason_is_the_status_messages_text() {
        let status = tonic_types::Status { code: 3, message: "bad record".into(), details: Vec::new() };
        assert_eq!(why(&answer(400, status.encode_to_vec()), false), "400 Bad Request: bad record");
        assert_eq!(
            why(&answer(400, br#"{"code":3,"message":"bad record"}"#.to_vec()), true),
            "400 Bad Request: bad record"
        );
        assert_eq!(why(&answer(503, b"busy\nlater".to_vec()), true), "503 Service Unavailable: busy");
    }
}
