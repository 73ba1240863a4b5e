//! The module `lookupd._native`: what Python may call. Nothing is decided here.

pub mod store;
mod store_reader;

use pyo3::prelude::*;

/// The native engine of lookupd.
#[pymodule(gil_used = true)]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::store::{PyCursor, PyDatabase, PyEnvironment, PyTransaction};
    #[pymodule_export]
    use super::store_reader::PyReader;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("VERSION", env!("CARGO_PKG_VERSION"))
    }
}
