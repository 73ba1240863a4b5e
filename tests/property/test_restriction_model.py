"""Restrictions against a plain model: a dict of what each authority placed, and a clock that somebody moves."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lookupd.engine import Engine
from lookupd.model import InForce, JournalKind, Measure, UnixSeconds
from lookupd.store.history import Past, oldest_kept
from lookupd.store.restrictions import imsi_key, in_force
from lookupd.store.schema import RESTRICTED
from lookupd.store.verify import verify
from lookupd.units import format_time
from tests.conftest import PLAN, Workbench

BEGIN = 1_800_000_000
DAY = 86_400
NUMBERS = [886912345678, 886912345679, 886912345999, 886912346000, 886912347001, 886911111111]
TARGETS: list[dict[str, str]] = [
    {"tn": "886912345678"},
    {"tn": "886911111111"},
    {"tn": "886912345678", "tn_to": "886912345679"},
    {"tn": "886912345679", "tn_to": "886912346000"},
    {"tn": "886912345000", "tn_to": "886912347001"},
]
IMSIS: list[dict[str, str]] = [
    {"imsi": "466011234567890"},
    {"imsi": "466010000000000", "imsi_to": "466019999999999"},
]
Key = tuple[str, int, int, str, str]
Placed = dict[Key, tuple[Measure, int, int, bool]]

days = st.integers(-10, 1200)
steps = st.one_of(
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["restrict", "restrict", "extend", "lift"]),
            "target": st.sampled_from(TARGETS + IMSIS),
            "authority": st.sampled_from(["NPA", "NCC"]),
            "case": st.sampled_from(["1", "2"]),
            "measure": st.sampled_from(list(Measure)),
            "from": st.none() | days,
            "until": st.none() | days,
        }
    ),
    st.fixed_dictionaries({"kind": st.sampled_from(["port", "return"]), "tn": st.sampled_from(NUMBERS)}),
    st.just({"kind": "snapshot"}),
)


def later(moment: int, years: int) -> int:
    day = datetime.fromtimestamp(moment, UTC)
    return int(day.replace(year=day.year + years, day=min(day.day, 28) if day.month == 2 else day.day).timestamp())


def span(target: dict[str, str]) -> tuple[str, int, int]:
    if "tn" in target:
        return "number", int(target["tn"]), int(target.get("tn_to", target["tn"]))
    return "imsi", imsi_key(target["imsi"]), imsi_key(target.get("imsi_to", target["imsi"]))


def line_of(step: dict[str, Any], now: int) -> dict[str, Any]:
    """A notice of the step as a feed has it."""
    line: dict[str, Any] = {"kind": step["kind"], "notified_at": format_time(now)}
    if step["kind"] in {"port", "return"}:
        return line | {"tn": str(step["tn"])} | ({"recipient": "1402"} if step["kind"] == "port" else {})
    line |= step["target"] | {"authority": step["authority"], "case": step["case"]}
    if step["kind"] == "restrict":
        line["measure"] = step["measure"].label
        if step["from"] is not None:
            line["from"] = format_time(BEGIN + step["from"] * DAY)
    if step["kind"] != "lift" and step["until"] is not None:
        line["until"] = format_time(BEGIN + step["until"] * DAY)
    return line


def follow(placed: Placed, step: dict[str, Any], now: int) -> bool:
    """What the rules make of it; whether they allow it."""
    key = (*span(step["target"]), step["authority"], step["case"])
    known = placed.get(key)
    until = None if step["until"] is None else BEGIN + step["until"] * DAY
    if step["kind"] == "lift":
        return placed.pop(key, None) is not None
    if step["kind"] == "extend":
        if known is None or known[3] or known[2] <= now:
            return False
        longest = later(known[2], 1)
        until = longest if until is None else until
        if not known[2] < until <= longest:
            return False
        placed[key] = (known[0], known[1], until, True)
        return True
    begin = (now if known is None else known[1]) if step["from"] is None else BEGIN + step["from"] * DAY
    if known is not None and begin > known[1]:
        return False
    longest = later(begin, 2)
    if known is not None and known[3]:
        longest = max(longest, known[2])
    until = longest if until is None else until
    if not begin < until <= longest:
        return False
    placed[key] = (step["measure"], begin, until, known is not None and known[3])
    return True


def told(placed: Placed, kind: str, number: int, now: int) -> InForce | None:
    held = [
        (measure, -until)
        for (of_kind, first, last, _, _), (measure, begin, until, _) in placed.items()
        if of_kind == kind and first <= number <= last and begin <= now < until
    ]
    return InForce(min(held)[0], UnixSeconds(-min(held)[1])) if held else None


@settings(max_examples=60, deadline=None)
@given(story=st.lists(st.tuples(steps, st.integers(0, 400)), min_size=1, max_size=14), moment=days)
def test_store_says_what_the_rules_make_of_every_story(story: list[tuple[dict[str, Any], int]], moment: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        here, there = Workbench(Path(folder) / "a"), Workbench(Path(folder) / "b")
        for bench in (here, there):
            bench.folder.mkdir()
            bench.load_tables()
            bench.snapshot(now=BEGIN)
        placed: Placed = {}
        past: dict[int, Placed] = {here.state()[0]: {}}
        now, refused = BEGIN, 0
        for sequence, (step, days_on) in enumerate(story, 2):
            now += days_on * DAY
            for bench, late in ((here, 0), (there, 3 * 365 * DAY)):  # the other replica reads everything years later
                if step["kind"] == "snapshot":
                    bench.snapshot("tn,network_code\n886912345679,1402\n", sequence=sequence, now=now + late)
                else:
                    bench.delta(line_of(step, now), sequence=sequence, now=now + late)
            if "target" in step:
                refused += not follow(placed, step, now)
            past[here.state()[0]] = dict(placed)
        assert here.state()[1] == there.state()[1]
        check_now(here, placed, BEGIN + moment * DAY)
        check_past(here, past, refused)


def check_now(bench: Workbench, placed: Placed, now: int) -> None:
    with bench.reader() as reader:
        assert verify(reader).problems == []
        engine = Engine(PLAN)
        engine.reader = reader
        engine.begin(UnixSeconds(now))
        for number in NUMBERS:
            assert engine.resolve(str(number)).restriction == told(placed, "number", number, now), number
            about = any(kind == "number" and first <= number <= last for kind, first, last, _, _ in placed)
            assert bool(reader.entry(number) & RESTRICTED) is about, number
        for imsi in (imsi_key("466011234567890"), imsi_key("466019999999999"), imsi_key("466020000000000")):
            assert in_force(reader.imsi_restrictions(imsi), UnixSeconds(now)) == told(placed, "imsi", imsi, now)
        assert len(list(reader.every_restriction())) == len(placed)


def check_past(bench: Workbench, past: dict[int, Placed], refused: int) -> None:
    with bench.reader() as reader:
        oldest = oldest_kept(reader)[0]
        for serial, placed in past.items():
            if serial < oldest:
                continue
            then = Past(reader, serial)
            for number in NUMBERS:
                found = {
                    ("number", it.first, it.last, it.authority, it.case): (
                        it.measure,
                        it.begins_at,
                        it.until,
                        it.extended,
                    )
                    for it in then.restrictions(number)  # type: ignore[arg-type]
                }
                wanted = {
                    key: value for key, value in placed.items() if key[0] == "number" and key[1] <= number <= key[2]
                }
                assert found == wanted, (serial, number)
        kinds = [entry.kind for _, entry, _ in reader.journal()]
        assert kinds.count(JournalKind.REFUSED) == refused
