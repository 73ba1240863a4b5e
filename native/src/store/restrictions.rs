//! Rows of `restrictions`: which of those about a number is in force. The layout is `lookupd/store/restrictions.py`'s.

use twox_hash::XxHash3_64;

use super::StoreError;
use super::layout::NUMBERS_PER_BLOCK;
use super::lmdb::Cursor;
use crate::model::{InForce, Measure};

/// First byte of a key: a restriction of numbers; a range of numbers that reaches into a block.
const NUMBERS: u8 = b'n';
const REACHES: u8 = b'r';
/// Name, first, last, tag.
const KEY_BYTES: usize = 25;
/// Name, block, first, last, tag.
const REACHES_KEY_BYTES: usize = 33;
/// Measure, whether it was extended, six bytes, from, until.
const HEAD_BYTES: usize = 24;

/// The strictest that holds at `now`; of several as strict, the one that holds longest.
///
/// `tn`: a number whose entry says that there is one. Fails for a damaged row, and if there is none.
pub fn of_number(cursor: &mut Cursor<'_>, tn: u64, now: u64) -> Result<Option<InForce>, StoreError> {
    let mut found = Found { now, any: false, strictest: None };
    let start = prefix(NUMBERS, tn);
    let mut row = cursor.seek(&start)?;
    while let Some((key, value)) = row.filter(|(key, _)| key.starts_with(&start)) {
        found.take(key, value)?;
        row = cursor.step(super::lmdb::Step::Next)?;
    }
    for key in reaching(cursor, tn)? {
        let (row_key, value) = cursor.seek(&key)?.filter(|(found, _)| *found == key).ok_or_else(damaged)?;
        found.take(row_key, value)?;
    }
    if found.any { Ok(found.strictest) } else { Err(damaged()) }
}

/// Keys of the ranges that begin before the number, and hold it.
fn reaching(cursor: &mut Cursor<'_>, tn: u64) -> Result<Vec<[u8; KEY_BYTES]>, StoreError> {
    let mut keys = Vec::new();
    let start = prefix(REACHES, tn / NUMBERS_PER_BLOCK as u64);
    let mut row = cursor.seek(&start)?;
    while let Some((key, _)) = row.filter(|(key, _)| key.starts_with(&start)) {
        let key = <&[u8; REACHES_KEY_BYTES]>::try_from(key).map_err(|_| damaged())?;
        if number_at(key, 9) < tn && tn <= number_at(key, 17) {
            let mut of_row = [NUMBERS; KEY_BYTES];
            of_row[1..].copy_from_slice(&key[9..]);
            keys.push(of_row);
        }
        row = cursor.step(super::lmdb::Step::Next)?;
    }
    Ok(keys)
}

/// What was found so far.
struct Found {
    now: u64,
    any: bool,
    strictest: Option<InForce>,
}

impl Found {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let (begins_at, row) = unpack(key, value).ok_or_else(damaged)?;
        self.any = true;
        if begins_at <= self.now && self.now < row.until {
            let is_stricter =
                |known: InForce| (row.measure, u64::MAX - row.until) < (known.measure, u64::MAX - known.until);
            if self.strictest.is_none_or(is_stricter) {
                self.strictest = Some(row);
            }
        }
        Ok(())
    }
}

/// From when it holds, and what is told of it; None when these are not the bytes that were written under this key.
fn unpack(key: &[u8], value: &[u8]) -> Option<(u64, InForce)> {
    let (packed, sum) = value.split_last_chunk::<8>()?;
    let head = packed.first_chunk::<HEAD_BYTES>()?;
    if key.len() != KEY_BYTES || checksum(key, packed) != u64::from_le_bytes(*sum) {
        return None;
    }
    let measure = Measure::ALL.into_iter().find(|measure| *measure as u8 == head[0])?;
    let [begins_at, until] = [8, 16].map(|at| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&head[at..at + 8]);
        u64::from_le_bytes(bytes)
    });
    Some((begins_at, InForce { measure, until }))
}

/// XXH3-64 of both, one behind the other.
fn checksum(key: &[u8], packed: &[u8]) -> u64 {
    let mut room = [0; 256];
    let length = key.len() + packed.len();
    match room.get_mut(..length) {
        Some(joined) => {
            joined[..key.len()].copy_from_slice(key);
            joined[key.len()..].copy_from_slice(packed);
            XxHash3_64::oneshot(joined)
        }
        None => XxHash3_64::oneshot(&[key, packed].concat()),
    }
}

fn prefix(name: u8, number: u64) -> [u8; 9] {
    let mut key = [name; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

fn number_at(key: &[u8; REACHES_KEY_BYTES], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&key[at..at + 8]);
    u64::from_be_bytes(bytes)
}

fn damaged() -> StoreError {
    StoreError::ours("a restriction is damaged or missing")
}
