"""A whole list of restrictions as CSV: what one replica has, for another that begins from a snapshot and has none.

The columns are the feed's keys, and whether a restriction was extended. The moment does not count here: those that
have lapsed belong to the store's digest like the rest. One by one they are `restrict`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from loader.differences import report_file
from loader.formats.restrictions import parse_measure, parse_target, parse_words
from loader.restrict import Forbidden, check_room, check_time
from loader.tables import each_row
from loader.validate import check_one_kind
from lookupd.errors import Rejected
from lookupd.model import TN, JournalKind, Restriction, Target, UnixSeconds
from lookupd.numbering import Plan
from lookupd.store import restricting
from lookupd.store.change import Change, Counts
from lookupd.store.restrictions import imsi_text, key_of
from lookupd.units import format_time, parse_time

COLUMNS = ("tn", "tn_to", "imsi", "imsi_to", "authority", "case", "measure", "from", "until", "extended")
_EXTENDED = {"yes": True, "no": False}


class Placed(msgspec.Struct):
    """What a list came to. unchanged: the store had them already, as they are in the list."""

    file: str
    serial: int = 0
    placed: int = 0
    unchanged: int = 0


def write_list(path: Path, restrictions: Iterable[Restriction]) -> int:
    """Write a list, readable by its owner; how many. Raises LookupdError when it cannot be written."""
    count = 0
    with report_file(path, COLUMNS) as rows:
        assert rows is not None
        for restriction in restrictions:
            rows.writerow(_row(restriction))
            count += 1
    return count


def _row(it: Restriction) -> tuple[str, ...]:
    ends = (str(it.first), str(it.last), "", "")
    if it.target is Target.IMSI:
        ends = ("", "", imsi_text(it.first), imsi_text(it.last))
    times = (str(format_time(it.begins_at)), str(format_time(it.until)))
    return (*ends, it.authority, it.case, it.measure.label, *times, "yes" if it.extended else "no")


def read_list(path: Path, plan: Plan) -> list[Restriction]:
    """A list's rows, each once. Raises FeedError, or Rejected with the bad lines."""
    found: dict[bytes, Restriction] = {}

    def take(row: dict[str, str]) -> None:
        restriction = _restriction(row, plan)
        if found.setdefault(key_of(restriction), restriction) is not restriction:
            raise ValueError("this target, authority and case stand twice")

    each_row(path, COLUMNS, take)
    return list(found.values())


def _restriction(row: dict[str, str], plan: Plan) -> Restriction:
    """Raises ValueError with the reason."""
    target, first, last = parse_target(*(row[name] or None for name in COLUMNS[:4]))
    if target is Target.NUMBER:
        check_one_kind(TN(first), TN(last), plan)
    if row["extended"] not in _EXTENDED:
        raise ValueError(f"extended {row['extended'][:40]!r}: it is yes or no")
    restriction = Restriction(
        target,
        first,
        last,
        parse_words("authority", row["authority"]),
        parse_words("case", row["case"]),
        parse_measure(row["measure"]),
        _time("from", row["from"]),
        _time("until", row["until"]),
        _EXTENDED[row["extended"]],
    )
    try:
        check_time(restriction)
    except Forbidden as error:
        raise ValueError(str(error)) from None
    return restriction


def _time(name: str, text: str) -> UnixSeconds:
    try:
        return parse_time(text[:64])
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def place_list(change: Change, path: Path, listed: list[Restriction], words: str) -> Placed:
    """Place those that are not there, each with an entry in the journal; words: a person's, "who: why".

    Raises Rejected if one is there and is another: which of the two is right, only a person can tell.
    """
    done = Placed(path.name)
    others: list[tuple[int, str]] = []
    for line, it in enumerate(listed, 2):
        known = restricting.known(change, it.target, it.first, it.last, it.authority, it.case)
        if known == it:
            done.unchanged += 1
        elif known is not None:
            until = format_time(known.until)
            others.append((line, f"here case {it.case} of {it.authority} says {known.measure.label} until {until}"))
            if len(others) >= Rejected.TOLD_MAX:
                break
        elif (why := _no_room(change, it)) is not None:
            others.append((line, why))
            break
        else:
            restricting.put(change, it)
            _record(change, it, path.name, words)
            done.placed += 1
    if others:
        raise Rejected(path.name, others)
    done.serial = change.serial
    return done


def _no_room(change: Change, it: Restriction) -> str | None:
    try:
        check_room(change, it, change.now)
    except Forbidden as error:
        return str(error)
    return None


def _record(change: Change, it: Restriction, source: str, words: str) -> None:
    numbers = {"tn": TN(it.first), "tn_to": TN(it.last)} if it.target is Target.NUMBER else {}
    change.record(JournalKind.RESTRICT, Counts(), restriction=it, source=source, reason=words, **numbers)
