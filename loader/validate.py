"""Rows and notices against what the store and the plan know: networks, kinds of numbers, doubles.

Says line and reason of each bad row. Applying the good ones is for `apply`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from loader.files import Advance, FeedFile, check_row_count
from loader.formats import lookupd as own_format
from loader.formats.lookupd_columns import RawColumns, distinct_values, parse_rows
from loader.growing import GrowingColumns
from lookupd.errors import Rejected
from lookupd.limits import DELTA_NOTICES_MAX, E164_DIGITS_MAX, PARSE_THREADS
from lookupd.model import TN, NetworkCode, Notice, Route, RoutingNumber
from lookupd.numbering import Plan
from lookupd.store.columns import Columns, block_starts
from lookupd.store.schema import NUMBERS_PER_BLOCK, RouteRecord

ADD_NETWORK = "is not in the networks table: load it with `lookupd-loader networks` first"


class Routes(Protocol):
    """Whatever has an id for each route: a Change, which makes those that are new, or a view that lends ids."""

    def network_id(self, code: str) -> int | None:
        """Route id of a network's own route; None if there is no such network."""
        ...

    def route_id(self, code: NetworkCode, routing_number: RoutingNumber | None) -> int:
        """Route id of a known network with the number's own routing number, if it has one."""
        ...


def read_snapshot(file: FeedFile, chunks: Iterator[bytes], plan: Plan, routes: Routes) -> Columns:
    """All rows, sorted by number. Makes the routes it meets for the first time.

    Raises Rejected with the lines of the first chunk that has bad rows, FeedError if the count is wrong.
    """
    return read_columns(file, chunks, plan, routes)[0]


def read_columns(
    file: FeedFile, chunks: Iterator[bytes], plan: Plan, routes: Routes
) -> tuple[Columns, tuple[str, ...]]:
    """The same, and the names of the columns that the file has."""
    first = next(chunks, b"")
    header, _, first = first.partition(b"\n")
    if not header:
        raise Rejected(file.name, [(1, "the file is empty: a snapshot has at least its header")])
    try:
        columns = own_format.parse_header(header)
    except ValueError as error:
        raise Rejected(file.name, [(1, str(error))]) from None
    table = GrowingColumns()
    for chunk, raw in _parsed(_with_first(first, _read_ahead(chunks)), columns):
        part = _routes_of_columns(raw, routes) if raw is not None else None
        if part is None:
            part = _read_slowly(file, chunk, len(table) + 2, columns, routes)
        table.add(part)
    check_row_count(file, len(table))
    rows = table.columns() if table.rising else _sorted(file, table.columns())
    return _check_kinds(file, rows, plan), columns


def _read_ahead(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks, the next one being read and decompressed while the last one is worked on."""
    with ThreadPoolExecutor(1, "read") as thread:
        reading = thread.submit(next, chunks, None)
        while (chunk := reading.result()) is not None:
            reading = thread.submit(next, chunks, None)
            yield chunk


def _parsed(chunks: Iterator[bytes], columns: tuple[str, ...]) -> Iterator[tuple[bytes, RawColumns | None]]:
    """Each chunk with its rows, in the file's order, a few chunks ahead: parsing lets go of the interpreter."""
    with ThreadPoolExecutor(PARSE_THREADS, "parse") as threads:
        ahead: deque[tuple[bytes, Future[RawColumns | None]]] = deque()
        for chunk in chunks:
            ahead.append((chunk, threads.submit(parse_rows, chunk, columns)))
            if len(ahead) > PARSE_THREADS:
                oldest, parsing = ahead.popleft()
                yield oldest, parsing.result()
        for oldest, parsing in ahead:
            yield oldest, parsing.result()


def _with_first(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _routes_of_columns(raw: RawColumns, routes: Routes) -> Columns | None:
    """Names to route ids; None if a network is not known (which row it is, the slow way finds out)."""
    own = [routes.network_id(code) for code in raw.codes]
    if any(route_id is None for route_id in own):
        return None
    ids = np.array([*own, 0], np.uint16)  # index -1, an empty field, is 0
    route = ids[raw.network]
    with_own_number = np.flatnonzero(raw.routing_number >= 0)
    if len(with_own_number):
        count = len(raw.routing_numbers)
        pairs = raw.network[with_own_number].astype(np.uint64) * np.uint64(count)
        pairs += raw.routing_number[with_own_number].astype(np.uint64)
        distinct, index = distinct_values(pairs)
        made = [
            routes.route_id(NetworkCode(raw.codes[pair // count]), RoutingNumber(raw.routing_numbers[pair % count]))
            for pair in distinct.tolist()
        ]
        route[with_own_number] = np.array(made, np.uint16)[index]
    return Columns(raw.tn, route, ids[raw.donor], raw.ported_at)


def _read_slowly(file: FeedFile, chunk: bytes, line: int, columns: tuple[str, ...], routes: Routes) -> Columns:
    """Row by row. line: of the chunk's first row."""
    rows: list[tuple[int, int, int, int]] = []
    rejections: list[tuple[int, str]] = []
    for number, text in enumerate(chunk.removesuffix(b"\n").split(b"\n"), line):
        try:
            row = own_format.parse_row(text, columns)
            _check_network("network_code", row.network_code, routes)
            _check_network("donor", row.donor, routes)
        except ValueError as error:
            rejections.append((number, str(error)))
            if len(rejections) >= Rejected.TOLD_MAX:
                break
            continue
        donor_id = routes.network_id(row.donor) if row.donor else None
        route_id = routes.route_id(row.network_code, row.routing_number)
        rows.append((row.tn, route_id, donor_id or 0, row.ported_at or 0))
    if rejections:
        raise Rejected(file.name, rejections)
    tn, route, donor, ported_at = zip(*rows, strict=True)
    return Columns(
        np.array(tn, np.uint64),
        np.array(route, np.uint16),
        np.array(donor, np.uint16),
        np.array(ported_at, np.uint32),
    )


def _check_network(field: str, code: NetworkCode | None, networks: Networks) -> None:
    if code is not None and networks.network_id(code) is None:
        raise ValueError(f"{field} {code!r} {ADD_NETWORK}")


def _sorted(file: FeedFile, rows: Columns) -> Columns:
    """The rows in the order of the numbers; each number stands once. Raises Rejected."""
    order = np.argsort(rows.tn, kind="stable")
    tn = rows.tn[order]
    twice = np.flatnonzero(tn[1:] == tn[:-1])
    if len(twice):
        told = [
            (int(order[at + 1]) + 2, f"tn {tn[at]} stands in line {int(order[at]) + 2} too")
            for at in twice[: Rejected.TOLD_MAX].tolist()
        ]
        raise Rejected(file.name, told)
    return Columns(tn, rows.route[order], rows.donor[order], rows.ported_at[order])


def _check_kinds(file: FeedFile, columns: Columns, plan: Plan) -> Columns:
    """Only numbers of a kind that can be ported (R1). The kind is the same throughout a block, and wherever the
    digits before the block's are those that the plan looks at: one number of each such run is checked."""
    first = columns.tn[block_starts(columns.tn)]
    powers = np.array([10**digits for digits in range(E164_DIGITS_MAX + 1)], np.uint64)
    digits = np.searchsorted(powers, first, side="right")
    heads = np.array([plan.head_digits(count) for count in range(E164_DIGITS_MAX + 1)])
    head = first // powers[np.maximum(digits - heads[digits], 0)]
    for at in np.flatnonzero(np.r_[True, (head[1:] != head[:-1]) | (digits[1:] != digits[:-1])][: len(head)]).tolist():
        tn = TN(int(first[at]))
        try:
            check_portable(tn, plan)
        except ValueError as error:
            raise Rejected(file.name, [(_line_of(file, tn), str(error))]) from None
    return columns


def _line_of(file: FeedFile, tn: TN) -> int:
    """Found by reading again: rows lost their lines when they were sorted, and errors may be slow."""
    from loader.files import line_chunks, verified
    from lookupd.limits import SNAPSHOT_LINE_BYTES_MAX

    wanted = str(tn).encode()
    line = 0
    column = 0
    with verified(file) as (data, _):
        for chunk in line_chunks(file, data, SNAPSHOT_LINE_BYTES_MAX):
            for text in chunk.removesuffix(b"\n").split(b"\n"):
                line += 1
                fields = text.split(b",")
                if line == 1:
                    column = fields.index(b"tn")
                elif fields[column] == wanted:
                    return line
    return line


def check_portable(tn: TN, plan: Plan) -> None:
    """Raises ValueError when a number of this kind, length or country cannot be ported in the plan."""
    kind = plan.kind(tn)
    if kind is not None and kind.portable:
        return
    if not plan.covers(str(tn)):
        raise ValueError(f"tn {tn} is not in the plan of +{plan.country_code}: see plan.country_code")
    what = "no number of the plan has this prefix and length" if kind is None else f"{kind.name} numbers are not ported"
    raise ValueError(f"tn {tn}: {what} (plan +{plan.country_code}; see plan.file)")


def check_one_kind(tn: TN, tn_to: TN, plan: Plan) -> None:
    """Raises ValueError when a range to be restricted goes from one kind of number into another.

    A number that is in no plan may be restricted: it may be allocated later.
    """
    heads = range(tn // NUMBERS_PER_BLOCK + 1, tn_to // NUMBERS_PER_BLOCK + 1)
    kinds = {plan.kind(TN(number)) for number in (tn, *(block * NUMBERS_PER_BLOCK for block in heads))}
    if len(kinds) > 1:
        names = " and ".join(sorted("numbers of no plan" if kind is None else f"{kind.name} numbers" for kind in kinds))
        raise ValueError(f"tn {tn} to {tn_to}: the range crosses {names}: send one notice for each kind")


class Networks(Protocol):
    """Whatever knows the networks table."""

    def network_id(self, code: str) -> int | None:
        """Route id of a network's own route; None if there is no such network."""
        ...


class KnownNetworks:
    """The networks of a reader's pinned state."""

    def __init__(self, routes: Sequence[Route | None]) -> None:
        self._ids = {route.network_code: at for at, route in enumerate(routes) if route is not None and route.own}

    @classmethod
    def of_records(cls, records: Sequence[RouteRecord | None]) -> KnownNetworks:
        """Of a transaction's routes."""
        return cls([record.route() if record is not None else None for record in records])

    def network_id(self, code: str) -> int | None:
        """Route id of a network's own route; None if there is no such network."""
        return self._ids.get(NetworkCode(code))


def read_delta(
    file: FeedFile, chunks: Iterator[bytes], plan: Plan, networks: Networks, advance: Advance = lambda count: None
) -> list[Notice]:
    """All notices, in line order. Raises Rejected with the bad lines, FeedError if the count is wrong."""
    notices: list[Notice] = []
    rejections: list[tuple[int, str]] = []
    line = 0
    for chunk in chunks:
        for text in chunk.removesuffix(b"\n").split(b"\n"):
            line += 1
            try:
                if line > DELTA_NOTICES_MAX:
                    raise ValueError(f"more than {DELTA_NOTICES_MAX} notices: send a snapshot instead")
                notice = own_format.parse_notice(text)
                _check_notice(notice, plan, networks)
            except ValueError as error:
                rejections.append((line, str(error)))
                if len(rejections) >= Rejected.TOLD_MAX:
                    raise Rejected(file.name, rejections) from None
                continue
            notices.append(notice)
        advance(len(chunk))
    if line == 0 and not (file.source and file.rows == 0):  # a foreign increment may say that nothing happened
        raise Rejected(file.name, [(1, "the file is empty: a delta has at least one notice")])
    if rejections:
        raise Rejected(file.name, rejections)
    check_row_count(file, line)
    return notices


def _check_notice(notice: Notice, plan: Plan, networks: Networks) -> None:
    if notice.restriction is not None:
        check_one_kind(notice.tn, notice.tn_to, plan)
        return
    _check_network("recipient", notice.recipient, networks)
    _check_network("donor", notice.donor, networks)
    check_portable(notice.tn, plan)
    for block in range(notice.tn // NUMBERS_PER_BLOCK + 1, notice.tn_to // NUMBERS_PER_BLOCK + 1):
        check_portable(TN(block * NUMBERS_PER_BLOCK), plan)
