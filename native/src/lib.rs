//! The native engine of `lookupd`: the same answers as the Python path, at the cost of the system calls.
//!
//! Data flows one way: `udp` receives a batch, `access` finds the client, `protocols` decode, `engine` asks
//! `store`, `protocols` encode, `udp` sends; `counters` and `tap` are told and never asked. `bulk` turns a snapshot into
//! columns and blocks for the loader. `batch` answers lists. `load` is the asking side, for `lookupd bench`. `python` is the only part
//! that knows the interpreter. Python defines what is right: see `lookupd/fastpath/batch.py`.
//!
//! `unsafe` stands in two modules, each block with its reason: `store::lmdb` and `udp::sys`.

pub mod access;
pub mod batch;
pub mod bulk;
pub mod counters;
pub mod engine;
pub mod limits;
pub mod load;
pub mod model;
pub mod msgpack;
pub mod plan;
pub mod protocols;
pub mod responder;
pub mod store;
pub mod tap;
pub mod udp;

#[cfg(feature = "python")]
mod python;
