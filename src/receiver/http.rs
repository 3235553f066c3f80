//! OTLP/HTTP and the webhook, over HTTP/1.1 with keep-alive.
//!
//! A body is read to its end before it is judged: a server that answers in the middle of an upload and closes makes some
//! clients lose the answer, and then a test would depend on timing.

use std::io::Read;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use futures_util::stream;
use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, request};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message;
use serde_json::{Value, json};
use tonic_types::pb;

use super::connection::Connection;
use super::grpc;
use super::script::{Reply, Wait, code_of};
use super::{Answer, Payload, Protocol, parse_otlp_json};

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// How much of a request that is too large anyway is read before the connection is given up.
const MAX_DISCARDED_BYTES: usize = 256 << 20;

/// The language of an answer, which is that of its request. A webhook is sent JSON and answered in plain text.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Language {
    Protobuf,
    Json,
    Text,
}

/// Why a request was refused before the script was asked.
struct Refusal(StatusCode, String);

/// Answers one request.
pub(super) async fn answer(request: Request<Incoming>, protocol: Protocol, connection: &Connection) -> Response<Body> {
    connection.begin();
    let (head, body) = request.into_parts();
    let limit = connection.shared.max_request_bytes;
    let body = read(body, limit).await;

    let (language, decoded) = match admit(protocol, &head) {
        Ok(language) => (language, body.and_then(|body| decode(language, &plain(body, &head.headers, limit)?))),
        Err(refusal) => (Language::Text, Err(refusal)),
    };
    match decoded {
        Ok((payload, bytes)) => say(language, connection.receive(protocol, &head.headers, payload, bytes).await),
        Err(Refusal(status, message)) => {
            let code = code_of(status.as_u16());
            let mut response = reply(language, Reply { status: status.as_u16(), code, wait: None, message });
            if status == StatusCode::METHOD_NOT_ALLOWED {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            }
            response
        }
    }
}

/// Judges a request by its head, and says which language its body is in.
fn admit(protocol: Protocol, head: &request::Parts) -> Result<Language, Refusal> {
    let otlp = protocol == Protocol::OtlpHttp;
    if otlp && head.uri.path() != "/v1/logs" {
        return Err(Refusal(StatusCode::NOT_FOUND, "404 page not found".to_owned()));
    }
    if head.method != Method::POST {
        let message = "405 method not allowed, supported: [POST]".to_owned();
        return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, message));
    }
    if otlp { language_of(&head.headers) } else { Ok(Language::Text) }
}

fn decode(language: Language, body: &[u8]) -> Result<(Payload, usize), Refusal> {
    let payload = match language {
        Language::Protobuf => Payload::Otlp(ExportLogsServiceRequest::decode(body).map_err(malformed)?),
        Language::Json => Payload::Otlp(parse_otlp_json(body).map_err(malformed)?),
        Language::Text => match serde_json::from_slice(body).map_err(malformed)? {
            json @ (Value::Array(_) | Value::Object(_)) => Payload::Json(json),
            _ => return Err(malformed("the body is neither an array nor an object")),
        },
    };
    Ok((payload, body.len()))
}

fn malformed(error: impl std::fmt::Display) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, error.to_string())
}

fn too_large(limit: usize) -> Refusal {
    Refusal(StatusCode::PAYLOAD_TOO_LARGE, format!("request body larger than max ({limit} bytes)"))
}

fn language_of(headers: &HeaderMap) -> Result<Language, Refusal> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/x-protobuf" => Ok(Language::Protobuf),
        "application/json" => Ok(Language::Json),
        _ => {
            let message =
                "415 unsupported media type, supported: [application/json, application/x-protobuf]".to_owned();
            Err(Refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
        }
    }
}

/// Reads a body to its end, but keeps it only up to the limit.
async fn read(mut body: Incoming, limit: usize) -> Result<Bytes, Refusal> {
    let mut kept = BytesMut::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(malformed)?.into_data() else { continue };
        length += data.len();
        if length > MAX_DISCARDED_BYTES {
            break;
        }
        if length <= limit {
            kept.extend_from_slice(&data);
        }
    }
    if length > limit { Err(too_large(limit)) } else { Ok(kept.freeze()) }
}

/// The body without its compression.
fn plain(body: Bytes, headers: &HeaderMap, limit: usize) -> Result<Bytes, Refusal> {
    match headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(body),
        Some(b"gzip") => {
            let mut plain = Vec::new();
            let decoder = MultiGzDecoder::new(&*body);
            decoder.take((limit as u64).saturating_add(1)).read_to_end(&mut plain).map_err(malformed)?;
            if plain.len() > limit { Err(too_large(limit)) } else { Ok(plain.into()) }
        }
        Some(other) => {
            let message = format!("unsupported content-encoding {:?}", String::from_utf8_lossy(other));
            Err(Refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
        }
    }
}

/// An answer of the script as a response.
fn say(language: Language, answer: Answer) -> Response<Body> {
    let status = match answer {
        Answer::Raw { status, headers, body } => return raw(status, headers, body),
        Answer::Reply(answer) if !(200..300).contains(&answer.status) => return reply(language, answer),
        Answer::Reply(Reply { status, .. }) => status,
        _ => 200,
    };
    match language {
        Language::Protobuf => respond(status, "application/x-protobuf", grpc::response(&answer).encode_to_vec()),
        Language::Json | Language::Text => respond(status, "application/json", success(language, &answer)),
    }
}

/// The JSON form of success. OTLP spells 64-bit numbers as text.
fn success(language: Language, answer: &Answer) -> Vec<u8> {
    let value = match answer {
        Answer::PartialSuccess { rejected, message } if language == Language::Json => {
            json!({"partialSuccess": {"rejectedLogRecords": rejected.to_string(), "errorMessage": message}})
        }
        Answer::PartialSuccess { rejected, message } => json!({"rejected": rejected, "message": message}),
        _ if language == Language::Json => json!({"partialSuccess": {}}),
        _ => json!({}),
    };
    value.to_string().into_bytes()
}

/// A refusal; OTLP has it in the body too, as `google.rpc.Status`.
fn reply(language: Language, Reply { status, code, wait, message }: Reply) -> Response<Body> {
    let mut response = match language {
        Language::Protobuf => {
            let body = pb::Status { code: code as i32, message, details: Vec::new() };
            respond(status, "application/x-protobuf", body.encode_to_vec())
        }
        Language::Json => {
            let body = json!({"code": code as i32, "message": message});
            respond(status, "application/json", body.to_string().into_bytes())
        }
        Language::Text => respond(status, "text/plain; charset=utf-8", message.into_bytes()),
    };
    let wait = wait.map(|wait| match wait {
        Wait::Seconds(seconds) => seconds.to_string(),
        // A date has whole seconds: one more, so that the wait is never shorter than asked for.
        Wait::Date(from_now) => httpdate::fmt_http_date(SystemTime::now() + from_now + Duration::from_secs(1)),
        Wait::Raw(text) => text,
    });
    if let Some(value) = wait.and_then(|text| HeaderValue::from_bytes(text.as_bytes()).ok()) {
        response.headers_mut().insert(RETRY_AFTER, value);
    }
    response
}

fn respond(status: u16, media_type: &'static str, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Full::from(body).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// The body is a stream, so that a `content-length` among the headers is sent even when it is not true. The stream takes
/// a breath before its end: where the end turns out to be an error, what came before has left by then.
fn raw(status: u16, headers: Vec<(String, String)>, body: Vec<u8>) -> Response<Body> {
    let frames = stream::unfold(Some(Bytes::from(body)), async |left| match left {
        Some(body) => Some((Ok(Frame::data(body)), None)),
        None => {
            tokio::task::yield_now().await;
            None
        }
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}
