//! Numbers to the values of `blocks` and `details`, as `lookupd/store/schema.py` lays them out.

pub use crate::store::ROUTE_MASK;
use crate::store::layout::checksum;
pub use crate::store::layout::{BLOCK_BYTES, NUMBERS_PER_BLOCK};

/// Bytes of a block's entries.
pub const ENTRIES_BYTES: usize = 2 * NUMBERS_PER_BLOCK;
/// Bytes of one number's record in a details value.
pub const DETAIL_BYTES: usize = 16;

const TN_FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
/// Numbers in a block, as a divisor.
pub const THOUSAND: u64 = NUMBERS_PER_BLOCK as u64;

/// What was given is no table of numbers: our own mistake, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfit(pub &'static str);

/// Ported numbers, one index a number; tn strictly rising, routes from 1 to 0x7FFF.
#[derive(Clone, Copy, Debug)]
pub struct Numbers<'a> {
    /// E.164 digits as integers.
    pub tn: &'a [u64],
    /// Route ids.
    pub route: &'a [u16],
    /// Donors' route ids, 0 = not told.
    pub donor: &'a [u16],
    /// Unix seconds, 0 = not told.
    pub ported_at: &'a [u32],
}

impl<'a> Numbers<'a> {
    /// Whether it is a table at all: columns of one length, numbers that rise.
    pub fn check(&self) -> Result<(), Unfit> {
        if [self.route.len(), self.donor.len(), self.ported_at.len()] != [self.tn.len(); 3] {
            return Err(Unfit("columns differ in length"));
        }
        if self.tn.is_sorted_by(|one, next| one < next) { Ok(()) } else { Err(Unfit("numbers do not rise")) }
    }

    /// The numbers start..end; none where they are not within the table.
    #[must_use]
    pub fn part(&self, start: usize, end: usize) -> Numbers<'a> {
        Numbers {
            tn: self.tn.get(start..end).unwrap_or_default(),
            route: self.route.get(start..end).unwrap_or_default(),
            donor: self.donor.get(start..end).unwrap_or_default(),
            ported_at: self.ported_at.get(start..end).unwrap_or_default(),
        }
    }
}

/// Values ready to be put, in the order of their keys: one of each kind for every block.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Block numbers.
    pub blocks: Vec<u64>,
    /// Values of `blocks`, `BLOCK_BYTES` each.
    pub block_values: Vec<u8>,
    /// Values of `details`, one behind the other.
    pub details_values: Vec<u8>,
    /// Where each value of `details` ends.
    pub details_ends: Vec<usize>,
    /// Sum of the blocks' content digests, mod 2^64.
    pub content: u64,
}

/// Where each block begins among rising numbers: block numbers, and the index of the first number of each.
pub fn block_starts(tn: impl Iterator<Item = u64>) -> (Vec<u64>, Vec<usize>) {
    let (mut blocks, mut starts) = (Vec::new(), Vec::new());
    let mut next = 0;
    for (at, tn) in tn.enumerate() {
        if tn >= next || at == 0 {
            let block = tn / THOUSAND;
            blocks.push(block);
            starts.push(at);
            next = block.saturating_add(1).saturating_mul(THOUSAND);
        }
    }
    (blocks, starts)
}

/// `schema.mix`: a 64-bit permutation.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// Pack whole blocks in which nothing stood before.
///
/// sequence: feed position noted with each number. fingerprints: by route id, what each route stands for.
pub fn pack_numbers(numbers: &Numbers, sequence: u64, fingerprints: &[u64]) -> Result<Packed, Unfit> {
    numbers.check()?;
    let count = numbers.tn.len();
    let (blocks, _) = block_starts(numbers.tn.iter().copied());
    let mut packed = Packed {
        block_values: Vec::with_capacity(blocks.len() * BLOCK_BYTES),
        details_values: Vec::with_capacity(count * DETAIL_BYTES + blocks.len() * 8),
        details_ends: Vec::with_capacity(blocks.len()),
        content: 0,
        blocks: Vec::new(),
    };
    let mut rows = numbers
        .tn
        .iter()
        .zip(numbers.route)
        .zip(numbers.donor.iter().zip(numbers.ported_at))
        .map(|((&tn, &route), (&donor, &ported_at))| (tn, route, donor, ported_at))
        .peekable();
    for &block in &blocks {
        let first = block * THOUSAND;
        let mut entries = [0; ENTRIES_BYTES];
        let mut content = 0_u64;
        let details_start = packed.details_values.len();
        while let Some((tn, route, donor, ported_at)) = rows.next_if(|row| row.0 - first < THOUSAND) {
            let offset = (tn - first) as u16;
            let fingerprint = fingerprints.get(usize::from(route)).ok_or(Unfit("a route is not known"))?;
            if route == 0 || route > ROUTE_MASK {
                return Err(Unfit("a route is no route"));
            }
            if let Some(entry) = entries.get_mut(2 * usize::from(offset)..2 * usize::from(offset) + 2) {
                entry.copy_from_slice(&route.to_le_bytes());
            }
            content = content.wrapping_add(mix(tn.wrapping_mul(TN_FACTOR).wrapping_add(*fingerprint)));
            let mut record = [0; DETAIL_BYTES];
            record[..2].copy_from_slice(&offset.to_le_bytes());
            record[2..4].copy_from_slice(&donor.to_le_bytes());
            record[4..8].copy_from_slice(&ported_at.to_le_bytes());
            record[8..].copy_from_slice(&sequence.to_le_bytes());
            packed.details_values.extend_from_slice(&record);
        }
        seal(&mut packed.details_values, details_start, block);
        packed.details_ends.push(packed.details_values.len());
        put_block(&mut packed.block_values, block, &entries, content);
        packed.content = packed.content.wrapping_add(content);
    }
    packed.blocks = blocks;
    Ok(packed)
}

/// `schema.pack_block`, behind what the buffer holds.
fn put_block(values: &mut Vec<u8>, block: u64, entries: &[u8], content: u64) {
    let start = values.len();
    values.extend_from_slice(entries);
    values.extend_from_slice(&content.to_le_bytes());
    seal(values, start, block);
}

/// Put the checksum of everything from `start` on, keyed by the block's number, behind it.
fn seal(values: &mut Vec<u8>, start: usize, block: u64) {
    let checksum = checksum(values.get(start..).unwrap_or_default(), block);
    values.extend_from_slice(&checksum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_packed_by_block() {
        let tn = [10_000, 10_999, 886_912_345_678];
        let numbers = Numbers { tn: &tn, route: &[1, 2, 1], donor: &[0, 1, 0], ported_at: &[0, 7, 9] };
        let packed = pack_numbers(&numbers, 5, &[0, 11, 12]).unwrap();
        assert_eq!(packed.blocks, [10, 886_912_345]);
        assert_eq!(packed.block_values.len(), 2 * BLOCK_BYTES);
        assert_eq!(packed.details_ends, [40, 64]);
        let block = &packed.block_values[..BLOCK_BYTES];
        assert_eq!((block[0], block[1998], block[1999]), (1, 2, 0));
        assert_eq!(block[BLOCK_BYTES - 8..], checksum(&block[..BLOCK_BYTES - 8], 10).to_le_bytes());
        assert_eq!(packed.details_values[16..32], [0xE7, 3, 1, 0, 7, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn tables_that_are_none_are_refused() {
        let numbers =
            |tn: &'static [u64], route: &'static [u16]| Numbers { tn, route, donor: &[0, 0], ported_at: &[0, 0] };
        assert!(pack_numbers(&numbers(&[10_000, 10_001], &[1, 1]), 1, &[0, 1]).is_ok());
        for (tn, route) in [
            (&[10_001, 10_000][..], &[1, 1][..]),
            (&[10_000, 10_000], &[1, 1]),
            (&[10_000, 10_001], &[1, 2]),
            (&[10_000, 10_001], &[1, 0]),
            (&[10_000], &[1, 1]),
            (&[10_000, 10_001], &[1]),
        ] {
            assert!(pack_numbers(&numbers(tn, route), 1, &[0, 1]).is_err());
        }
        let most = Numbers { tn: &[u64::MAX], route: &[1], donor: &[0], ported_at: &[0] };
        assert_eq!(pack_numbers(&most, 1, &[0, 1]).unwrap().blocks, [u64::MAX / 1000]);
    }

    #[test]
    fn blocks_start_where_the_thousand_changes() {
        assert_eq!(block_starts([0, 999, 1000, 5000, 5001].into_iter()), (vec![0, 1, 5], vec![0, 2, 3]));
        assert_eq!(block_starts([].into_iter()), (vec![], vec![]));
    }
}
