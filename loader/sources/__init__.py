"""Where a feed's files come from: one small interface, one module for each kind of place.

A source lists names, fetches files into the spool, and takes back acknowledgements. It parses nothing and
decides nothing: what is wanted, and what it means, is for `sync`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


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
