//! A real VictoriaLogs, asked over its own HTTP API.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::program::{Program, built, start_on_free_ports};
use super::{PATIENCE, http_client};

pub struct VictoriaLogs {
    program: Program,
}

impl VictoriaLogs {
    /// # Panics
    /// When it is not built or does not get ready.
    pub fn start(dir: &Path) -> Self {
        let exe = built().expect("VictoriaLogs is built").join("victoria-logs");
        let program = start_on_free_ports(|[http]| {
            let (exe, data, log) = (exe.clone(), dir.join("victoria-logs"), dir.join("victoria-logs.log"));
            let command = move || {
                let mut command = Command::new(&exe);
                command.arg(format!("-storageDataPath={}", data.display()));
                command.arg(format!("-httpListenAddr={http}"));
                // Old and future times in test data are no reason to refuse them.
                command.args(["-retentionPeriod=100y", "-futureRetention=100y"]);
                command
            };
            Program::new(command, "started server at", vec![http], log)
        });
        Self { program }
    }

    pub fn addr(&self) -> SocketAddr {
        self.program.ports[0]
    }

    /// Where it takes OTLP/HTTP, protobuf only.
    pub fn otlp_logs_url(&self) -> String {
        format!("http://{}/insert/opentelemetry/v1/logs", self.addr())
    }

    /// The records that a LogsQL query finds; what came a moment ago may not be found yet.
    pub async fn query(&self, query: &str) -> Vec<Value> {
        let response = http_client()
            .build()
            .unwrap()
            .post(format!("http://{}/select/logsql/query", self.addr()))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!("query={}", utf8_percent_encode(query, NON_ALPHANUMERIC)))
            .send()
            .await
            .unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{query}: {status} {text}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// How many records a query finds.
    pub async fn count(&self, query: &str) -> u64 {
        let found = self.query(&format!("{query} | stats count() n")).await;
        found[0]["n"].as_str().unwrap().parse().unwrap()
    }

    /// Waits until a query finds so many, and returns how many it finds by then, or after the wait.
    pub async fn wait_for(&self, query: &str, count: u64) -> u64 {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.count(query).await;
            if found >= count || Instant::now() > until {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until a query finds so many records, and returns them, or those it finds after the wait. It may find none for
    /// a moment although a count does.
    pub async fn records(&self, query: &str, count: usize) -> Vec<Value> {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.query(query).await;
            if found.len() >= count || Instant::now() > until {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub fn stop(&mut self) {
        self.program.stop();
    }

    pub fn restart(&mut self) {
        self.program.stop();
        self.program.start_again();
    }
}
