//! LMDB made safe: an environment open for reading, transactions that are renewed, cursors. Knows no layout of ours.
//!
//! What is unsafe about a reader is that its slices point into the map. They are borrowed from their transaction,
//! so the compiler ends them before it is renewed; and the map itself moves only while no transaction reads:
//! each raises a flag of its own while it does, and who finds that the writer's map has grown maps the file again
//! only when all flags are down. Until then pins fail, and answers are `unavailable` for that moment.
//!
//! LMDB keeps no checksums of its tree. What it notices is an error here, its assertions too; a page whose header
//! was made to point outside the file can still end the process, as it does with every user of LMDB.
#![allow(unsafe_code)]

use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use lmdb_sys::{self as ffi, MDB_cursor, MDB_dbi, MDB_env, MDB_envinfo, MDB_stat, MDB_txn, MDB_val};

use super::StoreError;
use crate::limits::{STORE_DATABASES_MAX, STORE_READERS_MAX};

// Declared anew for the calls that look at pages, because an assertion of LMDB's leaves them by unwinding.
unsafe extern "C-unwind" {
    fn mdb_env_set_assert(env: *mut MDB_env, told: Option<AssertTold>) -> c_int;
    fn mdb_get(txn: *mut MDB_txn, dbi: MDB_dbi, key: *mut MDB_val, data: *mut MDB_val) -> c_int;
    fn mdb_stat(txn: *mut MDB_txn, dbi: MDB_dbi, stat: *mut MDB_stat) -> c_int;
    fn mdb_dbi_open(txn: *mut MDB_txn, name: *const c_char, flags: c_uint, dbi: *mut MDB_dbi) -> c_int;
    fn mdb_cursor_open(txn: *mut MDB_txn, dbi: MDB_dbi, cursor: *mut *mut MDB_cursor) -> c_int;
    fn mdb_cursor_get(cursor: *mut MDB_cursor, key: *mut MDB_val, data: *mut MDB_val, step: c_uint) -> c_int;
}

type AssertTold = unsafe extern "C-unwind" fn(env: *mut MDB_env, message: *const c_char);

/// The environment was not read because its map is about to be replaced by a larger one.
pub const MAP_RESIZED: i32 = ffi::MDB_MAP_RESIZED;
/// The transaction or cursor has ended.
pub const BAD_TRANSACTION: i32 = ffi::MDB_BAD_TXN;
/// LMDB found a page that is not what it should be.
pub const CORRUPTED: i32 = ffi::MDB_CORRUPTED;
/// LMDB found a reference to a page that the file does not have.
pub const PAGE_NOT_FOUND: i32 = ffi::MDB_PAGE_NOTFOUND;
/// A key of no bytes, or of too many.
pub const BAD_VALUE_SIZE: i32 = ffi::MDB_BAD_VALSIZE;
/// Every reader's slot is taken.
pub const READERS_FULL: i32 = ffi::MDB_READERS_FULL;
const LOST: &str = "the environment is closed, or lost its map while it grew: open the store again";

/// A named database of one environment; in another environment it is an error, never more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Database(MDB_dbi);

/// LMDB's figures of one database, or of the environment's main one.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// Bytes.
    pub page_size: u64,
    /// Levels of the tree.
    pub depth: u64,
    /// Pages of each kind.
    pub branch_pages: u64,
    /// Pages of each kind.
    pub leaf_pages: u64,
    /// Pages of values that have their own.
    pub overflow_pages: u64,
    /// Keys.
    pub entries: u64,
}

/// LMDB's figures of the environment.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// Bytes of address space.
    pub map_size: u64,
    /// The highest page in use.
    pub last_page: u64,
    /// Of the newest commit.
    pub last_transaction: u64,
    /// Slots of the lock file.
    pub readers_max: u64,
    /// Slots that were ever taken since the lock file was made.
    pub readers: u64,
}

/// Raised while a transaction may look at the map. A cache line of its own: another reader's is another core's.
#[repr(align(64))]
#[derive(Default)]
struct Reading(AtomicBool);

/// An open environment; closed when the last transaction and the last owner are gone.
pub struct Handle {
    environment: NonNull<MDB_env>,
    path: PathBuf,
    readings: Mutex<Vec<Arc<Reading>>>,
    growing: AtomicBool,
    /// Nothing can be read any more; `growing` is set then too.
    lost: AtomicBool,
    closed: AtomicBool,
    maps: AtomicU64,
}

// SAFETY: LMDB allows an environment in all threads; the exceptions are closing it (`close`: no transaction is left)
// and changing its map (`grow`: every reader's flag is down), each under the lock of `readings`.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl Handle {
    /// Open the environment in a folder for reading. `map_size`: bytes of address space.
    pub fn open(path: &Path, map_size: usize) -> Result<Arc<Handle>, StoreError> {
        refuse_other_line()?;
        let folder =
            CString::new(path.as_os_str().as_bytes()).map_err(|_| StoreError::ours("a path with a zero byte"))?;
        let mut environment = ptr::null_mut();
        // SAFETY: `environment` is where LMDB puts the handle.
        check("mdb_env_create", unsafe { ffi::mdb_env_create(&raw mut environment) })?;
        let environment = NonNull::new(environment).ok_or_else(|| StoreError::ours("mdb_env_create: no handle"))?;
        let handle = Handle {
            environment,
            path: path.to_owned(),
            readings: Mutex::default(),
            growing: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            maps: AtomicU64::new(0),
        };
        let raw = environment.as_ptr();
        // SAFETY: a handle just made, known to nobody else; `handle` closes it on every way out, which LMDB asks
        // for after a failed open too. `folder` ends with a zero byte and outlives the call.
        unsafe {
            check("mdb_env_set_mapsize", ffi::mdb_env_set_mapsize(raw, map_size))?;
            check("mdb_env_set_maxdbs", ffi::mdb_env_set_maxdbs(raw, STORE_DATABASES_MAX))?;
            check("mdb_env_set_maxreaders", ffi::mdb_env_set_maxreaders(raw, STORE_READERS_MAX))?;
            check("mdb_env_set_assert", mdb_env_set_assert(raw, Some(leave_by_unwinding)))?;
            let flags = ffi::MDB_RDONLY | ffi::MDB_NOTLS;
            check("mdb_env_open", ffi::mdb_env_open(raw, folder.as_ptr(), flags, 0o755))?;
        }
        Ok(Arc::new(handle))
    }

    /// Open databases by name, while there is no transaction: LMDB's table of them has no lock.
    pub fn open_databases<const N: usize>(&self, names: [&CStr; N]) -> Result<[Database; N], StoreError> {
        let alone = self.hold_map()?;
        if !alone.is_empty() {
            return Err(StoreError::ours("databases are opened before the first transaction"));
        }
        let mut raw = ptr::null_mut();
        let begin = || {
            // SAFETY: no other transaction exists nor can begin while `alone` is held, so the map stays.
            unsafe { ffi::mdb_txn_begin(self.environment.as_ptr(), ptr::null_mut(), ffi::MDB_RDONLY, &raw mut raw) }
        };
        check("mdb_txn_begin", { begin }())?;
        let mut databases = [Database(0); N];
        let opened = databases.iter_mut().zip(names).try_for_each(|(database, name)| {
            // SAFETY: the transaction just begun, a name that ends with a zero byte, room for the handle.
            let code = unasserted(|| unsafe { mdb_dbi_open(raw, name.as_ptr(), 0, &raw mut database.0) })?;
            check("mdb_dbi_open", code)
        });
        // SAFETY: the transaction just begun, which ends here; committing keeps the handles.
        match unsafe { ffi::mdb_txn_commit(raw) } {
            0 => opened.map(|()| databases),
            code => Err(told("mdb_txn_commit", code)),
        }
    }

    /// Close it now, if there is no transaction; whoever still has it gets errors. Otherwise the last owner closes it.
    pub fn close(&self) {
        let readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        if !readings.is_empty() || self.closed.load(SeqCst) {
            return;
        }
        self.growing.store(true, SeqCst);
        self.lost.store(true, SeqCst);
        self.closed.store(true, SeqCst);
        // SAFETY: once: `closed` is set under the lock. There is no transaction, and none begins: each is enlisted
        // under this lock, then meets `growing` and `lost`. All other calls ask `hold_map`, which meets `lost`.
        unsafe { ffi::mdb_env_close(self.environment.as_ptr()) }
    }

    /// Whether `close` has closed it.
    pub fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Give back the slots of readers that died; returns how many.
    pub fn reader_check(&self) -> Result<u32, StoreError> {
        let _not_closed = self.hold_map()?;
        let mut dead = 0;
        // SAFETY: looks at the lock file only, whose map stays until it is closed.
        check("mdb_reader_check", unsafe { ffi::mdb_reader_check(self.environment.as_ptr(), &raw mut dead) })?;
        Ok(u32::try_from(dead).unwrap_or(0))
    }

    /// Figures of the whole environment.
    pub fn info(&self) -> Result<Info, StoreError> {
        let _map_stays = self.hold_map()?;
        self.info_while_held()
    }

    /// Figures of the environment's main database.
    pub fn stat(&self) -> Result<Stat, StoreError> {
        let _map_stays = self.hold_map()?;
        let mut stat = NO_STAT;
        // SAFETY: reads a meta page of a map that cannot move while its lock is held.
        check("mdb_env_stat", unsafe { ffi::mdb_env_stat(self.environment.as_ptr(), &raw mut stat) })?;
        Ok(stat.into())
    }

    /// To be called with the map's lock held, or a flag raised.
    fn info_while_held(&self) -> Result<Info, StoreError> {
        let mut info = MDB_envinfo {
            me_mapaddr: ptr::null_mut(),
            me_mapsize: 0,
            me_last_pgno: 0,
            me_last_txnid: 0,
            me_maxreaders: 0,
            me_numreaders: 0,
        };
        // SAFETY: reads a meta page of a map that, by the caller's word, does not move.
        check("mdb_env_info", unsafe { ffi::mdb_env_info(self.environment.as_ptr(), &raw mut info) })?;
        Ok(Info {
            map_size: info.me_mapsize as u64,
            last_page: info.me_last_pgno as u64,
            last_transaction: info.me_last_txnid as u64,
            readers_max: info.me_maxreaders.into(),
            readers: info.me_numreaders.into(),
        })
    }

    fn hold_map(&self) -> Result<MutexGuard<'_, Vec<Arc<Reading>>>, StoreError> {
        let held = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        if self.lost.load(SeqCst) { Err(StoreError::ours(LOST)) } else { Ok(held) }
    }

    fn map_grew() -> StoreError {
        let message = "MDB_MAP_RESIZED: the writer's map has grown and is not taken over yet";
        StoreError { message: message.to_owned(), code: MAP_RESIZED }
    }

    /// Whether transactions are asked to let go, so that the larger map can be taken.
    pub fn is_growing(&self) -> bool {
        self.growing.load(SeqCst)
    }

    /// Take the writer's larger map, if that is wished for and nobody reads.
    pub fn settle(&self) -> Result<(), StoreError> {
        if self.is_growing() { self.grow(self.maps.load(SeqCst)) } else { Ok(()) }
    }

    /// Take the writer's larger map if nobody reads; who calls has lowered its own flag.
    ///
    /// `seen`: the map that was too small. Fails when others still read: at the next pin it is tried again.
    fn grow(&self, seen: u64) -> Result<(), StoreError> {
        let readings = match self.readings.try_lock() {
            Ok(readings) => readings,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(Self::map_grew()),
        };
        if self.lost.load(SeqCst) {
            return Err(StoreError::ours(LOST));
        }
        if self.maps.load(SeqCst) != seen {
            return Ok(()); // somebody else has done it
        }
        // First the wish, then the look at the flags; a reader raises its flag, then looks at the wish. In the one
        // order of all such accesses, at least one of the two sees the other.
        self.growing.store(true, SeqCst);
        if readings.iter().any(|reading| reading.0.load(SeqCst)) {
            return Err(Self::map_grew());
        }
        // SAFETY: no transaction looks at the map and none can begin to: `growing` is set until it is replaced.
        let code = unsafe { ffi::mdb_env_set_mapsize(self.environment.as_ptr(), 0) };
        if code != 0 {
            self.lost.store(true, SeqCst); // the old map is gone: `growing` stays set, nobody reads again
            return check("mdb_env_set_mapsize", code);
        }
        self.maps.fetch_add(1, SeqCst);
        self.growing.store(false, SeqCst);
        Ok(())
    }
}

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

impl Handle {
    fn enlist(&self) -> Arc<Reading> {
        let reading = Arc::new(Reading::default());
        self.readings.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&reading));
        reading
    }

    fn forget(&self, reading: &Arc<Reading>) {
        let mut readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        readings.retain(|other| !Arc::ptr_eq(other, reading));
    }

    /// Raise a reader's flag, unless the map is being replaced; then try to replace it first. Returns the map.
    #[inline]
    fn raise(&self, reading: &Reading) -> Result<u64, StoreError> {
        reading.0.store(true, SeqCst);
        if !self.growing.load(SeqCst) {
            return Ok(self.maps.load(SeqCst));
        }
        reading.0.store(false, SeqCst);
        self.grow(self.maps.load(SeqCst))?;
        reading.0.store(true, SeqCst);
        if self.growing.load(SeqCst) {
            reading.0.store(false, SeqCst);
            return Err(Self::map_grew());
        }
        Ok(self.maps.load(SeqCst))
    }
}

impl Transaction {
    /// Pin the newest commit. Takes a slot of the lock file until it is dropped.
    pub fn begin(handle: Arc<Handle>) -> Result<Transaction, StoreError> {
        let reading = handle.enlist();
        let begun = Self::begin_raised(&handle, &reading);
        match begun {
            Ok((raw, map)) => {
                let mut transaction =
                    Transaction { handle, raw, reading, open: true, raised: true, map, used: 0, id: 0 };
                transaction.arrive()?;
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
        if self.open {
            // SAFETY: ours alone, open, and nothing is borrowed from it any more.
            unsafe { ffi::mdb_txn_reset(self.raw.as_ptr()) };
            self.open = false;
        }
        // A flag that is up already needs only a look at the wish: there is no fence on the way of a busy worker.
        if !self.raised || self.handle.growing.load(SeqCst) {
            self.lower();
            self.map = self.handle.raise(&self.reading)?;
            self.raised = true;
        }
        // SAFETY: ours alone, reset, and the map stays while our flag is up.
        let code = unsafe { ffi::mdb_txn_renew(self.raw.as_ptr()) };
        if code != 0 {
            self.renew_after(code)?;
        }
        self.open = true;
        // SAFETY: an open transaction of ours.
        if unsafe { ffi::mdb_txn_id(self.raw.as_ptr()) } == self.id {
            return Ok(());
        }
        self.arrive().inspect_err(|_| self.reset())
    }

    #[cold]
    fn renew_after(&mut self, code: c_int) -> Result<(), StoreError> {
        self.lower();
        if code != MAP_RESIZED {
            return check("mdb_txn_renew", code);
        }
        self.handle.grow(self.map)?;
        self.map = self.handle.raise(&self.reading)?;
        self.raised = true;
        // SAFETY: as in `renew`; after its failure LMDB has reset the transaction.
        let code = unsafe { ffi::mdb_txn_renew(self.raw.as_ptr()) };
        if code != 0 {
            self.lower();
        }
        check("mdb_txn_renew", code)
    }

    /// Note what is true of a state that was not seen before.
    #[cold]
    fn arrive(&mut self) -> Result<(), StoreError> {
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
/// The environment's own, which holds the names of the others.
pub const MAIN: Database = Database(1);
const NO_STAT: MDB_stat =
    MDB_stat { ms_psize: 0, ms_depth: 0, ms_branch_pages: 0, ms_leaf_pages: 0, ms_overflow_pages: 0, ms_entries: 0 };

impl From<MDB_stat> for Stat {
    fn from(stat: MDB_stat) -> Stat {
        Stat {
            page_size: stat.ms_psize.into(),
            depth: stat.ms_depth.into(),
            branch_pages: stat.ms_branch_pages as u64,
            leaf_pages: stat.ms_leaf_pages as u64,
            overflow_pages: stat.ms_overflow_pages as u64,
            entries: stat.ms_entries as u64,
        }
    }
}

#[inline]
fn lend(key: &[u8]) -> MDB_val {
    MDB_val { mv_size: key.len(), mv_data: key.as_ptr().cast_mut().cast::<c_void>() }
}

fn ended() -> StoreError {
    told("mdb", BAD_TRANSACTION)
}

#[inline]
fn check(call: &str, code: c_int) -> Result<(), StoreError> {
    if code == 0 { Ok(()) } else { Err(told(call, code)) }
}

#[cold]
fn told(call: &str, code: c_int) -> StoreError {
    // SAFETY: LMDB answers with a text that stays, for any code; for errno's the C library's buffer is copied at once.
    let words = unsafe { CStr::from_ptr(ffi::mdb_strerror(code)) }.to_string_lossy();
    StoreError { message: format!("{call}: {words}"), code }
}

/// Another line of LMDB has another lock file: its readers are not seen by a writer of 0.9, nor the reverse.
fn refuse_other_line() -> Result<(), StoreError> {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: room for three numbers.
    unsafe { ffi::mdb_version(&raw mut major, &raw mut minor, &raw mut patch) };
    if (major, minor) == (0, 9) {
        return Ok(());
    }
    Err(StoreError::ours(&format!("built with LMDB {major}.{minor}.{patch}: its lock file is not that of 0.9")))
}

/// What an assertion of LMDB's said.
struct Assertion(String);

/// LMDB calls this when an assertion fails, and aborts the process when it returns: so it leaves by unwinding.
///
/// SAFETY: `message` is LMDB's text. The frames left are C's, between `unasserted` and here, in calls that hold no
/// lock and own no memory while they look at pages. Compilers keep unwind tables for C on the platforms we build
/// for; where there are none, the process ends here, as it would have.
unsafe extern "C-unwind" fn leave_by_unwinding(_: *mut MDB_env, message: *const c_char) {
    // SAFETY: as above.
    let words = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    resume_unwind(Box::new(Assertion(words)))
}

/// Make a call that may run into an assertion of LMDB's: a damaged page is an error like any other.
#[inline]
fn unasserted(call: impl FnOnce() -> c_int) -> Result<c_int, StoreError> {
    catch_unwind(AssertUnwindSafe(call)).map_err(asserted)
}

#[cold]
fn asserted(payload: Box<dyn Any + Send>) -> StoreError {
    match payload.downcast::<Assertion>() {
        Ok(assertion) => StoreError { message: format!("MDB_CORRUPTED: {}", assertion.0), code: CORRUPTED },
        Err(panic) => resume_unwind(panic),
    }
}
