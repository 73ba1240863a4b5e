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

mod calls;
#[cfg(test)]
pub(crate) mod made;
mod places;
mod transaction;

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use lmdb_sys::{self as ffi, MDB_dbi, MDB_env, MDB_envinfo};

pub use calls::{BAD_TRANSACTION, BAD_VALUE_SIZE, CORRUPTED, Info, MAP_RESIZED, PAGE_NOT_FOUND, READERS_FULL, Stat};
pub use transaction::{Cursor, Pair, Step, Transaction, prefetch};

use calls::{
    NO_STAT, check, leave_by_unwinding, mdb_dbi_open, mdb_env_set_assert, refuse_other_line, told, unasserted,
};

use super::StoreError;
use crate::limits::{STORE_DATABASES_MAX, STORE_READERS_MAX};

const LOST: &str = "the environment is closed, or lost its map while it grew: open the store again";

/// A named database of one environment; in another environment it is an error, never more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Database(MDB_dbi);

/// The environment's own, which holds the names of the others.
pub const MAIN: Database = Database(1);

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
