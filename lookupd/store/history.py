"""The store as it was at a moment: a number's state, its range's holder, a network's row.

Nothing is replayed. What something was at a serial is what the earliest later entry says it was before, or
what it is today if none changed it; so a question costs a few look-ups whatever the length of the history.
The decision from these to an answer is the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from lookupd.errors import StoreError
from lookupd.limits import E164_DIGITS_MAX
from lookupd.model import CHANGES_NOTHING, TN, InForce, JournalEntry, Ported, Restriction, Route, UnixSeconds
from lookupd.store import journal, restrictions
from lookupd.store.reader import Reader
from lookupd.store.schema import (
    JOURNAL_BLOCK_KEY,
    NUMBERS_PER_BLOCK,
    RESTRICTED,
    SERIAL_KEY,
    U16,
    UNKNOWN_ROUTE,
    Anchor,
    decode_route,
)
from lookupd.units import format_time

_holders = msgspec.msgpack.Decoder(str)
_decode_row = msgspec.msgpack.Decoder(object).decode
_NIL: Final = b"\xc0"


class AsOf(msgspec.Struct, frozen=True):
    """A number as it was right after one serial.

    applied_at: of that serial's entry. until: of the next entry; None while it is the newest. ported: None =
    was not ported. route: of the ported number, as the networks table dressed it then. held: the longest
    prefix of the ranges table then, and its holder's route.
    """

    serial: int
    applied_at: UnixSeconds
    until: UnixSeconds | None
    ported: Ported | None
    route: Route | None
    held: tuple[str, Route] | None


def as_of(reader: Reader, tn: TN, *, serial: int | None = None, moment: UnixSeconds | None = None) -> AsOf:
    """The number at a serial, or at a moment; see `serial_at` for what that means when clocks were set back.

    Raises StoreError: the moment is before the kept history (the message names the oldest one that can be
    asked), or what must be read is damaged.
    """
    if serial is None:
        if moment is None:
            raise ValueError("a serial or a moment")
        serial = serial_at(reader, moment)
    past = Past(reader, serial)
    ported = past.ported(tn)
    held = past.range_holder(str(tn))
    return AsOf(
        serial,
        past.applied_at,
        past.until,
        ported,
        None if ported is None else past.route_of(ported.network_code, ported.routing_number),
        None if held is None else (held[0], past.route(held[1])),
    )


class Past:
    """The pinned store as it was right after one serial.

    `entry`, `route` and `range_holder` are the Reader's that the engine decides by; route ids are of this
    object only.
    """

    def __init__(self, reader: Reader, serial: int) -> None:
        """Raises StoreError when the history does not reach back to that serial, or not forward to it."""
        oldest, since = oldest_kept(reader)
        if serial < oldest:
            raise _too_early(f"serial {serial}", oldest, since)
        if serial > reader.state.serial:
            raise StoreError(f"serial {serial}: the store is at {reader.state.serial}")
        self.reader = reader
        self.serial = serial
        self.applied_at = _applied_at(reader, serial)
        self.until = None if serial == reader.state.serial else _applied_at(reader, serial + 1)
        self._routes: list[Route] = []

    def ported(self, tn: TN) -> Ported | None:
        """All that was known of a ported number; None = it was not ported. Raises StoreError."""
        block = tn // NUMBERS_PER_BLOCK
        emptied = self._loaded_from_empty()
        for key, value in self.reader.stored_from("journal_blocks", JOURNAL_BLOCK_KEY.pack(block, self.serial + 1)):
            of_block, serial = JOURNAL_BLOCK_KEY.unpack(key)
            if of_block != block or (emptied is not None and serial > emptied):
                break
            changed, before = self._before(serial, value, tn)
            if changed:
                return before
        return self.reader.ported(tn) if emptied is None else None

    def network(self, code: str) -> Route | None:
        """A network's own route as its row was; None = the table had none."""
        before = self._row_before(journal.NETWORK + code.encode())
        if before is None:
            return next(
                (route for route in self.reader.routes if route and route.own and route.network_code == code), None
            )
        return None if before == _NIL else decode_route(before).route()

    def route_of(self, code: str, routing_number: str | None) -> Route:
        """Where a ported number was sent. routing_number: its own; None = the network's. Raises StoreError."""
        own = self.network(code)
        if own is None:
            raise StoreError(f"serial {self.serial}: the networks table had no {code}: restore the store from a backup")
        if routing_number is None:
            return own
        return msgspec.structs.replace(own, routing_number=routing_number, own=False)

    def restrictions(self, tn: TN) -> list[Restriction]:
        """All that were about a number, in force or not. Raises StoreError."""
        names = {restrictions.key_of(it) for it in self.reader.restrictions(tn)}
        names |= {restrictions.key_of(it) for it in self._changed_restrictions(tn)}
        found = []
        for key in sorted(names):
            before = self._row_before(restrictions.history_name(key))
            if before is None:
                value = self.reader.stored("restrictions", key)
                found += [] if value is None else [restrictions.unpack_row(key, value)]
            elif before != _NIL:
                found.append(restrictions.decode_restriction(before))
        return found

    def _changed_restrictions(self, tn: TN) -> Iterator[Restriction]:
        """Those of the number that later entries placed, extended or lifted."""
        block = tn // NUMBERS_PER_BLOCK
        for key, _ in self.reader.stored_from("journal_blocks", JOURNAL_BLOCK_KEY.pack(block, self.serial + 1)):
            of_block, serial = JOURNAL_BLOCK_KEY.unpack(key)
            if of_block != block:
                break
            stored = self.reader.stored("journal", SERIAL_KEY.pack(serial))
            if stored is None:
                raise StoreError(f"journal entry {serial} is missing: restore the store from a backup")
            placed = journal.unpack(serial, stored).restriction
            if placed is not None and placed.first <= tn <= placed.last:
                yield placed

    # -- what the engine asks ----------------------------------------------------------------------------

    def entry(self, tn: int) -> int:
        """An id for `route`; 0 = was not ported. With RESTRICTED if a restriction was known of the number."""
        ported = self.ported(TN(tn))
        bit = RESTRICTED if self.restrictions(TN(tn)) else 0
        return bit | (0 if ported is None else self._keep(self.route_of(ported.network_code, ported.routing_number)))

    def restriction(self, tn: int, now: UnixSeconds) -> InForce | None:
        """The strictest restriction that was in force then. now: the moment that was asked for."""
        return restrictions.in_force(self.restrictions(TN(tn)), now)

    def route(self, route_id: int) -> Route:
        """The route of an id that `entry` or `range_holder` gave."""
        return self._routes[route_id - 1]

    def range_holder(self, digits: str) -> tuple[str, int] | None:
        """The longest prefix of the ranges table then that the number starts with, and its holder's route id."""
        for length in range(min(len(digits), E164_DIGITS_MAX), 0, -1):
            code = self._holder(digits[:length])
            if code is not None:
                return digits[:length], self._keep(self.route_of(code, None))
        return None

    def _keep(self, route: Route) -> int:
        self._routes.append(route)
        return len(self._routes)

    # -- what was before the earliest later change -------------------------------------------------------

    def _holder(self, prefix: str) -> str | None:
        before = self._row_before(journal.RANGE + prefix.encode())
        if before is not None:
            return None if before == _NIL else _holders.decode(before)
        now = self.reader.stored("ranges", prefix.encode())
        return None if now is None else self.reader.route(U16.unpack(now)[0]).network_code

    def _row_before(self, name: bytes) -> bytes | None:
        """A table row's value before the earliest later change of it; None = there was no later change."""
        for key, value in self.reader.stored_from("journal_tables", journal.row_key(name, self.serial + 1)):
            if journal.split_row_key(key)[0] != name:
                break
            try:
                _decode_row(value)
            except msgspec.MsgspecError as error:
                raise StoreError(f"journal_tables: a row of {name.decode()} is damaged: {error}") from None
            return value
        return None

    def _loaded_from_empty(self) -> int | None:
        """The next later snapshot into an empty store: before it no number was ported, and it kept no old states."""
        for key, _ in self.reader.stored_from("journal_tables", journal.row_key(journal.FROM_EMPTY, self.serial + 1)):
            name, serial = journal.split_row_key(key)
            return serial if name == journal.FROM_EMPTY else None
        return None

    def _before(self, serial: int, value: bytes, tn: TN) -> tuple[bool, Ported | None]:
        """Whether that entry changed the number, and its state before it. value: of `journal_blocks`."""
        if value:
            return self._before_snapshot(serial, value, tn)
        stored = self.reader.stored("journal", SERIAL_KEY.pack(serial))
        if stored is None:
            raise StoreError(f"journal entry {serial} is missing: restore the store from a backup")
        entry = journal.unpack(serial, stored)
        if not _changed(entry, tn):
            return False, None
        for run in entry.old:
            if run.tn <= tn <= run.tn_to:
                return True, msgspec.structs.replace(run, tn=tn, tn_to=tn)
        return True, None

    def _before_snapshot(self, serial: int, value: bytes, tn: TN) -> tuple[bool, Ported | None]:
        block, wanted = divmod(tn, NUMBERS_PER_BLOCK)
        for record in journal.previous_records(value):
            if record[1] == UNKNOWN_ROUTE:
                raise StoreError(
                    f"block {block} was damaged until the snapshot of serial {serial} mended it: what its numbers were "
                    "before is not known here; ask the other replica"
                )
            if record[0] == wanted:
                return True, journal.ported_before(tn, record, legend_of(self.reader, serial))
        return False, None


def legend_of(reader: Reader, serial: int) -> journal.Legend:
    """What the route ids in a snapshot's old states stand for. Raises StoreError."""
    stored = reader.stored("journal_tables", journal.row_key(journal.LEGEND, serial))
    try:
        return {} if stored is None else journal.decode_legend(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreError(f"journal_tables: the routes of entry {serial} are damaged: {error}") from None


def _changed(entry: JournalEntry, tn: TN) -> bool:
    """Whether a notice's entry changed the number. One that found nothing to do changed nothing."""
    if entry.tn is None or entry.tn_to is None or entry.kind in CHANGES_NOTHING:
        return False
    return entry.tn <= tn <= entry.tn_to and entry.added + entry.removed + entry.changed > 0


# -- moments ---------------------------------------------------------------------------------------------
# applied_at rises with the serial but where a clock was set back, and there `journal_tables` has a row. So the
# journal is a few stretches in which it rises, each of them searched by halving.


def serial_at(reader: Reader, moment: UnixSeconds) -> int:
    """The last serial, in the order of serials, with applied_at at or before the moment.

    Where a clock ran ahead and was set back, what it stamped in between counts from the first later entry
    that is stamped earlier: that one was made after all of them. Raises StoreError before the kept history.
    """
    oldest, since = oldest_kept(reader)
    found = 0
    for first, last in reversed(_stretches(reader)):
        if _applied_at(reader, first) <= moment:
            found = _first(reader, first, last, lambda at: at > moment) - 1
            break
    if found < oldest:
        raise _too_early(str(format_time(moment)), oldest, since)
    return found


def first_since(reader: Reader, moment: UnixSeconds) -> int:
    """The first kept serial with applied_at at or after the moment; the one after the newest if there is none."""
    anchor = reader.anchor()
    for first, last in _stretches(reader):
        begin = first + 1 if anchor is not None and first == anchor.serial else first
        if begin <= last and _applied_at(reader, last) >= moment:
            return _first(reader, begin, last, lambda at: at >= moment)
    return reader.state.serial + 1


def oldest_kept(reader: Reader) -> tuple[int, UnixSeconds]:
    """The oldest serial that can be asked for, and its moment. Raises StoreError when nothing was loaded yet.

    It is the last pruned one, or that of the first file of a feed: before that, every number was unavailable.
    """
    anchor = reader.anchor()
    if anchor is not None and anchor.fed:
        return anchor.serial, anchor.applied_at
    for key, stored in reader.stored_from("journal"):
        serial = SERIAL_KEY.unpack(key)[0]
        head = journal.unpack_head(serial, stored)
        if head.feed is not None:
            return serial, head.applied_at
    raise StoreError(f"{reader.path}: no snapshot was loaded yet: there is no history to ask")


def _too_early(asked: str, oldest: int, since: UnixSeconds) -> StoreError:
    return StoreError(
        f"{asked}: before the kept history: the oldest moment that can be asked is {format_time(since)} "
        f"(serial {oldest})"
    )


def _stretches(reader: Reader) -> list[tuple[int, int]]:
    """First and last serials of the stretches in which applied_at does not fall, the oldest first.

    The first one begins with the last pruned entry, of which the anchor knows.
    """
    anchor = reader.anchor()
    begins = [1 if anchor is None else anchor.serial]
    for key, _ in reader.stored_from("journal_tables", journal.row_key(journal.CLOCK_FELL, begins[0] + 1)):
        name, serial = journal.split_row_key(key)
        if name != journal.CLOCK_FELL:
            break
        begins.append(serial)
    ends = [begin - 1 for begin in begins[1:]] + [reader.state.serial]
    return [(first, last) for first, last in zip(begins, ends, strict=True) if first <= last]


def _first(reader: Reader, first: int, last: int, wanted: Callable[[int], bool]) -> int:
    """The first serial of a stretch whose applied_at is wanted, last + 1 if none; those after it are wanted too."""
    end = last + 1
    while first < end:
        middle = (first + end) // 2
        if wanted(_applied_at(reader, middle)):
            end = middle
        else:
            first = middle + 1
    return first


def _applied_at(reader: Reader, serial: int) -> UnixSeconds:
    anchor: Anchor | None = reader.anchor()
    if anchor is not None and serial == anchor.serial:
        return anchor.applied_at
    return journal.unpack_head(serial, reader.stored("journal", SERIAL_KEY.pack(serial))).applied_at
