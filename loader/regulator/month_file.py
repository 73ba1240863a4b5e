"""The monthly exchange file: what came to a network in a month, as a snapshot has it, and a manifest beside it.

    ported-in-2026-10-1402.csv     tn,network_code,routing_number,donor,ported_at
    ported-in-2026-10-1402.json    what it is of, its hash, and what is missing

Without a network it has what came to any of them, and its name no code. The CSV appears when it is whole, then the
JSON.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from loader.durable import sync_folder, write_whole
from loader.regulator.figures import Missing
from loader.regulator.month import PortedIn
from lookupd.errors import LookupdError
from lookupd.ledger import HOUR_SECONDS
from lookupd.model import Ported, UnixSeconds
from lookupd.store.reader import Reader
from lookupd.store.schema import format_digest
from lookupd.units import format_time

HEADER = ("tn", "network_code", "routing_number", "donor", "ported_at")
_ROWS_PER_WRITE = 10_000


class MonthFile(msgspec.Struct, frozen=True):
    """The manifest. network: None = all. ported_in: how often a number came. left_again: numbers that were elsewhere at
    the month's end, which are not in the file. rows: of the CSV. serial, digest: of the store when it was read."""

    report: str
    month: str
    time_zone: str
    first: str
    end: str
    complete: bool
    missing: tuple[Missing, ...]
    network: str | None
    replica: str
    made_at: str
    serial: int
    digest: str
    journal_head: str
    ported_in: int
    left_again: int
    file: str
    rows: int
    bytes: int
    sha256: str


def write_month(
    reader: Reader,
    found: PortedIn,
    states: Iterable[Ported],
    out: Path,
    time_zone: str,
    replica: str,
    now: UnixSeconds,
) -> MonthFile:
    """states: those that are in the file. out: the folder, which is there. Raises LookupdError, StoreError."""
    stem = f"ported-in-{found.month.name}" + ("" if found.network is None else f"-{found.network}")
    try:
        rows, size, sha256 = _write_rows(out / f"{stem}.csv", states)
        manifest = MonthFile(
            report="month",
            month=found.month.name,
            time_zone=time_zone,
            first=format_time(found.month.first * HOUR_SECONDS) or "",
            end=format_time(found.month.end * HOUR_SECONDS) or "",
            complete=not found.missing,
            missing=found.missing,
            network=found.network,
            replica=replica,
            made_at=format_time(now) or "",
            serial=reader.state.serial,
            digest=format_digest(reader.state.digest),
            journal_head=reader.state.journal_head.hex(),
            ported_in=found.ports,
            left_again=len(found.came) - rows,
            file=f"{stem}.csv",
            rows=rows,
            bytes=size,
            sha256=sha256,
        )
        write_whole(out / f"{stem}.json", msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    except OSError as error:
        raise LookupdError(f"{error.filename or out}: {error.strerror}") from None
    return manifest


def _write_rows(path: Path, states: Iterable[Ported]) -> tuple[int, int, str]:
    """Rows, bytes and SHA-256. Readable by its owner, since numbers are personal data."""
    part = path.with_name(path.name + ".part")
    rows, size, digest = 0, 0, hashlib.sha256()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:

            def flush() -> int:
                content = text.getvalue().encode()
                text.seek(0)
                text.truncate()
                digest.update(content)
                return file.write(content)

            for state in states:
                writer.writerow(
                    (state.tn, state.network_code, state.routing_number, state.donor, format_time(state.ported_at))
                )
                rows += 1
                if rows % _ROWS_PER_WRITE == 0:
                    size += flush()
            size += flush()
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return rows, size, digest.hexdigest()
