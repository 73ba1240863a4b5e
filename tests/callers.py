"""Callers that ask without pause, one question in flight each, and never ask again: what is lost is counted.

Each runs in a thread, over UDP or over one TCP connection for its whole life. A caller knows the answer that it must
get: two moments of the same question differ in nothing that it compares.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

import dns.message
import dns.rdatatype

from lookupd.protocols import npq, pdb
from tests.sip_calls import request

LOST_SECONDS = 2.0
"""A question without an answer for so long is lost; all but `pdb`'s clients wait as long as that."""


class Question(NamedTuple):
    """What is sent, and how its answer is told from others: `verdict` gives what the caller compares, or None if the
    message answers another question."""

    message: bytes
    verdict: Callable[[bytes], object]


def ask_npq(number: str, query_id: int) -> Question:
    def verdict(answer: bytes) -> object:
        found = npq.decode_answer(answer)
        if found.id != query_id:
            return None
        (view,) = npq.view_results([number], found)
        return view.outcome, view.network_code

    return Question(npq.encode_query(query_id, number), verdict)


def ask_pdb(number: str, query_id: int) -> Question:
    def verdict(answer: bytes) -> object:
        found = pdb.decode_answer(answer)
        return (found.code, found.carrier_id) if found.id == query_id & 0xFFFF else None

    return Question(pdb.encode_query(number, query_id & 0xFFFF), verdict)


def ask_enum(number: str, query_id: int) -> Question:
    name = ".".join([*reversed(number), "e164.arpa."])
    question = dns.message.make_query(name, dns.rdatatype.NAPTR, id=query_id & 0xFFFF)

    def verdict(answer: bytes) -> object:
        found = dns.message.from_wire(answer)
        if found.id != question.id:
            return None
        return found.rcode(), tuple(str(record) for record in found.answer)

    return Question(question.to_wire(), verdict)


def ask_sip(number: str, query_id: int) -> Question:
    via = f"SIP/2.0/UDP 127.0.0.1:15999;rport;branch=z9hG4bK-{query_id}"
    message = request(f"sip:+{number}@127.0.0.1;user=phone", via=via, call_id=f"{query_id}@127.0.0.1")

    def verdict(answer: bytes) -> object:
        if f"branch=z9hG4bK-{query_id}".encode() not in answer:
            return None
        head = answer.split(b"\r\n")
        return head[0], tuple(line for line in head if line.startswith(b"Contact:"))

    return Question(message, verdict)


ASKING: dict[str, Callable[[str, int], Question]] = {
    "npq": ask_npq, "pdb": ask_pdb, "enum": ask_enum, "sip": ask_sip,
}  # fmt: skip


class Caller:
    """One of them. lost, wrong: of `asked`. closed: connections that the server ended. worst: seconds. source: its
    address, of loopback."""

    def __init__(self, dialect: str, transport: str, port: int, number: str, source: str = "127.0.0.1") -> None:
        self.dialect, self.transport = dialect, transport
        self.asked = self.lost = self.wrong = self.closed = 0
        self.worst = 0.0
        self.trouble: BaseException | None = None
        self._number = number
        self._port = port
        self._source = source
        self._expected: object = None
        self._sock = self._connect()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{dialect}-{transport}")

    def __str__(self) -> str:
        return (
            f"{self.dialect}/{self.transport}: asked={self.asked} lost={self.lost} wrong={self.wrong} "
            f"closed={self.closed} worst={self.worst * 1000:.0f} ms"
        )

    def _connect(self) -> socket.socket:
        kind = socket.SOCK_DGRAM if self.transport == "udp" else socket.SOCK_STREAM
        sock = socket.socket(socket.AF_INET, kind)
        sock.settimeout(LOST_SECONDS)
        if self.transport == "tcp":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((self._source, 0))
        sock.connect(("127.0.0.1", self._port))
        return sock

    def _run(self) -> None:
        try:
            for query_id in itertools.count(1):
                if self._stop.is_set():
                    return
                self._ask(ASKING[self.dialect](self._number, query_id))
        except BaseException as error:
            self.trouble = error
        finally:
            self._sock.close()

    def _ask(self, question: Question) -> None:
        began = time.monotonic()
        self.asked += 1
        self._send(question.message)
        found = None
        try:
            while found is None:
                found = question.verdict(self._receive())
        except (TimeoutError, ConnectionRefusedError):
            self.lost += 1
            return
        except EOFError:
            self.closed += 1
            self._sock.close()
            self._sock = self._connect()
            return
        self.worst = max(self.worst, time.monotonic() - began)
        self._expected = self._expected or found
        self.wrong += found != self._expected

    def _send(self, message: bytes) -> None:
        if self.transport == "tcp" and self.dialect == "npq":
            message = npq.FRAME_HEADER.pack(len(message)) + message
        elif self.transport == "tcp" and self.dialect == "enum":
            message = len(message).to_bytes(2, "big") + message
        half = len(message) // 2
        if self.transport == "tcp" and self.asked % 2:  # in two pieces: a message that has begun is handed on, too
            self._sock.sendall(message[:half])
            time.sleep(0.001)
            message = message[half:]
        self._sock.sendall(message)

    def _receive(self) -> bytes:
        if self.transport == "udp":
            return self._sock.recv(65_535)
        if self.dialect == "npq":
            (length,) = npq.FRAME_HEADER.unpack(self._exactly(npq.FRAME_HEADER.size))
            return self._exactly(length)
        if self.dialect == "enum":
            return self._exactly(int.from_bytes(self._exactly(2), "big"))
        found = b""
        while not found.endswith(b"\r\n\r\n"):
            found += self._exactly(1)
        return found

    def _exactly(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            piece = self._sock.recv(count - len(found))
            if not piece:
                raise EOFError
            found += piece
        return found

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        if self.trouble is not None:
            raise self.trouble


class Callers:
    """Several at once, as a context."""

    def __init__(self, callers: list[Caller]) -> None:
        self.all = callers

    def __enter__(self) -> Self:
        for caller in self.all:
            caller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for caller in self.all:
            caller.stop()

    def wait(self, more: int, seconds: float = 20.0) -> None:
        """Until each has asked so many more questions."""
        wanted = [caller.asked + more for caller in self.all]
        until = time.monotonic() + seconds
        while any(caller.asked < count for caller, count in zip(self.all, wanted, strict=True)):
            assert time.monotonic() < until, f"not {more} more questions within {seconds} s: {self}"
            time.sleep(0.005)

    def __str__(self) -> str:
        return "; ".join(map(str, self.all))
