//! The open store for Python, in the shape of py-lmdb, so that `lookupd.store.reader` and what reads beside it work
//! on either. Every value is a copy; what has ended raises `lmdb.Error`, as py-lmdb does.
//!
//! Between two calls a transaction keeps its state but does not hold the map, so that the map can be replaced under
//! it: the next call then raises `lmdb.MapResizedError`. A cursor is a key and its value, not a place in the map.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use super::store_reader::PyReader;
use crate::store::lmdb::{self, Database, Pair, Stat, Step, Transaction};
use crate::store::{Environment, StoreError};

/// Records that an iterator takes at once, and the bytes at which it stops taking more.
const RECORDS_AT_ONCE: usize = 64;
const BYTES_AT_ONCE: usize = 256 * 1024;

/// A transaction that its environment can end too. None: it has ended.
type Shared = Arc<Mutex<Option<Transaction>>>;

/// One open store, read only, shared with the native workers.
#[pyclass(name = "Environment", module = "lookupd._native", frozen)]
pub struct PyEnvironment {
    pub(crate) inner: Arc<Environment>,
    closed: AtomicBool,
    transactions: Mutex<Vec<Weak<Mutex<Option<Transaction>>>>>,
}

#[pymethods]
impl PyEnvironment {
    #[new]
    #[allow(clippy::needless_pass_by_value)] // made from Python's own
    #[pyo3(signature = (path, map_size))]
    fn new(py: Python<'_>, path: PathBuf, map_size: usize) -> PyResult<PyEnvironment> {
        let opened = py.detach(|| Environment::open(&path, map_size));
        let inner = opened.map_err(|error| store_error(py, &error))?;
        Ok(PyEnvironment { inner, closed: AtomicBool::new(false), transactions: Mutex::default() })
    }

    fn path(&self) -> String {
        self.inner.path().display().to_string()
    }

    #[pyo3(signature = (name, txn=None, create=false))]
    fn open_db(
        &self,
        py: Python<'_>,
        name: &[u8],
        txn: Option<&Bound<'_, PyAny>>,
        create: bool,
    ) -> PyResult<PyDatabase> {
        let _ = txn;
        self.is_open(py)?;
        if create {
            return Err(lmdb_exception(py, "ReadonlyError", "a native environment is for reading"));
        }
        match self.inner.database(name) {
            Some(database) => Ok(PyDatabase { database }),
            None => Err(lmdb_exception(py, "NotFoundError", "no such database")),
        }
    }

    #[pyo3(signature = (db=None, parent=None, write=false, buffers=false))]
    fn begin(
        &self,
        py: Python<'_>,
        db: Option<&PyDatabase>,
        parent: Option<&Bound<'_, PyAny>>,
        write: bool,
        buffers: bool,
    ) -> PyResult<PyTransaction> {
        let _ = buffers; // a copy at any rate: nothing borrowed leaves
        self.is_open(py)?;
        if write || parent.is_some() {
            return Err(lmdb_exception(py, "ReadonlyError", "a native environment is for reading"));
        }
        let begun = Transaction::begin(Arc::clone(self.inner.handle()));
        let mut transaction = begun.map_err(|error| lmdb_error(py, &error))?;
        transaction.rest();
        let shared = Arc::new(Mutex::new(Some(transaction)));
        let mut transactions = self.transactions.lock().unwrap_or_else(PoisonError::into_inner);
        transactions.retain(|other| other.strong_count() > 0);
        transactions.push(Arc::downgrade(&shared));
        Ok(PyTransaction { shared, database: db.map_or(lmdb::MAIN, |db| db.database) })
    }

    fn stat<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.is_open(py)?;
        stat_dict(py, self.inner.handle().stat().map_err(|error| lmdb_error(py, &error))?)
    }

    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.is_open(py)?;
        let info = self.inner.handle().info().map_err(|error| lmdb_error(py, &error))?;
        let told = PyDict::new(py);
        told.set_item("map_addr", 0)?;
        told.set_item("map_size", info.map_size)?;
        told.set_item("last_pgno", info.last_page)?;
        told.set_item("last_txnid", info.last_transaction)?;
        told.set_item("max_readers", info.readers_max)?;
        told.set_item("num_readers", info.readers)?;
        Ok(told)
    }

    fn reader_check(&self, py: Python<'_>) -> PyResult<u32> {
        self.is_open(py)?;
        self.inner.handle().reader_check().map_err(|error| lmdb_error(py, &error))
    }

    fn set_mapsize(&self, py: Python<'_>, map_size: usize) -> PyResult<()> {
        self.is_open(py)?;
        if map_size != 0 {
            return Err(lmdb_exception(py, "InvalidParameterError", "the map follows the writer's: only 0"));
        }
        self.inner.handle().settle().map_err(|error| lmdb_error(py, &error))
    }

    /// A reader as the workers have it.
    fn reader(&self, py: Python<'_>) -> PyResult<PyReader> {
        self.is_open(py)?;
        PyReader::new(py, &self.inner)
    }

    /// Blocks that were read, and the numbers of damaged ones. Raises `StoreError`.
    fn warm(&self, py: Python<'_>) -> PyResult<(u64, Vec<u64>)> {
        self.is_open(py)?;
        let warmed = py.detach(|| self.inner.warm()).map_err(|error| store_error(py, &error))?;
        Ok((warmed.blocks, warmed.damaged))
    }

    /// End its transactions, and close the store, unless workers have it: then with the last of them.
    fn close(&self) {
        if self.closed.swap(true, Relaxed) {
            return;
        }
        let mut transactions = self.transactions.lock().unwrap_or_else(PoisonError::into_inner);
        for shared in transactions.drain(..).filter_map(|shared| shared.upgrade()) {
            shared.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        self.inner.close_unshared();
    }

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&self, _error: &Bound<'_, PyTuple>) {
        self.close();
    }
}

impl PyEnvironment {
    fn is_open(&self, py: Python<'_>) -> PyResult<()> {
        if self.closed.load(Relaxed) { Err(ended(py)) } else { Ok(()) }
    }
}

/// A named database.
#[pyclass(name = "Database", module = "lookupd._native", frozen)]
pub struct PyDatabase {
    database: Database,
}

/// One pinned state.
#[pyclass(name = "Transaction", module = "lookupd._native", frozen)]
pub struct PyTransaction {
    shared: Shared,
    database: Database,
}

#[pymethods]
impl PyTransaction {
    #[pyo3(signature = (key, default=None, db=None))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        key: &[u8],
        default: Option<Bound<'py, PyAny>>,
        db: Option<&PyDatabase>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let database = db.map_or(self.database, |db| db.database);
        reading(py, &self.shared, |transaction| {
            let value = transaction.get(database, key)?;
            Ok(value.map(|value| PyBytes::new(py, value).into_any()).or(default))
        })
    }

    #[pyo3(signature = (db=None))]
    fn cursor(&self, py: Python<'_>, db: Option<&PyDatabase>) -> PyResult<PyCursor> {
        let database = db.map_or(self.database, |db| db.database);
        reading(py, &self.shared, |_| Ok(()))?;
        Ok(PyCursor { shared: Arc::clone(&self.shared), database, place: None, is_behind: false })
    }

    fn stat<'py>(&self, py: Python<'py>, db: &PyDatabase) -> PyResult<Bound<'py, PyDict>> {
        stat_dict(py, reading(py, &self.shared, |transaction| transaction.stat(db.database))?)
    }

    fn id(&self, py: Python<'_>) -> PyResult<usize> {
        reading(py, &self.shared, |transaction| Ok(transaction.id()))
    }

    /// Let go of the state; again does nothing.
    fn abort(&self) {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn commit(&self) {
        self.abort();
    }

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&self, _error: &Bound<'_, PyTuple>) {
        self.abort();
    }
}

/// A place in a database's order: a key that is there in this state, and its value.
#[pyclass(name = "Cursor", module = "lookupd._native")]
pub struct PyCursor {
    shared: Shared,
    database: Database,
    place: Option<(Py<PyBytes>, Py<PyBytes>)>,
    /// Without a place: whether it went off the end, rather than nowhere yet.
    is_behind: bool,
}

#[pymethods]
impl PyCursor {
    fn first(&mut self, py: Python<'_>) -> PyResult<bool> {
        self.go(py, |cursor| cursor.step(Step::First))
    }

    fn last(&mut self, py: Python<'_>) -> PyResult<bool> {
        self.go(py, |cursor| cursor.step(Step::Last))
    }

    fn set_range(&mut self, py: Python<'_>, key: &[u8]) -> PyResult<bool> {
        self.go(py, |cursor| cursor.seek(key))
    }

    fn next(&mut self, py: Python<'_>) -> PyResult<bool> {
        let Some(key) = self.place.as_ref().map(|(key, _)| key.clone_ref(py)) else {
            return if self.is_behind { Ok(false) } else { self.first(py) };
        };
        self.go(py, |cursor| {
            cursor.seek(key.as_bytes(py))?;
            cursor.step(Step::Next)
        })
    }

    fn prev(&mut self, py: Python<'_>) -> PyResult<bool> {
        let Some(key) = self.place.as_ref().map(|(key, _)| key.clone_ref(py)) else { return self.last(py) };
        let found = self.go(py, |cursor| {
            cursor.seek(key.as_bytes(py))?;
            cursor.step(Step::Previous)
        })?;
        self.is_behind = false;
        Ok(found)
    }

    /// Empty when it stands nowhere.
    fn key(&self, py: Python<'_>) -> PyResult<Py<PyBytes>> {
        reading(py, &self.shared, |_| Ok(()))?;
        Ok(self.place.as_ref().map_or_else(|| PyBytes::new(py, b"").unbind(), |(key, _)| key.clone_ref(py)))
    }

    /// Empty when it stands nowhere.
    fn value(&self, py: Python<'_>) -> PyResult<Py<PyBytes>> {
        reading(py, &self.shared, |_| Ok(()))?;
        Ok(self.place.as_ref().map_or_else(|| PyBytes::new(py, b"").unbind(), |(_, value)| value.clone_ref(py)))
    }

    /// From where it stands, or from the first key. It stays where it is.
    #[pyo3(signature = (keys=true, values=true))]
    fn iternext(&self, py: Python<'_>, keys: bool, values: bool) -> PyResult<PyRecords> {
        if !keys && !values {
            return Err(PyTypeError::new_err("keys, values or both"));
        }
        reading(py, &self.shared, |_| Ok(()))?;
        let from = self.place.as_ref().map(|(key, _)| key.as_bytes(py).to_vec()).unwrap_or_default();
        let (shared, database) = (Arc::clone(&self.shared), self.database);
        Ok(PyRecords { shared, database, keys, values, from: Some(from), at_once: 1, taken: VecDeque::new() })
    }

    fn __iter__(&self, py: Python<'_>) -> PyResult<PyRecords> {
        self.iternext(py, true, true)
    }

    /// Nothing is held that must be let go of.
    #[allow(clippy::unused_self)]
    fn close(&self) {}

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[allow(clippy::unused_self)]
    #[pyo3(signature = (*_error))]
    fn __exit__(&self, _error: &Bound<'_, PyTuple>) {}
}

impl PyCursor {
    /// Move LMDB's cursor as told and stay at the key it finds.
    fn go(
        &mut self,
        py: Python<'_>,
        to: impl for<'t> FnOnce(&mut lmdb::Cursor<'t>) -> Result<Option<Pair<'t>>, StoreError>,
    ) -> PyResult<bool> {
        let database = self.database;
        let place = reading(py, &self.shared, |transaction| {
            let found = to(&mut transaction.cursor(database)?)?;
            Ok(found.map(|(key, value)| (PyBytes::new(py, key).unbind(), PyBytes::new(py, value).unbind())))
        })?;
        self.is_behind = place.is_none();
        self.place = place;
        Ok(!self.is_behind)
    }
}

/// Keys, values or both, in order. Takes some at a time: the state does not change meanwhile.
#[pyclass(name = "Records", module = "lookupd._native")]
pub struct PyRecords {
    shared: Shared,
    database: Database,
    keys: bool,
    values: bool,
    /// The key to go on from; None at the end.
    from: Option<Vec<u8>>,
    at_once: usize,
    taken: VecDeque<(Vec<u8>, Vec<u8>)>,
}

#[pymethods]
impl PyRecords {
    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.taken.is_empty() {
            self.take(py)?;
        } else {
            reading(py, &self.shared, |_| Ok(()))?; // it ends with its transaction, whatever was taken
        }
        let Some((key, value)) = self.taken.pop_front() else { return Ok(None) };
        Ok(Some(match (self.keys, self.values) {
            (true, true) => (PyBytes::new(py, &key), PyBytes::new(py, &value)).into_pyobject(py)?.into_any(),
            (true, false) => PyBytes::new(py, &key).into_any(),
            _ => PyBytes::new(py, &value).into_any(),
        }))
    }
}

impl PyRecords {
    /// The first time one record, for who looks at the head only; then more and more.
    fn take(&mut self, py: Python<'_>) -> PyResult<()> {
        let Some(from) = self.from.take() else { return Ok(()) };
        let (taken, at_once) = (&mut self.taken, self.at_once);
        self.from = reading(py, &self.shared, |transaction| {
            let mut cursor = transaction.cursor(self.database)?;
            let mut found = cursor.seek(&from)?;
            let mut bytes = 0;
            while let Some((key, value)) = found {
                if taken.len() == at_once || (bytes > BYTES_AT_ONCE) {
                    return Ok(Some(key.to_vec()));
                }
                bytes += value.len();
                taken.push_back((key.to_vec(), value.to_vec()));
                found = cursor.step(Step::Next)?;
            }
            Ok(None)
        })?;
        self.at_once = (2 * self.at_once).min(RECORDS_AT_ONCE);
        Ok(())
    }
}

/// Read in a transaction that has not ended. `read` gives back what is owned; the map is held only meanwhile.
fn reading<T>(
    py: Python<'_>,
    shared: &Shared,
    read: impl FnOnce(&Transaction) -> Result<T, StoreError>,
) -> PyResult<T> {
    let mut transaction = match shared.try_lock() {
        Ok(transaction) => transaction,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return Err(lmdb_exception(py, "Error", "used within its own call")),
    };
    let Some(transaction) = transaction.as_mut() else { return Err(ended(py)) };
    let found = transaction.resume().and_then(|()| read(transaction));
    transaction.rest();
    found.map_err(|error| lmdb_error(py, &error))
}

fn stat_dict(py: Python<'_>, stat: Stat) -> PyResult<Bound<'_, PyDict>> {
    let told = PyDict::new(py);
    told.set_item("psize", stat.page_size)?;
    told.set_item("depth", stat.depth)?;
    told.set_item("branch_pages", stat.branch_pages)?;
    told.set_item("leaf_pages", stat.leaf_pages)?;
    told.set_item("overflow_pages", stat.overflow_pages)?;
    told.set_item("entries", stat.entries)?;
    Ok(told)
}

fn ended(py: Python<'_>) -> PyErr {
    lmdb_exception(py, "Error", "Attempt to operate on closed/deleted/dropped object.")
}

/// As py-lmdb raises it.
fn lmdb_error(py: Python<'_>, error: &StoreError) -> PyErr {
    let class = match error.code {
        lmdb::MAP_RESIZED => "MapResizedError",
        lmdb::CORRUPTED => "CorruptedError",
        lmdb::PAGE_NOT_FOUND => "PageNotFoundError",
        lmdb::READERS_FULL => "ReadersFullError",
        lmdb::BAD_TRANSACTION => "BadTxnError",
        lmdb::BAD_VALUE_SIZE => "BadValsizeError",
        _ => "Error",
    };
    lmdb_exception(py, class, &error.message)
}

fn lmdb_exception(py: Python<'_>, class: &str, message: &str) -> PyErr {
    exception(py, "lmdb", class, message)
}

/// As `lookupd.store` raises it.
pub(super) fn store_error(py: Python<'_>, error: &StoreError) -> PyErr {
    exception(py, "lookupd.errors", "StoreError", &error.message)
}

pub(super) fn exception(py: Python<'_>, module: &str, class: &str, message: impl for<'py> IntoPyObject<'py>) -> PyErr {
    let made = py.import(module).and_then(|module| module.getattr(class)).and_then(|class| class.call1((message,)));
    made.map_or_else(|error| error, PyErr::from_value)
}
