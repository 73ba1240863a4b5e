//! Bulk loading: a snapshot's text to columns, columns to the store's values. Writing stays with Python.
//!
//! `lines` decompresses and cuts chunks of whole lines, `rows` parses a chunk, `pack` makes blocks and details.
//! Each does what its Python counterpart does, byte for byte, or declines: then Python does it again, and its
//! word, refusal and message hold. The counterparts: `loader.files.line_chunks`,
//! `loader.formats.lookupd_columns.parse_rows`, `lookupd.store.bulk`.

pub mod lines;
pub mod pack;
pub mod rows;
pub mod words;
