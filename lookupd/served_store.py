"""The store that a daemon serves: opened and read through before it answers, looked after as long as it does.

A store may appear, be replaced by a restored one, or have new data, at any time. What it answers is `engine`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from lookupd.engine import Engine
from lookupd.errors import StoreError
from lookupd.limits import READER_CHECK_SECONDS
from lookupd.observe.log import log
from lookupd.store.reader import Reader
from lookupd.store.schema import format_digest


class ServedStore:
    """The engine's reader, and whoever else reads by it."""

    def __init__(
        self,
        engine: Engine,
        open_store: Callable[[Path, int], Reader],
        *,
        changed: Callable[[], None],
        let_go: Callable[[], None],
    ) -> None:
        """open_store: by path and map size. changed: called when the engine has another reader, or none. let_go: called
        before one is closed."""
        self.trouble: str | None = None
        """Why there is none, or the new one is not served."""
        self._engine = engine
        self._open_store = open_store
        self._changed, self._let_go = changed, let_go
        self._told_serial = -1
        self._readers_checked_at = time.monotonic()

    async def open(self, path: Path, map_size: int) -> None:
        """Open and warm it outside the event loop; not being there yet is no error.

        A store that was open, and is replaced, answers until then, and goes on if the new one cannot be opened.
        """
        try:
            started = time.monotonic()
            reader = await asyncio.to_thread(self._open_warm, path, map_size)
        except StoreError as error:
            if str(error) != self.trouble:
                self.trouble = str(error)
                log("store_unavailable", reason=error)
            return
        self.trouble = None
        if self._replace(reader):
            log("store_replaced", path=path)
        state = reader.state
        log(
            "store_opened",
            path=path,
            serial=state.serial,
            digest=format_digest(state.digest),
            ported=state.ported,
            damaged_blocks=len(reader.damaged),
            warm_seconds=round(time.monotonic() - started, 3),
        )

    async def look(self, path: Path, map_size: int) -> None:
        """Open it if it has appeared or another one lies there."""
        reader = self._engine.reader
        if reader is None or reader.replaced():
            await self.open(path, map_size)

    def tend(self) -> None:
        """Tell of new data, once it is pinned; give back slots of readers that died, now and then."""
        reader = self._engine.reader
        if reader is None:
            return
        if self._engine.serial != self._told_serial:
            self._told_serial = self._engine.serial
            log("data", serial=self._told_serial, digest=format_digest(reader.state.digest))
        if time.monotonic() - self._readers_checked_at > READER_CHECK_SECONDS:
            self._readers_checked_at = time.monotonic()
            reader.check_readers()

    def close(self) -> None:
        """Answer from it no more."""
        if self._engine.reader is not None:
            self._replace(None)

    def _replace(self, reader: Reader | None) -> bool:
        """Whether there was one before."""
        before, self._engine.reader = self._engine.reader, reader
        self._changed()
        if before is None:
            return False
        self._let_go()
        before.close()
        return True

    def _open_warm(self, path: Path, map_size: int) -> Reader:
        """Every page read and every block checked, so that no call waits for the disk."""
        reader = self._open_store(path, map_size)
        reader.warm()
        return reader
