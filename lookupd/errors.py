"""Every exception the project raises on purpose, with the exit code a command ends with.

What a bug raises is not here: an assertion ends the process, and the supervisor starts a new one.
"""

from __future__ import annotations


class LookupdError(Exception):
    """Base of all of ours. The message names the file or field, the reason and the way out."""

    exit_code = 1


class ConfigError(LookupdError):
    """The configuration file, or a value in it, cannot be used."""

    exit_code = 3


class StoreError(LookupdError):
    """The store is missing, of another format, truncated, full, or held by another writer."""


class StoreReplaced(StoreError):
    """Another store, such as a restored one, lies where a writer opened one: it must be opened again."""


class DamagedBlock(StoreError):
    """A block's bytes, or its details', are not those that were written: it is never served nor changed.

    message: None = that of a block which is asked; the answer is `unavailable`.
    """

    def __init__(self, block: int, message: str | None = None) -> None:
        numbers = f"numbers {block}000 to {block}999"
        super().__init__(message or f"block {block} ({numbers}) is damaged: load the last snapshot again")
        self.block = block


class FeedError(LookupdError):
    """A feed's file is not what its manifest or the format says. The store is unchanged."""

    exit_code = 4


class Rejected(FeedError):
    """Rows of a feed's file were refused. The store is unchanged.

    rejections: (line, reason) of each bad row found before reading stopped; at least one.
    """

    TOLD_MAX = 20

    def __init__(self, file: str, rejections: list[tuple[int, str]]) -> None:
        line, reason = rejections[0]
        more = f" (and {len(rejections) - 1} more)" if len(rejections) > 1 else ""
        super().__init__(f"{file}:{line}: {reason}{more}; the store is unchanged")
        self.rejections = rejections


class Refused(FeedError):
    """A file would move more numbers than the guard lets through without a person's word. The store is unchanged."""


class SourceError(LookupdError):
    """A source of feed files cannot be reached, hangs, or is not whom we trust. Tried again later."""


class SequenceGap(LookupdError):
    """A delta is not the next one of its feed: what is between is missing. The store is unchanged."""

    exit_code = 5


class Stale(LookupdError):
    """A file is older than what the store holds, or two stores differ. The store is unchanged."""

    exit_code = 6


class BatchError(LookupdError):
    """A list of numbers cannot be read or written as asked. No output was made; what was begun can be resumed."""


class ProtocolError(Exception):
    """A datagram or frame that gets no answer.

    reason: one of `model.DROP_REASONS`, the metric's label. Not a LookupdError: it never reaches a
    command or a log line, it is counted.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
