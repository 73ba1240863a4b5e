//! Datagrams in and out of the sockets that Python made.

pub mod sys;
