//! Values of the store, unpacked: blocks, the state, routes, ranges. Opens nothing; any bytes give a value or an error.
//!
//! The definition is `lookupd/store/schema.py`: keys are big-endian, values little-endian.

use rustc_hash::{FxHashMap, FxHashSet};
use twox_hash::XxHash3_64;

use super::StoreError;
use crate::limits::{E164_DIGITS_MAX, NETWORK_CODE_CHARS_MAX, ROUTING_NUMBER_CHARS_MAX};
use crate::model::Route;

/// The format that this program reads.
pub const FORMAT_VERSION: u32 = 3;
/// Key of the format version in `meta`.
pub const META_FORMAT: &[u8] = b"format";
/// Key of the state in `meta`.
pub const META_STATE: &[u8] = b"state";
/// Numbers in a block.
pub const NUMBERS_PER_BLOCK: usize = 1000;
/// Numbers in the part of a block that a later look-up checks: two lines of the cache.
pub const ENTRIES_PER_PART: usize = 64;
/// Bytes of a block that its checksum covers: entries and content digest.
pub const CHECKED_BYTES: usize = 2 * NUMBERS_PER_BLOCK + 8;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = CHECKED_BYTES + 8;
/// The part of an entry that is a route's id; 0 = not ported.
pub const ROUTE_MASK: u16 = 0x7FFF;
/// The bit of an entry that says a restriction exists.
pub const RESTRICTED: u16 = 0x8000;

/// Arrays and maps within each other that are passed over; the store's own have three.
const DEPTH_MAX: u32 = 16;

/// A block's bytes are not those that were written under this number: its numbers are unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged(pub u64);

/// XXH3-64 of the bytes, keyed by the block's number: a block at the wrong key is damaged too.
///
/// twox-hash asks the processor for AVX2 when it runs, whatever machine the package was built for.
#[inline]
pub fn checksum(bytes: &[u8], block: u64) -> u64 {
    XxHash3_64::oneshot_with_seed(block, bytes)
}

/// Whether a block's bytes are those that were written under this number.
#[inline]
pub fn block_is_sound(block: u64, value: &[u8]) -> bool {
    let Ok(value) = <&[u8; BLOCK_BYTES]>::try_from(value) else { return false };
    let Some((checked, stored)) = value.split_last_chunk::<8>() else { return false };
    checksum(checked, block) == u64::from_le_bytes(*stored)
}

/// The entry at an offset of a block's value, which is checked first. An offset of 1000 or more is damaged too.
#[inline]
pub fn entry(block: u64, value: &[u8], offset: usize) -> Result<u16, Damaged> {
    if offset >= NUMBERS_PER_BLOCK || !block_is_sound(block, value) {
        return Err(Damaged(block));
    }
    read_entry(value, offset).ok_or(Damaged(block))
}

/// The same of a value that was checked already.
#[inline]
pub fn read_entry(value: &[u8], offset: usize) -> Option<u16> {
    value.get(2 * offset..)?.first_chunk::<2>().map(|entry| u16::from_le_bytes(*entry))
}

/// The bytes of one part of a block's entries: 64 of them, fewer in the last part.
#[inline]
pub fn part_bytes(value: &[u8], part: usize) -> &[u8] {
    const PART_BYTES: usize = 2 * ENTRIES_PER_PART;
    let end = (PART_BYTES * (part + 1)).min(2 * NUMBERS_PER_BLOCK).min(value.len());
    value.get(PART_BYTES * part..end).unwrap_or_default()
}

/// A sum of one part, keyed by the block; never 0. Of this process alone: it is not in the store.
#[inline]
pub fn part_sum(block: u64, value: &[u8], part: usize) -> u32 {
    (checksum(part_bytes(value, part), block) as u32).max(1)
}

/// The number of a block from its key.
pub fn block_number(key: &[u8]) -> Result<u64, StoreError> {
    let key = <[u8; 8]>::try_from(key).map_err(|_| StoreError::ours("a key of `blocks` has not 8 bytes"))?;
    Ok(u64::from_be_bytes(key))
}

/// What an answer needs of the store's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The journal's last key.
    pub serial: u64,
    /// Sum of all content digests.
    pub digest: u64,
    /// Grows with each change of routes or ranges.
    pub tables: u64,
    /// Unix seconds of the feed position that was confirmed longest ago; None: no feed was loaded.
    pub confirmed_at: Option<u64>,
}

impl State {
    /// From the stored value: MessagePack, then its checksum. Fails when it is not what was written.
    pub fn unpack(value: &[u8]) -> Result<State, StoreError> {
        let Some((packed, stored)) = value.split_last_chunk::<8>() else { return Err(unfit()) };
        if checksum(packed, 0) != u64::from_le_bytes(*stored) {
            return Err(unfit());
        }
        let mut unpacker = Unpacker(packed);
        let state = unpacker.state().ok_or_else(|| StoreError::ours("the state is not what it should be"))?;
        if unpacker.0.is_empty() { Ok(state) } else { Err(StoreError::ours("bytes after the state")) }
    }
}

fn unfit() -> StoreError {
    StoreError::ours("its checksum does not fit")
}

/// Routes by id, range holders by prefix, as of one number of `State::tables`.
#[derive(Debug, Default)]
pub struct Tables {
    number: Option<u64>,
    routes: Vec<Option<Route>>,
    /// Length of the prefixes, and holders by the prefixes' digits as a number; the longest first.
    ranges: Vec<(usize, FxHashMap<u64, u16>)>,
    /// Length and digits of what longer prefixes begin with.
    range_starts: FxHashSet<(usize, u64)>,
}

impl Tables {
    /// Empty ones.
    pub fn new(number: u64) -> Tables {
        Tables { number: Some(number), ..Tables::default() }
    }

    /// Of the state they were loaded in; None before that.
    pub fn number(&self) -> Option<u64> {
        self.number
    }

    /// The route of an id, if the store has one.
    #[inline]
    pub fn route(&self, id: u16) -> Option<&Route> {
        self.routes.get(usize::from(id))?.as_ref()
    }

    /// Whether a number that begins with these ASCII digits may be in a range: one holds it, or begins with it.
    pub fn touches_range(&self, digits: &[u8]) -> bool {
        let (starts, count) = starts_of(digits);
        let is_start = count == digits.len()
            && starts.get(count).is_some_and(|start| self.range_starts.contains(&(count, *start)));
        is_start || self.range_holder(digits).is_some()
    }

    /// The route id of the longest prefix in the ranges table that these ASCII digits start with.
    #[inline]
    pub fn range_holder(&self, digits: &[u8]) -> Option<u16> {
        let (starts, count) = starts_of(digits);
        let holder = |(length, prefixes): &(usize, FxHashMap<u64, u16>)| {
            if *length > count { None } else { prefixes.get(starts.get(*length)?).copied() }
        };
        self.ranges.iter().find_map(holder)
    }

    /// Add a route as stored. Fails on a key that is no id and a value that is no route.
    pub fn add_route(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let Ok(key) = <[u8; 2]>::try_from(key) else { return Err(StoreError::ours("a route's key has not 2 bytes")) };
        let id = usize::from(u16::from_be_bytes(key));
        let mut unpacker = Unpacker(value);
        let route = unpacker.route().filter(|_| unpacker.0.is_empty());
        let route = route.ok_or_else(|| StoreError::ours(&format!("route {id} is not what it should be")))?;
        if self.routes.len() <= id {
            self.routes.resize(id + 1, None);
        }
        if let Some(place) = self.routes.get_mut(id) {
            *place = Some(route);
        }
        Ok(())
    }

    /// Add a range as stored. Fails on a value that is no route id.
    pub fn add_range(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let Ok(value) = <[u8; 2]>::try_from(value) else {
            return Err(StoreError::ours("a range's holder has not 2 bytes"));
        };
        if std::str::from_utf8(key).is_err() {
            return Err(StoreError::ours("a range's prefix is not text"));
        }
        let (starts, count) = starts_of(key);
        let Some(prefix) = starts.get(key.len()).filter(|_| count == key.len()) else {
            return Ok(()); // no number starts with it
        };
        self.range_starts.extend(starts.iter().take(count).enumerate().map(|(length, start)| (length, *start)));
        let place = match self.ranges.binary_search_by(|(length, _)| key.len().cmp(length)) {
            Ok(place) => place,
            Err(place) => {
                self.ranges.insert(place, (key.len(), FxHashMap::default()));
                place
            }
        };
        if let Some((_, prefixes)) = self.ranges.get_mut(place) {
            prefixes.insert(*prefix, u16::from_le_bytes(value));
        }
        Ok(())
    }
}

/// The number that the first 0, 1, 2 ... of these digits make, and how many digits there are; at most 15.
#[inline]
fn starts_of(digits: &[u8]) -> ([u64; E164_DIGITS_MAX + 1], usize) {
    let mut starts = [0; E164_DIGITS_MAX + 1];
    let (mut sum, mut count) = (0, 0);
    for (start, digit) in starts.iter_mut().skip(1).zip(digits) {
        if !digit.is_ascii_digit() {
            break;
        }
        sum = 10 * sum + u64::from(digit - b'0');
        *start = sum;
        count += 1;
    }
    (starts, count)
}

/// What is left of a MessagePack value. Every method takes one value off, or gives None.
struct Unpacker<'a>(&'a [u8]);

impl<'a> Unpacker<'a> {
    fn state(&mut self) -> Option<State> {
        let mut state = State::default();
        let fields = self.array()?;
        for field in 0..fields {
            match field {
                0 => state.serial = self.unsigned()?,
                1 => state.digest = self.unsigned()?,
                4 => state.tables = self.unsigned()?,
                5 => state.confirmed_at = self.feeds()?,
                _ => self.skip(DEPTH_MAX)?,
            }
        }
        Some(state)
    }

    /// The time of the feed that was confirmed longest ago.
    #[allow(clippy::option_option)] // the outer one: not what it should be
    fn feeds(&mut self) -> Option<Option<u64>> {
        let mut oldest: Option<u64> = None;
        for _ in 0..self.map()? {
            self.text()?;
            let confirmed_at = self.feed_position()?;
            oldest = Some(oldest.map_or(confirmed_at, |known| known.min(confirmed_at)));
        }
        Some(oldest)
    }

    fn feed_position(&mut self) -> Option<u64> {
        let fields = self.array()?;
        let mut confirmed_at = None;
        for field in 0..fields {
            if field == 4 {
                confirmed_at = Some(self.unsigned()?);
            } else {
                self.skip(DEPTH_MAX)?;
            }
        }
        confirmed_at
    }

    fn route(&mut self) -> Option<Route> {
        let fields = self.array()?;
        if fields < 5 {
            return None;
        }
        let route = Route {
            network_code: self.code(NETWORK_CODE_CHARS_MAX, |byte| matches!(byte, b'0'..=b'9' | b'A'..=b'Z'))?,
            routing_number: if self.nil() {
                None
            } else {
                Some(self.code(ROUTING_NUMBER_CHARS_MAX, |byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))?)
            },
            operator: self.text()?.to_owned(),
            pdb_carrier_id: if self.nil() { None } else { Some(u16::try_from(self.unsigned()?).ok()?) },
            own: self.boolean()?,
        };
        for _ in 5..fields {
            self.skip(DEPTH_MAX)?;
        }
        Some(route)
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A big-endian number of so many bytes, at most 8.
    fn big_endian(&mut self, bytes: usize) -> Option<u64> {
        Some(self.take(bytes)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    fn length(&mut self, bytes: usize) -> Option<usize> {
        usize::try_from(self.big_endian(bytes)?).ok()
    }

    fn unsigned(&mut self) -> Option<u64> {
        match self.byte()? {
            small @ 0..=0x7F => Some(small.into()),
            0xCC => self.big_endian(1),
            0xCD => self.big_endian(2),
            0xCE => self.big_endian(4),
            0xCF => self.big_endian(8),
            // Signed ones, as another encoder might write a number that is not negative.
            0xD0 => self.big_endian(1).filter(|value| *value < 1 << 7),
            0xD1 => self.big_endian(2).filter(|value| *value < 1 << 15),
            0xD2 => self.big_endian(4).filter(|value| *value < 1 << 31),
            0xD3 => self.big_endian(8).filter(|value| *value < 1 << 63),
            _ => None,
        }
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = match self.byte()? {
            short @ 0xA0..=0xBF => usize::from(short & 0x1F),
            0xD9 => self.length(1)?,
            0xDA => self.length(2)?,
            0xDB => self.length(4)?,
            _ => return None,
        };
        std::str::from_utf8(self.take(length)?).ok()
    }

    /// A text that is not empty, of such bytes only: it goes into answers as it is.
    fn code(&mut self, chars_max: usize, is_such: impl Fn(u8) -> bool) -> Option<String> {
        let text = self.text()?;
        ((1..=chars_max).contains(&text.len()) && text.bytes().all(is_such)).then(|| text.to_owned())
    }

    fn boolean(&mut self) -> Option<bool> {
        match self.byte()? {
            0xC2 => Some(false),
            0xC3 => Some(true),
            _ => None,
        }
    }

    /// Whether the next value is nil; takes it off if so.
    fn nil(&mut self) -> bool {
        let is_nil = self.0.first() == Some(&0xC0);
        if is_nil {
            self.byte();
        }
        is_nil
    }

    fn array(&mut self) -> Option<usize> {
        match self.byte()? {
            short @ 0x90..=0x9F => Some(usize::from(short & 0x0F)),
            0xDC => self.length(2),
            0xDD => self.length(4),
            _ => None,
        }
    }

    fn map(&mut self) -> Option<usize> {
        match self.byte()? {
            short @ 0x80..=0x8F => Some(usize::from(short & 0x0F)),
            0xDE => self.length(2),
            0xDF => self.length(4),
            _ => None,
        }
    }

    /// Pass over one value of any type. A count in it is never trusted: each item takes a byte at least.
    fn skip(&mut self, depth: u32) -> Option<()> {
        let inner = depth.checked_sub(1)?;
        let first = self.byte()?;
        let (bytes, items) = match first {
            0x00..=0x7F | 0xC0 | 0xC2 | 0xC3 | 0xE0..=0xFF => (0, 0),
            0x80..=0x8F => (0, 2 * usize::from(first & 0x0F)),
            0x90..=0x9F => (0, usize::from(first & 0x0F)),
            0xA0..=0xBF => (usize::from(first & 0x1F), 0),
            0xC1 => return None,
            0xC4 | 0xD9 => (self.length(1)?, 0),
            0xC5 | 0xDA => (self.length(2)?, 0),
            0xC6 | 0xDB => (self.length(4)?, 0),
            0xC7 => (1 + self.length(1)?, 0),
            0xC8 => (1 + self.length(2)?, 0),
            0xC9 => (1 + self.length(4)?, 0),
            0xCC | 0xD0 => (1, 0),
            0xCD | 0xD1 => (2, 0),
            0xCA | 0xCE | 0xD2 => (4, 0),
            0xCB | 0xCF | 0xD3 => (8, 0),
            0xD4..=0xD8 => (1 + (1 << (first - 0xD4)), 0),
            0xDC => (0, self.length(2)?),
            0xDD => (0, self.length(4)?),
            0xDE => (0, 2 * self.length(2)?),
            0xDF => (0, self.length(4)?.checked_mul(2)?),
        };
        self.take(bytes)?;
        for _ in 0..items {
            self.skip(inner)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests;
