"""Lists of numbers as jobs: the folder in which they lie, and what is known of each.

Who runs them is `jobs_runner`, what is done to a list `jobs_work`, who asks for them `web.batches`. All that is known
lies in files, so that a daemon that follows another, or its own crash, knows it too:

    lock              held by the daemon that runs jobs
    .upload-ID/       a list that arrives; its file is locked by who receives it
    .gone-ID/         being deleted
    ID/job.json       what was asked; never changes
       input          the list as it came
       progress.json  how far its process is
       end.json       how it ended; written once, by whoever is first
       output.csv     the result; split/ by network
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from lookupd.errors import ConfigError, LookupdError
from lookupd.limits import JOBS_FILE_BYTES_MAX, JOBS_LEFT_SECONDS, JOBS_MAX, JOBS_RUNNING_MAX
from lookupd.settings import BatchesSettings

State = Literal["scheduled", "waiting", "running", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = ("scheduled", "waiting", "running", "done", "failed", "cancelled")

Cause = Literal["input", "disk", "store", "killed", "fault"]
CAUSES: tuple[Cause, ...] = ("input", "disk", "store", "killed", "fault")
"""Why a job failed: the list itself; a full disk; no data to answer from; its process was killed again and again; a
fault of the program."""

Kind = Literal["csv", "gzip", "zstd"]
MAGIC: dict[Kind, bytes] = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}

ID = re.compile(r"[0-9a-f]{32}")
PART = re.compile(r"[0-9A-Za-z]{1,16}")
"""A network's code, or `none`."""

INPUT, OUTPUT, SPLIT, CHECKPOINT, PROGRESS = "input", "output.csv", "split", "checkpoint", "progress.json"
_ORDER, _END, _LOCK = "job.json", "end.json", "lock"
_UPLOAD, _GONE = ".upload-", ".gone-"

Stored = TypeVar("Stored", bound=msgspec.Struct)


class Wishes(msgspec.Struct, frozen=True):
    """How the list is to be read: see `lookupd.batch`. None = found out."""

    column: str | int | None = None
    separator: str | None = None
    encoding: str | None = None
    split: bool = False


class Order(msgspec.Struct, frozen=True):
    """What was asked. at: when it is to begin; None = at once. key: of who asks so again; a hash, empty = none."""

    id: str
    client: str
    created_at: int
    bytes: int
    sha256: str
    kind: Kind = "csv"
    name: str = ""
    at: int | None = None
    wishes: Wishes = Wishes()
    key: str = ""

    @property
    def due(self) -> int:
        """When it may begin."""
        return max(self.created_at, self.at or 0)


class Progress(msgspec.Struct, frozen=True):
    """How far a job is."""

    rows: int = 0
    bytes: int = 0


class End(msgspec.Struct, frozen=True):
    """How a job ended. reason, cause: if it failed. bytes: of its result, with its parts. parts: the networks of a
    result that was split."""

    state: Literal["done", "failed", "cancelled"]
    at: int
    reason: str | None = None
    cause: Cause | None = None
    summary: dict[str, Any] | None = None
    bytes: int = 0
    parts: tuple[str, ...] = ()


class Job(msgspec.Struct, frozen=True):
    """One, as it was when it was looked at."""

    order: Order
    progress: Progress | None
    end: End | None

    @property
    def id(self) -> str:
        """Its name in paths."""
        return self.order.id

    def state(self, now: float, *, is_running: bool) -> State:
        """is_running: whether a process works on it."""
        if self.end is not None:
            return self.end.state
        if is_running:
            return "running"
        return "scheduled" if self.order.due > now and self.progress is None else "waiting"

    def expires_at(self, keep: float) -> int:
        """When it is deleted; one that never begins, too."""
        return int((self.order.due if self.end is None else self.end.at) + keep)


class NoRoom(LookupdError):
    """The disk is full, or nearly so."""


class Upload:
    """A list that arrives. Its calls block: they run in a thread, one after the other."""

    def __init__(self, jobs: JobFolder, id_: str) -> None:
        """Raises OSError."""
        self.id = id_
        self.bytes = 0
        self._hash = hashlib.sha256()
        self._jobs = jobs
        self._folder = jobs.path / f"{_UPLOAD}{id_}"
        self._folder.mkdir(mode=0o700)
        self._file = _private(str(self._folder / INPUT), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def write(self, piece: bytes) -> None:
        """Raises NoRoom, OSError."""
        self._jobs.need_room(len(piece))
        with _told_as_no_room():
            view = memoryview(piece)
            while view:
                view = view[os.write(self._file, view) :]
        self._hash.update(piece)
        self.bytes += len(piece)

    @property
    def sha256(self) -> str:
        """Of what has come."""
        return self._hash.hexdigest()

    def accept(self, order: Order) -> Job:
        """It is a job from now on, whatever happens to us. Raises NoRoom, OSError."""
        with _told_as_no_room():
            os.fsync(self._file)
            _write(self._folder / _ORDER, order)
            _sync(self._folder)
            self._folder.rename(self._jobs.path / order.id)
            _sync(self._jobs.path)
        return Job(order, None, None)

    def discard(self) -> None:
        """It is not wanted; if it was accepted, nothing is lost. To be called once, at the end."""
        os.close(self._file)
        shutil.rmtree(self._folder, ignore_errors=True)


class JobFolder:
    """The folder of one replica's jobs. Its calls block on the disk: they run in a thread."""

    def __init__(self, settings: BatchesSettings) -> None:
        self.settings = settings
        self.path = Path(settings.path)
        self._lock: int | None = None
        self._ended: dict[str, Job] = {}
        """Jobs that will not change any more: they are read once."""

    def prepare(self) -> None:
        """Ours alone to read. Raises OSError."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        self.path.chmod(0o700)

    def take_lock(self) -> bool:
        """Whether jobs are ours to run: those of one folder are run by one process. Raises OSError."""
        if self._lock is None:
            self.prepare()
            self._lock = _lock_file(self.path / _LOCK)
        return self._lock is not None

    @property
    def has_lock(self) -> bool:
        """See `take_lock`."""
        return self._lock is not None

    def release_lock(self) -> None:
        """Whoever follows us may run them."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def need_room(self, count: int) -> None:
        """Raises NoRoom if so many bytes would leave too few, OSError if that cannot be seen."""
        room = os.statvfs(self.path)
        if room.f_bavail * room.f_frsize - count < self.settings.free_min:
            raise NoRoom("the disk of batches.path has too little room left (batches.free_min)")

    # -- jobs --------------------------------------------------------------------------------------------

    def begin_upload(self) -> Upload:
        """Raises OSError, NoRoom."""
        self.prepare()
        with _told_as_no_room():
            return Upload(self, secrets.token_hex(16))

    def all(self) -> list[Job]:
        """Those that can be read, the oldest first. Raises OSError."""
        names = [name for name in os.listdir(self.path) if ID.fullmatch(name)]
        known = self._ended
        found = [job for name in names if (job := known.get(name) or self.find(name)) is not None]
        self._ended = {job.id: job for job in found if job.end is not None}
        return sorted(found, key=lambda job: (job.order.created_at, job.id))

    def find(self, id_: str) -> Job | None:
        """None if there is none of this name."""
        if not ID.fullmatch(id_):
            return None
        folder = self.path / id_
        order = _read(folder / _ORDER, Order)
        if order is None or order.id != id_:
            return None
        return Job(order, _read(folder / PROGRESS, Progress), _read(folder / _END, End))

    def end(self, id_: str, end: End) -> bool:
        """Whether it ended so: the first who says how, is right. Raises OSError."""
        draft = self.path / id_ / f".end-{secrets.token_hex(4)}"
        _write(draft, end)
        try:
            draft.with_name(_END).hardlink_to(draft)
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        _sync(self.path / id_)
        return True

    def strip(self, id_: str, *, result: bool, list_: bool) -> None:
        """Delete what an ended job has no use for any more: half a result; the whole one, the list."""
        folder = self.path / id_
        names = [CHECKPOINT, f"{OUTPUT}.part", *([OUTPUT] if result else []), *([INPUT] if list_ else [])]
        for name in names:
            (folder / name).unlink(missing_ok=True)
        if result:
            shutil.rmtree(folder / SPLIT, ignore_errors=True)

    def delete(self, id_: str) -> bool:
        """Whether it was there. Raises OSError."""
        gone = self.path / f"{_GONE}{id_}"
        try:
            (self.path / id_).rename(gone)
        except FileNotFoundError:
            return False
        shutil.rmtree(gone, ignore_errors=True)  # what its process writes at this moment, `tidy` takes
        return True

    def tidy(self) -> None:
        """Delete what is left of uploads that nobody receives, and of jobs half deleted. Raises OSError."""
        for name in os.listdir(self.path):
            folder = self.path / name
            if name.startswith(_GONE) or (name.startswith(_UPLOAD) and _is_left(folder)):
                shutil.rmtree(folder, ignore_errors=True)

    def result(self, id_: str, part: str | None = None) -> Path | None:
        """The file of a result, or of one network; None if there is none. id_: of a job that was found."""
        folder = self.path / id_
        if part is not None and not PART.fullmatch(part):
            return None
        file = folder / OUTPUT if part is None else folder / SPLIT / f"{part}.csv"
        return file if file.is_file() else None

    def measure(self, id_: str) -> tuple[tuple[str, ...], int]:
        """The networks that a split result has, and what a result takes of the disk. Raises OSError."""
        parts: tuple[str, ...] = ()
        with contextlib.suppress(FileNotFoundError):
            names = os.listdir(self.path / id_ / SPLIT)
            parts = tuple(sorted(name.removesuffix(".csv") for name in names if name.endswith(".csv")))
        files = [self.result(id_), *(self.result(id_, part) for part in parts)]
        return parts, sum(file.stat().st_size for file in files if file is not None)


def check_batches(settings: BatchesSettings) -> None:
    """Raises ConfigError."""
    if settings.path and not Path(settings.path).is_absolute():
        raise ConfigError(f"batches.path: {settings.path}: name it from the root on, /var/lib/lookupd/a-batches")
    if settings.keep < 60:
        raise ConfigError("batches.keep: at least 1m: a result is to be fetched")
    if not 1 <= settings.jobs_max <= JOBS_MAX:
        raise ConfigError(f"batches.jobs_max: 1 to {JOBS_MAX}")
    if not 1 <= settings.running <= JOBS_RUNNING_MAX:
        raise ConfigError(f"batches.running: 1 to {JOBS_RUNNING_MAX}")
    if settings.bytes_max < 1:
        raise ConfigError("batches.bytes_max: at least 1B")


def is_full(error: OSError) -> bool:
    """Whether it is for want of room."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def _told_as_no_room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise NoRoom(f"the disk of batches.path: {error.strerror}") from None
        raise


def write_progress(folder: Path, progress: Progress) -> None:
    """By the job's process. Not synced: after a crash an older one does. Raises OSError."""
    draft = folder / f".{PROGRESS}"
    with open(draft, "wb", opener=_private) as file:
        file.write(msgspec.json.encode(progress))
    draft.rename(folder / PROGRESS)


def _write(path: Path, content: msgspec.Struct) -> None:
    with open(path, "wb", opener=_private) as file:
        file.write(msgspec.json.encode(content))
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path, struct: type[Stored]) -> Stored | None:
    """None if it is not there, or not what it should be."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(JOBS_FILE_BYTES_MAX), type=struct)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock_file(path: Path) -> int | None:
    """Its descriptor, locked; None if another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _is_left(folder: Path) -> bool:
    """Whether nobody receives this upload any more. One is left alone at first: its file is not locked yet."""
    try:
        if time.time() - folder.stat().st_mtime < JOBS_LEFT_SECONDS:
            return False
        with (folder / INPUT).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    return True
