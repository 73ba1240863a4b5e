"""Runs jobs: each in a process of its own, so many at a time; begins them anew after a crash, and deletes what is old.

What a job is, and where it lies, is `jobs`; what its process does is `jobs_work`. Of the daemons of one folder the one
that holds its lock runs jobs: while one process follows another, that is first the earlier, then the later one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar

import msgspec

from lookupd.jobs import CAUSES, STATES, End, Job, JobFolder, NoRoom, State
from lookupd.jobs_clock import JobsClock
from lookupd.jobs_words import Told, Work
from lookupd.limits import (
    JOBS_AGAIN_SECONDS,
    JOBS_END_SECONDS,
    JOBS_LOOK_SECONDS,
    JOBS_STARTS_MAX,
    JOBS_TOLD_BYTES_MAX,
    JOBS_UPLOADS_MAX,
)
from lookupd.observe.log import log
from lookupd.settings import Config

P = ParamSpec("P")
Found = TypeVar("Found")

RESULTS = ("done", "cancelled", *CAUSES)
"""How jobs end: the closed set of a metric's label."""

_TRANSIENT = ("store",)
"""Causes that may be over in a moment."""


class Tried(NamedTuple):
    """Of a job that did not come to its end: how often it was begun, and when it may be again, monotonic."""

    starts: int
    again_at: float


class Runner:
    """One daemon's."""

    def __init__(
        self,
        config: Config,
        readiness: Callable[[], str | None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        clock: JobsClock | None = None,
        count: Callable[[str, Mapping[str, int], int], None] = lambda client, outcomes, bad: None,
    ) -> None:
        """readiness: why queries are not answered from data, or None: without it no job begins. count: told once of
        each job that is done: whose it was, its rows by outcome, and those that were no question."""
        self.settings = config.batches
        self.folder = JobFolder(config.batches)
        self.clock = clock or JobsClock(config.limits.clock_step)
        self.ended = dict.fromkeys(RESULTS, 0)
        self.rows = 0
        self.states: dict[State, int] = dict.fromkeys(STATES, 0)
        self.bytes = 0
        self.receiving: list[tuple[str, str]] = []
        """Uploads under way, over all listeners: client and key."""
        self._config = config
        self._readiness = readiness
        self._monotonic = monotonic
        self._count_rows = count
        self._running: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._stopped: dict[str, NoRoom | None] = {}
        self._rows_of: dict[str, int] = {}
        self._tried: dict[str, Tried] = {}
        self._begun: dict[str, float] = {}
        self._threads = ThreadPoolExecutor(JOBS_UPLOADS_MAX + 2, "batches")
        self._woken = asyncio.Event()
        self._trouble: str | None = None
        self._is_closing = False
        self._escaped: BaseException | None = None

    async def beside(self, work: Callable[P, Found], *of: P.args, **named: P.kwargs) -> Found:
        """Work that waits for the disk, in threads of our own: when it hangs, nobody else waits."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *of, **named))

    # -- for whoever asks --------------------------------------------------------------------------------

    def state(self, job: Job) -> State:
        """As of now. While another process runs the jobs, one that has begun is taken for one that goes on."""
        elsewhere = not self.folder.has_lock and job.progress is not None
        return job.state(self.clock.now(), is_running=job.id in self._processes or elsewhere)

    @property
    def is_usable(self) -> bool:
        """Whether the folder can be used."""
        return self._trouble is None

    def wake(self) -> None:
        """Something has changed: look at once."""
        self._woken.set()

    async def accepted(self, job: Job) -> None:
        """A job is there, safely."""
        log("batch_accepted", client=job.order.client, job=job.id, bytes=job.order.bytes)
        self.wake()

    async def cancel(self, job: Job) -> bool:
        """Whether it is cancelled now; not if it had ended before. Raises OSError."""
        end = End("cancelled", int(self.clock.now()))
        done = await self.beside(self.folder.end, job.id, end)
        if done:
            self.ended["cancelled"] += 1
            log("batch_cancelled", client=job.order.client, job=job.id)
            await self._halt(job.id, None)
            await self.beside(self.folder.strip, job.id, result=True, list_=True)
        self.wake()
        return done

    async def delete(self, job: Job, why: str) -> bool:
        """Whether it was there. Raises OSError."""
        await self._halt(job.id, None)
        done = await self.beside(self.folder.delete, job.id)
        if done:
            log("batch_deleted", client=job.order.client, job=job.id, bytes=job.order.bytes, why=why)
        self.wake()
        return done

    # -- life --------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Look for work again and again."""
        while True:
            self._woken.clear()
            await self.look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), JOBS_LOOK_SECONDS)

    async def close(self) -> None:
        """End what runs, which goes on from its checkpoint in the process that takes the lock next."""
        self._is_closing = True
        for id_ in list(self._running):
            await self._halt(id_, None)
        self.folder.release_lock()
        self._threads.shutdown(wait=False)

    async def look(self) -> None:
        """Begin, end and delete what is due. What the disk has against it is told once, and tried again."""
        escaped, self._escaped = self._escaped, None
        try:
            if escaped is not None:
                raise escaped
            is_ours = await self.beside(self.folder.take_lock)
            if is_ours:
                await self.beside(self.folder.tidy)
            jobs = await self.beside(self.folder.all)
            self._count(jobs)
            if is_ours:
                await self._tend(jobs)
        except OSError as error:
            reason = f"{self.settings.path}: {error.strerror}"
            if reason != self._trouble:
                log("batches_unusable", reason=reason)
            self._trouble = reason
            return
        if self._trouble is not None:
            self._trouble = None
            log("batches_usable", path=self.settings.path)

    def _count(self, jobs: list[Job]) -> None:
        """For metrics."""
        self.states = dict.fromkeys(STATES, 0)
        for job in jobs:
            self.states[self.state(job)] += 1
            if job.id in self._running and job.progress is not None:
                self._note_rows(job.id, job.progress.rows)
        self.bytes = sum(job.order.bytes if job.end is None else job.end.bytes for job in jobs)

    def _note_rows(self, id_: str, rows: int) -> None:
        self.rows += max(0, rows - self._rows_of.get(id_, 0))
        self._rows_of[id_] = max(rows, self._rows_of.get(id_, 0))

    async def _tend(self, jobs: list[Job]) -> None:
        kept = {job.id for job in jobs if job.end is None}
        for id_ in self._running.keys() - kept:  # cancelled or deleted by way of another process
            await self._halt(id_, None)
        await self._leave_room()
        now = self.clock.settled()
        for job in jobs:
            if job.expires_at(self.settings.keep) <= now and job.id not in self._running:
                await self.delete(job, "expired")
        for gone in self._tried.keys() - kept:
            del self._tried[gone]
        self._begin_next([job for job in jobs if job.end is None])

    async def _leave_room(self) -> None:
        """Results may fill the disk up to free_min, and no further."""
        if not self._running:
            return
        try:
            await self.beside(self.folder.need_room, 0)
        except NoRoom as error:
            for id_ in list(self._running):
                await self._halt(id_, error)

    def _begin_next(self, jobs: list[Job]) -> None:
        """In turns: the client whose job was begun longest ago is next; what was interrupted goes first."""
        if self._is_closing or self._readiness() is not None:
            return
        now = self.clock.now()
        due = [job for job in jobs if job.order.due <= now and job.id not in self._running and self._may_again(job.id)]
        due.sort(key=lambda job: (job.progress is None, self._begun.get(job.order.client, 0.0), job.order.due, job.id))
        for job in due[: max(0, self.settings.running - len(self._running))]:
            self._begun[job.order.client] = self._monotonic()
            task = self._running[job.id] = asyncio.create_task(self._run(job))
            task.add_done_callback(lambda ended, id_=job.id: self._left(id_, ended))  # type: ignore[misc]

    def _may_again(self, id_: str) -> bool:
        tried = self._tried.get(id_)
        return tried is None or tried.again_at <= self._monotonic()

    def _left(self, id_: str, task: asyncio.Task[None]) -> None:
        """A task ended. What escapes it is looked at by `look`: the disk's trouble, or a fault of ours."""
        del self._running[id_]
        self._stopped.pop(id_, None)
        self._rows_of.pop(id_, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._escaped = error
        self.wake()

    # -- one job -----------------------------------------------------------------------------------------

    async def _run(self, job: Job) -> None:
        """Its process, to its end."""
        self._rows_of[job.id] = 0 if job.progress is None else job.progress.rows
        work = Work.of(self._config, self.folder.path / job.id, job.order)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "lookupd.jobs_work"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            await self._settle(job, None, f"cannot be started: {error.strerror}")
            return
        self._processes[job.id] = process
        try:
            if job.id in self._stopped:
                _kill(process)
            told = await self._converse(process, work)
        finally:
            del self._processes[job.id]
        code = process.returncode
        await self._settle(job, told, f"signal {-code}" if code is not None and code < 0 else f"exit {code}")

    async def _converse(self, process: asyncio.subprocess.Process, work: Work) -> Told | None:
        """What it says at its end; its input stays open for as long as we live."""
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(ConnectionError, RuntimeError):  # uvloop's, of a process that is gone already
            process.stdin.write(msgspec.json.encode(work) + b"\n")
            await process.stdin.drain()
        said = b""
        try:
            while len(said) < JOBS_TOLD_BYTES_MAX and (piece := await process.stdout.read(1 << 16)):
                said += piece
        finally:
            _kill(process)  # it has said all; whatever it started ends with it
            await process.wait()
            process.stdin.close()
        try:
            return msgspec.json.decode(said, type=Told)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None

    async def _settle(self, job: Job, told: Told | None, how: str) -> None:
        """how: its process ended."""
        if job.id in self._stopped:
            why = self._stopped[job.id]
            if why is None:
                return
            told = Told(cause="disk", reason=str(why))
        if told is None or told.cause in _TRANSIENT:
            told = self._try_again(job.id, told, how)
            if told is None:
                return
        await self._finish(job, told)

    def _try_again(self, id_: str, told: Told | None, how: str) -> Told | None:
        """None if it may; how it ended if it was begun often enough."""
        starts = self._tried[id_].starts + 1 if id_ in self._tried else 1
        if starts >= JOBS_STARTS_MAX:
            return told or Told("killed", f"its process came to no end, {starts} times; the last time: {how}")
        again_at = self._monotonic() + JOBS_AGAIN_SECONDS * 2 ** (starts - 1)
        self._tried[id_] = Tried(starts, again_at)
        return None

    async def _finish(self, job: Job, told: Told) -> None:
        is_done = told.cause is None
        state: Literal["done", "failed"] = "done" if is_done else "failed"
        parts, size = await self.beside(self.folder.measure, job.id) if is_done else ((), 0)
        if not is_done:  # on a disk that is full, how it ended has room only then
            await self.beside(self.folder.strip, job.id, result=True, list_=False)
        end = End(state, int(self.clock.now()), told.reason, told.cause, told.summary, size, parts)
        try:
            first = await self.beside(self.folder.end, job.id, end)
        except FileNotFoundError:
            return  # deleted meanwhile
        if not first:
            return
        summary = told.summary or {}
        self._note_rows(job.id, _whole(summary.get("rows")))
        self.ended[told.cause or "done"] += 1
        if is_done:
            counts = {name: _whole(summary.get(name)) for name in ("rows", "bad", "duplicates")}
            outcomes = summary.get("outcomes") or {}
            self._count_rows(job.order.client, {name: _whole(outcomes[name]) for name in outcomes}, counts["bad"])
            log("batch_done", client=job.order.client, job=job.id, **counts, seconds=summary.get("seconds", 0))
        else:
            log("batch_failed", client=job.order.client, job=job.id, cause=told.cause, reason=_for_log(told))
        await self.beside(self.folder.strip, job.id, result=not is_done, list_=True)

    async def _halt(self, id_: str, why: NoRoom | None) -> None:
        """End its process, and see it gone. why: as how it then fails; None = that is known."""
        task = self._running.get(id_)
        if task is None:
            return
        self._stopped[id_] = why
        process = self._processes.get(id_)
        if process is not None:
            _kill(process)
        await asyncio.wait({task}, timeout=JOBS_END_SECONDS)


def _kill(process: asyncio.subprocess.Process) -> None:
    """With all that it started: it leads a session of its own."""
    if process.returncode is not None:
        return  # its number may be another's by now
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _for_log(told: Told) -> str:
    """What is wrong with a list may quote it: only its client is told."""
    return "the list cannot be read" if told.cause == "input" else told.reason or ""
