"""What look-ups read of a thousand numbers' restrictions: any rows, any bytes, and as many rows as there may be."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookupd.errors import StoreError
from lookupd.model import TN, JournalKind, Measure, Restriction, Target, UnixSeconds
from lookupd.store import restricted, restricting
from lookupd.store.reader import Reader
from lookupd.store.restricted import find, pack, record_of
from lookupd.store.restrictions import in_force
from lookupd.store.schema import BLOCK_KEY, NUMBERS_PER_BLOCK
from lookupd.store.verify import verify
from lookupd.units import format_time
from tests.conftest import Workbench
from tests.property.test_restriction_model import later

BLOCK = 886912345
FIRST = BLOCK * NUMBERS_PER_BLOCK
BEGIN = 1_800_000_000
DAY = 86_400
BOUND = 3

offsets = st.one_of(st.sampled_from([0, 63, 64, 127, 128, 959, 960, 999]), st.integers(0, 999))
moments = st.integers(BEGIN, BEGIN + 12)


@st.composite
def restrictions(draw: st.DrawFn) -> Restriction:
    """One that reaches into the block: from a block before, into one after, or within it."""
    ends = sorted((draw(offsets), draw(offsets)))
    first = FIRST + ends[0] - draw(st.sampled_from([0, 0, 1500]))
    last = FIRST + ends[1] + draw(st.sampled_from([0, 0, 1500]))
    begins_at = draw(moments)
    until = UnixSeconds(begins_at + draw(st.integers(1, 6)))
    measure, case = draw(st.sampled_from(Measure)), str(draw(st.integers(0, 99)))
    return Restriction(Target.NUMBER, first, last, "NPA", case, measure, UnixSeconds(begins_at), until)


@contextmanager
def bound(count: int) -> Iterator[None]:
    """The bound that the store keeps; where it is told, it stays what it is."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (restricted, restricting):
            patch.setattr(module, "RESTRICTIONS_PER_BLOCK_MAX", count)
        yield


@settings(max_examples=300, deadline=None)
@given(placed=st.lists(restrictions(), max_size=12), most=st.integers(0, 14), offset=offsets, now=moments)
def test_value_tells_what_the_rows_tell_or_sends_to_them(
    placed: list[Restriction], most: int, offset: int, now: int
) -> None:
    with bound(most):
        value = pack(BLOCK, [record_of(BLOCK, it) for it in placed])
    about = [it for it in placed if it.first <= FIRST + offset <= it.last]
    if not about:
        return
    is_told, holds = find(BLOCK, memoryview(value), offset, UnixSeconds(now))
    if is_told:
        assert holds == in_force(about, UnixSeconds(now))
    else:
        assert sum(it.until > now for it in placed) > most


@settings(max_examples=300, deadline=None)
@given(placed=st.lists(restrictions(), min_size=1, max_size=6), offset=offsets, now=moments, data=st.data())
def test_changed_bytes_are_damage_or_tell_the_same(
    placed: list[Restriction], offset: int, now: int, data: st.DataObject
) -> None:
    value = bytearray(pack(BLOCK, [record_of(BLOCK, it) for it in placed]))
    told = said(bytes(value), offset, now)
    for _ in range(data.draw(st.integers(1, 3))):
        value[data.draw(st.integers(0, len(value) - 1))] ^= data.draw(st.integers(1, 255))
    assert said(bytes(value), offset, now) in {told, "damaged"}
    assert said(bytes(value[: data.draw(st.integers(0, 63))]), offset, now) == "damaged"


@given(value=st.binary(max_size=200), offset=offsets)
def test_any_bytes_are_an_answer_or_damage(value: bytes, offset: int) -> None:
    assert said(value, offset, BEGIN) == "damaged"  # a sum that fits is not guessed


def said(value: bytes, offset: int, now: int) -> str:
    try:
        return str(find(BLOCK, value, offset, UnixSeconds(now)))
    except StoreError:
        return "damaged"


# -- the bound -------------------------------------------------------------------------------------------

TARGETS = [
    {"tn": str(FIRST + 5)},
    {"tn": str(FIRST + 7)},
    {"tn": str(FIRST + 5), "tn_to": str(FIRST + 999)},
    {"tn": str(FIRST - 2000), "tn_to": str(FIRST + 5)},
]
orders = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["restrict", "restrict", "restrict", "extend", "lift"]),
        "target": st.sampled_from(TARGETS),
        "case": st.sampled_from(["1", "2", "3"]),
        "days": st.integers(1, 60),
        "notified": st.integers(-30, 30),
    }
)
Rows = dict[tuple[int, int, str], tuple[int, int, bool]]


def line_of(order: dict[str, Any], at: int) -> dict[str, Any]:
    line = {"kind": order["kind"], "notified_at": format_time(at), "authority": "NPA", "case": order["case"]}
    line |= order["target"]
    if order["kind"] == "restrict":
        line |= {"measure": "stop", "from": format_time(BEGIN), "until": format_time(BEGIN + order["days"] * DAY)}
    return line


def follow(rows: Rows, order: dict[str, Any], at: int) -> bool:
    """What the rules make of it; whether they allow it. All of them begin at BEGIN."""
    target = order["target"]
    first, last = int(target["tn"]), int(target.get("tn_to", target["tn"]))
    key = (first, last, order["case"])
    known = rows.get(key)
    if order["kind"] == "lift":
        return rows.pop(key, None) is not None
    extended = known is not None and known[2]
    until = BEGIN + order["days"] * DAY
    if order["kind"] == "extend":
        if known is None or known[1] <= at or extended:
            return False
        until, extended = later(known[1], 1), True
    for block in range(first // NUMBERS_PER_BLOCK, last // NUMBERS_PER_BLOCK + 1):
        others = [
            row for of, row in rows.items()
            if of != key and of[0] // NUMBERS_PER_BLOCK <= block <= of[1] // NUMBERS_PER_BLOCK and row[1] > at
        ]  # fmt: skip
        if until > at and len(others) >= BOUND:
            return False
    rows[key] = (BEGIN, until, extended)
    return True


@settings(max_examples=40, deadline=None)
@given(story=st.lists(orders, min_size=4, max_size=14), moment=st.integers(0, 500))
def test_no_more_than_the_bound_are_placed_and_no_answer_is_lost(story: list[dict[str, Any]], moment: int) -> None:
    with tempfile.TemporaryDirectory() as folder, bound(BOUND):
        here, there = Workbench(Path(folder) / "a"), Workbench(Path(folder) / "b")
        rows: Rows = {}
        allowed = []
        for bench, late in ((here, 0), (there, 3 * 365 * DAY)):
            bench.folder.mkdir()
            bench.load_tables()
            bench.snapshot(now=BEGIN)
            for sequence, order in enumerate(story, 2):
                at = BEGIN + (sequence + order["notified"]) * DAY
                bench.delta(line_of(order, at), sequence=sequence, now=BEGIN + sequence * DAY + late)
                if bench is here:
                    allowed.append(follow(rows, order, at))
        assert here.state()[1] == there.state()[1]
        with here.reader() as reader, there.reader() as other:
            assert verify(reader).problems == verify(other).problems == []
            assert {(it.first, it.last, it.case): (it.begins_at, it.until, it.extended) for it in every(reader)} == rows
            refused = [entry for _, entry, _ in reader.journal() if entry.kind is JournalKind.REFUSED]
            assert len(refused) == allowed.count(False)
            assert values(reader) == values(other)
            now = UnixSeconds(BEGIN + moment * DAY)
            for number in (FIRST + 5, FIRST + 7, FIRST + 999, FIRST - 1000):
                about = [it for it in every(reader) if it.first <= number <= it.last]
                if about:
                    assert reader.restriction(TN(number), now) == in_force(about, now)


def every(reader: Reader) -> list[Restriction]:
    return list(reader.every_restriction())


def values(reader: Reader) -> dict[int, bytes]:
    return {BLOCK_KEY.unpack(key)[0]: value for key, value in reader.stored_from("restricted")}
