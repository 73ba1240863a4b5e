//! Values of `restricted`: which restriction of a number is in force. The layout is `lookupd/store/restricted.py`'s.
//!
//! Opens nothing; any bytes give an answer or an error.

use super::StoreError;
use super::layout::{ENTRIES_PER_PART, NUMBERS_PER_BLOCK, checksum};
use crate::model::{InForce, Measure};

/// Numbers that are looked up together, as in a block: see `layout`.
const NUMBERS_PER_PART: usize = ENTRIES_PER_PART;
const PARTS: usize = NUMBERS_PER_BLOCK.div_ceil(NUMBERS_PER_PART);
/// Before the parts: where each ends.
const ENDS_BYTES: usize = 4 * PARTS;
/// First and last offset, measure, three bytes, from, until.
const RECORD_BYTES: usize = 16;
/// In place of a measure: until then, the rows tell.
const ASK_ROWS: u8 = 0;

/// What a value says of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The strictest restriction that holds; of several as strict, the one that holds longest.
    Holds(Option<InForce>),
    /// Nothing that is certain: the rows have to be read.
    AskRows,
}

/// `offset`: in the block, of a number whose entry says that there is a restriction. Fails when the part of the value
/// that the number is in is not what was written, and if nothing in it is about the number.
#[inline]
pub fn find(block: u64, value: &[u8], offset: usize, now: u64) -> Result<Told, StoreError> {
    try_find(block, value, offset, now).ok_or_else(damaged)
}

fn try_find(block: u64, value: &[u8], offset: usize, now: u64) -> Option<Told> {
    let mut is_known = false;
    for record in part(block, value, offset)?.chunks_exact(RECORD_BYTES) {
        let record: &[u8; RECORD_BYTES] = record.try_into().ok()?;
        let &[first, first_high, last, last_high, measure, ..] = record;
        let (first, last) = (u16::from_le_bytes([first, first_high]), u16::from_le_bytes([last, last_high]));
        if offset < usize::from(first) || usize::from(last) < offset {
            continue;
        }
        is_known = true;
        let (begins_at, until) = (u64::from(number_at(record, 8)?), u64::from(number_at(record, 12)?));
        if measure == ASK_ROWS {
            if now < until {
                return Some(Told::AskRows);
            }
        } else if begins_at <= now && now < until {
            let measure = Measure::ALL.into_iter().find(|known| *known as u8 == measure)?;
            return Some(Told::Holds(Some(InForce { measure, until })));
        }
    }
    is_known.then_some(Told::Holds(None))
}

/// The records of the part that the offset is in, once their checksum was found to fit.
fn part(block: u64, value: &[u8], offset: usize) -> Option<&[u8]> {
    let part = offset / NUMBERS_PER_PART;
    if part >= PARTS {
        return None;
    }
    let begin = if part == 0 { ENDS_BYTES } else { number_at(value, 4 * (part - 1))? as usize };
    let end = number_at(value, 4 * part)? as usize;
    if begin < ENDS_BYTES {
        return None;
    }
    let (records, stored) = value.get(begin..end)?.split_last_chunk::<8>()?;
    let key = block.wrapping_mul(PARTS as u64).wrapping_add(part as u64);
    let is_sound = records.len() % RECORD_BYTES == 0 && checksum(records, key) == u64::from_le_bytes(*stored);
    is_sound.then_some(records)
}

#[inline]
fn number_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<4>().map(|found| u32::from_le_bytes(*found))
}

fn damaged() -> StoreError {
    StoreError::ours("what is kept of a block's restrictions is damaged or missing")
}

/// A value of these records, each in every part it reaches into, in this order: first and last offset, measure, from
/// and until. The loader's is Python's.
#[cfg(test)]
pub(crate) fn pack(block: u64, records: &[(u16, u16, u8, u32, u32)]) -> Vec<u8> {
    let (mut ends, mut parts) = (Vec::new(), Vec::new());
    for part in 0..PARTS {
        let mut joined = Vec::new();
        let (begin, end) = (NUMBERS_PER_PART * part, NUMBERS_PER_PART * (part + 1));
        for &(first, last, measure, from, until) in records {
            if usize::from(first) < end && begin <= usize::from(last) {
                joined.extend([first.to_le_bytes(), last.to_le_bytes()].concat());
                joined.extend([measure, 0, 0, 0]);
                joined.extend([from.to_le_bytes(), until.to_le_bytes()].concat());
            }
        }
        let sum = checksum(&joined, block.wrapping_mul(PARTS as u64).wrapping_add(part as u64));
        parts.extend(joined);
        parts.extend(sum.to_le_bytes());
        ends.extend(((ENDS_BYTES + parts.len()) as u32).to_le_bytes());
    }
    [ends, parts].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 886_912_345;

    fn holds(measure: Measure, until: u64) -> Told {
        Told::Holds(Some(InForce { measure, until }))
    }

    #[test]
    fn first_record_that_is_about_the_number_and_holds_is_told() {
        let value = pack(BLOCK, &[(5, 5, 1, 10, 20), (0, 999, 2, 15, 30), (64, 64, 4, 0, 99)]);
        assert_eq!(find(BLOCK, &value, 5, 10), Ok(holds(Measure::Stop, 20)));
        assert_eq!(find(BLOCK, &value, 5, 20), Ok(holds(Measure::Limit, 30)));
        assert_eq!(find(BLOCK, &value, 999, 29), Ok(holds(Measure::Limit, 30)));
        assert_eq!(find(BLOCK, &value, 64, 14), Ok(holds(Measure::Alert, 99)));
        assert_eq!(find(BLOCK, &value, 6, 14), Ok(Told::Holds(None)));
        assert!(find(BLOCK, &value, 1000, 14).is_err() && find(BLOCK, &value, usize::MAX, 14).is_err());
    }

    #[test]
    fn rows_are_asked_until_the_moment_of_a_record_without_a_measure() {
        let value = pack(BLOCK, &[(0, 999, 0, 0, 20), (7, 7, 3, 0, 99)]);
        assert_eq!(find(BLOCK, &value, 7, 19), Ok(Told::AskRows));
        assert_eq!(find(BLOCK, &value, 7, 20), Ok(holds(Measure::NoRoaming, 99)));
        assert_eq!(find(BLOCK, &value, 8, 20), Ok(Told::Holds(None)));
    }

    #[test]
    fn number_that_nothing_is_about_and_measures_that_are_none_are_damage() {
        let value = pack(BLOCK, &[(5, 5, 5, 10, 20), (6, 6, 1, 10, 20)]);
        assert!(find(BLOCK, &value, 5, 10).is_err());
        assert!(find(BLOCK, &value, 7, 10).is_err());
        assert!(find(BLOCK + 1, &value, 6, 10).is_err());
    }

    #[test]
    fn every_changed_byte_and_every_cut_of_a_number_s_part_is_damage() {
        let value = pack(BLOCK, &[(5, 5, 1, 10, 20), (70, 999, 2, 15, 30)]);
        let told = [find(BLOCK, &value, 5, 15), find(BLOCK, &value, 70, 15), find(BLOCK, &value, 999, 15)];
        for at in 0..value.len() {
            let mut changed = value.clone();
            changed[at] ^= 1;
            for (offset, told) in [5, 70, 999].into_iter().zip(&told) {
                let found = find(BLOCK, &changed, offset, 15);
                assert!(found.is_err() || found == *told, "{at} {offset}");
            }
            assert!(find(BLOCK, &value[..at], 999, 15).is_err(), "{at}");
        }
        let of_first = 8 + RECORD_BYTES;
        for at in (0..4).chain(ENDS_BYTES..ENDS_BYTES + of_first) {
            let mut changed = value.clone();
            changed[at] ^= 1;
            assert!(find(BLOCK, &changed, 5, 15).is_err(), "{at}");
        }
    }
}
