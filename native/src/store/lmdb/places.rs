//! Where blocks were found in the pinned state, so that the next look-up of one need not descend LMDB's tree.
//!
//! The descent reads a few lines of three pages one after another, each of which may be far away: at 20 million
//! numbers that is more than half of a look-up. Holds addresses and follows none; when they hold is `transaction`'s.

use std::cell::{Cell, OnceCell};

use super::Database;

/// Blocks whose place is remembered: more than 100 million numbers have. Neighbours never push each other out.
const PLACES: usize = 1 << 18;
/// Databases whose values are remembered: blocks, and what is kept of their restrictions.
const TABLES: usize = 2;
const EPOCH_BITS: u32 = 16;
const EPOCHS: u64 = 1 << EPOCH_BITS;
/// No number of 15 digits lies in a block with a larger number.
const BLOCK_BITS: u32 = 40;
const BLOCK_MASK: u64 = (1 << BLOCK_BITS) - 1;

/// One place. Address 0: there is no such block.
#[derive(Clone, Copy, Default)]
struct Place {
    /// The block's number in the lower 40 bits, the value's length in the upper 24.
    value: u64,
    /// Address in the upper 48 bits (what user space has), epoch in the lower 16; 0 = nothing was noted yet.
    found: u64,
}

/// The places of one state; forgotten as a whole when another state is pinned.
pub struct Places {
    /// Each made with the first note of its database: most transactions look up no block, and four megabytes are not
    /// for nothing.
    tables: [OnceCell<Table>; TABLES],
    /// 1 and more.
    epoch: u64,
}

/// Of one database: an address says nothing of any others.
struct Table {
    database: Database,
    places: Box<[Cell<Place>]>,
}

impl Places {
    /// Nothing is known.
    pub fn new() -> Places {
        Places { tables: [const { OnceCell::new() }; TABLES], epoch: 1 }
    }

    /// Another state, or the same one elsewhere: nothing is known of it.
    pub fn forget(&mut self) {
        self.epoch += 1;
        if self.epoch == EPOCHS {
            for table in self.tables.iter_mut().filter_map(OnceCell::get_mut) {
                table.places.fill(Cell::new(Place::default()));
            }
            self.epoch = 1;
        }
    }

    /// Address and length under which the block was noted; address 0 = there is none. None = it was not looked for,
    /// or it was pushed out.
    #[inline]
    pub fn get(&self, database: Database, block: u64) -> Option<(usize, usize)> {
        let table = self.tables.iter().map_while(OnceCell::get).find(|table| table.database == database)?;
        let place = table.cell(block).get();
        let is_known = place.value & BLOCK_MASK == block && place.found % EPOCHS == self.epoch;
        is_known.then_some(((place.found >> EPOCH_BITS) as usize, (place.value >> BLOCK_BITS) as usize))
    }

    /// Note where it was found; address 0 = there is none. Only the first databases are remembered.
    #[inline]
    pub fn note(&self, database: Database, block: u64, address: usize, length: usize) {
        let (address, length) = (address as u64, length as u64);
        let fits = address << EPOCH_BITS >> EPOCH_BITS == address && length << BLOCK_BITS >> BLOCK_BITS == length;
        if !fits || block > BLOCK_MASK {
            return;
        }
        let of = |table: &&OnceCell<Table>| table.get_or_init(|| Table::new(database)).database == database;
        if let Some(table) = self.tables.iter().find(of).and_then(OnceCell::get) {
            let value = (length << BLOCK_BITS) | block;
            table.cell(block).set(Place { value, found: (address << EPOCH_BITS) | self.epoch });
        }
    }
}

impl Table {
    #[cold]
    fn new(database: Database) -> Table {
        Table { database, places: vec![Cell::new(Place::default()); PLACES].into_boxed_slice() }
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
        assert_eq!(places.get(BLOCKS, 0), None);
        assert_eq!(places.get(BLOCKS, 886_912), None);
        places.note(BLOCKS, 886_912, 0x7fff_1234_5678, 2016);
        places.note(BLOCKS, 7, 0, 0);
        assert_eq!(places.get(BLOCKS, 886_912), Some((0x7fff_1234_5678, 2016)));
        assert_eq!(places.get(BLOCKS, 7), Some((0, 0)));
        assert_eq!(places.get(BLOCKS, 886_912 + PLACES as u64), None);
        places.note(BLOCKS, 886_912 + PLACES as u64, 64, 1);
        assert_eq!(places.get(BLOCKS, 886_912), None);
        places.forget();
        assert_eq!((places.get(BLOCKS, 7), places.get(BLOCKS, 886_912 + PLACES as u64)), (None, None));
    }

    #[test]
    fn epochs_that_come_round_again_bring_no_old_place_back() {
        let mut places = Places::new();
        places.note(BLOCKS, 5, 64, 8);
        places.note(Database(4), 5, 64, 8);
        for _ in 0..EPOCHS + 3 {
            places.forget();
            assert_eq!((places.get(BLOCKS, 5), places.get(Database(4), 5)), (None, None));
        }
        places.note(BLOCKS, 5, 128, 8);
        assert_eq!(places.get(BLOCKS, 5), Some((128, 8)));
    }

    #[test]
    fn what_has_no_room_in_a_place_is_not_noted() {
        let places = Places::new();
        places.note(BLOCKS, 5, 1 << 48, 8);
        places.note(BLOCKS, 6, 64, 1 << 24);
        places.note(BLOCKS, (1 << BLOCK_BITS) + 7, 64, 8);
        let asked = [5, 6, 7, (1 << BLOCK_BITS) + 7, u64::MAX];
        assert_eq!(asked.map(|block| places.get(BLOCKS, block)), [None; 5]);
        places.note(BLOCKS, 5, (1 << 48) - 64, (1 << 24) - 1);
        assert_eq!(places.get(BLOCKS, 5), Some(((1 << 48) - 64, (1 << 24) - 1)));
        places.note(BLOCKS, BLOCK_MASK, 64, 8);
        assert_eq!((places.get(BLOCKS, BLOCK_MASK), places.get(BLOCKS, u64::MAX)), (Some((64, 8)), None));
    }

    #[test]
    fn two_databases_are_remembered_each_for_itself() {
        let places = Places::new();
        places.note(BLOCKS, 5, 4096, 64);
        assert_eq!(places.get(Database(4), 5), None);
        places.note(Database(4), 5, 8192, 65);
        places.note(Database(5), 5, 12288, 66);
        let found = [BLOCKS, Database(4), Database(5)].map(|database| places.get(database, 5));
        assert_eq!(found, [Some((4096, 64)), Some((8192, 65)), None]);
    }
}
