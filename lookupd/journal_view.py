"""The journal as people read it: an entry's fields in words, the entries of a number, of a time, of a reference.

What the store keeps, and for how long, is the store's; a file of all of it is for `loader.export`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from lookupd.errors import StoreError
from lookupd.model import CHANGES_NOTHING, TN, JournalEntry, Ported, Receipt
from lookupd.numbering import format_tn
from lookupd.restriction_view import restriction_view, restriction_words, target_words
from lookupd.store import journal
from lookupd.store.chain import stored_entries
from lookupd.store.history import Past, oldest_kept
from lookupd.store.reader import Reader
from lookupd.store.schema import (
    SERIAL_KEY,
    format_digest,
)
from lookupd.units import format_millis, format_time

BLOCKS_PER_LINE: Final = 1000
"""Blocks of old states in one line of an export: up to a million numbers would be 150 MB, usual are a few hundred."""

EXPORT_LINE_BYTES_MAX: Final = 512 * 1024 * 1024
"""What is read of one line: a notice over 100,000 numbers, each with a past of its own, has 30 MB."""

# Entries of one commit share their times, and writing a time costs more than reading an entry.
_time = lru_cache(4096)(format_time)
_millis = lru_cache(4096)(format_millis)

Found = tuple[int, bytes, JournalEntry]
"""Serial, the entry as it is stored, the entry."""


# -- entries in words --------------------------------------------------------------------------------------


def entry_fields(serial: int, stored: bytes, entry: JournalEntry, receipt: Receipt | None) -> dict[str, Any]:
    """All fields of an entry, hashes as hex and times as RFC 3339; received_at to visible_at are the receipt's."""
    return {
        "serial": serial,
        "hash": journal.entry_hash(stored).hex(),
        "previous": entry.previous.hex(),
        "kind": entry.kind.value,
        "applied_at": _time(entry.applied_at),
        "digest": format_digest(entry.digest),
        "added": entry.added,
        "removed": entry.removed,
        "changed": entry.changed,
        "feed": entry.feed,
        "sequence": entry.sequence,
        "line": entry.line,
        "tn": None if entry.tn is None else format_tn(entry.tn),
        "tn_to": None if entry.tn_to is None else format_tn(entry.tn_to),
        "old": [state_fields(run) for run in entry.old],
        "new": None if entry.new is None else state_fields(entry.new),
        "restriction": None if entry.restriction is None else restriction_view(entry.restriction),
        "notified_at": _time(entry.notified_at),
        "effective_at": _time(entry.effective_at),
        "ref": entry.ref,
        "source": entry.source,
        "sha256": entry.sha256,
        "from_empty": entry.from_empty,
        "reason": entry.reason,
        "old_states_hash": entry.old_states_hash.hex(),
        "tables_hash": entry.tables_hash.hex(),
        "received_at": None if receipt is None else _millis(receipt.received_at),
        "confirmed_at": None if receipt is None else _millis(receipt.confirmed_at),
        "visible_at": None if receipt is None else _millis(receipt.visible_at),
    }


def state_fields(run: Ported) -> dict[str, Any]:
    """The state of a run of numbers."""
    return {
        "tn": format_tn(run.tn),
        "tn_to": format_tn(run.tn_to),
        "network_code": run.network_code,
        "routing_number": run.routing_number,
        "donor": run.donor,
        "ported_at": _time(run.ported_at),
        "sequence": run.sequence,
    }


def entry_line(fields: dict[str, Any]) -> str:
    """An entry for people: when, what, from what to what, by whose file, and its clocks."""
    numbers = fields["tn"] or ""
    if fields["tn_to"] != fields["tn"]:
        numbers += f" to {fields['tn_to']}"
    restriction = fields["restriction"]
    if restriction is not None:
        numbers = f"{target_words(restriction)} {restriction_words(restriction)}"
    parts = [f"{fields['serial']}", fields["applied_at"], fields["kind"], numbers, _change_words(fields)]
    parts += [f"{name}={fields[name]}" for name in ("added", "removed", "changed") if fields[name]]
    if fields["feed"] is not None:
        at_line = "" if fields["line"] is None else f":{fields['line']}"
        parts.append(f"by={fields['feed']}/{fields['sequence']}{at_line}")
    shown = ("ref", "source", "notified_at", "effective_at", "received_at", "confirmed_at", "visible_at", "reason")
    parts += [f"{name}={_quoted(fields[name])}" for name in shown if fields[name] is not None]
    return " ".join(part for part in parts if part)


def _change_words(fields: dict[str, Any]) -> str:
    """From what to what, if the entry changed its numbers; of one number, if it was asked for."""
    if fields["kind"] in CHANGES_NOTHING:
        return ""
    if "after" in fields:
        asked = f"{fields['asked']} " if fields["tn"] is None else ""
        return f"{asked}{_route_words(fields['before'])} -> {_route_words(fields['after'])}"
    if fields["tn"] is None:
        return ""
    states = len(fields["old"])
    was = f"{states} different states" if states > 1 else _route_words(fields["old"][0] if states else None)
    return f"{was} -> {_route_words(fields['new'])}"


def _route_words(state: dict[str, Any] | None) -> str:
    if state is None:
        return "not ported"
    if "unknown" in state:
        return "unknown"
    number = f" rn {state['routing_number']}" if state["routing_number"] else ""
    return f"network {state['network_code']}{number}"


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if " " in value or not value else value


# -- questions ---------------------------------------------------------------------------------------------


def entries_since(reader: Reader, first: int, ref: str | None = None) -> Iterator[Found]:
    """Entries from serial `first` on, the oldest first. ref: only those with this reference of the sender."""
    wanted = None if ref is None else ref.encode()
    for serial, stored in stored_entries(reader, first):
        if wanted is not None and wanted not in stored:
            continue  # most entries: found without reading them
        entry = journal.unpack(serial, stored)
        if ref is None or entry.ref == ref:
            yield serial, stored, entry


def newest_entries(reader: Reader, last: int | None = None) -> Iterator[Found]:
    """Entries from serial `last`, or the newest, back to the oldest kept."""
    anchor = reader.anchor()
    for serial in range(reader.state.serial if last is None else last, 0 if anchor is None else anchor.serial, -1):
        yield _found(reader, serial)


def number_entries(reader: Reader, tn: TN) -> Iterator[Found]:
    """Entries that concern a number, newest first; the last may be the snapshot that filled the empty store."""
    found = reader.history(tn, reader.state.serial)
    for serial, _ in found:
        yield _found(reader, serial)
    for key, _ in reader.stored_from("journal_tables", journal.row_key(journal.FROM_EMPTY, 0)):
        name, serial = journal.split_row_key(key)
        if name == journal.FROM_EMPTY:
            with contextlib.suppress(StoreError):  # not known: its block was damaged since
                if Past(reader, serial).ported(tn) is not None:
                    yield _found(reader, serial)
        break


def _found(reader: Reader, serial: int) -> Found:
    stored = reader.stored("journal", SERIAL_KEY.pack(serial))
    if stored is None:
        raise StoreError(f"journal entry {serial} is missing: restore the store from a backup")
    return serial, stored, journal.unpack(serial, stored)


def states_around(reader: Reader, serial: int, tn: TN) -> dict[str, Any]:
    """One number before and after an entry, whatever the entry's kind; None = not ported, `unknown` = why."""
    return {"asked": format_tn(tn), "before": _state_at(reader, serial - 1, tn), "after": _state_at(reader, serial, tn)}


def _state_at(reader: Reader, serial: int, tn: TN) -> dict[str, Any] | None:
    if serial < oldest_kept(reader)[0]:
        return None  # before the first file of a feed
    try:
        ported = Past(reader, serial).ported(tn)
    except StoreError as error:
        return {"unknown": str(error)}
    return None if ported is None else state_fields(ported)


def receipt_of(reader: Reader, serial: int) -> Receipt | None:
    """The clocks of the commit that an entry was part of."""
    for last, receipt in reader.receipts(serial):
        return receipt if receipt.first_serial <= serial <= last else None
    return None
