"""Where one message ends and the next begins in a TCP stream: what all dialects' framings are, and lengths before.

What a message means is the dialect's own module's business; `framings` says which dialect has which.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Protocol

from lookupd.limits import CONNECTION_IDLE_SECONDS, DNS_MESSAGE_BYTES_MAX, NPQ_FRAME_BYTES_MAX
from lookupd.protocols.npq import FRAME_HEADER


class Frame(NamedTuple):
    """What was cut off a stream. message: None if none is complete yet. end: where the rest begins; where it began
    itself, if more bytes are needed. last: where the next message begins cannot be told: the connection must end.
    """

    message: bytes | None
    end: int
    last: bool = False


class Framing(Protocol):
    """One dialect's way to put messages into a stream; of one connection, if it remembers anything."""

    idle_seconds: float
    """A connection with nothing asked for this long is closed."""

    def cut(self, received: bytearray, at: int) -> Frame:
        """The message that begins at `at`. Bytes before it that mean nothing are passed over."""
        ...

    def begun(self) -> bytes:
        """Bytes that were passed over and still matter: who goes on elsewhere takes them as received once more."""
        ...

    def wrap(self, reply: bytes) -> tuple[bytes, ...]:
        """A reply's bytes, in parts, as they go into the stream."""
        ...


class LengthFraming:
    """A length, big-endian, before each message."""

    def __init__(self, header: struct.Struct, bytes_max: int, idle_seconds: float = CONNECTION_IDLE_SECONDS) -> None:
        """header: of one unsigned number. bytes_max: of a message; a longer one ends the connection."""
        self._header = header
        self._bytes_max = bytes_max
        self.idle_seconds = idle_seconds

    def cut(self, received: bytearray, at: int) -> Frame:
        """See Framing."""
        start = at + self._header.size
        if len(received) < start:
            return Frame(None, at)
        (length,) = self._header.unpack_from(received, at)
        if length > self._bytes_max:
            return Frame(None, at, last=True)
        end = start + length
        return Frame(bytes(received[start:end]), end) if len(received) >= end else Frame(None, at)

    def begun(self) -> bytes:
        """See Framing."""
        return b""

    def wrap(self, reply: bytes) -> tuple[bytes, ...]:
        """See Framing."""
        return self._header.pack(len(reply)), reply


NPQ_FRAMING = LengthFraming(FRAME_HEADER, NPQ_FRAME_BYTES_MAX)
ENUM_FRAMING = LengthFraming(struct.Struct(">H"), DNS_MESSAGE_BYTES_MAX)
"""RFC 1035 section 4.2.2."""
