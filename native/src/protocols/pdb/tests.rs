use proptest::prelude::*;

use super::*;

const REQUEST: &[u8] = b"\x01\x00\x00\x13\x00\x00886912345001\0";
const OK_123: &[u8] = b"\x01\x01\x01\x15\x00\x00886912345001\0\x00\x7b";
const NUMBER: &[u8] = b"886912345001";

fn request(payload: &[u8]) -> Vec<u8> {
    [&[1, 0, 0, (6 + payload.len()) as u8, 0, 7][..], payload].concat()
}

fn query(id: u16, number: Option<&[u8]>) -> Query<'_> {
    Query { id: Some(id), number, odd: false }
}

fn answer(query: &Query<'_>, carrier_id: Option<u16>) -> Vec<u8> {
    let mut out = b"kept".to_vec();
    encode_answer(query, carrier_id, &mut out);
    out.strip_prefix(b"kept").unwrap().to_vec()
}

#[test]
fn captured_request_is_read_and_answered() {
    assert_eq!(decode_query(REQUEST, false), Ok(query(0, Some(NUMBER))));
    assert_eq!(answer(&query(0, Some(NUMBER)), Some(123)), OK_123);
    let ok = b"\x01\x01\x01\x15\x12\x34886912345001\0\x03\xe8";
    assert_eq!(answer(&query(0x1234, Some(NUMBER)), Some(1000)), ok);
    assert_eq!(answer(&query(1, Some(NUMBER)), None), b"\x01\x01\x03\x06\x00\x01");
    assert_eq!(answer(&query(2, None), None), b"\x01\x01\x02\x06\x00\x02");
    assert_eq!(answer(&query(2, None), Some(123)), b"\x01\x01\x02\x06\x00\x02");
}

/// Datagram, carrier id, the digits read, the reply.
type Captured<'a> = (&'a [u8], Option<u16>, &'a [u8], &'a [u8]);

#[test]
fn older_form_is_answered_in_its_own_form() {
    let cases: [Captured<'_>; 6] = [
        (&REQUEST[6..], Some(123), NUMBER, &OK_123[6..]),
        (b"4420\0", None, b"4420", b"4420\0\0\0"),
        (b"886912x5", Some(12), b"886912", b"886912\0\0\x0c"),
        (b"886912", Some(12), b"886912", b"886912\0\0\x0c"),
        (b"0\0\0\0\0", None, b"0", b"0\0\0\0"),
        (b"9\xff\xff", None, b"9", b"9\0\0\0"),
    ];
    for (datagram, carrier_id, digits, reply) in cases {
        let query = decode_query(datagram, true).unwrap();
        assert_eq!(query, Query { id: None, number: Some(digits), odd: false });
        assert_eq!(answer(&query, carrier_id), reply);
        assert_eq!(decode_query(datagram, false), Err(Drop::NotAQuery));
    }
}

#[test]
fn older_form_has_an_echo_up_to_252_digits() {
    for behind in [&b""[..], b"\0", b"\x007777777"] {
        let datagram = |digits| [&b"8".repeat(digits)[..], behind].concat();
        assert_eq!(answer(&decode_query(&datagram(252), true).unwrap(), Some(5)).len(), 255);
        for digits in [253, 254, 255, 256, 60_000] {
            assert_eq!(decode_query(&datagram(digits), true), Err(Drop::TooLong));
        }
    }
}

#[test]
fn other_first_byte_is_not_a_query() {
    for first in (0..=u8::MAX).filter(|first| *first != 1 && !first.is_ascii_digit()) {
        for rest in [&b""[..], &REQUEST[1..], NUMBER] {
            assert_eq!(decode_query(&[&[first], rest].concat(), true), Err(Drop::NotAQuery));
        }
    }
}

#[test]
fn request_cut_at_any_byte_is_malformed() {
    for end in 0..REQUEST.len() {
        assert_eq!(decode_query(&REQUEST[..end], true), Err(Drop::Malformed), "{end}");
    }
}

#[test]
fn bytes_behind_the_zero_byte_are_not_looked_at() {
    for behind in [&b"\0"[..], b"5", REQUEST, &vec![0; 65_000]] {
        let datagram = [REQUEST, behind].concat();
        assert_eq!(decode_query(&datagram, true), Ok(Query { odd: true, ..query(0, Some(NUMBER)) }));
    }
}

#[test]
fn length_byte_and_type_and_code() {
    for byte in 0..=u8::MAX {
        let with = |at: usize| [&REQUEST[..at], &[byte], &REQUEST[at + 1..]].concat();
        let read = |datagram: &[u8]| decode_query(datagram, true).map(|query| (query.odd, query.number.is_some()));
        assert_eq!(read(&with(3)), Ok((byte != 0x13, true)));
        assert_eq!(read(&with(2)), Ok((false, true)));
        assert_eq!(read(&with(1)), if byte == 0 { Ok((false, true)) } else { Err(Drop::NotAQuery) });
    }
    // Too short to hold a number, it is not even asked whether it is an answer.
    assert_eq!(decode_query(b"\x01\x01\x03\x06\x00\x01", true), Err(Drop::Malformed));
    assert_eq!(decode_query(b"\x01\x01\x03\x06\x00\x01\0", true), Err(Drop::NotAQuery));
}

#[test]
fn payload_is_a_number_or_none() {
    let eights = [b'8'; 300];
    let cases: [(&[u8], Option<&[u8]>); 11] = [
        (b"", Some(b"")),
        (b"8", Some(b"8")),
        (&eights[..31], Some(&eights[..31])),
        (&eights[..32], Some(&eights[..32])),
        (&eights[..33], Some(b"")),
        (&eights[..246], Some(b"")),
        (b"+886912345001", None),
        (b"8869 12345001", None),
        (b"\xb2\xb3", None),
        (&[b'x'; 32], None),
        (&[b'x'; 33], Some(b"")),
    ];
    for (payload, number) in cases {
        let datagram = request(&[payload, b"\0"].concat());
        assert_eq!(decode_query(&datagram, true), Ok(query(7, number)), "{payload:x?}");
    }
    for byte in 1..=u8::MAX {
        let datagram = request(&[b'8', byte, 0]);
        let number = decode_query(&datagram, true).unwrap().number.map(<[u8]>::to_vec);
        assert_eq!(number, byte.is_ascii_digit().then(|| vec![b'8', byte]));
    }
}

proptest! {
    #[test]
    fn any_datagram_is_a_query_or_dropped_and_its_reply_is_no_query(
        datagram in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..300),
            proptest::collection::vec(any::<u8>(), 0..60).prop_map(|payload| request(&payload)),
            "[0-9]{0,260}".prop_map(String::into_bytes),
        ],
        carrier_id in proptest::option::of(1_u16..32_768),
    ) {
        if let Ok(query) = decode_query(&datagram, true) {
            let reply = answer(&query, carrier_id);
            prop_assert!(reply.len() <= datagram.len() + 3 && reply.len() <= PDB_MESSAGE_BYTES_MAX);
            prop_assert_eq!(decode_query(&reply, true).is_ok(), query.id.is_none());
        }
    }
}
