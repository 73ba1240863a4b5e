"""NPAC bulk data downloads (North America): subscription versions and pool blocks, converted to files of our form.

Layout and rules: docs/feeds.md, section on NPAC, which also says what is assumed. What a delta needs to know of
the files before it is found in `Past`. Bounds and writing are for `convert`.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from loader.files import FeedFile
from loader.formats import Step
from loader.formats.convert import (
    NUMBERS_PER_LOT,
    Check,
    Field,
    Form,
    Row,
    operator_name,
    read_lines,
    refuse_keys,
    write_delta,
    write_snapshot,
    write_table,
)
from loader.trust import PublicKey
from lookupd.errors import FeedError, Rejected
from lookupd.limits import TABLE_BYTES_MAX
from lookupd.model import UnixSeconds
from lookupd.units import format_time

NEW = "0"  # in every record of an active file, and in the documents' example
# Not verified: the values of the interface's DownloadReason as we remember them; no document read shows them.
DELETE, MODIFY, AUDIT = "1", "2", "3"

BLOCK = 1000
"""Numbers of a pool block: one NPA-NXX-X."""

_OBJECTS = ("00-00-0000000000", "99-99-9999999999")
"""Where a file has no time range: it holds what is active now (FRS appendix E)."""

_CLOCK = "(?:[01][0-9]|2[0-3])[0-5][0-9][0-5][0-9]"
_STAMP = "([0-9]{2}-[0-9]{2}-[0-9]{10})"
_NAME = re.compile(rf"(?:(SV|NPB|SPID)\.)?([0-9]{{6,7}})-([0-9]{{6,7}})\.{_STAMP}\.{_STAMP}\.{_STAMP}")
_WAY_OUT = "load a fresh active file; the store is unchanged"

U64s = npt.NDArray[np.uint64]


class FileName(msgspec.Struct, frozen=True):
    """What a file's name says. objects: first and last NPA-NXX; from and to: None for an active file."""

    name: str
    kind: Literal["SV", "NPB", "SPID"]
    objects: tuple[str, str]
    created: int
    time_from: int | None
    time_to: int | None

    @property
    def is_active(self) -> bool:
        """Whether it is the whole state."""
        return self.time_to is None

    @property
    def sequence(self) -> int:
        """The position that it leads to."""
        return self.created if self.time_to is None else self.time_to

    @property
    def selection(self) -> tuple[object, ...]:
        """The same in the files that one download made."""
        return self.objects, self.created, self.time_from, self.time_to


def parse_file_name(name: str) -> FileName | None:
    """None if it is no file of this format."""
    found = _NAME.fullmatch(name)
    if found is None or len(found[2]) != len(found[3]):
        return None
    # A range of thousands-blocks is a pool block file's; SV, NPB and SPID in front are our convention.
    kind = found[1] or ("NPB" if len(found[2]) == 7 else "SV")
    created, time_from, time_to = (_parse_stamp(found[at]) for at in (4, 5, 6))
    is_active = (found[5], found[6]) == _OBJECTS
    if created is None or (not is_active and (time_from is None or time_to is None or time_to <= time_from)):
        return None
    objects = (found[2][:6], found[3][:6])
    return FileName(name, kind, objects, created, time_from, time_to)  # type: ignore[arg-type]


def _parse_stamp(text: str) -> int | None:
    """DD-MM-YYYYhhmmss in GMT as Unix seconds."""
    try:
        seconds = int(datetime.strptime(text, "%d-%m-%Y%H%M%S").replace(tzinfo=UTC).timestamp())
    except (ValueError, OverflowError):
        return None
    return seconds if 0 < seconds < 1 << 32 else None


@lru_cache(maxsize=65_536)
def _midnight(day: str) -> int | None:
    """yyyymmdd in GMT as Unix seconds."""
    try:
        seconds = int(datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC).timestamp())
    except (ValueError, OverflowError):
        return None
    return seconds if 0 < seconds < (1 << 32) - 86_400 else None


@lru_cache(maxsize=86_400)
def _seconds_of_day(clock: str) -> int:
    """Of hhmmss."""
    return int(clock[:2]) * 3600 + int(clock[2:4]) * 60 + int(clock[4:])


def _seconds(day: str, clock: str) -> int:
    """Unix seconds of a checked time."""
    return (_midnight(day) or 0) + _seconds_of_day(clock)


def _check_day(day: str) -> str | None:
    return f"activation time {day}: there is no such day" if day and _midnight(day) is None else None


def _check_reason(value: tuple[str, str, str, str]) -> str | None:
    lrn, spid, day, reason = value
    if reason == DELETE or (lrn and spid and day):
        return None
    return f"LRN, SPID or activation time is empty, which it is at most with reason {DELETE}"


# -- records ---------------------------------------------------------------------------------------------


def _record(key: Field, others: int, *, active: bool) -> Form:
    """Version id, key, LRN, SPID, activation time, other fields, reason; then whatever later releases append."""
    empty = "" if active else "|"
    fields = (
        Field("version id", "([0-9]{1,18})", "up to 18 digits"),
        key,
        Field("LRN", f"((?!0{{10}})[0-9]{{10}}{empty})", "10 digits; a pseudo-LRN of zeros gives no route"),
        Field("SPID", f"([0-9A-Z]{{4}}{empty})", "4 letters or digits"),
        Field("activation time", f"(?:([0-9]{{8}})({_CLOCK}){empty})", "yyyymmddhhmmss"),
        *(Field(f"field {at}", "[^|\n]*", "any text") for at in range(6, 6 + others)),
        Field("download reason", f"({NEW})", f"{NEW} in an active file")
        if active
        else Field("download reason", f"([{NEW}{DELETE}{MODIFY}{AUDIT}])", "0 to 3"),
    )
    checks = [Check((4,), _check_day)]
    if not active:
        checks.append(Check((2, 3, 4, 6), _check_reason))
    return Form("|", fields, tuple(checks), open_ended=True)


_TN = Field("TN", "([2-9][0-9]{2}[2-9][0-9]{6})", "10 digits of the North American plan")
_NPA_NXX_X = Field("NPA-NXX-X", "([2-9][0-9]{2}[2-9][0-9]{3})", "7 digits of the North American plan")

# Four DPC/SSN pairs; in an SV also location and its type, billing id, LNP type.
FORMS = {
    (kind, active): _record(key, others, active=active)
    for kind, key, others in (("SV", _TN, 12), ("NPB", _NPA_NXX_X, 8))
    for active in (True, False)
}
SPID_FORM = Form(
    "|",
    (
        Field("SPID", "([0-9A-Z]{4})", "4 letters or digits"),
        Field("name", "([^|\n]*)", "any text"),
        Field("download reason", f"[{NEW}{DELETE}{MODIFY}{AUDIT}]", "0 to 3"),
    ),
    open_ended=True,
)


class Version(NamedTuple):
    """The state that a record gives a number or a block."""

    id: int
    lrn: str
    spid: str
    active_at: int
    deleted: bool


Versions = dict[str, Version]


def _rows(spool: Path, file: FileName) -> Iterator[list[Row]]:
    """A file's records, checked; nothing tells whether they are all. Raises FeedError, Rejected."""
    first, last = file.objects
    line = 1
    for rows in FORMS[file.kind, file.is_active].rows(file.name, read_lines(spool / file.name), line):
        outside = [(at, row[1]) for at, row in enumerate(rows, line) if not first <= row[1][:6] <= last]
        if outside:
            told = [(at, f"{key} is outside the range of the file's name") for at, key in outside]
            raise Rejected(file.name, told[: Rejected.TOLD_MAX])
        yield rows
        line += len(rows)


def _take_latest(spool: Path, file: FileName, latest: Versions, blocks: set[str] | None = None) -> None:
    """Add a file's records: of a key the highest version id stands, of equal ones the last.

    blocks: if given, only numbers of these.
    """
    for id_, key, lrn, spid, day, clock, reason in chain.from_iterable(_rows(spool, file)):
        if blocks is not None and key[:7] not in blocks:
            continue
        known = latest.get(key)
        if known is None or int(id_) >= known.id:
            latest[key] = Version(int(id_), lrn, spid, _seconds(day, clock) if day else 0, reason == DELETE)


# -- the format ------------------------------------------------------------------------------------------


class NpacBulkData:
    """SV files, each with the NPB file of the same download if there is one. The position is Unix seconds."""

    def __init__(self, feed: str, country_code: str) -> None:
        """country_code: the files leave it out."""
        self._feed = feed
        self._country_code = country_code

    def unfinished(self, names: frozenset[str], position: int) -> str | None:
        """A file of this format is complete by itself."""
        return None

    def steps(self, names: frozenset[str]) -> list[Step]:
        """Of several ranges of numbers only the files of the one that holds all the others."""
        files = [file for file in map(parse_file_name, sorted(names)) if file is not None]
        objects = _widest(files)
        found: dict[tuple[str, int], Step] = {}
        # What comes last stands: of one moment's deltas the one that may follow the earliest position.
        for file in sorted(files, key=lambda file: (-(file.time_from or 0), file.created)):
            if file.kind == "SPID":
                found["networks", file.created] = Step("networks", self._feed, 0, file.created, (file.name,))
            elif file.kind == "SV" and file.objects == objects:
                type_: Literal["snapshot", "delta"] = "snapshot" if file.is_active else "delta"
                companions = [other.name for other in files if _belong(file, other)]
                after = file.time_from or 0
                found[type_, file.sequence] = Step(
                    type_, self._feed, after, file.sequence, (file.name, *companions[:1])
                )
        return sorted(found.values(), key=lambda step: (step.sequence, step.type))

    def open(self, step: Step, spool: Path, keys: tuple[PublicKey, ...]) -> FeedFile:
        """The step as a file of our form in spool/converted. Raises FeedError, Rejected."""
        refuse_keys(step, keys)
        files = [_named(name) for name in step.files]
        created_at = UnixSeconds(files[0].created)
        if step.type == "snapshot":
            return write_snapshot(step, spool, created_at, self._snapshot_rows(spool, files))
        return write_delta(step, spool, created_at, self._notices(spool, files))

    def open_table(self, step: Step, spool: Path) -> Path:
        """An SPID file as networks. Raises FeedError, Rejected."""
        names: dict[str, str] = {}
        rows = chain.from_iterable(SPID_FORM.rows(step.name, read_lines(spool / step.name, TABLE_BYTES_MAX), 1))
        for line, (spid, name) in enumerate(rows, 1):
            try:
                names[spid] = operator_name(name)
            except ValueError as error:
                raise Rejected(step.name, [(line, str(error))]) from None
        return write_table(step, spool, [(spid, name, "", "") for spid, name in sorted(names.items())])

    # -- snapshots ---------------------------------------------------------------------------------------

    def _snapshot_rows(self, spool: Path, files: list[FileName]) -> Iterator[list[str]]:
        """All numbers in order: those with an SV, and those of pool blocks that have none."""
        table = _Table(self._country_code)
        for rows in _rows(spool, files[0]):
            table.add(rows)
        if not len(table.versions):
            raise FeedError(f"{files[0].name}: no records: empty or cut short; {_WAY_OUT}")
        blocks: Versions = {}
        for file in files[1:]:
            _take_latest(spool, file, blocks)
        yield from table.lots(blocks)

    # -- deltas ------------------------------------------------------------------------------------------

    def _notices(self, spool: Path, files: list[FileName]) -> Iterator[list[str]]:
        """One notice a number; a changed block's numbers without an own SV as ranges."""
        numbers: Versions = {}
        changed: Versions = {}
        _take_latest(spool, files[0], numbers)
        for file in files[1:]:
            _take_latest(spool, file, changed)
        if not numbers:
            raise FeedError(f"{files[0].name}: no records: empty or cut short; fetch it again; the store is unchanged")
        blocks = dict(changed)
        own: set[str] = set()
        if changed or any(version.deleted for version in numbers.values()):
            past = Past(spool, files[0])
            blocks = past.blocks()
            changed = {key: version for key, version in changed.items() if version.id >= blocks.get(key, version).id}
            blocks |= changed
            own = past.numbers_with_own_version(set(changed))
        created = format_time(files[0].created) or ""
        yield [
            self._notice(first, last, version, f"NPB {version.id}", created)
            for block, version in sorted(changed.items())
            for first, last in _runs(block, own | numbers.keys())
        ]
        yield [
            self._notice(tn, tn, self._state(tn, version, blocks), f"SV {version.id}", created)
            for tn, version in sorted(numbers.items())
        ]

    def _state(self, tn: str, version: Version, blocks: Versions) -> Version:
        """A number that lost its own version goes back to its block, if that is pooled."""
        return blocks.get(tn[:7], version) if version.deleted else version

    def _notice(self, first: str, last: str, version: Version, ref: str, notified_at: str) -> str:
        code = self._country_code
        numbers = f'"tn":"{code}{first}"' + (f',"tn_to":"{code}{last}"' if last != first else "")
        if version.deleted:
            return f'{{"kind":"return",{numbers},"notified_at":"{notified_at}","ref":"{ref}"}}\n'
        return (
            f'{{"kind":"port",{numbers},"recipient":"{version.spid}","routing_number":"{version.lrn}",'
            f'"notified_at":"{notified_at}","effective_at":"{format_time(version.active_at)}","ref":"{ref}"}}\n'
        )


def _widest(files: list[FileName]) -> tuple[str, str] | None:
    ranges = {file.objects for file in files if file.kind == "SV"}
    if not ranges:
        return None
    whole = min(first for first, _ in ranges), max(last for _, last in ranges)
    return whole if whole in ranges else None


def _belong(file: FileName, other: FileName) -> bool:
    return other.kind == "NPB" and other.selection == file.selection


def _named(name: str) -> FileName:
    file = parse_file_name(name)
    if file is None:
        raise FeedError(f"{name}: not a name of an NPAC file; the store is unchanged")
    return file


def _runs(block: str, taken: set[str]) -> Iterator[tuple[str, str]]:
    """First and last of each run of a block's numbers that are not taken."""
    first: str | None = None
    last = ""
    for at in range(BLOCK):
        tn = f"{block}{at:03}"
        if tn not in taken:
            first, last = first or tn, tn
        elif first is not None:
            yield first, last
            first = None
    if first is not None:
        yield first, last


class Past:
    """The files in the spool that tell the state before a delta: an active one, and the deltas since without a gap.

    A store holds one route a number; whether it is the number's own or its block's, only the files know.
    """

    def __init__(self, spool: Path, delta: FileName) -> None:
        """Raises FeedError when files are missing, since a guess would route calls wrongly."""
        self._spool = spool
        names = sorted(path.name for path in spool.iterdir())
        files = [file for file in map(parse_file_name, names) if file is not None and file.objects == delta.objects]
        versions = [file for file in files if file.kind == "SV" and file.name != delta.name]
        active = [file for file in versions if file.is_active and file.created <= delta.sequence]
        reason = "it takes numbers or blocks back, and what they return to"
        if not active:
            raise FeedError(f"{delta.name}: {reason} only an active file in the spool can tell: {_WAY_OUT}")
        base = max(active, key=lambda file: file.created)
        chosen = [base]
        at = base.created
        for file in sorted(versions, key=lambda file: file.sequence):
            if file.time_from is not None and file.time_from <= at < file.sequence <= delta.sequence:
                chosen.append(file)
                at = file.sequence
        if at < (delta.time_from or 0):
            until = format_time(at)
            raise FeedError(f"{delta.name}: {reason} cannot be told, as files after {until} are missing: {_WAY_OUT}")
        self._versions = chosen
        self._blocks = [next((other for other in files if _belong(file, other)), None) for file in chosen]

    def blocks(self) -> Versions:
        """Every pool block, deleted ones too."""
        latest: Versions = {}
        for file in self._blocks:
            if file is not None:
                _take_latest(self._spool, file, latest)
        return latest

    def numbers_with_own_version(self, blocks: set[str]) -> set[str]:
        """Of these blocks."""
        latest: Versions = {}
        if blocks:
            for file in self._versions:
                _take_latest(self._spool, file, latest, blocks)
        return {tn for tn, version in latest.items() if not version.deleted}


class _Table:
    """An active file's records as columns, 24 bytes each, since there may be many million."""

    def __init__(self, country_code: str) -> None:
        self._country_code = country_code
        self.tns, self.versions = array("Q"), array("Q")
        self.routes, self.times = array("I"), array("I")
        self._route_ids: dict[tuple[str, str], int] = {}

    def _route_id(self, spid: str, lrn: str) -> int:
        return self._route_ids.setdefault((spid, lrn), len(self._route_ids))

    def add(self, rows: list[Row]) -> None:
        """A chunk's records."""
        ids, tns, lrns, spids, days, clocks, _ = zip(*rows, strict=True)
        self.versions.extend(map(int, ids))
        self.tns.extend(map(int, tns))
        self.routes.extend(map(self._route_id, spids, lrns))
        self.times.extend(map(_seconds, days, clocks))

    def lots(self, blocks: Versions) -> Iterator[list[str]]:
        """Rows of our form, by number."""
        tn, version = np.array(self.tns, np.uint64), np.array(self.versions, np.uint64)
        order = np.lexsort((version, tn))  # stable: of equal version ids the last comes last
        tn = tn[order]
        is_last = np.r_[tn[1:] != tn[:-1], True]
        tn, order = tn[is_last], order[is_last]
        route, time = np.array(self.routes, np.uint32)[order], np.array(self.times, np.uint32)[order]
        pooled = sorted((int(block), state) for block, state in blocks.items())
        block = np.array([number for number, _ in pooled], np.uint64)
        block_route = np.array([self._route_id(state.spid, state.lrn) for _, state in pooled], np.uint32)
        block_time = np.array([state.active_at for _, state in pooled], np.uint32)
        thousands = np.union1d(tn // np.uint64(BLOCK), block)
        names = [f"{spid},{lrn}" for spid, lrn in self._route_ids]
        for at in range(0, len(thousands), NUMBERS_PER_LOT // BLOCK):
            window = thousands[at : at + NUMBERS_PER_LOT // BLOCK]
            own = _slice(tn, window[0] * BLOCK, (window[-1] + 1) * BLOCK)
            some = _slice(block, window[0], window[-1] + 1)
            numbers = (block[some, None] * np.uint64(BLOCK) + np.arange(BLOCK, dtype=np.uint64)).ravel()
            free = ~np.isin(numbers, tn[own])
            numbers = np.r_[tn[own], numbers[free]]
            routes = np.r_[route[own], np.repeat(block_route[some], BLOCK)[free]]
            times = np.r_[time[own], np.repeat(block_time[some], BLOCK)[free]]
            yield self._lines(numbers, routes, times, names)

    def _lines(
        self, tn: U64s, route: npt.NDArray[np.uint32], time: npt.NDArray[np.uint32], names: list[str]
    ) -> list[str]:
        order = np.argsort(tn)
        clocks = np.datetime_as_string(time[order].astype("datetime64[s]"))
        code = self._country_code
        return [
            f"{code}{number},{names[at]},,{clock}Z\n"
            for number, at, clock in zip(tn[order].tolist(), route[order].tolist(), clocks.tolist(), strict=True)
        ]


def _slice(values: U64s, first: int, end: int) -> slice:
    """Where sorted values are in first <= value < end."""
    found = np.searchsorted(values, np.array([first, end], np.uint64))
    return slice(int(found[0]), int(found[1]))
