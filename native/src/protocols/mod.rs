//! Bytes <-> model, one module a dialect: no socket, no clock, no store.

pub mod dns;
pub mod enum_dns;
pub mod npq;
pub mod pdb;
pub mod sip;
pub mod tel_parameters;
