//! Which row had a number first: exact, in 11 bytes a number, growing a part at a time.
//!
//! A number is mixed one to one and cut in three: which part, its home in the part, and the rest, which is stored with
//! the row. What is not at home says by how much, so that the whole number can be told again.

use rustc_hash::FxHashMap;

const NUMBER_BITS: u32 = 50; // 15 digits
const NUMBER_MASK: u64 = (1 << NUMBER_BITS) - 1;
const PART_BITS: u32 = 6;
const REST_BITS: u32 = NUMBER_BITS - PART_BITS;
const ROW_BITS: u32 = 25;
const AWAY_BITS: u32 = 9;
const AWAY_END: usize = 1 << AWAY_BITS;
const SLOTS_AT_FIRST: usize = 1 << 14; // what is left of a number behind so many homes has the 30 bits that remain
/// The most rows that can be told from each other.
pub const ROWS_END: u64 = 1 << ROW_BITS;

/// Numbers, and the row that had each first.
pub struct Seen {
    parts: Vec<Part>,
    /// Odd, drawn by the process: nobody can choose numbers that meet in one place.
    factor: u64,
    rows_max: u64,
}

#[derive(Default)]
struct Part {
    slots: Vec<u64>,
    count: usize,
    /// Those that would lie too far from home.
    far: FxHashMap<u64, u32>,
}

impl Seen {
    /// `rows_max`: rows behind it are not remembered. factor: any number.
    pub fn new(rows_max: u64, factor: u64) -> Seen {
        let parts = (0..1 << PART_BITS).map(|_| Part::default()).collect();
        Seen { parts, factor: (factor | 1) & NUMBER_MASK, rows_max: rows_max.min(ROWS_END - 1) }
    }

    /// The row that had the number before; None: this is the first, and noted, or it is not remembered.
    pub fn first(&mut self, tn: u64, row: u64) -> Option<u64> {
        if row > self.rows_max || row == 0 || tn > NUMBER_MASK {
            return None;
        }
        let mixed = self.mix(tn);
        let part = self.parts.get_mut((mixed >> REST_BITS) as usize)?;
        part.first(mixed & ((1 << REST_BITS) - 1), row)
    }

    /// One to one among numbers of 50 bits.
    fn mix(&self, tn: u64) -> u64 {
        let once = tn.wrapping_mul(self.factor) & NUMBER_MASK;
        let folded = once ^ (once >> (NUMBER_BITS / 2));
        let twice = folded.wrapping_mul(0x2_545F_4914_F6CD | 1) & NUMBER_MASK;
        twice ^ (twice >> (NUMBER_BITS / 2))
    }
}

impl Part {
    fn first(&mut self, rest: u64, row: u64) -> Option<u64> {
        if self.count * 4 >= self.slots.len() * 3 {
            self.grow();
        }
        let slots = self.slots.len() as u64;
        let (home, stored) = ((rest % slots) as usize, rest / slots);
        for away in 0..AWAY_END {
            let at = (home + away) % self.slots.len();
            let slot = self.slots.get_mut(at)?;
            if *slot == 0 {
                *slot = pack(stored, away, row);
                self.count += 1;
                return None;
            }
            if *slot >> ROW_BITS == pack(stored, away, 0) >> ROW_BITS {
                return Some(*slot & (ROWS_END - 1));
            }
        }
        match self.far.entry(rest) {
            std::collections::hash_map::Entry::Occupied(found) => Some(u64::from(*found.get())),
            std::collections::hash_map::Entry::Vacant(room) => {
                room.insert(row as u32);
                None
            }
        }
    }

    fn grow(&mut self) {
        let before = std::mem::take(&mut self.slots);
        let far = std::mem::take(&mut self.far);
        self.slots = vec![0; (before.len() + before.len() / 4).max(SLOTS_AT_FIRST)];
        self.count = 0;
        let slots = before.len();
        for (at, slot) in before.into_iter().enumerate().filter(|(_, slot)| *slot != 0) {
            let away = (slot >> ROW_BITS) as usize & (AWAY_END - 1);
            let home = (at + slots - away % slots) % slots;
            let rest = (slot >> (ROW_BITS + AWAY_BITS)) * slots as u64 + home as u64;
            self.first(rest, slot & (ROWS_END - 1));
        }
        for (rest, row) in far {
            self.first(rest, u64::from(row));
        }
    }
}

fn pack(stored: u64, away: usize, row: u64) -> u64 {
    stored << (ROW_BITS + AWAY_BITS) | (away as u64) << ROW_BITS | row
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn tells_the_first_row_of_each_number_as_a_map_does() {
        let mut seen = Seen::new(ROWS_END, 0x9E37_79B9_7F4A_7C15);
        let mut known = HashMap::new();
        let mut number = 1_u64;
        for row in 1..3_000_000 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let tn = 886_900_000_000 + (number >> 40) % 2_000_000 * 7;
            let first = *known.entry(tn).or_insert(row);
            assert_eq!(seen.first(tn, row), (first != row).then_some(first));
        }
    }

    #[test]
    fn mixes_one_to_one() {
        let seen = Seen::new(1, 12345);
        let mut all: Vec<u64> = (0..100_000).map(|tn| seen.mix(tn * 9973)).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 100_000);
    }

    #[test]
    fn rows_beyond_the_bound_are_not_remembered() {
        let mut seen = Seen::new(2, 1);
        assert_eq!(seen.first(886_912_345_678, 3), None);
        assert_eq!(seen.first(886_912_345_678, 1), None);
        assert_eq!(seen.first(886_912_345_678, 2), Some(1));
    }
}
