//! Look-ups in small real stores; terms that change while batches go on.

use super::*;
use crate::access::Rule;
use crate::model::Measure;
use crate::plan::Head;
use crate::store::lmdb::made::{Made, Row, block, damaged_block, range, restricted, restriction, route, state};

const MAP_BYTES: usize = 1 << 24;
const NOW: u64 = 1_800_000_000;
const BLOCK: u64 = 886_912_345;

fn head(digits: usize, prefix: &str, portable: bool) -> Head {
    Head { digits, prefix: prefix.to_owned(), portable }
}

fn terms(store: Option<&Arc<Environment>>, stale_after: f64) -> Terms {
    let sources = vec![([127, 0, 0, 0].into(), 8)];
    let clients = Clients::new(vec![Rule { sources, ..Rule::default() }]);
    let heads = vec![head(12, "8869", true), head(6, "886110", false)];
    Terms {
        store: store.map(Arc::clone),
        plan: Arc::new(Plan::new("886", "0", heads)),
        stale_after,
        withdrawn: false,
        usage: Arc::new(Usage::new(clients.len())),
        clients: Arc::new(clients),
    }
}

fn rows(serial: u64) -> Vec<Row> {
    let mut rows = restriction(BLOCK * 1000 + 679, BLOCK * 1000 + 679, (1, NOW - 10, NOW + 10, 1));
    rows.extend([
        restricted(BLOCK, &[(679, 679, 1, NOW - 10, NOW + 10)]),
        state(serial, 1, Some(NOW as u32 - 60)),
        route(1, "1001", Some(101)),
        route(2, "1002", None),
        range("886912", 2),
        range("4930", 1),
        range("886955", 9),
        block(BLOCK, &[(678, 1), (679, RESTRICTED), (680, 7)]),
        damaged_block(BLOCK + 1, &[(0, 1)]),
    ]);
    rows
}

/// A folder with a store, the store for writing, and the store for reading.
fn store(rows: &[Row]) -> (tempfile::TempDir, Made, Arc<Environment>) {
    let folder = tempfile::tempdir().unwrap();
    let made = Made::new(folder.path());
    made.commit(rows);
    let opened = Environment::open(folder.path(), MAP_BYTES).unwrap();
    (folder, made, opened)
}

/// Outcome, network code, whether restricted.
fn ask<'e>(engine: &'e Engine, dialled: &str) -> (Outcome, Option<&'e str>, bool) {
    let answer = engine.answer(&engine.locate(engine.digits(dialled.as_bytes())));
    (answer.outcome, answer.route.map(|route| route.network_code.as_str()), answer.restriction.is_some())
}

#[test]
fn nothing_is_answered_from_no_store() {
    let service = Service::new(terms(None, 0.0));
    let mut engine = Engine::new(Arc::clone(&service));
    engine.begin(NOW);
    assert_eq!(ask(&engine, "886912345678"), (Outcome::Unavailable, None, false));
    assert_eq!(ask(&engine, "no number"), (Outcome::Unavailable, None, false));
    let refused = engine.refuse();
    assert_eq!((refused.outcome, refused.serial, refused.age_seconds), (Outcome::Refused, 0, None));
    engine.rest();
    assert_eq!((engine.take_unreadable(), service.damaged_blocks(0)), (0, Vec::new()));
}

#[test]
fn number_then_its_range_holder_then_not_allocated() {
    let (_folder, _made, opened) = store(&rows(7));
    let mut engine = Engine::new(Service::new(terms(Some(&opened), 0.0)));
    engine.begin(NOW);
    for (dialled, expected) in [
        ("886912345678", (Outcome::Ported, Some("1001"), false)),
        ("0912345678", (Outcome::Ported, Some("1001"), false)),
        ("+886912345679", (Outcome::NotPorted, Some("1002"), true)),
        ("886912999999", (Outcome::NotPorted, Some("1002"), false)), // no block at all
        ("886931000000", (Outcome::NotAllocated, None, false)),
        ("886110", (Outcome::NotPortable, None, false)),
        ("88691234567", (Outcome::NotPortable, None, false)), // a wrong length
        ("493012345", (Outcome::NotPorted, Some("1001"), false)), // another country's, and held
        ("44201234567", (Outcome::NotPortable, None, false)),
        ("", (Outcome::NotPortable, None, false)),
    ] {
        assert_eq!(ask(&engine, dialled), expected, "{dialled}");
    }
    let answer = engine.answer(&engine.locate(engine.digits(b"0912345678")));
    assert_eq!((answer.tn, answer.serial, answer.age_seconds), (Some(886_912_345_678), 7, Some(60)));
    assert_eq!(engine.take_unreadable(), 0);
}

#[test]
fn strictest_restriction_in_force_is_told_until_it_lapses() {
    let mut rows = rows(7);
    rows.push(block(BLOCK, &[(0, 0x8001), (678, 0x8001), (680, RESTRICTED)]));
    let records = [
        (678, 678, 1, NOW + 20, NOW + 30),
        (0, 999, 2, NOW, NOW + 50),
        (0, 999, 2, NOW, NOW + 40),
        (679, 700, 3, NOW, NOW + 60),
        (678, 678, 4, NOW - 50, NOW + 99),
    ];
    rows.push(restricted(BLOCK, &records));
    check_told(&rows);
}

fn check_told(rows: &[Row]) {
    let (_folder, _made, opened) = store(rows);
    let mut engine = Engine::new(Service::new(terms(Some(&opened), 0.0)));
    for (after, dialled, expected) in [
        (0, "886912345678", Some((Measure::Limit, 50))),
        (20, "886912345678", Some((Measure::Stop, 30))),
        (30, "886912345678", Some((Measure::Limit, 50))),
        (50, "886912345678", Some((Measure::Alert, 99))),
        (99, "886912345678", None),
        (0, "886912345000", Some((Measure::Limit, 50))),
        (55, "886912345680", Some((Measure::NoRoaming, 60))),
        (60, "886912345680", None),
    ] {
        engine.begin(NOW + after);
        let answer = engine.answer(&engine.locate(engine.digits(dialled.as_bytes())));
        let told = answer.restriction.map(|found| (found.measure, found.until - NOW));
        assert_eq!(told, expected, "{dialled} {after}");
        assert_ne!(answer.outcome, Outcome::Unavailable);
    }
}

#[test]
fn rows_tell_where_the_block_s_value_cannot() {
    let (first, last) = (BLOCK * 1000, BLOCK * 1000 + 2999);
    let mut rows = rows(7);
    rows.push(block(BLOCK, &[(0, 0x8001), (678, 0x8001), (680, RESTRICTED)]));
    rows.push(restricted(BLOCK, &[(0, 999, 0, 0, NOW + 1000)]));
    rows.extend(restriction(first, last, (2, NOW, NOW + 50, 1)));
    rows.extend(restriction(first, last, (2, NOW, NOW + 40, 2)));
    rows.extend(restriction(first + 678, first + 678, (4, NOW - 50, NOW + 99, 1)));
    rows.extend(restriction(first + 678, first + 678, (1, NOW + 20, NOW + 30, 2)));
    rows.extend(restriction(first + 679, first + 700, (3, NOW, NOW + 60, 1)));
    check_told(&rows);
}

#[test]
fn value_that_is_damaged_or_missing_makes_its_numbers_unavailable() {
    let whole = restricted(BLOCK, &[(4, 6, 1, 0, NOW * 2)]);
    for harm in (0..4).chain(64..64 + 16 + 8).chain([whole.2.len()]) {
        let mut rows = rows(7);
        rows.retain(|row| row.0 != c"restricted");
        rows.push(block(BLOCK, &[(5, 0x8001), (6, 1)]));
        rows.extend(restriction(BLOCK * 1000 + 4, BLOCK * 1000 + 6, (1, 0, NOW * 2, 1)));
        let mut harmed = whole.clone();
        if let Some(byte) = harmed.2.get_mut(harm) {
            *byte ^= 1;
            rows.push(harmed);
        }
        let (_folder, _made, opened) = store(&rows);
        let mut engine = Engine::new(Service::new(terms(Some(&opened), 0.0)));
        engine.begin(NOW);
        assert_eq!(ask(&engine, "886912345005"), (Outcome::Unavailable, None, false), "{harm}");
        assert_eq!(ask(&engine, "886912345006").0, Outcome::Ported);
        assert_eq!(engine.take_unreadable(), 1);
    }
}

#[test]
fn row_that_is_damaged_or_missing_makes_its_number_unavailable() {
    let number = BLOCK * 1000 + 5;
    let whole = restriction(number - 1, number + 1, (1, 0, NOW * 2, 1));
    for harm in 0..=whole[1].2.len() {
        let mut rows = rows(7);
        rows.push(block(BLOCK, &[(5, 0x8001), (6, 1)]));
        rows.push(restricted(BLOCK, &[(4, 6, 0, 0, u64::from(u32::MAX))]));
        let mut harmed = whole.clone();
        match harmed[1].2.get_mut(harm) {
            Some(byte) => *byte ^= 1,
            None => drop(harmed.pop()), // the row that the others lead to
        }
        rows.extend(harmed);
        let (_folder, _made, opened) = store(&rows);
        let mut engine = Engine::new(Service::new(terms(Some(&opened), 0.0)));
        engine.begin(NOW);
        assert_eq!(ask(&engine, "886912345005"), (Outcome::Unavailable, None, false), "{harm}");
        assert_eq!(ask(&engine, "886912345006").0, Outcome::Ported);
        assert_eq!(engine.take_unreadable(), 1);
    }
}

#[test]
fn damaged_block_and_missing_routes_are_unavailable_and_counted_once() {
    let (_folder, _made, opened) = store(&rows(7));
    let service = Service::new(terms(Some(&opened), 0.0));
    let mut engine = Engine::new(Arc::clone(&service));
    engine.begin(NOW);
    for dialled in ["886912346000", "886912345680", "886955000000"] {
        assert_eq!(ask(&engine, dialled), (Outcome::Unavailable, None, false), "{dialled}");
    }
    assert_eq!((engine.take_unreadable(), engine.take_unreadable()), (3, 0));
    assert_eq!((service.damaged_blocks(7), service.damaged_blocks(8)), (vec![BLOCK + 1], Vec::new()));
}

#[test]
fn what_lies_under_digits_and_cannot_be_read_may_be_there_and_is_noted() {
    let (_folder, _made, opened) = store(&rows(7));
    let service = Service::new(terms(Some(&opened), 0.0));
    let mut engine = Engine::new(Arc::clone(&service));
    engine.begin(NOW);
    for (digits, is_there) in [("88691234567", true), ("88691234566", false), ("886912", true), ("886913", false)] {
        assert_eq!(engine.has_under(digits.as_bytes(), false), is_there, "{digits}");
    }
    assert!(service.damaged_blocks(7).is_empty());
    assert!(engine.has_under(b"88691234600", false));
    assert_eq!((engine.take_unreadable(), service.damaged_blocks(7)), (0, vec![BLOCK + 1]));
}

#[test]
fn who_stands_back_answers_nothing_but_serial_and_age() {
    let (_folder, _made, opened) = store(&rows(7));
    let service = Service::new(terms(Some(&opened), 0.0));
    let mut engine = Engine::new(Arc::clone(&service));
    for withdrawn in [false, true, false] {
        service.use_terms(Terms { withdrawn, ..terms(Some(&opened), 0.0) });
        engine.begin(NOW);
        let answer = engine.answer(&engine.locate(engine.digits(b"886912345678")));
        let outcome = if withdrawn { Outcome::Unavailable } else { Outcome::Ported };
        assert_eq!((answer.outcome, answer.serial, answer.age_seconds), (outcome, 7, Some(60)));
        assert_eq!((engine.is_usable(), engine.has_under(b"88691234567", false)), (!withdrawn, !withdrawn));
    }
}

#[test]
fn damage_of_a_store_is_forgotten_when_a_restored_one_of_the_same_serial_takes_its_place() {
    let (_old_folder, _old_made, old) = store(&rows(7));
    let mut restored_rows = rows(7);
    restored_rows.pop();
    let (_folder, _made, restored) = store(&restored_rows);
    let service = Service::new(terms(Some(&old), 0.0));
    let (mut engine, mut late) = (Engine::new(Arc::clone(&service)), Engine::new(Arc::clone(&service)));
    engine.begin(NOW);
    late.begin(NOW);
    ask(&engine, "886912346000");
    service.use_terms(terms(Some(&old), 5.0));
    assert_eq!(service.damaged_blocks(7), [BLOCK + 1], "the same store under other terms");
    service.use_terms(terms(Some(&restored), 0.0));
    assert!(service.damaged_blocks(7).is_empty());
    ask(&late, "886912346000"); // its batch began before
    assert!(service.damaged_blocks(7).is_empty());
    engine.begin(NOW);
    assert_eq!(ask(&engine, "886912346000"), (Outcome::NotPorted, Some("1002"), false));
}

#[test]
fn batch_keeps_its_state_and_the_next_one_has_the_newest() {
    let (_folder, made, opened) = store(&rows(7));
    let mut engine = Engine::new(Service::new(terms(Some(&opened), 0.0)));
    for serial in 8..40 {
        engine.begin(NOW);
        let before = ask(&engine, "886912345678");
        assert_eq!(engine.refuse().serial, serial - 1);
        // Each commit moves the block to another page; pages are used again as soon as no reader holds them.
        let entry = 1 + (serial as u16) % 2;
        let commit = [state(serial.into(), 1, Some(NOW as u32)), block(BLOCK, &[(678, entry)])];
        made.commit(&commit);
        assert_eq!(ask(&engine, "886912345678"), before);
        if serial % 3 == 0 {
            engine.rest();
        }
        engine.begin(NOW);
        let expected = if entry == 1 { "1001" } else { "1002" };
        assert_eq!(ask(&engine, "886912345678"), (Outcome::Ported, Some(expected), false), "serial {serial}");
        assert_eq!(ask(&engine, "886912345678").1, Some(expected), "its place is remembered");
    }
}

#[test]
fn engine_that_is_asked_nothing_holds_no_state() {
    let (_folder, made, opened) = store(&rows(7));
    let mut engine = Engine::new(Service::new(terms(Some(&opened), 0.0)));
    assert_eq!(made.pinned(), 0);
    engine.begin(NOW);
    assert_eq!(made.pinned(), 1);
    engine.rest();
    assert_eq!(made.pinned(), 0);
}

#[test]
fn store_that_is_no_longer_served_is_let_go_at_rest_and_at_begin() {
    let (_old_folder, _old_made, old) = store(&rows(7));
    let (_folder, _made, new) = store(&rows(9));
    let service = Service::new(terms(Some(&old), 0.0));
    let mut engines = [Engine::new(Arc::clone(&service)), Engine::new(Arc::clone(&service))];
    for engine in &mut engines {
        engine.begin(NOW);
    }
    service.use_terms(terms(Some(&new), 0.0));
    assert!(Arc::strong_count(&old) > 1);
    engines[0].rest();
    engines[1].begin(NOW);
    assert_eq!((Arc::strong_count(&old), engines[1].refuse().serial), (1, 9));
    service.use_terms(terms(None, 0.0));
    engines.iter_mut().for_each(Engine::rest);
    assert_eq!(Arc::strong_count(&new), 1);
    engines[0].begin(NOW);
    assert_eq!(ask(&engines[0], "886912345678").0, Outcome::Unavailable);
}

#[test]
fn data_that_is_too_old_is_not_answered_from() {
    let (_folder, made, opened) = store(&[state(1, 0, None)]);
    let service = Service::new(terms(Some(&opened), 60.0));
    let mut engine = Engine::new(Arc::clone(&service));
    engine.begin(NOW);
    assert_eq!((ask(&engine, "886912345678").0, engine.refuse().age_seconds), (Outcome::Unavailable, None));
    made.commit(&rows(2));
    engine.begin(NOW);
    assert_eq!((ask(&engine, "886912345678").0, engine.refuse().age_seconds), (Outcome::Ported, Some(60)));
    engine.begin(NOW + 1);
    assert_eq!((ask(&engine, "886912345678").0, engine.refuse().age_seconds), (Outcome::Unavailable, Some(61)));
    engine.begin(NOW - 100); // a clock that was set back
    assert_eq!((ask(&engine, "886912345678").0, engine.refuse().age_seconds), (Outcome::Ported, Some(0)));
    service.use_terms(terms(Some(&opened), 0.0));
    engine.begin(NOW + 1_000_000);
    assert_eq!(ask(&engine, "886912345678").0, Outcome::Ported);
}

#[test]
fn damaged_state_is_unavailable_until_a_commit_mends_it() {
    let (_folder, made, opened) = store(&rows(7));
    let mut engine = Engine::new(Service::new(terms(Some(&opened), 0.0)));
    let (name, key, mut value) = state(8, 1, Some(NOW as u32));
    value[1] ^= 1;
    made.commit(&[(name, key, value)]);
    for _ in 0..2 {
        engine.begin(NOW);
        assert_eq!(ask(&engine, "886912345678"), (Outcome::Unavailable, None, false));
        assert_eq!(made.pinned(), 0, "what cannot be read is not held");
    }
    made.commit(&[state(9, 1, Some(NOW as u32))]);
    engine.begin(NOW);
    assert_eq!((ask(&engine, "886912345678").0, engine.refuse().serial), (Outcome::Ported, 9));
}
