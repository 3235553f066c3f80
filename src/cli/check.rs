//! `auditwire send --check`: what a configuration comes to, secrets apart.

use std::fmt::Write as _;

use auditwire::config::{Body, Compression, Config, Destination, DestinationKind, Format, Protocol, Sync, Tls};
use auditwire::secret::Secret;

/// A line for each destination, and the rest of what decides where events end up.
pub(crate) fn describe(config: &Config) -> String {
    let mut text = String::new();
    match &config.disabled {
        Some(why) => line(&mut text, "nothing is exported", why),
        None => config.destinations.iter().for_each(|each| line(&mut text, &each.name, &destination(each))),
    }
    let spool = config.spool.as_ref().map(|spool| spool.dir.display().to_string());
    line(&mut text, "spool", spool.as_deref().unwrap_or("none, events wait in memory"));
    line(&mut text, "dead letters", &config.dead_letter_path.display().to_string());
    text
}

fn line(text: &mut String, name: &str, value: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{name}: {value}");
}

fn destination(destination: &Destination) -> String {
    let parts = match &destination.kind {
        DestinationKind::Otlp(otlp) => {
            let protocol = match otlp.protocol {
                Protocol::Grpc => "OTLP/gRPC",
                Protocol::HttpProtobuf => "OTLP/HTTP protobuf",
                Protocol::HttpJson => "OTLP/HTTP JSON",
            };
            let body = match otlp.body {
                Body::Map => "body as a map",
                Body::Json => "body as JSON text",
                Body::Message => "body is the message",
            };
            let mut parts = vec![format!("{protocol} to {}", otlp.endpoint), body.into()];
            parts.extend(connection(&otlp.headers, otlp.compression, &otlp.tls, otlp.timeout));
            parts
        }
        DestinationKind::Webhook(webhook) => {
            let mut parts = vec![format!("webhook {}", webhook.shown_url()), format(webhook.format)];
            parts.extend(connection(&webhook.headers, webhook.compression, &webhook.tls, webhook.timeout));
            parts
        }
        DestinationKind::File(file) => {
            let sync = match file.sync {
                Sync::Batch => "synced after each batch",
                Sync::Never => "syncing left to the system",
            };
            vec![format!("file {}", file.path.display()), format(file.format), sync.into()]
        }
        DestinationKind::Stdout { format: written } => vec!["standard output".into(), format(*written)],
    };
    parts.join(", ")
}

/// What the kinds that speak HTTP have in common.
fn connection(
    headers: &[(String, Secret)],
    compression: Compression,
    tls: &Tls,
    timeout: Option<std::time::Duration>,
) -> Vec<String> {
    let mut parts = Vec::new();
    if !headers.is_empty() {
        let names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
        parts.push(format!("headers {}", names.join(" ")));
    }
    if compression == Compression::Gzip {
        parts.push("gzip".into());
    }
    let files = [
        ("authorities", &tls.certificate),
        ("client certificate", &tls.client_certificate),
        ("client key", &tls.client_key),
    ];
    for (name, path) in files {
        parts.extend(path.as_ref().map(|path| format!("{name} {}", path.display())));
    }
    parts.push(timeout.map_or("no timeout".into(), |timeout| format!("timeout {timeout:?}")));
    parts
}

fn format(format: Format) -> String {
    let name = match format {
        Format::Ocsf => "ocsf",
        Format::Audit => "audit",
        Format::OtlpJson => "otlp_json",
    };
    format!("format {name}")
}
