//! Protobuf's wire format, as much of it as log records need.

/// Wire types: a varint, and what is length-delimited.
pub(super) const VARINT: u32 = 0;
pub(super) const LEN: u32 = 2;

#[inline]
pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[inline]
fn varint_len(value: u64) -> usize {
    // Almost all are short.
    if value < 0x80 { 1 } else { (64 - value.leading_zeros() as usize).div_ceil(7) }
}

#[inline]
pub(super) const fn tag(field: u32, wire_type: u32) -> u8 {
    // Larger ones take two bytes; log records have none.
    assert!(field < 16);
    (field << 3 | wire_type) as u8
}

#[inline]
pub(super) fn varint_field(out: &mut Vec<u8>, field: u32, value: u64) {
    out.push(tag(field, VARINT));
    varint(out, value);
}

#[inline]
pub(super) fn fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    out.push(tag(field, 1));
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn fixed32(out: &mut Vec<u8>, field: u32, value: u32) {
    out.push(tag(field, 5));
    out.extend_from_slice(&value.to_le_bytes());
}

#[inline]
pub(super) fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    header(out, field, value.len());
    out.extend_from_slice(value);
}

/// Tag and length of a length-delimited field.
#[inline]
pub(super) fn header(out: &mut Vec<u8>, field: u32, len: usize) {
    if len < 0x80 {
        out.extend_from_slice(&[tag(field, LEN), len as u8]);
    } else {
        out.push(tag(field, LEN));
        varint(out, len as u64);
    }
}

/// What a varint field occupies.
#[inline]
pub(super) fn varint_field_len(value: u64) -> usize {
    1 + varint_len(value)
}

/// What a length-delimited field occupies.
#[inline]
pub(super) fn field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// A nested message being written, whose length is known only at its end.
#[must_use]
pub(super) struct Open {
    at: usize,
    expected: usize,
}

/// Begins a nested message and leaves room for `expected` bytes of length, three at most. A length that needs another number of
/// them moves the message, which is cheap as long as the guess is mostly right.
#[inline]
pub(super) fn begin(out: &mut Vec<u8>, field: u32, expected: usize) -> Open {
    let at = out.len() + 1;
    // A number of bytes that the compiler knows, of which some are taken back.
    out.extend_from_slice(&[tag(field, LEN), 0, 0, 0]);
    out.truncate(at + expected);
    Open { at, expected }
}

/// Ends a nested message: writes its length.
#[inline]
pub(super) fn end(out: &mut Vec<u8>, open: Open) {
    let Open { at, expected } = open;
    let start = at + expected;
    let len = out.len() - start;
    let needed = varint_len(len as u64);
    if needed != expected {
        moved(out, start, at + needed);
    }
    let mut value = len as u64;
    for byte in &mut out[at..at + needed] {
        *byte = value as u8 | 0x80;
        value >>= 7;
    }
    out[at + needed - 1] &= 0x7f;
}

/// Moves what begins at `from`, so that it begins at `to`.
#[cold]
fn moved(out: &mut Vec<u8>, from: usize, to: usize) {
    let end = out.len();
    if to > from {
        out.resize(end + to - from, 0);
    }
    out.copy_within(from..end, to);
    out.truncate(end + to - from);
}

/// A nested message that is written without failing.
#[inline]
pub(super) fn nested(out: &mut Vec<u8>, field: u32, expected: usize, write: impl FnOnce(&mut Vec<u8>)) {
    let open = begin(out, field, expected);
    write(out);
    end(out, open);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_lengths_are_minimal_whatever_the_guess() {
        for len in [0, 1, 127, 128, 16_383, 16_384, 70_000] {
            for guess in 1..=3 {
                let (mut guessed, mut known) = (vec![7], vec![7]);
                nested(&mut guessed, 5, guess, |out| out.resize(out.len() + len, 9));
                bytes(&mut known, 5, &vec![9; len]);
                assert_eq!(guessed, known, "{len} bytes, guess {guess}");
                assert_eq!(known.len() - 1, field_len(len));
            }
        }
    }
}
