//! What a state's blocks were found to be, in parts, so that a look-up need not read two kilobytes each time.
//!
//! A block's checksum covers all of it; reading it whole costs more than everything else when memory is far. So when
//! a whole block was found sound, the sum of the part that was asked for is kept beside; the next look-up in the same
//! part of the same state reads and checks that part alone. A part that has changed since then is damage, as it is to
//! the whole checksum: no entry is served from bytes that were not checked in that very look-up.

use std::cell::Cell;

use super::layout::part_sum;

/// Blocks whose parts are remembered, as many as `places` has.
const BLOCKS: usize = 1 << 18;
/// Parts of a block: 64 entries, two lines of the cache, each.
pub const PARTS: usize = 16;
const BLOCK_BITS: u32 = 40;
const EPOCHS: u64 = 1 << (u64::BITS - BLOCK_BITS);

/// Sums of one block's parts; 0 = that part was not asked for yet.
#[derive(Clone, Copy, Default)]
#[repr(align(64))] // a line of the cache
struct Line([u32; PARTS]);

/// The sums of one state; forgotten as a whole when another one is pinned.
pub struct Sums {
    /// Whose sums a line has: number of the block, and the epoch they were noted in.
    owners: Box<[Cell<u64>]>,
    lines: Box<[Cell<Line>]>,
    /// 1 and more.
    epoch: u64,
}

impl Sums {
    /// Nothing is known. Its memory is eighteen megabytes.
    pub fn new() -> Sums {
        Sums {
            owners: vec![Cell::new(0); BLOCKS].into_boxed_slice(),
            lines: vec![Cell::new(Line::default()); BLOCKS].into_boxed_slice(),
            epoch: 1,
        }
    }

    /// Another state: nothing is known of it.
    pub fn forget(&mut self) {
        self.epoch += 1;
        if self.epoch == EPOCHS {
            self.owners.fill(Cell::new(0));
            self.epoch = 1;
        }
    }

    fn owner(&self, block: u64) -> u64 {
        (self.epoch << BLOCK_BITS) | block
    }

    /// Whether the part is what it was when its whole block was found sound; None = that was not seen in this state.
    #[inline]
    pub fn holds(&self, block: u64, part: usize, value: &[u8]) -> Option<bool> {
        let known = self.known(block, part)?;
        Some(known == part_sum(block, value, part))
    }

    /// The sum of a part, if its block was found sound in this state.
    #[inline]
    pub fn known(&self, block: u64, part: usize) -> Option<u32> {
        let at = block as usize % BLOCKS;
        if self.owners.get(at)?.get() != self.owner(block) {
            return None;
        }
        self.lines.get(at)?.get().0.get(part).copied().filter(|sum| *sum != 0)
    }

    /// The whole block was found sound.
    #[inline]
    pub fn note(&self, block: u64, part: usize, value: &[u8]) {
        if block >> BLOCK_BITS != 0 {
            return;
        }
        let at = block as usize % BLOCKS;
        let (Some(owner), Some(line)) = (self.owners.get(at), self.lines.get(at)) else { return };
        let mut sums = if owner.get() == self.owner(block) { line.get() } else { Line::default() };
        if let Some(sum) = sums.0.get_mut(part) {
            *sum = part_sum(block, value, part);
        }
        owner.set(self.owner(block));
        line.set(sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::layout::{BLOCK_BYTES, ENTRIES_PER_PART};

    #[test]
    fn part_is_known_until_another_state_or_another_block_comes() {
        let (mut sums, value) = (Sums::new(), [7; BLOCK_BYTES]);
        assert_eq!(sums.holds(886_912, 3, &value), None);
        sums.note(886_912, 3, &value);
        assert_eq!(sums.holds(886_912, 3, &value), Some(true));
        assert_eq!(sums.holds(886_912, 4, &value), None);
        assert_eq!(sums.holds(886_912 + BLOCKS as u64, 3, &value), None);
        sums.note(886_912 + BLOCKS as u64, 5, &value);
        assert_eq!(sums.holds(886_912, 3, &value), None);
        assert_eq!(sums.holds(886_912 + BLOCKS as u64, 3, &value), None);
        assert_eq!(sums.holds(886_912 + BLOCKS as u64, 5, &value), Some(true));
        sums.forget();
        assert_eq!(sums.holds(886_912 + BLOCKS as u64, 5, &value), None);
    }

    #[test]
    fn each_changed_bit_of_a_part_is_damage_to_that_part_alone() {
        let (sums, value) = (Sums::new(), [7; BLOCK_BYTES]);
        for part in 0..PARTS {
            sums.note(5, part, &value);
        }
        for offset in 0..1000 {
            for bit in [0, 7, 8, 15] {
                let mut changed = value;
                changed[2 * offset + bit / 8] ^= 1 << (bit % 8);
                for part in 0..PARTS {
                    assert_eq!(sums.holds(5, part, &changed), Some(part != offset / ENTRIES_PER_PART), "{offset}");
                }
            }
        }
    }

    #[test]
    fn epochs_that_come_round_again_bring_nothing_back() {
        let (mut sums, value) = (Sums::new(), [7; BLOCK_BYTES]);
        sums.note(5, 0, &value);
        sums.epoch = EPOCHS - 1;
        sums.forget();
        assert_eq!(sums.epoch, 1);
        assert_eq!(sums.holds(5, 0, &value), None);
        sums.note(1 << BLOCK_BITS, 0, &value);
        assert_eq!(sums.holds(1 << BLOCK_BITS, 0, &value), None);
    }
}
