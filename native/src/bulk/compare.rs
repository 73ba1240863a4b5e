//! Stored blocks against the numbers that a snapshot wants in them: which of them it leaves as they are.
//!
//! Of a block that differs, is damaged or missing nothing is said but that: Python finds out in `store/bulk.py`.

use crate::store::layout::checksum;

use super::pack::{BLOCK_BYTES, DETAIL_BYTES, ENTRIES_BYTES, Numbers, ROUTE_MASK, THOUSAND, Unfit, block_starts};

const CHECKSUM_BYTES: usize = 8;

/// A key and its value, as LMDB gave them.
pub type Row<'a> = (&'a [u8], &'a [u8]);

/// What is the same.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unchanged {
    /// Block numbers, rising.
    pub blocks: Vec<u64>,
    /// The numbers in them.
    pub numbers: usize,
    /// Sum of their content digests, mod 2^64.
    pub content: u64,
}

/// The blocks whose stored values are sound and say of every number what is wanted; the feed's sequence, which
/// the details note, may differ.
///
/// blocks, details: rows of these databases, by rising key; those of other blocks are passed over.
pub fn unchanged(numbers: &Numbers, blocks: &[Row], details: &[Row]) -> Result<Unchanged, Unfit> {
    numbers.check()?;
    let (wanted, starts) = block_starts(numbers.tn.iter().copied());
    let (mut blocks, mut details) = (Stored(blocks), Stored(details));
    let mut found = Unchanged::default();
    for (at, &block) in wanted.iter().enumerate() {
        let start = starts.get(at).copied().unwrap_or_default();
        let end = starts.get(at + 1).copied().unwrap_or(numbers.tn.len());
        let (Some(value), Some(records)) = (blocks.take(block), details.take(block)) else { continue };
        let wanted = numbers.part(start, end);
        if let Some(content) = same(block, &wanted, value, records) {
            found.blocks.push(block);
            found.numbers += end - start;
            found.content = found.content.wrapping_add(content);
        }
    }
    Ok(found)
}

/// Rows that are still to come.
struct Stored<'a>(&'a [Row<'a>]);

impl<'a> Stored<'a> {
    /// The value of a block; blocks are asked for in rising order.
    fn take(&mut self, block: u64) -> Option<&'a [u8]> {
        let key = block.to_be_bytes();
        while let Some(((stored, value), rest)) = self.0.split_first() {
            if *stored > key.as_slice() {
                return None;
            }
            self.0 = rest;
            if *stored == key {
                return Some(value);
            }
        }
        None
    }
}

/// The block's content digest if it is sound and holds just these numbers.
fn same(block: u64, wanted: &Numbers, value: &[u8], records: &[u8]) -> Option<u64> {
    let count = wanted.tn.len();
    if value.len() != BLOCK_BYTES || records.len() != count.checked_mul(DETAIL_BYTES)?.checked_add(CHECKSUM_BYTES)? {
        return None;
    }
    let (entries, content) = checked(block, value)?.split_at_checked(ENTRIES_BYTES)?;
    let ported = entries.chunks_exact(2).filter(|entry| route_of(entry) != 0).count();
    if ported != count {
        return None;
    }
    let records = checked(block, records)?;
    let first = block.checked_mul(THOUSAND)?;
    let others = wanted.route.iter().zip(wanted.donor).zip(wanted.ported_at);
    for ((tn, record), ((&route, &donor), &ported_at)) in
        wanted.tn.iter().zip(records.chunks_exact(DETAIL_BYTES)).zip(others)
    {
        let offset = u16::try_from(tn.checked_sub(first)?).ok()?;
        let at = 2 * usize::from(offset);
        let [offset_low, offset_high] = offset.to_le_bytes();
        let [donor_low, donor_high] = donor.to_le_bytes();
        let [at_0, at_1, at_2, at_3] = ported_at.to_le_bytes();
        let expected = [offset_low, offset_high, donor_low, donor_high, at_0, at_1, at_2, at_3];
        if route_of(entries.get(at..at + 2)?) != route || record.first_chunk() != Some(&expected) {
            return None;
        }
    }
    Some(u64::from_le_bytes(*content.first_chunk()?))
}

/// What the checksum at a value's end stands for, if it fits.
fn checked(block: u64, value: &[u8]) -> Option<&[u8]> {
    let (data, stored) = value.split_last_chunk::<CHECKSUM_BYTES>()?;
    (checksum(data, block) == u64::from_le_bytes(*stored)).then_some(data)
}

fn route_of(entry: &[u8]) -> u16 {
    entry.first_chunk().map_or(0, |entry| u16::from_le_bytes(*entry) & ROUTE_MASK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::pack::pack_numbers;

    const TN: [u64; 4] = [10_000, 10_999, 11_000, 12_345];
    const ROUTE: [u16; 4] = [1, 2, 1, 2];
    const DONOR: [u16; 4] = [0, 1, 2, 0];
    const PORTED_AT: [u32; 4] = [0, 7, 9, u32::MAX];

    type Owned = Vec<(Vec<u8>, Vec<u8>)>;

    fn numbers() -> Numbers<'static> {
        Numbers { tn: &TN, route: &ROUTE, donor: &DONOR, ported_at: &PORTED_AT }
    }

    fn stored() -> (Owned, Owned) {
        let packed = pack_numbers(&numbers(), 5, &[0, 11, 12]).unwrap();
        let key = |at: usize| packed.blocks[at].to_be_bytes().to_vec();
        let blocks = packed.block_values.chunks(BLOCK_BYTES).enumerate().map(|(at, value)| (key(at), value.to_vec()));
        let starts = std::iter::once(0).chain(packed.details_ends.iter().copied());
        let spans = starts.zip(&packed.details_ends).enumerate();
        let details = spans.map(|(at, (start, &end))| (key(at), packed.details_values[start..end].to_vec()));
        (blocks.collect(), details.collect())
    }

    fn compare(numbers: &Numbers, blocks: &Owned, details: &Owned) -> Vec<u64> {
        let rows = |owned: &'_ Owned| -> Vec<(Vec<u8>, Vec<u8>)> { owned.clone() };
        let (blocks, details) = (rows(blocks), rows(details));
        let blocks: Vec<Row> = blocks.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        let details: Vec<Row> = details.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        unchanged(numbers, &blocks, &details).unwrap().blocks
    }

    #[test]
    fn what_was_packed_is_unchanged() {
        let (blocks, details) = stored();
        assert_eq!(compare(&numbers(), &blocks, &details), [10, 11, 12]);
        assert_eq!(compare(&numbers(), &blocks[1..].to_vec(), &details), [11, 12]);
        assert_eq!(compare(&numbers(), &blocks, &details[..2].to_vec()), [10, 11]);
        assert_eq!(compare(&numbers().part(2, 4), &blocks, &details), [11, 12]);
        assert_eq!(compare(&numbers().part(0, 0), &blocks, &details), [] as [u64; 0]);
    }

    #[test]
    fn any_other_value_is_a_difference() {
        let (blocks, details) = stored();
        let wanted = numbers();
        for other in [
            Numbers { tn: &[10_000, 10_998, 11_000, 12_345], ..wanted },
            Numbers { route: &[1, 1, 1, 2], ..wanted },
            Numbers { donor: &[1, 1, 2, 0], ..wanted },
            Numbers { ported_at: &[0, 8, 9, u32::MAX], ..wanted },
        ] {
            assert_eq!(compare(&other, &blocks, &details), [11, 12]);
        }
        assert_eq!(compare(&wanted.part(1, 4), &blocks, &details), [11, 12], "one is to go");
        let more = Numbers { tn: &[11_000, 11_001], ..wanted.part(2, 4) };
        assert_eq!(compare(&more, &blocks, &details), [] as [u64; 0], "one is to come");
    }

    #[test]
    fn any_damaged_byte_is_a_difference() {
        let (blocks, details) = stored();
        for at in 0..BLOCK_BYTES {
            let mut damaged = blocks.clone();
            damaged[1].1[at] ^= 0x10;
            assert_eq!(compare(&numbers(), &damaged, &details), [10, 12]);
        }
        for at in 0..details[1].1.len() {
            let mut damaged = details.clone();
            damaged[1].1[at] ^= 0x10;
            assert_eq!(compare(&numbers(), &blocks, &damaged), [10, 12]);
            damaged[1].1.truncate(at);
            assert_eq!(compare(&numbers(), &blocks, &damaged), [10, 12]);
        }
    }
}
