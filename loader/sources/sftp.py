"""A folder on an SFTP server as a source, over one connection that is kept between calls.

Whom we connect to, and what went wrong when that failed, is for `ssh`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar, cast

import asyncssh
from asyncssh.packet import PacketDecodeError

from loader.durable import CHUNK_BYTES, FILE_BYTES_MAX, Part
from loader.sources.place import Listing, changed, check_name, no_answer
from loader.sources.ssh import ConnectionLost, Host
from lookupd.errors import SourceError

Result = TypeVar("Result")

PIECE_BYTES = 32_768
"""One read request: what every SFTP server must take (draft-ietf-secsh-filexfer-02 section 3)."""

_NO_SUCH_FILE = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath)
_MAYBE_FILES = {asyncssh.FILEXFER_TYPE_REGULAR, asyncssh.FILEXFER_TYPE_SYMLINK, asyncssh.FILEXFER_TYPE_UNKNOWN}


class SftpSource:
    """Files of one folder on an SFTP server; acknowledgements are written into the same one."""

    def __init__(self, host: Host, folder: str, timeout: float) -> None:
        """folder: absolute, on the server. timeout: seconds for each step of a transfer."""
        self._host = host
        self._folder = folder.rstrip("/")
        self._timeout = timeout
        self._place = f"{host.url}{folder}"
        self._connection: asyncssh.SSHClientConnection | None = None
        self._sftp: asyncssh.SFTPClient | None = None
        self._cut_off = False

    async def names(self) -> frozenset[str]:
        """See Source."""
        return await self._call(self._names)

    async def fetch(self, name: str, to: Path) -> None:
        """See Source. A file is the same if size and time of change are; SFTP knows no better."""
        check_name(self._place, name)
        await self._call(lambda sftp: self._fetch(sftp, name, to))

    async def publish(self, name: str, content: bytes) -> bool:
        """See Source."""
        check_name(self._place, name)
        await self._call(lambda sftp: self._publish(sftp, self._path(name), content))
        return True

    async def close(self) -> None:
        """Say goodbye, if the server still listens."""
        if self._connection is not None:
            self._connection.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout):
                    await self._connection.wait_closed()
        await self._drop()

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"

    async def _names(self, sftp: asyncssh.SFTPClient) -> frozenset[str]:
        listing = Listing(self._place)
        entries = cast("AsyncGenerator[asyncssh.SFTPName]", sftp.scandir(self._path("").encode()))
        try:
            while True:
                async with self._step():
                    entry = await anext(entries, None)
                if entry is None:
                    return listing.names()
                name = cast(bytes, entry.filename).decode("utf-8", "surrogateescape")
                listing.add(name, wanted=entry.attrs.type in _MAYBE_FILES)
        finally:
            async with self._step():
                await entries.aclose()

    async def _fetch(self, sftp: asyncssh.SFTPClient, name: str, to: Path) -> None:
        size, version = await self._version(sftp, name)
        part = await asyncio.to_thread(Part, to)
        try:
            await asyncio.to_thread(part.begin, version, size)
            async with self._step():
                file = await sftp.open(self._path(name), "rb", block_size=0)
            while part.length < size:
                async with self._step():
                    chunk = await _read(file, part.length, min(CHUNK_BYTES, size - part.length))
                if not chunk:
                    break
                await asyncio.to_thread(part.write, chunk)
            async with self._step():
                await file.close()
            if part.length != size or await self._version(sftp, name) != (size, version):
                raise changed(self._place, name)
            await asyncio.to_thread(part.finish)
        finally:
            await asyncio.to_thread(part.close)

    async def _version(self, sftp: asyncssh.SFTPClient, name: str) -> tuple[int, str]:
        """Size, and what tells this content from another."""
        async with self._step():
            attrs = await sftp.stat(self._path(name))
        if attrs.size is None or attrs.mtime is None:
            raise SourceError(f"{self._place}: {name}: the server tells no size and time of change: ask its operator")
        if attrs.type != asyncssh.FILEXFER_TYPE_REGULAR:
            raise SourceError(f"{self._place}: {name} is no regular file: have the sender put a file there")
        if attrs.size > FILE_BYTES_MAX:
            raise SourceError(f"{self._place}: {name}: longer than {FILE_BYTES_MAX} bytes: ask its sender")
        return attrs.size, f"sftp {attrs.size} {attrs.mtime} {attrs.mtime_ns or 0}"

    async def _publish(self, sftp: asyncssh.SFTPClient, path: str, content: bytes) -> None:
        part = path + ".part"
        async with self._step():
            file = await sftp.open(part, "wb")
        for at in range(0, len(content), CHUNK_BYTES):
            async with self._step():
                await file.write(content[at : at + CHUNK_BYTES], at)
        async with self._step():
            with contextlib.suppress(asyncssh.SFTPOpUnsupported):
                await file.fsync()
            await file.close()
            await self._rename(sftp, part, path)

    async def _rename(self, sftp: asyncssh.SFTPClient, part: str, path: str) -> None:
        """Where a server cannot replace, the old one goes first: plain SFTP renames only to a free name."""
        try:
            await sftp.posix_rename(part, path)
        except asyncssh.SFTPOpUnsupported:
            with contextlib.suppress(*_NO_SUCH_FILE):
                await sftp.remove(path)
            await sftp.rename(part, path)

    async def _call(self, work: Callable[[asyncssh.SFTPClient], Awaitable[Result]]) -> Result:
        """Do it; once more on a new connection if it was the kept one that broke: it may have been dead for long."""
        kept = self._connection is not None and not self._connection.is_closed()
        try:
            return await self._try(work)
        except ConnectionLost:
            if not kept:
                raise
        return await self._try(work)

    async def _try(self, work: Callable[[asyncssh.SFTPClient], Awaitable[Result]]) -> Result:
        """Whatever goes wrong takes the connection with it: then no handle and no half-read answer stays."""
        try:
            if self._sftp is None or self._connection is None or self._connection.is_closed():
                await self._drop()
                self._connection = await self._host.connect(self._timeout)
                async with self._step():
                    self._sftp = await self._connection.start_sftp_client()
            return await work(self._sftp)
        except (OSError, asyncssh.Error, UnicodeError, PacketDecodeError) as error:
            await self._drop()
            raise self._host.explain(self._place, error) from None
        except BaseException:
            await self._drop()
            raise

    async def _drop(self) -> None:
        connection, self._connection, self._sftp = self._connection, None, None
        if connection is not None:
            connection.abort()
            await connection.wait_closed()

    @contextlib.asynccontextmanager
    async def _step(self) -> AsyncIterator[None]:
        """Raises SourceError if what is asked takes longer than the time limit.

        The connection is cut, not the call cancelled: asyncssh tidies up by asking the server once more, which
        would wait for the same silent server.
        """
        assert self._connection is not None
        self._cut_off = False
        timer = asyncio.get_running_loop().call_later(self._timeout, self._cut, self._connection)
        try:
            yield
        except (OSError, asyncssh.Error):
            if self._cut_off:
                raise no_answer(self._place, self._timeout) from None
            raise
        finally:
            timer.cancel()

    def _cut(self, connection: asyncssh.SSHClientConnection) -> None:
        self._cut_off = True
        connection.abort()


async def _read(file: asyncssh.SFTPClientFile, at: int, size: int) -> bytes:
    """A chunk by requests side by side; less if the server gave less, empty at the end of the file.

    Not asyncssh's own parallel reading, which fills a gap with zeros.
    """
    offsets = range(at, at + size, PIECE_BYTES)
    pieces = await asyncio.gather(*(file.read(min(PIECE_BYTES, at + size - offset), offset) for offset in offsets))
    chunk = bytearray()
    for offset, piece in zip(offsets, cast("tuple[bytes, ...]", pieces), strict=True):
        wanted = min(PIECE_BYTES, at + size - offset)
        chunk += piece[:wanted]
        if len(piece) < wanted:
            break
    return bytes(chunk)
