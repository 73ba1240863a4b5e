//! Bulk loading for Python: `lookupd/native_bulk.py` says where each is used, and what stands in for it.

use std::io::{self, Read};

use pyo3::buffer::{Element, PyBuffer};
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::bulk::compare::{self, Row};
use crate::bulk::lines::{self, Bounds, Compression, Stopped};
use crate::bulk::pack::{self, BLOCK_BYTES, Numbers};
use crate::bulk::rows::{self, Column};

/// A Python file, read with the interpreter lock taken for each call.
struct Source(Py<PyAny>);

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Python::attach(|py| {
            let read = self.0.call_method1(py, "read", (buffer.len(),)).map_err(io::Error::other)?;
            let data = read.bind(py).cast::<PyBytes>().map_err(|_| io::Error::other("not bytes"))?.as_bytes();
            let room = buffer.get_mut(..data.len()).ok_or_else(|| io::Error::other("more than was asked for"))?;
            room.copy_from_slice(data);
            Ok(data.len())
        })
    }
}

/// A snapshot's text in chunks of whole lines.
#[pyclass(module = "lookupd._native")]
pub struct LineChunks(lines::LineChunks<Source>);

#[pymethods]
impl LineChunks {
    #[new]
    fn new(
        source: Py<PyAny>,
        compression: &str,
        piece_bytes: usize,
        line_bytes_max: usize,
        text_bytes_max: u64,
    ) -> PyResult<Self> {
        let compression = match compression {
            "" => Compression::Plain,
            ".gz" => Compression::Gzip,
            ".zst" => Compression::Zstd,
            _ => return Err(PyValueError::new_err("compression is \"\", \".gz\" or \".zst\"")),
        };
        let bounds = Bounds { piece: piece_bytes, line: line_bytes_max, text: text_bytes_max };
        let chunks = lines::LineChunks::new(Source(source), compression, bounds).map_err(declined)?;
        Ok(Self(chunks))
    }

    fn next_chunk<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let chunk = py.detach(|| self.0.next_chunk()).map_err(|stopped| match stopped {
            Stopped::TooLong => PyOverflowError::new_err("the text is longer than it may be"),
            Stopped::Declined(error) => declined(error),
        })?;
        Ok(chunk.map(|chunk| PyBytes::new(py, chunk)))
    }
}

fn declined(error: io::Error) -> PyErr {
    PyValueError::new_err(error)
}

/// The rows of a chunk as columns in native byte order, or None: see `rows::parse_rows`.
#[pyfunction]
pub fn parse_rows<'py>(
    py: Python<'py>,
    chunk: &Bound<'py, PyBytes>,
    columns: &Bound<'py, PyTuple>,
) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let names: Vec<String> = columns.extract()?;
    let columns = names.iter().map(|name| Column::of_name(name)).collect::<Option<Vec<_>>>();
    let columns = columns.ok_or_else(|| PyValueError::new_err("a column has no such name"))?;
    let text = chunk.as_bytes();
    let Some(rows) = py.detach(|| rows::parse_rows(text, &columns)) else { return Ok(None) };
    let found = (
        bytes_of(py, &rows.tn, u64::to_ne_bytes)?,
        bytes_of(py, &rows.network, i32::to_ne_bytes)?,
        bytes_of(py, &rows.donor, i32::to_ne_bytes)?,
        bytes_of(py, &rows.routing_number, i32::to_ne_bytes)?,
        bytes_of(py, &rows.ported_at, u32::to_ne_bytes)?,
        rows.codes,
        rows.routing_numbers,
    );
    found.into_pyobject(py).map(Some)
}

fn bytes_of<'py, T: Copy, const SIZE: usize>(
    py: Python<'py>,
    values: &[T],
    to_bytes: impl Fn(T) -> [u8; SIZE],
) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, values.len() * SIZE, |bytes| {
        for (room, value) in bytes.chunks_exact_mut(SIZE).zip(values) {
            room.copy_from_slice(&to_bytes(*value));
        }
        Ok(())
    })
}

/// Rows of `blocks` and of `details` ready to be put, and the sum of the content digests: see `pack::pack_numbers`.
#[pyfunction]
pub fn pack_numbers<'py>(
    py: Python<'py>,
    tn: &Bound<'py, PyAny>,
    route: &Bound<'py, PyAny>,
    donor: &Bound<'py, PyAny>,
    ported_at: &Bound<'py, PyAny>,
    sequence: u64,
    fingerprints: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyList>, Bound<'py, PyList>, u64)> {
    let (tn, route, donor) = (values_of(tn)?, values_of(route)?, values_of(donor)?);
    let (ported_at, fingerprints) = (values_of(ported_at)?, values_of(fingerprints)?);
    let numbers = Numbers { tn: &tn, route: &route, donor: &donor, ported_at: &ported_at };
    let packed = py
        .detach(|| pack::pack_numbers(&numbers, sequence, &fingerprints))
        .map_err(|unfit| PyValueError::new_err(unfit.0))?;
    let (blocks, details) = (PyList::empty(py), PyList::empty(py));
    let mut start = 0;
    for ((block, value), &end) in
        packed.blocks.iter().zip(packed.block_values.chunks_exact(BLOCK_BYTES)).zip(&packed.details_ends)
    {
        let key = PyBytes::new(py, &block.to_be_bytes());
        blocks.append((&key, PyBytes::new(py, value)))?;
        details.append((&key, PyBytes::new(py, packed.details_values.get(start..end).unwrap_or_default())))?;
        start = end;
    }
    Ok((blocks, details, packed.content))
}

/// Block numbers (u64) of the stored blocks that hold just these numbers, how many numbers that are, and the sum of
/// their content digests: see `compare::unchanged`.
#[pyfunction]
#[allow(clippy::needless_pass_by_value)] // lists arrive as what they were made into
pub fn unchanged_blocks<'py>(
    py: Python<'py>,
    tn: &Bound<'py, PyAny>,
    route: &Bound<'py, PyAny>,
    donor: &Bound<'py, PyAny>,
    ported_at: &Bound<'py, PyAny>,
    block_rows: Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>,
    details_rows: Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>,
) -> PyResult<(Bound<'py, PyBytes>, usize, u64)> {
    let (tn, route, donor, ported_at) = (values_of(tn)?, values_of(route)?, values_of(donor)?, values_of(ported_at)?);
    let numbers = Numbers { tn: &tn, route: &route, donor: &donor, ported_at: &ported_at };
    let (blocks, details) = (borrowed(&block_rows), borrowed(&details_rows));
    let found = py
        .detach(|| compare::unchanged(&numbers, &blocks, &details))
        .map_err(|unfit| PyValueError::new_err(unfit.0))?;
    Ok((bytes_of(py, &found.blocks, u64::to_ne_bytes)?, found.numbers, found.content))
}

fn borrowed<'a>(rows: &'a [(Bound<'_, PyBytes>, Bound<'_, PyBytes>)]) -> Vec<Row<'a>> {
    rows.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())).collect()
}

/// A copy of an array, which another thread may otherwise change meanwhile.
fn values_of<T: Element>(array: &Bound<'_, PyAny>) -> PyResult<Vec<T>> {
    PyBuffer::get(array)?.to_vec(array.py())
}
