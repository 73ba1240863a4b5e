"""A number's past for risk checks: when it was last ported, how often in a window, whether it was restricted.

Read from the journal as far as it is kept, as of any moment in it. Who may ask, and the audit of that, are `web.risk`'s
and `audit`'s: it is personal data (NPR article 34).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import msgspec

from lookupd.engine import Engine
from lookupd.explain import explain_as_of, view
from lookupd.journal_view import Found, number_entries, receipt_of
from lookupd.limits import RISK_ENTRIES_READ_MAX, RISK_MOVES_TOLD
from lookupd.model import TN, AnswerView, JournalEntry, JournalKind, Ported, UnixSeconds
from lookupd.store.history import Past, oldest_kept, serial_at
from lookupd.store.reader import Reader
from lookupd.units import format_time

_OF_NUMBERS = frozenset({JournalKind.PORT, JournalKind.RETURN, JournalKind.CORRECT, JournalKind.SNAPSHOT})


class MoveView(msgspec.Struct, frozen=True):
    """One change of the network. kind: port, return, correct or snapshot. at: when readers saw it; of a snapshot, the
    time of the port if the snapshot told it. networks: null = the range's holder, where nobody told it."""

    at: str
    kind: str
    from_network: str | None
    to_network: str | None
    serial: int


class RiskView(msgspec.Struct, frozen=True):
    """As of one moment; docs/risk.md has the words for people. Absent values are null, keys never vanish.

    last_ported_at: null = nobody told of a port. ports, returns: in the window; lower bounds unless window_covered.
    known_since: how far the history reaches. moves: the newest first; is_cut: there were more than are told.
    """

    number: str
    as_of: str
    outcome: str
    network_code: str | None
    operator: str | None
    last_ported_at: str | None
    last_ported_from: str | None
    last_ported_to: str | None
    window_from: str
    window_seconds: int
    window_covered: bool
    ports: int
    returns: int
    restriction: dict[str, str] | None
    restricted_in_window: bool
    known_since: str
    moves: tuple[MoveView, ...]
    is_cut: bool
    serial: int
    age_seconds: int | None


class _Move(NamedTuple):
    at: UnixSeconds
    kind: JournalKind
    before: Ported | None
    from_network: str | None
    to_network: str | None
    serial: int


class Window(NamedTuple):
    """What is asked for: as of when, and how far back from there, in seconds."""

    moment: UnixSeconds
    seconds: int

    @property
    def first(self) -> int:
        """Its first second."""
        return max(self.moment - self.seconds, 0)


def risk(engine: Engine, text: str, window: Window, *, is_past: bool) -> RiskView:
    """is_past: the moment was asked for; else it is now, and the engine's batch has begun. The engine has a reader.

    Raises StoreError: the moment is before the kept history (see `serial_at`), or what must be read is damaged.
    """
    reader = engine.reader
    assert reader is not None
    _, since = oldest_kept(reader)
    serial = serial_at(reader, window.moment) if is_past else reader.state.serial
    tn = engine.plan.read_text(text)
    answer = _answer(engine, reader, text, window.moment, is_past=is_past)
    moves, is_cut = ([], False) if tn is None else _moves(reader, tn, serial)
    in_window = [move for move in moves if window.first <= move.at <= window.moment]
    last_at, last_from, last_to = (None, None, None) if tn is None else _last_port(reader, tn, serial, moves)
    return RiskView(
        number=answer.number,
        as_of=format_time(window.moment) or "",
        outcome=answer.outcome,
        network_code=answer.network_code,
        operator=answer.operator,
        last_ported_at=format_time(last_at),
        last_ported_from=last_from,
        last_ported_to=last_to,
        window_from=format_time(window.first) or "",
        window_seconds=window.seconds,
        window_covered=since <= window.first and not is_cut,
        ports=sum(_is_port(move) for move in in_window),
        returns=sum(_is_return(move) for move in in_window),
        restriction=answer.restriction,
        restricted_in_window=tn is not None and _was_restricted(reader, tn, serial, window),
        known_since=format_time(since) or "",
        moves=tuple(
            MoveView(format_time(move.at) or "", move.kind.value, move.from_network, move.to_network, move.serial)
            for move in moves[:RISK_MOVES_TOLD]
        ),
        is_cut=is_cut or len(moves) > RISK_MOVES_TOLD,
        serial=serial,
        age_seconds=answer.age_seconds,
    )


def _answer(engine: Engine, reader: Reader, text: str, moment: UnixSeconds, *, is_past: bool) -> AnswerView:
    if is_past:
        return msgspec.convert(explain_as_of(engine.plan, reader, text, moment)["answer"], AnswerView)
    tn = engine.plan.read_text(text)
    found = view(engine.resolve(text if tn is None else str(tn)))
    return msgspec.structs.replace(found, number=text) if tn is None else found


# -- moves -----------------------------------------------------------------------------------------------


def _moves(reader: Reader, tn: TN, serial: int) -> tuple[list[_Move], bool]:
    """Up to a serial, the newest first; whether older entries were left unread."""
    entries = (found for found in number_entries(reader, tn) if found[0] <= serial)
    read = list(islice(entries, RISK_ENTRIES_READ_MAX + 1))
    moves = [move for found in read[:RISK_ENTRIES_READ_MAX] for move in _move(reader, tn, found)]
    return moves, len(read) > RISK_ENTRIES_READ_MAX


def _move(reader: Reader, tn: TN, found: Found) -> Iterator[_Move]:
    """None or one of an entry."""
    serial, _, entry = found
    if entry.kind not in _OF_NUMBERS or entry.from_empty:
        return
    if entry.kind is JournalKind.SNAPSHOT:
        before, after = Past(reader, serial - 1).ported(tn), Past(reader, serial).ported(tn)
        donor = after.donor if after is not None else None
    else:
        before = next((run for run in entry.old if run.tn <= tn <= run.tn_to), None)
        after, donor = entry.new, entry.new.donor if entry.new is not None else None
    to_network = None if after is None else str(after.network_code)
    if before is not None:
        from_network: str | None = before.network_code
    elif to_network is None:
        return  # a return of a number that was not ported
    else:
        from_network = donor if donor is not None and _kind(entry) is not JournalKind.CORRECT else None
        from_network = from_network or _holder(reader, tn, serial - 1)
    if from_network != to_network:
        yield _Move(_moment(reader, found, after), _kind(entry), before, from_network, to_network, serial)


def _kind(entry: JournalEntry) -> JournalKind:
    """Without a feed it was nobody's notice: a correction that takes a port away is recorded as a return."""
    is_notice = entry.kind is JournalKind.SNAPSHOT or entry.feed is not None
    return entry.kind if is_notice else JournalKind.CORRECT


def _moment(reader: Reader, found: Found, after: Ported | None) -> UnixSeconds:
    serial, _, entry = found
    if entry.kind is JournalKind.SNAPSHOT:
        return after.ported_at if after is not None and after.ported_at is not None else entry.applied_at
    receipt = receipt_of(reader, serial)
    seen = None if receipt is None else receipt.visible_at
    return entry.applied_at if seen is None else UnixSeconds(seen // 1000)


def _holder(reader: Reader, tn: TN, serial: int) -> str | None:
    """Of the number's range after that serial, or after the oldest that is kept."""
    past = Past(reader, max(serial, oldest_kept(reader)[0]))
    held = past.range_holder(str(tn))
    return None if held is None else past.route(held[1]).network_code


def _is_port(move: _Move) -> bool:
    """A correction mends what the store said: nobody was ported then, and nothing went home."""
    return move.to_network is not None and move.kind is not JournalKind.CORRECT


def _is_return(move: _Move) -> bool:
    return move.to_network is None and move.kind is not JournalKind.CORRECT


def _last_port(
    reader: Reader, tn: TN, serial: int, moves: list[_Move]
) -> tuple[UnixSeconds | None, str | None, str | None]:
    """When, from where, to where: of the journal, else what the oldest state that is known says of its own port."""
    for move in moves:
        if _is_port(move):
            return move.at, move.from_network, move.to_network
    state = moves[-1].before if moves else Past(reader, serial).ported(tn)
    if state is None or state.ported_at is None:
        return None, None, None
    return state.ported_at, state.donor, state.network_code


# -- restrictions ----------------------------------------------------------------------------------------


def _was_restricted(reader: Reader, tn: TN, serial: int, window: Window) -> bool:
    """Whether one was in force at any time of the window: of those that are still listed, and of those that were
    lifted in it, until they were."""
    for it in Past(reader, serial).restrictions(tn):
        if it.begins_at <= window.moment and it.until > window.first:
            return True
    entries = islice((found for found in number_entries(reader, tn) if found[0] <= serial), RISK_ENTRIES_READ_MAX)
    for _, _, entry in entries:
        it_was = entry.restriction
        if entry.kind is not JournalKind.LIFT or it_was is None or entry.applied_at < window.first:
            continue
        if it_was.begins_at <= entry.applied_at and it_was.until > window.first:
            return True
    return False
