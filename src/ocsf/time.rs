//! RFC 3339 as it occurs: leap seconds, any number of fraction digits, odd offsets, `t`, `z` or a space.

/// The first and last millisecond that OCSF's `timestamp_t` may hold.
const LAST: i64 = 253_402_300_799_999;
/// Real offsets reach from -12:00 to +14:00; OCSF consumers accept up to 18 hours.
const FARTHEST_OFFSET: i32 = 1080;

/// An event's time in OCSF terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time {
    /// `time`, milliseconds since 1970.
    pub(super) millis: i64,
    /// `timezone_offset` in minutes, when the text states a usable one.
    pub(super) offset: Option<i32>,
    /// The text does not say `millis`: it was clamped or invented.
    pub(super) synthesized: bool,
}

/// Reads an event's time.
///
/// A text without an offset is taken as UTC. Text that is no time at all gets the time inside a UUIDv7 `uid`, else 1970:
/// both follow from the event alone, so the same event always becomes the same OCSF. The original text stays in
/// `metadata.original_time` in every case.
pub(super) fn read(text: &str, uid: &str) -> Time {
    match parse(text.as_bytes()) {
        Some((millis, offset)) => {
            let clamped = millis.clamp(0, LAST);
            let usable = |minutes: &i32| minutes.abs() <= FARTHEST_OFFSET;
            Time {
                millis: clamped,
                offset: offset.flatten().filter(usable),
                synthesized: clamped != millis || offset.is_none(),
            }
        }
        None => Time { millis: uuid_v7_millis(uid).unwrap_or(0), offset: None, synthesized: true },
    }
}

/// Milliseconds (floor) and the offset: `None` when not stated, `Some(None)` for `-00:00`, "unknown local offset".
fn parse(text: &[u8]) -> Option<(i64, Option<Option<i32>>)> {
    let (date, rest) = text.split_at_checked(10)?;
    let (clock, rest) = rest.split_at_checked(9)?;
    if date[4] != b'-'
        || date[7] != b'-'
        || !matches!(clock[0], b'T' | b't' | b' ')
        || clock[3] != b':'
        || clock[6] != b':'
    {
        return None;
    }
    let (year, month, day) = (number(&date[..4])?, number(&date[5..7])?, number(&date[8..])?);
    let (hour, minute, second) = (number(&clock[1..3])?, number(&clock[4..6])?, number(&clock[7..])?);
    // A leap second counts as the first of the next minute, as Unix time does.
    if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (millis, zone) = match rest.strip_prefix(b".") {
        Some(fraction) => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == 0 {
                return None;
            }
            let digit = |at: usize| if at < digits { i64::from(fraction[at] - b'0') } else { 0 };
            (digit(0) * 100 + digit(1) * 10 + digit(2), &fraction[digits..])
        }
        None => (0, rest),
    };
    let offset = match zone {
        b"" => None,
        b"Z" | b"z" => Some(Some(0)),
        &[sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[h1, h2])?, number(&[m1, m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let minutes = (hours * 60 + minutes) as i32;
            Some(match (sign, minutes) {
                (b'-', 0) => None,
                (b'-', _) => Some(-minutes),
                _ => Some(minutes),
            })
        }
        _ => return None,
    };
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    let shift = i64::from(offset.flatten().unwrap_or(0)) * 60;
    Some(((seconds - shift) * 1000 + millis, offset))
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the Gregorian calendar, counted in years that begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn uuid_v7_millis(uid: &str) -> Option<i64> {
    let id = uuid::Uuid::try_parse(uid).ok().filter(|id| id.get_version_num() == 7)?;
    let millis = (id.as_u128() >> 80) as i64;
    (millis <= LAST).then_some(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, millis: i64, offset: Option<i32>, synthesized: bool) {
        assert_eq!(read(text, ""), Time { millis, offset, synthesized }, "{text}");
    }

    #[test]
    fn times_as_they_occur() {
        check("1970-01-01T00:00:00Z", 0, Some(0), false);
        check("2026-11-02T08:14:07.120394+00:00", 1_793_607_247_120, Some(0), false);
        check("2026-11-02t08:14:07.1z", 1_793_607_247_100, Some(0), false);
        check("2026-11-02 08:14:07.99999999999999999Z", 1_793_607_247_999, Some(0), false);
        check("2026-11-02T10:14:07+02:00", 1_793_607_247_000, Some(120), false);
        check("2026-11-02T08:14:07-00:00", 1_793_607_247_000, None, false);
        check("2026-11-02T08:14:07+23:59", 1_793_607_247_000 - 86_340_000, None, false);
        check("2016-12-31T23:59:60Z", 1_483_228_800_000, Some(0), false);
        check("2000-02-29T00:00:00Z", 951_782_400_000, Some(0), false);
        check("9999-12-31T23:59:59.999Z", LAST, Some(0), false);
    }

    #[test]
    fn what_the_text_does_not_say_is_marked() {
        check("2026-11-02T08:14:07", 1_793_607_247_000, None, true);
        check("9999-12-31T23:59:60Z", LAST, Some(0), true);
        check("9999-12-31T23:59:59-01:00", LAST, Some(-60), true);
        check("1969-12-31T23:59:59.999Z", 0, Some(0), true);
        check("0000-01-01T00:00:00Z", 0, Some(0), true);
        for text in [
            "",
            "t",
            "2026-11-02",
            "2025-02-29T00:00:00Z",
            "2026-11-02T24:00:00Z",
            "2026-11-02T08:14:07.Z",
            "2026-11-02T08:14:07+2:00",
            "2026-11-02T08:14:07+24:00",
            "２026-11-02T08:14:07Z",
            "1700000000",
        ] {
            check(text, 0, None, true);
        }
        let uid = "01932f5a-7c00-7000-8000-000000000001";
        assert_eq!(read("yesterday", uid).millis, 0x0193_2f5a_7c00);
    }

    #[test]
    fn agrees_with_chrono() {
        for seconds in (0..253_402_300_800_i64).step_by(86_400 * 37 + 12_345) {
            let time = chrono::DateTime::from_timestamp(seconds, 0).unwrap();
            check(&time.to_rfc3339(), seconds * 1000, Some(0), false);
        }
    }
}
