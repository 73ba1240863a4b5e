//! The module `lookupd._native`: what Python may call. Nothing is decided here.

mod batch;
mod bulk;
mod codecs;
mod load;
mod server;
pub mod store;
mod store_reader;

use pyo3::pymodule;

/// The native engine of lookupd.
#[pymodule(gil_used = true)]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::batch::{PyBatch, PyScanned, PySeen};
    #[pymodule_export]
    use super::bulk::{LineChunks, pack_numbers, parse_rows, unchanged_blocks};
    #[pymodule_export]
    use super::codecs::{
        Clients, EnumProfile, Plan, SipProfile, decode_npq, decode_pdb, encode_npq, encode_npq_error, encode_pdb, slot,
    };
    #[pymodule_export]
    use super::load::{LoadControl, echo, load};
    #[pymodule_export]
    use super::server::{PyCounts, PyResponder, PyService, PyUdpServer};
    #[pymodule_export]
    use super::store::{PyCursor, PyDatabase, PyEnvironment, PyTransaction};
    #[pymodule_export]
    use super::store_reader::PyReader;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("VERSION", env!("CARGO_PKG_VERSION"))
    }
}
