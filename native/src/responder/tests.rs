//! What each message gets and how it is counted: every query once, whatever becomes of it.

use std::sync::Arc;

use super::*;
use crate::access::{Clients, Rule};
use crate::counters::Usage;
use crate::engine::{Service, Terms};
use crate::model::{DROPS, REFUSALS};
use crate::plan::{Head, Plan};
use crate::store::Environment;
use crate::store::lmdb::made::{Made, block, damaged_block, route, state};

const NOW: u64 = 1_800_000_000;
const UDP: Npq = Npq { answer_bytes_max: 1232, tells_errors: false };
const TCP: Npq = Npq { answer_bytes_max: 262_144, tells_errors: true };
const PDB: Pdb = Pdb { legacy: true, unmapped_carrier_id: 1000 };
const SECOND_NS: u64 = 1_000_000_000;

/// 886912345001 is ported to a mapped network, 002 to one that has no carrier id, 003 is not; 886912346... is damaged.
pub(super) fn engine(with_store: bool) -> (tempfile::TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let store = with_store.then(|| {
        let entries = [(1, 1), (2, 2)];
        let rows = [
            state(7, 1, Some(NOW as u32)),
            route(1, "1001", Some(101)),
            route(2, "1002", None),
            block(886_912_345, &entries),
            damaged_block(886_912_346, &entries),
        ];
        Made::new(folder.path()).commit(&rows);
        Environment::open(folder.path(), 1 << 24).unwrap()
    });
    let clients = Clients::new(vec![Rule { queries_per_second: 0, ..Rule::default() }]);
    let heads = vec![Head { digits: 12, prefix: "8869".to_owned(), portable: true }];
    let service = Service::new(Terms {
        store,
        plan: Arc::new(Plan::new("886", "0", heads)),
        stale_after: 0.0,
        withdrawn: false,
        usage: Arc::new(Usage::new(clients.len())),
        clients: Arc::new(clients),
    });
    let mut engine = Engine::new(service);
    engine.begin(NOW);
    (folder, engine)
}

fn tally_of(count: impl FnOnce(&mut Tally)) -> Tally {
    let mut tally = Tally::default();
    count(&mut tally);
    tally
}

/// received, answered, refused, dropped, odd; of the listener. Its client's must be the same.
fn balanced(tally: &Tally) -> (u64, [u64; OUTCOMES], [u64; REFUSALS], [u64; DROPS], u64) {
    let counts = &tally.counts;
    assert_eq!(counts.balance(), 0);
    let dropped: u64 = counts.dropped().iter().sum();
    let unknown = counts.refused()[Refusal::UnknownClient as usize];
    assert_eq!(&tally.usage[..OUTCOMES], counts.answered());
    let refused = counts.refused()[Refusal::Rate as usize];
    assert_eq!(tally.usage[OUTCOMES..], [refused, dropped, counts.other_messages()]);
    assert_eq!(tally.usage.iter().sum::<u64>() + unknown, counts.received());
    for (outcome, answered) in counts.answered().iter().enumerate() {
        assert_eq!(counts.latency(outcome).iter().sum::<u64>(), *answered, "every answer is timed");
    }
    (
        counts.received(),
        counts.answered().try_into().unwrap(),
        counts.refused().try_into().unwrap(),
        counts.dropped().try_into().unwrap(),
        counts.odd_queries(),
    )
}

fn dropped(reasons: &[(Drop, u64)]) -> [u64; DROPS] {
    let mut cells = [0; DROPS];
    for (reason, queries) in reasons {
        cells[*reason as usize] = *queries;
    }
    cells
}

#[test]
fn silences_count_once() {
    assert_eq!(balanced(&tally_of(Tally::refuse_unknown)), (1, [0; 6], [1, 0], [0; 7], 0));
    assert_eq!(balanced(&tally_of(|tally| Silence::OverRate.count(tally))), (1, [0; 6], [0, 1], [0; 7], 0));
    for reason in [Drop::Malformed, Drop::NotAQuery, Drop::TooLong, Drop::Late, Drop::Unavailable] {
        let tally = tally_of(|tally| Silence::Dropped(reason).count(tally));
        assert_eq!(balanced(&tally), (1, [0; 6], [0; 2], dropped(&[(reason, 1)]), 0));
    }
}

#[test]
fn what_is_told_counts_as_said_when_it_has_left_and_as_unsent_when_not() {
    let odd = Told::Answer { outcome: Outcome::NotPorted, odd: true };
    let many = Told::Answers { by_outcome: [3, 0, 2, 0, 1, 0], left_out: 4 };
    let refusals = Told::Refusals { numbers: 5, left_out: 2 };
    let none_fit = Told::Answers { by_outcome: [0; 6], left_out: 9 };
    for (told, left, expected) in [
        (odd, true, (1, [0, 1, 0, 0, 0, 0], [0; 2], [0; 7], 1)),
        (odd, false, (1, [0; 6], [0; 2], dropped(&[(Drop::Unsent, 1)]), 1)),
        (many, true, (10, [3, 0, 2, 0, 1, 0], [0; 2], dropped(&[(Drop::NoRoom, 4)]), 0)),
        (many, false, (10, [0; 6], [0; 2], dropped(&[(Drop::NoRoom, 4), (Drop::Unsent, 6)]), 0)),
        (none_fit, true, (9, [0; 6], [0; 2], dropped(&[(Drop::NoRoom, 9)]), 0)),
        (Told::Refusal, true, (1, [0; 6], [0, 1], [0; 7], 0)),
        (Told::Refusal, false, (1, [0; 6], [0; 2], dropped(&[(Drop::Unsent, 1)]), 0)),
        (refusals, true, (7, [0; 6], [0, 5], dropped(&[(Drop::NoRoom, 2)]), 0)),
        (refusals, false, (7, [0; 6], [0; 2], dropped(&[(Drop::NoRoom, 2), (Drop::Unsent, 5)]), 0)),
        // Its query was dropped already; whether the error message leaves changes nothing.
        (Told::Fault(Drop::Malformed), true, (1, [0; 6], [0; 2], dropped(&[(Drop::Malformed, 1)]), 0)),
        (Told::Fault(Drop::NotAQuery), false, (1, [0; 6], [0; 2], dropped(&[(Drop::NotAQuery, 1)]), 0)),
    ] {
        let tally = tally_of(|tally| told.count(tally, left.then_some(1500)));
        assert_eq!(balanced(&tally), expected, "{told:?}, {left}");
    }
}

fn one(number: &str) -> Vec<u8> {
    [b"\x94\x01\x00\x05".as_slice(), &[0xA0 | number.len() as u8], number.as_bytes()].concat()
}

fn batch(count: u16, number: &str) -> Vec<u8> {
    let mut message = b"\x94\x01\x00\x05\xdc".to_vec();
    message.extend(count.to_be_bytes());
    message.extend([&[0xA0 | number.len() as u8], number.as_bytes()].concat().repeat(count.into()));
    message
}

/// What a message is told, and the bytes of its reply.
pub(super) fn tell<D: Dialect>(
    dialect: &D,
    engine: &Engine,
    message: &[u8],
    client: &Client,
) -> (Result<Told, Silence>, Vec<u8>) {
    let mut out = b"before".to_vec();
    let told = respond(
        dialect,
        engine,
        message,
        Asker { client, peer: "127.0.0.1:5000".parse().unwrap() },
        SECOND_NS,
        &mut out,
    );
    assert!(out.starts_with(b"before"), "a reply is appended");
    let reply = out.split_off(6);
    assert_eq!(told.is_err(), reply.is_empty(), "{told:?}");
    let tally = tally_of(|tally| match told {
        Ok(told) => told.count(tally, Some(1)),
        Err(silence) => silence.count(tally),
    });
    balanced(&tally);
    (told, reply)
}

#[test]
fn npq_answers_of_a_batch_that_do_not_fit_are_left_out() {
    let (_folder, engine) = engine(true);
    let free = Client::new(0);
    for (dialect, count) in [(&UDP, 1000_u16), (&TCP, 1000), (&UDP, 3)] {
        let (told, reply) = tell(dialect, &engine, &batch(count, "886912345001"), &free);
        assert!(reply.len() <= dialect.answer_bytes_max);
        let Ok(Told::Answers { by_outcome: [ported, 0, 0, 0, 0, 0], left_out }) = told else { panic!("{told:?}") };
        assert_eq!(ported + left_out, count);
        assert_eq!(left_out > 0, count == 1000 && dialect.answer_bytes_max == 1232);
    }
}

#[test]
fn npq_batches_are_of_mixed_outcomes_in_the_order_asked() {
    let (_folder, engine) = engine(true);
    let mut message = b"\x94\x01\x00\x05\xdc\x00\x28".to_vec(); // 40: more than are located at a time
    for at in 0..40 {
        message.push(0xAC);
        message.extend(format!("88691234{}00{}", 5 + at % 2, 1 + at % 4).bytes());
    }
    let (told, reply) = tell(&TCP, &engine, &message, &Client::new(0));
    // Odd offsets are in the sound block: 001 is ported, 003 is not; the even ones are in the damaged block.
    assert_eq!(told, Ok(Told::Answers { by_outcome: [10, 0, 10, 0, 20, 0], left_out: 0 }));
    let results: Vec<u8> = reply.split(|byte| *byte == 0x94).skip(1).map(|result| result[0]).collect();
    assert_eq!(results, [0, 4, 2, 4].repeat(10));
    assert_eq!(engine.take_unreadable(), 20);
}

#[test]
fn npq_over_its_rate_is_refused_number_by_number() {
    let (_folder, engine) = engine(true);
    let client = Client::new(10);
    let ported = Told::Answers { by_outcome: [10, 0, 0, 0, 0, 0], left_out: 0 };
    assert_eq!(tell(&UDP, &engine, &batch(10, "886912345001"), &client).0, Ok(ported));
    assert_eq!(tell(&UDP, &engine, &one("886912345001"), &client).0, Ok(Told::Refusal));
    let refusals = Told::Refusals { numbers: 1000, left_out: 0 };
    assert_eq!(tell(&TCP, &engine, &batch(1000, "886912345001"), &client).0, Ok(refusals));
    let (told, reply) = tell(&UDP, &engine, &batch(1000, "886912345001"), &client);
    let Ok(Told::Refusals { numbers, left_out }) = told else { panic!("{told:?}") };
    assert_eq!(numbers + left_out, 1000);
    assert!(left_out > 0 && reply.len() <= 1232);
}

#[test]
fn npq_takes_each_number_from_the_allowance_once() {
    let (_folder, engine) = engine(true);
    let client = Client::new(10);
    for _ in 0..3 {
        let _ = tell(&UDP, &engine, &batch(3, "886912345001"), &client);
    }
    let answer = Told::Answer { outcome: Outcome::Ported, odd: false };
    assert_eq!(tell(&UDP, &engine, &one("886912345001"), &client).0, Ok(answer));
    assert_eq!(tell(&UDP, &engine, &one("886912345001"), &client).0, Ok(Told::Refusal));
}

#[test]
fn npq_faults_are_told_where_that_answers_no_forged_source() {
    let (_folder, engine) = engine(true);
    let (free, spent) = (Client::new(0), Client::new(1));
    assert!(spent.take(1, SECOND_NS, None));
    let (malformed, answer, version) =
        (b"\xff".as_slice(), b"\x94\x01\x02\x05\xa1a".as_slice(), b"\x94\x02\x00\x05\xa1a");
    let silent = |reason| Err(Silence::Dropped(reason));
    let told = |reason| Ok(Told::Fault(reason));
    for (dialect, client, message, expected) in [
        (&UDP, &free, malformed, silent(Drop::Malformed)),
        (&UDP, &free, answer, silent(Drop::NotAQuery)),
        (&UDP, &free, version, told(Drop::NotAQuery)),
        (&UDP, &spent, version, silent(Drop::NotAQuery)), // over its rate there is no message either
        (&TCP, &free, malformed, told(Drop::Malformed)),
        (&TCP, &free, answer, told(Drop::NotAQuery)),
        (&TCP, &spent, malformed, told(Drop::Malformed)),
        (&TCP, &spent, version, told(Drop::NotAQuery)),
    ] {
        assert_eq!(tell(dialect, &engine, message, client).0, expected, "{message:?}");
    }
    assert_eq!(tell(&UDP, &engine, &batch(0, "1"), &free).0, told(Drop::Malformed));
    assert_eq!(tell(&UDP, &engine, &batch(1001, "1"), &free).0, told(Drop::Malformed));
}

#[test]
fn faults_take_from_the_allowance() {
    let (_folder, engine) = engine(true);
    for dialect in [&UDP, &TCP] {
        let client = Client::new(2);
        let _ = tell(dialect, &engine, b"\xff", &client);
        let _ = tell(dialect, &engine, b"\x94\x02\x00\x05\xa1a", &client);
        assert_eq!(tell(dialect, &engine, &one("886912345001"), &client).0, Ok(Told::Refusal));
    }
}

fn pdb_query(number: &str) -> Vec<u8> {
    let length = 7 + number.len() as u8;
    [&[1, 0, 0, length, 0x12, 0x34], number.as_bytes(), &[0]].concat()
}

#[test]
fn pdb_answers_or_is_silent() {
    let (_folder, engine) = engine(true);
    let free = Client::new(0);
    let answer = |outcome, odd| Ok(Told::Answer { outcome, odd });
    let carrier = |reply: &[u8]| u16::from_be_bytes(*reply.last_chunk().unwrap());
    let (told, reply) = tell(&PDB, &engine, &pdb_query("886912345001"), &free);
    assert_eq!((told, carrier(&reply)), (answer(Outcome::Ported, false), 101));
    let (told, reply) = tell(&PDB, &engine, b"0912345002 and more", &free);
    assert_eq!((told, carrier(&reply)), (answer(Outcome::Ported, false), 1000));
    let mut odd = pdb_query("886912345001");
    odd[3] = 0;
    for (message, expected) in [
        (odd, answer(Outcome::Ported, true)),
        (pdb_query("886912345003"), answer(Outcome::NotAllocated, false)),
        (pdb_query("no number"), answer(Outcome::NotPortable, false)),
        (pdb_query("886912346001"), Err(Silence::Dropped(Drop::Unavailable))), // damaged
        (vec![1, 1, 0, 8, 0, 0, b'1', 0], Err(Silence::Dropped(Drop::NotAQuery))),
        (vec![1; 3], Err(Silence::Dropped(Drop::Malformed))),
        (vec![b'1'; 300], Err(Silence::Dropped(Drop::TooLong))),
    ] {
        assert_eq!(tell(&PDB, &engine, &message, &free).0, expected, "{message:?}");
    }
    let strict = Pdb { legacy: false, ..PDB };
    assert_eq!(tell(&strict, &engine, b"0912345002\0", &free).0, Err(Silence::Dropped(Drop::NotAQuery)));
}

#[test]
fn pdb_takes_any_datagram_from_the_allowance_before_it_is_read() {
    let (_folder, engine) = engine(true);
    let client = Client::new(2);
    assert_eq!(tell(&PDB, &engine, b"", &client).0, Err(Silence::Dropped(Drop::Malformed)));
    let _ = tell(&PDB, &engine, &pdb_query("886912345001"), &client);
    for message in [b"".to_vec(), pdb_query("886912345001")] {
        assert_eq!(tell(&PDB, &engine, &message, &client).0, Err(Silence::OverRate));
    }
}

#[test]
fn without_data_npq_says_so_and_pdb_says_nothing() {
    let (_folder, engine) = engine(false);
    let free = Client::new(0);
    let unavailable = Told::Answer { outcome: Outcome::Unavailable, odd: false };
    assert_eq!(tell(&UDP, &engine, &one("886912345001"), &free).0, Ok(unavailable));
    let many = Told::Answers { by_outcome: [0, 0, 0, 0, 4, 0], left_out: 0 };
    assert_eq!(tell(&UDP, &engine, &batch(4, "no"), &free).0, Ok(many));
    for number in ["886912345001", "no number"] {
        assert_eq!(tell(&PDB, &engine, &pdb_query(number), &free).0, Err(Silence::Dropped(Drop::Unavailable)));
    }
    assert_eq!(engine.take_unreadable(), 0);
}
