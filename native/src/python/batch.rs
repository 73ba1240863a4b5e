//! Lists of numbers for Python: `lookupd/batch/native.py` says where each is used.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::codecs::Plan as PyPlan;
use super::server::PyService;
use crate::batch::{self, Answers, Ending, Form, Row, Seen, Style};
use crate::engine::Engine;
use crate::plan::Plan;

/// Which row had a number first.
#[pyclass(name = "Seen", module = "lookupd._native", frozen)]
pub struct PySeen(Mutex<Seen>);

#[pymethods]
impl PySeen {
    #[new]
    fn new(rows_max: u64) -> PySeen {
        PySeen(Mutex::new(Seen::new(rows_max, RandomState::new().hash_one(rows_max))))
    }

    /// The row that had it before; 0 = none had, or it is not remembered.
    fn first(&self, tn: u64, row: u64) -> u64 {
        lock(&self.0).first(tn, row).unwrap_or(0)
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads pieces of a list and looks their numbers up, and writes them.
#[pyclass(name = "Batch", module = "lookupd._native", frozen)]
pub struct PyBatch {
    engine: Mutex<Engine>,
    plan: Arc<Plan>,
    form: Form,
    answers: Mutex<Answers>,
    endings: Mutex<Vec<Ending>>,
    seen: Mutex<Seen>,
}

/// Outcome, route (network code, routing number, operator), whether restricted.
type Told = (u8, Option<(String, Option<String>, String)>, bool);

/// All rows, those of each network, rows by answer, repeats.
type Written<'py> = (Bound<'py, PyBytes>, Vec<Bound<'py, PyBytes>>, Vec<u64>, u64);

#[pymethods]
impl PyBatch {
    #[new]
    fn new(
        service: &PyService,
        plan: &PyPlan,
        separator: u8,
        column: usize,
        columns: usize,
        is_utf8: bool,
        rows_max: u64,
    ) -> PyBatch {
        PyBatch {
            engine: Mutex::new(Engine::new(service.inner())),
            plan: Arc::clone(&plan.inner),
            form: Form { separator, column, columns, is_utf8 },
            answers: Mutex::default(),
            endings: Mutex::default(),
            seen: Mutex::new(Seen::new(rows_max, RandomState::new().hash_one(rows_max))),
        }
    }

    /// The rows of a piece, asked of the newest state; `rest` lets go of it. now: Unix seconds. Raises `RuntimeError` when
    /// there is no data to answer from.
    fn scan(&self, py: Python<'_>, piece: Py<PyBytes>, last: bool, skipping: bool, now: u64) -> PyResult<PyScanned> {
        let text = piece.as_bytes(py);
        let scanned = py.detach(|| {
            let mut engine = lock(&self.engine);
            engine.begin(now);
            if !engine.is_usable() {
                return None;
            }
            let (mut rows, consumed, skipping) = batch::cut(text, &self.form, &self.plan, last, skipping);
            batch::answer(&engine, &mut rows, &mut lock(&self.answers));
            Some((rows, consumed, skipping, engine.version().0))
        });
        let (rows, consumed, skipping, serial) = scanned.ok_or_else(|| PyRuntimeError::new_err("no data"))?;
        let count = rows.len();
        Ok(PyScanned { piece, rows: Mutex::new(rows), count, consumed, skipping, serial })
    }

    /// Give odd rows that have a number their answers: place of the row, and digits.
    #[allow(clippy::needless_pass_by_value)] // a list from Python becomes a vector of ours
    fn resolve(&self, py: Python<'_>, scanned: &PyScanned, numbers: Vec<(usize, Vec<u8>)>) -> PyResult<()> {
        let read = numbers.iter().map(|(place, digits)| {
            let read = self.plan.digits(digits).filter(|found| found.as_bytes() == digits);
            read.map(|found| (*place, found)).ok_or_else(|| PyValueError::new_err("not the digits of a number"))
        });
        let read: Vec<_> = read.collect::<PyResult<_>>()?;
        py.detach(|| {
            let engine = lock(&self.engine);
            let mut answers = lock(&self.answers);
            let mut rows = lock(&scanned.rows);
            for (place, digits) in read {
                if let Some(row) = rows.get_mut(place) {
                    row.digits = Some(digits);
                    batch::answer(&engine, std::slice::from_mut(row), &mut answers);
                }
            }
        });
        Ok(())
    }

    /// Let go of the state.
    fn rest(&self) {
        lock(&self.engine).rest();
    }

    /// What was told since `known` answers were.
    fn answers(&self, known: usize) -> Vec<Told> {
        let answers = lock(&self.answers);
        let new = answers.all().get(known..).unwrap_or_default();
        new.iter().map(|told| (told.outcome, told.route.clone(), told.restricted)).collect()
    }

    /// What is added to rows of the next answer, but for number and note, and which network's file they are in.
    fn add_ending(&self, text: Vec<u8>, network: usize) {
        lock(&self.endings).push(Ending { text, network });
    }

    /// Only remember the numbers.
    fn remember(&self, py: Python<'_>, scanned: &PyScanned, first_row: u64) {
        py.detach(|| batch::remember(&lock(&scanned.rows), first_row, &mut lock(&self.seen)));
    }

    /// Write the rows. bad: the endings of rows without an answer, in their order. none: their network's file.
    #[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)] // Python's own
    fn write<'py>(
        &self,
        py: Python<'py>,
        scanned: &PyScanned,
        first_row: u64,
        bad: Vec<Vec<u8>>,
        newline: Vec<u8>,
        none: usize,
        networks: usize,
    ) -> PyResult<Written<'py>> {
        let piece = scanned.piece.as_bytes(py);
        let written = py.detach(|| {
            let endings = lock(&self.endings);
            let separator = self.form.separator;
            let style = Style { separator, newline: &newline, endings: &endings, bad: &bad, none, networks };
            batch::write(piece, &lock(&scanned.rows), first_row, &mut lock(&self.seen), &style)
        });
        let written = written.ok_or_else(|| PyValueError::new_err("an ending is missing"))?;
        let by_network = written.by_network.iter().map(|rows| PyBytes::new(py, rows)).collect();
        Ok((PyBytes::new(py, &written.out), by_network, written.counts, written.duplicates))
    }
}

/// The rows of a piece.
#[pyclass(name = "ScannedRows", module = "lookupd._native", frozen)]
pub struct PyScanned {
    piece: Py<PyBytes>,
    rows: Mutex<Vec<Row>>,
    #[pyo3(get)]
    count: usize,
    #[pyo3(get)]
    consumed: usize,
    #[pyo3(get)]
    skipping: bool,
    #[pyo3(get)]
    serial: u32,
}

#[pymethods]
impl PyScanned {
    /// Rows without a number, that Python reads: place, start, whether too long.
    fn odd(&self) -> Vec<(usize, usize, bool)> {
        let rows = lock(&self.rows);
        let odd = rows.iter().enumerate().filter(|(_, row)| row.digits.is_none());
        odd.map(|(place, row)| (place, row.start, row.is_too_long)).collect()
    }
}
