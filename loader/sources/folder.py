"""A folder as a source: a directory of this machine, or a network file system mounted on it.

What the file system does not answer is cut off here; what its files mean is for `formats`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from loader.durable import CHUNK_BYTES, Part, write_whole
from loader.sources.place import Listing, changed, check_name, no_answer
from lookupd.errors import SourceError

Result = TypeVar("Result")


class _Work:
    """What one thread does for one call: it tells of each step, and stops when nobody waits for it any more."""

    def __init__(self) -> None:
        self.steps = 0
        self.abandoned = False

    def step(self) -> None:
        """The file system answered."""
        self.steps += 1
        if self.abandoned:
            raise InterruptedError


class FolderSource:
    """Files of one folder; acknowledgements are written into the same one."""

    def __init__(self, folder: Path, timeout: float) -> None:
        """timeout: seconds for each step: one system call, or one chunk of a copy."""
        self._folder = folder
        self._place = f"dir://{folder}"
        self._timeout = timeout
        self._thread: threading.Thread | None = None

    async def names(self) -> frozenset[str]:
        """See Source."""
        return await self._in_thread(self._names)

    async def fetch(self, name: str, to: Path) -> None:
        """See Source. A copy starts anew each time: reading the half again costs less than trusting it."""
        check_name(self._place, name)
        await self._in_thread(lambda work: self._copy(work, name, to))

    async def publish(self, name: str, content: bytes) -> bool:
        """See Source."""
        check_name(self._place, name)
        await self._in_thread(lambda work: write_whole(self._folder / name, content))
        return True

    async def close(self) -> None:
        """Nothing is held open."""

    def _names(self, work: _Work) -> frozenset[str]:
        listing = Listing(self._place)
        with os.scandir(self._folder) as entries:
            for entry in entries:
                work.step()
                listing.add(entry.name, wanted=_is_file(entry))
        return listing.names()

    def _copy(self, work: _Work, name: str, to: Path) -> None:
        path = self._folder / name
        with self._open(path) as file:
            before = os.fstat(file.fileno())
            part = Part(to)
            try:
                part.begin("", before.st_size)
                while part.length <= before.st_size and (chunk := file.read(CHUNK_BYTES)):
                    work.step()
                    part.write(chunk)
                after = path.stat()
                work.step()
                if (part.length, after.st_size, after.st_mtime_ns) != (
                    before.st_size,
                    before.st_size,
                    before.st_mtime_ns,
                ):
                    raise changed(self._place, name)
                part.finish()
            finally:
                part.close()

    def _open(self, path: Path) -> io.FileIO:
        """O_NONBLOCK: a pipe in the folder would else hold us until somebody writes into it."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise SourceError(f"{self._place}: {path.name} is no regular file: have the sender put a file there")
        return io.FileIO(descriptor)

    async def _in_thread(self, call: Callable[[_Work], Result]) -> Result:
        """Run the call in a thread of its own and wait as long as it gets ahead.

        Not asyncio.to_thread: a network file system may hold a thread for hours, the threads there are few and
        shared with the whole process, and its end would wait for them. So one thread at most hangs for a source,
        it is none that an exit waits for, and until it is let go nothing else is asked of the folder.
        """
        if self._thread is not None and self._thread.is_alive():
            raise no_answer(self._place, self._timeout)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        work = _Work()
        self._thread = threading.Thread(target=_run, args=(call, work, answer, loop), daemon=True, name=self._place)
        self._thread.start()
        try:
            with self._folder_errors():
                steps = -1
                while steps != work.steps:
                    steps = work.steps
                    if (await asyncio.wait({answer}, timeout=self._timeout))[0]:
                        self._thread = None
                        return answer.result()
            raise no_answer(self._place, self._timeout)
        finally:
            work.abandoned = True
            answer.cancel()

    @contextlib.contextmanager
    def _folder_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            name = Path(os.fsdecode(error.filename)).name if error.filename else ""
            if isinstance(error, FileNotFoundError | NotADirectoryError) and name in {"", self._folder.name}:
                reason = "no such folder: create or mount it, or correct the feed's `source`"
            elif isinstance(error, PermissionError):
                reason = (
                    f"{name}: {error.strerror}: let the loader's user read the folder, and write for acknowledgements"
                )
            else:
                reason = f"{name + ': ' if name else ''}{error.strerror}: see that the folder is mounted and sound"
            raise SourceError(f"{self._place}: {reason}; it is tried again") from None


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A link that leads nowhere, or in a circle, is none."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _run(
    call: Callable[[_Work], Result], work: _Work, answer: asyncio.Future[Result], loop: asyncio.AbstractEventLoop
) -> None:
    """The thread's work: whatever comes of it goes to the one who waits, if somebody does."""
    result: Result | None = None
    failure: BaseException | None = None
    try:
        result = call(work)
    except BaseException as error:
        failure = error

    def deliver() -> None:
        if answer.done():
            return
        if failure is not None:
            answer.set_exception(failure)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
        loop.call_soon_threadsafe(deliver)
