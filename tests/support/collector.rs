//! A real OpenTelemetry Collector, whose `file` exporter tells exactly what it received.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use auditwire::receiver::{parse_otlp_json, records};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message;

use super::program::{Program, built, poll, start_on_free_ports};

/// Both protocols to the file. A configuration finds its addresses and its file in the environment, and opens no
/// port of its own for metrics. `append` keeps what was written before a restart. Protobuf is quicker to read than
/// the exporter's other format, JSON; a configuration may have either.
pub const TO_FILE: &str = "
receivers:
  otlp:
    protocols:
      grpc: {endpoint: '${env:OTLP_GRPC}'}
      http: {endpoint: '${env:OTLP_HTTP}'}
exporters:
  file: {path: '${env:OUT}', append: true, format: proto, flush_interval: 50ms}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    logs: {receivers: [otlp], exporters: [file]}
";

pub struct Collector {
    program: Program,
    config: PathBuf,
    out: PathBuf,
    /// How far the file was read, and what was in it.
    read: u64,
    requests: Vec<ExportLogsServiceRequest>,
}

impl Collector {
    /// Starts a Collector with this configuration, which may use `${env:OTLP_GRPC}`, `${env:OTLP_HTTP}` (addresses),
    /// `${env:OUT}` (the file exporter's file) and `${env:DIR}`. Must serve both protocols.
    ///
    /// # Panics
    /// When it is not built or does not get ready.
    pub fn start(config: &str, dir: &Path) -> Self {
        let exe = built().expect("the Collector is built").join("otelcol");
        let config_path = dir.join("otelcol.yaml");
        fs::write(&config_path, config).unwrap();
        let out = dir.join("otelcol.jsonl");
        let program = start_on_free_ports(|[grpc, http]| {
            let (exe, config_path, out, dir) = (exe.clone(), config_path.clone(), out.clone(), dir.to_owned());
            let log = dir.join("otelcol.log");
            let command = move || {
                let mut command = Command::new(&exe);
                command.arg("--config").arg(&config_path);
                command.env("OTLP_GRPC", grpc.to_string()).env("OTLP_HTTP", http.to_string());
                command.env("OUT", &out).env("DIR", &dir);
                command
            };
            Program::new(command, "Everything is ready", vec![grpc, http], log)
        });
        Self { program, config: config_path, out, read: 0, requests: Vec::new() }
    }

    pub fn otlp_grpc_addr(&self) -> SocketAddr {
        self.program.ports[0]
    }

    pub fn otlp_http_addr(&self) -> SocketAddr {
        self.program.ports[1]
    }

    /// What the file exporter wrote until now, as the batches came.
    pub fn requests(&mut self) -> &[ExportLogsServiceRequest] {
        let Ok(mut file) = fs::File::open(&self.out) else { return &[] };
        file.seek(SeekFrom::Start(self.read)).unwrap();
        let mut more = Vec::new();
        file.read_to_end(&mut more).unwrap();
        let mut rest = &more[..];
        while let Some((request, length)) = first_request(rest) {
            self.requests.push(request);
            self.read += length as u64;
            rest = &rest[length..];
        }
        &self.requests
    }

    /// The records among it, in order.
    pub fn records(&mut self) -> Vec<LogRecord> {
        self.requests().iter().flat_map(records).cloned().collect()
    }

    /// Waits until so many records are in the file, and returns all that are there by then, or after the wait.
    pub fn wait_for(&mut self, count: usize) -> Vec<LogRecord> {
        let _ = poll(|| (self.requests().iter().flat_map(records).count() >= count).then_some(()));
        self.records()
    }

    /// What it logged since its start.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.program.log).unwrap_or_default()
    }

    /// SIGTERM; what it holds in memory is written first.
    pub fn stop(&mut self) {
        self.program.stop();
    }

    /// SIGKILL; what it holds in memory is lost.
    pub fn kill(&mut self) {
        self.program.kill();
    }

    /// Starts it again on the same ports, after it is stopped if it runs.
    pub fn restart(&mut self) {
        self.program.stop();
        self.program.start_again();
    }

    /// The same with another configuration.
    pub fn restart_with(&mut self, config: &str) {
        fs::write(&self.config, config).unwrap();
        self.restart();
    }
}

/// A line of JSON, or protobuf behind its length in four bytes; nothing when its end is still in the making.
fn first_request(bytes: &[u8]) -> Option<(ExportLogsServiceRequest, usize)> {
    if bytes.first() == Some(&b'{') {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let line = &bytes[..end];
        let request = parse_otlp_json(line).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(line)));
        return Some((request, end + 1));
    }
    let (length, rest) = bytes.split_first_chunk()?;
    let message = rest.get(..u32::from_be_bytes(*length) as usize)?;
    Some((ExportLogsServiceRequest::decode(message).unwrap(), length.len() + message.len()))
}
