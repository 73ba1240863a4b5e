//! The module `lookupd._native`: what Python may call. Nothing is decided here.

use pyo3::prelude::*;

mod bulk;

/// The native engine of lookupd.
#[pymodule(gil_used = true)]
mod _native {
    use super::{Bound, PyModule, PyModuleMethods, PyResult};

    #[pymodule_export]
    use super::bulk::{LineChunks, pack_numbers, parse_rows, unchanged_blocks};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("VERSION", env!("CARGO_PKG_VERSION"))
    }
}
