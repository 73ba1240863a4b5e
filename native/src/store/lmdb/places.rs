//! Where blocks were found in the pinned state, so that the next look-up of one need not descend LMDB's tree.
//!
//! The descent reads a few lines of three pages one after another, each of which may be far away: at 20 million
//! numbers that is more than half of a look-up. Holds addresses and follows none; when they hold is `transaction`'s.

use std::cell::Cell;

/// Blocks whose place is remembered: more than a country's mobile range has. Neighbours never push each other out.
const PLACES: usize = 1 << 17;
const EPOCH_BITS: u32 = 16;
const EPOCHS: u64 = 1 << EPOCH_BITS;

/// One place: the block's number, and its address with the epoch it was found in. Address 0: there is no such block.
#[derive(Clone, Copy, Default)]
struct Place {
    block: u64,
    /// Address in the upper 48 bits (what user space has), epoch in the lower 16; 0 = nothing was noted yet.
    found: u64,
}

/// The places of one state; forgotten as a whole when another state is pinned.
pub struct Places {
    places: Vec<Cell<Place>>,
    /// 1 and more.
    epoch: u64,
}

impl Places {
    /// Nothing is known. Its memory is touched only as far as blocks are looked up.
    pub fn new() -> Places {
        Places { places: vec![Cell::new(Place::default()); PLACES], epoch: 1 }
    }

    /// Another state, or the same one elsewhere: nothing is known of it.
    pub fn forget(&mut self) {
        self.epoch += 1;
        if self.epoch == EPOCHS {
            self.places.fill(Cell::new(Place::default()));
            self.epoch = 1;
        }
    }

    /// Where the block was found: Some(0) = there is none; None = it was not looked for, or it was pushed out.
    #[inline]
    pub fn get(&self, block: u64) -> Option<usize> {
        let place = self.cell(block).get();
        (place.block == block && place.found % EPOCHS == self.epoch).then_some((place.found >> EPOCH_BITS) as usize)
    }

    /// Note where it was found; 0 = there is none.
    #[inline]
    pub fn note(&self, block: u64, address: usize) {
        let address = address as u64;
        if address << EPOCH_BITS >> EPOCH_BITS == address {
            self.cell(block).set(Place { block, found: (address << EPOCH_BITS) | self.epoch });
        }
    }

    #[inline]
    fn cell(&self, block: u64) -> &Cell<Place> {
        &self.places[block as usize % PLACES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_is_known_until_another_state_is_pinned_or_another_block_takes_it() {
        let mut places = Places::new();
        assert_eq!(places.get(0), None);
        assert_eq!(places.get(886_912), None);
        places.note(886_912, 0x7fff_1234_5678);
        places.note(7, 0);
        assert_eq!((places.get(886_912), places.get(7)), (Some(0x7fff_1234_5678), Some(0)));
        assert_eq!(places.get(886_912 + PLACES as u64), None);
        places.note(886_912 + PLACES as u64, 64);
        assert_eq!(places.get(886_912), None);
        places.forget();
        assert_eq!((places.get(7), places.get(886_912 + PLACES as u64)), (None, None));
    }

    #[test]
    fn epochs_that_come_round_again_bring_no_old_place_back() {
        let mut places = Places::new();
        places.note(5, 64);
        for _ in 0..EPOCHS + 3 {
            places.forget();
            assert_eq!(places.get(5), None);
        }
        places.note(5, 128);
        assert_eq!(places.get(5), Some(128));
    }

    #[test]
    fn address_beyond_user_space_is_not_noted() {
        let places = Places::new();
        places.note(5, 1 << 48);
        assert_eq!(places.get(5), None);
    }
}
