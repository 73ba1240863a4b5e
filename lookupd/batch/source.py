"""Where a list's bytes come from: a file, unpacked and brought to UTF-8 where its encoding needs it, piece by piece.

What the bytes mean is left to `dialect` and `rows`.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec
import zstandard

from lookupd.errors import BatchError
from lookupd.limits import BATCH_HEAD_BYTES, BATCH_READ_BYTES, BATCH_TEXT_BYTES_MAX

ENCODINGS = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "utf-8-sig": "utf-8",
    "utf-16": "utf-16",
    "utf-16-le": "utf-16-le",
    "utf-16-be": "utf-16-be",
    "big5": "cp950",
    "cp950": "cp950",
}
"""By the name people give. cp950 is Big5 as the spreadsheets of Taiwan write it."""

MARK = codecs.BOM_UTF8
_MARKS_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ZSTD_WINDOW_MAX = 128 << 20


class Identity(msgspec.Struct, frozen=True):
    """Which file it is. head: SHA-256 of its first bytes."""

    size: int
    modified_ns: int
    head: str


class Source:
    """A list that is being read."""

    def __init__(self, path: Path, encoding: str | None = None) -> None:
        """encoding: as named; None = by its mark, else UTF-8. Raises BatchError."""
        self.path = path
        if encoding is not None and encoding.lower() not in ENCODINGS:
            raise BatchError(f"--encoding {encoding}: one of {', '.join(ENCODINGS)}")
        self._read_bytes = 0
        try:
            self._file: BinaryIO = path.open("rb", buffering=0)
        except OSError as error:
            raise BatchError(f"{path}: {error.strerror}") from None
        try:
            self.identity, magic = self._identify()
            self._unpack = self._unpacker(magic)
            self._text = _Text(self._full, encoding)
            self.encoding = self._text.encoding
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def bytes_read(self) -> int:
        """Of the file as it lies on the disk."""
        try:
            return self._file.tell()
        except ValueError:
            return self.identity.size

    def read(self) -> bytes:
        """Some of the text; empty at its end. Raises BatchError."""
        return self._text.read()

    def _identify(self) -> tuple[Identity, bytes]:
        try:
            head = self._file.read(BATCH_HEAD_BYTES) or b""
            self._file.seek(0)
            status = os.fstat(self._file.fileno())
        except OSError as error:
            raise BatchError(f"{self.path}: {error.strerror}: name a file") from None
        return Identity(status.st_size, status.st_mtime_ns, hashlib.sha256(head).hexdigest()), head[:4]

    def _unpacker(self, magic: bytes) -> Callable[[int], bytes]:
        if magic.startswith(_GZIP):
            packed = gzip.GzipFile(fileobj=self._file, mode="rb")
            return packed.read
        if magic == _ZSTD:
            unpacker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
            stream = unpacker.stream_reader(self._file, read_across_frames=True)
            return stream.read
        return lambda size: self._file.read(size) or b""

    def _full(self, size: int) -> bytes:
        """So many bytes, fewer only at the end: where a piece ends must not follow from how the disk reads."""
        parts, missing = [], size
        while missing:
            try:
                part = self._unpack(missing)
            except (zlib.error, zstandard.ZstdError, gzip.BadGzipFile, EOFError) as error:
                raise BatchError(f"{self.path}: cannot be unpacked: {error}") from None
            except OSError as error:
                raise BatchError(f"{self.path}: {error.strerror or error}") from None
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        self._read_bytes += size - missing
        if self._read_bytes > BATCH_TEXT_BYTES_MAX:
            raise BatchError(f"{self.path}: longer than {BATCH_TEXT_BYTES_MAX >> 30} GiB: split it")
        return b"".join(parts)


class _Text:
    """What was unpacked, in UTF-8 where it was UTF-16; Big5 stays as it is."""

    def __init__(self, read: Callable[[int], bytes], named: str | None) -> None:
        self._read = read
        self._first = read(BATCH_READ_BYTES)
        encoding = "utf-8" if named is None else ENCODINGS[named.lower()]
        if encoding == "utf-16" or (named is None and self._first.startswith(_MARKS_16)):
            is_big = self._first.startswith(codecs.BOM_UTF16_BE)
            encoding = "utf-16-be" if is_big else "utf-16-le"
        self.encoding = "cp950" if encoding == "cp950" else "utf-8"
        self._decoder = None
        if encoding.startswith("utf-16"):
            self._decoder = codecs.getincrementaldecoder(encoding)("replace")

    def read(self) -> bytes:
        while True:
            piece, self._first = self._first or self._read(BATCH_READ_BYTES), b""
            if self._decoder is None:
                return piece
            text = self._decoder.decode(piece, final=not piece).encode("utf-8", "replace")
            if text or not piece:
                return text
