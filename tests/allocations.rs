//! Allocations for each event, which a change for the worse shows as surely as instructions, and on any machine.
//!
//! The numbers are of an event with actor, resource, policy and attributes. A limit that is exceeded for a good reason is raised
//! here; one that is far above what is measured is lowered.

use std::time::Duration;

use auditwire::config::{self, Config, Destination, DestinationKind};
use auditwire::{ActorInfo, AuditEvent, AuditStreamer, EventOutcome, PolicyInfo, ResourceInfo, new_audit_event, ocsf};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const EVENTS: u64 = 2048;

/// One test, because the counts are those of the whole process.
#[test]
fn an_event_allocates_no_more_than_it_did() {
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

    let measured = [("parse", parse, 0.0), ("encode", encode, 0.0), ("emit", in_memory, 0.0), ("spool", spooled, 0.0)];
    let report: Vec<_> = measured.iter().map(|(name, count, limit)| format!("{name} {count:.2} of {limit}")).collect();
    let report = format!("allocations for each event: {}", report.join(", "));
    assert!(measured.iter().all(|(_, count, limit)| count <= limit), "{report}");
    println!("{report}");
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
