"""Notices about restrictions in our own feed format: the keys beside those of a port, as text to checked values.

What may be placed and by whom is for `restrict`, whether a range lies in one kind of number for `validate`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from lookupd.limits import RANGE_NUMBERS_MAX, RESTRICTION_WORDS_CHARS_MAX
from lookupd.model import Measure, NoticeKind, RestrictionTerms, Target, UnixSeconds
from lookupd.numbering import parse_tn
from lookupd.store.restrictions import imsi_key
from lookupd.units import parse_time

if TYPE_CHECKING:
    from loader.formats.lookupd import NoticeLine

_IMSI = re.compile(r"[0-9]{14,15}")
_MEASURES = {measure.label: measure for measure in Measure}
_OF_ROUTES = ("recipient", "routing_number", "donor", "effective_at")
_OF_RESTRICTIONS = ("imsi", "imsi_to", "authority", "case", "measure", "from_", "until")
_NOT_OF = {
    NoticeKind.RESTRICT: (),
    NoticeKind.EXTEND: ("measure", "from_"),
    NoticeKind.LIFT: ("measure", "from_", "until"),
}


def refuse_keys(kind: NoticeKind, row: NoticeLine) -> None:
    """Of a notice about routes. Raises ValueError if it has a key of those about restrictions."""
    for name in _OF_RESTRICTIONS:
        if getattr(row, name) is not None:
            raise ValueError(f"a {kind} has no {name.rstrip('_')}")


def parse_terms(kind: NoticeKind, row: NoticeLine) -> RestrictionTerms:
    """Of a notice OF_RESTRICTIONS. Raises ValueError with the reason."""
    for name in (*_OF_ROUTES, *_NOT_OF[kind]):
        if getattr(row, name) is not None:
            raise ValueError(f"a {kind} has no {name.rstrip('_')}")
    if kind is NoticeKind.RESTRICT and row.measure is None:
        raise ValueError(f"measure is missing: one of {', '.join(_MEASURES)}")
    target, first, last = parse_target(
        None if isinstance(row.tn, msgspec.UnsetType) else row.tn, row.tn_to, row.imsi, row.imsi_to
    )
    return RestrictionTerms(
        target,
        first,
        last,
        parse_words("authority", row.authority),
        parse_words("case", row.case),
        None if row.measure is None else parse_measure(row.measure),
        None if row.from_ is None else _time("from", row.from_),
        None if row.until is None else _time("until", row.until),
    )


def parse_target(tn: str | None, tn_to: str | None, imsi: str | None, imsi_to: str | None) -> tuple[Target, int, int]:
    """A number, an IMSI, or a range of either: what it is, its first and its last. Raises ValueError."""
    if (tn is None) == (imsi is None) or (tn is None and tn_to is not None) or (imsi is None and imsi_to is not None):
        raise ValueError("a restriction is on tn, on tn to tn_to, on imsi, or on imsi to imsi_to")
    if tn is not None:
        first, last = _number("tn", tn), _number("tn_to", tn if tn_to is None else tn_to)
        if last - first >= RANGE_NUMBERS_MAX:
            raise ValueError(f"the range has {last - first + 1} numbers, at most {RANGE_NUMBERS_MAX} go in one notice")
        return Target.NUMBER, *_in_order("tn", first, last)
    assert imsi is not None
    return Target.IMSI, *_in_order("imsi", parse_imsi("imsi", imsi), parse_imsi("imsi_to", imsi_to or imsi))


def parse_imsi(name: str, text: str) -> int:
    """Its key. Raises ValueError."""
    if not _IMSI.fullmatch(text):
        raise ValueError(f"{name} {text[:40]!r}: an IMSI has 14 or 15 digits")
    return imsi_key(text)


def parse_measure(text: str) -> Measure:
    """Raises ValueError."""
    measure = _MEASURES.get(text)
    if measure is None:
        raise ValueError(f"measure {text[:40]!r}: it is one of {', '.join(_MEASURES)}")
    return measure


def parse_words(name: str, text: str | None) -> str:
    """Of an authority or a case. Raises ValueError."""
    if text is None:
        raise ValueError(f"{name} is missing: it says whose restriction it is")
    if not (0 < len(text) <= RESTRICTION_WORDS_CHARS_MAX and text.isprintable() and text.strip() == text):
        raise ValueError(f"{name}: 1 to {RESTRICTION_WORDS_CHARS_MAX} printable characters without outer blanks")
    return text


def _number(name: str, text: str) -> int:
    tn = parse_tn(text)
    if tn is None:
        raise ValueError(f"{name} {text[:40]!r}: 5 to 15 digits, no plus sign, no leading zero")
    return tn


def _in_order(name: str, first: int, last: int) -> tuple[int, int]:
    if len(str(first)) != len(str(last)):
        raise ValueError(f"the range's ends differ in length: {name} and {name}_to")
    if last < first:
        raise ValueError(f"the range runs backwards: {name}_to is before {name}")
    return first, last


def _time(name: str, text: str) -> UnixSeconds:
    try:
        return parse_time(text[:64])
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None
