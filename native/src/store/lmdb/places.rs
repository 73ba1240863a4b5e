//! Where blocks were found in the pinned state, so that the next look-up of one need not descend LMDB's tree.
//!
//! The descent reads a few lines of three pages one after another, each of which may be far away: at 20 million
//! numbers that is more than half of a look-up. Holds addresses and follows none; when they hold is `transaction`'s.

use std::cell::{Cell, OnceCell};

use super::Database;

/// Blocks whose place is remembered: more than 100 million numbers have. Neighbours never push each other out.
const PLACES: usize = 1 << 18;
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
    /// Made with the first note: most transactions look up no block, and four megabytes are not for nothing.
    table: OnceCell<Table>,
    /// 1 and more.
    epoch: u64,
}

/// Of the values of one length in one database: an address says nothing of any others.
struct Table {
    database: Database,
    length: usize,
    places: Box<[Cell<Place>]>,
}

impl Places {
    /// Nothing is known.
    pub fn new() -> Places {
        Places { table: OnceCell::new(), epoch: 1 }
    }

    /// Another state, or the same one elsewhere: nothing is known of it.
    pub fn forget(&mut self) {
        self.epoch += 1;
        if self.epoch == EPOCHS {
            if let Some(table) = self.table.get_mut() {
                table.places.fill(Cell::new(Place::default()));
            }
            self.epoch = 1;
        }
    }

    /// Where the block was noted with this database and length: Some(0) = there is none; None = it was not looked
    /// for, or it was pushed out.
    #[inline]
    pub fn get(&self, database: Database, length: usize, block: u64) -> Option<usize> {
        let table = self.table.get().filter(|table| table.is_of(database, length))?;
        let place = table.cell(block).get();
        (place.block == block && place.found % EPOCHS == self.epoch).then_some((place.found >> EPOCH_BITS) as usize)
    }

    /// Note where it was found; 0 = there is none. Only the database and length of the first note are remembered.
    #[inline]
    pub fn note(&self, database: Database, length: usize, block: u64, address: usize) {
        let table = self.table.get_or_init(|| Table::new(database, length));
        let address = address as u64;
        if table.is_of(database, length) && address << EPOCH_BITS >> EPOCH_BITS == address {
            table.cell(block).set(Place { block, found: (address << EPOCH_BITS) | self.epoch });
        }
    }
}

impl Table {
    #[cold]
    fn new(database: Database, length: usize) -> Table {
        Table { database, length, places: vec![Cell::new(Place::default()); PLACES].into_boxed_slice() }
    }

    #[inline]
    fn is_of(&self, database: Database, length: usize) -> bool {
        self.database == database && self.length == length
    }

    #[inline]
    fn cell(&self, block: u64) -> &Cell<Place> {
        &self.places[block as usize % PLACES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: Database = Database(3);

    #[test]
    fn place_is_known_until_another_state_is_pinned_or_another_block_takes_it() {
        let mut places = Places::new();
        assert_eq!(places.get(BLOCKS, 64, 0), None);
        assert_eq!(places.get(BLOCKS, 64, 886_912), None);
        places.note(BLOCKS, 64, 886_912, 0x7fff_1234_5678);
        places.note(BLOCKS, 64, 7, 0);
        assert_eq!((places.get(BLOCKS, 64, 886_912), places.get(BLOCKS, 64, 7)), (Some(0x7fff_1234_5678), Some(0)));
        assert_eq!(places.get(BLOCKS, 64, 886_912 + PLACES as u64), None);
        places.note(BLOCKS, 64, 886_912 + PLACES as u64, 64);
        assert_eq!(places.get(BLOCKS, 64, 886_912), None);
        places.forget();
        assert_eq!((places.get(BLOCKS, 64, 7), places.get(BLOCKS, 64, 886_912 + PLACES as u64)), (None, None));
    }

    #[test]
    fn epochs_that_come_round_again_bring_no_old_place_back() {
        let mut places = Places::new();
        places.note(BLOCKS, 64, 5, 64);
        for _ in 0..EPOCHS + 3 {
            places.forget();
            assert_eq!(places.get(BLOCKS, 64, 5), None);
        }
        places.note(BLOCKS, 64, 5, 128);
        assert_eq!(places.get(BLOCKS, 64, 5), Some(128));
    }

    #[test]
    fn address_beyond_user_space_is_not_noted() {
        let places = Places::new();
        places.note(BLOCKS, 64, 5, 1 << 48);
        assert_eq!(places.get(BLOCKS, 64, 5), None);
    }

    #[test]
    fn place_of_one_database_and_length_is_none_of_another() {
        let places = Places::new();
        places.note(BLOCKS, 64, 5, 4096);
        places.note(Database(4), 64, 6, 4096);
        places.note(BLOCKS, 65, 7, 4096);
        assert_eq!(places.get(BLOCKS, 64, 5), Some(4096));
        assert_eq!((places.get(Database(4), 64, 5), places.get(BLOCKS, 65, 5)), (None, None));
        assert_eq!((places.get(Database(4), 64, 6), places.get(BLOCKS, 65, 7)), (None, None));
    }
}
