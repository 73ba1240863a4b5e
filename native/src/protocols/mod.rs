//! Bytes <-> model, one module a dialect: no socket, no clock, no store.

pub mod npq;
pub mod pdb;
