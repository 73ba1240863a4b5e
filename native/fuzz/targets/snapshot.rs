//! Any snapshot's file: decompressed, cut into lines, parsed. The first byte says how it is packed, and its columns.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lookupd_native::bulk::read_any_bytes;

fuzz_target!(|data: &[u8]| read_any_bytes(data));
