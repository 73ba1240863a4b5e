"""One process follows another at the same sockets, so that a restart or an upgrade loses no query.

The two talk over a pair of connected sockets, in this order:

    successor     prepared   its store is open and warm, or why not; it reads no socket yet
    predecessor   go         read: a Python path has stopped to, since the native engine has the kernel join datagrams
    successor     ready      it answers on every listener
    predecessor   connection one for each connection over TCP, with its descriptor and the bytes of a message begun
    predecessor   done       it reads nothing any more, and ends

Whoever goes away before `ready` leaves the other as it was. What is read, and when, is the daemon's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from lookupd.errors import LookupdError
from lookupd.limits import HANDOVER_MESSAGE_BYTES_MAX, HANDOVER_SECONDS, HANDOVER_STEP_SECONDS
from lookupd.settings import Endpoint
from lookupd.transports.inherited import PREDECESSOR, SYSTEMD, Bequest, Key, Legacy

_HEADER = struct.Struct(">I")

Said = Literal["prepared", "go", "ready", "connection", "done"]


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One word between the two. reason: why the successor would not answer from data; None if it would."""

    say: Said
    reason: str | None = None
    dialect: str = ""
    endpoint: Endpoint | None = None
    received: bytes = b""


class HandoverFailed(LookupdError):
    """The successor did not come to answer; nothing has changed."""


class Link:
    """One end of the pair. Its calls block: they run in a thread."""

    def __init__(self, sock: socket.socket) -> None:
        """sock: connected, a stream; owned from now on."""
        self._sock = sock

    def send(self, message: Message, descriptor: int | None = None) -> None:
        """Raises OSError."""
        body = msgspec.json.encode(message)
        self._sock.settimeout(HANDOVER_STEP_SECONDS)
        socket.send_fds(self._sock, [_HEADER.pack(len(body))], [] if descriptor is None else [descriptor])
        self._sock.sendall(body)

    def receive(self, seconds: float) -> tuple[Message, list[int]]:
        """The next message, and the descriptors that came with it. Raises OSError, EOFError, ValueError."""
        self._sock.settimeout(seconds)
        header, descriptors, _, _ = socket.recv_fds(self._sock, _HEADER.size, 1)
        try:
            header += self._exactly(_HEADER.size - len(header))
            (length,) = _HEADER.unpack(header)
            if length > HANDOVER_MESSAGE_BYTES_MAX:
                raise ValueError(f"a message of {length} bytes")
            return msgspec.json.decode(self._exactly(length), type=Message), list(descriptors)
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise

    def _exactly(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            piece = self._sock.recv(count - len(found))
            if not piece:
                raise EOFError("the other process has ended")
            found += piece
        return found

    def shut(self) -> None:
        """Whoever waits here, or at the other end, waits no more."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Of this end."""
        self._sock.close()


class Successor:
    """The process that is to follow us, from its start until it answers."""

    def __init__(self, command: list[str], legacy: Legacy, sockets: dict[Key, list[socket.socket]]) -> None:
        """command: that starts it. legacy: what it is to know of us. sockets: of every listener; they stay ours."""
        self._command = command
        self._legacy = legacy
        self._sockets = sockets
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None
        self._is_wanted = True

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """The program as it is installed now. Raises HandoverFailed."""
        await asyncio.to_thread(self._start)

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._link = Link(ours)
        with theirs:
            sockets = [(*key, [sock.fileno() for sock in found]) for key, found in self._sockets.items()]
            bequest = Bequest(os.getpid(), theirs.fileno(), sockets, self._legacy)
            passed = [theirs.fileno(), *(descriptor for *_, found in sockets for descriptor in found)]
            # WATCHDOG_PID names us; the one that follows is told of the watchdog all the same.
            environment = {k: v for k, v in os.environ.items() if k not in {*SYSTEMD, "WATCHDOG_PID"}}
            environment[PREDECESSOR] = msgspec.json.encode(bequest).decode()
            try:
                self._process = subprocess.Popen(self._command, pass_fds=passed, env=environment)
            except OSError as error:
                raise HandoverFailed(f"{self._command[0]}: {error.strerror}") from None

    async def hear(self, wanted: Said, seconds: float = HANDOVER_SECONDS) -> Message:
        """The next message, which must be this one. Raises HandoverFailed."""
        assert self._link is not None
        if not self._is_wanted:
            raise HandoverFailed("this process is to end")
        try:
            message, _ = await asyncio.to_thread(self._link.receive, seconds)
        except TimeoutError:
            raise HandoverFailed(f"process {self.pid} is not {wanted} after {seconds:g} s") from None
        except (OSError, EOFError, ValueError, msgspec.MsgspecError) as error:
            raise HandoverFailed(f"process {self.pid} has ended; its own log says why: {error}") from None
        if message.say != wanted:
            raise HandoverFailed(f"process {self.pid} says {message.say}, not {wanted}: is it another version?")
        return message

    async def tell(self, message: Message, descriptor: int | None = None) -> None:
        """Raises HandoverFailed."""
        assert self._link is not None
        try:
            await asyncio.to_thread(self._link.send, message, descriptor)
        except OSError as error:
            raise HandoverFailed(f"process {self.pid} takes nothing: {error}") from None

    def shut(self) -> None:
        """Nobody shall wait for it any more: we are to end."""
        self._is_wanted = False
        if self._link is not None:
            self._link.shut()

    def let_go(self) -> None:
        """It follows us."""
        assert self._link is not None
        assert self._process is not None
        self._link.close()
        self._process.returncode = 0  # ours no longer to wait for

    async def end(self) -> None:
        """It will not follow us: end it, by force if it does not hear."""
        if self._link is not None:
            self._link.close()
        if self._process is not None:
            await asyncio.to_thread(self._end, self._process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(HANDOVER_STEP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def command_of_this_process() -> list[str]:
    """By which the program, as it is installed now, is started with our arguments.

    A script is named as we were: behind a link that was moved lies the next version, with its own interpreter.
    """
    script = Path(sys.argv[0])
    if "-m" in sys.orig_argv[1:2] or not os.access(script, os.X_OK):
        return [sys.executable, *sys.orig_argv[1:]]
    return [str(script), *sys.argv[1:]]


class Predecessor:
    """The process that we follow, as we see it."""

    def __init__(self, bequest: Bequest) -> None:
        self.legacy = bequest.legacy
        sock = socket.socket(fileno=bequest.link)
        sock.set_inheritable(False)
        self._link = Link(sock)

    async def prepared(self, reason: str | None) -> None:
        """Our store is open, or why we cannot answer; returns when we may read the sockets. Raises LookupdError if we
        may not."""
        try:
            await asyncio.to_thread(self._ask_for_sockets, reason)
        except (OSError, EOFError, ValueError, msgspec.MsgspecError) as error:
            raise LookupdError(f"handover: the process before this one keeps its sockets: {error}") from None

    def _ask_for_sockets(self, reason: str | None) -> None:
        self._link.send(Message("prepared", reason))
        message, _ = self._link.receive(HANDOVER_SECONDS)
        if message.say != "go":
            raise ValueError(f"it says {message.say}")

    async def ready(self) -> None:
        """We answer on every listener. Raises LookupdError."""
        try:
            await asyncio.to_thread(self._link.send, Message("ready"))
        except OSError as error:
            raise LookupdError(f"handover: the process before this one has gone away: {error}") from None

    def take_connections(self, adopt: Callable[[Message, socket.socket], None], done: Callable[[], object]) -> None:
        """Have `adopt` called in the event loop for each connection, and `done` after the last. Returns at once."""
        loop = asyncio.get_running_loop()

        def receive() -> None:
            with contextlib.suppress(OSError, EOFError, ValueError, msgspec.MsgspecError):
                while True:
                    message, descriptors = self._link.receive(HANDOVER_SECONDS)
                    if message.say != "connection":
                        break
                    for descriptor in descriptors:
                        loop.call_soon_threadsafe(adopt, message, socket.socket(fileno=descriptor))
            self._link.close()
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(done)

        threading.Thread(target=receive, name="handover", daemon=True).start()
