//! Any bytes of the store's file: state, routes, ranges, blocks. The first byte says which.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lookupd_native::store::State;
use lookupd_native::store::layout::{Tables, block_is_sound, checksum, entry};

/// A checksum that fits would not be guessed: half of the inputs get one.
fn checked(data: &[u8], key: u64) -> Vec<u8> {
    [data, &checksum(data, key).to_le_bytes()].concat()
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let mut tables = Tables::new(1);
    match choice % 6 {
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
        _ => {
            let value = checked(bytes, 7);
            assert_eq!(entry(7, &value, 999).is_ok(), block_is_sound(7, &value));
        }
    }
});
