"""Where a feed's files come from: one small interface, one module for each kind of place.

A source lists names, fetches files into the spool, and takes back acknowledgements. It parses nothing and
decides nothing: what is wanted, and what it means, is for `sync`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lookupd.model import FeedPosition, StreamPosition

if TYPE_CHECKING:
    from loader.fleet.stream_metrics import StreamMetrics


class Source(Protocol):
    """A place that publishes files. Used by one task at a time.

    Every method raises SourceError, naming the place and the reason, for whatever goes wrong there; a call
    that takes longer than the time limit given to the source is cut off with a SourceError too.
    """

    async def names(self) -> frozenset[str]:
        """The names of the files that lie there now, without folders and without hidden or `.part` files."""
        ...

    async def fetch(self, name: str, to: Path) -> None:
        """Bring a file's bytes to `to`, which appears by rename once it is whole and on disk (fsync).

        What an earlier attempt left (`to` with `.part` added) is continued where the place can say that the
        file is still the same, and is fetched anew otherwise.
        """
        ...

    async def publish(self, name: str, content: bytes) -> bool:
        """Put an acknowledgement there, by rename; False if the place takes none."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


@runtime_checkable
class Following(Source, Protocol):
    """A source that is told of new files. changed: set when some came; `names` clears it."""

    changed: asyncio.Event
    metrics: StreamMetrics

    def at(self, position: FeedPosition | None, place: StreamPosition | None) -> None:
        """How far the feed is, and which message the store says that was; before each look at the names."""
        ...

    def place_of(self, name: str) -> StreamPosition | None:
        """Which message brought a step: to be committed with its data. None: none did."""
        ...

    def passed(self) -> StreamPosition | None:
        """A message to be noted, if none waits: it brought nothing new, and a start would read from far before it."""
        ...
