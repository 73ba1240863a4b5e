"""One server, asked one question at a time and timed: from just before it leaves to its answer's last byte.

What reading the answer takes is not counted: a switch has its own way to read. Times are of the monotonic clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Literal, NamedTuple

import msgspec

from lookupd.clients import Server, WrongAnswer
from lookupd.clients.sip import T1_SECONDS
from lookupd.errors import ProtocolError
from lookupd.limits import (
    DNS_MESSAGE_BYTES_MAX,
    PROBE_HELD_UP_SECONDS,
    PROBE_MESSAGES_PER_READ,
    PROBE_PAST_MAX,
    PROBE_QUESTIONS_PER_SOCKET,
)
from lookupd.probe.questions import Question, Told, framing, key_of, make_question
from lookupd.protocols.framing import Framing
from lookupd.protocols.sip import PING

Result = Literal["answered", "no_data", "timeout", "void"]
"""no_data: an answer that tells nothing of the number. void: the probe was held up, and nothing was measured."""

_NS = 1_000_000_000


class Sample(NamedTuple):
    """What became of a question. ns: that a call would have waited; of a time-out, the whole of it. ported: where the
    answer tells. trouble: what went wrong."""

    result: Result
    ns: int
    ported: bool | None = None
    trouble: str = ""


class Strays:
    """Messages that were no answer to the question under way: wrong ones, and answers to former questions."""

    def __init__(self) -> None:
        self.wrong = 0
        self.late = 0


class Asker:
    """Its socket stays between questions, as a switch's does."""

    def __init__(self, server: Server, timeout: float, strays: Strays) -> None:
        """timeout: seconds. strays: where they are counted."""
        self.server = server
        self._timeout = timeout
        self._strays = strays
        self._sock: socket.socket | None = None
        self._left = 0
        self._framing: Framing | None = None
        self._received = bytearray()
        self._past: OrderedDict[Hashable, Question] = OrderedDict()
        self._question: Question | None = None
        self._answer: asyncio.Future[tuple[Told, int]] | None = None
        self._again: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """The socket, and with it what may still come."""
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
            self._sock = None
        self._received.clear()
        self._past.clear()

    async def ask(self, number: str) -> Sample:
        """number: E.164 digits. Never raises for what a server or a network does."""
        if self._sock is not None and not self.server.tcp and self._left <= 0:
            self.close()
        if not self.server.tcp:
            with contextlib.suppress(OSError):
                self._open_datagrams()
        timeout_ns = round(self._timeout * _NS)
        began = time.monotonic_ns()
        trouble = ""
        ended = None
        told = Told(False)
        try:
            async with asyncio.timeout(self._timeout):
                told, ended = await self._exchange(number)
                if told.cut and not self.server.tcp:
                    told, ended = await self._ask_over_tcp(number)
        except TimeoutError:
            trouble = f"no answer within {self._timeout:g} s"
        except (WrongAnswer, ProtocolError) as error:
            ended, trouble = time.monotonic_ns(), str(error)
            self._strays.wrong += 1
        except OSError as error:
            trouble = error.strerror or str(error)
            self.close()
        finally:
            self._end_question()
        waited = time.monotonic_ns() - began
        if waited > timeout_ns + PROBE_HELD_UP_SECONDS * _NS:
            return Sample("void", 0)
        if ended is None or ended - began > timeout_ns:
            if self.server.tcp:
                self.close()  # an answer that comes yet must not be taken for the next one's
            return Sample("timeout", timeout_ns, None, trouble or f"answered after {self._timeout:g} s")
        if not told.is_data:
            return Sample("no_data", ended - began, None, trouble or "it has no data now, or refuses us")
        return Sample("answered", ended - began, told.ported)

    # -- one exchange ------------------------------------------------------------------------------------

    async def _exchange(self, number: str) -> tuple[Told, int]:
        if self.server.tcp:
            await self._open_stream()
        else:
            self._open_datagrams()
        sock = self._sock
        assert sock is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._question = make_question(self.server, number, self._new_id(), sock.getsockname())
        self._left -= 1
        self._send(self._question.message)
        if self.server.dialect == "sip" and not self.server.tcp:
            self._send_again_after(T1_SECONDS)
        return await self._answer

    async def _ask_over_tcp(self, number: str) -> tuple[Told, int]:
        """What did not fit a datagram; within the same time."""
        other = Asker(msgspec.structs.replace(self.server, tcp=True), self._timeout, self._strays)
        try:
            return await other._exchange(number)
        finally:
            other._end_question()
            other.close()

    def _new_id(self) -> int:
        while True:
            found = random.getrandbits(32)
            if found not in self._past and found & 0xFFFF not in self._past:
                return found

    def _end_question(self) -> None:
        """What comes for it from now on is late, or came twice."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._answer is not None and self._answer.done() and not self._answer.cancelled():
            self._answer.exception()  # looked at: the time-out may have come first
        if self._question is not None and self._sock is not None:
            self._past[self._question.key] = self._question
            if len(self._past) > PROBE_PAST_MAX:
                self._past.popitem(last=False)
        self._question = self._answer = None

    def _send_again_after(self, seconds: float) -> None:
        """An INVITE over UDP (RFC 3261 section 17.1.1.2)."""

        def again() -> None:
            if self._question is not None and self._sock is not None:
                with contextlib.suppress(OSError):
                    self._send(self._question.message)
                self._send_again_after(2 * seconds)

        self._again = asyncio.get_running_loop().call_later(seconds, again)

    def _send(self, message: bytes) -> None:
        """All at once: a socket that does not take a few hundred bytes leads nowhere. Raises OSError."""
        sock = self._sock
        assert sock is not None
        if self._framing is not None:
            message = b"".join(self._framing.wrap(message))
        try:
            sent = sock.send(message)
        except ConnectionRefusedError:
            if self.server.tcp:
                raise
            sent = sock.send(message)  # what the kernel had to tell of the datagram before: this one was not sent
        if sent != len(message):
            raise OSError("the connection takes nothing more")

    # -- the socket --------------------------------------------------------------------------------------

    def _new_socket(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.server.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM if self.server.tcp else socket.SOCK_DGRAM)
        sock.setblocking(False)
        return sock

    def _open_datagrams(self) -> None:
        if self._sock is None:
            sock = self._new_socket()
            try:
                sock.connect((self.server.host, self.server.port))
            except BaseException:
                sock.close()
                raise
            self._take_over(sock)
            self._left = PROBE_QUESTIONS_PER_SOCKET

    async def _open_stream(self) -> None:
        if self._sock is None:
            sock = self._new_socket()
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await asyncio.get_running_loop().sock_connect(sock, (self.server.host, self.server.port))
            except BaseException:
                sock.close()
                raise
            self._framing = framing(self.server.dialect)
            self._take_over(sock)

    def _take_over(self, sock: socket.socket) -> None:
        self._sock = sock
        asyncio.get_running_loop().add_reader(sock, self._readable)

    def _readable(self) -> None:
        for _ in range(PROBE_MESSAGES_PER_READ):
            sock = self._sock
            if sock is None:
                return
            try:
                piece = sock.recv(DNS_MESSAGE_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError as error:
                self._broken(error)
                return
            now = time.monotonic_ns()
            if self._framing is None:
                self._take(piece, now)
            elif piece:
                self._take_stream(self._framing, piece, now)
            else:
                self._broken(ConnectionResetError("the server closed the connection"))

    def _broken(self, error: OSError) -> None:
        """Over UDP nobody listens there just now, and a switch goes on waiting. A stream has ended."""
        if self.server.tcp:
            self.close()
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(error)

    def _take_stream(self, cutting: Framing, piece: bytes, now: int) -> None:
        self._received += piece
        at = 0
        while True:
            frame = cutting.cut(self._received, at)
            if frame.message is not None and frame.message != PING:
                self._take(frame.message, now)
            if frame.last:
                self._strays.wrong += frame.message is None
                self._broken(ConnectionAbortedError("the server sent what has no end"))
                return
            if frame.end == at:
                break
            at = frame.end
        del self._received[:at]

    # -- answers -----------------------------------------------------------------------------------------

    def _take(self, message: bytes, now: int) -> None:
        key = key_of(self.server.dialect, message)
        question = self._question
        if question is None or key != question.key or self._answer is None or self._answer.done():
            former = self._past.get(key) or (question if question is not None and key == question.key else None)
            if former is None:
                self._strays.wrong += 1
            else:
                self._strays.late += 1
                self._thank(former, message)
            return
        thanked = self._thank(question, message)
        try:
            told = question.read(message)
        except (WrongAnswer, ProtocolError) as error:
            self._answer.set_exception(error)
            return
        if told is not None:
            self._answer.set_result((told, thanked or now))

    def _thank(self, question: Question, message: bytes) -> int | None:
        """When it has left; None if nothing is to be sent."""
        thanks = question.thanks(message)
        if thanks is None:
            return None
        with contextlib.suppress(OSError):
            self._send(thanks)
        return time.monotonic_ns()
