//! Text eight characters at a time, as `loader/formats/words.py` does it: numbers, codes and times of one row.
//!
//! A word holds its first character in its lowest byte. Sums and products wrap on purpose: bytes beyond ASCII
//! may carry into their neighbours, and have the high bit that refuses them anyway.

const COMMAS: u64 = 0x2C2C_2C2C_2C2C_2C2C;
const LINE_ENDS: u64 = 0x0A0A_0A0A_0A0A_0A0A;
const ZEROS: u64 = 0x3030_3030_3030_3030;
const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
/// Added to a byte of 10 or more, 0x76 sets its high bit.
const DIGITS: u64 = 0x7676_7676_7676_7676;
/// And 0x7F does for 1 or more: where a mark, less itself, must be zero.
const DIGITS_AND_MARKS: u64 = 0x7676_7F76_767F_7676;
const DATE: u64 = u64::from_le_bytes(*b"00-00-00");
const TIME: u64 = u64::from_le_bytes(*b"00:00:00");
const ZONE: u64 = u64::from_le_bytes(*b"\0\0+00:00");
const DAY_SECONDS: i64 = 86_400;

/// The word that starts at a position; characters behind the text's end are NUL.
#[inline]
pub fn word_at(text: &[u8], at: usize) -> u64 {
    let Some(rest) = text.get(at..) else { return 0 };
    if let Some(word) = rest.first_chunk::<8>() {
        return u64::from_le_bytes(*word);
    }
    let mut padded = [0; 8];
    for (byte, from) in padded.iter_mut().zip(rest) {
        *byte = *from;
    }
    u64::from_le_bytes(padded)
}

/// Position of the first comma or line end from `at` on; the text's length if there is none.
#[inline]
pub fn field_end(text: &[u8], at: usize) -> usize {
    let mut at = at;
    while at < text.len() {
        let word = word_at(text, at);
        let hits = zero_bytes(word ^ COMMAS) | zero_bytes(word ^ LINE_ENDS);
        if hits != 0 {
            return at.saturating_add((hits.trailing_zeros() / 8) as usize);
        }
        at = at.saturating_add(8);
    }
    text.len()
}

/// The high bit of each byte that is zero, and perhaps of bytes above the lowest of them.
#[inline]
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(LOW_BITS) & !word & HIGH_BITS
}

/// The first `count` characters of a word (at most 8), NUL behind them.
#[inline]
pub fn first_chars(word: u64, count: usize) -> u64 {
    match count {
        0 => 0,
        1..=7 => word & !(u64::MAX << (8 * count)),
        _ => word,
    }
}

/// The decimal number of a field of 1 to 16 digits; None if any is none.
#[inline]
pub fn number(field: &[u8]) -> Option<u64> {
    match field.len() {
        1..=8 => last_digits(word_at(field, 0), field.len()),
        count @ 9..=16 => {
            let high = last_digits(word_at(field, 0), count - 8)?;
            Some(high * 100_000_000 + last_digits(word_at(field, count - 8), 8)?)
        }
        _ => None,
    }
}

/// The number that the first `count` characters (1 to 8) of a word are.
#[inline]
fn last_digits(word: u64, count: usize) -> Option<u64> {
    let digits = (word ^ ZEROS) << (64 - 8 * count); // digits in front of them are made 0
    if (digits.wrapping_add(DIGITS) | digits) & HIGH_BITS != 0 {
        return None;
    }
    // Pairs of digits, then two steps in one multiplication each: 8 digits without a loop.
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let half = 0x0000_00FF_0000_00FF;
    let high = (pairs & half).wrapping_mul(100 + (1_000_000 << 32));
    let low = ((pairs >> 16) & half).wrapping_mul(1 + (10_000 << 32));
    Some(high.wrapping_add(low) >> 32)
}

/// Unix seconds of `2026-03-01T09:00:00+08:00` or `2026-03-01T01:00:00Z`, from 1 to 2^32 - 1; None otherwise.
#[inline]
pub fn time(field: &[u8]) -> Option<u32> {
    let zone = match field.len() {
        25 => word_at(field, 17) & !0xFFFF,
        20 if field.last() == Some(&b'Z') => ZONE,
        _ => return None,
    };
    if field.get(10) != Some(&b'T') {
        return None;
    }
    let (year, month, day) = pairs(word_at(field, 2) ^ DATE)?;
    let century = last_digits(word_at(field, 0), 2)?;
    let (hour, minute, second) = pairs(word_at(field, 11) ^ TIME)?;
    let mut zone = zone ^ ZONE;
    let west = (zone >> 16) & 0xFF == u64::from(b'+' ^ b'-');
    if west {
        zone &= !0x00FF_0000;
    }
    let (_, offset_hour, offset_minute) = pairs(zone)?;
    if hour > 23 || minute > 59 || second > 59 || offset_hour > 23 || offset_minute > 59 {
        return None;
    }
    let days = days_since_1970(i64::from(century as u32) * 100 + year, month, day)?;
    let offset = offset_hour * 3600 + offset_minute * 60;
    let local = days * DAY_SECONDS + hour * 3600 + minute * 60 + second;
    let seconds = if west { local + offset } else { local - offset };
    u32::try_from(seconds).ok().filter(|&seconds| seconds > 0)
}

/// Of a word of digits like 26-03-01, less itself with zeros: the three numbers.
#[inline]
fn pairs(digits: u64) -> Option<(i64, i64, i64)> {
    if (digits.wrapping_add(DIGITS_AND_MARKS) | digits) & HIGH_BITS != 0 {
        return None;
    }
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8).to_le_bytes();
    Some((i64::from(pairs[0]), i64::from(pairs[3]), i64::from(pairs[6])))
}

/// Days since 1970 of a date in the Gregorian calendar; None if there is no such day, or it is far from 32 bits.
#[inline]
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) {
        return None;
    }
    let at = usize::try_from((year - FIRST_YEAR) * 12 + month - 1).ok()?;
    let (first, next) = (*MONTH_STARTS.get(at)?, *MONTH_STARTS.get(at + 1)?);
    let days = i64::from(first) + day - 1;
    (day >= 1 && days < i64::from(next)).then_some(days)
}

/// A day before the first second that counts may be meant, and one after the last: offsets are up to a day.
const FIRST_YEAR: i64 = 1969;
const YEARS: usize = 139;

/// Days since 1970 of the first of each month from `FIRST_YEAR` on, and of the one behind them.
const MONTH_STARTS: [i32; 12 * YEARS + 1] = {
    let lengths = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut starts = [0; 12 * YEARS + 1];
    starts[0] = -365;
    let mut at = 0;
    while at < 12 * YEARS {
        let year = FIRST_YEAR as usize + at / 12;
        let leap = at % 12 == 1 && year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        starts[at + 1] = starts[at] + lengths[at % 12] + leap as i32;
        at += 1;
    }
    starts
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_are_read() {
        let digits = b"9876543210123456";
        for count in 1..=16 {
            let text = &digits[..count];
            let expected: u64 = std::str::from_utf8(text).unwrap().parse().unwrap();
            assert_eq!(number(text), Some(expected), "{count}");
            for at in 0..count {
                for wrong in (0..=255u8).filter(|byte| !byte.is_ascii_digit()) {
                    let mut text = text.to_vec();
                    text[at] = wrong;
                    assert_eq!(number(&text), None, "{text:?}");
                }
            }
        }
        assert_eq!(number(b""), None);
        assert_eq!(number(b"12345678901234567"), None);
    }

    #[test]
    fn times_are_read_to_both_ends_of_32_bits() {
        for (text, expected) in [
            ("1970-01-01T00:00:01Z", Some(1)),
            ("1970-01-01T00:00:00Z", None),
            ("1970-01-01T08:00:01+08:00", Some(1)),
            ("1969-12-31T23:59:59-00:01", Some(59)),
            ("2106-02-07T06:28:15Z", Some(u32::MAX)),
            ("2106-02-07T06:28:16Z", None),
            ("2106-02-08T06:27:15+23:59", Some(u32::MAX)),
            ("2000-02-29T23:59:59-00:00", Some(951_868_799)),
            ("2100-02-29T00:00:00Z", None),
            ("2023-02-29T00:00:00Z", None),
            ("2024-02-29T00:00:00+08:00", Some(1_709_136_000)),
            ("0000-01-01T00:00:00Z", None),
            ("9999-12-31T23:59:59Z", None),
            ("2026-03-01T09:00:00+24:00", None),
            ("2026-03-01t09:00:00+08:00", None),
            ("2026-03-01T09:00:00z", None),
            ("2026-03-01T09:00:60Z", None),
            ("2026-03-01T09:00:00 08:00", None),
            ("2026-03-01", None),
            ("", None),
        ] {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn any_other_byte_in_a_time_is_refused() {
        for text in ["2026-03-01T09:00:00+08:00", "2026-03-01T09:00:00Z"] {
            assert!(time(text.as_bytes()).is_some());
            for at in 0..text.len() {
                let fits = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b':' | b'T' | b'Z');
                for wrong in (0..=255u8).filter(|&byte| !fits(byte)) {
                    let mut bytes = text.as_bytes().to_vec();
                    bytes[at] = wrong;
                    assert_eq!(time(&bytes), None, "{at} {wrong}");
                }
            }
        }
    }

    #[test]
    fn days_follow_each_other_through_a_leap_cycle() {
        let mut expected = -365;
        for year in 1969..=2107 {
            for month in 1..=12 {
                for day in 1..=31 {
                    if let Some(days) = days_since_1970(year, month, day) {
                        assert_eq!(days, expected, "{year}-{month}-{day}");
                        expected += 1;
                    }
                }
            }
        }
        assert_eq!(days_since_1970(1970, 1, 1), Some(0));
        assert_eq!(days_since_1970(2026, 11, 22), Some(20_779));
        assert_eq!((days_since_1970(1968, 12, 31), days_since_1970(2108, 1, 1)), (None, None));
    }

    #[test]
    fn field_ends_are_found_at_every_distance() {
        for length in 0..40 {
            for mark in [b',', b'\n'] {
                let mut text = vec![b'x'; length];
                text.push(mark);
                assert_eq!(field_end(&text, 0), length);
                text.extend_from_slice(b",\n-,\xAC\x8A");
                assert_eq!(field_end(&text, 0), length);
            }
        }
        assert_eq!(field_end(b"abc", 0), 3);
        assert_eq!(field_end(b"abc", 9), 3);
    }
}
