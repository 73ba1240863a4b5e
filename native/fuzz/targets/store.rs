//! Any bytes of the store's file: state, routes, ranges, blocks, their restrictions. The first byte says which.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lookupd_native::store::layout::{Tables, block_is_sound, checksum, entry};
use lookupd_native::store::{State, restricted};

/// A checksum that fits would not be guessed: half of the inputs get one.
fn checked(data: &[u8], key: u64) -> Vec<u8> {
    [data, &checksum(data, key).to_le_bytes()].concat()
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let mut tables = Tables::new(1);
    match choice % 8 {
        0 => drop(State::unpack(bytes)),
        1 => drop(State::unpack(&checked(bytes, 0))),
        2 => {
            let Some((key, value)) = bytes.split_first_chunk::<2>() else { return };
            if tables.add_route(key, value).is_ok() {
                assert!(tables.route(u16::from_be_bytes(*key)).is_some());
            }
        }
        3 => {
            let (key, value) = bytes.split_at(bytes.len().saturating_sub(2));
            let is_number = (1..=15).contains(&key.len()) && key.iter().all(u8::is_ascii_digit);
            if tables.add_range(key, value).is_ok() && is_number {
                let holder = u16::from_le_bytes([value[0], value[1]]);
                assert_eq!(tables.range_holder(key), Some(holder));
            }
        }
        4 => drop(entry(7, bytes, usize::from(choice))),
        5 => {
            let value = checked(bytes, 7);
            assert_eq!(entry(7, &value, 999).is_ok(), block_is_sound(7, &value));
        }
        6 => drop(restricted::find(7, bytes, usize::from(choice), 9)),
        _ => {
            // One part that fits: the whole value, with every number's part ending where it ends.
            let Some((offset, bytes)) = bytes.split_first_chunk::<2>() else { return };
            let offset = usize::from(u16::from_le_bytes(*offset)) % 1000;
            let records = &bytes[..bytes.len() / 16 * 16];
            let part = offset / 64;
            let ends = (0..16).map(|at| if at < part { 64 } else { 72 + records.len() as u32 });
            let mut value: Vec<u8> = ends.flat_map(u32::to_le_bytes).collect();
            value.extend(checked(records, 7 * 16 + part as u64));
            let is_about = |record: &[u8]| {
                let [first, last] = [0, 2].map(|at| usize::from(u16::from_le_bytes([record[at], record[at + 1]])));
                (first..=last).contains(&offset)
            };
            if restricted::find(7, &value, offset, 9).is_ok() {
                assert!(records.chunks(16).any(is_about));
            }
        }
    }
});
