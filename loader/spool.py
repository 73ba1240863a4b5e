"""One feed's folder of fetched files: bring a step in, note when it arrived, let it go.

What may leave it by age is `tidy`'s; what is wanted, and what it means, `feed_sync`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loader.formats import Format, Step
from loader.sources import Source
from loader.steady import Clock
from loader.tidy import tidy
from lookupd.errors import SourceError
from lookupd.model import UnixMillis

TIDY_SECONDS = 3600.0
"""Between two looks for files that may leave."""


class Spool:
    """Fetched files, on disk before anything relies on them."""

    def __init__(self, folder: Path, format: Format, source: Source, clock: Clock) -> None:
        self.folder = folder
        self._format, self._source, self._clock = format, source, clock
        self._tidied_at = UnixMillis(0)

    def make(self) -> None:
        """The folder, if it is not there. Raises SourceError."""
        with self._telling():
            self.folder.mkdir(parents=True, exist_ok=True)

    def names(self) -> frozenset[str]:
        """What lies here. Raises SourceError."""
        with self._telling():
            return frozenset(path.name for path in self.folder.iterdir() if path.is_file())

    async def fetch(self, step: Step) -> UnixMillis:
        """Have all files of a step here; returns when the last of them arrived. Raises SourceError."""
        last = self.folder / step.files[-1]
        for name in step.files:
            path = self.folder / name
            if not path.exists():
                await self._source.fetch(name, path)
                if path == last:
                    now_ns = self._clock.now() * 1_000_000
                    with self._telling():
                        os.utime(path, ns=(now_ns, now_ns))  # survives a crash: when the notices were received
        with self._telling():
            return UnixMillis(last.stat().st_mtime_ns // 1_000_000)

    def discard(self, step: Step) -> None:
        """Drop our copy: its sender may have put a better one in its place."""
        with self._telling():
            for name in step.files:
                (self.folder / name).unlink(missing_ok=True)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """The disk's errors as ours: tried again, like a source that is away."""
        try:
            yield
        except OSError as error:
            raise SourceError(
                f"spool: {self.folder}: {error.strerror}: see that the folder is there and the loader may write to it"
            ) from None

    def tidy(self, position: int, keep_seconds: float, keep_acks_seconds: float) -> None:
        """Once in a while, let old files go."""
        now = self._clock.now()
        if now - self._tidied_at < TIDY_SECONDS * 1000:
            return
        self._tidied_at = now
        files, acks = ((now - int(kept * 1000)) * 1_000_000 for kept in (keep_seconds, keep_acks_seconds))
        tidy(self.folder, self._format, position, files, acks)
