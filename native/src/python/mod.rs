//! The module `lookupd._native`: what Python may call. Nothing is decided here.

use pyo3::pymodule;

mod load;

/// The native engine of lookupd.
#[pymodule(gil_used = true)]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::load::{LoadControl, echo, load};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("VERSION", env!("CARGO_PKG_VERSION"))
    }
}
