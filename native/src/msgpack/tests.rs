use proptest::prelude::*;

use super::*;

fn written(write: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

#[test]
fn integer_of_every_width_is_read_and_written_shortest() {
    let cases: [(u64, &[u8]); 11] = [
        (0, b"\x00"),
        (127, b"\x7f"),
        (128, b"\xcc\x80"),
        (255, b"\xcc\xff"),
        (256, b"\xcd\x01\x00"),
        (65_535, b"\xcd\xff\xff"),
        (65_536, b"\xce\x00\x01\x00\x00"),
        (u64::from(u32::MAX), b"\xce\xff\xff\xff\xff"),
        (1 << 32, b"\xcf\0\0\0\x01\0\0\0\0"),
        (886_912_345_678, b"\xcf\0\0\0\xce\x80\x18\x66\x4e"),
        (u64::MAX, b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff"),
    ];
    for (value, bytes) in cases {
        assert_eq!(Reader::new(bytes).integer(), Some(Integer::Positive(value)));
        assert_eq!(written(|out| write_integer(value, out)), bytes, "{value}");
    }
}

#[test]
fn signed_forms_are_read() {
    let cases: [(&[u8], Integer); 9] = [
        (b"\xff", Integer::Negative(-1)),
        (b"\xe0", Integer::Negative(-32)),
        (b"\xd0\x80", Integer::Negative(-128)),
        (b"\xd0\x7f", Integer::Positive(127)),
        (b"\xd1\xff\xff", Integer::Negative(-1)),
        (b"\xd1\x01\x00", Integer::Positive(256)),
        (b"\xd2\x80\0\0\0", Integer::Negative(i64::from(i32::MIN))),
        (b"\xd3\0\0\0\0\0\0\0\x05", Integer::Positive(5)),
        (b"\xd3\x80\0\0\0\0\0\0\0", Integer::Negative(i64::MIN)),
    ];
    for (bytes, value) in cases {
        assert_eq!(Reader::new(bytes).integer(), Some(value), "{bytes:x?}");
    }
}

#[test]
fn value_of_another_kind_is_none() {
    for code in [0xc0, 0xc1, 0xc2, 0xc3, 0xca, 0xcb, 0xc4, 0xd4, 0x80, 0xde] {
        let bytes = [&[code][..], &[0; 20]].concat();
        assert_eq!(Reader::new(&bytes).integer(), None, "{code:x}");
        assert_eq!(Reader::new(&bytes).text(), None, "{code:x}");
        assert_eq!(Reader::new(&bytes).array(), None, "{code:x}");
    }
}

/// A value with each first byte, of the length that the specification says.
fn value_of(code: u8) -> Option<Vec<u8>> {
    let mut bytes = vec![code];
    let behind = match code {
        0xc1 => return None,
        0x80..=0x8f => 2 * usize::from(code & 0x0f),
        0x90..=0x9f => usize::from(code & 0x0f),
        0xa0..=0xbf => usize::from(code & 0x1f),
        0xcc | 0xd0 => 1,
        0xcd | 0xd1 | 0xd4 => 2,
        0xd5 => 3,
        0xca | 0xce | 0xd2 => 4,
        0xd6 => 5,
        0xcb | 0xcf | 0xd3 => 8,
        0xd7 => 9,
        0xd8 => 17,
        0xc4..=0xc9 | 0xd9..=0xdf => {
            // Three of them; bin, ext, str, array and map each come with lengths of three widths.
            let width = match code {
                0xc4 | 0xc7 | 0xd9 => 1,
                0xc5 | 0xc8 | 0xda | 0xdc | 0xde => 2,
                _ => 4,
            };
            bytes.extend(vec![0; width - 1]);
            bytes.push(3);
            match code {
                0xde | 0xdf => 6,
                0xc7..=0xc9 => 4,
                _ => 3,
            }
        }
        _ => 0,
    };
    bytes.extend(vec![0; behind]);
    Some(bytes)
}

#[test]
fn value_of_every_first_byte_is_passed_over_whole_and_not_a_byte_further() {
    for code in 0..=u8::MAX {
        let Some(value) = value_of(code) else {
            assert_eq!(Reader::new(&[code; 9]).skip(), None);
            continue;
        };
        let followed = [&value[..], b"rest"].concat();
        let mut reader = Reader::new(&followed);
        assert_eq!(reader.skip(), Some(()), "{code:x}");
        assert_eq!(reader.rest(), b"rest", "{code:x}");
        for end in 0..value.len() {
            assert_eq!(Reader::new(&value[..end]).skip(), None, "{code:x} cut at {end}");
        }
    }
}

#[test]
fn depth_costs_no_stack() {
    for level in [&b"\x91"[..], b"\x81\xa1k", b"\x81", b"\xdc\0\x01", b"\x92\xc0"] {
        let deep = level.repeat(1_000_000);
        assert_eq!(Reader::new(&deep).skip(), None);
        let ends = if level == b"\x81" { 1_000_001 } else { 1 };
        assert_eq!(Reader::new(&[deep, b"\xc0".repeat(ends)].concat()).skip(), Some(()));
    }
}

#[test]
fn length_that_the_bytes_do_not_hold_is_none() {
    for code in [0xdd, 0xdf, 0xdb, 0xc6, 0xc9] {
        let bytes = [&[code, 0xff, 0xff, 0xff, 0xff][..], &[1; 1000]].concat();
        assert_eq!(Reader::new(&bytes).skip(), None, "{code:x}");
    }
    let many = b"\xdf\xff\xff\xff\xff".repeat(20_000);
    assert_eq!(Reader::new(&many).skip(), None);
}

proptest! {
    #[test]
    fn text_survives_the_round_trip(text in ".{0,300}") {
        let bytes = written(|out| write_text(&text, out));
        let mut reader = Reader::new(&bytes);
        prop_assert_eq!(reader.text(), Some(text.as_bytes()));
        prop_assert!(reader.rest().is_empty());
    }

    #[test]
    fn array_head_survives_the_round_trip(elements in 0_usize..65_536) {
        let mut out = Vec::new();
        let bytes = write_array(elements, &mut out);
        prop_assert_eq!(bytes, out.len());
        prop_assert_eq!(Reader::new(&out).array(), Some(elements));
    }

    #[test]
    fn any_bytes_are_passed_over_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut reader = Reader::new(&bytes);
        if reader.skip().is_some() {
            let read = bytes.len() - reader.rest().len();
            prop_assert!(read > 0);
            prop_assert_eq!(Reader::new(&bytes[..read - 1]).skip(), None);
        }
    }
}
