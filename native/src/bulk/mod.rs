//! Bulk loading: a snapshot's text to columns, columns to the store's values. Writing stays with Python.
//!
//! `lines` decompresses and cuts chunks of whole lines, `rows` parses a chunk, `pack` makes blocks and details,
//! `compare` says which stored blocks a snapshot leaves as they are.
//! Each does what its Python counterpart does, byte for byte, or declines: then Python does it again, and its
//! word, refusal and message hold. The counterparts: `loader.files.line_chunks`,
//! `loader.formats.lookupd_columns.parse_rows`, `lookupd.store.bulk`.

pub mod compare;
pub mod lines;
pub mod pack;
pub mod rows;
pub mod words;

use lines::{Bounds, Compression, LineChunks};
use rows::{Column, EMPTY};

/// Any bytes as a snapshot's file: what a fuzzer calls. The first says how the rest is compressed, and its columns.
///
/// # Panics
/// If a chunk or a row breaks what is promised of it.
pub fn read_any_bytes(data: &[u8]) {
    let Some((&choice, file)) = data.split_first() else { return };
    let compression = match choice & 3 {
        0 => Compression::Gzip,
        1 => Compression::Zstd,
        _ => Compression::Plain,
    };
    let mut columns = vec![Column::Tn, Column::NetworkCode, Column::RoutingNumber, Column::Donor, Column::PortedAt];
    columns.truncate(if choice & 4 == 0 { 5 } else { 2 });
    let first = usize::from(choice >> 3) % columns.len();
    columns.rotate_left(first);
    let bounds = Bounds { piece: 4096, line: crate::limits::SNAPSHOT_LINE_BYTES_MAX, text: 1 << 20 };
    let Ok(mut chunks) = LineChunks::new(file, compression, bounds) else { return };
    while let Ok(Some(chunk)) = chunks.next_chunk() {
        assert!(chunk.len() <= bounds.piece + bounds.line + 1, "a chunk of {}", chunk.len()); // 0: a lone CR at the end
        let Some(rows) = rows::parse_rows(chunk, &columns) else { continue };
        let count = rows.tn.len();
        assert_eq!(count, memchr::memchr_iter(b'\n', chunk).count());
        let within = |indices: &[i32], names: usize| {
            indices.len() == count
                && indices.iter().all(|&index| index == EMPTY || usize::try_from(index).is_ok_and(|at| at < names))
        };
        assert!(within(&rows.network, rows.codes.len()) && within(&rows.donor, rows.codes.len()));
        assert!(within(&rows.routing_number, rows.routing_numbers.len()) && rows.ported_at.len() == count);
        assert!(rows.tn.iter().all(|tn| (10_000..1_000_000_000_000_000).contains(tn)));
        assert!(!rows.network.contains(&EMPTY));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(data in proptest::collection::vec(any::<u8>(), 0..2000)) {
            super::read_any_bytes(&data);
        }

        #[test]
        fn text_that_is_nearly_a_snapshot_is_read_without_a_panic(
            choice in any::<u8>(),
            text in "([0-9A-F]{0,16}[,\n][0-9A-Z]{0,9},[0-9A-F]{0,16},?[0-9]{0,9},2026-0[0-9]-[0-3][0-9]T09:00:0[0-9][Z+]?(08:00)?[\n,\r]){0,20}"
        ) {
            super::read_any_bytes(&[&[choice | 2], text.as_bytes()].concat());
        }
    }
}
