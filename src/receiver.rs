//! A development receiver: it decodes and can be scripted; not for production.
//!
//! It speaks what the exporters speak (OTLP/gRPC, OTLP/HTTP and the webhook's JSON), each with or without TLS, and hands
//! every decoded request to its owner together with the answer it gave. The answers come from a [`Script`], so a test can
//! make a server that is busy, broken, slow, or that loses its reply after it stored what it got. Nothing is kept on disk
//! and nothing is authenticated beyond a client certificate.
//!
//! ```
//! # use auditwire::receiver::{ANY_PORT, Answer, Options, Receiver, Script};
//! # async fn example() -> std::io::Result<()> {
//! let script = Script::new().times(3, Answer::status(503));
//! let mut receiver = Receiver::start(Options { otlp_grpc: Some(ANY_PORT), script, ..Options::default() }).await?;
//! println!("send to http://{}", receiver.otlp_grpc_addr().unwrap());
//! while let Some(received) = receiver.next().await {
//!     println!("{} records, accepted: {}", received.len(), received.accepted());
//! }
//! # Ok(())
//! # }
//! ```

mod connection;
mod grpc;
mod http;
mod jsonl;
mod otlp;
mod script;
mod tls;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_rustls::TlsAcceptor;

use connection::Shared;
pub use jsonl::write_jsonl;
pub use otlp::{attribute, json, parse_otlp_json, records, uid};
pub use script::{Answer, Reply, Script, ScriptError, Wait};
pub use tls::Tls;

/// A free port of the loopback interface.
pub const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// How long [`Receiver::stop`] lets a client finish a request it has begun.
const GRACE: Duration = Duration::from_secs(1);

/// What a receiver listens to and how it answers. A protocol without an address is not served.
pub struct Options {
    /// Where OTLP/gRPC is served.
    pub otlp_grpc: Option<SocketAddr>,
    /// Where OTLP/HTTP is served, at `/v1/logs`.
    pub otlp_http: Option<SocketAddr>,
    /// Where JSON bodies are taken, at any path.
    pub webhook: Option<SocketAddr>,
    /// TLS for all of them; plain text without.
    pub tls: Option<Tls>,
    /// The answers; OK when it is empty or used up.
    pub script: Script,
    /// The largest request that is decoded, in bytes before and after decompression. Default 4 MiB, as in gRPC servers.
    pub max_request_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            otlp_grpc: None,
            otlp_http: None,
            webhook: None,
            tls: None,
            script: Script::new(),
            max_request_bytes: 4 << 20,
        }
    }
}

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `LogsService/Export` over HTTP/2.
    OtlpGrpc,
    /// `POST /v1/logs` over HTTP/1.1, protobuf or JSON.
    OtlpHttp,
    /// A `POST` of JSON over HTTP/1.1.
    Webhook,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtlpGrpc => "OTLP/gRPC",
            Self::OtlpHttp => "OTLP/HTTP",
            Self::Webhook => "webhook",
        })
    }
}

/// What a request carried.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// A decoded OTLP request.
    Otlp(ExportLogsServiceRequest),
    /// A webhook's body, an array or an object.
    Json(Value),
}

/// One decoded request and what was answered.
#[derive(Debug, Clone)]
pub struct Received {
    /// How it came.
    pub protocol: Protocol,
    /// When it was complete.
    pub at: Instant,
    /// HTTP headers or gRPC metadata, names in lower case.
    pub headers: Vec<(String, String)>,
    /// What it carried.
    pub payload: Payload,
    /// What was answered. A [rule](Script::rule) sees here what the list of answers says.
    pub answer: Answer,
    /// Size of the uncompressed body.
    pub bytes: usize,
}

impl Received {
    /// Whether the sender was told, or would have been told had the reply not been lost on purpose, that this was stored.
    pub fn accepted(&self) -> bool {
        self.answer.accepts()
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The log records of an OTLP request, in order; nothing for a webhook.
    pub fn records(&self) -> impl Iterator<Item = &LogRecord> {
        match &self.payload {
            Payload::Otlp(request) => Some(records(request)),
            Payload::Json(_) => None,
        }
        .into_iter()
        .flatten()
    }

    /// The elements of a webhook's array, or its one object; nothing for OTLP.
    pub fn elements(&self) -> &[Value] {
        match &self.payload {
            Payload::Otlp(_) => &[],
            Payload::Json(Value::Array(elements)) => elements,
            Payload::Json(object) => slice::from_ref(object),
        }
    }

    /// The number of records or elements.
    pub fn len(&self) -> usize {
        self.records().count() + self.elements().len()
    }

    /// Whether it carried nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A running receiver. Everything it does runs on the runtime that started it; dropping it stops it.
#[derive(Debug)]
pub struct Receiver {
    addresses: Vec<(Protocol, SocketAddr)>,
    received: mpsc::UnboundedReceiver<Received>,
    requests: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    listeners: JoinSet<()>,
}

impl Receiver {
    /// Binds the addresses and begins to serve.
    ///
    /// # Errors
    /// An address cannot be bound, or the TLS material is unusable.
    pub async fn start(options: Options) -> io::Result<Self> {
        let (sender, received) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let requests = Arc::new(AtomicU64::new(0));
        let shared =
            Arc::new(Shared::new(options.script, sender, options.max_request_bytes, requests.clone(), stopped));

        let wanted = [
            (Protocol::OtlpGrpc, options.otlp_grpc),
            (Protocol::OtlpHttp, options.otlp_http),
            (Protocol::Webhook, options.webhook),
        ];
        let mut addresses = Vec::new();
        let mut listeners = JoinSet::new();
        for (protocol, address) in wanted {
            let Some(address) = address else { continue };
            let cannot = |e: io::Error| io::Error::new(e.kind(), format!("cannot serve {protocol} on {address}: {e}"));
            let tls = options.tls.as_ref().map(|tls| tls.acceptor(protocol)).transpose().map_err(cannot)?;
            let listener = TcpListener::bind(address).await.map_err(cannot)?;
            addresses.push((protocol, listener.local_addr()?));
            listeners.spawn(listen(listener, protocol, tls, shared.clone()));
        }
        Ok(Self { addresses, received, requests, stop, listeners })
    }

    /// Where OTLP/gRPC is served, with the real port.
    pub fn otlp_grpc_addr(&self) -> Option<SocketAddr> {
        self.addr(Protocol::OtlpGrpc)
    }

    /// Where OTLP/HTTP is served, with the real port.
    pub fn otlp_http_addr(&self) -> Option<SocketAddr> {
        self.addr(Protocol::OtlpHttp)
    }

    /// Where the webhook is served, with the real port.
    pub fn webhook_addr(&self) -> Option<SocketAddr> {
        self.addr(Protocol::Webhook)
    }

    /// Where a protocol is served, with the real port.
    pub fn addr(&self, protocol: Protocol) -> Option<SocketAddr> {
        self.addresses.iter().find(|(p, _)| *p == protocol).map(|(_, address)| *address)
    }

    /// The next decoded request, in order of arrival. `None` after [`stop`](Self::stop), when all were taken.
    pub async fn next(&mut self) -> Option<Received> {
        self.received.recv().await
    }

    /// The next decoded request if one is there already.
    pub fn try_next(&mut self) -> Option<Received> {
        self.received.try_recv().ok()
    }

    /// How many requests came, those included that were refused before they could be decoded.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Stops serving: what is being answered is finished, what a script delays or holds back is cut off, and the ports
    /// can be bound again. Requests that came before can still be taken with [`next`](Self::next).
    ///
    /// # Panics
    /// When a task of the receiver did, so that a failing rule fails its test.
    pub async fn stop(&mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.listeners.join_next().await {
            propagate_panic(ended);
        }
    }
}

/// Accepts connections until the receiver stops, then waits for those that are open.
async fn listen(listener: TcpListener, protocol: Protocol, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let stopped = shared.stopped();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => break,
            Some(ended) = connections.join_next() => propagate_panic(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection::serve(stream, protocol, tls.clone(), shared.clone()));
                }
                // Out of descriptors: give those that are in use a moment to come free.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        propagate_panic(ended);
    }
}

fn propagate_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}
