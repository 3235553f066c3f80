//! OTLP/gRPC: the `LogsService` of `opentelemetry-proto` on a connection of ours.
//!
//! A message above the limit gets tonic's own answer, `OUT_OF_RANGE`; Go servers say `RESOURCE_EXHAUSTED`, and a script can.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use prost::Message;
use tonic::codec::CompressionEncoding;
use tonic::codegen::Service;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::connection::Connection;
use super::script::code_of;
use super::{Answer, Payload, Protocol, Reply, Wait};

/// Answers one call.
pub(super) async fn answer(
    request: Request<Incoming>,
    connection: Arc<Connection>,
) -> Result<Response<tonic::body::Body>, Infallible> {
    connection.begin();
    let limit = connection.shared.max_request_bytes;
    LogsServiceServer::new(Logs(connection))
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(limit)
        .call(request)
        .await
}

struct Logs(Arc<Connection>);

#[tonic::async_trait]
impl LogsService for Logs {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let bytes = message.encoded_len();
        let headers = metadata.into_headers();
        match self.0.receive(Protocol::OtlpGrpc, &headers, Payload::Otlp(message), bytes).await {
            Answer::Reply(reply) if reply.code != Code::Ok => Err(status(reply)),
            Answer::Raw { status, body, .. } if code_of(status) != Code::Ok => {
                Err(Status::new(code_of(status), String::from_utf8_lossy(&body)))
            }
            answer => Ok(tonic::Response::new(response(&answer))),
        }
    }
}

/// The response to a request that was accepted, wholly or partly. A Collector always sends the partial success, empty
/// when there is nothing to say.
pub(super) fn response(answer: &Answer) -> ExportLogsServiceResponse {
    let partial_success = match answer {
        Answer::PartialSuccess { rejected, message } => {
            ExportLogsPartialSuccess { rejected_log_records: *rejected, error_message: message.clone() }
        }
        _ => ExportLogsPartialSuccess::default(),
    };
    ExportLogsServiceResponse { partial_success: Some(partial_success) }
}

fn status(Reply { code, wait, message, .. }: Reply) -> Status {
    let delay = match wait {
        None => return Status::new(code, message),
        Some(Wait::Raw(text)) => return Status::with_details(code, message, Bytes::from(text)),
        Some(Wait::Seconds(seconds)) => Duration::from_secs(seconds),
        Some(Wait::Date(from_now)) => from_now,
    };
    Status::with_error_details(code, message, ErrorDetails::with_retry_info(Some(delay)))
}
