//! A worker's reader for Python: what tests and tools ask, so that they see what the workers see.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

use super::store::store_error;
use crate::store::{Environment, Reader, StoreError, Unreadable};

const NUMBERS_PER_BLOCK: u64 = crate::store::layout::NUMBERS_PER_BLOCK as u64;

/// Pinned states, one after another.
#[pyclass(name = "Reader", module = "lookupd._native", frozen)]
pub struct PyReader {
    /// Never waited for: no call gives up the interpreter's lock. The interpreter may drop it in any thread.
    reader: Mutex<Reader>,
}

/// Network code, routing number, operator, `pdb` carrier id, whether it is the network's own.
type Row = (String, Option<String>, String, Option<u16>, bool);

#[pymethods]
impl PyReader {
    /// Move to the newest commit.
    fn pin(&self, py: Python<'_>) -> PyResult<()> {
        self.reader().pin().map_err(|error| store_error(py, &error))
    }

    /// Let go of the state until the next pin.
    fn release(&self) {
        self.reader().release();
    }

    /// Serial, tables, digest, and when the feed that was confirmed longest ago was.
    fn state(&self) -> (u64, u64, u64, Option<u64>) {
        let reader = self.reader();
        let state = reader.state();
        (state.serial, state.tables, state.digest, state.confirmed_at)
    }

    /// A number's entry; None when its block is damaged.
    fn entry(&self, py: Python<'_>, tn: u64) -> PyResult<Option<u16>> {
        let reader = self.reader();
        let block = reader.block(tn / NUMBERS_PER_BLOCK).map_err(|error| store_error(py, &error))?;
        let Some(block) = block else { return Ok(Some(0)) };
        let offset = usize::try_from(tn % NUMBERS_PER_BLOCK)?;
        block.prefetch(offset);
        Ok(block.entry(offset).ok())
    }

    fn route(&self, id: u16) -> Option<Row> {
        let route = self.reader().tables().route(id)?.clone();
        Some((route.network_code, route.routing_number, route.operator, route.pdb_carrier_id, route.own))
    }

    fn range_holder(&self, digits: &str) -> Option<u16> {
        self.reader().tables().range_holder(digits.as_bytes())
    }

    fn touches_range(&self, digits: &str) -> bool {
        self.reader().tables().touches_range(digits.as_bytes())
    }

    fn has_ported_under(&self, py: Python<'_>, digits: &str) -> PyResult<bool> {
        let found = self.reader().has_ported_under(digits.as_bytes());
        found.map_err(|unreadable| match unreadable {
            Unreadable::Block(_) => store_error(py, &StoreError::ours("a block is damaged")),
            Unreadable::Store(error) => store_error(py, &error),
        })
    }
}

impl PyReader {
    fn reader(&self) -> MutexGuard<'_, Reader> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn new(py: Python<'_>, environment: &Arc<Environment>) -> PyResult<PyReader> {
        let reader = Reader::new(Arc::clone(environment)).map_err(|error| store_error(py, &error))?;
        Ok(PyReader { reader: Mutex::new(reader) })
    }
}
