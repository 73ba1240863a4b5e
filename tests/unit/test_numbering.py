"""Numbers as people and switches write them, and the plan that names their kind."""

from __future__ import annotations

import random
import re
from pathlib import Path

import phonenumbers
import pytest

from lookupd.errors import ConfigError
from lookupd.model import TN
from lookupd.numbering import (
    Kind,
    Plan,
    load_plan,
    mask_tn,
    parse_network_code,
    parse_routing_number,
    parse_tn,
)

TAIWAN = load_plan("886")


@pytest.mark.parametrize(
    ("written", "tn"),
    [
        ("886912345678", 886912345678),
        ("+886912345678", 886912345678),
        ("+886 912-345-678", 886912345678),
        ("0912345678", 886912345678),
        ("(02) 2345-6789", 886223456789),
        ("0800 123 456", 886800123456),
        ("81312345678", 81312345678),
        ("123456789012345", 123456789012345),
        ("12345", 12345),
        ("1234567890123456", None),  # 16 digits
        ("1234", None),  # a short code has no E.164 form
        ("110", None),
        ("", None),
        ("+", None),
        ("0", None),
        ("00886912345678", None),  # two zeros: no national number starts so
        ("+0912345678", None),
        ("++886912345678", None),
        ("88691234567a", None),
        ("٨٨٦٩١٢٣٤٥٦٧٨", None),  # digits of another script
        ("886912345678\n", None),
        ("9" * 10_000, None),
    ],
)
def test_written_number_is_read(written: str, tn: int | None) -> None:
    assert TAIWAN.read_text(written) == tn


def test_plan_without_file_reads_no_national_form() -> None:
    plan = load_plan("39")
    assert plan.read("0612345678") is None
    assert plan.read("390612345678") == 390612345678  # Italian numbers keep their zero
    kind = plan.kind(TN(390612345678))
    assert kind is not None
    assert kind.portable
    assert plan.kind(TN(390612)) is None
    assert plan.kind(TN(886912345678)) is None


@pytest.mark.parametrize(
    ("tn", "kind"),
    [
        (886912345678, "mobile"),
        (886223456789, "geographic"),
        (886800123456, "freephone"),
        (88680012345, "freephone"),
        (886203123456, "premium"),
        (886990123456, "personal"),
        (886500123456, "universal"),
        (8867012345678, "internet"),
        (88691234567, None),
        (8869123456789, None),
        (886112345678, None),
        (81312345678, None),
    ],
)
def test_kind_of_taiwanese_number(tn: int, kind: str | None) -> None:
    found = TAIWAN.kind(TN(tn))
    assert (found and found.name) == kind


def test_plan_agrees_with_libphonenumber() -> None:
    """Every number that libphonenumber holds valid has a kind, and the portable ones are those of the law."""
    types = phonenumbers.PhoneNumberType
    portable = {types.MOBILE, types.FIXED_LINE, types.TOLL_FREE}
    draw = random.Random(7)
    seen = set()
    for _ in range(40_000):
        national = str(draw.randrange(2, 10)) + "".join(draw.choices("0123456789", k=draw.choice((6, 7, 8, 9, 10))))
        number = phonenumbers.parse(f"+886{national}")
        kind = phonenumbers.number_type(number)
        if kind == types.UNKNOWN or national.startswith("40001"):  # machine numbers: a kind of mobile there
            continue
        found = TAIWAN.kind(TN(int(f"886{national}")))
        assert found is not None, national
        assert found.portable == (kind in portable), national
        seen.add(kind)
    assert portable <= seen


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('country_code = "81"\ntrunk_prefix = "0"\nkind = []', "is for +81"),
        ('country_code = "886"', "trunk_prefix"),
        ("country_code = ", "file"),
        (
            'country_code = "886"\ntrunk_prefix = "0"\n'
            '[[kind]]\nname = "x"\nportable = true\nprefixes = ["9123456"]\nlengths = [9]',
            "leaves fewer than 3",
        ),
        ('country_code = "886"\ntrunk_prefix = "0"\nkind = []\nmore = 1', "more"),
    ],
)
def test_bad_plan_file_is_named(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(str(file))) as caught:
        load_plan("886", file)
    assert reason in str(caught.value)


def test_missing_plan_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_plan("886", tmp_path / "none.toml")


@pytest.mark.parametrize("code", ["", "0", "0886", "8866", "88a", "٨"])
def test_bad_country_code_is_refused(code: str) -> None:
    with pytest.raises(ConfigError, match="country_code"):
        Plan(code)


@pytest.mark.parametrize("text", ["", "1234", "012345", "1234567890123456", "12345 ", "+12345", "1234x", "１２３４５"])
def test_tn_of_a_feed_is_digits_only(text: str) -> None:
    assert parse_tn(text) is None


def test_codes_and_routing_numbers_are_checked() -> None:
    assert parse_network_code("A1") == "A1"
    assert parse_routing_number("D0402AF") == "D0402AF"
    for bad in ("", "123456789", "a1", "A-1", "A1\n"):
        assert parse_network_code(bad) is None
    for bad in ("", "G1", "d1", "1" * 16):
        assert parse_routing_number(bad) is None


def test_masked_number_hides_its_last_four_digits() -> None:
    assert mask_tn(TN(886912345678)) == "+88691234****"


@pytest.mark.parametrize(
    ("digits", "incomplete"),
    [
        ("886", True),
        ("8869123", True),
        ("8862234567", True),
        ("88622345678", False),  # as long as the shortest that can be ported
        ("886223456789", False),
        ("88691234567890", False),
        ("8862012345", False),  # a whole premium number, shorter than any that can be ported
        ("8862012346", False),
        ("886201234", True),
        ("88", False),
        ("8131234567", False),  # another country's
        ("", False),
    ],
)
def test_number_that_lacks_digits_is_told_from_one_that_cannot_be(digits: str, incomplete: bool) -> None:
    assert TAIWAN.is_incomplete(digits) is incomplete


def test_plan_without_kinds_wants_its_shortest_number() -> None:
    plan = Plan("44")
    assert plan.is_incomplete("441234")
    assert not plan.is_incomplete("4412345")
    assert not Plan("44", "0", [Kind("fixed", False, ("1",), (9,))]).is_incomplete("441234")
