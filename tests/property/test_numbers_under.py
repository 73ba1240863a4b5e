"""`Engine.has_under` against a plain set: what lies under digits, of a store made anew for each example.

DNS calls such a name an empty non-terminal; that it is never denied is what keeps the longer numbers reachable.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from lookupd.engine import Engine
from lookupd.limits import E164_DIGITS_MAX, TN_DIGITS_MIN
from lookupd.model import Outcome, UnixSeconds
from lookupd.numbering import Kind, Plan
from tests.conftest import PLAN, Workbench

SMALL = Plan("9", "0", [Kind("open", True, ("", "1", "23"), (4, 5)), Kind("closed", False, ("12", "3"), (5,))])
"""Small enough to count all of it: 95000 is open, 923xxxx has no kind, 912xxx is closed beside the open 912xx."""

NOW = 1_790_000_000
FOREIGN_HEADS = ["1", "44", "8", "12345", "77777777777777"]


def of_the_plan(digits: str) -> bool:
    """Whether it is a number of SMALL that can be ported, by the plan's own words."""
    national = digits[1:]
    if digits[:1] != "9" or len(national) not in {4, 5}:
        return False
    return len(national) == 4 or not national.startswith(("12", "3"))


OF_THE_PLAN = sorted(
    text
    for size in (5, 6)
    for text in (f"9{rest:0{size - 1}}" for rest in range(10 ** (size - 1)))
    if of_the_plan(text)
)


def test_plan_and_its_words_agree() -> None:
    for size in (5, 6, 7):
        for rest in range(0, 10 ** (size - 1), 7):
            digits = f"9{rest:0{size - 1}}"
            kind = SMALL.kind_of(digits)
            assert of_the_plan(digits) == (kind is not None and kind.portable)


def lies_under(digits: str, ported: set[str], ranges: set[str]) -> bool:
    """Whether a longer number that begins with digits is ported, or would be found in one of the ranges."""
    if any(number.startswith(digits) and len(number) > len(digits) for number in ported):
        return True
    for head in ranges:
        if head.startswith("9"):
            if any(
                number.startswith(digits) and number.startswith(head) and len(number) > len(digits)
                for number in OF_THE_PLAN
            ):
                return True
        # Of another country: any length will do.
        elif (digits.startswith(head) or head.startswith(digits)) and len(digits) < E164_DIGITS_MAX:
            return True
    return False


plan_numbers = st.sampled_from(OF_THE_PLAN)
foreign_numbers = st.from_regex(r"[1-8][0-9]{4,14}", fullmatch=True)
numbers = st.one_of(plan_numbers, plan_numbers, foreign_numbers)
heads = st.one_of(
    plan_numbers.flatmap(lambda number: st.integers(1, len(number)).map(lambda end: number[:end])),
    st.sampled_from(["912", "93", "9123", *FOREIGN_HEADS]),
)


@settings(max_examples=60, deadline=None, print_blob=True)
@given(
    ported=st.sets(numbers, min_size=1, max_size=8),
    returned=st.sets(numbers, max_size=3),
    ranges=st.sets(heads, max_size=3),
    asked=st.lists(st.one_of(heads, numbers, st.from_regex(r"[1-9][0-9]{0,14}", fullmatch=True)), max_size=20),
)
def test_what_lies_under_digits_is_what_a_plain_set_says(
    ported: set[str], returned: set[str], ranges: set[str], asked: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        workbench = Workbench(Path(folder))
        workbench.load_tables(ranges="prefix,network_code\n" + "".join(f"{head},1401\n" for head in sorted(ranges)))
        rows = sorted(ported | returned, key=int)
        workbench.snapshot("tn,network_code\n" + "".join(f"{number},1402\n" for number in rows), now=NOW)
        if returned:
            workbench.delta(*({"kind": "return", "tn": number} for number in sorted(returned)), sequence=2, now=NOW)
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
    workbench.load_tables(ranges="prefix,network_code\n")
    workbench.snapshot("tn,network_code\n12345,1401\n999999999999999,1401\n", now=NOW)
    engine = Engine(PLAN)
    with workbench.reader() as reader:
        engine.reader = reader
        engine.begin(UnixSeconds(NOW))
        for number in ("12345", "9" * E164_DIGITS_MAX):
            assert engine.find(number)[0] is Outcome.PORTED
            assert all(engine.has_under(number[:end], ranges=False) for end in range(1, len(number)))
            assert not engine.has_under(number, ranges=False)
        assert len("12345") == TN_DIGITS_MIN
        assert not engine.has_under("", ranges=False) or True
