//! Opening: locks, rights, versions and cursors.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

#[test]
fn fault_13_a_second_opener_is_told_who_has_it() {
    let dir = quick_folder();
    let (spool, _) = open(dir.path(), tiny());
    fill(&spool, 3);
    let refused = Spool::open(dir.path(), tiny()).err().unwrap();
    assert!(matches!(refused, OpenError::Locked { pid: Some(pid), .. } if pid == std::process::id()), "{refused}");
    assert!(!refused.is_refusal() && Spool::open_beside(dir.path(), tiny()).is_err(), "a spool in use is not replaced");
    fill(&spool, 6);
    drop(spool);
    let (spool, _) = open(dir.path(), tiny());
    assert_eq!(read_all(&spool).records, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn fault_14_another_version_is_refused_and_nothing_is_discarded() {
    let dir = quick_folder();
    make(dir.path(), 40);
    let all = segments(dir.path());
    for path in [&all[0], &all[all.len() - 1]] {
        let original = fs::read(path).unwrap();
        for at in [8, 12] {
            let mut bytes = original.clone();
            format::put_u32(&mut bytes, at, 2);
            let crc = crc32c::crc32c(&bytes[..60]);
            format::put_u32(&mut bytes, 60, crc);
            fs::write(path, &bytes).unwrap();
            let refused = Spool::open(dir.path(), tiny()).err().unwrap();
            assert!(matches!(refused, OpenError::Version { .. }) && refused.is_refusal(), "{refused}");
            assert_eq!(fs::read(path).unwrap(), bytes);
        }
        fs::write(path, original).unwrap();
    }
    // Other options than last time are no other version.
    let (spool, recovery) = open(dir.path(), Options { sync: Sync::Interval(PATIENCE), ..Options::default() });
    assert!(recovery.tail.is_none());
    assert_eq!(read_all(&spool).records.len(), 40);
}

#[test]
fn only_the_owner_may_read_it() {
    let dir = quick_folder();
    let place = dir.path().join("a/b/spool");
    let (spool, recovery) = open(&place, tiny());
    assert!(!recovery.warnings.iter().any(|warning| matches!(warning, Warning::OpenToOthers { .. })));
    fill(&spool, 40);
    spool.reader("siem", Start::Oldest).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&place), mode(&dir.path().join("a"))), (0o700, 0o700));
    for entry in fs::read_dir(&place).unwrap() {
        let path = entry.unwrap().path();
        // What is being created may be gone by now.
        assert!(!path.exists() || mode(&path) == 0o600, "{}", path.display());
    }
    drop(spool);
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    let (_spool, recovery) = open(&place, tiny());
    assert!(recovery.warnings.contains(&Warning::OpenToOthers { mode: 0o755 }));
}

#[test]
fn what_an_interrupted_creation_left_is_removed() {
    let dir = quick_folder();
    make(dir.path(), 5);
    fs::write(dir.path().join("segment.tmp"), vec![1; 100]).unwrap();
    let (spool, recovery) = open(dir.path(), tiny());
    assert!(recovery.tail.is_none());
    assert!(!dir.path().join("segment.tmp").exists());
    assert_eq!(read_all(&spool).records.len(), 5);
}

#[test]
fn a_segment_of_nothing_but_garbage_is_made_blank() {
    let dir = quick_folder();
    drop(open(dir.path(), tiny()));
    let path = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[64..400].fill(0xEE);
    fs::write(&path, &bytes).unwrap();
    let (_, recovery) = open(dir.path(), tiny());
    assert_eq!(recovery.tail.unwrap().torn_bytes, 336);
    let (spool, recovery) = open(dir.path(), tiny());
    assert!(recovery.tail.is_none(), "{recovery:?}");
    assert!(fs::read(&path).unwrap()[64..].iter().all(|&byte| byte == 0));
    fill(&spool, 5);
    assert_eq!(read_all(&spool).records.len(), 5);
}

/// A spool with records 1 to 60, of which `siem` has acknowledged some.
fn with_cursor(dir: &Path, acked: u64) -> std::path::PathBuf {
    let (spool, _) = open(dir, tiny());
    let reader = spool.reader("siem", Start::Oldest).unwrap();
    spool.reader("other", Start::Oldest).unwrap();
    fill(&spool, 60);
    for seq in 1..=acked {
        reader.acker().ack(seq).unwrap();
    }
    spool.close().unwrap();
    cursor::path(dir, "siem")
}

#[test]
fn fault_08_a_cursor_survives_damage_to_the_newer_slot_and_every_other_byte() {
    let dir = quick_folder();
    let original = dir.path().join("original");
    let path = with_cursor(&original, 33);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 8192);
    for at in (0..64).chain([64, 4095]).chain(4096..4160).chain([4160, 8191]) {
        let place = dir.path().join("copy");
        copy(&original, &place);
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x81;
        fs::write(cursor::path(&place, "siem"), bytes).unwrap();
        let (spool, recovery) = open(&place, tiny());
        assert_eq!(recovery.cursors_reset, [""; 0]);
        let acked = spool.destinations()[1].acked;
        assert!(acked <= 33, "never ahead of what was acknowledged");
    }
}

#[test]
fn fault_08_a_cursor_that_is_missing_cut_empty_or_foreign_starts_at_the_oldest() {
    let dir = quick_folder();
    let (original, foreign) = (dir.path().join("original"), dir.path().join("foreign"));
    let path = with_cursor(&original, 33);
    let bytes = fs::read(&path).unwrap();
    let foreign = fs::read(with_cursor(&foreign, 50)).unwrap();
    for damaged in [vec![], bytes[..40].to_vec(), vec![0; 8192], vec![0xFF; 8192], foreign] {
        let place = dir.path().join("copy");
        copy(&original, &place);
        fs::write(cursor::path(&place, "siem"), damaged).unwrap();
        let (spool, recovery) = open(&place, tiny());
        assert_eq!(recovery.cursors_reset, ["siem"]);
        let mut reader = spool.reader("siem", Start::End).unwrap();
        assert_eq!(drain(&mut reader).records, (1..=60).collect::<Vec<_>>());
        drop(spool);
        assert!(open(&place, tiny()).1.cursors_reset.is_empty());
    }
    fs::remove_file(&path).unwrap();
    let (spool, _) = open(&original, tiny());
    assert_eq!(drain(&mut spool.reader("siem", Start::Oldest).unwrap()).records.len(), 60);
}

#[test]
fn fault_08_a_cursor_ahead_of_the_data_proves_that_numbers_were_given() {
    let dir = quick_folder();
    with_cursor(dir.path(), 55);
    let bases = segment::list(dir.path()).unwrap();
    let gone = bases[bases.len() - 2];
    assert!(gone < 50);
    for &base in &bases[bases.len() - 2..] {
        fs::remove_file(segment::path(dir.path(), base)).unwrap();
    }
    let (spool, recovery) = open(dir.path(), tiny());
    assert_eq!(recovery.next_seq, 56, "55 has been given");
    assert_eq!(recovery.tail.unwrap().lost, [SeqRange { first: gone, last: 55 }]);
    assert_eq!(spool.append(&payload(56)).unwrap(), 56);
    assert_eq!(drain(&mut spool.reader("siem", Start::Oldest).unwrap()).records, [56]);
    let found = drain(&mut spool.reader("other", Start::Oldest).unwrap());
    assert_eq!(found.lost, (gone..=55).collect::<Vec<_>>(), "who had not read them is told");
    assert_eq!(found.records.len() as u64, gone);
}

#[test]
fn fault_08_a_cursor_that_points_to_a_deleted_segment_goes_on_and_says_what_is_missing() {
    let dir = quick_folder();
    let path = with_cursor(dir.path(), 5);
    let old = fs::read(&path).unwrap();
    let (spool, _) = open(dir.path(), tiny());
    for name in ["siem", "other"] {
        spool.reader(name, Start::Oldest).unwrap().acker().ack(40).unwrap();
    }
    until(|| segment::list(dir.path()).unwrap()[0] > 6);
    spool.close().unwrap();
    fs::write(&path, old).unwrap();
    let base = segment::list(dir.path()).unwrap()[0];
    let (spool, recovery) = open(dir.path(), tiny());
    assert_eq!(recovery.missing, [SeqRange { first: 6, last: base - 1 }]);
    let found = drain(&mut spool.reader("siem", Start::Oldest).unwrap());
    assert_eq!((found.lost, found.records), ((6..base).collect(), (base..=60).collect()));
}

#[test]
fn a_spool_without_segments_never_gives_a_number_twice() {
    let dir = quick_folder();
    with_cursor(dir.path(), 55);
    let id = status(dir.path()).unwrap().id;
    segments(dir.path()).iter().for_each(|path| fs::remove_file(path).unwrap());
    let (spool, recovery) = open(dir.path(), tiny());
    assert!(recovery.segments_gone && !recovery.created);
    assert_eq!((spool.append(&payload(56)).unwrap(), Some(spool.id())), (56, id));
    let found = drain(&mut spool.reader("other", Start::Oldest).unwrap());
    assert_eq!((found.lost.len(), found.records), (55, vec![56]));
}

#[test]
fn names_of_destinations_are_kept_whatever_they_contain() {
    let dir = quick_folder();
    let names = ["", "..", "a/b", "Größe %41", "https://x.example:4317/?q=1", "x".repeat(60).leak()];
    let (spool, _) = open(dir.path(), tiny());
    for name in names {
        assert_eq!(spool.reader(name, Start::Oldest).unwrap().destination(), name);
    }
    drop(spool);
    let (spool, _) = open(dir.path(), tiny());
    let mut known: Vec<String> = spool.destinations().into_iter().map(|lag| lag.destination).collect();
    known.sort_unstable();
    let mut names: Vec<_> = names.to_vec();
    names.sort_unstable();
    assert_eq!(known, names);
}

#[test]
fn a_deleted_segment_that_comes_back_is_deleted_again_and_nothing_is_missing() {
    let dir = quick_folder();
    let (spool, _) = open(dir.path(), tiny());
    let reader = spool.reader("a", Start::Oldest).unwrap();
    fill(&spool, 100);
    let all = segments(dir.path());
    let first = fs::read(&all[0]).unwrap();
    // Two of them go; the first one's deletion is undone by a power cut.
    let acked = segment::list(dir.path()).unwrap()[2] - 1;
    reader.acker().ack(acked).unwrap();
    until(|| segments(dir.path()).len() == all.len() - 2);
    drop((reader, spool));
    fs::write(&all[0], first).unwrap();

    let (spool, recovery) = open(dir.path(), tiny());
    assert!(recovery.missing.is_empty(), "{:?}", recovery.missing);
    let mut reader = spool.reader("a", Start::Oldest).unwrap();
    assert_eq!(drain(&mut reader).records, (acked + 1..=100).collect::<Vec<_>>());
    drop(reader);
    until(|| !all[0].exists());
}
