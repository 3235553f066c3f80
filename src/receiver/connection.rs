//! One connection: what its requests share, and how it ends.
//!
//! A connection is its own task, so that dropping the task's future is the one way to cut it off, whatever its protocol.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Instant;

use http::HeaderMap;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio_rustls::TlsAcceptor;

use super::{Answer, GRACE, Payload, Protocol, Received, Script, grpc, http as plain};

/// What all connections of a receiver share.
pub(super) struct Shared {
    script: Mutex<Script>,
    received: mpsc::UnboundedSender<Received>,
    pub(super) max_request_bytes: usize,
    requests: Arc<AtomicU64>,
    stopped: watch::Receiver<bool>,
}

impl Shared {
    pub(super) fn new(
        script: Script,
        received: mpsc::UnboundedSender<Received>,
        max_request_bytes: usize,
        requests: Arc<AtomicU64>,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        Self { script: Mutex::new(script), received, max_request_bytes, requests, stopped }
    }

    /// Resolves when the receiver was stopped or dropped.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stopped = self.stopped.clone();
        async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        }
    }

    /// Decides the answer to a request and hands the request over. Both under one lock: the order in which requests are
    /// taken from the receiver is the order in which the script answered them.
    fn arrive(&self, mut request: Received) -> Answer {
        let mut script = self.script.lock().expect("a rule of the script panicked");
        request.answer = script.advance();
        if let Some(answer) = script.overrule(&request) {
            request.answer = answer;
        }
        let answer = request.answer.clone();
        // Nobody listens any more when the receiver is being dropped.
        let _ = self.received.send(request);
        answer
    }
}

/// What the requests of one connection share.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    cut: Notify,
    reset: Arc<AtomicBool>,
}

impl Connection {
    /// Counts a request that has begun to come in.
    pub(super) fn begin(&self) {
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a decoded request and returns what is to be said about it, once it is time. Where the script says that
    /// nothing is to be said, the connection ends here and this never returns.
    pub(super) async fn receive(
        &self,
        protocol: Protocol,
        headers: &HeaderMap,
        payload: Payload,
        bytes: usize,
    ) -> Answer {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let at = Instant::now();
        let mut answer = self.shared.arrive(Received { protocol, at, headers, payload, answer: Answer::Ok, bytes });
        loop {
            match answer {
                Answer::Delay(by, then) => {
                    answer = tokio::select! {
                        () = tokio::time::sleep(by) => *then,
                        () = self.shared.stopped() => Answer::Cut,
                    }
                }
                Answer::Hang => {
                    self.shared.stopped().await;
                    answer = Answer::Cut;
                }
                Answer::Cut | Answer::StoreThenCut => self.cut().await,
                answer => return answer,
            }
        }
    }

    /// Ends the connection with a reset.
    async fn cut<T>(&self) -> T {
        self.reset.store(true, Ordering::Relaxed);
        self.cut.notify_one();
        pending().await
    }
}

/// Serves one connection until it ends or the receiver stops.
pub(super) async fn serve(stream: TcpStream, protocol: Protocol, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    // Answers are small and waited for.
    let _ = stream.set_nodelay(true);
    let reset = Arc::new(AtomicBool::new(false));
    let connection = Arc::new(Connection { shared, cut: Notify::new(), reset: reset.clone() });
    let stream = Socket { stream, reset };
    match tls {
        None => converse(stream, protocol, connection).await,
        Some(tls) => tokio::select! {
            handshake = tls.accept(stream) => if let Ok(stream) = handshake {
                converse(stream, protocol, connection).await;
            },
            () = connection.shared.stopped() => {}
        },
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    protocol: Protocol,
    connection: Arc<Connection>,
) {
    let io = TokioIo::new(stream);
    let requests = connection.clone();
    match protocol {
        Protocol::OtlpGrpc => {
            let service = service_fn(move |request| grpc::answer(request, requests.clone()));
            let http2 = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service);
            drive(http2, |http2| http2.graceful_shutdown(), &connection).await;
        }
        Protocol::OtlpHttp | Protocol::Webhook => {
            let service = service_fn(move |request| {
                let requests = requests.clone();
                async move { Ok::<_, Infallible>(plain::answer(request, protocol, &requests).await) }
            });
            let http1 = http1::Builder::new().header_read_timeout(None).serve_connection(io, service);
            drive(http1, |http1| http1.graceful_shutdown(), &connection).await;
        }
    }
}

/// Runs a connection to its end: by the client, by the script, or by the stop of the receiver.
async fn drive<C: Future>(running: C, wind_down: impl FnOnce(Pin<&mut C>), connection: &Connection) {
    let mut running = pin!(running);
    tokio::select! {
        biased;
        () = connection.cut.notified() => return,
        _ = &mut running => return,
        () = connection.shared.stopped() => {}
    }
    wind_down(running.as_mut());
    tokio::select! {
        biased;
        () = connection.cut.notified() => {}
        _ = running => {}
        () = tokio::time::sleep(GRACE) => {}
    }
}

/// A stream that can be told to end with a reset instead of an orderly close, also from beneath TLS.
struct Socket {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
