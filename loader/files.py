"""A feed's data file: which one it claims to be, whether its bytes are those the manifest names, its lines.

Nothing of a data file is parsed before its manifest was checked and its hash matched. What the rows mean
is for `formats` and `validate`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec
import zstandard

from loader.trust import PublicKey, check_signature
from lookupd import native_bulk
from lookupd.errors import FeedError
from lookupd.limits import DECOMPRESSED_BYTES_MAX, MANIFEST_BYTES_MAX, PARSE_CHUNK_BYTES
from lookupd.model import UnixSeconds
from lookupd.units import parse_time

_FILE_NAME = re.compile(
    r"(?P<type>snapshot|delta)-(?P<feed>[a-z0-9][a-z0-9_-]{0,31})-(?P<sequence>[0-9]{1,18})"
    r"\.(?P<ending>csv|ndjson)(?P<compression>\.gz|\.zst)?"
)
_ENDINGS = {"snapshot": "csv", "delta": "ndjson"}

ZSTD_INPUT_BYTES = 4096
"""Compressed bytes taken at a time: 4 of them can stand for 128 KiB, so this bounds a step's output at 128 MiB."""

Advance = Callable[[int], None]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands beside a data file, as JSON."""

    feed: str
    type: Literal["snapshot", "delta"]
    sequence: int
    created_at: str
    rows: int
    bytes: int
    sha256: str


class FeedFile(msgspec.Struct, frozen=True):
    """A data file and what is claimed of it. rows and sha256 are None when there is no manifest.

    after: the earliest position that a delta may follow; None = sequence - 1, as our own feeds count.
    source: the foreign file it was converted from; None = it is as it came.
    """

    path: Path
    type: Literal["snapshot", "delta"]
    feed: str
    sequence: int
    created_at: UnixSeconds | None
    rows: int | None
    bytes: int
    sha256: str | None
    after: int | None = None
    source: str | None = None

    @property
    def name(self) -> str:
        """For messages and the journal."""
        return self.source or self.path.name

    @property
    def follows(self) -> int:
        """The earliest position that this delta may follow."""
        return self.sequence - 1 if self.after is None else self.after


def identify(
    path: Path,
    kind: Literal["snapshot", "delta"],
    feed: str,
    sequence: int | None = None,
    keys: tuple[PublicKey, ...] = (),
) -> FeedFile:
    """Read the manifest of a data file and check it against the name, the feed and the file's length.

    sequence: given by an operator who loads a file without a manifest; with a manifest it must agree.
    keys: of the feed's sender; if there are any, one of them must have signed the manifest.
    Raises FeedError. Reads nothing of the data, and nothing of a manifest whose signature does not fit.
    """
    try:
        if not path.is_file():
            raise FeedError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        length = path.stat().st_size
    except OSError as error:
        raise FeedError(f"{path}: {error.strerror}") from None
    manifest = _read_manifest(path.with_name(path.name + ".json"), keys)
    if manifest is None:
        if keys:
            raise FeedError(f"{path.name}: no manifest {path.name}.json beside it: this feed's files must be signed")
        if sequence is None:
            raise FeedError(
                f"{path.name}: no manifest {path.name}.json beside it: wait for it, or name --sequence "
                "to load the file without one"
            )
        return FeedFile(path, kind, feed, sequence, None, None, length, None)
    _check_name(path, manifest)
    for field, claimed, expected in (
        ("type", manifest.type, kind),
        ("feed", manifest.feed, feed),
        ("bytes", manifest.bytes, length),
        ("sequence", manifest.sequence, manifest.sequence if sequence is None else sequence),
    ):
        if claimed != expected:
            raise FeedError(f"{path.name}.json: {field} is {claimed}, expected {expected}; the store is unchanged")
    try:
        created_at = parse_time(manifest.created_at)
    except ValueError as error:
        raise FeedError(f"{path.name}.json: created_at {error}") from None
    return FeedFile(path, kind, feed, manifest.sequence, created_at, manifest.rows, manifest.bytes, manifest.sha256)


def _read_manifest(path: Path, keys: tuple[PublicKey, ...]) -> Manifest | None:
    try:
        with path.open("rb") as file:
            text = file.read(MANIFEST_BYTES_MAX + 1)
        if len(text) > MANIFEST_BYTES_MAX:
            raise FeedError(f"{path.name}: longer than {MANIFEST_BYTES_MAX} bytes, which is no manifest")
        if keys:
            check_signature(text, path.with_name(path.name + ".minisig"), keys)
        manifest = msgspec.json.decode(text, type=Manifest)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FeedError(f"{path.name}: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FeedError(f"{path.name}: not a manifest: {error}") from None
    if not re.fullmatch(r"[0-9a-f]{64}", manifest.sha256):
        raise FeedError(f"{path.name}: sha256 must be 64 lower-case hex digits")
    if manifest.sequence < 1 or manifest.rows < 0:
        raise FeedError(f"{path.name}: sequence must be 1 or more and rows 0 or more")
    return manifest


def _check_name(path: Path, manifest: Manifest) -> None:
    found = parse_file_name(path.name)
    if found is None:
        raise FeedError(
            f"{path.name}: a data file is called snapshot-FEED-SEQUENCE.csv or delta-FEED-SEQUENCE.ndjson, "
            "with .gz or .zst if compressed"
        )
    claimed = (manifest.type, manifest.feed, manifest.sequence)
    named = (found.type, found.feed, found.sequence)
    if claimed != named:
        raise FeedError(f"{path.name}: its manifest is for {'-'.join(map(str, claimed))}; the store is unchanged")


class FileName(msgspec.Struct, frozen=True):
    """What the name of a data file says."""

    type: Literal["snapshot", "delta"]
    feed: str
    sequence: int


def parse_file_name(name: str) -> FileName | None:
    """None if it is no data file's name."""
    found = _FILE_NAME.fullmatch(name)
    if not found or _ENDINGS[found["type"]] != found["ending"]:
        return None
    return FileName("snapshot" if found["type"] == "snapshot" else "delta", found["feed"], int(found["sequence"]))


def sequence_in_name(path: Path) -> int:
    """For loading several files in order; 0 when the name tells none."""
    found = parse_file_name(path.name)
    return found.sequence if found else 0


@contextmanager
def verified(file: FeedFile, advance: Advance = lambda count: None) -> Iterator[tuple[BinaryIO, str]]:
    """The open data file, its hash checked against the manifest, and the hash.

    The same descriptor is hashed and read, so a file replaced between the two changes nothing. advance:
    told how many bytes were hashed. Raises FeedError.
    """
    try:
        data = file.path.open("rb")
    except OSError as error:
        raise FeedError(f"{file.path}: {error.strerror}; the store is unchanged") from None
    with data:
        sha256 = _sha256(file, data, advance)
        if file.sha256 is not None and sha256 != file.sha256:
            raise FeedError(
                f"{file.name}: sha256 is {sha256}, the manifest says {file.sha256}: fetch both again; "
                "the store is unchanged"
            )
        data.seek(0)
        yield data, sha256


def _sha256(file: FeedFile, data: BinaryIO, advance: Advance) -> str:
    digest = hashlib.sha256()
    try:
        while chunk := data.read(PARSE_CHUNK_BYTES):
            digest.update(chunk)
            advance(len(chunk))
    except OSError as error:
        raise FeedError(f"{file.path}: {error.strerror}; the store is unchanged") from None
    return digest.hexdigest()


def line_chunks(
    file: FeedFile, data: BinaryIO, line_bytes_max: int, advance: Advance = lambda count: None
) -> Iterator[bytes]:
    """The decompressed text in chunks of whole lines, CRLF made LF.

    A line over the bound comes alone, cut right behind the bound, as the last chunk: the parser sees that
    it is too long and names its line. advance: told how many bytes of the data file were read.
    Raises FeedError when the compressed data is truncated, damaged, or grows beyond the bound.
    """
    if native_bulk.available():
        return _native_line_chunks(file, data, line_bytes_max, advance)
    return _line_chunks(file, data, line_bytes_max, advance)


def _native_line_chunks(file: FeedFile, data: BinaryIO, line_bytes_max: int, advance: Advance) -> Iterator[bytes]:
    """The same chunks. Where the native reader declines, `_line_chunks` starts anew: what is wrong, it says.

    Of damaged data it may have given more chunks by then, since it keeps nothing back.
    """
    compression = file.path.suffix if file.path.suffix in {".gz", ".zst"} else ""
    given = told = 0
    chunks = None
    while True:
        try:
            if chunks is None:
                chunks = native_bulk.LineChunks(
                    data, compression, PARSE_CHUNK_BYTES, line_bytes_max, DECOMPRESSED_BYTES_MAX
                )
            chunk = chunks.next_chunk()
        except OverflowError:
            raise _too_long(file) from None
        except ValueError:
            break
        if chunk is None:
            return
        at = data.tell()
        advance(at - told)
        told = at
        given += 1
        yield chunk
    try:
        data.seek(0)
    except OSError as error:
        raise _damaged(file, error) from None
    yield from islice(_line_chunks(file, data, line_bytes_max, lambda count: None), given, None)


def _too_long(file: FeedFile) -> FeedError:
    return FeedError(f"{file.name}: grows beyond {DECOMPRESSED_BYTES_MAX} bytes; the store is unchanged")


def _damaged(file: FeedFile, error: Exception) -> FeedError:
    return FeedError(f"{file.name}: truncated or damaged: {error}; the store is unchanged")


def _line_chunks(file: FeedFile, data: BinaryIO, line_bytes_max: int, advance: Advance) -> Iterator[bytes]:
    rest = b""
    seen = 0
    told = 0
    try:
        stream = _decompressed(file, data)
        while piece := stream.read(PARSE_CHUNK_BYTES):
            seen += len(piece)
            if seen > DECOMPRESSED_BYTES_MAX:
                raise _too_long(file)
            at = data.tell()
            advance(at - told)
            told = at
            text = rest + piece
            cut = text.rfind(b"\n") + 1
            rest = text[cut:]
            if cut:
                yield text[:cut].replace(b"\r\n", b"\n")
            if len(rest) > line_bytes_max + 1:
                yield rest[: line_bytes_max + 1]
                return
    except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:  # BadGzipFile is an OSError
        raise _damaged(file, error) from None
    if rest:
        yield rest.removesuffix(b"\r")


def _decompressed(file: FeedFile, data: BinaryIO) -> BinaryIO:
    match file.path.suffix:
        case ".gz":
            return gzip.GzipFile(fileobj=data)  # type: ignore[return-value]
        case ".zst":
            return io.BufferedReader(ZstdReader(data), PARSE_CHUNK_BYTES)
        case _:
            return data


class ZstdReader(io.RawIOBase):
    """Decompressed frames, one after another. The library's own reader takes a truncated file for a whole one."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._frames = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """At least one byte, or 0 at the end. Raises EOFError if the last frame is not complete."""
        while not self._output:
            if not self._input:
                self._input = self._source.read(ZSTD_INPUT_BYTES)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("the last zstd frame is not complete")
                return 0
            if self._frame is None:
                self._frame = self._frames.decompressobj()
            self._output = memoryview(self._frame.decompress(self._input))
            self._input = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count


def check_row_count(file: FeedFile, rows: int) -> None:
    """Raises FeedError unless the manifest's count is met."""
    if file.rows is not None and file.rows != rows:
        raise FeedError(f"{file.name}: {rows} rows, the manifest says {file.rows}; the store is unchanged")


def write_manifest(path: Path, rows: int, created_at: str) -> None:
    """Put the manifest beside a data file named as the format wants it, by rename: then the file is complete."""
    found = parse_file_name(path.name)
    assert found is not None, path.name
    with path.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256")
    manifest = Manifest(
        found.feed, found.type, found.sequence, created_at, rows, path.stat().st_size, digest.hexdigest()
    )
    part = path.with_name(path.name + ".json.part")
    part.write_bytes(msgspec.json.encode(manifest) + b"\n")
    part.rename(path.with_name(path.name + ".json"))
