//! Pinned states: what a worker reads from, one after another, and the blocks in them.

use std::sync::Arc;

use super::layout::{self, BLOCK_BYTES, Damaged, ENTRIES_PER_PART, NUMBERS_PER_BLOCK, ROUTE_MASK, State, Tables};
use super::lmdb::{self, Step, Transaction};
use super::restricted::Told;
use super::sums::Sums;
use super::{
    BLOCKS, DATABASES, Environment, META, RANGES, RESTRICTED_BLOCKS, RESTRICTIONS, ROUTES, StoreError, restricted,
    restrictions,
};
use crate::limits::{E164_DIGITS_MAX, TN_DIGITS_MIN};
use crate::model::InForce;

/// Blocks or other records between two looks at whether the map is to be replaced.
const WARMED_AT_ONCE: usize = 4096;
/// What the kernel maps at once.
const PAGE_BYTES: usize = 4096;

/// One pinned state of the store after another. Belongs to one thread.
///
/// What it hands out ends with the next pin; the compiler sees to it:
///
/// ```compile_fail,E0502
/// fn late(reader: &mut lookupd_native::store::Reader) {
///     let block = reader.block(886_912_345);
///     reader.pin();
///     drop(block);
/// }
/// ```
///
/// and it can be given to another thread, but not be shared with one:
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<lookupd_native::store::Reader>();
/// ```
pub struct Reader {
    environment: Arc<Environment>,
    transaction: Transaction,
    /// The commit that `state` and `tables` are of; None after an error, and when it is not certain.
    version: Option<usize>,
    state: State,
    tables: Arc<Tables>,
    /// Of the blocks of this commit.
    sums: Sums,
}

impl Reader {
    /// A reader with the newest commit pinned. Takes a slot of the lock file until it is dropped.
    pub fn new(environment: Arc<Environment>) -> Result<Reader, StoreError> {
        let begun = Transaction::begin(Arc::clone(&environment.handle));
        let transaction = begun.map_err(|error| error.about(environment.path(), "", ""))?;
        let mut reader = Reader {
            environment,
            transaction,
            version: None,
            state: State::default(),
            tables: Arc::default(),
            sums: Sums::new(),
        };
        reader.load()?;
        Ok(reader)
    }

    /// Move to the newest commit; call once per batch. Some tens of nanoseconds when nothing was committed.
    ///
    /// On error nothing can be read until a later pin succeeds.
    #[inline]
    pub fn pin(&mut self) -> Result<(), StoreError> {
        if let Err(error) = self.transaction.renew() {
            return Err(error.about(self.environment.path(), "", ""));
        }
        if self.version == self.version_pinned() && self.version.is_some() { Ok(()) } else { self.load() }
    }

    /// Let go of the state, for who goes to sleep: old pages can be reused, the map replaced. `pin` pins again.
    pub fn release(&mut self) {
        self.transaction.reset();
    }

    /// What the pinned commit says of itself; of the last good one after an error.
    #[inline]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Routes and ranges of the pinned commit; of the last good one after an error.
    #[inline]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// A block by its number (`tn / 1000`), not yet checked; None: no number of it is ported or restricted.
    #[inline]
    pub fn block(&self, block: u64) -> Result<Option<Block<'_>>, StoreError> {
        match self.transaction.get_block(self.environment.databases[BLOCKS], block) {
            Ok(value) => Ok(value.map(|value| Block { number: block, value, sums: &self.sums })),
            Err(error) => Err(error.about(self.environment.path(), "", ": restore the store")),
        }
    }

    /// The restriction in force of a number whose entry has `RESTRICTED`: see `restricted`.
    pub fn restriction(&self, tn: u64, now: u64) -> Result<Option<InForce>, StoreError> {
        let (block, offset) = (tn / NUMBERS_PER_BLOCK as u64, (tn % NUMBERS_PER_BLOCK as u64) as usize);
        let value = self.transaction.get_block(self.environment.databases[RESTRICTED_BLOCKS], block);
        let found = value.and_then(|value| restricted::find(block, value.unwrap_or_default(), offset, now));
        match found {
            Ok(Told::Holds(found)) => Ok(found),
            Ok(Told::AskRows) => self.restriction_of_rows(tn, now),
            Err(error) => Err(error.about(self.environment.path(), "", ": restore the store")),
        }
    }

    #[cold]
    fn restriction_of_rows(&self, tn: u64, now: u64) -> Result<Option<InForce>, StoreError> {
        let unreadable = |error: StoreError| error.about(self.environment.path(), "", ": restore the store");
        let mut cursor = self.transaction.cursor(self.environment.databases[RESTRICTIONS]).map_err(unreadable)?;
        restrictions::of_number(&mut cursor, tn, now).map_err(unreadable)
    }

    /// Whether a ported number is longer than these ASCII digits and begins with them. digits: 1 to 15, no zero first.
    ///
    /// A block that exists counts where the digits end above its thousand.
    pub fn has_ported_under(&self, digits: &[u8]) -> Result<bool, Unreadable> {
        let start = digits.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit.wrapping_sub(b'0')));
        for length in TN_DIGITS_MIN.max(digits.len() + 1)..=E164_DIGITS_MAX {
            let span = 10_u64.pow((length - digits.len()) as u32);
            let first = start * span;
            let Some(block) = self.block_from(first / NUMBERS_PER_BLOCK as u64)? else {
                return Ok(false); // longer numbers would lie behind it
            };
            if block * NUMBERS_PER_BLOCK as u64 >= first + span {
                continue;
            }
            if span >= NUMBERS_PER_BLOCK as u64 || self.holds_ported(block, first, first + span)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether one of the numbers from first to before end, all of one block, is ported.
    fn holds_ported(&self, block: u64, first: u64, end: u64) -> Result<bool, Unreadable> {
        let Some(block) = self.block(block)? else { return Ok(false) };
        for tn in first..end {
            if block.entry((tn % NUMBERS_PER_BLOCK as u64) as usize)? & ROUTE_MASK != 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The first block in the store that is not below this one.
    fn block_from(&self, block: u64) -> Result<Option<u64>, StoreError> {
        let unreadable = |error: StoreError| error.about(self.environment.path(), "", ": restore the store");
        let mut cursor = self.transaction.cursor(self.environment.databases[BLOCKS]).map_err(unreadable)?;
        let found = cursor.seek(&block.to_be_bytes()).map_err(unreadable)?;
        found.map(|(key, _)| layout::block_number(key)).transpose()
    }

    /// None when LMDB cannot say it for certain: the state is then read again, which tells.
    #[inline]
    fn version_pinned(&self) -> Option<usize> {
        self.transaction.is_exact().then(|| self.transaction.id())
    }

    #[cold]
    fn load(&mut self) -> Result<(), StoreError> {
        self.sums.forget();
        let loaded = self.load_state();
        if let Err(error) = loaded {
            self.version = None;
            self.transaction.reset();
            return Err(error.about(
                self.environment.path(),
                "the store's state or tables are damaged: ",
                "; restore it",
            ));
        }
        self.version = self.version_pinned();
        Ok(())
    }

    fn load_state(&mut self) -> Result<(), StoreError> {
        let stored = self.transaction.get(self.environment.databases[META], layout::META_STATE)?;
        let state = stored.map_or_else(|| Ok(State::default()), State::unpack)?;
        if self.tables.number() != Some(state.tables) {
            self.tables = self.shared_tables(state.tables)?;
        }
        self.state = state;
        Ok(())
    }

    /// The tables of a number: another reader's if it has loaded them, otherwise loaded and shared.
    fn shared_tables(&self, number: u64) -> Result<Arc<Tables>, StoreError> {
        let mut shared = self.environment.tables();
        if shared.number() == Some(number) {
            return Ok(Arc::clone(&shared));
        }
        let loaded = Arc::new(self.load_tables(number)?);
        if shared.number().is_none_or(|newest| newest < number) {
            *shared = Arc::clone(&loaded);
        }
        Ok(loaded)
    }

    fn load_tables(&self, number: u64) -> Result<Tables, StoreError> {
        let mut tables = Tables::new(number);
        let mut cursor = self.transaction.cursor(self.environment.databases[ROUTES])?;
        while let Some((key, value)) = cursor.step(Step::Next)? {
            tables.add_route(key, value)?;
        }
        let mut cursor = self.transaction.cursor(self.environment.databases[RANGES])?;
        while let Some((key, value)) = cursor.step(Step::Next)? {
            tables.add_range(key, value)?;
        }
        Ok(tables)
    }
}

/// A thousand numbers' entries, in the map until the next pin.
#[derive(Clone, Copy)]
pub struct Block<'r> {
    number: u64,
    value: &'r [u8],
    sums: &'r Sums,
}

impl Block<'_> {
    /// Ask for the lines of the cache that `entry` will read, so that they arrive while other blocks are looked for.
    #[inline]
    pub fn prefetch(&self, offset: usize) {
        let part = offset / ENTRIES_PER_PART;
        let is_known = self.sums.known(self.number, part).is_some();
        let whole = self.value.get(..BLOCK_BYTES).unwrap_or_default();
        lmdb::prefetch(if is_known { layout::part_bytes(self.value, part) } else { whole });
    }

    /// The entry of the number `offset` in it; fails when its bytes are not those that were written under its number.
    ///
    /// The whole block is checked when a part of it is asked for the first time in a state, then that part alone.
    #[inline]
    pub fn entry(&self, offset: usize) -> Result<u16, Damaged> {
        let part = offset / ENTRIES_PER_PART;
        let is_sound = self.sums.holds(self.number, part, self.value).unwrap_or_else(|| {
            let is_sound = layout::block_is_sound(self.number, self.value);
            if is_sound {
                self.sums.note(self.number, part, self.value);
            }
            is_sound
        });
        if !is_sound || offset >= NUMBERS_PER_BLOCK {
            return Err(Damaged(self.number));
        }
        layout::read_entry(self.value, offset).ok_or(Damaged(self.number))
    }
}

/// Why the store does not say something.
#[derive(Debug)]
pub enum Unreadable {
    /// A block's bytes.
    Block(Damaged),
    /// A page.
    Store(StoreError),
}

impl From<Damaged> for Unreadable {
    fn from(damaged: Damaged) -> Unreadable {
        Unreadable::Block(damaged)
    }
}

impl From<StoreError> for Unreadable {
    fn from(error: StoreError) -> Unreadable {
        Unreadable::Store(error)
    }
}

/// What a warm-up has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warmed {
    /// The numbers of damaged blocks.
    pub damaged: Vec<u64>,
    /// Blocks that were read.
    pub blocks: u64,
}

pub(super) fn warm(environment: &Arc<Environment>) -> Result<Warmed, StoreError> {
    let unreadable = |error: StoreError| error.about(environment.path(), "", ": restore the store");
    let mut transaction = Transaction::begin(Arc::clone(&environment.handle)).map_err(unreadable)?;
    let mut warmed = Warmed::default();
    for index in 0..DATABASES.len() {
        let mut from = Some(Vec::new());
        while let Some(first) = from {
            from = warm_some(environment, &transaction, index, &first, &mut warmed).map_err(unreadable)?;
            if environment.handle.is_growing() {
                transaction.renew().map_err(unreadable)?;
            }
        }
    }
    Ok(warmed)
}

/// Read some records from a key on; returns where to go on.
fn warm_some(
    environment: &Environment,
    transaction: &Transaction,
    index: usize,
    first: &[u8],
    warmed: &mut Warmed,
) -> Result<Option<Vec<u8>>, StoreError> {
    let mut cursor = transaction.cursor(environment.databases[index])?;
    let mut found = cursor.seek(first)?;
    for _ in 0..WARMED_AT_ONCE {
        let Some((key, value)) = found else { return Ok(None) };
        if index == BLOCKS {
            warmed.blocks += 1;
            let number = layout::block_number(key)?;
            if !layout::block_is_sound(number, value) {
                warmed.damaged.push(number);
            }
        } else {
            std::hint::black_box(value.iter().step_by(PAGE_BYTES).fold(0u8, |sum, byte| sum ^ byte));
        }
        found = cursor.step(Step::Next)?;
    }
    Ok(found.map(|(key, _)| key.to_vec()))
}
