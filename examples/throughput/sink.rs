//! The other end, in a process of its own: servers that count what they get.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use prost::Message as _;
use tokio::net::TcpListener;
use tonic::codec::CompressionEncoding;
use tonic::transport::server::TcpIncoming;

/// What a sink speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    Grpc,
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
            Kind::Grpc => serve_grpc(listener).await,
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

fn count(request: &ExportLogsServiceRequest) {
    let scopes = request.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
    let records: usize = scopes.map(|scope| scope.log_records.len()).sum();
    RECORDS.fetch_add(records as u64, Ordering::Relaxed);
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

async fn serve_grpc(listener: TcpListener) {
    let service = LogsServiceServer::new(Counter).accept_compressed(CompressionEncoding::Gzip);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await;
    served.expect("the server runs until the process ends");
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

/// Elements are counted by how each begins, which costs next to nothing; the first array is parsed to show that this is right.
async fn webhook(request: Request<Incoming>) -> hyper::Result<()> {
    const BEGIN: &[u8] = b"{\"time\":";
    static CHECKED: AtomicBool = AtomicBool::new(false);
    let body = request.into_body().collect().await?.to_bytes();
    let elements = memchr::memmem::find_iter(&body, BEGIN).count();
    if !CHECKED.swap(true, Ordering::Relaxed) {
        let array: Vec<serde_json::Value> = serde_json::from_slice(&body).expect("the request is an array");
        assert_eq!(array.len(), elements);
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
        let kind = format!("{kind:?}").to_lowercase();
        let mut process = Command::new(std::env::current_exe()?)
            .args(["sink", &kind, &port.to_string()])
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
