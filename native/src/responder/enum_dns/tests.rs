//! In which order a message is judged, and how it is counted. Every byte is compared by `tests/parity`.

use std::sync::Arc;

use super::*;
use crate::access::{Client, Clients, Rule};
use crate::protocols::enum_dns::{Settings, Tell};
use crate::responder::tests::{engine, tell};

const UDP: Enum = Enum { over_udp: true };
const TCP: Enum = Enum { over_udp: false };

fn clients(queries_per_second: u64, queries_per_prefix: u64) -> Clients {
    let profile = Profile::new(Settings {
        apexes: vec!["np.example".to_owned()],
        services: vec!["E2U+pstn:tel".to_owned()],
        unmapped_routing_number: "FFF".to_owned(),
        tell: Tell::Edns,
        ..Settings::default()
    });
    let enum_profile = Arc::new(profile.unwrap());
    Clients::new(vec![Rule { queries_per_second, queries_per_prefix, enum_profile, ..Rule::default() }])
}

fn question(name: &str, kind: u16, class: u16) -> Vec<u8> {
    let mut message = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend(class.to_be_bytes());
    message
}

fn number(digits: &str) -> Vec<u8> {
    let labels: Vec<String> = digits.chars().rev().map(String::from).collect();
    question(&format!("{}.np.example", labels.join(".")), dns::NAPTR, 1)
}

/// Told what, with which code, and whether AA and TC are set.
fn seen(dialect: &Enum, engine: &Engine, message: &[u8], client: &Client) -> (Result<Told, Silence>, u8, bool, bool) {
    let (told, reply) = tell(dialect, engine, message, client);
    let [_, _, high, low, ..] = reply[..] else { return (told, 0xFF, false, false) };
    assert_eq!((&reply[..2], high & 0x81), (&message[..2], 0x81), "an answer to this question, RD copied");
    (told, low, high & 4 != 0, high & 2 != 0)
}

#[test]
fn names_are_answered_and_counted_by_what_they_are() {
    let (_folder, engine) = engine(true);
    let clients = clients(0, 0);
    let answer = |outcome| Ok(Told::Answer { outcome, odd: false });
    let (not_a_query, malformed) = (Ok(Told::Fault(Drop::NotAQuery)), Ok(Told::Fault(Drop::Malformed)));
    for (message, told, rcode, authoritative) in [
        (number("886912345001"), answer(Outcome::Ported), 0, true),
        (number("886912345003"), answer(Outcome::NotAllocated), 3, true),
        (number("886912346001"), answer(Outcome::Unavailable), 2, false), // damaged
        (number("8869123"), answer(Outcome::NotPortable), 0, true),       // longer ones are there
        (number("8869124"), answer(Outcome::NotPortable), 3, true),
        (number("8869123450010000"), Ok(Told::Other), 3, true),
        (question("np.example", dns::SOA, 1), Ok(Told::Other), 0, true),
        (question("x.np.example", dns::A, 1), Ok(Told::Other), 3, true),
        (question("example", dns::NAPTR, 1), not_a_query, 5, false),
        (question("np.example", dns::SOA, 3), not_a_query, 5, false),
        (question("np.example", dns::AXFR, 1), not_a_query, 5, false),
        (question("np.example", dns::SOA, 1)[..20].to_vec(), malformed, 1, false),
        (b"\x12\x34\x29\0\0\x01\0\0\0\0\0\0".to_vec(), not_a_query, 0x04, false),
        (b"\x12\x34\x80\0\0\x01\0\0\0\0\0\0".to_vec(), Err(Silence::Dropped(Drop::NotAQuery)), 0xFF, false),
        (b"\x12\x34".to_vec(), Err(Silence::Dropped(Drop::Malformed)), 0xFF, false),
    ] {
        for dialect in [&UDP, &TCP] {
            let found = seen(dialect, &engine, &message, clients.client(0));
            assert_eq!(found, (told, rcode, authoritative, false), "{message:x?}");
        }
    }
}

#[test]
fn without_data_every_name_of_a_zone_is_unavailable() {
    let (_folder, engine) = engine(false);
    let clients = clients(0, 0);
    let unavailable = Ok(Told::Answer { outcome: Outcome::Unavailable, odd: false });
    for message in [number("886912345001"), question("np.example", dns::SOA, 1), question("x.np.example", 1, 1)] {
        assert_eq!(seen(&UDP, &engine, &message, clients.client(0)), (unavailable, 2, false, false));
    }
    let elsewhere = question("example", 1, 1);
    assert_eq!(seen(&UDP, &engine, &elsewhere, clients.client(0)).1, 5);
    assert_eq!(engine.take_unreadable(), 0);
}

#[test]
fn over_its_prefixs_rate_a_client_is_sent_to_tcp_and_over_its_own_refused() {
    let (_folder, engine) = engine(true);
    let refusal = Ok(Told::Refusal);
    let (asked, outside) = (number("886912345001"), question("example", 1, 1));
    let by_prefix = clients(0, 2);
    let client = by_prefix.client(0);
    assert_eq!(seen(&UDP, &engine, &asked, client).1, 0);
    assert_eq!(seen(&UDP, &engine, &asked[..20], client).1, 1, "a fault takes too");
    for message in [&asked, &outside] {
        assert_eq!(seen(&UDP, &engine, message, client), (refusal, 0, false, true));
    }
    assert_eq!(seen(&UDP, &engine, &asked[..20], client).0, Err(Silence::Dropped(Drop::Malformed)));
    assert_eq!(
        seen(&TCP, &engine, &asked, client),
        (Ok(Told::Answer { outcome: Outcome::Ported, odd: false }), 0, true, false)
    );
    let alone = clients(1, 0);
    let client = alone.client(0);
    assert_eq!(seen(&TCP, &engine, &outside, client).1, 5);
    for dialect in [&UDP, &TCP] {
        assert_eq!(seen(dialect, &engine, &asked, client), (refusal, 5, false, false));
        assert_eq!(seen(dialect, &engine, &asked[..20], client).0, Err(Silence::Dropped(Drop::Malformed)));
    }
}

#[test]
fn answer_that_outgrows_a_datagram_is_cut_over_udp_alone() {
    let (_folder, engine) = engine(true);
    let domain = "h".repeat(100);
    let services = vec!["E2U+pstn:tel".to_owned(), "E2U+pstn:sip".to_owned()];
    let settings = Settings {
        apexes: vec!["np.example".to_owned()],
        unmapped_routing_number: "FFF".to_owned(),
        services,
        domain,
        ..Settings::default()
    };
    let enum_profile = Arc::new(Profile::new(settings).unwrap());
    let clients = Clients::new(vec![Rule { enum_profile, ..Rule::default() }]);
    let (asked, ported) = (number("886912345001"), Ok(Told::Answer { outcome: Outcome::Ported, odd: false }));
    assert_eq!(seen(&UDP, &engine, &asked, clients.client(0)), (ported, 0, true, true));
    assert_eq!(seen(&TCP, &engine, &asked, clients.client(0)), (ported, 0, true, false));
    assert_eq!(tell(&UDP, &engine, &asked, clients.client(0)).1.len(), asked.len());
    assert!(tell(&TCP, &engine, &asked, clients.client(0)).1.len() > 4 * asked.len());
}
