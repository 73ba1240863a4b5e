"""Put a backup in a store's place, under a running daemon: the new files come by rename, the old ones stay.

Nothing of a published store is overwritten: a daemon has the old data file mapped, goes on answering from it,
and opens the new one when it sees another file under the name. The lock file is replaced too, since LMDB
keeps the number of the last transaction and the readers' places in it: shared by two data files, it would let a
writer begin from the wrong one of the two states that a data file holds, or overwrite pages that are being read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from loader.backup import DATA, BackupManifest, read_data, read_manifest
from loader.durable import sync_folder
from lookupd.errors import FeedError, Stale, StoreError
from lookupd.limits import WRITER_WAIT_SECONDS
from lookupd.model import JournalKind, UnixSeconds
from lookupd.store.change import Counts
from lookupd.store.copy import open_copy
from lookupd.store.lock import WRITER_LOCK, writer_lock
from lookupd.store.reader import Reader
from lookupd.store.rights import make_folder, open_file
from lookupd.store.schema import State, format_digest, note_length
from lookupd.store.verify import verify
from lookupd.store.writer import Writer

if TYPE_CHECKING:
    from loader.apply import Progress

STAGING: Final = "restore.part"
ASIDE: Final = "data.mdb.before-restore-"
_LOCK, _LENGTH = "lock.mdb", "data.length"

_CLOSED: Final = 1 << 62
"""Put into `data.length` while files are exchanged: whoever opens the store then is told that it is truncated
and to be restored, and is not given an old lock file with a new data file, or the reverse. A restore that is
killed within that millisecond leaves it so until it is done again; daemons that run go on from the old file."""


class Restored(msgspec.Struct, frozen=True):
    """A restore that was done. kept: name of the data file that was there before; empty if there was none.

    journal_before: the last serial of that store, 0 if it could not be read; its entries beyond the backup's
    are in the kept file only.
    """

    backup: str
    serial: int
    digest: str
    ported: int
    feeds: dict[str, int]
    kept: str
    journal_before: int
    seconds: float


def restore(
    backup: Path,
    store: Path,
    now: UnixSeconds,
    map_size: int,
    progress: Progress,
    *,
    reason: str | None = None,
    accept_older: str | None = None,
    even_damaged: bool = False,
    wait: float = WRITER_WAIT_SECONDS,
) -> Restored:
    """Check a backup, prove its content, and let it be the store.

    reason: a person's words for the journal; accept_older: those that let it be older than the store. Raises
    FeedError (the backup is not whole), Stale (it is older than the store), StoreError (a writer runs, the
    disk is full): the store is as before.
    """
    began = time.monotonic()
    manifest = read_manifest(backup)
    if manifest.damaged_blocks and not even_damaged:
        raise FeedError(
            f"{backup}: was made of a damaged store: blocks {', '.join(map(str, manifest.damaged_blocks[:20]))}: "
            "take another backup, or this one with --even-damaged"
        )
    with _telling(store), writer_lock(store, wait):
        _refuse_writers(store / DATA)
        current = _state_of(store, map_size)
        _refuse_older(backup, manifest, current, accept_older)
        _remove_leftovers(store)
        staging = store / STAGING
        try:
            _stage(backup, manifest, staging, progress)
            _prove(backup, manifest, staging, progress, even_damaged)
            with Writer(staging, map_size=map_size) as writer:
                with writer.change(now) as change:
                    change.record(JournalKind.RESTORED, Counts(), source=backup.name, reason=accept_older or reason)
                note_length(staging)
                _give_to_owner(store, staging)
                kept = _exchange(store, staging, now)  # while we have it open, nobody takes its lock file for stale
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    with Reader(store, map_size=map_size) as reader:
        state = reader.state
    return Restored(
        backup.name,
        state.serial,
        format_digest(state.digest),
        state.ported,
        {name: at.sequence for name, at in state.feeds.items()},
        kept,
        0 if current is None else current.serial,
        round(time.monotonic() - began, 2),
    )


# -- may it be -----------------------------------------------------------------------------------------------


def _refuse_writers(data: Path, processes: Path = Path("/proc")) -> None:
    """A loader between two changes holds no lock, but would go on writing to the file that was put aside."""
    try:
        ours = data.stat()
    except FileNotFoundError:
        return
    for link in processes.glob("[0-9]*/fd/*"):
        process = link.parent.parent
        try:
            if not os.readlink(link).endswith(f"/{DATA}") or process.name == str(os.getpid()):
                continue
            found = link.stat()
            info = (process / "fdinfo" / link.name).read_text()
        except OSError:  # it has ended, or is another user's: then the lock is all we can ask
            continue
        flags = next(line for line in info.splitlines() if line.startswith("flags:"))
        if os.path.samestat(found, ours) and int(flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY:
            raise StoreError(f"{data}: process {process.name} has it open for writing: end it first")


def _state_of(store: Path, map_size: int) -> State | None:
    """Of the store that is there; None if it is gone or cannot be read."""
    try:
        with Reader(store, map_size=map_size) as reader:
            return reader.state
    except StoreError:
        return None


def _refuse_older(backup: Path, manifest: BackupManifest, current: State | None, accepted: str | None) -> None:
    if current is None or accepted is not None:
        return
    for name, at in current.feeds.items():
        feed = manifest.feeds.get(name)
        if feed is None or feed.sequence < at.sequence:
            raise Stale(
                f"{backup}: feed {name!r} is at {feed.sequence if feed else 'nothing'}, the store is at {at.sequence}: "
                'take a newer backup, or this one with --accept-older "who: why"; the store is unchanged'
            )


# -- the new store, beside the old one --------------------------------------------------------------------


def _stage(backup: Path, manifest: BackupManifest, staging: Path, progress: Progress) -> None:
    make_folder(staging)
    with os.fdopen(open_file(staging / DATA, os.O_WRONLY | os.O_EXCL), "wb") as file:
        advance = progress.stage("copy", manifest.data_bytes)
        length, sha256 = read_data(backup / manifest.file, manifest.data_bytes, file.write, advance)
        file.flush()
        os.fsync(file.fileno())
    if (length, sha256) != (manifest.bytes, manifest.sha256):
        raise FeedError(
            f"{backup}/{manifest.file}: damaged: sha256 is {sha256}, the manifest says {manifest.sha256}: "
            "take another backup; the store is unchanged"
        )


def _prove(backup: Path, manifest: BackupManifest, staging: Path, progress: Progress, even_damaged: bool) -> None:
    with open_copy(staging) as copy:
        report = verify(copy, progress.stage("verify", copy.state.blocks))
        state = copy.state
    said = (manifest.serial, manifest.digest, {name: at.sequence for name, at in manifest.feeds.items()})
    found = (state.serial, format_digest(state.digest), {name: at.sequence for name, at in state.feeds.items()})
    if said != found:
        raise FeedError(f"{backup}: holds {found}, the manifest says {said}: take another backup")
    if report.problems and not even_damaged:
        raise FeedError(f"{backup}: {'; '.join(report.problems[:5])}: take another backup; the store is unchanged")


def _give_to_owner(store: Path, staging: Path) -> None:
    """Owner and mode as the files had that are replaced: the daemon's user must open what root restored.

    What replaces nothing keeps the mode it was made with.
    """
    for path in [*staging.iterdir(), store / WRITER_LOCK]:
        before = [found for found in (store / path.name, store / DATA) if found.exists() and found != path]
        like = (before[0] if before else store).stat()
        if os.geteuid() == 0:
            os.chown(path, like.st_uid, like.st_gid)
        if before and before[0].name == path.name and path.parent == staging:
            path.chmod(like.st_mode & 0o777)


# -- the exchange ------------------------------------------------------------------------------------------


def _exchange(store: Path, staging: Path, now: UnixSeconds) -> str:
    """Let the staged files take the old ones' names; returns the name under which the old data stays.

    First the lock file, then the data: a reader opens them the other way round, so that the worst it can get
    is the old data, which nobody changes any more, with the new lock file.
    """
    kept = _put_aside(store, now)
    closed = staging / f"{_LENGTH}.closed"
    with os.fdopen(open_file(closed, os.O_WRONLY), "w") as file:
        file.write(f"{_CLOSED}\n")
    closed.rename(store / _LENGTH)
    sync_folder(store)
    (staging / _LOCK).rename(store / _LOCK)
    (staging / DATA).rename(store / DATA)
    sync_folder(store)
    (staging / _LENGTH).rename(store / _LENGTH)
    sync_folder(store)
    return kept


def _put_aside(store: Path, now: UnixSeconds) -> str:
    """A second name for the old data file, so that there is no moment without one under its own."""
    name = ASIDE + time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    for attempt in range(1, 100):
        kept = name if attempt == 1 else f"{name}-{attempt}"
        try:
            os.link(store / DATA, store / kept)
        except FileNotFoundError:
            return ""
        except FileExistsError:
            continue
        return kept
    raise StoreError(f"{store}/{name}: exists a hundred times: remove what is not needed")


def _remove_leftovers(store: Path) -> None:
    """Of a restore that was killed; we hold the lock, so none runs."""
    if (store / STAGING).exists():
        shutil.rmtree(store / STAGING)
    for kept in store.glob(f"{ASIDE}*"):
        with contextlib.suppress(FileNotFoundError):
            if kept.samefile(store / DATA):  # it was killed before the data changed places
                kept.unlink()


@contextlib.contextmanager
def _telling(store: Path) -> Iterator[None]:
    """What the disk refuses, as ours, with the way out."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full: free space on it" if error.errno == errno.ENOSPC else error
        raise StoreError(f"{store}: nothing was restored: {reason}") from None
