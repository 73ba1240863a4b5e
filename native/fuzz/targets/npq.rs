//! Any message of the `npq` dialect.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lookupd_native::limits::{NPQ_DATAGRAM_ANSWER_BYTES_MAX, NPQ_FRAME_BYTES_MAX, NPQ_NUMBERS_MAX, NUMBER_CHARS_MAX};
use lookupd_native::model::{Answer, Drop, InForce, Measure, Outcome, Route};
use lookupd_native::msgpack::Reader;
use lookupd_native::protocols::npq::{self, Fault, Number, Numbers, Query};

fn check_number(number: Number<'_>) {
    let mut room = [0; 20];
    let dialled = number.dialled(&mut room);
    match number {
        Number::Text(text) => assert!(text.chars().count() <= NUMBER_CHARS_MAX && dialled == text.as_bytes()),
        Number::Whole(value) => assert_eq!(dialled, value.to_string().as_bytes()),
    }
}

/// The reply is one whole message that is no query.
fn check_reply(reply: &[u8]) {
    let mut reader = Reader::new(reply);
    assert!(reader.skip().is_some() && reader.rest().is_empty());
    assert_eq!(npq::decode_query(reply).map(|_| ()), Err(Fault::Drop(Drop::NotAQuery)));
}

fn check_answers(query: &Query<'_>, asked: usize) {
    let route = Route {
        network_code: "1401".to_owned(),
        routing_number: Some("D0401".to_owned()),
        operator: "Alpha Telecom".to_owned(),
        pdb_carrier_id: Some(101),
        own: true,
    };
    let answers: Vec<_> = (0..asked)
        .map(|at| Answer {
            tn: (at % 3 != 0).then_some(886_912_345_678),
            outcome: if at % 2 == 0 { Outcome::Ported } else { Outcome::NotAllocated },
            route: (at % 2 == 0).then_some(&route),
            restriction: (at % 5 == 0)
                .then_some(InForce { measure: Measure::NoRoaming, until: 1_800_000_000 + at as u64 }),
            serial: 3,
            age_seconds: Some(42),
        })
        .collect();
    for bytes_max in [NPQ_DATAGRAM_ANSWER_BYTES_MAX, NPQ_FRAME_BYTES_MAX] {
        let mut out = b"before".to_vec();
        let held = npq::encode_many(query, &answers, bytes_max, &mut out);
        let reply = out.strip_prefix(b"before").expect("appended");
        assert!((1..=asked).contains(&held) && reply.len() <= bytes_max);
        check_reply(reply);
    }
}

fuzz_target!(|message: &[u8]| {
    match npq::decode_query(message) {
        Ok(query) => {
            let asked = match query.numbers {
                Numbers::One(number) => {
                    check_number(number);
                    1
                }
                Numbers::Many(many) => {
                    assert!((1..=NPQ_NUMBERS_MAX).contains(&many.count));
                    assert_eq!(many.iter().map(check_number).count(), many.count);
                    many.count
                }
            };
            check_answers(&query, asked);
        }
        Err(fault) => {
            assert!(matches!(fault.reason(), Drop::Malformed | Drop::NotAQuery));
            if let Fault::Refused { id, code } = fault {
                let mut out = Vec::new();
                npq::encode_error(id, code, &mut out);
                check_reply(&out);
            }
        }
    }
});
