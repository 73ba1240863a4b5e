//! What becomes of records between a worker and a line.

use super::*;
use crate::access::Rule;
use crate::engine::{Service, Terms};
use crate::plan::Plan;

fn engine_of(names: &[&str]) -> (Engine, Arc<Service>) {
    let rules = names.iter().map(|name| Rule { name: (*name).into(), ..Rule::default() }).collect();
    let clients = Arc::new(Clients::new(rules));
    let service = Service::new(Terms {
        store: None,
        plan: Arc::new(Plan::new("886", "0", Vec::new())),
        stale_after: 0.0,
        withdrawn: false,
        usage: Arc::new(crate::counters::Usage::new(clients.len())),
        clients,
    });
    (Engine::new(Arc::clone(&service)), service)
}

fn asking(client: usize) -> Asking {
    Asking { client, source: [192, 0, 2, 1].into(), at_ns: 1_000_000 }
}

const ALL: u32 = (1 << (OUTCOMES + 1)) - 1;

fn note(tape: &mut Tape, engine: &Engine, times: usize) {
    for _ in 0..times {
        tape.note_silence(Silence::Dropped(Drop::Malformed), None, engine, asking(0));
    }
}

fn lines(tap: &Tap) -> Vec<String> {
    let mut out = Vec::new();
    let count = tap.drain(&mut out);
    let lines: Vec<String> = String::from_utf8_lossy(&out).lines().map(String::from).collect();
    assert_eq!(lines.len(), count);
    lines
}

#[test]
fn line_has_every_key_and_what_is_absent_is_null() {
    let (engine, service) = engine_of(&["a \"b\"\n"]);
    let tap = service.tap();
    tap.set(1, ALL, false);
    let mut tape = tap.tape(1, "udp");
    tape.begin();
    tape.note_silence(Silence::Dropped(Drop::Unavailable), Some(886_912_345_678), &engine, asking(0));
    tape.publish();
    assert_eq!(
        lines(tap),
        [concat!(
            r#"{"time":"1970-01-01T00:00:00.001Z","client":"a \"b\"\n","dialect":"pdb","transport":"udp","#,
            r#""number":"+88691234****","outcome":"dropped","reason":"unavailable","network_code":null,"#,
            r#""routing_number":null,"serial":0,"source":"192.0.2.1","reply_us":null}"#
        )]
    );
    assert!(lines(tap).is_empty());
}

#[test]
fn first_of_so_many_queries_is_noted() {
    let (engine, service) = engine_of(&["a"]);
    service.tap().set(3, ALL, false);
    let mut tape = service.tap().tape(0, "udp");
    let mut noted = Vec::new();
    for _ in 0..8 {
        tape.begin();
        note(&mut tape, &engine, 1);
        noted.push(tape.mark());
        tape.publish();
    }
    assert_eq!(noted, [1, 0, 0, 1, 0, 0, 1, 0]);
}

#[test]
fn what_finds_no_room_is_counted_and_the_rest_stays() {
    let (engine, service) = engine_of(&["a"]);
    service.tap().set(1, ALL, true);
    let mut tape = service.tap().tape(0, "udp");
    tape.begin();
    note(&mut tape, &engine, QUERY_LOG_QUEUE_MAX + 5);
    tape.publish();
    note(&mut tape, &engine, 2);
    tape.publish();
    assert_eq!(service.tap().lost(), 7);
    assert_eq!(lines(service.tap()).len(), QUERY_LOG_QUEUE_MAX);
    note(&mut tape, &engine, 1);
    tape.publish();
    assert_eq!((lines(service.tap()).len(), service.tap().lost()), (1, 7));
}

#[test]
fn worker_that_finds_its_queue_held_goes_on_and_hands_on_later() {
    let (engine, service) = engine_of(&["a"]);
    service.tap().set(1, ALL, true);
    let mut tape = service.tap().tape(0, "udp");
    tape.begin();
    note(&mut tape, &engine, 2);
    let queue = Arc::clone(&tape.queue);
    let held = locked(&queue.records);
    tape.publish(); // returns
    assert_eq!(tape.mark(), 2);
    note(&mut tape, &engine, QUERY_LOG_QUEUE_MAX);
    tape.publish();
    assert_eq!((tape.mark(), service.tap().lost()), (0, QUERY_LOG_QUEUE_MAX as u64 + 2));
    drop(held);
    note(&mut tape, &engine, 1);
    tape.publish();
    assert_eq!(lines(service.tap()).len(), 1);
}

#[test]
fn last_records_of_a_worker_that_ends_are_written() {
    let (engine, service) = engine_of(&["a"]);
    service.tap().set(1, ALL, true);
    let mut tape = service.tap().tape(3, "tcp");
    tape.begin();
    note(&mut tape, &engine, 3);
    drop(tape);
    assert_eq!(lines(service.tap()).len(), 3);
    assert!(locked(&service.tap().queues).is_empty());
}

#[test]
fn clients_and_outcomes_that_are_not_wanted_are_left_out() {
    let (engine, service) = engine_of(&["a", "b"]);
    service.tap().set(1, 1 << Outcome::Refused as u32, true);
    engine.clients().set_tapped(&[false, true]);
    let mut tape = service.tap().tape(0, "udp");
    tape.begin();
    for client in 0..2 {
        tape.note_silence(Silence::OverRate, None, &engine, asking(client));
        tape.note_silence(Silence::Dropped(Drop::Late), None, &engine, asking(client));
        tape.note_silence(Silence::NotDue, None, &engine, asking(client));
    }
    tape.publish();
    let found = lines(service.tap());
    assert_eq!(found.len(), 1);
    assert!(found[0].contains(r#""client":"b","dialect":"npq""#), "{}", found[0]);
}

#[test]
fn answer_that_did_not_leave_is_dropped_and_tells_no_route() {
    let (engine, service) = engine_of(&["a"]);
    service.tap().set(1, ALL, true);
    let mut tape = service.tap().tape(0, "udp");
    tape.begin();
    let route = Route {
        network_code: "A001".into(),
        routing_number: Some("00001".into()),
        operator: String::new(),
        pdb_carrier_id: None,
        own: true,
    };
    for _ in 0..2 {
        tape.note(Some(886_912_000_001), Verdict::Outcome(Outcome::Ported), Some(&route), &engine, asking(0));
    }
    tape.settle(0..1, Some(12_999));
    tape.settle(1..2, None);
    tape.publish();
    let found = lines(service.tap());
    assert!(found[0].contains(r#""outcome":"ported","reason":null,"network_code":"A001","routing_number":"00001""#));
    assert!(found[0].ends_with(r#""reply_us":12}"#));
    assert!(found[1].contains(r#""outcome":"dropped","reason":"unsent","network_code":null,"routing_number":null"#));
}

#[test]
fn times_are_those_of_the_calendar() {
    for (at_ms, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_399_999, "2000-02-28T23:59:59.999Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (951_868_800_000, "2000-03-01T00:00:00.000Z"),
        (1_709_164_800_250, "2024-02-29T00:00:00.250Z"),
        (1_767_225_599_001, "2025-12-31T23:59:59.001Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
    ] {
        let mut out = Vec::new();
        write_time(at_ms, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), text);
    }
}
