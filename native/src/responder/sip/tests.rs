//! In which order a request is judged, and how it is counted. Every byte is compared by `tests/parity`.

use std::sync::Arc;

use super::*;
use crate::access::{Client, Clients, Rule};
use crate::responder::tests::{engine, tell};

const UDP: Sip = Sip { over_tcp: false, tag_seed: 1 };
const TCP: Sip = Sip { over_tcp: true, tag_seed: 1 };

fn clients(queries_per_second: u64, queries_per_prefix: u64, profile: Profile) -> Clients {
    let sip_profile = Arc::new(profile);
    Clients::new(vec![Rule { queries_per_second, queries_per_prefix, sip_profile, ..Rule::default() }])
}

fn request(method: &str, uri: &str, more: &str) -> Vec<u8> {
    format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP gw.example:15999;branch=z9hG4bK-1\r\nFrom: <sip:a@b>;tag=1\r\n\
         To: <{uri}>\r\nCall-ID: 1\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n{more}\r\n"
    )
    .into_bytes()
}

fn invite(number: &str) -> Vec<u8> {
    request("INVITE", &format!("sip:{number}@h"), "")
}

/// Told what, and the reply's status, 0 = none.
fn seen(dialect: &Sip, engine: &Engine, message: &[u8], client: &Client) -> (Result<Told, Silence>, u16) {
    let (told, reply) = tell(dialect, engine, message, client);
    let status = reply.strip_prefix(b"SIP/2.0 ").and_then(|rest| rest.get(..3));
    (told, status.map_or(0, |digits| std::str::from_utf8(digits).unwrap().parse().unwrap()))
}

#[test]
fn requests_are_answered_and_counted_by_what_they_are() {
    let (_folder, engine) = engine(true);
    let clients = clients(0, 0, Profile { unmapped_routing_number: Some("F1".to_owned()), ..Profile::default() });
    let (not_a_query, malformed) = (Ok(Told::Fault(Drop::NotAQuery)), Ok(Told::Fault(Drop::Malformed)));
    let answered = |outcome| Ok(answer(outcome));
    for (message, told, status) in [
        (invite("+886912345001"), answered(Outcome::Ported), 302),
        (invite("0912345002"), answered(Outcome::Ported), 302),
        (invite("886912345003"), answered(Outcome::NotAllocated), 404),
        (invite("+886912346001"), answered(Outcome::Unavailable), 503), // damaged
        (invite("110"), answered(Outcome::NotPortable), 484),
        (invite("+88691234"), answered(Outcome::NotPortable), 484),
        (invite("+8862123456789"), answered(Outcome::NotPortable), 404),
        (invite("letters"), answered(Outcome::NotPortable), 404),
        (invite("+886912345001;npdi"), Ok(Told::Other), 404),
        (request("INVITE", "http:x", ""), not_a_query, 416),
        (request("INVITE", "sip:1@", ""), malformed, 400),
        (request("INVITE", "sip:1@h", "Max-Forwards: 0\r\n"), not_a_query, 483),
        (request("INVITE", "sip:1@h", "To: x\r\n"), malformed, 400),
        (request("OPTIONS", "sip:h", "Max-Forwards: 0\r\n"), Ok(Told::Other), 200),
        (request("CANCEL", "sip:h", ""), Ok(Told::Other), 200),
        (request("BYE", "sip:h", ""), not_a_query, 405),
        (request("ACK", "sip:h", ""), Err(Silence::NotDue), 0),
        (request("ACK", "sip:h", "To: x\r\n"), Err(Silence::Dropped(Drop::Malformed)), 0),
        (b"SIP/2.0 200 OK\r\n\r\n".to_vec(), Err(Silence::Dropped(Drop::NotAQuery)), 0),
        (b"jaK".to_vec(), Err(Silence::Dropped(Drop::Malformed)), 0),
        (b"\r\n\r\n".to_vec(), Err(Silence::NotDue), 0),
        (b"X\nv:SIP/2.0/U a\n\n".to_vec(), Err(Silence::Dropped(Drop::NoRoom)), 0),
    ] {
        let text = message.escape_ascii().to_string();
        assert_eq!(seen(&UDP, &engine, &message, clients.client(0)), (told, status), "{text}");
    }
    assert_eq!(seen(&TCP, &engine, b"X\nv:SIP/2.0/U a\n\n", clients.client(0)), (malformed, 400));
    assert_eq!(tell(&TCP, &engine, PING, clients.client(0)), (Ok(Told::Other), PONG.to_vec()));
    assert_eq!(seen(&TCP, &engine, b"\0", clients.client(0)).0, Err(Silence::NotDue));
}

#[test]
fn profile_says_what_an_answer_is() {
    let (_folder, engine) = engine(true);
    let reply = |profile: Profile, number: &str| {
        let clients = clients(0, 0, profile);
        let (told, reply) = tell(&UDP, &engine, &invite(number), clients.client(0));
        (told, String::from_utf8(reply).unwrap())
    };
    let (told, text) =
        reply(Profile { is_permanent: true, tells_version: true, ..Profile::default() }, "+886912345001");
    assert!(
        told == Ok(answer(Outcome::Unavailable)) && text.starts_with("SIP/2.0 500 "),
        "no network has an rn: {text}"
    );
    assert!(text.contains("\r\nX-Lookupd: serial=7, age=0\r\n"));
    let unmapped = || Some("F1".to_owned());
    let profile = Profile { is_permanent: true, unmapped_routing_number: unmapped(), ..Profile::default() };
    let (told, text) = reply(profile, "+886912345001");
    assert!(told == Ok(answer(Outcome::Ported)) && text.starts_with("SIP/2.0 301 "));
    assert!(text.contains("\r\nContact: <sip:+886912345001;npdi;rn=+F1@h;user=phone>\r\n"));
}

#[test]
fn without_data_everybody_is_sent_elsewhere() {
    let (_folder, engine) = engine(false);
    let clients = clients(0, 0, Profile::default());
    for message in [invite("+886912345001"), invite("letters"), request("OPTIONS", "sip:h", "")] {
        let (told, reply) = tell(&UDP, &engine, &message, clients.client(0));
        assert_eq!(told, Ok(answer(Outcome::Unavailable)));
        assert!(reply.starts_with(b"SIP/2.0 503 ") && reply.windows(16).any(|part| part == b"Retry-After: 5\r\n"));
    }
}

#[test]
fn over_the_rate_only_calls_and_probes_are_told() {
    let (_folder, engine) = engine(true);
    let over_rate = (Err(Silence::OverRate), 0);
    for (message, expected) in [
        (invite("+886912345001"), (Ok(Told::Refusal), 503)),
        (request("OPTIONS", "sip:h", ""), (Ok(Told::Refusal), 503)),
        (request("CANCEL", "sip:h", ""), over_rate),
        (request("INVITE", "sip:1@h", "To: x\r\n"), over_rate),
        (b"jaK".to_vec(), over_rate),
        (request("ACK", "sip:h", ""), (Err(Silence::NotDue), 0)),
        (b"SIP/2.0 200 OK\r\n\r\n".to_vec(), (Err(Silence::Dropped(Drop::NotAQuery)), 0)),
    ] {
        let clients = clients(1, 0, Profile::default());
        let client = clients.client(0);
        assert!(client.take(1, 1_000_000_000, None)); // when `tell` asks
        assert_eq!(seen(&UDP, &engine, &message, client), expected, "{}", message.escape_ascii());
    }
}

#[test]
fn over_the_prefixs_rate_there_is_silence_but_not_over_tcp() {
    let (_folder, engine) = engine(true);
    let clients = clients(0, 1, Profile::default());
    let message = request("OPTIONS", "sip:h", "");
    assert_eq!(seen(&UDP, &engine, &message, clients.client(0)), (Ok(Told::Other), 200));
    assert_eq!(seen(&UDP, &engine, &message, clients.client(0)), (Err(Silence::OverRate), 0));
    assert_eq!(seen(&TCP, &engine, &message, clients.client(0)), (Ok(Told::Other), 200));
}

#[test]
fn reply_goes_to_the_sent_by_port_over_udp() {
    let clients = clients(0, 0, Profile::default());
    let message = invite("1");
    let asker = Asker { client: clients.client(0), peer: ([192, 0, 2, 7], 1024).into() };
    for (dialect, port) in [(UDP, Some(15999)), (TCP, None)] {
        let question = dialect.read(&message, asker, 0).ok().unwrap();
        assert_eq!(dialect.reply_port(&question), port);
    }
}
