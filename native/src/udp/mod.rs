//! Queries over UDP: a thread and a socket per core, each serving batches of datagrams.
//!
//! `sys` makes the system calls, `worker` serves one socket, `server` starts and ends the workers of a listener.

pub mod server;
pub mod sys;
pub mod worker;
