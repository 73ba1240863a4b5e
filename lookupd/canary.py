"""The daemon asks itself, over each listener, with real packets: does it answer, and rightly?

Each question leaves from a new socket, so that in time every worker of a listener is met; over UDP it is sent again
from the same one, since another may be answered by a worker that is well. Whether the supervisor is told is
`supervision`'s.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from lookupd.access import Access
from lookupd.engine import Engine
from lookupd.errors import LookupdError, ProtocolError
from lookupd.limits import CANARY_ANSWER_SECONDS, CANARY_TRIES, E164_DIGITS_MAX
from lookupd.model import TN, Outcome, UnixSeconds
from lookupd.protocols import dns, npq, pdb
from lookupd.settings import Endpoint
from lookupd.store.portable import Pinned, first_number
from lookupd.transports.inherited import Key

VERIFY_SECONDS = 0.02
"""The first wait for an answer when we have just opened, and the pause before the next try."""

BLOCKS_LOOKED_AT = 16
"""For a number to ask: the first ones may be damaged, or empty."""

_ANSWER_BYTES_MAX = 65_535


class Listener(Protocol):
    """What is asked."""

    @property
    def port(self) -> int:
        """Where it listens."""
        ...


class Wrong(LookupdError):
    """An answer that is not the right one."""


class Canary:
    """Asks each listener once, a round."""

    def __init__(
        self,
        engine: Engine,
        listeners: Callable[[], Iterable[tuple[Key, Listener]]],
        access: Callable[[], Access],
        apex: Callable[[], str],
    ) -> None:
        """engine: the daemon's own, which says what the right answer is. listeners, access, apex: those in force."""
        self._engine = engine
        self._apex = apex
        self._listeners = listeners
        self._access = access
        self._ids = itertools.count(1)
        self._tn: TN | None = None
        self._one = asyncio.Lock()
        self.failures: dict[tuple[str, str], int] = {}
        self.seconds: dict[tuple[str, str], float] = {}

    async def ask_all(self) -> dict[Key, str]:
        """What is wrong with each listener that did not answer rightly; empty if all did."""
        troubles = {}
        for key, listener in list(self._listeners()):
            trouble = await self.ask(key, listener)
            if trouble is not None:
                place = key[0], key[1].transport
                self.failures[place] = self.failures.get(place, 0) + 1
                troubles[key] = trouble
        return troubles

    async def verify(self) -> None:
        """Returns when each listener has answered once; a process that we follow may take some of the questions."""
        for key, listener in list(self._listeners()):
            seconds = VERIFY_SECONDS
            while await self.ask(key, listener, 1, seconds) is not None:
                await asyncio.sleep(VERIFY_SECONDS)
                seconds = min(seconds * 2, CANARY_ANSWER_SECONDS)

    async def ask(
        self, key: Key, listener: Listener, tries: int = CANARY_TRIES, seconds: float = CANARY_ANSWER_SECONDS
    ) -> str | None:
        """What is wrong with one listener; None if it answers rightly. seconds: for each try."""
        async with self._one:
            return await self._ask(key, listener, tries, seconds)

    async def _ask(self, key: Key, listener: Listener, tries: int, seconds: float) -> str | None:
        dialect, endpoint = key
        sends, tries = (tries, 1) if endpoint.transport == "udp" else (1, tries)
        trouble = None
        for _ in range(tries):
            if dialect == "pdb" and not self._is_usable():
                return None  # which it says by silence
            began = time.monotonic()
            try:
                async with asyncio.timeout(seconds * sends):
                    await self._exchange(dialect, endpoint, listener.port, seconds)
                self.seconds[dialect, endpoint.transport] = time.monotonic() - began
                return None
            except TimeoutError:
                trouble = f"no answer within {seconds:g} s"
            except (OSError, ProtocolError, LookupdError, EOFError) as error:
                trouble = str(error) or type(error).__name__
        return trouble

    async def _exchange(self, dialect: str, endpoint: Endpoint, port: int, again: float) -> None:
        """One question and its answer. again: seconds after which a datagram is sent again. Raises Wrong, or what
        sockets and codecs raise."""
        six = ":" in endpoint.host
        source = "::1" if six else "127.0.0.1"
        host = source if ipaddress.ip_address(endpoint.host).is_unspecified else endpoint.host
        kind = socket.SOCK_DGRAM if endpoint.transport == "udp" else socket.SOCK_STREAM
        loop, access = asyncio.get_running_loop(), self._access()
        with socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind) as sock:
            sock.setblocking(False)
            sock.bind((source, 0))
            own_port = sock.getsockname()[1]
            access.set_own(source, own_port)
            try:
                await loop.sock_connect(sock, (host, port))
                if dialect == "http":
                    await self._ask_http(sock, endpoint.transport == "https", host)
                    return
                await _ASK[dialect](self, _Wire(sock, endpoint.transport == "udp", again), own_port)
            finally:
                access.set_own(None)

    # -- what is asked, and what the answer must be ------------------------------------------------------

    async def _ask_npq(self, wire: _Wire, _: int) -> None:
        number, outcome, network_code = self._expected()
        query_id = next(self._ids) & 0xFFFF_FFFF
        message = npq.encode_query(query_id, number)
        await wire.send(message if wire.is_udp else npq.FRAME_HEADER.pack(len(message)) + message)
        if not wire.is_udp:
            (length,) = npq.FRAME_HEADER.unpack(await wire.exactly(npq.FRAME_HEADER.size))
        answer = npq.decode_answer(await wire.receive() if wire.is_udp else await wire.exactly(length))
        views = npq.view_results([number], answer)
        if answer.id != query_id or not views:
            raise Wrong("answered another question")
        _check(outcome.label, views[0].outcome)
        _check(network_code, views[0].network_code)

    async def _ask_pdb(self, wire: _Wire, _: int) -> None:
        number, outcome, _code = self._expected()
        query_id = next(self._ids) & 0xFFFF
        await wire.send(pdb.encode_query(number, query_id))
        answer = pdb.decode_answer(await wire.receive())
        _check(query_id, answer.id)
        found = answer.code == pdb.OK
        _check(outcome in {Outcome.PORTED, Outcome.NOT_PORTED}, found)

    async def _ask_enum(self, wire: _Wire, _: int) -> None:
        query_id = next(self._ids) & 0xFFFF
        number, outcome, _code = self._expected()
        name = ".".join([*reversed(number), self._apex()])
        question = query_id.to_bytes(2, "big") + _ONE_QUESTION + dns.encode_name(name) + _NAPTR_IN
        await wire.send(question if wire.is_udp else len(question).to_bytes(2, "big") + question)
        if wire.is_udp:
            answer = await wire.receive()
        else:
            answer = await wire.exactly(int.from_bytes(await wire.exactly(2), "big"))
        if len(answer) < len(question) - 2 or answer[:2] != query_id.to_bytes(2, "big") or not answer[2] & 0x80:
            raise Wrong("answered another question")
        rcode = answer[3] & 0x0F
        if rcode == dns.REFUSED:
            raise Wrong("refused")
        if outcome is Outcome.UNAVAILABLE:
            _check(dns.SERVFAIL, rcode)
        elif outcome is Outcome.PORTED and rcode not in {dns.NOERROR, dns.SERVFAIL}:  # its network may have no `rn`
            raise Wrong(f"wrong answer: rcode {rcode} for a ported number")

    async def _ask_sip(self, wire: _Wire, own_port: int) -> None:
        number, outcome, _code = self._expected()
        branch = f"z9hG4bK-own-{next(self._ids)}"
        host = f"127.0.0.1:{own_port}"
        lines = (
            f"INVITE sip:+{number}@127.0.0.1;user=phone SIP/2.0",
            f"Via: SIP/2.0/{'UDP' if wire.is_udp else 'TCP'} {host};rport;branch={branch}",
            "Max-Forwards: 70",
            f"From: <sip:self@{host}>;tag=self",
            f"To: <sip:+{number}@127.0.0.1>",
            f"Call-ID: {branch}@{host}",
            "CSeq: 1 INVITE",
            "Content-Length: 0",
            "",
            "",
        )
        await wire.send("\r\n".join(lines).encode())
        answer = await wire.receive()
        if branch.encode() not in answer:
            raise Wrong("answered another question")
        status = answer[8:11]
        _check(outcome is Outcome.UNAVAILABLE, status == b"503")
        if outcome is Outcome.PORTED and status in {b"403", b"404", b"484"}:
            raise Wrong(f"wrong answer: {status.decode()} for a ported number")

    async def _ask_http(self, sock: socket.socket, is_tls: bool, host: str) -> None:
        """It is our own socket: whose name its certificate has, and until when, is not asked."""
        tls = _TRUSTING if is_tls else None
        reader, writer = await asyncio.open_connection(sock=sock, ssl=tls, server_hostname="" if is_tls else None)
        try:
            shown = f"[{host}]" if ":" in host else host
            writer.write(f"GET /livez HTTP/1.1\r\nHost: {shown}\r\nConnection: close\r\n\r\n".encode())
            _check(True, (await reader.readline()).startswith(b"HTTP/1.1 200 "))
        finally:
            writer.close()

    # -- which number ------------------------------------------------------------------------------------

    def _is_usable(self) -> bool:
        self._engine.begin(UnixSeconds(int(time.time())))
        return self._engine.usable

    def _expected(self) -> tuple[str, Outcome, str | None]:
        """A number, and what the engine itself says of it; a ported one as long as there is one that can be read."""
        usable = self._is_usable()
        if usable and not self._is_ported(self._tn):
            self._tn = self._first_ported()
        number = str(self._tn) if usable and self._tn is not None else self._engine.plan.country_code.ljust(12, "0")
        answer = self._engine.resolve(number[:E164_DIGITS_MAX])
        return number, answer.outcome, None if answer.route is None else answer.route.network_code

    def _is_ported(self, tn: TN | None) -> bool:
        return tn is not None and self._engine.resolve(str(tn)).outcome is Outcome.PORTED

    def _first_ported(self) -> TN | None:
        reader = self._engine.reader
        if reader is None:
            return None
        with Pinned(reader) as pinned:
            for block, _ in itertools.islice(pinned.contents(), BLOCKS_LOOKED_AT):
                for row in pinned.rows(block) or ():
                    return TN(first_number(block) + row.offset)
        return None


_TRUSTING = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_TRUSTING.check_hostname = False
_TRUSTING.verify_mode = ssl.CERT_NONE

_ONE_QUESTION = bytes.fromhex("0100 0001 0000 0000 0000")
_NAPTR_IN = bytes.fromhex("0023 0001")


def _check(expected: object, found: object) -> None:
    if found != expected:
        raise Wrong(f"wrong answer: {found}, and not {expected}")


class _Wire:
    """One connected socket of ours."""

    def __init__(self, sock: socket.socket, is_udp: bool, again: float) -> None:
        self.is_udp = is_udp
        self._sock = sock
        self._again = again
        self._sent = b""
        self._loop = asyncio.get_running_loop()

    async def send(self, message: bytes) -> None:
        """All of it."""
        self._sent = message
        await self._loop.sock_sendall(self._sock, message)

    async def receive(self) -> bytes:
        """One datagram, for which it is asked again as long as it takes, or what has come by now. Raises EOFError."""
        while self.is_udp:
            try:
                async with asyncio.timeout(self._again):
                    return await self._loop.sock_recv(self._sock, _ANSWER_BYTES_MAX)
            except TimeoutError:
                await self._loop.sock_sendall(self._sock, self._sent)
        found = await self._loop.sock_recv(self._sock, _ANSWER_BYTES_MAX)
        if not found:
            raise EOFError("the connection was closed")
        return found

    async def exactly(self, count: int) -> bytes:
        """So many bytes of a stream. Raises EOFError."""
        found = b""
        while len(found) < count:
            found += await self.receive_up_to(count - len(found))
        return found

    async def receive_up_to(self, count: int) -> bytes:
        """At least one byte of a stream. Raises EOFError."""
        found = await self._loop.sock_recv(self._sock, count)
        if not found:
            raise EOFError("the connection was closed")
        return found


_ASK = {
    "npq": Canary._ask_npq,
    "pdb": Canary._ask_pdb,
    "enum": Canary._ask_enum,
    "sip": Canary._ask_sip,
}
