//! The events of one call, mapped: as records of the spool, which hold their OCSF JSON, in a buffer that is used again.

use std::cell::Cell;
use std::time::SystemTime;

use crate::feed;

/// Events of one call as records of the spool, in one buffer that is used again.
pub(crate) struct Mapped {
    observed: SystemTime,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Mapped {
    /// More than this is given back after use.
    const KEPT_BYTES: usize = 1 << 20;

    const fn new() -> Self {
        Self { observed: SystemTime::UNIX_EPOCH, bytes: Vec::new(), ends: Vec::new() }
    }

    pub(crate) fn begin(&mut self, observed: SystemTime) {
        self.observed = observed;
        self.bytes.clear();
        self.bytes.shrink_to(Self::KEPT_BYTES);
        self.ends.clear();
    }

    /// When they were accepted.
    pub(crate) fn observed(&self) -> SystemTime {
        self.observed
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Adds the event that `encode` appends; gives its length.
    pub(crate) fn push(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> usize {
        self.bytes.extend_from_slice(&feed::stamp(self.observed));
        let start = self.bytes.len();
        encode(&mut self.bytes);
        self.ends.push(self.bytes.len());
        self.bytes.len() - start
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }

    pub(crate) fn events(&self) -> impl Iterator<Item = &str> {
        self.records()
            .map(|record| std::str::from_utf8(&record[feed::STAMP_BYTES..]).expect("the encoder writes UTF-8"))
    }
}

thread_local! {
    /// The buffer of this thread's calls. It is taken out while an async call waits.
    static MAPPED: Cell<Option<Mapped>> = const { Cell::new(None) };
}

/// The buffer of a call, given back to its thread at the end.
pub(crate) struct Buffer(Option<Mapped>);

impl Buffer {
    pub(crate) fn take() -> Self {
        Self(Some(MAPPED.take().unwrap_or(const { Mapped::new() })))
    }

    pub(crate) fn get(&mut self) -> &mut Mapped {
        self.0.as_mut().expect("there until it is dropped")
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        MAPPED.set(self.0.take());
    }
}
