//! OTLP/gRPC on tonic, with bytes that are already encoded.

use std::convert::Infallible;
use std::error::Error as _;
use std::mem;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::uri::PathAndQuery;
use http_body_util::StreamBody;
use hyper::body::Frame;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message;
use tonic::body::Body;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::Service;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::http::{CONNECT_TIMEOUT, USER_AGENT, chain, excerpt, gzip};
use super::otlp_http::partial_success;
use super::tls::Material;
use super::{Batch, Pool, Verdict};
use crate::config::{Compression, ConfigError, Otlp, url::shown};
use crate::otlp::Envelope;

const EXPORT: PathAndQuery = PathAndQuery::from_static("/opentelemetry.proto.collector.logs.v1.LogsService/Export");

pub(crate) struct OtlpGrpc {
    endpoint: Endpoint,
    target: String,
    /// Made at the first request: that needs a runtime around it.
    channel: tokio::sync::OnceCell<Channel>,
    metadata: MetadataMap,
    timeout: Option<Duration>,
    compression: Compression,
    /// For compressed messages.
    pool: Pool,
    envelope: Envelope,
    max_request_bytes: usize,
}

impl std::fmt::Debug for OtlpGrpc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OtlpGrpc").field("target", &self.target()).finish_non_exhaustive()
    }
}

impl OtlpGrpc {
    pub(super) fn new(destination: &str, config: &Otlp, envelope: Envelope) -> Result<Self, ConfigError> {
        let error = |why: String| ConfigError {
            setting: format!("{destination}: endpoint"),
            value: Some(shown(&config.endpoint)),
            why,
        };
        let mut endpoint = Endpoint::from_shared(config.endpoint.clone()).map_err(|why| error(chain(&why)))?;
        if !matches!(endpoint.uri().scheme_str(), Some("http" | "https")) {
            return Err(error("not an http:// or https:// URL".into()));
        }
        endpoint = endpoint
            .user_agent(USER_AGENT)
            .expect("our name is a valid header")
            .connect_timeout(config.timeout.map_or(CONNECT_TIMEOUT, |timeout| timeout.min(CONNECT_TIMEOUT)))
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(30)));
        if endpoint.uri().scheme_str() == Some("https") {
            let tls = Material::read(destination, &config.tls)?.tonic();
            endpoint = endpoint.tls_config(tls).map_err(|why| error(chain(&why)))?;
        }
        let mut metadata = MetadataMap::new();
        for (name, value) in super::http::headers(destination, &config.headers)? {
            let name = name.expect("each name was given once");
            let (Ok(key), Ok(mut value)) =
                (name.as_str().parse::<MetadataKey<Ascii>>(), MetadataValue::try_from(value.as_bytes()))
            else {
                return Err(ConfigError {
                    setting: format!("{destination}: header {:?}", name.as_str()),
                    value: None,
                    why: "cannot be gRPC metadata".into(),
                });
            };
            value.set_sensitive(true);
            metadata.insert(key, value);
        }
        Ok(Self {
            endpoint,
            target: shown(&config.endpoint),
            channel: tokio::sync::OnceCell::new(),
            metadata,
            timeout: config.timeout,
            compression: config.compression,
            pool: Pool::default(),
            envelope,
            max_request_bytes: config.max_request_bytes,
        })
    }

    pub(super) fn max_request_bytes(&self) -> usize {
        self.max_request_bytes
    }

    pub(super) fn target(&self) -> String {
        self.target.clone()
    }

    /// The message, as long as nothing has compressed or framed it.
    pub(super) fn body(&self, batch: &Batch) -> Vec<Bytes> {
        self.envelope.request(batch.payload.clone())
    }

    pub(super) async fn send(&self, batch: &Batch) -> Verdict {
        let mut message = self.body(batch);
        if self.compression == Compression::Gzip {
            message = match gzip(message, &self.pool).await {
                Ok(compressed) => vec![compressed],
                Err(why) => return Verdict::Retry { after: None, why },
            };
        }
        let Ok(len) = u32::try_from(message.iter().map(Bytes::len).sum::<usize>()) else {
            return Verdict::TooLarge { why: "a gRPC message has at most 4 GiB".into() };
        };
        let mut prefix = vec![u8::from(self.compression == Compression::Gzip)];
        prefix.extend_from_slice(&len.to_be_bytes());
        message.insert(0, prefix.into());

        let channel = self.channel.get_or_init(|| async { self.endpoint.connect_lazy() }).await.clone();
        let mut client = tonic::client::Grpc::new(Framed { channel, message });
        if self.compression == Compression::Gzip {
            // Only the header is of it: the message is compressed.
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        client = client.accept_compressed(CompressionEncoding::Gzip);
        if let Err(error) = client.ready().await {
            return Verdict::Retry { after: None, why: chain(&error) };
        }
        let mut request = Request::new(());
        *request.metadata_mut() = self.metadata.clone();
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        match client.unary(request, EXPORT, AnswerCodec).await {
            Ok(response) => partial_success(response.get_ref()),
            Err(status) => verdict(&status),
        }
    }
}

/// A channel for one request, which sends a message that is already framed in the place of the one that tonic would copy into a
/// buffer of its own. Everything else, above all the answer, is tonic's.
struct Framed {
    channel: Channel,
    message: Vec<Bytes>,
}

impl Service<http::Request<Body>> for Framed {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let parts = mem::take(&mut self.message).into_iter().filter(|part| !part.is_empty());
        let frames = parts.map(|part| Ok::<_, Infallible>(Frame::data(part)));
        self.channel.call(request.map(|_| Body::new(StreamBody::new(stream::iter(frames)))))
    }
}

/// What a gRPC status means in OTLP (OTLP specification 1.10, "Failures" and "OTLP/gRPC Throttling").
///
/// Beyond it: what is about us or the address and not about the records is held instead of dropped, and a request that is too
/// large is halved.
fn verdict(status: &Status) -> Verdict {
    // A cause is only there when no server answered: the connection failed, closed, or timed out.
    if let Some(cause) = status.source() {
        return Verdict::Retry { after: None, why: chain(cause) };
    }
    let after = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let why = match excerpt(status.message()) {
        "" => format!("{:?}", status.code()),
        message => format!("{:?}: {message}", status.code()),
    };
    match status.code() {
        Code::ResourceExhausted | Code::OutOfRange if after.is_none() && says_too_large(status.message()) => {
            Verdict::TooLarge { why }
        }
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Verdict::Retry { after, why },
        Code::ResourceExhausted if after.is_some() => Verdict::Retry { after, why },
        // A quota is exhausted and nobody says for how long: the records are not at fault.
        Code::ResourceExhausted => Verdict::Unauthorized { why },
        Code::Unauthenticated | Code::PermissionDenied | Code::NotFound | Code::Unimplemented => {
            Verdict::Unauthorized { why }
        }
        Code::Ok => Verdict::DELIVERED,
        Code::InvalidArgument | Code::FailedPrecondition | Code::AlreadyExists | Code::Internal | Code::Unknown => {
            Verdict::Rejected { why }
        }
    }
}

/// How grpc-go, grpc-java, grpc-dotnet and tonic say that a message is above their limit, as it came or decompressed;
/// gRPC has no code of its own for it.
pub(super) fn says_too_large(message: &str) -> bool {
    const PHRASES: [&str; 5] =
        ["larger than max", "exceeds maximum", "exceeds the maximum", "too large", "exceeded while decompressing"];
    PHRASES.iter().any(|phrase| message.contains(phrase))
}

/// Reads an `ExportLogsServiceResponse`, and has nothing to encode.
struct AnswerCodec;

impl Codec for AnswerCodec {
    type Encode = ();
    type Decode = ExportLogsServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for AnswerCodec {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for AnswerCodec {
    type Item = ExportLogsServiceResponse;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        // An answer that cannot be read does not undo the OK around it.
        Ok(Some(ExportLogsServiceResponse::decode(source).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn every_code_has_its_meaning() {
        use Code::*;
        for (codes, meaning) in [
            (&[Cancelled, DeadlineExceeded, Aborted, OutOfRange, Unavailable, DataLoss][..], "Retry"),
            (&[InvalidArgument, FailedPrecondition, AlreadyExists, Internal, Unknown], "Rejected"),
            (&[Unauthenticated, PermissionDenied, NotFound, Unimplemented, ResourceExhausted], "Unauthorized"),
        ] {
            for code in codes {
                let verdict = format!("{:?}", verdict(&Status::new(*code, "why")));
                assert!(verdict.starts_with(meaning), "{code:?}: {verdict}");
            }
        }
    }

    #[test]
    fn retry_info_is_read() {
        let wait = Duration::from_millis(1500);
        for code in [Code::Unavailable, Code::ResourceExhausted] {
            let status = Status::with_error_details(code, "busy", ErrorDetails::with_retry_info(Some(wait)));
            assert_eq!(verdict(&status), Verdict::Retry { after: Some(wait), why: format!("{code:?}: busy") });
        }
    }

    #[test]
    fn too_large_is_recognized_by_the_servers_words() {
        for (code, message) in [
            (Code::ResourceExhausted, "grpc: received message larger than max (5243005 vs. 4194304)"),
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 5243005 bytes, the limit is: 4194304 bytes",
            ),
            (Code::ResourceExhausted, "gRPC message exceeds maximum size 4194304: 5243005"),
            (Code::ResourceExhausted, "Received message exceeds the maximum configured message size."),
            (Code::ResourceExhausted, "grpc: received message after decompression larger than max 4194304"),
            (
                Code::ResourceExhausted,
                "Error decompressing: size limit, of 4194304 bytes, exceeded while decompressing message",
            ),
            // A Collector in front of it says who said so.
            (
                Code::ResourceExhausted,
                "Permanent error: rpc error: code = ResourceExhausted desc = Error decompressing: size limit, of 50000 \
                 bytes, exceeded while decompressing message",
            ),
        ] {
            assert!(matches!(verdict(&Status::new(code, message)), Verdict::TooLarge { .. }), "{message}");
        }
    }
}
