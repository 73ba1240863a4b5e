"""Restrictions in the store: placed, extended, lifted and lapsed; what an answer says; what each moment looked like."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from loader.apply import Result
from lookupd.engine import Engine
from lookupd.errors import Rejected
from lookupd.model import TN, InForce, JournalKind, Measure, Outcome, UnixSeconds
from lookupd.store.history import Past
from lookupd.store.restrictions import imsi_key
from lookupd.store.schema import RESTRICTED
from lookupd.store.verify import verify
from lookupd.units import parse_time
from tests.conftest import PLAN, Workbench

PORTED, UNPORTED, NEIGHBOUR = "886912345678", "886911111111", "886911111112"
PLACED = parse_time("2026-11-22T10:00:00+08:00")
TWO_YEARS = parse_time("2028-11-22T10:00:00+08:00")
THREE_YEARS = parse_time("2029-11-22T10:00:00+08:00")
NPA = {"authority": "NPA", "case": "A-1"}
STOP = {"kind": "restrict", "measure": "stop", **NPA}


def restriction(bench: Workbench, number: str, now: int = PLACED) -> InForce | None:
    with bench.reader() as reader:
        engine = Engine(PLAN)
        engine.reader = reader
        engine.begin(UnixSeconds(now))
        return engine.resolve(number).restriction


def marked(bench: Workbench, *numbers: str) -> list[bool]:
    with bench.reader() as reader:
        return [bool(reader.entry(int(number)) & RESTRICTED) for number in numbers]


def refusals(bench: Workbench) -> list[str | None]:
    with bench.reader() as reader:
        return [entry.reason for _, entry, _ in reader.journal() if entry.kind is JournalKind.REFUSED]


@pytest.fixture(autouse=True)
def store_is_whole(loaded: Workbench) -> Iterator[None]:
    yield
    with loaded.reader() as reader:
        assert verify(reader).problems == []


def place(bench: Workbench, **more: object) -> Result:
    sequence = bench.state()[2]["main"].sequence + 1  # type: ignore[attr-defined]
    return bench.delta({**STOP, **more}, sequence=sequence)


@pytest.mark.parametrize("number", [PORTED, UNPORTED, "886930000000", "886119999999999"])
def test_restriction_holds_for_two_years_whatever_the_number_is(loaded: Workbench, number: str) -> None:
    before = restriction(loaded, number)
    place(loaded, tn=number)
    assert before is None
    held = InForce(Measure.STOP, TWO_YEARS)
    assert [restriction(loaded, number, at) for at in (PLACED - 1, PLACED, TWO_YEARS - 1, TWO_YEARS)] == [
        None,
        held,
        held,
        None,
    ]
    assert restriction(loaded, NEIGHBOUR) is None


def test_route_is_answered_as_before(loaded: Workbench) -> None:
    place(loaded, tn=PORTED)
    with loaded.reader() as reader:
        engine = Engine(PLAN)
        engine.reader = reader
        engine.begin(PLACED)
        answer = engine.resolve(PORTED)
    assert (answer.outcome, answer.route and answer.route.network_code) == (Outcome.PORTED, "1402")


def test_lift_gives_back_the_state_from_before(loaded: Workbench) -> None:
    digest = loaded.state()[1]
    place(loaded, tn=PORTED)
    placed = loaded.state()[1]
    loaded.delta({"kind": "lift", "tn": PORTED, **NPA}, sequence=3)
    assert restriction(loaded, PORTED) is None
    assert marked(loaded, PORTED) == [False]
    assert (placed != digest, loaded.state()[1]) == (True, digest)


def test_range_marks_every_number_and_only_those(loaded: Workbench) -> None:
    place(loaded, tn="886912344990", tn_to="886912346010")
    assert marked(loaded, "886912344989", "886912344990", PORTED, "886912346010", "886912346011") == [
        False, True, True, True, False,
    ]  # fmt: skip
    assert restriction(loaded, PORTED) == InForce(Measure.STOP, TWO_YEARS)
    loaded.delta({"kind": "lift", "tn": "886912344990", "tn_to": "886912346010", **NPA}, sequence=3)
    assert marked(loaded, "886912344990", PORTED, "886912346010") == [False, False, False]


def test_overlapping_ones_are_kept_apart_and_the_number_is_free_when_the_last_is_gone(loaded: Workbench) -> None:
    loaded.delta(
        {**STOP, "tn": PORTED, "measure": "alert"},
        {**STOP, "tn": PORTED, "authority": "NCC"},
        {**STOP, "tn": "886912345600", "tn_to": "886912345699", "measure": "limit"},
        {**STOP, "tn": PORTED, "case": "A-2", "measure": "no_roaming"},
        sequence=2,
    )
    told = []
    lifts = [
        {"tn": PORTED, "authority": "NCC"},
        {"tn": "886912345600", "tn_to": "886912345699"},
        {"tn": PORTED, "case": "A-2"},
        {"tn": PORTED},
    ]
    for sequence, lift in enumerate(lifts, 3):
        found = restriction(loaded, PORTED)
        told.append(found and found.measure)
        loaded.delta({"kind": "lift", **NPA, **lift}, sequence=sequence)
    assert told == [Measure.STOP, Measure.LIMIT, Measure.NO_ROAMING, Measure.ALERT]
    assert restriction(loaded, PORTED) is None
    assert marked(loaded, PORTED, "886912345600") == [False, False]


def test_lift_by_another_authority_is_refused_and_recorded(loaded: Workbench) -> None:
    place(loaded, tn=PORTED)
    loaded.delta({"kind": "lift", "tn": PORTED, "authority": "NCC", "case": "A-1"}, sequence=3)
    assert restriction(loaded, PORTED) == InForce(Measure.STOP, TWO_YEARS)
    (why,) = refusals(loaded)
    assert why
    assert "only who placed" in why


def test_it_is_extended_once_by_a_year(loaded: Workbench) -> None:
    place(loaded, tn=PORTED)
    extend = {"kind": "extend", "tn": PORTED, **NPA}
    loaded.delta({**extend, "until": "2029-11-22T10:00:01+08:00"}, extend, extend, sequence=3)
    assert restriction(loaded, PORTED, TWO_YEARS) == InForce(Measure.STOP, THREE_YEARS)
    too_long, again = refusals(loaded)
    assert "more than 1 year" in str(too_long)
    assert "extended before" in str(again)


@pytest.mark.parametrize(
    ("notice", "why"),
    [
        ({"until": "2028-11-22T10:00:01+08:00"}, "more than 2 years"),
        ({"until": "2026-11-22T10:00:00+08:00"}, "not after from"),
        ({"from": "2030-01-01T00:00:00Z", "until": "2029-01-01T00:00:00Z"}, "not after from"),
    ],
    ids=["long", "empty", "backwards"],
)
def test_time_that_is_not_allowed_is_refused_and_recorded(loaded: Workbench, notice: dict[str, str], why: str) -> None:
    place(loaded, tn=PORTED, **notice)
    assert restriction(loaded, PORTED) is None
    assert why in str(refusals(loaded)[0])


@pytest.mark.parametrize(
    ("notice", "why"),
    [
        ({}, "on tn"),
        ({"tn": PORTED, "imsi": "466011234567890"}, "on tn"),
        ({"imsi": "4660112345678"}, "14 or 15 digits"),
        ({"imsi": "4660112345678901"}, "14 or 15 digits"),
        ({"imsi": "466011234567890", "imsi_to": "46601123456789"}, "differ in length"),
        ({"tn": PORTED, "tn_to": UNPORTED}, "backwards"),
        ({"tn": "886912300000", "tn_to": "886912400000"}, "at most 100000"),
        ({"tn": PORTED, "authority": ""}, "authority: 1 to 64"),
        ({"tn": PORTED, "case": "x" * 65}, "case: 1 to 64"),
        ({"tn": PORTED, "measure": "jail"}, "one of stop, limit, no_roaming, alert"),
        ({"tn": PORTED, "recipient": "1401"}, "has no recipient"),
        ({"tn": PORTED, "until": "tomorrow"}, "until 'tomorrow'"),
        ({"tn": "886899999900", "tn_to": "886900000100"}, "crosses"),
    ],
    ids=str,
)
def test_bad_notice_is_rejected_by_its_line(loaded: Workbench, notice: dict[str, str], why: str) -> None:
    before = loaded.state()
    with pytest.raises(Rejected, match=why):
        place(loaded, **notice)
    assert loaded.state() == before


def test_imsi_and_its_range_are_found(loaded: Workbench) -> None:
    loaded.delta(
        {**STOP, "imsi": "001011234567890"},
        {**STOP, "imsi": "466010000000000", "imsi_to": "466019999999999", "measure": "no_roaming"},
        sequence=2,
    )
    with loaded.reader() as reader:
        for imsi, found in (
            ("001011234567890", 1),
            ("466015555555555", 1),
            ("466020000000000", 0),
            ("00101123456789", 0),
        ):
            assert len(reader.imsi_restrictions(imsi_key(imsi))) == found, imsi


def test_every_moment_is_told_as_it_was(loaded: Workbench) -> None:
    now = int(time.time())
    loaded.delta({**STOP, "tn": PORTED}, sequence=2, now=now + 10)
    loaded.delta({"kind": "port", "tn": PORTED, "recipient": "1401"}, sequence=3, now=now + 20)
    loaded.delta({"kind": "lift", "tn": PORTED, **NPA}, sequence=4, now=now + 30)
    with loaded.reader() as reader:
        last = reader.state.serial
        seen = []
        for serial in range(last - 3, last + 1):
            past = Past(reader, serial)
            ported = past.ported(TN(int(PORTED)))
            seen.append((ported and ported.network_code, len(past.restrictions(TN(int(PORTED))))))
    assert seen == [("1402", 0), ("1402", 1), ("1401", 1), ("1401", 0)]


def test_snapshot_leaves_restrictions_alone(loaded: Workbench) -> None:
    loaded.delta({**STOP, "tn": PORTED}, {**STOP, "tn": UNPORTED}, sequence=2)
    loaded.snapshot("tn,network_code\n886923456789,1402\n", sequence=3)
    assert restriction(loaded, PORTED) == restriction(loaded, UNPORTED) == InForce(Measure.STOP, TWO_YEARS)
