//! What an event costs in allocations and, where valgrind is installed, in instructions: the same on every machine, however busy.
//!
//! The numbers are of an event with actor, resource, policy and attributes. A limit that is exceeded for a good reason is raised
//! here; one that is far above what is measured is lowered.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use auditwire::config::{self, Config, Destination, DestinationKind};
use auditwire::{ActorInfo, AuditEvent, AuditStreamer, EventOutcome, PolicyInfo, ResourceInfo, new_audit_event, ocsf};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const EVENTS: u64 = 2048;

/// Allocations are counted for the whole process, which must not do anything else meanwhile.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn an_event_allocates_no_more_than_it_did() {
    let _alone = ALONE.lock();
    let _profiler = dhat::Profiler::builder().testing().build();
    let event = event();
    let line = serde_json::to_vec(&event).unwrap();
    let parse = per_event(|| {
        for _ in 0..EVENTS {
            serde_json::from_slice::<AuditEvent>(&line).unwrap();
        }
    });

    let (mapping, mut text) = (ocsf::Mapping::default(), Vec::new());
    ocsf::encode(&event, &mapping, None, &mut text);
    let encode = per_event(|| {
        for _ in 0..EVENTS {
            text.clear();
            ocsf::encode(&event, &mapping, None, &mut text);
        }
    });

    let in_memory = delivered(&event, false);
    let spooled = delivered(&event, true);

    let measured = [("parse", parse, 20.1), ("encode", encode, 0.1), ("emit", in_memory, 3.3), ("spool", spooled, 3.3)];
    let report: Vec<_> = measured.iter().map(|(name, count, limit)| format!("{name} {count:.2} of {limit}")).collect();
    let report = format!("allocations for each event: {}", report.join(", "));
    assert!(measured.iter().all(|(_, count, limit)| count <= limit), "{report}");
    eprintln!("{report}");
}

/// `auditwire send` to a file: parsed, mapped, through the SDK, written.
#[test]
fn an_event_takes_no_more_instructions_than_it_did() {
    let _alone = ALONE.lock();
    // The tests' own profile optimizes nothing, which takes eight times as many.
    let limit = if cfg!(debug_assertions) { 385_000.0 } else { 43_000.0 };
    if Command::new("valgrind").arg("--version").output().is_err() {
        return eprintln!("skipped: valgrind is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    // What starting and ending takes is in both.
    let (few, many) = (instructions(folder.path(), 20), instructions(folder.path(), 120));
    let count = (many - few) / 100.0;
    let report = format!("instructions for each event: {count:.0} of {limit}");
    assert!(count <= limit, "{report}");
    eprintln!("{report}");
}

fn instructions(folder: &Path, events: usize) -> f64 {
    let (lines, out) = (folder.join("lines.jsonl"), folder.join("out.jsonl"));
    let line = serde_json::to_string(&event()).unwrap() + "\n";
    std::fs::write(&lines, line.repeat(events)).unwrap();
    let mut command = Command::new("valgrind");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_") || name.starts_with("AUDITWIRE_")) {
        command.env_remove(name);
    }
    let output = command
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            env!("CARGO_BIN_EXE_auditwire"),
            "send",
            "--quiet",
        ])
        .arg(format!("--to=file={}", out.display()))
        .arg(&lines)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let count =
        said.lines().find_map(|line| line.split_once("Collected : ")).expect("callgrind says what it counted").1;
    count.trim().parse().unwrap()
}

/// The whole way: emitted, with a spool or without, and delivered to a file.
fn delivered(event: &AuditEvent, spooled: bool) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let file = config::File { sync: config::Sync::Never, ..config::File::new(folder.path().join("out.jsonl")) };
    let config = Config {
        destinations: vec![Destination { name: "file".into(), kind: DestinationKind::File(file) }],
        spool: spooled.then(|| config::Spool::new(folder.path().join("spool"))),
        ..Config::default()
    };
    let streamer = AuditStreamer::start(config).unwrap();
    let group = vec![event.clone(); 256];
    let emit = |events: u64| {
        for _ in 0..events / 256 {
            if spooled {
                streamer.emit_all(&group).unwrap();
            } else {
                group.iter().for_each(|event| drop(streamer.emit(event).unwrap()));
            }
        }
        pollster::block_on(streamer.flush()).unwrap();
    };
    // Buffers, threads and tables are there afterwards.
    emit(512);
    let count = per_event(|| emit(EVENTS));
    streamer.shutdown_blocking(Duration::from_secs(10)).unwrap();
    assert_eq!(streamer.state().destinations[0].delivered, 512 + EVENTS);
    count
}

fn per_event(work: impl FnOnce()) -> f64 {
    let before = dhat::HeapStats::get().total_blocks;
    work();
    (dhat::HeapStats::get().total_blocks - before) as f64 / EVENTS as f64
}

fn event() -> AuditEvent {
    new_audit_event("sandbox_operation", "create", EventOutcome::Permit)
        .with_actor(
            ActorInfo::user("u-1001")
                .with_email("mira@example.org")
                .with_org_id("org-7f3a")
                .with_ip_address("10.20.3.17"),
        )
        .with_resource(
            ResourceInfo::new("sandbox", "build-42")
                .with_attribute("image", "registry.example.org/base/python:3.12")
                .with_attribute("cpu", 2)
                .with_attribute("memory_mb", 2048),
        )
        .with_policy(PolicyInfo::new("pol-sandbox-default").with_name("Sandboxes of builders").with_version(17))
}
