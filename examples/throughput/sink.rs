//! The other end, in a process of its own: servers that count what they get.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use anyhow::{Context as _, Result};
use bytes::{Buf as _, Bytes};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message as _};
use tokio::net::TcpListener;
use tonic::Status;
use tonic::body::Body;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::codec::{Codec, DecodeBuf, Decoder, EnabledCompressionEncodings, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;

/// What a sink speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Decodes each request, as a Collector does.
    Grpc,
    /// Counts the records of each request on the wire.
    GrpcCount,
    Http,
    Webhook,
}

static RECORDS: AtomicU64 = AtomicU64::new(0);

/// Serves until standard input ends. Says its port, then the number of records for each line it reads.
pub(crate) fn run(kind: Kind, port: u16) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", port)))?;
    say(listener.local_addr()?.port().into())?;
    runtime.spawn(async move {
        match kind {
            Kind::Grpc => serve_grpc(listener, LogsServiceServer::new(Counter).accept_compressed(Gzip)).await,
            Kind::GrpcCount => serve_grpc(listener, WireCounter).await,
            Kind::Http => serve(listener, otlp).await,
            Kind::Webhook => serve(listener, webhook).await,
        }
    });
    for line in std::io::stdin().lines() {
        line?;
        say(RECORDS.load(Ordering::Relaxed))?;
    }
    // Connections may be open still.
    runtime.shutdown_background();
    Ok(())
}

fn say(number: u64) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{number}")?;
    Ok(out.flush()?)
}

fn count(request: &ExportLogsServiceRequest) -> u64 {
    let scopes = request.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
    let records = scopes.map(|scope| scope.log_records.len() as u64).sum();
    RECORDS.fetch_add(records, Ordering::Relaxed);
    records
}

struct Counter;

#[tonic::async_trait]
impl LogsService for Counter {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, tonic::Status> {
        count(request.get_ref());
        Ok(tonic::Response::new(ExportLogsServiceResponse::default()))
    }
}

async fn serve_grpc<S>(listener: TcpListener, service: S)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + NamedService + Clone,
    S: Send + Sync + 'static,
    S::Future: Send,
{
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await;
    served.expect("the server runs until the process ends");
}

/// The same service, which looks for where records begin and no further.
#[derive(Clone)]
struct WireCounter;

impl NamedService for WireCounter {
    const NAME: &'static str = <LogsServiceServer<Counter> as NamedService>::NAME;
}

impl Service<Request<Body>> for WireCounter {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async move {
            let compression = EnabledCompressionEncodings::default();
            let mut accepted = compression;
            accepted.enable(Gzip);
            let mut grpc = tonic::server::Grpc::new(WireCounter).apply_compression_config(accepted, compression);
            Ok(grpc.unary(WireCounter, request).await)
        })
    }
}

impl UnaryService<()> for WireCounter {
    type Response = ();
    type Future = std::future::Ready<Result<tonic::Response<()>, Status>>;

    fn call(&mut self, _: tonic::Request<()>) -> Self::Future {
        std::future::ready(Ok(tonic::Response::new(())))
    }
}

impl Codec for WireCounter {
    type Encode = ();
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for WireCounter {
    type Item = ();
    type Error = Status;

    /// An answer without members.
    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for WireCounter {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        static CHECKED: AtomicBool = AtomicBool::new(false);
        let request = source.copy_to_bytes(source.remaining());
        // Request, resource logs, scope logs.
        let records = count_on_the_wire(&request, &[1, 2, 2]).expect("the request is OTLP");
        if CHECKED.swap(true, Ordering::Relaxed) {
            RECORDS.fetch_add(records, Ordering::Relaxed);
        } else {
            let request = ExportLogsServiceRequest::decode(request).expect("the request is OTLP");
            assert_eq!(count(&request), records);
        }
        Ok(Some(()))
    }
}

/// How many messages lie at the end of a path of field numbers.
fn count_on_the_wire(mut message: &[u8], path: &[u32]) -> Result<u64, DecodeError> {
    let Some((wanted, rest)) = path.split_first() else { return Ok(1) };
    let mut found = 0;
    while !message.is_empty() {
        let (field, wire_type) = decode_key(&mut message)?;
        if (field, wire_type) == (*wanted, WireType::LengthDelimited) {
            let length = decode_varint(&mut message)? as usize;
            found += count_on_the_wire(message.get(..length).unwrap_or_default(), rest)?;
            message = message.get(length..).unwrap_or_default();
        } else {
            skip_field(wire_type, field, &mut message, DecodeContext::default())?;
        }
    }
    Ok(found)
}

async fn serve<F>(listener: TcpListener, take: impl Fn(Request<Incoming>) -> F + Copy + Send + 'static)
where
    F: Future<Output = hyper::Result<()>> + Send,
{
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let service = service_fn(move |request| {
            let taken = take(request);
            async move {
                taken.await.expect("the request arrives whole");
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn otlp(request: Request<Incoming>) -> hyper::Result<()> {
    let body = request.into_body().collect().await?.to_bytes();
    count(&ExportLogsServiceRequest::decode(body).expect("the request is OTLP"));
    Ok(())
}

/// How each element of an array begins.
const BEGIN: &[u8] = b"{\"time\":";

/// Elements are counted by how each begins, which costs next to nothing; the first array is parsed to show that this is right.
async fn webhook(request: Request<Incoming>) -> hyper::Result<()> {
    static CHECKED: AtomicBool = AtomicBool::new(false);
    let mut body = request.into_body();
    let begins = |bytes: &[u8]| memchr::memmem::find_iter(bytes, BEGIN).count();
    if !CHECKED.swap(true, Ordering::Relaxed) {
        let body = body.collect().await?.to_bytes();
        let array: Vec<serde_json::Value> = serde_json::from_slice(&body).expect("the request is an array");
        assert_eq!(array.len(), begins(&body));
        RECORDS.fetch_add(array.len() as u64, Ordering::Relaxed);
        return Ok(());
    }
    let (mut elements, mut seam) = (0, Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        elements += begins(&data);
        // One that lies over the border of two frames lies whole in what stands around the border.
        seam.extend_from_slice(&data[..data.len().min(BEGIN.len() - 1)]);
        elements += begins(&seam);
        let all = if data.len() < BEGIN.len() { &seam } else { &data[..] };
        seam = all[all.len().saturating_sub(BEGIN.len() - 1)..].to_vec();
    }
    RECORDS.fetch_add(elements as u64, Ordering::Relaxed);
    Ok(())
}

/// A sink's process, ended with this handle.
pub(crate) struct Sink {
    process: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub(crate) port: u16,
}

impl Sink {
    pub(crate) fn start(kind: Kind) -> Result<Self> {
        Self::start_at(kind, 0)
    }

    pub(crate) fn start_at(kind: Kind, port: u16) -> Result<Self> {
        let kind = clap::ValueEnum::to_possible_value(&kind).context("it has a name")?;
        let mut process = Command::new(std::env::current_exe()?)
            .args(["sink", kind.get_name(), &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (ask, answers) = process.stdin.take().zip(process.stdout.take()).context("both are piped")?;
        let mut sink = Self { process, ask, answers: BufReader::new(answers), port: 0 };
        sink.port = u16::try_from(sink.answer()?)?;
        Ok(sink)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Records it has got so far.
    pub(crate) fn records(&mut self) -> Result<u64> {
        self.ask.write_all(b"\n")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<u64> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        line.trim().parse().context("the sink has ended")
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
