//! The spool's promises, as a program that embeds the library meets them: accepted is on disk, whatever ends the process; every
//! loss is announced; one destination hinders no other.

#![cfg(unix)]

mod support;

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use auditwire::config::{Batch, Config, Destination, DestinationKind, OnFull, Otlp, Spool};
use auditwire::notice::Notice;
use auditwire::receiver::{Answer, Script};
use auditwire::retry::Backoff;
use auditwire::spool::{self, Options};
use auditwire::{AuditEvent, AuditStreamer, EventOutcome, SpooledEvent, new_audit_event, ocsf, spooled_events};
use support::{Inbox, PATIENCE, Workplace, is_long, poll};
use tempfile::TempDir;

/// Waits that a test can afford.
const BACKOFF: Backoff = Backoff {
    initial: Duration::from_millis(20),
    max: Duration::from_millis(100),
    floor: Duration::from_millis(5),
    max_server_wait: Duration::from_secs(300),
};

fn config(folder: &Path, destinations: Vec<Destination>) -> Config {
    Config {
        destinations,
        backoff: BACKOFF,
        dead_letter_path: folder.join("dead.jsonl"),
        batch: Batch { schedule_delay: Duration::from_millis(20), ..Batch::default() },
        max_event_bytes: 64 << 10,
        spool: Some(Spool { max_bytes: 16 << 20, block_timeout: Some(PATIENCE), ..Spool::new(folder.join("spool")) }),
        ..Config::default()
    }
}

/// With a spool in segments of 256 KiB, each of which takes about 230 events.
fn in_small_segments(config: Config) -> Config {
    Config { spool: config.spool.map(|spool| Spool { max_bytes: 1 << 20, ..spool }), ..config }
}

fn dead(name: &str) -> Destination {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let otlp = Otlp::grpc(format!("http://{}", listener.local_addr().unwrap()));
    Destination { name: name.into(), kind: DestinationKind::Otlp(otlp) }
}

fn uid(number: usize) -> String {
    format!("u-{number:07}")
}

fn event(number: usize) -> AuditEvent {
    let mut event = new_audit_event("policy_decision", "Run", EventOutcome::Permit);
    event.uid = uid(number);
    event
}

fn events(numbers: std::ops::Range<usize>) -> Vec<AuditEvent> {
    numbers.map(event).collect()
}

fn emit(streamer: &AuditStreamer, numbers: std::ops::Range<usize>) {
    for events in events(numbers).chunks(200) {
        streamer.emit_all(events).unwrap();
    }
}

/// A streamer whose notices are kept.
fn listened(config: Config) -> (AuditStreamer, Arc<Mutex<Vec<String>>>) {
    let notices = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&notices);
    let listen = move |notice: &Notice| kept.lock().unwrap().push(notice.to_string());
    (AuditStreamer::builder(config).on_notice(listen).start().unwrap(), notices)
}

fn quiet(config: Config) -> AuditStreamer {
    listened(config).0
}

/// Accepts events for a destination that is dead, and ends.
fn leave(config: &Config, numbers: std::ops::Range<usize>) {
    let Destination { kind, .. } = dead("otlp");
    let names = config.destinations.iter().map(|each| each.name.clone());
    let destinations = names.map(|name| Destination { name, kind: kind.clone() }).collect();
    let streamer = quiet(Config { destinations, ..config.clone() });
    emit(&streamer, numbers);
    assert!(!streamer.shutdown_blocking(Duration::ZERO).unwrap_err().outstanding().is_empty());
}

async fn shut_down(streamer: &AuditStreamer) {
    streamer.shutdown(PATIENCE).await.unwrap();
}

fn said(notices: &Mutex<Vec<String>>, text: &str) -> bool {
    notices.lock().unwrap().iter().any(|notice| notice.contains(text))
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = paths.filter(|path| path.extension().is_some_and(|it| it == "log")).collect();
    segments.sort_unstable();
    segments
}

/// Every file of a folder with its bytes.
fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    files.sort_unstable();
    files
}

/// This test program again, as a process of its own in which a test plays its child.
struct Again(Child);

impl Again {
    fn start(child: &str, folder: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([child, "--exact", "--nocapture", "--test-threads=1"]).env("TEST_CHILD", folder);
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        BufReader::new(self.0.stdout.take().unwrap()).lines().map_while(Result::ok)
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The folder of a child; none in a test that plays itself.
fn childs_folder() -> Option<PathBuf> {
    std::env::var_os("TEST_CHILD").map(PathBuf::from)
}

fn tell(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// What the process does that is killed, or loses its disk.
fn emit_and_tell_receipts(folder: &Path) {
    let config = config(folder, vec![dead("otlp")]);
    let streamer = quiet(Config { shutdown_timeout: Duration::ZERO, ..config });
    let emit_alone = |thread: usize| {
        for number in (0..1_000_000).filter(|number| number % 4 == thread) {
            let receipt = streamer.emit(&event(number)).unwrap();
            tell(format_args!("receipt {} {}", receipt.sequence, receipt.uid));
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|thread| _ = scope.spawn(move || emit_alone(thread))));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_1_what_a_receipt_was_given_for_survives_a_kill_and_is_delivered_by_the_next_process() {
    if let Some(folder) = childs_folder() {
        return emit_and_tell_receipts(&folder);
    }
    let folder = TempDir::new().unwrap();
    let mut inbox = Inbox::new().await;
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..if is_long() { 10 } else { 3 } {
        let mut child = Again::start(
            "fault_1_what_a_receipt_was_given_for_survives_a_kill_and_is_delivered_by_the_next_process",
            folder.path(),
        );
        let lines = child.lines();
        let (receipts, wanted) = (Arc::new(Mutex::new(Vec::new())), random.usize(50..800));
        let enough = {
            let receipts = Arc::clone(&receipts);
            std::thread::spawn(move || {
                for line in lines {
                    let Some(receipt) = line.find("receipt ").map(|at| line[at + 8..].to_owned()) else { continue };
                    let Some((sequence, uid)) = receipt.split_once(' ') else { continue };
                    receipts.lock().unwrap().push((sequence.parse::<u64>().unwrap(), uid.to_owned()));
                }
            })
        };
        poll(|| (receipts.lock().unwrap().len() >= wanted).then_some(())).expect("receipts come");
        child.kill();
        enough.join().unwrap();
        inbox.arrivals.retain(|arrival| arrival.stream.is_none());
        let streamer = quiet(config(folder.path(), vec![inbox.destination("otlp")]));
        let flushed = streamer.clone();
        tokio::spawn(async move { flushed.flush().await });
        let receipts = std::mem::take(&mut *receipts.lock().unwrap());
        let until = Instant::now() + PATIENCE;
        let lacking = |inbox: &Inbox| {
            let arrived: HashSet<_> = inbox.arrivals.iter().map(|arrival| (arrival.sequence, &*arrival.uid)).collect();
            receipts.iter().filter(|(sequence, uid)| !arrived.contains(&(Some(*sequence), &**uid))).count()
        };
        while lacking(&inbox) > 0 {
            assert!(Instant::now() < until, "{} of {} events did not come", lacking(&inbox), receipts.len());
            inbox.take_for(Duration::from_millis(20)).await;
        }
        shut_down(&streamer).await;
        let sequences: Vec<_> = inbox.arrivals.iter().filter_map(|arrival| arrival.sequence).collect();
        assert!(sequences.is_sorted(), "in order");
    }
}

/// An ext4 of its own in a file, mounted; the kernel can be told to forget what it has not written.
#[cfg(target_os = "linux")]
struct Ext4 {
    image: PathBuf,
    place: PathBuf,
}

#[cfg(target_os = "linux")]
impl Ext4 {
    /// `None`: only root can do that, on a machine with the tools for it; it is said.
    fn new(folder: &Path) -> Option<Self> {
        let ext4 = Self { image: folder.join("image"), place: folder.join("ext4") };
        fs::File::create(&ext4.image).unwrap().set_len(128 << 20).unwrap();
        fs::create_dir(&ext4.place).unwrap();
        let made = Command::new("mkfs.ext4").arg("-q").arg(&ext4.image).output();
        if made.as_ref().is_ok_and(|made| made.status.success()) && ext4.mount() {
            return Some(ext4);
        }
        eprintln!(
            "skipped: no ext4 could be made and mounted, which takes root, mkfs.ext4 and a loop device ({made:?})"
        );
        None
    }

    fn mount(&self) -> bool {
        let mount = Command::new("mount").args(["-o", "loop"]).args([&self.image, &self.place]).status();
        mount.is_ok_and(|status| status.success())
    }

    fn unmount(&self) -> bool {
        Command::new("umount").arg(&self.place).status().is_ok_and(|status| status.success())
    }

    /// `EXT4_IOC_SHUTDOWN` without a last word to the journal: as if the power failed. `false`: nobody here can say it.
    fn cut_power(&self) -> bool {
        let say = "import fcntl, os, sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, b'\\2\\0\\0\\0')";
        Command::new("python3").args(["-c", say]).arg(&self.place).status().is_ok_and(|status| status.success())
    }
}

#[cfg(target_os = "linux")]
impl Drop for Ext4 {
    fn drop(&mut self) {
        // A test that fails may have files open there.
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn fault_3_what_a_receipt_was_given_for_survives_a_real_file_system_that_goes_down() {
    if let Some(folder) = childs_folder() {
        return emit_and_tell_receipts(&folder);
    }
    let folder = TempDir::new().unwrap();
    let Some(ext4) = Ext4::new(folder.path()) else { return };
    for wanted in [1, 30, if is_long() { 5000 } else { 500 }] {
        let mut child = Again::start(
            "fault_3_what_a_receipt_was_given_for_survives_a_real_file_system_that_goes_down",
            &ext4.place,
        );
        let mut promised = child.lines().filter_map(|line| {
            let (sequence, uid) = line[line.find("receipt ")? + 8..].split_once(' ')?;
            Some((sequence.parse::<u64>().unwrap(), uid.to_owned()))
        });
        let mut receipts: Vec<_> = promised.by_ref().take(wanted).collect();
        assert_eq!(receipts.len(), wanted);
        if !ext4.cut_power() {
            return eprintln!("skipped: the file system cannot be cut off without python3");
        }
        // Until they end, because the device has.
        receipts.extend(promised);
        drop(child);
        assert!(ext4.unmount() && ext4.mount());
        // Opened, and so recovered; then read as it lies there.
        let streamer = quiet(config(&ext4.place, vec![dead("otlp")]));
        assert!(streamer.shutdown_blocking(Duration::ZERO).is_err());
        let spooled: HashSet<_> = spooled_events(ext4.place.join("spool"), 1, "me")
            .unwrap()
            .filter_map(|event| match event.unwrap() {
                SpooledEvent::Event { sequence, json } => Some((sequence, ocsf::decode(&json).unwrap().uid)),
                SpooledEvent::Lost { .. } => None,
            })
            .collect();
        let missing: Vec<_> = receipts.iter().filter(|receipt| !spooled.contains(*receipt)).collect();
        assert!(missing.is_empty(), "{} of {} are missing: {missing:?}", missing.len(), receipts.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_13_a_second_process_is_told_who_has_the_spool_and_a_dead_one_is_no_hindrance() {
    if let Some(folder) = childs_folder() {
        return emit_and_tell_receipts(&folder);
    }
    let folder = TempDir::new().unwrap();
    let mut child = Again::start(
        "fault_13_a_second_process_is_told_who_has_the_spool_and_a_dead_one_is_no_hindrance",
        folder.path(),
    );
    // Kept: a child that nobody listens to ends.
    let mut lines = child.lines();
    assert!(lines.any(|line| line.contains("receipt ")));
    let config = config(folder.path(), vec![dead("otlp")]);
    let error = AuditStreamer::start(config.clone()).unwrap_err().to_string();
    assert!(error.contains(&format!("in use by process {}", child.0.id())), "{error}");
    assert_eq!(spool::status(folder.path().join("spool")).unwrap().open_in, Some(child.0.id()));
    child.kill();
    let streamer = quiet(config.clone());
    let error = AuditStreamer::start(config).unwrap_err().to_string();
    assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
    drop(streamer);
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_18_one_of_two_destinations_is_dead_and_the_other_does_not_notice() {
    let folder = TempDir::new().unwrap();
    let mut inbox = Inbox::new().await;
    let config = config(folder.path(), vec![dead("dead"), inbox.destination("healthy")]);
    let streamer = quiet(config.clone());
    // More than the queue in front of a destination holds.
    emit(&streamer, 0..5000);
    inbox.take_until(5000).await;
    assert_eq!(inbox.assert_dense(), 5000);
    let settled = || streamer.state().destinations.iter().map(|each| each.outstanding).collect::<Vec<_>>();
    poll(|| (settled() == [5000, 0]).then_some(())).expect("only the dead one lags");
    let error = streamer.shutdown(Duration::from_millis(100)).await.unwrap_err();
    assert_eq!((error.outstanding().len(), error.outstanding()[0].events), (1, 5000));

    let mut late = Inbox::new().await;
    let destinations = vec![late.destination("dead"), inbox.destination("healthy")];
    let streamer = quiet(Config { destinations, ..config });
    late.take_until(5000).await;
    shut_down(&streamer).await;
    late.stop().await;
    inbox.stop().await;
    assert_eq!((late.assert_dense(), late.repeated(), inbox.repeated()), (5000, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_16_a_full_spool_blocks_for_its_timeout_or_refuses_and_drains_in_order() {
    for on_full in [OnFull::Block, OnFull::Refuse] {
        let folder = TempDir::new().unwrap();
        let mut inbox = Inbox::new().await;
        inbox.stop().await;
        let mut config = config(folder.path(), vec![inbox.destination("otlp")]);
        let timeout = Duration::from_millis(200);
        let spool = config.spool.take().unwrap();
        config.spool = Some(Spool { max_bytes: 1 << 20, block_timeout: Some(timeout), ..spool });
        config.on_full = on_full;
        let (streamer, notices) = listened(config);
        let mut accepted = 0_usize;
        let (error, waited) = loop {
            let began = Instant::now();
            match streamer.emit_all(&events(accepted..accepted + 20)) {
                Ok(_) => accepted += 20,
                Err(error) => break (error, began.elapsed()),
            }
        };
        assert!(error.is_full(), "{error}");
        assert_eq!(waited >= timeout, on_full == OnFull::Block, "{on_full:?} waited {waited:?}");
        assert!(accepted > 300 && said(&notices, "holds 0 of 1 MiB"), "{accepted} {notices:?}");
        let bytes: u64 = segments(&folder.path().join("spool")).iter().map(|it| it.metadata().unwrap().len()).sum();
        assert!(bytes <= 1 << 20, "{bytes} bytes are more than it may take");

        inbox.start().await;
        // As soon as there is room, what was refused is accepted.
        let until = Instant::now() + PATIENCE;
        while streamer.emit_all(&events(accepted..accepted + 20)).is_err() {
            assert!(Instant::now() < until, "there is room again");
            inbox.take_for(Duration::from_millis(20)).await;
        }
        inbox.take_until(accepted + 20).await;
        assert_eq!(inbox.assert_dense(), accepted as u64 + 20);
        shut_down(&streamer).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_5_damaged_bytes_cost_the_records_they_hit_and_a_gap_record_says_which() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("spool");
    let mut inbox = Inbox::new().await;
    let config = in_small_segments(config(folder.path(), vec![inbox.destination("otlp")]));
    leave(&config, 0..900);
    let sealed = segments(&dir);
    assert!(sealed.len() > 3);
    // A byte of an event in each of two segments, found by the uid that is in it.
    for (segment, number) in [(&sealed[0], 77), (&sealed[1], 300)] {
        let bytes = fs::read(segment).unwrap();
        let needle = uid(number);
        let Some(at) = bytes.windows(needle.len()).position(|window| window == needle.as_bytes()) else {
            panic!("event {number} is in another segment");
        };
        fs::OpenOptions::new().write(true).open(segment).unwrap().write_all_at(b"X", at as u64).unwrap();
    }
    let verified = spool::verify(&dir).unwrap();
    let ranges: Vec<_> = verified.damage.iter().map(|damage| (damage.range.first, damage.range.last)).collect();
    assert_eq!((ranges.as_slice(), verified.records), ([(78, 78), (301, 301)].as_slice(), 898));
    let spooled: Vec<_> = spooled_events(&dir, 1, "me").unwrap().map(Result::unwrap).collect();
    assert_eq!(spooled.len(), 900);
    let SpooledEvent::Lost { gap_record, .. } = &spooled[77] else { panic!("{:?}", spooled[77]) };
    assert!(ocsf::validate(gap_record).is_valid());

    let (streamer, notices) = listened(config);
    // The two gap records have uids of their own.
    inbox.take_until(900).await;
    shut_down(&streamer).await;
    inbox.stop().await;
    assert_eq!(inbox.gaps(), [(78, 78, 1), (301, 301, 1)]);
    let expected: Vec<u64> = (1..=900).filter(|number| ![78, 301].contains(number)).collect();
    assert_eq!(inbox.sequences(), expected);
    assert!(said(&notices, "events 78 to 78 are lost: damaged at bytes"), "{notices:?}");
    // Where it stood in the order, the gap is announced.
    assert!(inbox.arrivals[77].gap.is_some() && inbox.arrivals[300].gap.is_some());
    assert_eq!(spool::status(&dir).unwrap().remains.len(), 2, "the damaged bytes are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_9_a_segment_that_is_gone_is_a_gap_and_the_rest_is_delivered() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("spool");
    let mut inbox = Inbox::new().await;
    let config = in_small_segments(config(folder.path(), vec![inbox.destination("otlp")]));
    leave(&config, 0..900);
    let sealed = segments(&dir);
    let base = |path: &Path| path.file_stem().unwrap().to_str().unwrap()[4..].parse::<u64>().unwrap();
    let gone = [(base(&sealed[0]), base(&sealed[1]) - 1), (base(&sealed[2]), base(&sealed[3]) - 1)];
    fs::remove_file(&sealed[0]).unwrap();
    fs::remove_file(&sealed[2]).unwrap();
    let lost: u64 = gone.iter().map(|(first, last)| last - first + 1).sum();
    let spooled: Vec<_> = spooled_events(&dir, 1, "me").unwrap().map(Result::unwrap).collect();
    assert_eq!(spooled.len() as u64, 900 - lost + 2);

    let streamer = quiet(config);
    inbox.take_until((900 - lost + 2) as usize).await;
    shut_down(&streamer).await;
    inbox.stop().await;
    assert_eq!(inbox.gaps(), gone.map(|(first, last)| (first, last, last - first + 1)));
    assert_eq!(inbox.sequences().len() as u64, 900 - lost);
}

/// A spool that is refused.
fn make_of_another_version(dir: &Path) {
    let segment = segments(dir).pop().unwrap();
    let mut header = fs::read(&segment).unwrap()[..64].to_vec();
    header[8] = 99;
    let crc = crc32c::crc32c(&header[..60]).to_le_bytes();
    header[60..].copy_from_slice(&crc);
    fs::OpenOptions::new().write(true).open(&segment).unwrap().write_all_at(&header, 0).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_14_a_spool_that_is_refused_is_left_as_it_is_and_auditing_goes_on_beside_it() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("spool");
    let mut inbox = Inbox::new().await;
    let config = config(folder.path(), vec![inbox.destination("otlp")]);
    leave(&config, 0..100);
    make_of_another_version(&dir);
    let before = content(&dir);

    for round in 0..2 {
        let (streamer, notices) = listened(config.clone());
        assert!(said(&notices, "ALARM: ") && said(&notices, "format version 99"), "{notices:?}");
        assert!(said(&notices, "auditing goes on in ") && said(&notices, "spool-2"), "{notices:?}");
        emit(&streamer, 1000 + round * 10..1010 + round * 10);
        shut_down(&streamer).await;
    }
    inbox.stop().await;
    // The stream's readers hear of it, too: once for each start.
    assert_eq!(inbox.assert_dense(), 20 + 2, "both rounds used the same spool");
    assert_eq!(inbox.arrivals.iter().filter(|arrival| !arrival.uid.starts_with("u-")).count(), 2);
    assert!(content(&dir) == before, "nothing in the folder was touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_destination_starts_at_the_oldest_and_a_removed_one_holds_nothing_up() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("spool");
    let mut inbox = Inbox::new().await;
    let old = in_small_segments(config(folder.path(), vec![inbox.destination("old")]));
    leave(&old, 0..900);

    let new = Config { destinations: vec![inbox.destination("new")], ..old };
    let (streamer, notices) = listened(new.clone());
    assert!(said(&notices, "keeps 900 events for old, which is not configured"), "{notices:?}");
    inbox.take_until(900).await;
    shut_down(&streamer).await;
    assert_eq!(inbox.assert_dense(), 900);
    let held = segments(&dir).len();

    let (opened, _) = spool::Spool::open(&dir, Options::default()).unwrap();
    assert!(opened.remove_destination("old").unwrap());
    opened.close().unwrap();
    let (streamer, notices) = listened(new);
    assert!(!said(&notices, "not configured"), "{notices:?}");
    emit(&streamer, 900..901);
    inbox.take_until(901).await;
    shut_down(&streamer).await;
    assert!(held > 3 && segments(&dir).len() < held, "its space is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_dense_and_the_stream_is_one_over_restarts() {
    let folder = TempDir::new().unwrap();
    let mut inbox = Inbox::new().await;
    for round in 0..4 {
        let streamer = quiet(config(folder.path(), vec![inbox.destination("otlp")]));
        let receipts = streamer.emit_all(&events(round * 10..round * 10 + 10)).unwrap();
        assert_eq!(receipts[0].sequence as usize, round * 10 + 1);
        assert_eq!(streamer.durable_sequence(), Some(receipts[9].sequence));
        // Half of the rounds leave their events to the next.
        let _ = streamer.shutdown(if round % 2 == 0 { Duration::ZERO } else { PATIENCE }).await;
    }
    inbox.stop().await;
    assert_eq!(inbox.assert_dense(), 40);
    let stream = inbox.arrivals[0].stream.clone().expect("each names its stream");
    assert!(inbox.arrivals.iter().all(|arrival| arrival.stream.as_ref() == Some(&stream)));
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_are_submitted_together_are_delivered_in_order() {
    let folder = TempDir::new().unwrap();
    for with_spool in [true, false] {
        let mut inbox = Inbox::new().await;
        let config = config(folder.path(), vec![inbox.destination("otlp")]);
        let streamer = quiet(if with_spool { config } else { Config { spool: None, ..config } });
        let submitted: Vec<_> = events(0..400).chunks(40).map(|events| streamer.submit_all(events).unwrap()).collect();
        let numbers: Vec<_> = submitted.into_iter().map(|submission| submission.wait().unwrap()).collect();
        assert_eq!(numbers, (0..10).map(|group| group * 40 + 1).collect::<Vec<_>>());
        assert_eq!(streamer.state().accepted, 400);
        shut_down(&streamer).await;
        assert!(streamer.submit_all(&events(400..401)).is_err_and(|error| error.is_closed()));
        inbox.take_until(400).await;
        assert_eq!((inbox.assert_dense(), inbox.repeated()), (400, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interval_mode_answers_before_the_sync_and_a_flush_delivers_all_the_same() {
    let folder = TempDir::new().unwrap();
    let mut inbox = Inbox::new().await;
    let mut config = config(folder.path(), vec![inbox.destination("otlp")]);
    let sync = spool::Sync::Interval(Duration::from_secs(3600));
    config.spool = config.spool.map(|spool| Spool { sync, ..spool });
    let streamer = quiet(config.clone());
    emit(&streamer, 0..100);
    assert_eq!(streamer.durable_sequence(), Some(0), "an hour has not passed");
    tokio::time::timeout(PATIENCE, streamer.flush()).await.expect("in moments").unwrap();
    assert_eq!(streamer.durable_sequence(), Some(100));
    inbox.take_until(100).await;
    emit(&streamer, 100..200);
    shut_down(&streamer).await;
    inbox.take_until(200).await;

    // It survives the process in any case.
    leave(&config, 200..300);
    let streamer = quiet(config);
    inbox.take_until(300).await;
    shut_down(&streamer).await;
    assert_eq!((inbox.assert_dense(), inbox.repeated()), (300, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_36_a_shutdown_with_a_dead_destination_ends_in_time_and_everything_is_still_there() {
    let folder = TempDir::new().unwrap();
    let mut inbox = Inbox::new().await;
    inbox.stop().await;
    let config = config(folder.path(), vec![inbox.destination("otlp")]);
    let streamer = quiet(config.clone());
    emit(&streamer, 0..3000);
    let began = Instant::now();
    let error = streamer.shutdown(Duration::from_millis(300)).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(error.outstanding()[0].events, 3000);
    assert!(error.to_string().contains("kept in the spool"), "{error}");
    drop(streamer);
    inbox.start().await;
    let streamer = quiet(config);
    inbox.take_until(3000).await;
    shut_down(&streamer).await;
    assert_eq!(inbox.assert_dense(), 3000);
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_22_and_27_refusals_and_outages_do_not_let_anything_overtake() {
    let folder = TempDir::new().unwrap();
    let script = || {
        let statuses = [503, 401, 429, 500, 404].map(Answer::status);
        let script = statuses.into_iter().fold(Script::new(), Script::then);
        script.then(Answer::Cut).then(Answer::Ok).then(Answer::StoreThenCut).then(Answer::status(502))
    };
    let mut inbox = Inbox::scripted(script).await;
    let streamer = quiet(config(folder.path(), vec![inbox.destination("otlp")]));
    emit(&streamer, 0..3000);
    inbox.take_until(3000).await;
    shut_down(&streamer).await;
    inbox.stop().await;
    assert_eq!(inbox.assert_dense(), 3000);
    assert!(inbox.repeated() <= 512, "only the reply that was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_37_a_receiver_that_hangs_costs_nothing_and_is_not_stormed() {
    let place = Workplace::new();
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port().to_string()
    };
    let mut receiver = place.start(&mut place.auditwire(["receive", "--otlp-grpc", &port, "--out", "received.jsonl"]));
    receiver.said("listening");
    let mut otlp = Otlp::grpc(format!("http://127.0.0.1:{port}"));
    otlp.timeout = Some(Duration::from_millis(500));
    let destination = Destination { name: "otlp".into(), kind: DestinationKind::Otlp(otlp) };
    let streamer = quiet(config(&place.path("state"), vec![destination]));
    emit(&streamer, 0..500);
    streamer.flush().await.unwrap();
    receiver.signal("STOP");
    let stopped = Instant::now();
    let hang = Duration::from_secs(if is_long() { 10 } else { 2 });
    let mut emitted = 500;
    while stopped.elapsed() < hang {
        emit(&streamer, emitted..emitted + 10);
        emitted += 10;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let retries = streamer.state().destinations[0].retries;
    assert!(retries as f64 <= hang.as_secs_f64() / 0.5 + 1.0, "{retries} attempts in {hang:?}");
    receiver.signal("CONT");
    tokio::time::timeout(PATIENCE, streamer.flush()).await.expect("it goes on").unwrap();
    shut_down(&streamer).await;
    receiver.signal("TERM");
    receiver.end().code(0);
    let text = place.read("received.jsonl");
    let came: HashSet<_> = text.match_indices("u-").filter_map(|(at, _)| text.get(at..at + 9)).collect();
    let missing = (0..emitted).filter(|number| !came.contains(&*uid(*number))).count();
    assert_eq!(missing, 0);
    eprintln!("hung for {hang:?}: {emitted} events, {retries} attempts failed, none missing");
}

/// What the process does whose memory is measured.
#[cfg(target_os = "linux")]
fn deliver_a_backlog(folder: &Path) {
    let target = fs::read_to_string(folder.join("target")).unwrap();
    let kind = DestinationKind::Otlp(Otlp::grpc(target));
    let began = Instant::now();
    let streamer = quiet(large(folder, vec![Destination { name: "otlp".into(), kind }]));
    let opened = began.elapsed();
    tell(format_args!("opened {}", opened.as_millis()));
    pollster::block_on(streamer.flush()).unwrap();
    // The parent asks for its memory, and ends it.
    std::thread::sleep(PATIENCE);
}

/// With a spool for a million events.
#[cfg(target_os = "linux")]
fn large(folder: &Path, destinations: Vec<Destination>) -> Config {
    let spool = Some(Spool { max_bytes: 4 << 30, ..Spool::new(folder.join("spool")) });
    Config { spool, max_event_bytes: 1 << 20, ..config(folder, destinations) }
}

/// `VmHWM`: the most memory that a process ever had, in KiB.
#[cfg(target_os = "linux")]
fn peak_rss(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).map_or(0, |number| number.parse().unwrap())
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn fault_17_a_large_backlog_is_delivered_in_order_and_in_bounded_memory() {
    if let Some(folder) = childs_folder() {
        return deliver_a_backlog(&folder);
    }
    // Of a million, built without optimization, the first are enough to see that memory does not grow.
    let (events, delivered): (usize, u64) = if is_long() { (1_000_000, 50_000) } else { (10_000, 10_000) };
    let folder = TempDir::new().unwrap();
    // Written by the spool itself, from one event whose uid is replaced: mapping a million takes longer than the rest.
    let mut template = Vec::new();
    ocsf::encode(&event(0), &ocsf::Mapping::default(), None, &mut template);
    let template = String::from_utf8(template).unwrap();
    {
        let options = Options { max_bytes: 4 << 30, on_full: spool::OnFull::Refuse, ..Options::default() };
        let (spool, _) = spool::Spool::open(folder.path().join("spool"), options).unwrap();
        let _ = spool.reader("otlp", spool::Start::Oldest).unwrap();
        for first in (0..events).step_by(500) {
            let record = |number| {
                let mut record = 1_793_607_247_000_000_000_u64.to_le_bytes().to_vec();
                record.extend_from_slice(template.replace(&uid(0), &uid(number)).as_bytes());
                record
            };
            let records: Vec<_> = (first..events.min(first + 500)).map(record).collect();
            spool.append_all(&records).unwrap();
        }
        spool.close().unwrap();
    }
    let mut inbox = Inbox::new().await;
    fs::write(folder.path().join("target"), inbox.target().replace("otlp=", "")).unwrap();
    let began = Instant::now();
    let mut child = Again::start("fault_17_a_large_backlog_is_delivered_in_order_and_in_bounded_memory", folder.path());
    let opened = child.lines().find(|line| line.contains("opened ")).expect("it tells how long it took");
    let opened = opened.split("opened ").nth(1).unwrap().to_owned();
    // Counted as they come: a million arrivals are not kept.
    let (mut next, mut first) = (1, None);
    while next <= delivered {
        inbox.take_for(Duration::from_millis(20)).await;
        for arrival in inbox.arrivals.drain(..) {
            first.get_or_insert_with(|| began.elapsed());
            assert_eq!(arrival.sequence, Some(next), "each once, and in order");
            next += 1;
        }
        assert!(began.elapsed() < 4 * PATIENCE, "{next} of {delivered} came");
    }
    let (rss, first) = (peak_rss(child.0.id()), first.unwrap());
    let rate = f64::from(next as u32) / began.elapsed().as_secs_f64();
    eprintln!(
        "{events} events of backlog: opened in {opened} ms, the first came after {first:.1?}, {rate:.0}/s, {rss} KiB of memory"
    );
    assert!(rss < 64 << 10, "{rss} KiB");
    child.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_by_best_effort_cannot_fill_the_spool_and_what_it_misses_is_announced() {
    const EVENTS: usize = 12_000;
    let folder = TempDir::new().unwrap();
    let (mut inbox, mut late) = (Inbox::new().await, Inbox::new().await);
    late.stop().await;
    let mut config = config(folder.path(), vec![late.destination("late"), inbox.destination("healthy")]);
    // The spool holds less than half of the events: without giving up, the late one would block the emits.
    let spool = config.spool.take().unwrap();
    let best_effort = std::collections::BTreeMap::from([("late".to_owned(), 3000)]);
    config.spool = Some(Spool { max_bytes: 6 << 20, best_effort, ..spool });
    let (streamer, notices) = listened(config);
    let emitting = streamer.clone();
    tokio::task::spawn_blocking(move || emit(&emitting, 0..EVENTS)).await.unwrap();
    inbox.take_until(EVENTS).await;
    late.start().await;
    shut_down(&streamer).await;
    assert!(said(&notices, "served by best effort"), "{:?}", notices.lock().unwrap());

    late.stop().await;
    inbox.stop().await;
    let numbers: HashSet<u64> = late.arrivals.iter().filter_map(|arrival| arrival.sequence).collect();
    // Gap records are events of the stream: the healthy one gets them all, the late one those it did not lose as well.
    let gaps: Vec<_> = inbox.arrivals.iter().filter_map(|arrival| arrival.gap).collect();
    assert_eq!(inbox.assert_dense(), (EVENTS + gaps.len()) as u64);
    assert!(late.arrivals.iter().any(|arrival| arrival.gap.is_some()));
    for number in 1..=(EVENTS + gaps.len()) as u64 {
        let announced = gaps.iter().any(|(first, last, _)| (*first..=*last).contains(&number));
        assert!(announced || numbers.contains(&number), "{number} is missing and nothing says so");
    }
    assert!(numbers.len() < EVENTS, "it has lost some");
}

/// A destination by best effort beside one that keeps the spool full, both away. The feed does not read ahead, so that there is
/// something to give up.
async fn pinned(folder: &Path, block_timeout: Option<Duration>) -> (Inbox, Inbox, Config) {
    let (mut late, mut pin) = (Inbox::new().await, Inbox::new().await);
    late.stop().await;
    pin.stop().await;
    let config = config(folder, vec![late.destination("late"), pin.destination("pin")]);
    let mut config = in_small_segments(config);
    config.batch = Batch { max_queue_size: 200, max_export_batch_size: 50, ..config.batch };
    let best_effort = std::collections::BTreeMap::from([("late".to_owned(), 300)]);
    config.spool = config.spool.map(|spool| Spool { best_effort, block_timeout, ..spool });
    (late, pin, config)
}

/// Nobody emits any more, and so no event brings the feed to look again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_told_when_there_is_room_and_nothing_else_to_do() {
    let folder = TempDir::new().unwrap();
    let (mut late, mut pin, config) = pinned(folder.path(), Some(Duration::ZERO)).await;
    let (streamer, notices) = listened(config);
    let emitted = (0..).find(|number| streamer.emit(&event(*number)).is_err()).unwrap();
    tokio::task::block_in_place(|| poll(|| said(&notices, "served by best effort").then_some(())))
        .expect("some are given up");
    late.start().await;
    late.take_until(200).await;
    pin.start().await;
    pin.take_until(emitted + 1).await;
    shut_down(&streamer).await;
    pin.stop().await;
    assert_eq!(pin.assert_dense(), emitted as u64 + 1);
    assert_eq!(pin.arrivals.iter().filter(|arrival| arrival.gap.is_some()).count(), 1);
}

/// Telling what was given up must not wait for room: another destination may keep the spool full for days.
#[tokio::test(flavor = "multi_thread")]
async fn a_destination_by_best_effort_gets_its_events_from_a_spool_that_others_keep_full() {
    const EVENTS: usize = 2000;
    let folder = TempDir::new().unwrap();
    let (mut late, mut pin, config) = pinned(folder.path(), None).await;
    let (streamer, notices) = listened(config);
    let emitting = streamer.clone();
    // One by one, so that there is no room for a gap record either.
    let each = move || (0..EVENTS).for_each(|number| _ = emitting.emit(&event(number)).unwrap());
    let emitted = std::thread::spawn(each);
    tokio::task::block_in_place(|| poll(|| said(&notices, "served by best effort").then_some(())))
        .expect("some are given up");
    late.start().await;
    late.take_until(200).await;
    assert!(!emitted.is_finished(), "the spool is full");
    pin.start().await;
    tokio::task::block_in_place(|| emitted.join()).unwrap();
    pin.take_until(EVENTS + 1).await;
    shut_down(&streamer).await;

    late.stop().await;
    pin.stop().await;
    let numbers: HashSet<u64> = late.arrivals.iter().filter_map(|arrival| arrival.sequence).collect();
    let gaps: Vec<_> = pin.arrivals.iter().filter_map(|arrival| arrival.gap).collect();
    for number in 1..=pin.assert_dense() {
        let announced = gaps.iter().any(|(first, last, _)| (*first..=*last).contains(&number));
        assert!(announced || numbers.contains(&number), "{number} is missing and nothing says so");
    }
}

/// An alarm is an event, and a full spool has no room for it until destinations have taken some, which they have not begun to.
#[test]
fn a_start_does_not_wait_for_room_to_tell_an_alarm() {
    let folder = TempDir::new().unwrap();
    let config = in_small_segments(config(folder.path(), vec![dead("otlp")]));
    let with_timeout = |block_timeout| {
        let spool = config.spool.clone().map(|spool| Spool { block_timeout, ..spool });
        Config { spool, ..config.clone() }
    };
    leave(&config, 0..10);
    make_of_another_version(&folder.path().join("spool"));
    let streamer = quiet(with_timeout(Some(Duration::ZERO)));
    while streamer.emit(&event(0)).is_ok() {}
    assert!(streamer.shutdown_blocking(Duration::ZERO).is_err());

    let patient = with_timeout(None);
    let (told, started) = std::sync::mpsc::channel();
    std::thread::spawn(move || told.send(listened(patient)));
    let (streamer, notices) = started.recv_timeout(PATIENCE).expect("it starts");
    assert!(said(&notices, "the stream could not be told of an alarm"), "{notices:?}");
    assert!(streamer.shutdown_blocking(Duration::ZERO).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_destination_starts_at_the_end_by_choice() {
    let folder = TempDir::new().unwrap();
    let mut inbox = Inbox::new().await;
    let first = config(folder.path(), vec![dead("otlp")]);
    leave(&first, 0..100);
    let mut second = config(folder.path(), vec![dead("otlp"), inbox.destination("new")]);
    second.spool.as_mut().unwrap().start_at_end = vec!["new".into()];
    let streamer = quiet(second);
    emit(&streamer, 100..150);
    inbox.take_until(50).await;
    let _ = streamer.shutdown(Duration::ZERO).await;
    inbox.stop().await;
    let uids: Vec<_> = inbox.arrivals.iter().map(|arrival| arrival.uid.clone()).collect();
    assert_eq!(uids, (100..150).map(uid).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_fed_no_faster_than_the_drain_rate_and_emits_do_not_wait_for_it() {
    let folder = TempDir::new().unwrap();
    let mut inbox = Inbox::new().await;
    let mut config = config(folder.path(), vec![inbox.destination("otlp")]);
    leave(&config, 0..100);
    config.spool.as_mut().unwrap().drain_rate = Some(200);
    let began = Instant::now();
    let streamer = quiet(config);
    // Accepted at once, whatever the backlog does.
    emit(&streamer, 100..200);
    assert!(streamer.buffered_count().await > 0);
    inbox.take_until(200).await;
    assert!(began.elapsed() >= Duration::from_millis(990), "{:?} for 200 events at 200 a second", began.elapsed());
    shut_down(&streamer).await;
    assert_eq!(inbox.assert_dense(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_large_is_refused_and_announced() {
    let folder = TempDir::new().unwrap();
    let mut inbox = Inbox::new().await;
    let streamer = quiet(config(folder.path(), vec![inbox.destination("otlp")]));
    let error = streamer.emit(&event(0).with_extra("blob", "x".repeat(100 << 10))).unwrap_err();
    assert!(error.is_too_large(), "{error}");
    let error = streamer.queue_event(event(1).with_extra("blob", "x".repeat(100 << 10))).await.unwrap_err();
    assert!(error.is_too_large(), "{error}");
    shut_down(&streamer).await;
    inbox.stop().await;
    assert_eq!(inbox.arrivals.len(), 2, "{:?}", inbox.arrivals);
}

#[test]
fn names_in_the_spools_options_must_be_destinations() {
    let folder = TempDir::new().unwrap();
    let mut config = config(folder.path(), vec![dead("otlp")]);
    config.spool.as_mut().unwrap().start_at_end = vec!["oltp".into()];
    let error = AuditStreamer::start(config).unwrap_err();
    assert!(error.is_config() && error.to_string().contains("oltp"), "{error}");
}

/// A processor of the user's with a defect that one event brings out.
#[derive(Debug)]
struct PanicsAt(&'static str);

impl opentelemetry_sdk::logs::LogProcessor for PanicsAt {
    fn emit(&self, record: &mut opentelemetry_sdk::logs::SdkLogRecord, _: &opentelemetry::InstrumentationScope) {
        assert!(!format!("{:?}", record.body()).contains(self.0), "a defect in a processor of the user's");
    }
    fn force_flush(&self) -> opentelemetry_sdk::error::OTelSdkResult {
        Ok(())
    }
    fn shutdown_with_timeout(&self, _: Duration) -> opentelemetry_sdk::error::OTelSdkResult {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_buried_out_of_turn_acknowledges_no_other() {
    let folder = TempDir::new().unwrap();
    let mut inbox = Inbox::new().await;
    let first = config(folder.path(), vec![dead("otlp")]);
    let streamer = AuditStreamer::builder(first.clone())
        .on_notice(|_| {})
        .extend_provider(|_, builder| builder.with_log_processor(PanicsAt("u-0000003")))
        .start()
        .unwrap();
    emit(&streamer, 0..6);
    poll(|| (streamer.state().destinations[0].rejected == 1).then_some(())).expect("it is in the dead-letter file");
    poll(|| (streamer.state().destinations[0].retries > 0).then_some(())).expect("the others are being sent");
    let _ = streamer.shutdown(Duration::ZERO).await;
    drop(streamer);

    let streamer = quiet(Config { destinations: vec![inbox.destination("otlp")], ..first });
    streamer.flush().await.unwrap();
    shut_down(&streamer).await;
    inbox.stop().await;
    let arrived: HashSet<_> = inbox.arrivals.iter().map(|arrival| arrival.uid.clone()).collect();
    for number in (0..6).filter(|number| *number != 3) {
        assert!(arrived.contains(&uid(number)), "{number} was acknowledged for another: {arrived:?}");
    }
}
