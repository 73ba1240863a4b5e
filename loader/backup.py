"""Backups: a store copied whole and proven, while readers and the writer go on; older ones taken away.

A backup is a folder: `data.mdb` (or `data.mdb.zst`) and `manifest.json`. A folder, since one rename then lets
both appear at once, so that there is never data without its manifest, nor a manifest of other data; and a plain
`data.mdb` in it is a store that `lookupd-loader verify --store` and `lookupd query` can read where it lies.
Putting one back is for `restore`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal

import msgspec
import zstandard

from loader.durable import sync_folder
from loader.files import ZSTD_INPUT_BYTES
from lookupd import __version__
from lookupd.errors import FeedError, StoreError
from lookupd.limits import MANIFEST_BYTES_MAX, PARSE_CHUNK_BYTES
from lookupd.model import UnixSeconds
from lookupd.store.copy import copy_store, open_copy
from lookupd.store.reader import Reader
from lookupd.store.rights import BACKUP_FOLDER_MODE, open_file
from lookupd.store.schema import FORMAT_VERSION, State, format_digest
from lookupd.store.scrub import scrub, values_of
from lookupd.store.verify import verify
from lookupd.units import format_time

if TYPE_CHECKING:
    from loader.apply import Progress

BACKUP_FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
DATA: Final = "data.mdb"
PACKED: Final = "data.mdb.zst"
PART: Final = ".part"
NAME: Final = "lookupd-"
"""What the names that we give begin with."""

_ZSTD_LEVEL = 3
"""Of 618 MB it leaves 8 to 250 MB, by how regular the data is, at about the speed of a disk."""

Advance = Callable[[int], None]


class FeedAt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a feed was applied, and by which file."""

    sequence: int
    type: str
    sha256: str
    confirmed_at: str | None


class BackupManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands beside a backup's data, as JSON.

    bytes, sha256: of `file` as it lies there. data_bytes: of the store in it. damaged_blocks: those of a
    backup that was made with --even-damaged. seal: sha256 over all the other fields, so that no bit of the
    manifest itself can turn unnoticed.
    """

    backup_format: int
    store_format: int
    lookupd: str
    replica: str
    created_at: str
    serial: int
    digest: str
    ported: int
    feeds: dict[str, FeedAt]
    damaged_blocks: tuple[int, ...]
    file: Literal["data.mdb", "data.mdb.zst"]
    bytes: int
    sha256: str
    data_bytes: int
    seal: str = ""


class Backup(msgspec.Struct, frozen=True):
    """A backup that was made. removed: names of older ones, and of what interrupted ones had left."""

    path: str
    serial: int
    digest: str
    ported: int
    bytes: int
    damaged_blocks: tuple[int, ...] = ()
    removed: tuple[str, ...] = ()
    seconds: float = 0.0


def make_backup(
    reader: Reader,
    out: Path,
    now: UnixSeconds,
    progress: Progress,
    *,
    replica: str = "",
    compress: bool = False,
    even_damaged: bool = False,
    keep: int = 0,
) -> Backup:
    """Copy the pinned state to `out`, or to a folder named by time and serial when `out` is a folder.

    keep: how many backups of this replica may lie in the folder afterwards, 0 = all; older ones go only when
    the new one is whole. Raises StoreError: there is nothing under the backup's name then, and older ones are
    as they were.
    """
    began = time.monotonic()
    state = reader.state
    report = scrub(reader, progress.stage("scrub", values_of(reader)))
    if report.problems and not even_damaged:
        raise StoreError(
            f"{reader.path}: not backed up: {'; '.join(report.problems[:5])}: mend it with `lookupd-loader repair`, "
            "or keep what is there with --even-damaged"
        )
    final = _place(out, replica, state, now)
    removed = _remove_leftovers(final)
    with _part(final) as part:
        data = part / DATA
        with _telling(part), _create(data) as file:
            data_bytes = copy_store(reader, file.fileno(), progress.stage("copy", reader.sizes()["file"]))
        damaged = _prove(part, state, progress, even_damaged)
        with _telling(part):
            if compress:
                data = _pack(data, progress)
            length, sha256 = read_data(data, data_bytes, lambda chunk: None, progress.stage("check", data_bytes))
            manifest = _seal(
                BackupManifest(
                    backup_format=BACKUP_FORMAT,
                    store_format=FORMAT_VERSION,
                    lookupd=__version__,
                    replica=replica,
                    created_at=format_time(now) or "",
                    serial=state.serial,
                    digest=format_digest(state.digest),
                    ported=state.ported,
                    feeds={
                        name: FeedAt(at.sequence, at.type, at.sha256, format_time(at.confirmed_at))
                        for name, at in state.feeds.items()
                    },
                    damaged_blocks=damaged,
                    file=PACKED if compress else DATA,
                    bytes=length,
                    sha256=sha256,
                    data_bytes=data_bytes,
                )
            )
            _write_synced(part / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
            sync_folder(part)
            part.rename(final)
            sync_folder(final.parent)
    if keep:
        removed += _prune(final, replica, keep)
    seconds = round(time.monotonic() - began, 2)
    return Backup(str(final), state.serial, manifest.digest, state.ported, length, damaged, tuple(removed), seconds)


# -- reading -----------------------------------------------------------------------------------------------


def read_manifest(backup: Path) -> BackupManifest:
    """What a backup says it is. Raises FeedError: nothing else of it should be read then."""
    try:
        with (backup / MANIFEST).open("rb") as file:
            text = file.read(MANIFEST_BYTES_MAX + 1)
        manifest = msgspec.json.decode(text, type=BackupManifest)
    except (FileNotFoundError, NotADirectoryError):
        raise FeedError(f"{backup}: no backup: there is no {MANIFEST} in it") from None
    except OSError as error:
        raise FeedError(f"{backup}/{MANIFEST}: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FeedError(f"{backup}/{MANIFEST}: damaged: {error}: take another backup") from None
    if _seal(manifest) != manifest:
        raise FeedError(f"{backup}/{MANIFEST}: damaged: its seal does not fit: take another backup")
    if (manifest.backup_format, manifest.store_format) != (BACKUP_FORMAT, FORMAT_VERSION):
        raise FeedError(
            f"{backup}: backup format {manifest.backup_format} of store format {manifest.store_format}, this program "
            f"reads {BACKUP_FORMAT} and {FORMAT_VERSION}: restore it with lookupd {manifest.lookupd}"
        )
    return manifest


def read_data(path: Path, data_bytes: int, sink: Callable[[bytes], object], advance: Advance) -> tuple[int, str]:
    """Read a backup's data once: its bytes go to `sink`, unpacked; returns length and sha256 of the file.

    The caller compares those before it believes what the sink got. Raises FeedError if it cannot be unpacked,
    or would grow beyond `data_bytes`.
    """
    unpacker = zstandard.ZstdDecompressor().decompressobj() if path.name == PACKED else None
    digest = hashlib.sha256()
    length = seen = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(PARSE_CHUNK_BYTES if unpacker is None else ZSTD_INPUT_BYTES):
                digest.update(chunk)
                length += len(chunk)
                data = chunk if unpacker is None else unpacker.decompress(chunk)
                seen += len(data)
                if seen > data_bytes:
                    raise FeedError(f"{path}: damaged: longer than its manifest says: take another backup")
                sink(data)
                advance(len(data))
    except (zstandard.ZstdError, EOFError) as error:
        raise FeedError(f"{path}: damaged: {error}: take another backup") from None
    if seen != data_bytes:
        raise FeedError(f"{path}: truncated, {seen} of {data_bytes} bytes: take another backup")
    return length, digest.hexdigest()


# -- steps -------------------------------------------------------------------------------------------------


def _place(out: Path, replica: str, state: State, now: UnixSeconds) -> Path:
    """The final name: `out` itself, or in the folder `out`. Sorted by name, backups are sorted by time."""
    if not out.is_dir():
        if out.exists() or not out.absolute().parent.is_dir():
            raise StoreError(f"{out}: name a folder that is there, or a new name in one")
        return out.absolute()
    if (out / MANIFEST).exists():
        raise StoreError(f"{out}: there is a backup of this name: backups are never written over")
    at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    final = out.absolute() / f"{NAME}{replica + '-' if replica else ''}{at}-serial-{state.serial}"
    if final.exists():
        raise StoreError(f"{final}: there is a backup of this name: backups are never written over")
    return final


@contextlib.contextmanager
def _part(final: Path) -> Iterator[Path]:
    """The folder that becomes the backup, locked while we live; gone, or named in the error, if we fail."""
    part = final.with_name(final.name + PART)
    try:
        part.mkdir(mode=BACKUP_FOLDER_MODE)
        lock = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"{part}: {error.strerror}: is another backup running?") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield part
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if part.exists() and isinstance(error, StoreError):
            raise StoreError(f"{error}; left over: {part}") from None
        raise
    finally:
        os.close(lock)


@contextlib.contextmanager
def _telling(part: Path) -> Iterator[None]:
    """What the disk refuses, as ours, with the way out."""
    try:
        yield
    except (OSError, StoreError) as error:
        room = os.statvfs(part)
        full = room.f_bavail * room.f_frsize < 1 << 20
        reason = "the disk is full: free space on it, or name another --out" if full else error
        raise StoreError(f"{part.with_suffix('')}: no backup was made: {reason}") from None


def _prove(part: Path, state: State, progress: Progress, even_damaged: bool) -> tuple[int, ...]:
    """Open the copy and prove everything in it; returns its damaged blocks, if those are let through."""
    with open_copy(part) as copy:
        report = verify(copy, progress.stage("verify", state.blocks))
        if copy.state != state:
            raise StoreError(f"{part}: the copy is of another state than the store: do it again")
    if report.problems and not even_damaged:
        raise StoreError(f"not backed up: {'; '.join(report.problems[:5])}: see `lookupd-loader verify`")
    return tuple(report.damaged_blocks)


def _pack(data: Path, progress: Progress) -> Path:
    packed = data.with_name(PACKED)
    advance = progress.stage("pack", data.stat().st_size)
    with data.open("rb") as source, _create(packed) as file:
        packer = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compressobj()
        while chunk := source.read(PARSE_CHUNK_BYTES):
            file.write(packer.compress(chunk))
            advance(len(chunk))
        file.write(packer.flush())
        _sync(file)
    data.unlink()
    return packed


def _seal(manifest: BackupManifest) -> BackupManifest:
    bare = msgspec.structs.replace(manifest, seal="")
    return msgspec.structs.replace(manifest, seal=hashlib.sha256(msgspec.json.encode(bare)).hexdigest())


def _write_synced(path: Path, content: bytes) -> None:
    with _create(path) as file:
        file.write(content)
        _sync(file)


def _create(path: Path) -> BinaryIO:
    """A new file, with a store's rights."""
    return os.fdopen(open_file(path, os.O_WRONLY | os.O_EXCL), "wb")


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


# -- taking away -------------------------------------------------------------------------------------------


def _remove_leftovers(final: Path) -> list[str]:
    """What backups that were killed had left; one that still runs holds the lock of its own."""
    removed = []
    for part in sorted({*final.parent.glob(f"{NAME}*{PART}"), final.with_name(final.name + PART)}):
        if part.is_symlink() or not part.is_dir():
            continue
        try:
            lock = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if {path.name for path in part.iterdir()} <= {DATA, PACKED, MANIFEST}:
                shutil.rmtree(part)
                removed.append(part.name)
        except OSError:
            continue  # it runs, or is not ours to remove
        finally:
            os.close(lock)
    return removed


def _prune(newest: Path, replica: str, keep: int) -> list[str]:
    """Remove the oldest whole backups of the replica beyond `keep`, never `newest`; returns their names."""
    found = []
    for path in newest.parent.iterdir():
        with contextlib.suppress(FeedError):  # not a backup, or one that a person should look at
            manifest = read_manifest(path)
            if manifest.replica == replica and path != newest:
                found.append((manifest.created_at, manifest.serial, path))
    removed = []
    for *_, path in sorted(found)[: max(len(found) + 1 - keep, 0)]:
        going = path.with_name(path.name + PART)
        path.rename(going)  # first, so that there is no half backup under a whole one's name
        shutil.rmtree(going)
        removed.append(path.name)
    return removed
