//! Values that Python wrote, and any bytes at all.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

/// As `(7 * i + i // 251) % 256` in Python, where the sums below were made.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| ((7 * i + i / 251) % 256) as u8).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[test]
fn checksums_are_pythons() {
    for (block, sum) in [
        (0, 0xfc44_9b4f_2e8f_afcf),
        (1, 0xeec4_369f_5a6c_aefe),
        (886_912_345, 0x5302_325e_a4c5_62e3),
        (999_999_999_999, 0xa782_732e_fa6a_cc06),
        (u64::MAX, 0x5add_fe3d_966b_53e4),
    ] {
        assert_eq!(checksum(&pattern(CHECKED_BYTES), block), sum, "block {block}");
    }
    for (length, sum) in [
        (0, 0x913a_e087_3e9b_7eb8),
        (1, 0x2c45_aa60_ff5d_c0e5),
        (3, 0xb5fc_1cf4_e88d_6431),
        (8, 0x3bd2_5287_77f4_26f9),
        (16, 0x6751_2397_cf4e_348d),
        (17, 0x6e52_325a_b03c_5b7c),
        (128, 0x5c15_fd4b_6f41_1cf7),
        (129, 0x2083_3fb9_3a1d_e438),
        (240, 0x76fd_a3c8_cdc8_864b),
        (241, 0x86b9_e393_578d_581b),
        (1024, 0x5b5e_2937_da97_2aa8),
        (1025, 0xe255_f5a5_e722_3602),
        (2007, 0xff9f_c1c7_2348_5d83),
    ] {
        assert_eq!(checksum(&pattern(length), 7), sum, "{length} bytes");
    }
}

const STATE: &str = "97cd3039cf80000000000000050a040982a46d61696e9503a8736e617073686f74a26162c0ce6b49d3f4a56f74686572\
                     95ce00011170a564656c7461d92863646364636463646364636463646364636463646364636463646364636463646364\
                     636463646364ce6b49d200ce6b49d390c410000102030405060708090a0b0c0d0e0fefe00f61b509e257";

#[test]
fn states_that_python_wrote_are_read() {
    let state = State { serial: 12345, digest: (1 << 63) + 5, tables: 9, confirmed_at: Some(1_800_000_400) };
    assert_eq!(State::unpack(&unhex(STATE)), Ok(state));
    let empty = unhex("97000000000080c4100000000000000000000000000000000054cd3ccf26d0da85");
    assert_eq!(State::unpack(&empty), Ok(State::default()));
}

#[test]
fn a_state_that_is_not_what_was_written_is_refused() {
    let state = unhex(STATE);
    for at in 0..state.len() {
        for bit in 0..8 {
            let mut flipped = state.clone();
            flipped[at] ^= 1 << bit;
            assert_eq!(State::unpack(&flipped), Err(unfit()));
        }
        assert_eq!(State::unpack(&state[..at]), Err(unfit()));
    }
}

fn checked(mut packed: Vec<u8>) -> Vec<u8> {
    packed.extend(checksum(&packed, 0).to_le_bytes());
    packed
}

#[test]
fn a_sound_sum_over_something_else_is_refused() {
    for packed in ["", "c1", "01", "80", "9001", "9101ff", "91a0", "dcffff", "ddffffffff", "9700000000008191", "91d0ff"]
    {
        assert!(State::unpack(&checked(unhex(packed))).is_err(), "{packed}");
    }
    let deep = [vec![0x97, 0, 0], vec![0x91; 100], vec![0; 10]].concat();
    assert!(State::unpack(&checked(deep)).is_err());
    assert_eq!(State::unpack(&checked(unhex("90"))), Ok(State::default()));
}

#[test]
fn routes_that_python_wrote_are_read() {
    let mut tables = Tables::new(1);
    let [first, second] =
        ["95a431343032a54430343032ab42657461204d6f62696c6566c3", "95a431343033c0a647c3a46d6d61c0c2"].map(unhex);
    tables.add_route(&[0, 1], &first).unwrap();
    tables.add_route(&[0, 9], &second).unwrap();
    let beta = Route {
        network_code: "1402".to_owned(),
        routing_number: Some("D0402".to_owned()),
        operator: "Beta Mobile".to_owned(),
        pdb_carrier_id: Some(102),
        own: true,
    };
    assert_eq!(tables.route(1), Some(&beta));
    assert_eq!(tables.route(9).map(|route| (route.operator.as_str(), route.own)), Some(("G\u{e4}mma", false)));
    assert_eq!([0, 2, 8, 10, 0x7FFF, 0xFFFF].map(|id| tables.route(id)), [None; 6]);
    for length in 0..first.len() {
        assert!(tables.add_route(&[0, 1], &first[..length]).is_err());
    }
    assert!(tables.add_route(&[0, 1], &[&first[..], &[0xC0]].concat()).is_err());
    assert!(tables.add_route(&[1], &first).is_err());
}

#[test]
fn the_longest_prefix_wins_and_leading_zeros_count() {
    let mut tables = Tables::new(1);
    for (prefix, id) in [("8", 1u16), ("88", 2), ("8869", 3), ("88691", 4), ("0", 5), ("00", 6), ("x", 7)] {
        tables.add_range(prefix.as_bytes(), &id.to_le_bytes()).unwrap();
    }
    tables.add_range(b"1234567890123456", &[9, 0]).unwrap();
    for (digits, id) in [
        ("886912345678", Some(4)),
        ("886922345678", Some(3)),
        ("8869", Some(3)),
        ("886", Some(2)),
        ("8", Some(1)),
        ("07", Some(5)),
        ("007", Some(6)),
        ("", None),
        ("9", None),
        ("x", None),
        ("88x", Some(2)),
        ("1234567890123456", None),
        ("8869123456789012", Some(4)),
    ] {
        assert_eq!(tables.range_holder(digits.as_bytes()), id, "{digits}");
    }
    assert!(tables.add_range(b"8", &[1]).is_err());
    assert!(tables.add_range(b"\xff", &[1, 0]).is_err());
}

fn block(number: u64, mut value: Vec<u8>) -> Vec<u8> {
    value.truncate(CHECKED_BYTES);
    value.extend(checksum(&value, number).to_le_bytes());
    value
}

#[test]
fn a_block_is_read_under_its_own_number_only() {
    let value = block(5, pattern(CHECKED_BYTES));
    assert_eq!(entry(5, &value, 0), Ok(0x0700));
    assert_eq!(entry(5, &value, 999), Ok(u16::from_le_bytes([value[1998], value[1999]])));
    for (number, value, offset) in [
        (6, &value[..], 0),
        (5, &value[..], 1000),
        (5, &value[..], usize::MAX),
        (5, &value[..2015], 0),
        (5, &[&value[..], &[0]].concat()[..], 0),
        (5, &[][..], 0),
        (5, &[0; BLOCK_BYTES][..], 0),
    ] {
        assert_eq!(entry(number, value, offset), Err(Damaged(number)));
    }
    for at in 0..BLOCK_BYTES {
        let mut flipped = value.clone();
        flipped[at] ^= 0x10;
        assert_eq!(entry(5, &flipped, 3), Err(Damaged(5)));
    }
}

proptest! {
    #[test]
    fn any_bytes_give_a_value_or_an_error(bytes in vec(any::<u8>(), 0..300), key in vec(any::<u8>(), 0..4)) {
        let _ = State::unpack(&bytes);
        let _ = State::unpack(&checked(bytes.clone()));
        let mut inner = Unpacker(&bytes);
        let _ = inner.skip(DEPTH_MAX);
        let mut tables = Tables::new(0);
        let _ = tables.add_route(&key, &bytes);
        let _ = tables.add_range(&bytes, &key);
        let _ = tables.range_holder(&bytes);
        let _ = block_number(&bytes);
        let _ = entry(u64::from(bytes.len() as u32), &bytes, bytes.len());
    }

    #[test]
    fn mutated_states_give_a_value_or_an_error(at in 0usize..130, byte: u8, cut in 0usize..140) {
        let mut packed = unhex(STATE);
        packed.truncate(packed.len() - 8);
        if let Some(place) = packed.get_mut(at) {
            *place = byte;
        }
        packed.truncate(cut);
        let _ = State::unpack(&checked(packed));
    }

    #[test]
    fn holders_are_those_of_the_longest_prefix(
        ranges in btree_map("[0-3]{1,6}", any::<u16>(), 0..40), digits in "[0-3]{0,9}"
    ) {
        let ranges: BTreeMap<String, u16> = ranges;
        let mut tables = Tables::new(0);
        for (prefix, id) in &ranges {
            tables.add_range(prefix.as_bytes(), &id.to_le_bytes()).unwrap();
        }
        let fitting = ranges.iter().filter(|(prefix, _)| digits.starts_with(prefix.as_str()));
        let longest = fitting.max_by_key(|(prefix, _)| prefix.len()).map(|(_, id)| *id);
        prop_assert_eq!(tables.range_holder(digits.as_bytes()), longest);
    }
}
