//! `auditwire receive`: the development receiver as a command.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, StdoutLock};
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use auditwire::config::units;
use auditwire::receiver::{Options, Protocol, Received, Receiver, Script, Tls, write_jsonl};

use super::exit;
use super::show::Show;
use super::signals::Signals;

/// Receive audit events for a look or a test: print them, or write JSON Lines
///
/// Speaks OTLP/gRPC, OTLP/HTTP and the webhook's JSON, all three on their usual ports when none is named. Ends on Ctrl-C.
/// For development: nothing is authenticated beyond a client certificate, and nothing is kept unless --out says so.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Serve OTLP/gRPC on PORT or HOST:PORT [usual port: 4317]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    otlp_grpc: Option<SocketAddr>,

    /// Serve OTLP/HTTP on PORT or HOST:PORT, at /v1/logs [usual port: 4318]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    otlp_http: Option<SocketAddr>,

    /// Take a webhook's JSON on PORT or HOST:PORT, at any path [usual port: 8088]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    webhook: Option<SocketAddr>,

    /// Append what is accepted to FILE as JSON Lines instead of printing it
    ///
    /// OTLP requests as OTLP/JSON, one a line, as a Collector's file exporter writes them; of a webhook each element.
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Print each record's body, too: the whole OCSF event
    #[arg(long, conflicts_with = "out")]
    body: bool,

    /// Answer the first requests so: STATUS[xCOUNT][:RETRY_AFTER_SECONDS], separated by commas, as in 503x3,429:2,400
    #[arg(long, value_name = "SCRIPT")]
    fail: Option<ScriptText>,

    /// Refuse larger requests
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = units::size)]
    max_request_bytes: usize,

    /// End after so many records were accepted
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    /// Serve TLS with this certificate chain (PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,

    /// The private key to --certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,

    /// Demand client certificates signed by this CA (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate")]
    client_certificate: Option<PathBuf>,
}

/// A script that was read once, to refuse a wrong one with the other arguments.
#[derive(Debug, Clone)]
struct ScriptText(String);

impl std::str::FromStr for ScriptText {
    type Err = <Script as std::str::FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<Script>().map(|_| Self(text.to_owned()))
    }
}

/// Receives until it is told to stop.
pub(crate) fn run(args: Args) -> Result<()> {
    let options = options(&args)?;
    let mut out = Sink::open(args.out.as_deref(), args.body)?;
    // The receiver serves on the runtime's own threads, so that a slow terminal in this one does not hold up its answers.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(receive(options, args.count, &mut out))
}

fn options(args: &Args) -> Result<Options> {
    let mut options = Options {
        otlp_grpc: args.otlp_grpc,
        otlp_http: args.otlp_http,
        webhook: args.webhook,
        tls: None,
        script: args.fail.as_ref().map_or_else(|| Ok(Script::new()), |fail| fail.0.parse())?,
        max_request_bytes: args.max_request_bytes,
    };
    if options.otlp_grpc.is_none() && options.otlp_http.is_none() && options.webhook.is_none() {
        options.otlp_grpc = Some(loopback(4317));
        options.otlp_http = Some(loopback(4318));
        options.webhook = Some(loopback(8088));
    }
    if let (Some(cert), Some(key)) = (&args.certificate, &args.key) {
        let client_ca = args.client_certificate.as_deref().map(pem).transpose()?;
        options.tls = Some(Tls { cert: pem(cert)?, key: pem(key)?, client_ca });
    }
    Ok(options)
}

fn pem(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn address(text: &str) -> Result<SocketAddr, String> {
    match text.parse() {
        Ok(port) => Ok(loopback(port)),
        Err(_) => text
            .to_socket_addrs()
            .map_err(|e| format!("neither PORT nor HOST:PORT: {e}"))?
            .next()
            .ok_or_else(|| "the host has no address".to_owned()),
    }
}

/// Where accepted requests go, and in which form.
enum Sink {
    Terminal(BufWriter<StdoutLock<'static>>, Show),
    File(BufWriter<File>),
}

impl Sink {
    fn open(path: Option<&Path>, body: bool) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self::Terminal(BufWriter::new(io::stdout().lock()), Show::on_stdout(body)));
        };
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self::File(BufWriter::new(file)))
    }

    fn write(&mut self, received: &Received) -> io::Result<()> {
        match self {
            Self::Terminal(out, show) => show.write(out, received),
            Self::File(out) => write_jsonl(out, received),
        }
    }
}

async fn receive(options: Options, count: Option<u64>, out: &mut Sink) -> Result<()> {
    let mut receiver = Receiver::start(options).await?;
    for protocol in [Protocol::OtlpGrpc, Protocol::OtlpHttp, Protocol::Webhook] {
        if let Some(address) = receiver.addr(protocol) {
            exit::say(format_args!("listening for {protocol} on {address}"));
        }
    }

    let mut tally = Tally::default();
    let mut signals = Signals::listen()?;
    let mut ended = Ok(());
    while ended.is_ok() && count.is_none_or(|count| tally.records < count) {
        tokio::select! {
            () = signals.next() => break,
            Some(received) = receiver.next() => ended = take(&received, &mut tally, out),
        }
    }
    receiver.stop().await;
    // What was answered before the stop has been promised.
    while ended.is_ok()
        && let Some(received) = receiver.next().await
    {
        ended = take(&received, &mut tally, out);
    }

    let refused = receiver.requests().saturating_sub(tally.accepted);
    exit::say(format_args!(
        "{} requests, {} records accepted, {refused} requests refused",
        receiver.requests(),
        tally.records
    ));
    match ended {
        // Whoever read the output has enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        ended => ended.context("cannot write what arrived"),
    }
}

#[derive(Default)]
struct Tally {
    accepted: u64,
    records: u64,
}

fn take(received: &Received, tally: &mut Tally, out: &mut Sink) -> io::Result<()> {
    if !received.accepted() {
        let (protocol, records) = (received.protocol, received.len());
        exit::say(format_args!("refused as told: {protocol} with {records} records: {}", received.answer));
        return Ok(());
    }
    tally.accepted += 1;
    tally.records += received.len() as u64;
    out.write(received)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, String> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.args).map_err(|e| e.to_string())
    }

    #[test]
    fn all_usual_ports_are_served_when_none_is_named() {
        let all = options(&parse("receive").unwrap()).unwrap();
        assert_eq!(all.otlp_grpc, Some("127.0.0.1:4317".parse().unwrap()));
        assert_eq!(all.otlp_http, Some("127.0.0.1:4318".parse().unwrap()));
        assert_eq!(all.webhook, Some("127.0.0.1:8088".parse().unwrap()));

        let one = options(&parse("receive --webhook 0.0.0.0:9000").unwrap()).unwrap();
        assert_eq!((one.otlp_grpc, one.otlp_http), (None, None));
        assert_eq!(one.webhook, Some("0.0.0.0:9000".parse().unwrap()));
        let one = options(&parse("receive --otlp-http 9001").unwrap()).unwrap();
        assert_eq!(one.otlp_http, Some(loopback(9001)));
    }

    #[test]
    fn a_bad_argument_is_named() {
        for (line, named) in [
            ("receive --fail 503xx", "`x` is no number of times"),
            ("receive --fail 42", "`42` is no HTTP status"),
            ("receive --webhook nowhere", "neither PORT nor HOST:PORT"),
            ("receive --webhook 70000", "neither PORT nor HOST:PORT"),
            ("receive --key k.pem", "--certificate"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(named), "{line}: {error}");
        }
    }
}
