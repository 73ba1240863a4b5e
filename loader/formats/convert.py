"""What the foreign formats share: lines out of a text or a zip within bounds, rows by pattern, files of our form out.

What the rows mean is for each format's own module; whether networks are known is for `validate`.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from loader.files import FeedFile
from loader.formats import Step
from loader.formats.lookupd import SNAPSHOT_COLUMNS
from loader.tables import NETWORK_COLUMNS, OPERATOR_CHARS_MAX, RANGE_COLUMNS
from loader.trust import PublicKey
from lookupd.errors import FeedError, Rejected, SourceError
from lookupd.limits import TABLE_BYTES_MAX
from lookupd.model import UnixSeconds
from lookupd.units import parse_time

# 8 GiB: the largest sets known, 8 million rows, are half of one (protocol sheet, section 8); more is a bomb.
TEXT_BYTES_MAX = 8 * 1024**3

# The longest rows of the formats known are under 300 bytes; NPAC's later releases append optional data to them.
LINE_CHARS_MAX = 4096

# 1 MiB, about 15,000 rows: their fields, as Python's strings, stay under 10 MB. 8 MiB was no faster.
CHUNK_BYTES = 1 << 20

CONVERTED = "converted"
"""The folder of the spool that our forms of foreign files go to."""

NUMBERS_PER_LOT = 100_000
"""Rows written at a time where they come from columns: a few MB of text."""

BYTE_ORDER_MARK = "\xef\xbb\xbf"  # as text is read here, one character a byte

Row = tuple[str, ...]
Lots = Iterable[list[str]]
"""Lines of a file of ours, each with its line end, some thousands at a time."""

_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError)
"""What the zip module and its decompressor raise on damaged archives."""


# -- reading ---------------------------------------------------------------------------------------------


def read_lines(path: Path, bytes_max: int | None = None) -> Iterator[str]:
    """The text in chunks of whole lines, one character a byte; CRLF and CR made LF, the last line's too.

    path: a text, or a zip whose only member is the text of the same name with `.csv`. bytes_max: of the
    text, TEXT_BYTES_MAX unless told.
    Raises FeedError: missing, damaged, over the bound, a line without its end (so the file was cut short).
    """
    newlines = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("latin-1")(), translate=True)
    bytes_max = TEXT_BYTES_MAX if bytes_max is None else bytes_max
    rest = ""
    seen = 0
    with _opened(path, bytes_max) as stream:
        while piece := stream.read(CHUNK_BYTES):
            seen += len(piece)
            if seen > bytes_max:
                raise FeedError(f"{path.name}: grows beyond {bytes_max} bytes; the store is unchanged")
            text = rest + newlines.decode(piece)
            cut = text.rfind("\n") + 1
            rest = text[cut:]
            if len(rest) > LINE_CHARS_MAX:
                raise FeedError(f"{path.name}: a line has over {LINE_CHARS_MAX} bytes; the store is unchanged")
            if cut:
                yield text[:cut]
    rest += newlines.decode(b"", final=True)
    if rest and not rest.endswith("\n"):
        raise FeedError(f"{path.name}: the last line has no end: cut short; fetch it again; the store is unchanged")
    if rest:
        yield rest


@contextmanager
def _opened(path: Path, bytes_max: int) -> Iterator[BinaryIO]:
    """Errors of the reader behind it become FeedErrors too, since damage shows while reading."""
    if path.suffix != ".zip":
        try:
            with path.open("rb") as stream:
                yield stream
        except OSError as error:
            raise FeedError(f"{path}: {error.strerror}; the store is unchanged") from None
        return
    try:
        with zipfile.ZipFile(path) as archive, archive.open(_member(path, archive, bytes_max)) as member:
            yield member  # type: ignore[misc]
    except _ZIP_ERRORS as error:
        reason = getattr(error, "strerror", None) or str(error)[:200]
        raise FeedError(
            f"{path.name}: not a whole zip: {reason}: fetch it again, or ask for the next full file; "
            "the store is unchanged"
        ) from None


def _member(path: Path, archive: zipfile.ZipFile, bytes_max: int) -> zipfile.ZipInfo:
    """Its declared size bounds what the zip module reads of it, and its checksum is verified at the end."""
    members = archive.infolist()
    wanted = path.stem + ".csv"
    if [member.filename for member in members] != [wanted]:
        raise FeedError(f"{path.name}: must hold {wanted} and nothing else; the store is unchanged")
    (member,) = members
    if member.flag_bits & 0x1:
        raise FeedError(f"{path.name}: encrypted; the store is unchanged")
    if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise FeedError(f"{path.name}: compression method {member.compress_type}; the store is unchanged")
    if member.file_size > bytes_max:
        raise FeedError(f"{path.name}: grows beyond {bytes_max} bytes; the store is unchanged")
    return member


# -- rows ------------------------------------------------------------------------------------------------


class Field(msgspec.Struct, frozen=True):
    """A column. pattern: of its text; what a row is made of stands in groups. says: what it must be."""

    name: str
    pattern: str
    says: str


class Check(msgspec.Struct, frozen=True):
    """What no pattern can say: reason(value) tells what is wrong with the groups `at` of a row, or None.

    The value is one group's text, or several groups' as a tuple. Each distinct one of a chunk is checked
    once, so it should repeat, as a day does.
    """

    at: tuple[int, ...]
    reason: Callable[[Any], str | None]

    def first_reason(self, rows: Iterable[Row]) -> str | None:
        """Of any of the rows."""
        for value in set(map(itemgetter(*self.at), rows)):
            reason = self.reason(value)
            if reason is not None:
                return reason
        return None


class Form:
    """A file's rows: one pattern for many lines at a time, and the same, field by field, to say what is wrong.

    open_ended: further fields may follow and are passed over.
    """

    def __init__(
        self, separator: str, fields: tuple[Field, ...], checks: tuple[Check, ...] = (), *, open_ended: bool = False
    ) -> None:
        self.fields = fields
        self._separator = separator
        self._checks = checks
        self._open_ended = open_ended
        cut = re.escape(separator)
        tail = rf"(?:{cut}[^\n]*)?" if open_ended else ""
        self._pattern = re.compile("^" + cut.join(field.pattern for field in fields) + tail + "$", re.MULTILINE)
        self._patterns = [re.compile(field.pattern) for field in fields]

    def rows(self, name: str, chunks: Iterable[str], line: int) -> Iterator[list[Row]]:
        """Each row's groups, a chunk at a time. name: of the file; line: of the first row.

        Raises Rejected with the bad lines of the first chunk that has any.
        """
        for chunk in chunks:
            rows: list[Row] = self._pattern.findall(chunk)
            # No pattern matches a line end, so as many matches as lines means that every line is one.
            if len(rows) != chunk.count("\n") or any(check.first_reason(rows) for check in self._checks):
                raise Rejected(name, self._rejections(chunk, line))
            yield rows
            line += len(rows)

    def _rejections(self, chunk: str, line: int) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        for number, text in enumerate(chunk.removesuffix("\n").split("\n"), line):
            reason = self._reason(text)
            if reason is not None:
                found.append((number, reason))
            if len(found) >= Rejected.TOLD_MAX:
                break
        assert found, chunk[:200]
        return found

    def _reason(self, line: str) -> str | None:
        if line.startswith(BYTE_ORDER_MARK):
            return "a byte-order mark: this format has none"
        texts = line.split(self._separator)
        if len(texts) < len(self.fields) or (len(texts) > len(self.fields) and not self._open_ended):
            return f"{len(texts)} fields instead of {len(self.fields)}"
        row: list[str] = []
        for field, pattern, text in zip(self.fields, self._patterns, texts, strict=False):
            match = pattern.fullmatch(text)
            if match is None:
                return f"{field.name} {text[:40]!r}: {field.says}"
            row.extend(match.groups(""))
        reasons = (check.first_reason([tuple(row)]) for check in self._checks)
        return next((reason for reason in reasons if reason is not None), None)


FIRST_DAY, LAST_DAY = "1970-01-02", "2106-02-06"
CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"


@lru_cache(maxsize=65_536)
def check_day(day: str) -> str | None:
    """What is wrong with `2025-03-01`, or None. A day at an end of our time may be out of it in another zone."""
    try:
        parse_time(f"{day}T00:00:00Z")
        is_ours = FIRST_DAY <= day <= LAST_DAY
    except ValueError:
        is_ours = False
    return None if is_ours else f"{day!r}: no day between {FIRST_DAY} and {LAST_DAY}"


# -- writing ---------------------------------------------------------------------------------------------


def refuse_keys(step: Step, keys: tuple[PublicKey, ...]) -> None:
    """Raises FeedError: a key that nothing is checked with would only look like safety."""
    if keys:
        raise FeedError(
            f"{step.name}: files of this format are not signed: take public_key out of feed.{step.feed}, "
            "and trust the source instead; the store is unchanged"
        )


def write_snapshot(step: Step, spool: Path, created_at: UnixSeconds, lots: Lots) -> FeedFile:
    """A snapshot of our form. lots: its rows. Raises FeedError when there are none, and what `lots` raises."""
    return _write(step, spool, "csv", created_at, lots, [",".join(SNAPSHOT_COLUMNS) + "\n"])


def write_delta(step: Step, spool: Path, created_at: UnixSeconds, lots: Lots) -> FeedFile:
    """A delta of our form, which may have no notice. Raises what `lots` raises."""
    return _write(step, spool, "ndjson", created_at, lots, [])


def _write(step: Step, spool: Path, ending: str, created_at: UnixSeconds, lots: Lots, header: list[str]) -> FeedFile:
    assert step.type in {"snapshot", "delta"}, step.type
    path = spool / CONVERTED / f"{step.type}-{step.feed}-{step.sequence}.{ending}"
    digest = hashlib.sha256()
    rows = -len(header)
    length = 0
    with _replacing(path) as out:
        for lot in chain([header], lots):
            data = "".join(lot).encode("ascii")
            out.write(data)
            digest.update(data)
            rows += len(lot)
            length += len(data)
        if header and not rows:
            raise FeedError(f"{step.name}: no rows: a full file is never empty; the store is unchanged")
    return FeedFile(
        path=path,
        type="snapshot" if step.type == "snapshot" else "delta",
        feed=step.feed,
        sequence=step.sequence,
        created_at=created_at,
        rows=rows,
        bytes=length,
        sha256=digest.hexdigest(),
        after=step.after,
        source=step.name,
    )


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears whole, by rename, or not at all. Not synced: it can be made again, and its hash is checked.

    Raises SourceError when the spool cannot be written, as fetching into it does: the sender is not at fault.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as out:
            yield out
        part.replace(path)
    except OSError as error:
        raise SourceError(f"spool: {path}: {error.strerror}: the converted file has no room there") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_table(step: Step, spool: Path, rows: list[Row]) -> Path:
    """A networks or ranges step as our table. Raises FeedError when there are no rows, or too many to load."""
    if not rows:
        raise FeedError(f"{step.name}: no rows: the table would be empty; the store is unchanged")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(NETWORK_COLUMNS if step.type == "networks" else RANGE_COLUMNS)
    writer.writerows(rows)
    data = text.getvalue().encode()
    if len(data) > TABLE_BYTES_MAX:
        raise FeedError(f"{step.name}: as our table it has over {TABLE_BYTES_MAX} bytes; the store is unchanged")
    path = spool / CONVERTED / f"{step.type}-{step.feed}-{step.sequence}.csv"
    with _replacing(path) as out:
        out.write(data)
    return path


def operator_name(text: str) -> str:
    """A company's name within what the networks table takes: UTF-8, one line, cut at its bound.

    text: one character a byte. Raises ValueError with the reason.
    """
    try:
        name = " ".join(text.encode("latin-1").decode("utf-8").split())
    except UnicodeDecodeError as error:
        raise ValueError(f"name {text[:40]!a}: not UTF-8 at byte {error.start}") from None
    name = name[:OPERATOR_CHARS_MAX].strip()
    if not (name and name.isprintable()):
        raise ValueError(f"name {name[:40]!a}: must be printable and not empty")
    return name
