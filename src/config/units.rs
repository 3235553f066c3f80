//! Durations and sizes as people write them: `30s`, `16MiB`.

use std::time::Duration;

/// A whole number followed by `ms`, `s`, `m` or `h`, such as `500ms`.
///
/// # Errors
/// Why the text is no duration; a number without a unit is none, because nobody could tell which was meant.
pub fn duration(text: &str) -> Result<Duration, String> {
    const WANTED: &str = "a duration is a whole number and a unit (ms, s, m, h), such as 30s";
    let (number, unit) = split(text).ok_or(WANTED)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(WANTED.into()),
    };
    let longest = u64::from(u32::MAX) * 1_000;
    match number.checked_mul(milliseconds).filter(|total| *total <= longest) {
        Some(total) => Ok(Duration::from_millis(total)),
        None => Err("the duration is longer than a century".into()),
    }
}

/// A whole number of bytes, alone or followed by `B`, `kB`, `MB`, `GB` (powers of 1000), `KiB`, `MiB`, `GiB` (of 1024).
///
/// # Errors
/// Why the text is no size.
pub fn size(text: &str) -> Result<usize, String> {
    const WANTED: &str = "a size is a whole number and a unit (B, kB, MB, GB, KiB, MiB, GiB), such as 16MiB";
    let (number, unit) = split(text).ok_or(WANTED)?;
    let bytes = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(WANTED.into()),
    };
    let total = number.checked_mul(bytes).and_then(|total| usize::try_from(total).ok());
    total.ok_or_else(|| "the size is larger than memory can be".into())
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000), (" 0 s ", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in
            ["", "30", "s", "-1s", "1.5s", "30 parsecs", "30S", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("16MiB", 16 << 20), ("900kB", 900_000), ("1GiB", 1 << 30), ("7", 7), ("7 B", 7), ("2MB", 2_000_000)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5MiB", "1mib", "99999999999999999999", "18446744073709551615GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
