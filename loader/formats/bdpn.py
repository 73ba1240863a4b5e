"""BDPN, Russia's database of ported numbers: full files, increments and tables, converted to files of our form.

Layout and rules: docs/feeds.md, section on BDPN, which also says what is assumed. Bounds, zip files and
writing are for `convert`.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from itertools import chain, pairwise
from pathlib import Path

import msgspec
import numpy as np

from loader.files import FeedFile
from loader.formats import Step, StepType
from loader.formats.convert import (
    BYTE_ORDER_MARK,
    CLOCK,
    Check,
    Field,
    Form,
    Row,
    check_day,
    operator_name,
    read_lines,
    refuse_keys,
    write_delta,
    write_snapshot,
    write_table,
)
from loader.trust import PublicKey
from lookupd.errors import FeedError, Rejected
from lookupd.limits import NETWORK_CODE_CHARS_MAX, TABLE_BYTES_MAX
from lookupd.model import UnixSeconds
from lookupd.units import format_time

# One increment every two hours, 3,247 of them without an exception (protocol sheet, section 2).
INCREMENT_SECONDS = 2 * 3600

MOSCOW = timezone(timedelta(hours=3))
NUMBER_DIGITS = 10

_NAME = re.compile(
    r"(Port_All_Full|Port_All|Port_Increment|Return_Increment|Numbering_Plan|Operators)"
    r"_([0-9]{12})_([0-9]{1,18})\.(?:zip|csv)"
)


def _owner(name: str, pattern: str = "m([A-Za-z0-9]{1,32})") -> Field:
    return Field(name, pattern, "an operator is m and up to 32 letters or digits")


def _digits(name: str, count: int, pattern: str = "") -> Field:
    return Field(name, pattern or f"[0-9]{{{count}}}", f"{count} digits")


_NUMBER = Field("Number", "(9[0-9]{9})", "10 digits, the first a 9")
_PORT_DATE = Field(
    "PortDate",
    rf"([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})(T{CLOCK}:[0-5][0-9](?:Z|[+-]{CLOCK}))",
    "a time with its offset, such as 2025-03-01T12:00:17+03:00",
)
_ROW_COUNT = Field("RowCount", "0?", "only the first row tells the number of rows")
_ROUTE_SAYS = "D, two digits of the region, two of the network"


def _check_route(value: tuple[str, str, str]) -> str | None:
    route, mnc, region = value
    return None if route == f"D{region}{mnc}" else f"route {route}: not D, RegionCode {region} and MNC {mnc}"


_ALL_FIELDS = (
    _NUMBER,
    _owner("OwnerId"),
    _digits("MNC", 2, "([0-9]{2})"),
    Field("Route", "(D[0-9]{4})", _ROUTE_SAYS),
    _digits("RegionCode", 2, "([0-9]{2})"),
    _PORT_DATE,
    _ROW_COUNT,
)
_ALL_CHECKS = (Check((3, 2, 4), _check_route), Check((5,), check_day))

FORMS = {
    "Port_All": Form(",", _ALL_FIELDS, _ALL_CHECKS),
    "Port_All_Full": Form(
        ",",
        (
            *_ALL_FIELDS,
            _digits("NPId", 16),
            _owner("DonorId"),
            _owner("RangeHolderId", "m[A-Za-z0-9]{1,32}"),
            Field("OldRoute", "(?:D[0-9]{4})?", _ROUTE_SAYS + ", or empty"),
            Field("OldMNC", "(?:[0-9]{2})?", "2 digits, or empty"),
            Field("ProcessType", "[A-Za-z0-9]{0,32}", "up to 32 letters"),
        ),
        _ALL_CHECKS,
    ),
    "Port_Increment": Form(
        ",",
        (
            _digits("NPId", 16, "([0-9]{16})"),
            _NUMBER,
            _owner("RecipientId"),
            _owner("DonorId"),
            _owner("RangeHolderId"),
            Field("OldRoute", "(?:D[0-9]{4})?", _ROUTE_SAYS + ", or empty"),
            Field("NewRoute", "(D[0-9]{4})", _ROUTE_SAYS),
            Field("OldMNC", "(?:[0-9]{2})?", "2 digits, or empty"),
            _digits("NewMNC", 2, "([0-9]{2})"),
            _digits("RegionCode", 2, "([0-9]{2})"),
            _PORT_DATE,
            _ROW_COUNT,
        ),
        (Check((5, 6, 7), _check_route), Check((8,), check_day)),
    ),
    # Only the 2nd and the 10th column are known; a first one of 16 digits is taken for the NPId.
    "Return_Increment": Form(
        ",",
        (
            Field("column 1", "([^,\n]*)", "any text"),
            _NUMBER,
            *(Field(f"column {at}", "[^,\n]*", "any text") for at in range(3, 10)),
            _ROW_COUNT,
        ),
    ),
    "Numbering_Plan": Form(
        ",",
        (
            _digits("NumberFrom", NUMBER_DIGITS, "([0-9]{10})"),
            _digits("NumberTo", NUMBER_DIGITS, "([0-9]{10})"),
            _owner("OwnerId"),
            _digits("RegionCode", 2),
            _digits("MNC", 2),
            _ROW_COUNT,
        ),
    ),
    "Operators": Form(
        ",",
        (
            _owner("OrgCode"),
            Field("MNC", "(?:[0-9]{2})?", "2 digits, or empty"),
            Field("TIN", "[0-9]{0,12}", "up to 12 digits"),
            Field("OrgName", "([^,\n]*)", "a name without commas"),
            _ROW_COUNT,
        ),
    ),
}


class FileName(msgspec.Struct, frozen=True):
    """What a file's name says. made_at: in UTC; the name has Moscow's time."""

    name: str
    kind: str
    made_at: UnixSeconds
    number: int


def parse_file_name(name: str) -> FileName | None:
    """None if it is no file of this format."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    try:
        made_at = datetime.strptime(found[2], "%Y%m%d%H%M").replace(tzinfo=MOSCOW).timestamp()
    except (ValueError, OverflowError):
        return None
    if not (0 < made_at < 1 << 32 and int(found[3]) > 0):
        return None
    return FileName(name, found[1], UnixSeconds(int(made_at)), int(found[3]))


class Bdpn:
    """Files named KIND_YYYYMMDDhhmm_NUMBER.zip (or .csv). The position is the increments' number."""

    def __init__(self, feed: str, country_code: str) -> None:
        """country_code: the files leave it out."""
        self._feed = feed
        self._country_code = country_code

    # -- which names belong together ---------------------------------------------------------------------

    def steps(self, names: frozenset[str]) -> list[Step]:
        """Both increments of a number are one delta; full files are placed by the increments listed beside them."""
        kinds: dict[str, dict[int, FileName]] = {kind: {} for kind in FORMS}
        for name in sorted(names):  # of one number's files the latest by time; .zip sorts behind .csv
            file = parse_file_name(name)
            if file is not None:
                kinds[file.kind][file.number] = file
        ports, returns = kinds["Port_Increment"], kinds["Return_Increment"]
        steps = [
            Step("delta", self._feed, number - 1, number, (ports[number].name, returns[number].name))
            for number in ports.keys() & returns.keys()
        ]
        steps += self._snapshots(kinds, [*ports.values(), *returns.values()])
        for kind, type_ in (("Operators", "networks"), ("Numbering_Plan", "ranges")):
            steps += [self._single(type_, file.number, file) for file in kinds[kind].values()]  # type: ignore[arg-type]
        return sorted(steps, key=lambda step: (step.sequence, step.type))

    def unfinished(self, names: frozenset[str], position: int) -> str | None:
        """An increment of ports without the one of returns, or the other way round."""
        files = [file for file in map(parse_file_name, sorted(names)) if file is not None and file.number > position]
        numbers = {kind: {file.number for file in files if file.kind == kind} for kind in FORMS}
        ports, returns = numbers["Port_Increment"], numbers["Return_Increment"]
        for number in sorted(ports ^ returns):
            there, missing = ("Port", "Return") if number in ports else ("Return", "Port")
            return f"{there}_Increment {number} is there, {missing}_Increment {number} not"
        return None

    def _single(self, type_: StepType, sequence: int, file: FileName) -> Step:
        return Step(type_, self._feed, 0, sequence, (file.name,))

    def _snapshots(self, kinds: dict[str, dict[int, FileName]], increments: list[FileName]) -> list[Step]:
        """The latest full file of each position; the plain one rather than the one with all columns."""
        placed: dict[int, FileName] = {}
        for file in sorted((kinds["Port_All_Full"] | kinds["Port_All"]).values(), key=lambda file: file.made_at):
            position = _position(file.made_at, increments)
            if position is not None:
                placed[position] = file
        return [self._single("snapshot", position, file) for position, file in placed.items()]

    # -- conversion --------------------------------------------------------------------------------------

    def open(self, step: Step, spool: Path, keys: tuple[PublicKey, ...]) -> FeedFile:
        """The step as a file of our form in spool/converted. Raises FeedError, Rejected."""
        refuse_keys(step, keys)
        first = _named(step.name)
        if step.type == "snapshot":
            return write_snapshot(step, spool, first.made_at, self._snapshot_rows(spool / step.name, first.kind))
        # Returns first: a number that went home and was ported again in the same two hours is ported.
        port, back = (_named(name) for name in step.files)
        notices = chain(self._return_notices(spool, back), self._port_notices(spool, port))
        return write_delta(step, spool, port.made_at, notices)

    def open_table(self, step: Step, spool: Path) -> Path:
        """Operators as networks, Numbering_Plan as ranges. Raises FeedError, Rejected."""
        path = spool / step.name
        rows = _networks(path) if step.type == "networks" else _ranges(path, self._country_code)
        return write_table(step, spool, rows)

    def _snapshot_rows(self, path: Path, kind: str) -> Iterator[list[str]]:
        country_code, codes = self._country_code, NetworkCodes()
        numbers = array("Q")
        for rows in _read(path, kind):
            numbers.extend(map(int, [row[0] for row in rows]))
            if kind == "Port_All":
                yield [
                    f"{country_code}{number},{codes[owner]},{route},,{day}{clock}\n"
                    for number, owner, _, route, _, day, clock in rows
                ]
            else:
                yield [
                    f"{country_code}{number},{codes[owner]},{route},{codes[donor]},{day}{clock}\n"
                    for number, owner, _, route, _, day, clock, donor in rows
                ]
        _check_each_once(path.name, numbers)

    def _port_notices(self, spool: Path, file: FileName) -> Iterator[list[str]]:
        codes, notified_at = NetworkCodes(), format_time(file.made_at)
        for rows in _read(spool / file.name, file.kind):
            yield [
                # A recipient who holds the range: the number went home.
                f'{{"kind":"return","tn":"{self._country_code}{number}","notified_at":"{notified_at}",'
                f'"effective_at":"{day}{clock}","ref":"{np_id}"}}\n'
                if recipient == holder
                else f'{{"kind":"port","tn":"{self._country_code}{number}","recipient":"{codes[recipient]}",'
                f'"routing_number":"{route}","donor":"{codes[donor]}","notified_at":"{notified_at}",'
                f'"effective_at":"{day}{clock}","ref":"{np_id}"}}\n'
                for np_id, number, recipient, donor, holder, route, _, _, day, clock in rows
            ]

    def _return_notices(self, spool: Path, file: FileName) -> Iterator[list[str]]:
        notified_at = format_time(file.made_at)
        for rows in _read(spool / file.name, file.kind):
            yield [
                f'{{"kind":"return","tn":"{self._country_code}{number}","notified_at":"{notified_at}"{ref}}}\n'
                for number, ref in ((number, f',"ref":"{first}"' if _is_np_id(first) else "") for first, number in rows)
            ]


def _named(name: str) -> FileName:
    file = parse_file_name(name)
    if file is None:
        raise FeedError(f"{name}: not a name of a BDPN file; the store is unchanged")
    return file


def _position(made_at: UnixSeconds, increments: list[FileName]) -> int | None:
    """The last increment that a full file of this moment contains; None if none is listed to tell by.

    Too small a position only repeats increments, or waits for some that never come; too large a one would
    lose changes. So where only younger increments are listed, those that may be missing before the
    first of them are counted by their rhythm.
    """
    contained = [file.number for file in increments if file.made_at <= made_at]
    if contained:
        return max(contained)
    if not increments:
        return None
    first = min(increments, key=lambda file: file.number)
    position = first.number + (made_at - first.made_at) // INCREMENT_SECONDS  # rounded down: -1 for the next one
    return position if position > 0 else None


def _is_np_id(text: str) -> bool:
    return len(text) == 16 and text.isascii() and text.isdigit()


# -- rows ------------------------------------------------------------------------------------------------


def _read(path: Path, kind: str, bytes_max: int | None = None) -> Iterator[list[Row]]:
    """The groups of a file's rows, checked; raises at the end unless there are as many as RowCount says."""
    form = FORMS[kind]
    chunks = read_lines(path, bytes_max)
    header, _, rest = next(chunks, "").partition("\n")
    _check_header(path.name, header, kind)
    if not rest:
        rest = next(chunks, "")
    if not rest:
        # A zip's checksum vouches for an empty file; a text without rows may have lost them on the way.
        if path.suffix != ".zip":
            raise FeedError(f"{path.name}: a header and no row: empty or cut short; fetch the zip of it")
        return
    claimed, first, line = _take_row_count(path.name, rest, form)
    seen = 0
    for rows in form.rows(path.name, chain([first] if first else [], chunks), line):
        seen += len(rows)
        yield rows
    if seen != claimed:
        raise FeedError(
            f"{path.name}: {seen} rows, RowCount says {claimed}: fetch it again, or ask for the next full file; "
            "the store is unchanged"
        )


def _check_header(name: str, header: str, kind: str) -> None:
    columns = header.split(",")
    wanted = [field.name for field in FORMS[kind].fields]
    if header.startswith(BYTE_ORDER_MARK):
        raise Rejected(name, [(1, "a byte-order mark: this format has none")])
    if kind == "Return_Increment" and len(columns) == len(wanted):
        wanted = [columns[0], wanted[1], *columns[2:9], wanted[9]]
    if columns != wanted:
        raise Rejected(name, [(1, f"the header must be {','.join(wanted)}, not {header[:200]!a}")])


def _take_row_count(name: str, text: str, form: Form) -> tuple[int, str, int]:
    """The count of the first row; the text with that field empty, as it is in all others; its first line.

    A row that has nothing but the count 0 stands for no row.
    """
    line, _, others = text.partition("\n")
    fields = line.split(",")
    at = [field.name for field in form.fields].index("RowCount")
    if len(fields) != len(form.fields):
        raise Rejected(name, [(2, f"{len(fields)} fields instead of {len(form.fields)}")])
    found = fields[at]
    if re.fullmatch("[0-9]{1,9}", found) is None:
        raise Rejected(name, [(2, f"RowCount {found[:40]!a}: the first row tells the number of rows")])
    fields[at] = ""
    if int(found) == 0 and not any(fields):
        return 0, others, 3
    return int(found), f"{','.join(fields)}\n{others}", 2


def _check_each_once(name: str, numbers: array[int]) -> None:
    """A table that names a number twice contradicts itself. Raises Rejected."""
    values = np.array(numbers, np.uint64)
    if not (values[1:] > values[:-1]).all():
        order = np.argsort(values, kind="stable")
        twice = np.flatnonzero(values[order[1:]] == values[order[:-1]])
        told = [
            (int(order[at + 1]) + 2, f"Number {values[order[at]]} stands in line {int(order[at]) + 2} too")
            for at in twice[: Rejected.TOLD_MAX].tolist()
        ]
        if told:
            raise Rejected(name, told)


class NetworkCodes(dict[str, str]):
    """An operator's identifier, without its m -> our network code."""

    def __missing__(self, operator: str) -> str:
        self[operator] = code = network_code(operator)
        return code


def network_code(operator: str) -> str:
    """In capitals; if that is too long, its first four characters and four that stand for the whole.

    operator: letters and digits.
    """
    name = operator.upper()
    if len(name) <= NETWORK_CODE_CHARS_MAX:
        return name
    rest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    tail = ""
    for _ in range(4):
        rest, at = divmod(rest, 36)
        tail += "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[at]
    return name[:4] + tail


# -- tables ----------------------------------------------------------------------------------------------


def _networks(path: Path) -> list[Row]:
    """Rows of networks.csv. An operator may have a row for each MNC. Raises FeedError, Rejected."""
    found: dict[str, tuple[str, str]] = {}
    rejections: list[tuple[int, str]] = []
    for line, (operator, name) in enumerate(chain.from_iterable(_read(path, "Operators", TABLE_BYTES_MAX)), 2):
        try:
            text = operator_name(name)
            code = network_code(operator)
            if found.setdefault(code, (operator, text)) != (operator, text):
                other, other_text = found[code]
                raise ValueError(
                    f"OrgCode m{operator} {text!r} would have network code {code}, as m{other} {other_text!r} has"
                )
        except ValueError as error:
            rejections.append((line, str(error)))
    if rejections:
        raise Rejected(path.name, rejections[: Rejected.TOLD_MAX])
    # Its own routing number stays empty, since a route depends on the region too: each number carries its own.
    return [(code, text, "", "") for code, (_, text) in sorted(found.items())]


def _ranges(path: Path, country_code: str) -> list[Row]:
    """Rows of ranges.csv: the fewest prefixes for each holder's numbers. Raises FeedError, Rejected."""
    ranges: list[tuple[int, int, int, str]] = []
    for line, row in enumerate(chain.from_iterable(_read(path, "Numbering_Plan", TABLE_BYTES_MAX)), 2):
        ranges.append((int(row[0]), int(row[1]), line, network_code(row[2])))
    ranges.sort()
    rejections = [
        (line, f"the range runs backwards, from {first} to {last}") for first, last, line, _ in ranges if last < first
    ]
    for before, after in pairwise(ranges):
        if after[0] <= before[1]:
            rejections.append((after[2], f"the range from {after[0]} overlaps the one in line {before[2]}"))
    if rejections:
        raise Rejected(path.name, sorted(rejections)[: Rejected.TOLD_MAX])
    return [
        (country_code + prefix, code) for first, last, code in _joined(ranges) for prefix in prefixes_of(first, last)
    ]


def _joined(ranges: list[tuple[int, int, int, str]]) -> list[tuple[int, int, str]]:
    """Ranges that follow one another and have one holder, as one."""
    joined: list[tuple[int, int, str]] = []
    for first, last, _, code in ranges:
        if joined and (joined[-1][1] + 1, joined[-1][2]) == (first, code):
            joined[-1] = (joined[-1][0], last, code)
        else:
            joined.append((first, last, code))
    return joined


def prefixes_of(first: int, last: int) -> Iterator[str]:
    """The fewest prefixes that fit exactly the ten-digit numbers from first to last."""
    while first <= last:
        digits = 0  # that the prefix leaves open
        while digits < NUMBER_DIGITS and first % 10 ** (digits + 1) == 0 and first + 10 ** (digits + 1) - 1 <= last:
            digits += 1
        yield f"{first:0{NUMBER_DIGITS}}"[: NUMBER_DIGITS - digits]
        first += 10**digits
