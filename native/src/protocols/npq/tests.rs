use proptest::prelude::*;

use super::*;
use crate::model::{Measure, Outcome, Route};

const MALFORMED: Fault = Fault::Drop(Drop::Malformed);
const NOT_A_QUERY: Fault = Fault::Drop(Drop::NotAQuery);

fn refused(id: impl Into<Option<u32>>, code: u8) -> Fault {
    Fault::Refused { id: id.into(), code }
}

/// What a message asks: id, names, whether an array was asked, and the numbers as dialled.
type Read = (u32, bool, bool, Vec<String>);

fn read(message: &[u8]) -> Result<Read, Fault> {
    let query = decode_query(message)?;
    let dialled = |number: Number<'_>| String::from_utf8(number.dialled(&mut [0; 20]).to_vec()).unwrap();
    Ok(match query.numbers {
        Numbers::One(number) => (query.id, query.names, false, vec![dialled(number)]),
        Numbers::Many(many) => (query.id, query.names, true, many.iter().map(dialled).collect()),
    })
}

fn one(id: u32, names: bool, number: &str) -> Read {
    (id, names, false, vec![number.to_owned()])
}

fn many(id: u32, names: bool, numbers: &[&str]) -> Read {
    (id, names, true, numbers.iter().map(ToString::to_string).collect())
}

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// A batch query of `count` times the number 1.
fn batch(count: u16) -> Vec<u8> {
    let mut message = b"\x94\x01\x00\x05\xdc".to_vec();
    message.extend(count.to_be_bytes());
    message.extend(b"\xa11".repeat(usize::from(count)));
    message
}

#[test]
fn query_is_read() {
    let texts_40 = joined(&[b"\x94\x01\x00\x05\xd9\x28", &[b'1'; 40]]);
    let accents_40 = joined(&[b"\x94\x01\x00\x05\xd9\x50", "é".repeat(40).as_bytes()]);
    let phones_40 = joined(&[b"\x94\x01\x00\x05\xd9\xa0", "\u{1f4de}".repeat(40).as_bytes()]);
    let cases: Vec<(&[u8], Read)> = vec![
        (b"\x94\x01\x00\x07\xac886912345678", one(7, false, "886912345678")),
        (b"\x95\x01\x00\x07\xac886912345678\x01", one(7, true, "886912345678")),
        (b"\x95\x01\x00\x05\xa3110\x00", one(5, false, "110")),
        (b"\x95\x01\x00\x05\xa3110\x02", one(5, false, "110")),
        (b"\x95\x01\x00\x05\xa3110\xff", one(5, false, "110")),
        (b"\x95\x01\x00\x05\xa3110\xd3\0\0\0\0\0\0\0\x01", one(5, true, "110")),
        (b"\x95\x01\x00\x05\xa3110\xcf\xff\xff\xff\xff\xff\xff\xff\xff", one(5, false, "110")),
        (b"\x94\x01\x00\xce\xff\xff\xff\xff\xa0", one(u32::MAX, false, "")),
        (b"\x94\x01\x00\x05\x00", one(5, false, "0")),
        (b"\x94\x01\x00\x05\xcf\xff\xff\xff\xff\xff\xff\xff\xff", one(5, false, "18446744073709551615")),
        (b"\x94\x01\x00\x05\xd3\0\0\0\xce\x80\x18\x66\x4e", one(5, false, "886912345678")),
        (b"\x94\x01\x00\x05\x93\xa3110\x77\xa0", many(5, false, &["110", "119", ""])),
        (b"\x96\x01\x00\x05\xa3110\x01\xc0", one(5, true, "110")),
        (b"\x96\x01\x00\x05\xa3110\x01\x81\xa1k\x93\xcb\0\0\0\0\0\0\0\0\xc4\x01x\xd4\x05y", one(5, true, "110")),
        (&texts_40, one(5, false, &"1".repeat(40))),
        (&accents_40, one(5, false, &"é".repeat(40))),
        (&phones_40, one(5, false, &"\u{1f4de}".repeat(40))),
    ];
    for (message, expected) in cases {
        assert_eq!(read(message), Ok(expected), "{message:x?}");
    }
}

#[test]
fn every_width_of_an_integer_an_array_and_a_text_is_read() {
    let widths: [&[u8]; 5] = [b"\x05", b"\xcc\x05", b"\xcd\0\x05", b"\xce\0\0\0\x05", b"\xcf\0\0\0\0\0\0\0\x05"];
    for width in widths {
        for head in [&b"\x94"[..], b"\xdc\0\x04", b"\xdd\0\0\0\x04"] {
            for text in [&b"\xa3"[..], b"\xd9\x03", b"\xda\0\x03", b"\xdb\0\0\0\x03"] {
                let message = joined(&[head, b"\xd0\x01\xd3\0\0\0\0\0\0\0\0", width, text, b"110"]);
                assert_eq!(read(&message), Ok(one(5, false, "110")));
                for list in [&b"\x91"[..], b"\xdc\0\x01", b"\xdd\0\0\0\x01"] {
                    let message = joined(&[head, b"\xd0\x01\xd3\0\0\0\0\0\0\0\0", width, list, text, b"110"]);
                    assert_eq!(read(&message), Ok(many(5, false, &["110"])));
                }
            }
        }
    }
}

#[test]
fn what_is_no_query_is_refused_with_its_reason() {
    let text_41 = joined(&[b"\x94\x01\x00\x05\xd9\x29", &[b'1'; 41]]);
    let accents_41 = joined(&[b"\x94\x01\x00\x05\xd9\x52", "é".repeat(41).as_bytes()]);
    let list_of_41 = joined(&[b"\x94\x01\x00\x00\x91\xd9\x29", &[b'1'; 41]]);
    let cases: Vec<(&[u8], Fault)> = vec![
        // both sides of the bounds
        (b"\x94\x01\x00\xcf\0\0\0\x01\0\0\0\0\xa0", refused(None, 1)),
        (b"\x94\x01\x00\xff\xa0", refused(None, 1)),
        (&text_41, refused(5, 1)),
        (&accents_41, refused(5, 1)),
        (&list_of_41, refused(0, 1)),
        (b"\x94\x01\x00\x05\xff", refused(5, 1)),
        (b"\x94\x01\x00\x05\x92\x01\xff", refused(5, 1)),
        (b"\x94\x01\x00\x05\x90", refused(5, 3)),
        // wrong types
        (b"\x94\x01\x00\xcb\x40\x14\0\0\0\0\0\0\xa0", refused(None, 1)),
        (b"\x94\x01\x00\xc3\xa0", refused(None, 1)),
        (b"\x94\x01\x00\xc0\xa0", refused(None, 1)),
        (b"\x94\x01\x00\xa15\xa0", refused(None, 1)),
        (b"\x94\x01\x00\x91\x91\x05\xa0", refused(None, 1)),
        (b"\x94\x01\x00\x05\xc0", refused(5, 1)),
        (b"\x94\x01\x00\x05\xc2", refused(5, 1)),
        (b"\x94\x01\x00\x05\xca\0\0\0\0", refused(5, 1)),
        (b"\x94\x01\x00\x05\xc4\x03110", refused(5, 1)),
        (b"\x94\x01\x00\x05\x80", refused(5, 1)),
        (b"\x94\x01\x00\x05\x91\x91\xa0", refused(5, 1)),
        (b"\x94\x01\x00\x05\x92\xa0\xc0", refused(5, 1)),
        (b"\x94\x01\x00\x05\xd4\x05x", refused(5, 1)),
        (b"\x95\x01\x00\x05\xa0\xc0", refused(5, 1)),
        (b"\x95\x01\x00\x05\xa0\xc3", refused(5, 1)),
        (b"\x95\x01\x00\x05\xa0\xa11", refused(5, 1)),
        // text that is not UTF-8
        (b"\x94\x01\x00\x05\xa1\xff", refused(5, 1)),
        (b"\x94\x01\x00\x05\xa3\xed\xa0\x80", refused(5, 1)),
        (b"\x94\x01\x00\x05\xa2\xc0\x80", refused(5, 1)),
        // something is missing
        (b"\x93\x01\x00\x05", refused(5, 1)),
        (b"\x92\x01\x00", MALFORMED),
        (b"\x91\x01", MALFORMED),
        (b"\x90", MALFORMED),
        // another version, with our layout or not
        (b"\x94\x00\x00\x05\xa0", refused(5, 2)),
        (b"\x94\x02\x00\x05\xa0", refused(5, 2)),
        (b"\x94\x02\x00\x05\x90", refused(5, 2)),
        (b"\x93\x02\x00\x05", refused(5, 2)),
        (b"\x95\x02\x00\x05\x81\xa1n\x90\xca\0\0\0\0", refused(5, 2)),
        (b"\x94\x02\x00\xa4five\xa0", refused(None, 2)),
        (b"\x94\x02\x00\xcf\0\0\0\x01\0\0\0\0\xa0", refused(None, 2)),
        (b"\x94\xff\x00\x05\xa0", refused(5, 2)),
        (b"\x94\xcf\xff\xff\xff\xff\xff\xff\xff\xff\x00\x05\xa0", refused(5, 2)),
        // a version or a kind that is none
        (b"\x94\xc3\x00\x05\xa0", MALFORMED),
        (b"\x94\xc0\x00\x05\xa0", MALFORMED),
        (b"\x94\x91\x01\x00\x05\xa0", MALFORMED),
        (b"\x94\x01\xc2\x05\xa0", MALFORMED),
        (b"\x94\x01\xca\0\0\0\0\x05\xc0", MALFORMED),
        // another kind
        (b"\x96\x01\x01\x05\x03\x2a\x94\x02\xc0\xc0\x00", NOT_A_QUERY),
        (b"\x95\x01\x02\x05\x01\xa0", NOT_A_QUERY),
        (b"\x94\x01\xff\x05\xa0", NOT_A_QUERY),
        (b"\x94\x02\x01\x05\xa0", NOT_A_QUERY),
        (b"\x93\x02\x01\xc0", NOT_A_QUERY),
        // no array, or no MessagePack
        (b"", MALFORMED),
        (b"\xc0", MALFORMED),
        (b"\xc1", MALFORMED),
        (b"\x01", MALFORMED),
        (b"\xa3110", MALFORMED),
        (b"\x84\x00\x01\x01\x00\x02\x05\x03\xa0", MALFORMED),
        (b"\x96\x01\x00\x05\xa0\x00\xc1", MALFORMED),
        (b"\x93\x02\x00\xc1", MALFORMED),
        (b"\x94\x02\x00\x05\xc1", MALFORMED),
    ];
    for (message, fault) in cases {
        assert_eq!(read(message), Err(fault), "{message:x?}");
    }
}

#[test]
fn batch_has_1_to_1000_numbers() {
    assert_eq!(read(&batch(1)).map(|query| query.3.len()), Ok(1));
    assert_eq!(read(&batch(1000)).map(|query| query.3.len()), Ok(1000));
    for count in [0, 1001, 65_535] {
        assert_eq!(read(&batch(count)), Err(refused(5, 3)));
    }
    let mut wrong = batch(1001);
    *wrong.last_mut().unwrap() = 0xff;
    assert_eq!(read(&wrong), Err(refused(5, 1)), "what is no number counts first");
}

#[test]
fn query_cut_at_any_byte_or_with_bytes_behind_it_is_malformed() {
    let whole: [&[u8]; 6] = [
        b"\x94\x01\x00\xce\xff\xff\xff\xff\xac886912345678",
        b"\x95\x01\x00\xcd\x01\x2c\xcf\0\0\0\xce\x80\x18\x66\x4e\x01",
        b"\x95\x01\x00\x07\x92\xac886912345678\xa3110\x01",
        b"\x97\x01\x00\x07\xa3110\x00\x81\xa1a\x93\x01\xc0\xcb\0\0\0\0\0\0\0\0\xc4\x02zz",
        b"\x94\x02\x00\xce\0\x01\x11\x70\x81\xa7numbers\x91\xa3110",
        b"\x94\x01\x00\x07\xc0",
    ];
    for message in whole {
        assert_ne!(read(message), Err(MALFORMED), "{message:x?}");
        for end in 0..message.len() {
            assert_eq!(read(&message[..end]), Err(MALFORMED), "{message:x?} cut at {end}");
        }
        for behind in [&b"\0"[..], b"\xc0", b"\xc1", b"\xff", whole[0]] {
            assert_eq!(read(&joined(&[message, behind])), Err(MALFORMED));
        }
    }
    let large = batch(1001);
    for end in 0..large.len() {
        assert_eq!(read(&large[..end]), Err(MALFORMED), "{end}");
    }
}

#[test]
fn depth_of_nesting_changes_no_verdict() {
    let cases: [(&[u8], Result<Read, Fault>); 5] = [
        (b"\x96\x01\x00\x05\xa0\x00", Ok(one(5, false, ""))),
        (b"\x94\x01\x00\x05", Err(refused(5, 1))),
        (b"\x94\x02\x00\x05", Err(refused(5, 2))),
        (b"\x93\x01\x00", Err(refused(None, 1))),
        (b"\x93\x01\x01", Err(NOT_A_QUERY)),
    ];
    for (start, expected) in cases {
        for depth in [1, 1000, 260_000] {
            let message = joined(&[start, &b"\x91".repeat(depth), b"\xc0"]);
            assert_eq!(read(&message), expected);
            assert_eq!(read(&message[..message.len() - 1]), Err(MALFORMED));
        }
    }
}

#[test]
fn length_that_the_message_does_not_hold_is_malformed() {
    for start in [&b""[..], b"\x94\x01\x00\x05", b"\x94\x02\x00\x05", b"\x96\x01\x00\x05\xa0\x00", b"\x93\x01\x00"] {
        for code in [0xdd, 0xdc, 0xdf, 0xde, 0xdb, 0xda, 0xd9, 0xc6, 0xc9] {
            for behind in [0, 100] {
                let message = joined(&[start, &[code, 0xff, 0xff, 0xff, 0xff], &vec![1; behind]]);
                assert_eq!(read(&message), Err(MALFORMED), "{message:x?}");
            }
        }
    }
}

#[test]
fn whole_number_is_dialled_as_its_digits() {
    for value in [0, 9, 10, 886_912_345_678, u64::MAX] {
        assert_eq!(Number::Whole(value).dialled(&mut [b'x'; 20]), value.to_string().as_bytes());
    }
}

// -- answers -----------------------------------------------------------------------------------------------

fn route(network_code: &str, routing_number: Option<&str>, operator: &str) -> Route {
    Route {
        network_code: network_code.to_owned(),
        routing_number: routing_number.map(ToOwned::to_owned),
        operator: operator.to_owned(),
        pdb_carrier_id: None,
        own: true,
    }
}

fn answer(outcome: Outcome, route: Option<&Route>, tn: Option<u64>, restricted: bool) -> Answer<'_> {
    let restriction = restricted.then_some(InForce { measure: Measure::Stop, until: 16 });
    Answer { tn, outcome, route, restriction, serial: 3, age_seconds: Some(42) }
}

fn encoded(message: &[u8], answers: &[Answer<'_>], bytes_max: usize) -> (Vec<u8>, usize) {
    let mut out = b"kept".to_vec();
    let held = encode_many(&decode_query(message).unwrap(), answers, bytes_max, &mut out);
    (out.strip_prefix(b"kept").unwrap().to_vec(), held)
}

#[test]
fn result_holds_what_the_answer_says() {
    let alpha = route("1401", Some("D0401"), "Alpha Telecom");
    let gamma = route("1403", None, "Gamma");
    let tn = Some(886_912_345_679);
    let cases: Vec<(Answer<'_>, bool, &[u8])> = vec![
        (answer(Outcome::Ported, Some(&alpha), tn, false), false, b"\x94\x00\xa41401\xa5D0401\x00"),
        (answer(Outcome::Ported, Some(&alpha), tn, true), false, b"\x94\x00\xa41401\xa5D0401\xcd\x01\x03"),
        (answer(Outcome::NotPorted, Some(&gamma), None, false), false, b"\x94\x01\xa41403\xc0\x00"),
        (answer(Outcome::NotAllocated, None, None, false), false, b"\x94\x02\xc0\xc0\x00"),
        (answer(Outcome::NotPortable, None, None, true), false, b"\x94\x03\xc0\xc0\xcd\x01\x03"),
        (answer(Outcome::Unavailable, None, None, false), false, b"\x94\x04\xc0\xc0\x00"),
        (answer(Outcome::Refused, None, None, false), false, b"\x94\x05\xc0\xc0\x00"),
        (
            answer(Outcome::Ported, Some(&alpha), tn, false),
            true,
            b"\x96\x00\xa41401\xa5D0401\x00\xcf\0\0\0\xce\x80\x18\x66\x4f\xadAlpha Telecom",
        ),
        (answer(Outcome::NotAllocated, None, Some(12_345), false), true, b"\x96\x02\xc0\xc0\x00\xcd\x30\x39\xc0"),
        (answer(Outcome::NotPortable, None, None, false), true, b"\x96\x03\xc0\xc0\x00\xc0\xc0"),
    ];
    for (answer, names, result) in cases {
        let detail = &[u8::from(names)];
        let single = encoded(&joined(&[b"\x95\x01\x00\x09\xa3110", detail]), &[answer], 1232);
        assert_eq!(single, (joined(&[b"\x96\x01\x01\x09\x03\x2a", result]), 1));
        let batch = encoded(&joined(&[b"\x95\x01\x00\x09\x91\xa3110", detail]), &[answer], 1232);
        assert_eq!(batch, (joined(&[b"\x96\x01\x01\x09\x03\x2a\x91", result]), 1));
    }
}

#[test]
fn serial_and_age_are_those_of_the_first_answer() {
    let first = Answer { serial: u32::MAX, age_seconds: None, ..answer(Outcome::Unavailable, None, None, false) };
    let message = encoded(b"\x94\x01\x00\x09\xa0", &[first], 1232).0;
    assert_eq!(message, b"\x96\x01\x01\x09\xce\xff\xff\xff\xff\xc0\x94\x04\xc0\xc0\x00");
}

#[test]
fn batch_holds_as_many_results_as_fit_and_not_one_more() {
    let widest = route("99999999", Some("FFFFFFFFFFFFFFF"), &"\u{1f4de}".repeat(64));
    let alpha = route("1401", Some("D0401"), "Alpha Telecom");
    let answers: Vec<_> = (0..40)
        .map(|at| match at % 3 {
            0 => answer(Outcome::NotAllocated, None, Some(886_900_000_000 + at), at % 2 == 0),
            1 => answer(Outcome::Ported, Some(&widest), None, false),
            _ => answer(Outcome::Ported, Some(&alpha), Some(at), true),
        })
        .collect();
    for names in [b"\x00", b"\x01"] {
        let query = joined(&[b"\x95\x01\x00\x09\xdc\x00\x28", &b"\xa11".repeat(40), names]);
        for count in 1..=answers.len() {
            let (fitting, held) = encoded(&query, &answers[..count], 1 << 20);
            assert_eq!(held, count);
            assert_eq!(encoded(&query, &answers, fitting.len()), (fitting.clone(), count));
            let (shorter, fewer) = encoded(&query, &answers, fitting.len() - 1);
            assert_eq!(fewer, count - 1);
            assert!(shorter.len() < fitting.len());
        }
    }
    assert_eq!(encoded(&batch(40), &[], 1232).1, 0);
}

#[test]
fn error_is_written() {
    let written = |id, code| {
        let mut out = Vec::new();
        encode_error(id, code, &mut out);
        out
    };
    assert_eq!(written(None, 1), b"\x95\x01\x02\xc0\x01\xabnot a query");
    assert_eq!(written(Some(u32::MAX), 2), b"\x95\x01\x02\xce\xff\xff\xff\xff\x02\xb8version 1 is spoken here");
    let text = format!("1 to {NPQ_NUMBERS_MAX} numbers in a query");
    assert_eq!(written(Some(7), 3), joined(&[b"\x95\x01\x02\x07\x03", &[0xa0 | text.len() as u8], text.as_bytes()]));
}

#[test]
fn reason_of_a_refusal_is_that_of_its_code() {
    assert_eq!(refused(5, ERROR_MALFORMED).reason(), Drop::Malformed);
    assert_eq!(refused(5, ERROR_VERSION).reason(), Drop::NotAQuery);
    assert_eq!(refused(None, ERROR_TOO_MANY).reason(), Drop::Malformed);
    assert_eq!(NOT_A_QUERY.reason(), Drop::NotAQuery);
}

// -- any bytes ---------------------------------------------------------------------------------------------

/// A query, some bytes of it changed.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let whole = prop_oneof![
        Just(b"\x95\x01\x00\x07\xac886912345678\x01".to_vec()),
        Just(b"\x95\x01\x00\x07\x93\xac886912345678\xa3110\xcd\x01\x02\x01".to_vec()),
        Just(b"\x97\x01\x00\x07\xa3110\x00\x81\xa1a\x93\x01\xc0\xcb\0\0\0\0\0\0\0\0\xc4\x02zz".to_vec()),
    ];
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (whole, changes).prop_map(|(mut message, changes)| {
        for (at, byte) in changes {
            let at = at.index(message.len());
            message[at] = byte;
        }
        message
    })
}

proptest! {
    #[test]
    fn any_bytes_are_a_query_or_a_fault(
        message in prop_oneof![proptest::collection::vec(any::<u8>(), 0..300), mutated()],
    ) {
        match read(&message) {
            Ok((_, _, many, numbers)) => prop_assert!(numbers.len() == 1 || many),
            Err(fault) => prop_assert!(matches!(fault.reason(), Drop::Malformed | Drop::NotAQuery)),
        }
    }

    #[test]
    fn number_survives_the_round_trip(id in any::<u32>(), text in ".{0,40}", names in any::<bool>()) {
        let mut message = vec![0x95, 1, 0];
        write_integer(u64::from(id), &mut message);
        write_text(&text, &mut message);
        message.push(names.into());
        prop_assert_eq!(read(&message), Ok(one(id, names, &text)));
    }
}
