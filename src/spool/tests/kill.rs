//! A process that is killed with -9 at any moment, again and again, in the same folder.
//!
//! The test program starts itself in the role of a child, which appends from several threads and says on standard output what
//! was accepted.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use std::ffi::OsStr;

use super::*;

/// The test below, as the test program names it.
const SELF: &str = "spool::tests::kill::fault_01_killed_at_random_moments_nothing_accepted_is_lost";
const FOLDER: &str = "TEST_SPOOL";
const ENDLESS: u64 = 1_000_000;

/// The payload of an append: round, thread and count tell it from all others.
fn event(round: u64, thread: u64, n: u64) -> String {
    format!("{round}/{thread}/{n}/{}", "x".repeat((n as usize * 13) % 150))
}

/// What the process does that is killed.
fn child(dir: &OsStr) {
    let round: u64 = std::env::var("TEST_ROUND").unwrap().parse().unwrap();
    let (spool, _) = open(Path::new(dir), tiny());
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let spool = &spool;
            scope.spawn(move || {
                for n in 0..ENDLESS {
                    let seq = if n % 3 == 0 {
                        let records = [event(round, thread, n), event(round, thread, n)];
                        spool.append_all(&records).unwrap()
                    } else {
                        spool.append(event(round, thread, n).as_bytes()).unwrap()
                    };
                    let line = format!("accepted {seq} {}\n", event(round, thread, n));
                    if std::io::stdout().write_all(line.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
        // A destination that keeps up, so that segments come and go.
        let mut reader = spool.reader("fast", Start::Oldest).unwrap();
        while reader.wait(PATIENCE) == Ready::More {
            let mut last = 0;
            while let Some(Item::Record { seq, .. }) = reader.try_next().unwrap() {
                last = seq;
            }
            reader.acker().ack(last).unwrap();
        }
    });
}

#[test]
fn fault_01_killed_at_random_moments_nothing_accepted_is_lost() {
    if let Some(dir) = std::env::var_os(FOLDER) {
        return child(&dir);
    }
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("spool");
    // A destination that has read nothing yet, and is read between the rounds.
    open(&place, tiny()).0.reader("siem", Start::Oldest).unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    let mut read_to = 0;
    for round in 0..if long() { 100 } else { 5 } {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", SELF, "--nocapture", "--test-threads=1"])
            .env(FOLDER, &place)
            .env("TEST_ROUND", round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut accepted = BTreeMap::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let fuse = random.usize(1..400);
        let mut line = String::new();
        while lines.read_line(&mut line).unwrap() > 0 {
            if let Some((seq, event)) = line.strip_prefix("accepted ").and_then(|line| line.split_once(' '))
                && let Some(event) = event.strip_suffix('\n')
            {
                accepted.insert(seq.parse::<u64>().unwrap(), event.to_owned());
            }
            line.clear();
            if accepted.len() == fuse {
                assert!(Spool::open(&place, tiny()).is_err(), "it is locked while the child lives");
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(accepted.len() >= fuse);
        // The lock has gone with the process.
        let (spool, recovery) = open(&place, tiny());
        assert!(recovery.missing.is_empty() && recovery.cursors_reset.is_empty(), "{recovery:?}");
        let mut reader = spool.reader("siem", Start::Oldest).unwrap();
        assert_eq!(reader.position(), read_to + 1);
        while let Some(item) = reader.try_next().unwrap() {
            let Item::Record { seq, payload } = item else { panic!("{item:?}") };
            assert_eq!(seq, read_to + 1);
            read_to = seq;
            if let Some(event) = accepted.remove(&seq) {
                assert_eq!(String::from_utf8_lossy(payload), event);
            }
        }
        assert!(accepted.is_empty(), "round {round}: accepted and not there: {accepted:?}");
        assert_eq!(recovery.next_seq, read_to + 1);
        reader.acker().ack(read_to).unwrap();
    }
}
