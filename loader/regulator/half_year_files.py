"""The half-yearly report as files: all of it as JSON, each of its tables as CSV, and the trace.

    half-year-2026H1.json           the whole report
    half-year-2026H1-TABLE.csv      networks, notices, times, corrections, availability, accuracy
    half-year-2026H1-trace.csv      a row for every journal entry that is counted

A file appears when it is whole.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import msgspec

from loader.durable import write_whole
from loader.regulator.figures import (
    Accuracy,
    AvailabilityMonth,
    Corrected,
    HalfYear,
    KindTimes,
    NetworkMonth,
    NoticeMonth,
    Times,
)
from lookupd.errors import LookupdError

_TIMES = ("notice_to_visible", "requested_to_effective", "whole")


def stem(period: str, network: str | None) -> str:
    """What the names of a report's files begin with."""
    return f"half-year-{period}" + ("" if network is None else f"-{network}")


def make_folder(out: Path) -> None:
    """For the files. Raises LookupdError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LookupdError(f"--out {out}: {error.strerror}") from None


@contextlib.contextmanager
def trace_file(out: Path, name: str) -> Iterator[TextIO]:
    """Appears under its name when the block ends without an error. Raises LookupdError."""
    part = out / f"{name}.part"
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield file
        part.rename(out / name)
    except OSError as error:
        raise LookupdError(f"{error.filename or part}: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_files(found: HalfYear, out: Path) -> list[Path]:
    """All but the trace. Returns what was written. Raises LookupdError."""
    name = stem(found.period, found.network)
    contents = {f"{name}-{table}.csv": text for table, text in tables(found)}
    contents[f"{name}.json"] = msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n"
    written = []
    for file, text in contents.items():
        try:
            write_whole(out / file, text.encode())
        except OSError as error:
            raise LookupdError(f"{out / file}: {error.strerror}") from None
        written.append(out / file)
    return written


def tables(found: HalfYear) -> Iterator[tuple[str, str]]:
    """Name and CSV of each."""
    yield "networks", _csv(NetworkMonth.__struct_fields__, map(msgspec.structs.astuple, found.networks))
    yield "notices", _csv(NoticeMonth.__struct_fields__, map(msgspec.structs.astuple, found.notices))
    yield (
        "times",
        _csv(("kind", "what", "limit_seconds", *_FIGURES, "up_to_seconds", "notices"), _time_rows(found.times)),
    )
    yield "corrections", _csv(Corrected.__struct_fields__, map(msgspec.structs.astuple, found.corrected))
    yield "availability", _csv(AvailabilityMonth.__struct_fields__, map(msgspec.structs.astuple, found.availability))
    yield "accuracy", _csv(Accuracy.__struct_fields__, map(msgspec.structs.astuple, found.accuracy))


_FIGURES = ("count", "mean", "p50", "p95", "p99", "max")
_TIMES_HEAD = ("kind", "what", "limit_seconds", *_FIGURES, "up_to_seconds", "notices")


def _time_rows(found: Iterable[KindTimes]) -> Iterator[Sequence[object]]:
    """A row with the figures of each kind and time, then one for each bucket that is not empty."""
    for kind in found:
        for what in _TIMES:
            times: Times = getattr(kind, what)
            yield kind.kind, what, kind.limit_seconds, *(getattr(times, name) for name in _FIGURES), None, None
            for bound, count in times.buckets:
                if count:
                    up_to = "more" if bound is None else bound
                    yield kind.kind, what, None, *(None for _ in _FIGURES), up_to, count


def _csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """As spreadsheets read it; what is not known is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(head)
    writer.writerows([_plain(value) for value in row] for row in rows)
    return out.getvalue()


def _plain(value: object) -> object:
    """A name that a spreadsheet would take for a formula is told as text."""
    if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        return "'" + value
    return value
