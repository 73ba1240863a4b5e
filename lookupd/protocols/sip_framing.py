"""Where one SIP message ends in a stream: after its head and the bytes that Content-Length says.

Source: RFC 3261 sections 7.5 and 18.3; RFC 5626 section 3.5.1 for what stands between messages.
"""

from __future__ import annotations

from lookupd.limits import SIP_IDLE_SECONDS, SIP_MESSAGE_BYTES_MAX
from lookupd.protocols.framing import Frame
from lookupd.protocols.sip import PING
from lookupd.protocols.sip_message import EMPTY_LINE, body_bytes


class SipFraming:
    """One connection's. It remembers what it has looked at: a head that comes byte by byte is searched once.

    A message whose end cannot be told is handed over as far as it is known, its head or its first bytes, so that it
    gets its 400 or 513; then the connection ends.
    """

    def __init__(self) -> None:
        self.idle_seconds = SIP_IDLE_SECONDS
        self._searched = 0  # bytes of the next message without the end of a head
        self._needed = 0  # bytes of the next message, once its head is known
        self._one_line_end = False  # the first half of a ping, or only an empty line

    def cut(self, received: bytearray, at: int) -> Frame:
        """See Framing."""
        if not self._needed:
            if not self._searched and bytes(received[at : at + 1]) in (b"\r", b"\n"):
                frame = self._pass_over(received, at)
                if frame is not None:
                    return frame
            found = EMPTY_LINE.search(received, at + max(self._searched - 2, 0), at + SIP_MESSAGE_BYTES_MAX)
            if found is None:
                return self._wait_for_head(received, at)
            length = body_bytes(bytes(received[at : found.start()]))
            if length is None or found.end() - at + length > SIP_MESSAGE_BYTES_MAX:
                return self._hand_over(received, at, found.end(), last=True)
            self._needed = found.end() - at + length
        if len(received) - at < self._needed:
            return Frame(None, at)
        return self._hand_over(received, at, at + self._needed)

    def begun(self) -> bytes:
        """See Framing: the first half of a ping."""
        return b"\r\n" if self._one_line_end else b""

    def wrap(self, reply: bytes) -> tuple[bytes, ...]:
        """See Framing."""
        return (reply,)

    def _pass_over(self, received: bytearray, at: int) -> Frame | None:
        """A line's end between messages; the second in a row is a ping. None if it is none."""
        start = bytes(received[at : at + 2])
        if start == b"\r":
            return Frame(None, at)
        if start == b"\r\n":
            self._one_line_end = not self._one_line_end
            return Frame(None if self._one_line_end else PING, at + 2)
        return Frame(None, at + 1) if start[:1] == b"\n" else None

    def _wait_for_head(self, received: bytearray, at: int) -> Frame:
        self._searched = len(received) - at
        if self._searched > SIP_MESSAGE_BYTES_MAX:
            return self._hand_over(received, at, at + SIP_MESSAGE_BYTES_MAX + 1, last=True)
        return Frame(None, at)

    def _hand_over(self, received: bytearray, at: int, end: int, *, last: bool = False) -> Frame:
        self._searched = self._needed = 0
        self._one_line_end = False
        return Frame(bytes(received[at:end]), end, last)
