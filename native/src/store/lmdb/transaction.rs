//! Pinned states and cursors in them: what hands out slices of the map.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, SeqCst};
use std::sync::atomic::fence;

use lmdb_sys::{self as ffi, MDB_cursor, MDB_txn, MDB_val};

use super::calls::{
    CORRUPTED, MAP_RESIZED, NO_STAT, Stat, check, ended, mdb_cursor_get, mdb_cursor_open, mdb_get, mdb_stat, told,
    unasserted,
};
use super::places::Places;
use super::{Database, Handle, MAIN, Reading, StoreError};

/// A read transaction: one state after another, each from `renew` to `reset`. Belongs to one thread at a time.
pub struct Transaction {
    handle: Arc<Handle>,
    raw: NonNull<MDB_txn>,
    reading: Arc<Reading>,
    /// Whether LMDB's transaction holds a state.
    open: bool,
    /// Whether `reading` is raised: the map stays where it is.
    raised: bool,
    /// The map that the state was pinned in.
    map: u64,
    /// Bytes of the file that are in use: no value is longer.
    used: usize,
    id: usize,
    is_exact: bool,
    /// Of the state `id` in the map `map`, as long as `is_exact`.
    places: Places,
}

// SAFETY: with MDB_NOTLS a read transaction is tied to no thread; nothing of it is shared but the handle.
unsafe impl Send for Transaction {}

impl Drop for Transaction {
    fn drop(&mut self) {
        // SAFETY: ours alone; aborting touches the lock file and LMDB's own memory, not the map.
        unsafe { ffi::mdb_txn_abort(self.raw.as_ptr()) };
        self.lower();
        self.handle.forget(&self.reading);
    }
}

impl Transaction {
    /// Pin the newest commit. Takes a slot of the lock file until it is dropped.
    pub fn begin(handle: Arc<Handle>) -> Result<Transaction, StoreError> {
        let reading = handle.enlist();
        let begun = Self::begin_raised(&handle, &reading);
        match begun {
            Ok((raw, map)) => {
                let mut transaction = Transaction {
                    handle,
                    raw,
                    reading,
                    open: true,
                    raised: true,
                    map,
                    used: 0,
                    id: 0,
                    is_exact: false,
                    places: Places::new(),
                };
                transaction.is_exact = transaction.is_newest()?;
                if transaction.is_exact {
                    transaction.arrive()?;
                } else {
                    transaction.renew()?;
                }
                Ok(transaction)
            }
            Err(error) => {
                reading.0.store(false, SeqCst);
                handle.forget(&reading);
                Err(error)
            }
        }
    }

    fn begin_raised(handle: &Handle, reading: &Reading) -> Result<(NonNull<MDB_txn>, u64), StoreError> {
        let mut seen = handle.raise(reading)?;
        let mut raw = ptr::null_mut();
        let mut begin = || {
            // SAFETY: the flag is up, so the map stays; `raw` is where LMDB puts the handle.
            unsafe { ffi::mdb_txn_begin(handle.environment.as_ptr(), ptr::null_mut(), ffi::MDB_RDONLY, &raw mut raw) }
        };
        let mut code = begin();
        if code == MAP_RESIZED {
            reading.0.store(false, SeqCst);
            handle.grow(seen)?;
            seen = handle.raise(reading)?;
            code = begin();
        }
        check("mdb_txn_begin", code)?;
        Ok((NonNull::new(raw).ok_or_else(|| StoreError::ours("mdb_txn_begin: no handle"))?, seen))
    }

    /// Move to the newest commit.
    ///
    /// On error nothing is pinned, and nothing can be read until a later `renew` succeeds.
    #[inline]
    pub fn renew(&mut self) -> Result<(), StoreError> {
        let renewed = self.try_renew();
        if renewed.is_err() {
            self.reset();
        }
        renewed
    }

    #[inline]
    fn try_renew(&mut self) -> Result<(), StoreError> {
        if self.open {
            // SAFETY: ours alone, open, and nothing is borrowed from it any more.
            unsafe { ffi::mdb_txn_reset(self.raw.as_ptr()) };
            self.open = false;
        }
        // A flag that is up already needs only a look at the wish: there is no fence on the way of a busy worker.
        if !self.raised || self.handle.growing.load(SeqCst) {
            self.lower();
            let map = self.handle.raise(&self.reading)?;
            self.in_map(map);
            self.raised = true;
        }
        self.renew_raised()?;
        if !self.is_exact {
            // Once more: after a race this one is the newest commit; while a commit is being synced it is not yet.
            // SAFETY: as above.
            unsafe { ffi::mdb_txn_reset(self.raw.as_ptr()) };
            self.open = false;
            self.renew_raised()?;
        }
        // SAFETY: an open transaction of ours.
        if self.is_exact && unsafe { ffi::mdb_txn_id(self.raw.as_ptr()) } == self.id {
            return Ok(());
        }
        self.arrive()
    }

    #[inline]
    fn renew_raised(&mut self) -> Result<(), StoreError> {
        // SAFETY: ours alone, reset, and the map stays while our flag is up.
        let code = unsafe { ffi::mdb_txn_renew(self.raw.as_ptr()) };
        if code != 0 {
            self.renew_after(code)?;
        }
        self.open = true;
        self.is_exact = self.is_newest()?;
        Ok(())
    }

    /// Whether no later commit than ours can be seen, after LMDB has copied the roots of our state.
    ///
    /// LMDB reads the newest commit's number, then the page of two that this number says; a thread that sleeps
    /// between the two for two commits gets later roots under the older number. As long as no later commit is to be
    /// seen that page was not written again.
    #[inline]
    fn is_newest(&self) -> Result<bool, StoreError> {
        fence(Acquire);
        let newest = self.handle.info_while_held()?.last_transaction;
        // SAFETY: an open transaction of ours.
        Ok(unsafe { ffi::mdb_txn_id(self.raw.as_ptr()) } as u64 >= newest)
    }

    /// Whether `id` is certainly that of the state; otherwise it may be a later state, though a whole one.
    #[inline]
    pub fn is_exact(&self) -> bool {
        self.is_exact
    }

    #[cold]
    fn renew_after(&mut self, code: c_int) -> Result<(), StoreError> {
        self.lower();
        if code != MAP_RESIZED {
            return check("mdb_txn_renew", code);
        }
        self.handle.grow(self.map)?;
        let map = self.handle.raise(&self.reading)?;
        self.in_map(map);
        self.raised = true;
        // SAFETY: as in `renew`; after its failure LMDB has reset the transaction.
        let code = unsafe { ffi::mdb_txn_renew(self.raw.as_ptr()) };
        if code != 0 {
            self.lower();
        }
        check("mdb_txn_renew", code)
    }

    /// The map that states are pinned in from now on.
    fn in_map(&mut self, map: u64) {
        if map != self.map {
            self.map = map;
            self.places.forget();
        }
    }

    /// Note what is true of a state that was not seen before.
    #[cold]
    fn arrive(&mut self) -> Result<(), StoreError> {
        self.places.forget();
        let pages = self.handle.info_while_held()?.last_page.saturating_add(1);
        let page_size = self.stat_of(MAIN)?.page_size;
        self.used = usize::try_from(pages.saturating_mul(page_size)).unwrap_or(usize::MAX);
        // SAFETY: an open transaction of ours.
        self.id = unsafe { ffi::mdb_txn_id(self.raw.as_ptr()) };
        Ok(())
    }

    /// Let go of the state, so that its pages can be reused and the map can be replaced; `renew` pins again.
    pub fn reset(&mut self) {
        if self.open {
            // SAFETY: ours alone and open; touches the lock file only.
            unsafe { ffi::mdb_txn_reset(self.raw.as_ptr()) };
            self.open = false;
        }
        self.lower();
    }

    /// Keep the state but let the map be replaced: nothing can be read until `resume`.
    pub fn rest(&mut self) {
        self.lower();
    }

    /// Read the same state again after `rest`. When the map was replaced meanwhile, the state is let go of: an error.
    pub fn resume(&mut self) -> Result<(), StoreError> {
        if !self.open {
            return Err(ended());
        }
        if !self.raised {
            match self.handle.raise(&self.reading) {
                Ok(map) if map == self.map => self.raised = true,
                Ok(_) => {
                    self.reading.0.store(false, SeqCst);
                    self.reset();
                    return Err(Handle::map_grew());
                }
                Err(error) => {
                    self.reset();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn lower(&mut self) {
        if self.raised {
            self.raised = false;
            self.reading.0.store(false, SeqCst);
        }
    }

    /// Of the commit that is pinned; only grows.
    pub fn id(&self) -> usize {
        self.id
    }

    /// Whether reading must fail: it was let go of, or the map may have moved.
    #[inline]
    fn is_readable(&self) -> Result<(), StoreError> {
        if self.open && self.raised { Ok(()) } else { Err(ended()) }
    }

    /// The value under a key, in the map.
    #[inline]
    pub fn get(&self, database: Database, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
        self.is_readable()?;
        let (mut key, mut value) = (lend(key), NOTHING);
        // SAFETY: an open transaction, whose map stays while the flag is up; LMDB does not write through the key.
        let code = unasserted(|| unsafe { mdb_get(self.raw.as_ptr(), database.0, &raw mut key, &raw mut value) })?;
        match code {
            // SAFETY: LMDB's answer to a successful get.
            0 => Ok(Some(unsafe { self.borrow(&value) }?)),
            ffi::MDB_NOTFOUND => Ok(None),
            _ => Err(told("mdb_get", code)),
        }
    }

    /// The value of a block, in the map.
    ///
    /// In a state that was asked for the block before, this costs one look at `places`, if all are asked in one
    /// database, or in two.
    #[inline]
    pub fn get_block(&self, database: Database, block: u64) -> Result<Option<&[u8]>, StoreError> {
        if self.open && self.raised && self.is_exact {
            match self.places.get(database, block) {
                Some((0, _)) => return Ok(None),
                Some((address, length)) => {
                    // SAFETY: LMDB answered a get of this block in this database, in this very state, with that
                    // address and length, which `borrow` took: `places` tells by all of them, is forgotten when
                    // another state or map is pinned, and is not asked when the state is not certain.
                    // A commit's pages do not change while it is pinned, nor, since it was the newest one at each
                    // pin, in between. The borrow ends as that of `borrow` does.
                    return Ok(Some(unsafe { std::slice::from_raw_parts(address as *const u8, length) }));
                }
                None => {}
            }
        }
        let found = self.get(database, &block.to_be_bytes())?;
        if self.is_exact {
            match found {
                None => self.places.note(database, block, 0, 0),
                // No bytes have no place in the map.
                Some(value) if !value.is_empty() => {
                    self.places.note(database, block, value.as_ptr() as usize, value.len());
                }
                Some(_) => {}
            }
        }
        Ok(found)
    }

    /// Figures of one database.
    pub fn stat(&self, database: Database) -> Result<Stat, StoreError> {
        self.is_readable()?;
        self.stat_of(database)
    }

    fn stat_of(&self, database: Database) -> Result<Stat, StoreError> {
        let mut stat = NO_STAT;
        // SAFETY: an open transaction whose map stays; room for the figures.
        check("mdb_stat", unasserted(|| unsafe { mdb_stat(self.raw.as_ptr(), database.0, &raw mut stat) })?)?;
        Ok(stat.into())
    }

    /// A cursor before the first key.
    pub fn cursor(&self, database: Database) -> Result<Cursor<'_>, StoreError> {
        self.is_readable()?;
        let mut raw = ptr::null_mut();
        // SAFETY: an open transaction; room for the handle.
        let code = unasserted(|| unsafe { mdb_cursor_open(self.raw.as_ptr(), database.0, &raw mut raw) })?;
        check("mdb_cursor_open", code)?;
        let raw = NonNull::new(raw).ok_or_else(|| StoreError::ours("mdb_cursor_open: no handle"))?;
        Ok(Cursor { raw, transaction: self, failed: false })
    }

    /// The bytes that LMDB answered with.
    ///
    /// SAFETY: `value` is what a successful call on this transaction has filled in: an address in the map.
    #[inline]
    unsafe fn borrow(&self, value: &MDB_val) -> Result<&[u8], StoreError> {
        if value.mv_size == 0 {
            return Ok(&[]);
        }
        if value.mv_size > self.used || value.mv_data.is_null() {
            return Err(told("mdb_get", CORRUPTED));
        }
        // SAFETY: the map is readable, and nothing in it changes that an open transaction can see. The borrow ends
        // before the transaction is renewed, reset or rests, which need it mutably; until then the map stays.
        Ok(unsafe { std::slice::from_raw_parts(value.mv_data.cast::<u8>(), value.mv_size) })
    }
}

/// A place in a database's order; borrows its transaction.
pub struct Cursor<'t> {
    raw: NonNull<MDB_cursor>,
    transaction: &'t Transaction,
    /// An assertion may have left LMDB's cursor half moved: it is not used again.
    failed: bool,
}

/// Key and value, in the map.
pub type Pair<'t> = (&'t [u8], &'t [u8]);

/// Where a cursor goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// To the first key.
    First,
    /// To the last key.
    Last,
    /// To the key after this one.
    Next,
    /// To the key before this one.
    Previous,
}

impl Drop for Cursor<'_> {
    fn drop(&mut self) {
        // SAFETY: ours alone; its transaction outlives it.
        unsafe { ffi::mdb_cursor_close(self.raw.as_ptr()) }
    }
}

impl<'t> Cursor<'t> {
    /// Go one step; None at the end.
    pub fn step(&mut self, step: Step) -> Result<Option<Pair<'t>>, StoreError> {
        let step = match step {
            Step::First => ffi::MDB_FIRST,
            Step::Last => ffi::MDB_LAST,
            Step::Next => ffi::MDB_NEXT,
            Step::Previous => ffi::MDB_PREV,
        };
        self.go(step, NOTHING)
    }

    /// Go to the first key that is not below `key`; None if there is none.
    pub fn seek(&mut self, key: &[u8]) -> Result<Option<Pair<'t>>, StoreError> {
        if key.is_empty() { self.go(ffi::MDB_FIRST, NOTHING) } else { self.go(ffi::MDB_SET_RANGE, lend(key)) }
    }

    fn go(&mut self, step: c_uint, mut key: MDB_val) -> Result<Option<Pair<'t>>, StoreError> {
        if self.failed {
            return Err(ended());
        }
        let mut value = NOTHING;
        self.failed = true;
        // SAFETY: an open cursor of an open transaction whose map stays: neither can end while this one borrows it.
        let code = unasserted(|| unsafe { mdb_cursor_get(self.raw.as_ptr(), &raw mut key, &raw mut value, step) })?;
        match code {
            0 => self.failed = false,
            ffi::MDB_NOTFOUND => {
                self.failed = false;
                return Ok(None);
            }
            _ => return Err(told("mdb_cursor_get", code)),
        }
        // SAFETY: LMDB's answer to a successful step.
        unsafe { Ok(Some((self.transaction.borrow(&key)?, self.transaction.borrow(&value)?))) }
    }
}

/// Ask for the cache lines of `bytes`, which will be read soon. Costs an instruction a line.
#[inline]
pub fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint; it reads nothing, and the address is that of a byte we may read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

const NOTHING: MDB_val = MDB_val { mv_size: 0, mv_data: ptr::null_mut() };

#[inline]
fn lend(key: &[u8]) -> MDB_val {
    MDB_val { mv_size: key.len(), mv_data: key.as_ptr().cast_mut().cast::<c_void>() }
}
