//! The store, read: one environment of the process, pinned states of it, blocks checked on every read.
//!
//! Mirrors `lookupd/store/reader.py` and `schema.py`, which define the layout and the words of every error.
//! Nothing here writes.

pub mod layout;
pub mod lmdb;
mod reader;
pub mod restricted;
mod restrictions;
mod sums;

use std::ffi::CStr;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub use layout::{Damaged, RESTRICTED, ROUTE_MASK, State, Tables};
pub use reader::{Block, Reader, Unreadable, Warmed};

use layout::FORMAT_VERSION;
use lmdb::{Database, Handle, Transaction};

/// The store cannot be opened or read. Told to people: names the store and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    /// In the words of the Python path.
    pub message: String,
    /// LMDB's, or an errno; 0 = ours.
    pub code: i32,
}

impl StoreError {
    /// An error that LMDB knows nothing of.
    pub fn ours(message: &str) -> StoreError {
        StoreError { message: message.to_owned(), code: 0 }
    }

    fn about(self, path: &Path, what: &str, way_out: &str) -> StoreError {
        let message = format!("{}: {what}{}{way_out}", path.display(), self.message);
        StoreError { message, code: self.code }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.message)
    }
}

impl std::error::Error for StoreError {}

/// The databases by name, in the order of `schema.DATABASES`.
pub const DATABASES: [&CStr; 12] = [
    c"routes",
    c"blocks",
    c"details",
    c"ranges",
    c"restrictions",
    c"restricted",
    c"pending",
    c"journal",
    c"journal_blocks",
    c"journal_tables",
    c"receipts",
    c"meta",
];
const ROUTES: usize = 0;
const BLOCKS: usize = 1;
const RANGES: usize = 3;
const RESTRICTIONS: usize = 4;
const RESTRICTED_BLOCKS: usize = 5;
const META: usize = 11;

/// One open environment, read only; a process opens a store once, and everything in it shares this.
pub struct Environment {
    handle: Arc<Handle>,
    databases: [Database; DATABASES.len()],
    /// The newest tables that a reader has met; never taken on the way of a query.
    tables: Mutex<Arc<Tables>>,
}

impl Environment {
    /// Open the store at `path`, or share it if this process has it open: LMDB must not open a store twice.
    ///
    /// `map_size`: bytes of address space, not of disk. Fails when it is missing, cut short, or of another format.
    pub fn open(path: &Path, map_size: usize) -> Result<Arc<Environment>, StoreError> {
        let identity = identity(path).ok_or_else(|| missing(path))?;
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        opened.retain(|(_, environment)| environment.strong_count() > 0);
        let known = opened.iter().find(|(known, _)| *known == identity);
        let known = known.and_then(|(_, environment)| environment.upgrade());
        if let Some(shared) = known.filter(|shared| !shared.handle.is_closed()) {
            return Ok(shared);
        }
        let environment = Arc::new(Self::open_alone(path, map_size)?);
        opened.push((identity, Arc::downgrade(&environment)));
        Ok(environment)
    }

    fn open_alone(path: &Path, map_size: usize) -> Result<Environment, StoreError> {
        let before = identity(path);
        refuse_truncated(path)?;
        let handle = Handle::open(path, map_size).map_err(|error| error.about(path, "cannot open the store: ", ""))?;
        if identity(path) != before {
            return Err(StoreError::ours("the store was replaced while it was opened: try again").about(path, "", ""));
        }
        let not_ours = |error: StoreError| error.about(path, "not a store of ours: ", "");
        let [meta] = handle.open_databases([c"meta"]).map_err(not_ours)?;
        refuse_other_format(&handle, meta, path)?;
        let databases = handle.open_databases(DATABASES).map_err(not_ours)?;
        Ok(Environment { handle, databases, tables: Mutex::default() })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.handle.path()
    }

    /// Give back the slots of readers that died; returns how many.
    pub fn reader_check(&self) -> Result<u32, StoreError> {
        self.handle.reader_check().map_err(|error| error.about(self.path(), "", ""))
    }

    /// Touch every page that the newest state uses and check every block, so that no call waits for a page.
    ///
    /// Takes seconds; answers go on meanwhile. Fails when a page of LMDB's tree is damaged.
    pub fn warm(self: &Arc<Self>) -> Result<Warmed, StoreError> {
        reader::warm(self)
    }

    /// LMDB's side of it, for transactions beside the readers.
    pub fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    /// Close it now if the caller alone has it and no transaction is left; otherwise the last owner does.
    pub fn close_unshared(self: &Arc<Self>) {
        let _nobody_opens = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::strong_count(self) == 1 {
            self.handle.close();
        }
    }

    /// A database by its name, if it is one of ours.
    pub fn database(&self, name: &[u8]) -> Option<Database> {
        let index = DATABASES.iter().position(|known| known.to_bytes() == name)?;
        self.databases.get(index).copied()
    }

    fn tables(&self) -> MutexGuard<'_, Arc<Tables>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Device and inode of a store's data file.
type Identity = (u64, u64);

/// What this process has open. A second environment on the same files would drop the first one's locks when it is
/// closed, and the writer would take our readers for dead.
static OPENED: Mutex<Vec<(Identity, Weak<Environment>)>> = Mutex::new(Vec::new());

fn identity(path: &Path) -> Option<Identity> {
    let found = path.join("data.mdb").metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some((found.dev(), found.ino()))
}

/// Why there is no data file to be seen.
fn missing(path: &Path) -> StoreError {
    let denied = |error: &std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
    if path.join("data.mdb").metadata().is_err_and(|error| denied(&error)) {
        return StoreError::ours("cannot open the store: may not look into its folder").about(path, "", "");
    }
    StoreError::ours("no store here: load a snapshot with lookupd-loader first").about(path, "", "")
}

/// A data file that was cut short must not be mapped: reading past its end kills the process. The writer notes its
/// length after each commit.
fn refuse_truncated(path: &Path) -> Result<(), StoreError> {
    let data = path.join("data.mdb");
    let noted = std::fs::read_to_string(path.join("data.length")).ok();
    let noted = noted.and_then(|text| text.trim().parse::<u64>().ok());
    let (Some(noted), Ok(found)) = (noted, data.metadata()) else { return Ok(()) };
    if found.len() >= noted {
        return Ok(());
    }
    let what = format!("truncated, {} of {noted} bytes: restore it, or load into a new store", found.len());
    Err(StoreError::ours(&what).about(&data, "", ""))
}

fn refuse_other_format(handle: &Arc<Handle>, meta: Database, path: &Path) -> Result<(), StoreError> {
    let not_ours = |error: StoreError| error.about(path, "not a store of ours: ", "");
    let transaction = Transaction::begin(Arc::clone(handle)).map_err(not_ours)?;
    let found = transaction.get(meta, layout::META_FORMAT).map_err(not_ours)?;
    let found = found.and_then(|value| <[u8; 4]>::try_from(value).ok()).map(u32::from_le_bytes);
    if found == Some(FORMAT_VERSION) {
        return Ok(());
    }
    let have = found.map_or_else(|| "none".to_owned(), |version| version.to_string());
    let what = format!("store format {have}, this program reads {FORMAT_VERSION}: load a snapshot into a new store");
    Err(StoreError::ours(&what).about(path, "", ""))
}
