"""Whether the daemon of this machine answers, as a number in a file: what moves a virtual address.

Asks as a switch would, at every UDP listener of the configuration, and /readyz, many times a second. Decides nothing
about addresses: keepalived reads the file (docs/operations/virtual-address.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from lookupd.errors import ConfigError, LookupdError, ProtocolError
from lookupd.limits import (
    HEALTH_ANSWER_BYTES_MAX,
    HEALTH_ANSWER_SECONDS,
    HEALTH_BAD,
    HEALTH_SILENCE_SECONDS,
    HEALTH_STEADY_SECONDS,
)
from lookupd.observe.log import log
from lookupd.protocols import npq, pdb
from lookupd.settings import Config, Endpoint, parse_endpoint

CANARY = "0"
"""No number of any plan: it is answered without the store, and by every dialect."""

DNS_ID, DNS_HEADER_BYTES = b"\x4c\x4b", 12
HEALTHY = 0


class Verdict:
    """Healthy or not, with a memory: bad when no look was good for a while, good again after a steady one."""

    def __init__(self) -> None:
        self.healthy = False
        self._good_at = float("-inf")
        self._good_since: float | None = None

    def take(self, trouble: str | None, surely: bool, begun: float, now: float) -> bool:
        """The outcome of one look that began at a time. surely: it cannot be chance. Returns whether healthy."""
        if trouble is None:
            self._good_at = max(self._good_at, begun)
            if self._good_since is None:
                self._good_since = begun
            self.healthy = self.healthy or now - self._good_since >= HEALTH_STEADY_SECONDS
        else:
            self._good_since = None
        return self.check(now, surely)

    def check(self, now: float, surely: bool = False) -> bool:
        """Whether healthy still, when nothing came meanwhile."""
        if surely or now - self._good_at > HEALTH_SILENCE_SECONDS:
            self.healthy, self._good_since = False, None
        return self.healthy


class Trouble(Exception):
    """What is wrong. surely: no second look is needed."""

    def __init__(self, reason: str, surely: bool = False) -> None:
        super().__init__(reason)
        self.surely = surely


class Watch:
    """`lookupd health`: looks, and keeps the file."""

    def __init__(self, config: Config, file: Path, interval: float, bad: int = HEALTH_BAD) -> None:
        """bad: what the file says while we are not healthy. Raises ConfigError where nothing can be asked."""
        if config.local_http is None:
            raise ConfigError(
                'listen.http: no http:// on loopback: the health check asks its /readyz: add "http://127.0.0.1:9474"'
            )
        self._http = parse_endpoint(config.local_http)
        self._config = config
        self._file, self._interval, self._bad = file, interval, bad
        self._verdict = Verdict()
        self._written: int | None = None
        self._told: str | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Until stopped; the file says the bad value then, too. Raises LookupdError if it cannot be written.

        A look begins at every interval, whether the one before has ended or not: an answer that is late is one.
        """
        loop = asyncio.get_running_loop()
        looks: set[asyncio.Task[None]] = set()
        try:
            while not stopping.is_set():
                started = loop.time()
                looks.add(asyncio.create_task(self._look_once()))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), max(started + self._interval - loop.time(), 0))
                ended = {look for look in looks if look.done()}
                looks -= ended
                for look in ended:
                    look.result()
                self._verdict.check(loop.time())
                self._keep(HEALTHY if self._verdict.healthy else self._bad)
        finally:
            for look in looks:
                look.cancel()
            self._keep(self._bad)

    async def _look_once(self) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        trouble = await self._look()
        reason = None if trouble is None else str(trouble)
        healthy = self._verdict.take(reason, trouble is not None and trouble.surely, begun, loop.time())
        self._keep(HEALTHY if healthy else self._bad)
        self._tell(healthy, reason)

    async def _look(self) -> Trouble | None:
        looks = [_ask_udp(dialect, here) for dialect, here in _questions(self._config)]
        looks.append(_ask_readyz(self._http))
        found = await asyncio.gather(*looks, return_exceptions=True)
        for error in found:
            if error is not None and not isinstance(error, Trouble | OSError | TimeoutError):
                raise error
        troubles = [each if isinstance(each, Trouble) else Trouble(str(each)) for each in found if each is not None]
        return min(troubles, key=lambda trouble: not trouble.surely, default=None)

    def _keep(self, value: int) -> None:
        """The file, whole at any moment. Unchanged, only its time moves: that says that somebody still looks."""
        try:
            if value == self._written:
                os.utime(self._file)
                return
            part = self._file.with_name(f".{self._file.name}.{os.getpid()}")
            part.write_text(f"{value}\n")
            part.replace(self._file)
        except FileNotFoundError:
            if not self._file.parent.is_dir():
                raise LookupdError(f"{self._file.parent}: no such folder: make it, or name another file") from None
            self._written = None  # somebody removed it: write it at the next look
            return
        except OSError as error:
            raise LookupdError(f"{self._file}: {error.strerror}: let this user write there") from None
        self._written = value

    def _tell(self, healthy: bool, reason: str | None) -> None:
        if healthy and self._told != "healthy":
            log("healthy", file=self._file)
            self._told = "healthy"
        elif not healthy and reason is not None and self._told != reason:
            log("unhealthy", file=self._file, reason=reason)
            self._told = reason


def watch(config: Config, file: Path, interval: float, bad: int = HEALTH_BAD) -> None:
    """Look until SIGTERM or SIGINT. Raises ConfigError, LookupdError."""
    keeper = Watch(config, file, interval, bad)

    async def run() -> None:
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        await keeper.run(stopping)

    asyncio.run(run())


# -- looks -----------------------------------------------------------------------------------------------


def _questions(config: Config) -> list[tuple[str, Endpoint]]:
    """Listeners to ask: those over UDP. A virtual address that is elsewhere now is left out."""
    return [
        (dialect, endpoint) for dialect, endpoint in config.endpoints() if endpoint.transport == "udp" and endpoint.port
    ]


def _reachable(host: str) -> str:
    """An address of this machine to ask: of one that stands for all, the loopback."""
    address = ipaddress.ip_address(host)
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"


async def _ask_udp(dialect: str, endpoint: Endpoint) -> None:
    """Raises Trouble, OSError or TimeoutError unless the right kind of answer comes."""
    host = _reachable(endpoint.host)
    question, is_good = _CANARIES[dialect]
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect((host, endpoint.port))
        here = sock.getsockname()
        if here[0] != host:
            return  # the address is not of this machine at the moment: the other one would answer
        try:
            await loop.sock_sendall(sock, question(host, endpoint.port, here[1]))
            async with asyncio.timeout(HEALTH_ANSWER_SECONDS):
                while not is_good(await loop.sock_recv(sock, HEALTH_ANSWER_BYTES_MAX)):
                    pass
        except ConnectionRefusedError:
            raise Trouble(f"{dialect}: {endpoint}: nobody listens", surely=True) from None
        except TimeoutError:
            raise Trouble(f"{dialect}: {endpoint}: no answer within {HEALTH_ANSWER_SECONDS} s") from None


async def _ask_readyz(http: Endpoint) -> None:
    """Raises Trouble, OSError or TimeoutError unless /readyz says 200.

    What it says once is no proof: a daemon that hands over to its successor says 503 for a moment.
    """
    writer = None
    try:
        async with asyncio.timeout(HEALTH_ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(_reachable(http.host), http.port)
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b""
            while len(answer) < HEALTH_ANSWER_BYTES_MAX and (more := await reader.read(HEALTH_ANSWER_BYTES_MAX)):
                answer += more
    except ConnectionRefusedError:
        raise Trouble(f"{http}: nobody listens", surely=True) from None
    except TimeoutError:
        raise Trouble(f"{http}: no answer within {HEALTH_ANSWER_SECONDS} s") from None
    finally:
        if writer is not None:
            writer.close()
    if not answer.startswith(b"HTTP/1.1 200 "):
        text = answer.partition(b"\r\n\r\n")[2].decode("utf-8", "replace").strip()
        raise Trouble(text[:200] or f"{http}: no answer to /readyz")


def _npq_question(host: str, port: int, own_port: int) -> bytes:
    return npq.encode_query(own_port, CANARY)


def _is_npq(answer: bytes) -> bool:
    try:
        return npq.decode_answer(answer).kind == npq.ANSWER
    except ProtocolError:
        return False


def _pdb_question(host: str, port: int, own_port: int) -> bytes:
    return pdb.encode_query(CANARY, own_port)


def _is_pdb(answer: bytes) -> bool:
    try:
        pdb.decode_answer(answer)
    except ProtocolError:
        return False
    return True


def _enum_question(host: str, port: int, own_port: int) -> bytes:
    """The root's SOA: never ours, so the answer is REFUSED, and that is one."""
    return DNS_ID + b"\0\0\0\1\0\0\0\0\0\0" + b"\0" + b"\0\x06\0\x01"


def _is_dns(answer: bytes) -> bool:
    return len(answer) >= DNS_HEADER_BYTES and answer[:2] == DNS_ID and bool(answer[2] & 0x80)


def _sip_question(host: str, port: int, own_port: int) -> bytes:
    shown = f"[{host}]" if ":" in host else host
    return (
        f"OPTIONS sip:{shown}:{port} SIP/2.0\r\nVia: SIP/2.0/UDP {shown}:{own_port};branch=z9hG4bKhealth\r\n"
        f"Max-Forwards: 0\r\nFrom: <sip:health@{shown}>;tag=health\r\nTo: <sip:{shown}>\r\n"
        f"Call-ID: health{own_port}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    ).encode()


def _is_sip(answer: bytes) -> bool:
    return answer.startswith(b"SIP/2.0 ")


Canary = tuple[Callable[[str, int, int], bytes], Callable[[bytes], bool]]

_CANARIES: dict[str, Canary] = {
    "npq": (_npq_question, _is_npq),
    "pdb": (_pdb_question, _is_pdb),
    "enum": (_enum_question, _is_dns),
    "sip": (_sip_question, _is_sip),
}
