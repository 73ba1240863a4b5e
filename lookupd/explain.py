"""Why a number is answered as it is: every step from what was asked to the answer."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from lookupd.engine import SERIAL_MASK, Engine
from lookupd.errors import DamagedBlock, StoreError
from lookupd.model import TN, Answer, AnswerView, JournalEntry, Ported, Route, UnixSeconds
from lookupd.numbering import Plan, format_tn
from lookupd.restriction_view import restriction_view
from lookupd.store.history import Past, serial_at
from lookupd.store.reader import Reader
from lookupd.store.schema import NUMBERS_PER_BLOCK, RESTRICTED, ROUTE_MASK
from lookupd.units import format_time, restriction_fields

HISTORY_ENTRIES = 5


def view(answer: Answer) -> AnswerView:
    """An answer as JSON shows it."""
    route = answer.route
    return AnswerView(
        number=answer.asked if answer.tn is None else format_tn(answer.tn),
        outcome=answer.outcome.label,
        network_code=route.network_code if route else None,
        routing_number=route.routing_number if route else None,
        operator=route.operator if route else None,
        restriction=restriction_fields(answer.restriction),
        serial=answer.serial,
        age_seconds=answer.age_seconds,
    )


def explain(engine: Engine, asked: str) -> dict[str, Any]:
    """The steps of one resolution, in order. The engine's batch has begun; it has a reader."""
    reader = engine.reader
    assert reader is not None
    tn = engine.plan.read_text(asked)
    steps: dict[str, Any] = {"asked": asked, "number": None if tn is None else format_tn(tn)}
    if tn is not None:
        kind = engine.plan.kind(tn)
        block, offset = divmod(tn, NUMBERS_PER_BLOCK)
        steps["plan"] = f"+{engine.plan.country_code}"
        steps["kind"] = kind.name if kind else None
        steps["portable"] = kind.portable if kind else None
        steps["block"] = block
        steps["offset"] = offset
        steps |= _entry_steps(engine, tn)
        steps |= _restriction_steps(reader, tn, engine.now)
        held = reader.range_holder(str(tn))
        steps["range"] = None
        if held is not None:
            steps["range"] = {"prefix": held[0], "holder": _route(reader.route(held[1]))}
        steps["pending"] = [
            {
                "kind": waits.notice.kind,
                "effective_at": format_time(waits.notice.effective_at),
                "feed": waits.feed,
            }
            for waits in reader.pending()
            if waits.notice.tn <= tn <= waits.notice.tn_to
        ]
        steps["history"] = [_history(serial, entry) for serial, entry in reader.history(tn, HISTORY_ENTRIES)]
    answer = engine.resolve(asked if tn is None else str(tn))
    if engine.reason:
        steps["reason"] = engine.reason
    steps["answer"] = msgspec.structs.asdict(view(answer)) | ({"number": asked} if tn is None else {})
    return steps


def explain_as_of(plan: Plan, reader: Reader, asked: str, moment: UnixSeconds) -> dict[str, Any]:
    """The steps of one resolution as it was at a moment: what the store said, and what the engine makes of it.

    age_seconds is null: how fresh the data was then is not kept. Raises StoreError before the kept history.
    """
    past = Past(reader, serial_at(reader, moment))
    engine = Engine(plan)
    engine.reader = cast(Reader, past)  # of a reader the engine's decision takes entry, route and range_holder
    engine.serial, engine.usable, engine.now = past.serial & SERIAL_MASK, True, moment
    tn = plan.read_text(asked)
    steps: dict[str, Any] = {
        "asked": asked,
        "number": None if tn is None else format_tn(tn),
        "as_of": {
            "time": format_time(moment),
            "serial": past.serial,
            "applied_at": format_time(past.applied_at),
            "until": format_time(past.until),
        },
    }
    if tn is not None:
        kind = plan.kind(tn)
        steps["plan"] = f"+{plan.country_code}"
        steps["kind"] = kind.name if kind else None
        steps["portable"] = kind.portable if kind else None
        steps |= _past_steps(past, tn)
        steps |= _restriction_steps(past, tn, moment)
    answer = engine.resolve(asked if tn is None else str(tn))
    steps["answer"] = msgspec.structs.asdict(view(answer)) | ({"number": asked} if tn is None else {})
    return steps


def _past_steps(past: Past, tn: TN) -> dict[str, Any]:
    """network: the row of the networks table that the answer's operator and routing number come from."""
    steps: dict[str, Any] = {"ported": None, "route": None, "range": None, "network": None}
    code = None
    try:
        held = past.range_holder(str(tn))
        if held is not None:
            holder = past.route(held[1])
            code = holder.network_code
            steps["range"] = {"prefix": held[0], "holder": _route(holder)}
        ported = past.ported(tn)
        if ported is not None:
            code = ported.network_code
            steps["ported"] = _state(ported)
            steps["route"] = _route(past.route_of(code, ported.routing_number))
        row = None if code is None else past.network(code)
    except StoreError as error:
        return steps | {"damaged": str(error)}
    if row is not None:
        steps["network"] = {
            "network_code": row.network_code,
            "operator": row.operator,
            "routing_number": row.routing_number,
            "pdb_carrier_id": row.pdb_carrier_id,
        }
    return steps


def _entry_steps(engine: Engine, tn: Any) -> dict[str, Any]:
    reader = engine.reader
    assert reader is not None
    try:
        entry = reader.entry(tn)
        found: dict[str, Any] = {
            "entry": f"0x{entry:04x}",
            "route": _route(reader.route(entry & ROUTE_MASK)) if entry & ROUTE_MASK else None,
            "restricted": bool(entry & RESTRICTED),
        }
        ported = reader.ported(tn)
    except DamagedBlock as error:
        return {"entry": None, "route": None, "restricted": None, "ported": None, "damaged": str(error)}
    except StoreError as error:
        return {"entry": None, "route": None, "restricted": None, "ported": None, "damaged": str(error)}
    found["ported"] = None if ported is None else _state(ported)
    return found


def _restriction_steps(store: Reader | Past, tn: TN, now: UnixSeconds) -> dict[str, Any]:
    """All that are about the number; those of a range with both its ends. state: at that moment."""
    try:
        found = sorted(store.restrictions(tn), key=lambda it: (it.first, it.last, it.authority, it.case))
        return {"restrictions": [restriction_view(each, now) for each in found]}
    except StoreError as error:
        return {"restrictions": None, "restrictions_damaged": str(error)}


def _route(route: Route) -> dict[str, Any]:
    return msgspec.structs.asdict(route)


def _state(ported: Ported) -> dict[str, Any]:
    return {
        "network_code": ported.network_code,
        "routing_number": ported.routing_number,
        "donor": ported.donor,
        "ported_at": format_time(ported.ported_at),
        "sequence": ported.sequence,
    }


def _history(serial: int, entry: JournalEntry) -> dict[str, Any]:
    return {
        "serial": serial,
        "kind": entry.kind,
        "applied_at": format_time(entry.applied_at),
        "notified_at": format_time(entry.notified_at),
        "effective_at": format_time(entry.effective_at),
        "feed": entry.feed,
        "sequence": entry.sequence,
        "ref": entry.ref,
        "tn": entry.tn,
        "tn_to": entry.tn_to,
        "new": None if entry.new is None else _state(entry.new),
        "restriction": None if entry.restriction is None else restriction_view(entry.restriction),
        "old": [_state(old) | {"tn": old.tn, "tn_to": old.tn_to} for old in entry.old],
        "source": entry.source,
    }
