"""The guard before files that move many numbers, and the words that let one through."""

from __future__ import annotations

import pytest

from loader.guard import check_moved, parse_words
from lookupd.errors import Refused
from lookupd.limits import WORDS_CHARS_MAX
from lookupd.store.change import Counts

NAME = "snapshot-main-9.csv.zst"


def check(moved: Counts, ported: int = 1_000_000, accepted: str | None = None) -> None:
    check_moved(moved, ported, 0.02, 1000, accepted, NAME)


@pytest.mark.parametrize("moved", [Counts(added=20_000), Counts(removed=20_000), Counts(5_000, 5_000, 10_000)])
def test_share_itself_passes(moved: Counts) -> None:
    check(moved)


@pytest.mark.parametrize("moved", [Counts(added=20_001), Counts(removed=20_001), Counts(5_000, 5_001, 10_000)])
def test_one_number_more_is_refused(moved: Counts) -> None:
    with pytest.raises(Refused):
        check(moved)


def test_unchanged_and_mended_do_not_count() -> None:
    check(Counts(unchanged=1_000_000, mended=50))


@pytest.mark.parametrize(("moved", "passes"), [(1000, True), (1001, False)])
def test_small_store_lets_the_free_numbers_through(moved: int, passes: bool) -> None:
    if passes:
        check(Counts(added=moved), ported=10)
    else:
        with pytest.raises(Refused):
            check(Counts(added=moved), ported=10)


def test_first_load_is_exempt() -> None:
    check(Counts(added=20_000_000), ported=0)


def test_refusal_names_counts_share_settings_and_way_out() -> None:
    with pytest.raises(Refused) as refused:
        check(Counts(10, 340_000, 2))
    text = str(refused.value)
    for part in (
        f"{NAME}: would move 340,012 numbers (10 added, 340,000 removed, 2 changed)",
        "34 % of the 1,000,000 ported",
        "limits.moved_share = 2 %",
        "limits.moved_free = 1,000",
        "20,000 here",
        "the store is unchanged",
        f"lookupd-loader diff {NAME}",
        '--accept-change "who: why"',
    ):
        assert part in text
    assert refused.value.exit_code == 4


def test_words_let_it_through() -> None:
    check(Counts(removed=900_000), accepted="Wu, NOC: confirmed by phone, ticket 4711")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no colon"),
        ("yes please", "no colon"),
        ("Wu: why not", "does not say who"),
        ("  : because", "does not say who"),
        ("Wu Mei: ok", "does not say why"),
        ("Wu Mei:   ", "does not say why"),
        ("Wu Mei: first line\nsecond", "one line"),
        ("Wu Mei: " + "x" * WORDS_CHARS_MAX, "at most"),
    ],
)
def test_words_that_say_too_little_let_nothing_through(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_words(text)
    for moved in (Counts(), Counts(removed=900_000)):
        with pytest.raises(Refused, match="--accept-change"):
            check(moved, accepted=text)


def test_words_are_kept_without_outer_blanks() -> None:
    assert parse_words("  Wu Mei: a: b  ") == "Wu Mei: a: b"
    assert parse_words("noc: why") == "noc: why"


def test_small_share_is_told_with_two_digits() -> None:
    with pytest.raises(Refused, match=r"0\.051 % of the 20,000,000"):
        check_moved(Counts(added=10_200), 20_000_000, 0.0001, 1000, None, NAME)
