"""`Engine.has_under` against a plain set: what lies under digits, of a store made anew for each example.

DNS calls such a name an empty non-terminal; that it is never denied is what keeps the longer numbers reachable.
"""

from __future__ import annotations

import json
import tempfile
from functools import lru_cache
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from loader.apply import apply_delta, apply_snapshot
from loader.files import identify
from lookupd.engine import Engine
from lookupd.limits import E164_DIGITS_MAX, TN_DIGITS_MIN
from lookupd.model import Outcome, UnixSeconds
from lookupd.numbering import Kind, Plan
from lookupd.store.writer import Writer
from tests.conftest import PLAN, UNGUARDED, Silent, Workbench

SMALL = Plan("9", "0", [Kind("open", True, ("", "1"), (4, 5)), Kind("closed", False, ("12", "3"), (5,))])
"""Small enough to count all of it: 95000 is open, 9xxxxxx has no kind, 912xxx is closed beside the open 912xx."""

NOW = 1_790_000_000
FOREIGN_HEADS = ["1", "44", "8", "12345", "77777777777777"]


def of_the_plan(digits: str) -> bool:
    """Whether it is a number of SMALL that can be ported, by the plan's own words."""
    national = digits[1:]
    if digits[:1] != "9" or len(national) not in {4, 5}:
        return False
    return len(national) == 4 or not national.startswith(("12", "3"))


COUNTED = [f"9{rest:0{size}}" for size in (4, 5) for rest in range(10**size)]
OF_THE_PLAN = [digits for digits in COUNTED if of_the_plan(digits)]


def test_plan_and_its_words_agree() -> None:
    for size in (5, 6, 7):
        for rest in range(0, 10 ** (size - 1), 7):
            digits = f"9{rest:0{size - 1}}"
            kind = SMALL.kind_of(digits)
            assert of_the_plan(digits) == (kind is not None and kind.portable)


@lru_cache(None)
def beginnings(head: str) -> frozenset[str]:
    """All that numbers of SMALL in a range begin with and go on after."""
    held = [number for number in OF_THE_PLAN if number.startswith(head)]
    return frozenset(number[:end] for number in held for end in range(len(number)))


def lies_under(digits: str, ported: set[str], ranges: set[str]) -> bool:
    """Whether a longer number that begins with digits is ported, or would be found in one of the ranges."""
    if any(number.startswith(digits) and len(number) > len(digits) for number in ported):
        return True
    for head in ranges:
        if head.startswith("9"):
            if digits in beginnings(head):
                return True
        # Of another country: any length will do.
        elif (digits.startswith(head) or head.startswith(digits)) and len(digits) < E164_DIGITS_MAX:
            return True
    return False


def load(workbench: Workbench, plan: Plan, ported: set[str], returned: set[str], ranges: set[str]) -> None:
    """A store of another plan than the samples'. returned: numbers that were ported and are not any more."""
    workbench.load_tables(ranges="prefix,network_code\n" + "".join(f"{head},1401\n" for head in sorted(ranges)))
    rows = sorted(ported | returned, key=int)
    text = "tn,network_code\n" + "".join(f"{number},1402\n" for number in rows)
    snapshot = workbench.publish("snapshot-main-1.csv", text, len(rows))
    notices = [
        {"kind": "return", "tn": number, "notified_at": "2026-11-22T10:00:00+08:00"} for number in sorted(returned)
    ]
    delta = workbench.publish("delta-main-2.ndjson", "".join(f"{json.dumps(row)}\n" for row in notices), len(notices))
    terms = (plan, UnixSeconds(NOW), Silent(), UNGUARDED)
    with Writer(workbench.store) as writer:
        apply_snapshot(writer, identify(snapshot, "snapshot", "main"), *terms)
        if notices:
            apply_delta(writer, identify(delta, "delta", "main"), *terms)


plan_numbers = st.sampled_from(OF_THE_PLAN)
heads = st.one_of(
    plan_numbers.flatmap(lambda number: st.integers(1, len(number)).map(lambda end: number[:end])),
    st.sampled_from(["912", "93", "9123", *FOREIGN_HEADS]),
)


@settings(max_examples=60, deadline=None, print_blob=True)
@given(
    ported=st.sets(plan_numbers, min_size=1, max_size=8),
    returned=st.sets(plan_numbers, max_size=3),
    ranges=st.sets(heads, max_size=3),
    asked=st.lists(st.one_of(heads, plan_numbers, st.from_regex(r"[1-9][0-9]{0,14}", fullmatch=True)), max_size=20),
)
def test_what_lies_under_digits_is_what_a_plain_set_says(
    ported: set[str], returned: set[str], ranges: set[str], asked: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        workbench = Workbench(Path(folder))
        load(workbench, SMALL, ported, returned, ranges)
        left = ported - returned
        with workbench.reader() as reader:
            engine = Engine(SMALL)
            engine.reader = reader
            engine.begin(UnixSeconds(NOW))
            for number in [*asked, *ported, *returned, *ranges]:
                for end in range(1, len(number) + 1):
                    digits = number[:end]
                    assert engine.has_under(digits, ranges=False) == lies_under(digits, left, set()), digits
                    found = engine.has_under(digits, ranges=True)
                    if lies_under(digits, left, ranges):
                        assert found, digits
                    elif found:
                        # More than there is may be told: the plan and the ranges are looked at apart, so a name may be
                        # called empty that has nothing below; but only beside a range.
                        assert any(digits.startswith(head) or head.startswith(digits) for head in ranges), digits


def test_every_existing_number_of_the_sample_is_reachable_label_by_label(loaded: Workbench) -> None:
    """A resolver that minimises names (RFC 9156) stops at the first denial (RFC 8020)."""
    engine = Engine(PLAN)
    with loaded.reader() as reader:
        engine.reader = reader
        engine.begin(UnixSeconds(2_000_000_000))
        for number in ("886912345678", "886912345679", "886923456789", "886223450000", "886911000000", "886229999999"):
            assert engine.find(number)[0] in {Outcome.PORTED, Outcome.NOT_PORTED}
            for end in range(1, len(number)):
                assert engine.has_under(number[:end], ranges=True), number[:end]
        for digits in ("7", "87", "885", "8861", "88693"):
            assert not engine.has_under(digits, ranges=False), digits
        assert not engine.has_under("87", ranges=True)
        assert engine.has_under("8869", ranges=False)
        assert not engine.has_under("88691234567800", ranges=False)


def test_shortest_and_longest_numbers_are_found(workbench: Workbench) -> None:
    plan = Plan("9", "", [Kind("any", True, ("",), (TN_DIGITS_MIN - 1, E164_DIGITS_MAX - 1))])
    shortest, longest = "9" * TN_DIGITS_MIN, "91" + "9" * (E164_DIGITS_MAX - 2)
    load(workbench, plan, {shortest, longest}, set(), set())
    engine = Engine(plan)
    with workbench.reader() as reader:
        engine.reader = reader
        engine.begin(UnixSeconds(NOW))
        for number in (shortest, longest):
            assert engine.find(number)[0] is Outcome.PORTED
            assert all(engine.has_under(number[:end], ranges=False) for end in range(1, len(number)))
            assert not engine.has_under(number, ranges=False)
        assert not engine.has_under("912", ranges=True)
