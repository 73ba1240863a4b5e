"""The files a batch writes: they grow under another name, and get their own when all is done.

What stands in them is `worker`'s.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from lookupd.batch.checkpoint import sync_folder
from lookupd.batch.worker import NO_NETWORK
from lookupd.errors import BatchError
from lookupd.limits import BATCH_NETWORKS_MAX
from lookupd.numbering import parse_network_code

PART = ".part"


class Outputs:
    """The output, and one file a network when it is split."""

    def __init__(self, out: Path, split: Path | None) -> None:
        """Raises OSError, BatchError if another process writes it."""
        self._out, self._split = out, split
        self._head = b""
        self._files: dict[str, BinaryIO] = {}
        if split is not None:
            split.mkdir(parents=True, exist_ok=True)
        main = self._open("")
        try:
            fcntl.flock(main.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise BatchError(f"{self.part_of('')}: another batch writes it: wait for its end") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def path_of(self, network: str) -> Path:
        """Of a finished file; "" = the output."""
        if not network:
            return self._out
        assert self._split is not None
        return self._split / f"{network}.csv"

    def part_of(self, network: str) -> Path:
        """Of the same while it grows."""
        path = self.path_of(network)
        return path.with_name(path.name + PART)

    def begin(self, head: bytes) -> None:
        """All anew. head: what stands above the rows of each file."""
        self._head = head
        self._drop_others({""})
        self._files[""].seek(0)
        self._files[""].truncate()
        self._files[""].write(head)

    def resume(self, head: bytes, lengths: dict[str, int]) -> bool:
        """Cut each back to its length; False if one is shorter: then nothing was changed."""
        self._head = head
        for network, length in lengths.items():
            part = self.part_of(network)
            if (not network and self._split is None and len(lengths) > 1) or not part.is_file():
                return False
            if part.stat().st_size < length:
                return False
        self._drop_others(set(lengths))
        for network, length in lengths.items():
            file = self._files.get(network) or self._open(network)
            file.truncate(length)
            file.seek(length)
        return True

    def write(self, rows: bytes, by_network: dict[str, bytes]) -> None:
        """Behind what is there. Raises OSError."""
        self._files[""].write(rows)
        for network, part in by_network.items():
            file = self._files.get(network)
            if file is None:
                file = self._open(network)
                file.truncate(0)
                file.write(self._head)
            file.write(part)

    def sync(self) -> dict[str, int]:
        """The length of each, once it lasts."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        return {network: file.tell() for network, file in self._files.items()}

    def finish(self) -> None:
        """Give all their names, the output last; files of networks that an earlier batch left are removed."""
        self.sync()
        if self._split is not None:
            for left in self._split.glob("*.csv"):
                if left.stem not in self._files:
                    left.unlink()
        for network in sorted(self._files, reverse=True):
            self.part_of(network).replace(self.path_of(network))
        if self._split is not None:
            sync_folder(self._split)
        sync_folder(self._out.parent)

    def close(self) -> None:
        """What was not finished stays, to go on from."""
        for file in self._files.values():
            try:
                file.close()
            except OSError:  # a full disk: what is in the buffer was not counted in a checkpoint
                file.raw.close()  # type: ignore[attr-defined]
        self._files.clear()

    def _open(self, network: str) -> BinaryIO:
        if network and network != NO_NETWORK and parse_network_code(network) is None:
            raise BatchError(f"network code {network!r}: not one that a file can be named after")
        if len(self._files) > BATCH_NETWORKS_MAX:
            raise BatchError(f"--split: more than {BATCH_NETWORKS_MAX} networks: do without")
        file = os.fdopen(os.open(self.part_of(network), os.O_RDWR | os.O_CREAT, 0o640), "r+b")
        self._files[network] = file
        return file

    def _drop_others(self, kept: set[str]) -> None:
        """Parts of a batch that is not gone on with."""
        if self._split is not None:
            for left in self._split.glob("*.csv" + PART):
                if left.name.removesuffix(".csv" + PART) not in kept:
                    left.unlink()
