//! A receiver that dies and returns at the same address, and what it has accepted, in order of arrival.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use auditwire::config::{Body, Destination, DestinationKind, Otlp};
use auditwire::receiver::{ANY_PORT, Options, Receiver, Script, attribute, json, records, uid};
use auditwire::receiver::{Payload, Received};
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde_json::Value;

/// One record that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// `ocsf.metadata.sequence`; `None` on a gap record that stands in the place of what is missing.
    pub sequence: Option<u64>,
    pub uid: String,
    /// `metadata.loggers[0].uid`, if the body is text.
    pub stream: Option<String>,
    /// What a gap record says is missing: first, last, count.
    pub gap: Option<(u64, u64, u64)>,
}

/// The receiver.
pub struct Inbox {
    address: SocketAddr,
    receiver: Option<Receiver>,
    script: fn() -> Script,
    pub arrivals: Vec<Arrival>,
    /// How often it went away.
    pub stops: usize,
}

impl Inbox {
    pub async fn new() -> Self {
        Self::scripted(Script::new).await
    }

    /// With these answers, again at each return.
    pub async fn scripted(script: fn() -> Script) -> Self {
        let receiver = start(ANY_PORT, script()).await.unwrap();
        let address = receiver.otlp_grpc_addr().unwrap();
        Self { address, receiver: Some(receiver), script, arrivals: Vec::new(), stops: 0 }
    }

    /// `otlp=…` for the program.
    pub fn target(&self) -> String {
        format!("otlp=http://{}", self.address)
    }

    /// The destination for the library, with bodies that show everything.
    pub fn destination(&self, name: &str) -> Destination {
        let otlp = Otlp { body: Body::Json, ..Otlp::grpc(format!("http://{}", self.address)) };
        Destination { name: name.into(), kind: DestinationKind::Otlp(otlp) }
    }

    pub fn is_up(&self) -> bool {
        self.receiver.is_some()
    }

    /// Goes away.
    pub async fn stop(&mut self) {
        let Some(mut receiver) = self.receiver.take() else { return };
        receiver.stop().await;
        while let Some(received) = receiver.next().await {
            self.arrivals.extend(arrivals(&received));
        }
        self.stops += 1;
    }

    /// Returns to the same address. Another process may have it meanwhile, but not for long.
    pub async fn start(&mut self) {
        while self.receiver.is_none() {
            match start(self.address, (self.script)()).await {
                Ok(receiver) => self.receiver = Some(receiver),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Takes what comes for so long.
    pub async fn take_for(&mut self, time: Duration) {
        let until = tokio::time::Instant::now() + time;
        match &mut self.receiver {
            None => tokio::time::sleep_until(until).await,
            Some(receiver) => {
                while let Ok(Some(received)) = tokio::time::timeout_at(until, receiver.next()).await {
                    self.arrivals.extend(arrivals(&received));
                    if tokio::time::Instant::now() >= until {
                        break;
                    }
                }
            }
        }
    }

    /// Takes what comes until there are so many different events.
    pub async fn take_until(&mut self, count: usize) {
        let until = tokio::time::Instant::now() + super::PATIENCE;
        while self.distinct() < count {
            assert!(tokio::time::Instant::now() < until, "{} of {count} events came", self.distinct());
            self.take_for(Duration::from_millis(20)).await;
        }
    }

    /// Different events that came.
    pub fn distinct(&self) -> usize {
        self.times().len()
    }

    /// How often each event came.
    pub fn times(&self) -> HashMap<&str, usize> {
        let mut times = HashMap::new();
        self.arrivals.iter().for_each(|arrival| *times.entry(&*arrival.uid).or_default() += 1);
        times
    }

    /// The numbers that came, each once, in the order of their first arrival.
    pub fn sequences(&self) -> Vec<u64> {
        let mut seen = std::collections::HashSet::new();
        self.arrivals.iter().filter_map(|arrival| arrival.sequence).filter(|sequence| seen.insert(*sequence)).collect()
    }

    /// Asserts that the numbers from 1 on are all there and came in order, but for repetitions; gives the last.
    pub fn assert_dense(&self) -> u64 {
        let sequences = self.sequences();
        for (expected, sequence) in (1..).zip(&sequences) {
            assert_eq!(expected, *sequence, "the numbers are dense and in order");
        }
        sequences.len() as u64
    }

    pub fn gaps(&self) -> Vec<(u64, u64, u64)> {
        self.arrivals.iter().filter_map(|arrival| arrival.gap).collect()
    }

    /// Arrivals beyond the first of each number.
    pub fn repeated(&self) -> usize {
        self.arrivals.iter().filter(|arrival| arrival.sequence.is_some()).count() - self.sequences().len()
    }
}

async fn start(address: SocketAddr, script: Script) -> std::io::Result<Receiver> {
    Receiver::start(Options { otlp_grpc: Some(address), script, ..Options::default() }).await
}

fn arrivals(received: &Received) -> Vec<Arrival> {
    let Payload::Otlp(request) = &received.payload else { return Vec::new() };
    if !received.accepted() {
        return Vec::new();
    }
    let arrival = |record: &LogRecord| {
        let sequence = attribute(record, "ocsf.metadata.sequence").and_then(|value| json(value).as_u64());
        // A body as a map is only looked at where it has to be: there may be many.
        let body = match &record.body {
            Some(AnyValue { value: Some(Any::StringValue(text)) }) => serde_json::from_str(text).unwrap_or_default(),
            Some(body) if sequence.is_none() => json(body),
            _ => Value::Null,
        };
        Arrival {
            sequence,
            uid: uid(record).expect("every record has its uid").to_owned(),
            stream: body["metadata"]["loggers"][0]["uid"].as_str().map(str::to_owned),
            gap: if body.is_object() { gap(&body) } else { None },
        }
    };
    records(request).map(arrival).collect()
}

fn gap(body: &Value) -> Option<(u64, u64, u64)> {
    let event = auditwire::ocsf::decode(&body.to_string()).ok()?;
    let attributes = event.resource.filter(|_| event.type_name == "audit_gap")?.attributes;
    let number = |name: &str| attributes.get(name).and_then(Value::as_u64);
    Some((number("first_sequence")?, number("last_sequence")?, number("count")?))
}
