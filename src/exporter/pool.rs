//! Buffers of encoded batches, used again: a fresh one of a megabyte costs more in page faults than encoding costs.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// As many buffers as a destination has batches between encoding and settlement.
const KEPT: usize = 4;

#[derive(Debug, Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    pub(super) fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Bytes whose buffer comes back when the last part of them is gone.
    pub(super) fn lend(&self, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { buffer, pool: self.clone() })
    }
}

struct Lent {
    buffer: Vec<u8>,
    pool: Pool,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut buffer = mem::take(&mut self.buffer);
        buffer.clear();
        let mut pool = self.pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() < KEPT {
            pool.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_part_is_gone() {
        let pool = Pool::default();
        let mut buffer = pool.take();
        buffer.extend_from_slice(b"records");
        let address = buffer.as_ptr();
        let whole = pool.lend(buffer);
        let part = whole.slice(2..4);
        drop(whole);
        assert_eq!(pool.take().capacity(), 0, "a part is still in use");
        assert_eq!(&part[..], b"co");
        drop(part);
        let again = pool.take();
        assert!(again.is_empty() && again.as_ptr() == address);
    }
}
