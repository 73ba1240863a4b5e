"""How much of the data was right, by reconciliations of the half-year: what `reconcile --json` printed, kept in files.

Each is held against the journal: the store had that digest at that serial, or the file is of another store.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from pathlib import Path

import msgspec

from loader.regulator.evidence import read_bounded
from loader.regulator.figures import Accuracy, Missing, not_told
from loader.regulator.words import t_later
from lookupd.errors import ConfigError
from lookupd.limits import RECONCILIATION_FILE_BYTES_MAX
from lookupd.periods import Period
from lookupd.store import journal
from lookupd.store.reader import Reader
from lookupd.store.schema import SERIAL_KEY, format_digest
from lookupd.units import format_time


class _Result(msgspec.Struct):
    """What is read of `loader.reconcile.Reconciled`."""

    file: str
    serial: int
    digest: str
    in_file: int
    missing: int
    extra: int
    route: int
    details: int


def accuracy(
    reader: Reader, files: Sequence[Path], period: Period, zone: tzinfo
) -> tuple[list[Accuracy], list[Missing]]:
    """By time. Raises ConfigError for a file that is none, or of another store; StoreError."""
    if not files:
        return [], [not_told("accuracy", t_later("no reconciliation's result was named: --reconciliation FILE"))]
    told, missing = [], []
    for file in files:
        found = _read(file)
        anchor = reader.anchor()
        if anchor is not None and found.serial < anchor.serial:
            why = t_later("{file}: of serial {serial}, which is before the kept history: it cannot be proven")
            missing.append(not_told("accuracy", why, file=file.name, serial=found.serial))
            continue
        at = _moment(reader, file, found)
        if not period.first * 3600 <= at < period.end * 3600:
            why = t_later("{file}: of serial {serial} of {at}, which is not in the period")
            missing.append(not_told("accuracy", why, file=file.name, serial=found.serial, at=format_time(at)))
            continue
        compared = found.in_file + found.extra
        differs = found.missing + found.extra + found.route + found.details
        share = 1 - differs / compared if compared else None
        month = datetime.fromtimestamp(at, UTC).astimezone(zone).strftime("%Y-%m")
        when = format_time(at) or ""
        told.append(Accuracy(month, when, found.file, compared, differs, share, found.serial, found.digest))
    return sorted(told, key=lambda each: (each.at, each.file)), missing


def _read(file: Path) -> _Result:
    content = read_bounded("--reconciliation", file, RECONCILIATION_FILE_BYTES_MAX)
    try:
        found = msgspec.json.decode(content, type=_Result)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"--reconciliation {file}: {error}: write what `reconcile --json` prints") from None
    if min(found.in_file, found.missing, found.extra, found.route, found.details, found.serial - 1) < 0:
        raise ConfigError(f"--reconciliation {file}: a count below 0: write what `reconcile --json` prints")
    if found.missing + found.route + found.details > found.in_file:
        raise ConfigError(
            f"--reconciliation {file}: more differences than numbers: write what `reconcile --json` prints"
        )
    return found


def _moment(reader: Reader, file: Path, found: _Result) -> int:
    """When the store was in the state that was compared. Raises ConfigError if it never was."""
    anchor = reader.anchor()
    if anchor is not None and found.serial == anchor.serial:
        return anchor.applied_at  # its digest went with the entry; the moment is vouched for by the chain
    stored = reader.stored("journal", SERIAL_KEY.pack(found.serial)) if found.serial <= reader.state.serial else None
    head = None if stored is None else journal.unpack_head(found.serial, stored)
    if head is None or format_digest(head.digest) != found.digest:
        raise ConfigError(
            f"--reconciliation {file}: the journal has no serial {found.serial} with digest {found.digest}: "
            "it is the result of another store"
        )
    return head.applied_at
