"""Read the audit of risk checks, and prove its chains. Changes nothing; who writes it is `audit`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from lookupd.audit import FIRST, PATTERN, AuditRecord, line_hash
from lookupd.errors import LookupdError


class Line(NamedTuple):
    """One, where it stands, and its hash."""

    file: str
    number: int
    record: AuditRecord
    hash: str


class Proof(msgspec.Struct, frozen=True):
    """What a check of all files found. cut_off: files whose last line is not whole, as after a crash: it was never
    answered for. broken: where a chain does not hold, in words. newest: the hash of the last line; keep it elsewhere,
    since who can write all files can write another audit from end to end."""

    files: int
    records: int
    newest_file: str | None
    newest: str | None
    cut_off: tuple[str, ...]
    broken: tuple[str, ...]


def read(folder: Path) -> Iterator[Line]:
    """Every whole line, by file and place. Raises LookupdError for one that is no record, naming it."""
    for path in _files(folder):
        for number, line in enumerate(_lines(path)[0], 1):
            yield Line(path.name, number, _record(path, number, line), line_hash(line))


def prove(folder: Path) -> Proof:
    """Hold every line against the one before, and every file against the one that it follows."""
    files = {path.name: _lines(path) for path in _files(folder)}
    hashes = {name: [line_hash(line) for line in lines] for name, (lines, _) in files.items()}
    broken, records = [], 0
    for name, (lines, _) in files.items():
        for number, line in enumerate(lines, 1):
            try:
                record = _record(folder / name, number, line)
            except LookupdError as error:
                broken.append(str(error))
                continue
            records += 1
            if number == 1:
                why = _broken_start(record, hashes, is_oldest=name == next(iter(files)))
            else:
                is_next = record.previous == hashes[name][number - 2] and record.after is None
                why = None if is_next else "does not follow the line before: one was changed or taken out"
            broken += [] if why is None else [f"{name}:{number}: {why}"]
    newest = next((name for name in reversed(hashes) if hashes[name]), None)
    return Proof(
        len(files),
        records,
        newest,
        None if newest is None else hashes[newest][-1],
        tuple(name for name, (_, is_whole) in files.items() if not is_whole),
        tuple(broken),
    )


def _broken_start(record: AuditRecord, hashes: dict[str, list[str]], *, is_oldest: bool) -> str | None:
    """Why a file's first line cannot be where it is. What the oldest file follows may have been removed, being old."""
    if record.after is None:
        return None if record.previous == FIRST else "follows a line, and names no file"
    if record.after not in hashes:
        return None if is_oldest else f"the file that it follows is gone: {record.after}"
    if record.previous not in hashes[record.after]:
        return f"the line that it follows is not in {record.after}: it was changed or taken out"
    return None


def _files(folder: Path) -> list[Path]:
    """The oldest first. Raises LookupdError."""
    if not folder.is_dir():
        raise LookupdError(f"audit.path: {folder}: is no folder: no risk check was asked here yet, or elsewhere")
    return sorted(folder.glob(PATTERN))


def _lines(path: Path) -> tuple[list[bytes], bool]:
    """The whole ones, and whether there is nothing behind them. Raises LookupdError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LookupdError(f"{path}: {error.strerror}") from None
    *lines, rest = content.split(b"\n")
    return lines, not rest


def _record(path: Path, number: int, line: bytes) -> AuditRecord:
    try:
        return msgspec.json.decode(line, type=AuditRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LookupdError(f"{path.name}:{number}: is no record: {error}") from None
