use crate::spool::*;

#[test]
fn what_is_appended_is_read_acknowledged_and_still_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("a/spool");
    let (spool, recovery) = Spool::open(&place, Options::default()).unwrap();
    assert!(recovery.created, "{recovery:?}");
    let id = spool.id();
    let mut reader = spool.reader("siem", Start::Oldest).unwrap();
    for n in 1..=10u64 {
        assert_eq!(spool.append(format!("record {n}").as_bytes()).unwrap(), n);
    }
    assert_eq!(spool.append_all(&["x", "y"]).unwrap(), 11);
    for n in 1..=10u64 {
        let payload = format!("record {n}");
        assert_eq!(reader.try_next().unwrap(), Some(Item::Record { seq: n, payload: payload.as_bytes() }));
    }
    reader.acker().ack(7).unwrap();
    drop(spool);
    let (spool, recovery) = Spool::open(&place, Options::default()).unwrap();
    assert!(!recovery.created && recovery.tail.is_none(), "{recovery:?}");
    assert_eq!((recovery.first_seq, recovery.next_seq), (1, 13));
    assert_eq!(spool.id(), id);
    let mut reader = spool.reader("siem", Start::Oldest).unwrap();
    for n in 8..=12u64 {
        assert!(matches!(reader.try_next().unwrap(), Some(Item::Record { seq, .. }) if seq == n));
    }
    assert_eq!(reader.try_next().unwrap(), None);
    assert_eq!(spool.append(b"more").unwrap(), 13);
}
