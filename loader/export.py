"""The journal as one file for auditors, and its proof from that file alone; docs/history.md describes the format.

What an entry says in words is `history`'s; what the store keeps, and for how long, is the store's.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import zstandard

from loader.files import ZstdReader
from lookupd.errors import FeedError, LookupdError, Stale, StoreError
from lookupd.journal_view import entries_since, entry_fields, state_fields
from lookupd.model import TN, JournalEntry, UnixSeconds
from lookupd.numbering import format_tn
from lookupd.store import journal
from lookupd.store.history import first_since, legend_of
from lookupd.store.reader import Reader
from lookupd.store.schema import JOURNAL_BLOCK_KEY, NUMBERS_PER_BLOCK, UNKNOWN_ROUTE

BLOCKS_PER_LINE: Final = 1000
"""Blocks of old states in one line: a million numbers at most would be 150 MB; usual are a few hundred."""

_encode = msgspec.json.Encoder().encode

EXPORT_LINE_BYTES_MAX: Final = 512 * 1024 * 1024
"""What is read of one line: a notice over 100,000 numbers, each with a past of its own, has 30 MB."""


class Exported(msgspec.Struct, frozen=True):
    """What an export has in it, or was proven to have. hash: of the last entry, hex."""

    entries: int
    first_serial: int
    last_serial: int
    hash: str


def export(
    reader: Reader, out: Path, since: UnixSeconds | None = None, advance: Callable[[int], None] = lambda count: None
) -> Exported:
    """Write the pinned state's journal as NDJSON, compressed when the name ends in .zst.

    Written beside it as .part, synced, then renamed: a file of that name is whole. Raises LookupdError when
    it cannot be written, StoreError when the journal cannot be read.
    """
    first = 0 if since is None else first_since(reader, since)
    part = out.with_name(out.name + ".part")
    try:
        try:
            with part.open("wb") as file:
                exported = _write(reader, file, out.suffix == ".zst", first, advance)
                file.flush()
                os.fsync(file.fileno())
            part.rename(out)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        folder = os.open(out.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise LookupdError(f"{out}: {error.strerror}: nothing was exported") from None
    return exported


def _write(reader: Reader, file: BinaryIO, compress: bool, first: int, advance: Callable[[int], None]) -> Exported:
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    with contextlib.ExitStack() as stack:
        sink: Any = stack.enter_context(compressor.stream_writer(file, closefd=False)) if compress else file
        entries, serials, digest = 0, (0, 0), ""
        blocks, rows = _blocks_of_snapshots(reader, first), _rows_of_tables(reader, first)
        for line in _lines(reader, first, blocks, rows):
            sink.write(_encode(line) + b"\n")
            if "stored" in line:
                entries, digest = entries + 1, line["hash"]
                serials = serials[0] or line["serial"], line["serial"]
                if entries % 1000 == 0:
                    advance(1000)
    return Exported(entries, *serials, digest)


def _lines(
    reader: Reader, first: int, blocks: dict[int, array[int]], rows: dict[int, list[tuple[bytes, bytes]]]
) -> Iterator[dict[str, Any]]:
    """An entry's line, and the lines after it that go on with its old states."""
    receipts = reader.receipts(first)
    last, receipt = next(receipts, (0, None))
    for serial, stored, entry in entries_since(reader, first):
        while receipt is not None and last < serial:
            last, receipt = next(receipts, (0, None))
        own = receipt if receipt is not None and receipt.first_serial <= serial else None
        line = entry_fields(serial, stored, entry, own) | {"stored": _base64(stored)}
        if serial in rows:
            line["tables"] = [{"key": key.hex(), "stored": _base64(value)} for key, value in rows[serial]]
        of_snapshot = blocks.get(serial, array("Q"))
        if of_snapshot:
            line["old_states"] = _old_states(reader, serial, of_snapshot[:BLOCKS_PER_LINE])
        yield line
        for at in range(BLOCKS_PER_LINE, len(of_snapshot), BLOCKS_PER_LINE):
            more = _old_states(reader, serial, of_snapshot[at : at + BLOCKS_PER_LINE])
            yield {name: line[name] for name in ("serial", "hash", "previous")} | {"old_states": more}


def _blocks_of_snapshots(reader: Reader, first: int) -> dict[int, array[int]]:
    """By serial, the blocks with old states: eight bytes each, since they lie by block and are wanted by serial."""
    found: dict[int, array[int]] = {}
    for key, value in reader.stored_from("journal_blocks"):
        block, serial = JOURNAL_BLOCK_KEY.unpack(key)
        if value and serial >= first:
            found.setdefault(serial, array("Q")).append(block)
    return found


def _rows_of_tables(reader: Reader, first: int) -> dict[int, list[tuple[bytes, bytes]]]:
    found: dict[int, list[tuple[bytes, bytes]]] = {}
    for key, value in reader.stored_from("journal_tables"):
        serial = journal.split_row_key(key)[1]
        if serial >= first:
            found.setdefault(serial, []).append((key, value))
    return found


def _old_states(reader: Reader, serial: int, blocks: array[int]) -> list[dict[str, Any]]:
    states = []
    names = legend_of(reader, serial)
    for block in blocks:
        stored = reader.stored("journal_blocks", JOURNAL_BLOCK_KEY.pack(block, serial)) or b""
        states.append({"block": block, "stored": _base64(stored), "numbers": _numbers_before(block, stored, names)})
    return states


def _numbers_before(block: int, stored: bytes, names: journal.Legend) -> list[dict[str, Any]]:
    """As `old` of a notice; network_code null = was not ported; `unknown` = the whole block was damaged."""
    found: list[dict[str, Any]] = []
    for record in journal.previous_records(stored):
        tn = TN(block * NUMBERS_PER_BLOCK + record[0])
        if record[1] == UNKNOWN_ROUTE:
            found.append({"tn": format_tn(tn), "unknown": True})
            continue
        before = journal.ported_before(tn, record, names)
        found.append({"tn": format_tn(tn), "network_code": None} if before is None else state_fields(before))
    return found


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


# -- proof of an export ------------------------------------------------------------------------------------


def verify_export(path: Path, advance: Callable[[int], None] = lambda count: None) -> Exported:
    """Prove an export from itself alone: hashes, chain, old states, table rows, and that the words fit the bytes.

    Raises Stale with the first thing that is wrong, FeedError when it is no export or was cut short.
    """
    proof = _Proof(path)
    for at, line in enumerate(_read_lines(path), 1):
        try:
            proof.take(at, msgspec.json.decode(line))
        except StoreError as error:
            raise Stale(f"{path}:{at}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FeedError(f"{path}:{at}: no line of an export: {error!r}") from None
        if at % 1000 == 0:
            advance(1000)
    return proof.finish()


class _Proof:
    """Follows an export line by line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entry: JournalEntry | None = None
        self._serial = self._first = self._entries = 0
        self._hash = ""
        self._states = journal.Fold()
        self._names: journal.Legend = {}

    def take(self, at: int, line: dict[str, Any]) -> None:
        """The next line. Raises Stale."""
        if "stored" in line:
            self._finish_entry(at)
            self._begin_entry(at, line)
        elif (line["serial"], line["hash"]) != (self._serial, self._hash):
            raise self._wrong(at, f"goes on with entry {line['serial']}, which is not the one before")
        for state in line.get("old_states", ()):
            self._states.add(JOURNAL_BLOCK_KEY.pack(state["block"], self._serial), _bytes(state["stored"]))
            if _numbers_before(state["block"], _bytes(state["stored"]), self._names) != state["numbers"]:
                raise self._wrong(at, f"entry {self._serial}: block {state['block']} does not fit what is stored")

    def _begin_entry(self, at: int, line: dict[str, Any]) -> None:
        stored = _bytes(line["stored"])
        serial = int(line["serial"])
        try:
            entry = journal.unpack(serial, stored)
        except StoreError as error:
            raise self._wrong(at, str(error)) from None
        if self._entry is not None and (serial, line["previous"]) != (self._serial + 1, self._hash):
            raise self._wrong(at, f"entry {serial} does not follow entry {self._serial}: the chain is broken")
        clocks = {name: line.get(name) for name in ("received_at", "confirmed_at", "visible_at")}
        for name, value in (entry_fields(serial, stored, entry, None) | clocks).items():
            absent = None if name == "restriction" else "missing"  # exports of before had none
            if line.get(name, absent) != value:
                raise self._wrong(at, f"entry {serial}: {name} does not fit what is stored")
        rows = journal.Fold()
        self._names = {}
        for row in line.get("tables", ()):
            key, value = bytes.fromhex(row["key"]), _bytes(row["stored"])
            rows.add(key, value)
            if key == journal.row_key(journal.LEGEND, serial):
                self._names = journal.decode_legend(value)
        if rows.digest() != entry.tables_hash:
            raise self._wrong(at, f"entry {serial}: its table rows were changed or are missing")
        self._entry, self._serial, self._hash = entry, serial, line["hash"]
        self._first = self._first or serial
        self._entries += 1
        self._states = journal.Fold()

    def _finish_entry(self, at: int) -> None:
        if self._entry is not None and self._states.digest() != self._entry.old_states_hash:
            raise self._wrong(at, f"entry {self._serial}: its old states were changed or are missing")

    def finish(self) -> Exported:
        """After the last line. Raises Stale, or FeedError if there was none."""
        if self._entry is None:
            raise FeedError(f"{self._path}: no entries")
        self._finish_entry(self._entries)
        return Exported(self._entries, self._first, self._serial, self._hash)

    def _wrong(self, at: int, reason: str) -> Stale:
        return Stale(f"{self._path}:{at}: {reason}")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _read_lines(path: Path) -> Iterable[bytes]:
    try:
        with path.open("rb") as file:
            source: Any = file
            if path.suffix == ".zst":
                source = io.BufferedReader(ZstdReader(file), 1 << 20)
            while line := source.readline(EXPORT_LINE_BYTES_MAX):
                if not line.endswith(b"\n"):
                    raise FeedError(f"{path}: was cut short, or a line is longer than {EXPORT_LINE_BYTES_MAX} bytes")
                yield line
    except OSError as error:
        raise FeedError(f"{path}: {error.strerror or error}") from None
    except (EOFError, zstandard.ZstdError) as error:
        raise FeedError(f"{path}: cut short or damaged: {error}") from None
