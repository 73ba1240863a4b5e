"""Lists of numbers as jobs, over HTTP: an upload becomes a job, which is asked for until it has a result.

POST /v1/batches                        CSV, also as gzip or zstd: 201, and where the job is
GET  /v1/batches                        the client's own jobs
GET  /v1/batches/{id}                   how far it is
GET  /v1/batches/{id}/result            the whole list with its answers; /result/{network}.csv: of one network
GET  /v1/batches/{id}/summary           counts of a job that is done
POST /v1/batches/{id}/cancel, /delete   end it; forget it

A client sees its own jobs only: another's are not there for it. Who runs them is `jobs_runner`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from lookupd.jobs import MAGIC, Job, Kind, NoRoom, Order, Upload
from lookupd.jobs_runner import Runner
from lookupd.limits import (
    HTTP_STALL_SECONDS,
    JOBS_PIECE_BYTES,
    JOBS_UPLOAD_SECONDS,
    JOBS_UPLOADS_MAX,
)
from lookupd.units import format_time
from lookupd.web import Route, Site, client_of, json_response
from lookupd.web.batch_wishes import Asked, read_asked
from lookupd.web.errors import Problem

_KINDS: dict[str, Kind] = {
    "text/csv": "csv", "application/gzip": "gzip", "application/x-gzip": "gzip", "application/zstd": "zstd",
}  # fmt: skip
_RESULT_TYPE = "text/csv"

Answer = Callable[[Runner, web.Request], Awaitable[web.StreamResponse]]


class Batches:
    """The handlers."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[Route]:
        """For a listener."""
        get: dict[str, Answer] = {
            "/v1/batches": self._list,
            "/v1/batches/{id}": self._get,
            "/v1/batches/{id}/result": self._result,
            "/v1/batches/{id}/result/{network}.csv": self._result,
            "/v1/batches/{id}/summary": self._summary,
        }
        post: dict[str, Answer] = {"/v1/batches/{id}/cancel": self._cancel, "/v1/batches/{id}/delete": self._delete}
        return [
            *(Route("GET", path, self._served(answer), "batch") for path, answer in get.items()),
            *(Route("POST", path, self._served(answer), "batch") for path, answer in post.items()),
            Route("POST", "/v1/batches", self._served(self._post), "batch", streams=True),
        ]

    def _served(self, answer: Answer) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """What the disk has against it is an answer, too."""

        async def handler(request: web.Request) -> web.StreamResponse:
            runner = self._site.jobs
            if runner is None:
                raise Problem(404, "batches are not served here", "[batches] path = FOLDER lets them be")
            try:
                return await answer(runner, request)
            except NoRoom as error:
                raise Problem(507, str(error), "later, or a smaller list; delete jobs that are done") from None
            except ConnectionError:
                raise  # the client's, not the disk's
            except OSError as error:
                raise Problem(503, f"the folder of batches: {error.strerror}", retry=10) from None

        return handler

    # -- an upload ---------------------------------------------------------------------------------------

    async def _post(self, runner: Runner, request: web.Request) -> web.StreamResponse:
        kind = _KINDS.get(request.content_type)
        if kind is None:
            raise Problem(415, f"not {request.content_type}", f"send {', '.join(_KINDS)}")
        client = client_of(request).name
        asked = read_asked(request, client, runner.clock.now())
        mine = (client, asked.key)
        if len(runner.receiving) >= JOBS_UPLOADS_MAX:
            raise Problem(429, f"{JOBS_UPLOADS_MAX} uploads are under way", retry=10)
        if asked.key and mine in runner.receiving:
            raise Problem(409, "Idempotency-Key: an upload with it is under way", retry=10)
        runner.receiving.append(mine)
        try:
            return await self._receive(runner, request, client, kind, asked)
        finally:
            runner.receiving.remove(mine)

    async def _receive(
        self, runner: Runner, request: web.Request, client: str, kind: Kind, asked: Asked
    ) -> web.StreamResponse:
        jobs = await _own_jobs(runner, client, missing_ok=True)
        before = next((job for job in jobs if asked.key and job.order.key == asked.key), None)
        settings = runner.settings
        if before is None and len(jobs) >= settings.jobs_max:
            way_out = "POST /v1/batches/{id}/delete for those that are done with"
            raise Problem(429, f"this client has {len(jobs)} jobs (batches.jobs_max)", way_out, retry=60)
        if (request.content_length or 0) > settings.bytes_max:
            raise _too_large(settings.bytes_max)
        upload = await runner.beside(runner.folder.begin_upload)
        try:
            await self._fill(runner, upload, request, kind)
            order = Order(
                upload.id, client, int(runner.clock.now()), upload.bytes, upload.sha256, kind,
                asked.name, asked.at, asked.wishes, asked.key,
            )  # fmt: skip
            if before is not None:
                return _again(runner, before, order)
            job = await runner.beside(upload.accept, order)
        finally:
            await asyncio.shield(runner.beside(upload.discard))
        await runner.accepted(job)
        return json_response(told(runner, job), status=201, headers={"Location": f"/v1/batches/{job.id}"})

    async def _fill(self, runner: Runner, upload: Upload, request: web.Request, kind: Kind) -> None:
        """The body to the disk: the next piece is read when this one is written. Raises Problem, NoRoom, OSError."""
        begun, most = bytearray(), runner.settings.bytes_max
        async for piece in _pieces(request):
            begun += piece
            if upload.bytes + len(begun) > most:
                raise _too_large(most)
            if len(begun) >= JOBS_PIECE_BYTES:
                _check_kind(upload, begun, kind)
                await runner.beside(upload.write, bytes(begun))
                begun.clear()
        _check_kind(upload, begun, kind)
        if not upload.bytes and not begun:
            raise Problem(400, "body: empty: a list has a line at least")
        await runner.beside(upload.write, bytes(begun))

    # -- jobs --------------------------------------------------------------------------------------------

    async def _list(self, runner: Runner, request: web.Request) -> web.StreamResponse:
        jobs = await _own_jobs(runner, client_of(request).name, missing_ok=True)
        return json_response({"batches": [told(runner, job) for job in reversed(jobs)]})

    async def _get(self, runner: Runner, request: web.Request) -> web.StreamResponse:
        return json_response(told(runner, await _own_job(runner, request)))

    async def _summary(self, runner: Runner, request: web.Request) -> web.StreamResponse:
        job = await _own_job(runner, request)
        _need_done(runner, job)
        assert job.end is not None
        return json_response(job.end.summary or {})

    async def _result(self, runner: Runner, request: web.Request) -> web.StreamResponse:
        job = await _own_job(runner, request)
        _need_done(runner, job)
        part = request.match_info.get("network")
        file = await runner.beside(runner.folder.result, job.id, part)
        if file is None:
            why = "its list was not split: ?split=true" if not job.order.wishes.split else "no number of it is there"
            raise Problem(404, f"this job has no result of its own for {part!r}" if part else "its result is gone", why)
        name = f"{job.id}.csv" if part is None else f"{job.id}-{part}.csv"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "private, no-cache"}
        return web.FileResponse(file, headers=headers | {"Content-Type": _RESULT_TYPE})

    async def _cancel(self, runner: Runner, request: web.Request) -> web.StreamResponse:
        job = await _own_job(runner, request)
        if not await runner.cancel(job):
            job = await _own_job(runner, request)
            raise Problem(409, f"it is {runner.state(job)} already", "POST /v1/batches/{id}/delete forgets it")
        return json_response(told(runner, await _own_job(runner, request)))

    async def _delete(self, runner: Runner, request: web.Request) -> web.StreamResponse:
        job = await _own_job(runner, request)
        await runner.delete(job, "asked")
        return json_response({"id": job.id, "deleted": True})


def told(runner: Runner, job: Job) -> dict[str, Any]:
    """A job in words: keys never vanish."""
    order, end, state = job.order, job.end, runner.state(job)
    is_done = state == "done"
    progress = job.progress
    rows = (end.summary or {}).get("rows", 0) if end and is_done else progress.rows if progress else 0
    read = order.bytes if is_done else min(progress.bytes, order.bytes) if progress else 0
    here = f"/v1/batches/{job.id}"
    return {
        "id": job.id,
        "name": order.name,
        "state": state,
        "created_at": format_time(order.created_at),
        "at": format_time(order.at),
        "ended_at": format_time(end.at if end else None),
        "expires_at": format_time(job.expires_at(runner.settings.keep)),
        "bytes": order.bytes,
        "bytes_done": read,
        "percent": round(100 * read / order.bytes, 1) if order.bytes else 0.0,
        "rows": rows,
        "reason": end.reason if end else None,
        "result": f"{here}/result" if is_done else None,
        "results": [f"{here}/result/{part}.csv" for part in end.parts] if end else [],
        "summary": end.summary if end else None,
    }


# -- what is asked -----------------------------------------------------------------------------------------


async def _own_jobs(runner: Runner, client: str, *, missing_ok: bool) -> list[Job]:
    """The oldest first. missing_ok: before the first upload there is no folder."""
    try:
        jobs = await runner.beside(runner.folder.all)
    except FileNotFoundError:
        if not missing_ok:
            raise
        return []
    return [job for job in jobs if job.order.client == client]


async def _own_job(runner: Runner, request: web.Request) -> Job:
    """Raises Problem: another client's is told of no more than one that never was."""
    job = await runner.beside(runner.folder.find, request.match_info["id"])
    if job is None or job.order.client != client_of(request).name:
        raise Problem(404, "no such batch", "GET /v1/batches lists those of this client")
    return job


def _need_done(runner: Runner, job: Job) -> None:
    state = runner.state(job)
    if state in {"failed", "cancelled"}:
        raise Problem(409, f"it is {state}: it has no result")
    if state != "done":
        raise Problem(409, f"it is {state}: it has no result yet", "GET /v1/batches/{id} tells how far it is", retry=1)


def _again(runner: Runner, before: Job, order: Order) -> web.Response:
    """The same asked a second time is the same job. Raises Problem if it is not the same."""
    same = ("sha256", "kind", "name", "at", "wishes")
    if any(getattr(order, field) != getattr(before.order, field) for field in same):
        raise Problem(422, "Idempotency-Key: was used for another list, or to read it otherwise", "take another key")
    return json_response(told(runner, before), headers={"Location": f"/v1/batches/{before.id}"})


def _too_large(most: int) -> Problem:
    return Problem(413, f"more than {most:,} bytes (batches.bytes_max)", "several lists, or gzip or zstd")


def _check_kind(upload: Upload, begun: bytearray, kind: Kind) -> None:
    """A list that is not what its Content-Type says is told so at once, not when it is run."""
    if upload.bytes:
        return
    found = next((each for each, magic in MAGIC.items() if begun.startswith(magic)), "csv")
    if begun and found != kind:
        raise Problem(400, f"body: it is {found}, not the {kind} that Content-Type names")


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    """The body as it comes. Raises Problem when it stops coming."""
    until = time.monotonic() + JOBS_UPLOAD_SECONDS
    while True:
        left = until - time.monotonic()
        try:
            async with asyncio.timeout(min(HTTP_STALL_SECONDS, max(left, 0))):
                piece = await request.content.readany()
        except TimeoutError:
            if left < HTTP_STALL_SECONDS:
                raise Problem(408, f"the upload took over {JOBS_UPLOAD_SECONDS:g} s", "a smaller list") from None
            raise Problem(408, f"nothing came for {HTTP_STALL_SECONDS:g} s") from None
        except HttpProcessingError as error:
            raise Problem(400, f"body: {error.message}") from None
        except ConnectionError:
            raise Problem(400, "body: it broke off") from None
        if not piece:
            return
        yield piece
