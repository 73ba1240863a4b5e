"""Differences as people get them: a CSV file with each of them, and the first few on the terminal.

What differs is found by `reconcile`; here it is only written down.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from lookupd.errors import LookupdError
from lookupd.limits import DIFFERENCES_SHOWN
from lookupd.model import TN
from lookupd.numbering import format_tn, mask_tn
from lookupd.store.columns import Columns
from lookupd.store.compare import KINDS, Differences
from lookupd.store.schema import RouteRecord
from lookupd.units import format_time

_SIDE = ("network_code", "routing_number", "donor", "ported_at")
HEADER = ("tn", "kind", *(f"store_{name}" for name in _SIDE), *(f"file_{name}" for name in _SIDE))


class Side(msgspec.Struct, frozen=True, array_like=True):
    """One side's state of a number as text; all None = it does not have the number as ported."""

    network_code: str | None = None
    routing_number: str | None = None
    donor: str | None = None
    ported_at: str | None = None

    def __str__(self) -> str:
        if self.network_code is None:
            return "not ported"
        told = [self.network_code]
        for name in _SIDE[1:]:
            value = getattr(self, name)
            if value is not None:
                told.append(f"{name}={value}")
        return " ".join(told)


class Difference(msgspec.Struct, frozen=True):
    """One number's."""

    tn: TN
    kind: str
    old: Side
    new: Side


class Rows(Protocol):
    """A csv writer."""

    def writerow(self, row: Sequence[Any]) -> Any:
        """One more row."""
        ...


class Told:
    """Takes differences as they are found: keeps the first few, writes each to the report if there is one."""

    def __init__(self, records: Sequence[RouteRecord | None], report: Rows | None) -> None:
        self.first: list[Difference] = []
        self._records = records
        self._report = report

    def add(self, found: Differences) -> None:
        """The next ones, in the numbers' order."""
        for difference in _texts(found, self._records):
            if len(self.first) < DIFFERENCES_SHOWN:
                self.first.append(difference)
            elif self._report is None:
                return
            if self._report is not None:
                sides = (*msgspec.structs.astuple(difference.old), *msgspec.structs.astuple(difference.new))
                self._report.writerow((difference.tn, difference.kind, *sides))


def _texts(found: Differences, records: Sequence[RouteRecord | None]) -> Iterator[Difference]:
    old, new = _sides(found.old, records), _sides(found.new, records)
    for tn, kind, before, after in zip(found.tn.tolist(), found.kind.tolist(), old, new, strict=True):
        yield Difference(TN(tn), KINDS[kind], before, after)


def _sides(columns: Columns, records: Sequence[RouteRecord | None]) -> Iterator[Side]:
    rows = zip(columns.route.tolist(), columns.donor.tolist(), columns.ported_at.tolist(), strict=True)
    for route_id, donor_id, ported_at in rows:
        record, donor = records[route_id], records[donor_id]
        if record is None:
            yield Side()
            continue
        number = None if record.own else record.routing_number
        yield Side(record.network_code, number, donor and donor.network_code, format_time(ported_at or None))


@contextmanager
def report_file(path: Path | None, header: Sequence[str] = HEADER) -> Iterator[Rows | None]:
    """A CSV file that appears under its name when it is complete; readable by its owner, since numbers are
    personal data. Raises LookupdError when it cannot be written."""
    if path is None:
        yield None
        return
    part = path.with_name(path.name + ".part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(header)
            yield rows
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError as error:
        raise LookupdError(f"--report {path}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


def shown(tn: TN, show_numbers: bool) -> str:
    """A number on a terminal, where it may end up in a ticket: masked unless asked for."""
    return format_tn(tn) if show_numbers else mask_tn(tn)
