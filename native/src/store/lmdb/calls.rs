//! LMDB's calls, their codes and words; assertions that become errors; figures. Owns nothing.

use std::any::Any;
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use lmdb_sys::{self as ffi, MDB_cursor, MDB_dbi, MDB_env, MDB_stat, MDB_txn, MDB_val};

use super::StoreError;

// Declared anew for the calls that look at pages, because an assertion of LMDB's leaves them by unwinding.
unsafe extern "C-unwind" {
    pub(super) fn mdb_env_set_assert(env: *mut MDB_env, told: Option<AssertTold>) -> c_int;
    pub(super) fn mdb_get(txn: *mut MDB_txn, dbi: MDB_dbi, key: *mut MDB_val, data: *mut MDB_val) -> c_int;
    pub(super) fn mdb_stat(txn: *mut MDB_txn, dbi: MDB_dbi, stat: *mut MDB_stat) -> c_int;
    pub(super) fn mdb_dbi_open(txn: *mut MDB_txn, name: *const c_char, flags: c_uint, dbi: *mut MDB_dbi) -> c_int;
    pub(super) fn mdb_cursor_open(txn: *mut MDB_txn, dbi: MDB_dbi, cursor: *mut *mut MDB_cursor) -> c_int;
    pub(super) fn mdb_cursor_get(cursor: *mut MDB_cursor, key: *mut MDB_val, data: *mut MDB_val, step: c_uint)
    -> c_int;
}

pub(super) type AssertTold = unsafe extern "C-unwind" fn(env: *mut MDB_env, message: *const c_char);

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

pub(super) const NO_STAT: MDB_stat =
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

pub(super) fn ended() -> StoreError {
    told("mdb", BAD_TRANSACTION)
}

#[inline]
pub(super) fn check(call: &str, code: c_int) -> Result<(), StoreError> {
    if code == 0 { Ok(()) } else { Err(told(call, code)) }
}

#[cold]
pub(super) fn told(call: &str, code: c_int) -> StoreError {
    // SAFETY: LMDB answers with a text that stays, for any code; for errno's the C library's buffer is copied at once.
    let words = unsafe { CStr::from_ptr(ffi::mdb_strerror(code)) }.to_string_lossy();
    StoreError { message: format!("{call}: {words}"), code }
}

/// Another line of LMDB has another lock file: its readers are not seen by a writer of 0.9, nor the reverse.
pub(super) fn refuse_other_line() -> Result<(), StoreError> {
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
pub(super) unsafe extern "C-unwind" fn leave_by_unwinding(_: *mut MDB_env, message: *const c_char) {
    // SAFETY: as above.
    let words = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    resume_unwind(Box::new(Assertion(words)))
}

/// Make a call that may run into an assertion of LMDB's: a damaged page is an error like any other.
#[inline]
pub(super) fn unasserted(call: impl FnOnce() -> c_int) -> Result<c_int, StoreError> {
    catch_unwind(AssertUnwindSafe(call)).map_err(asserted)
}

#[cold]
fn asserted(payload: Box<dyn Any + Send>) -> StoreError {
    match payload.downcast::<Assertion>() {
        Ok(assertion) => StoreError { message: format!("MDB_CORRUPTED: {}", assertion.0), code: CORRUPTED },
        Err(panic) => resume_unwind(panic),
    }
}
