"""Who asks during a run, a process inside the clients' namespace: so many questions a second, answered or not.

    python -m bench.faults.askers KIND --seconds 8 --rate 100 --first 0 --output FILE SERVER ...

    library     lookupd.client over npq: udp://... or tcp://..., both servers
    call        INVITE to a Kamailio on this machine: HOST:PORT, and what is expected: carrier or rn
    enum        NAPTR of a resolver on this machine: HOST:PORT

Each question is one line of the file, written at the end: when it was sent (CLOCK_MONOTONIC, the same in all
processes), the seconds until its answer or null, and `ok`, `wrong` or `failed`.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import click
import dns.exception
import dns.message
import dns.rcode
import uvloop

from bench.faults.replicas import APEX, Right
from lookupd.client import LookupClient
from lookupd.errors import LookupdError
from lookupd.limits import CLIENT_TIMEOUT_SECONDS

Row = tuple[float, float | None, str]
Ask = Callable[[int], Awaitable[str]]

OK, WRONG, FAILED = "ok", "wrong", "failed"
CALL_SECONDS = 4.0
"""What a caller waits for a first answer, at most."""

CALL_AGAIN_SECONDS = 0.5
"""T1 of SIP: an INVITE over UDP without an answer is sent again."""

DNS_SECONDS = 5.0
"""What a stub resolver waits."""


@click.command()
@click.argument("kind", type=click.Choice(["library", "call", "enum"]))
@click.argument("servers", nargs=-1, required=True)
@click.option("--seconds", type=float, required=True)
@click.option("--rate", type=float, required=True)
@click.option("--first", type=int, default=0)
@click.option("--timeout", type=float, default=CLIENT_TIMEOUT_SECONDS, help="Of the library.")
@click.option("--expect", type=click.Choice(["carrier", "rn"]), default="rn")
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--gateway", type=int, help="Port on which to be the next hop, too.")
def main(
    kind: str,
    servers: tuple[str, ...],
    seconds: float,
    rate: float,
    first: int,
    timeout: float,
    expect: str,
    output: Path,
    gateway: int | None,
) -> None:
    """Ask, then write what became of it."""
    makers: dict[str, Callable[[], Coroutine[Any, Any, Ask]]] = {
        "library": lambda: _library(servers, timeout),
        "call": lambda: _caller(servers[0], expect, gateway),
        "enum": lambda: _resolver(servers[0]),
    }
    rows = uvloop.run(_ask_all(makers[kind], seconds, rate, first))
    output.write_text("".join(json.dumps(row) + "\n" for row in sorted(rows, key=lambda row: row[0])))


async def _ask_all(make: Callable[[], Coroutine[Any, Any, Ask]], seconds: float, rate: float, first: int) -> list[Row]:
    ask = await make()
    rows: list[Row] = []

    async def one(at: int) -> None:
        sent = time.monotonic()
        verdict = await ask(at)
        rows.append((sent, None if verdict == FAILED else time.monotonic() - sent, verdict))

    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for count in range(int(seconds * rate)):
            await asyncio.sleep(max(started + count / rate - time.monotonic(), 0))
            group.create_task(one(first + count))
    return rows


async def _library(servers: tuple[str, ...], timeout: float) -> Ask:
    client = LookupClient(servers, timeout=timeout)

    async def ask(at: int) -> str:
        right = Right(at)
        try:
            answer = await client.query(right.number)
        except LookupdError:
            return FAILED
        if answer.outcome in {"unavailable", "refused"}:
            return FAILED
        return OK if answer.network_code == right.network_code else WRONG

    return ask


# -- SIP -------------------------------------------------------------------------------------------------

_RN = re.compile(r";rn=([^;@>]+)")
_CONTACT = re.compile(r"^Contact: *(.+?)\r$", re.MULTILINE | re.IGNORECASE)
_CALL_ID = re.compile(r"^Call-ID: *(.+?)\r$", re.MULTILINE | re.IGNORECASE)
_COPIED = re.compile(r"^(?:Via|From|To|Call-ID|CSeq|Record-Route):.*?\r\n", re.MULTILINE | re.IGNORECASE)


class _Caller(asyncio.DatagramProtocol):
    """Sends INVITEs from one socket; answers find their call by its Call-ID."""

    def __init__(self, host: str, port: int) -> None:
        self.server = f"{host}:{port}"
        self.waiting: dict[str, asyncio.Future[str]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.DatagramTransport = transport  # type: ignore[assignment]
        host, port = transport.get_extra_info("sockname")[:2]
        self.here = f"{host}:{port}"

    def datagram_received(self, data: bytes, addr: object) -> None:
        text = data.decode("utf-8", "replace")
        found = _CALL_ID.search(text)
        waiting = self.waiting.get(found[1]) if found else None
        if text.startswith("SIP/2.0 1") or waiting is None or waiting.done():
            return
        waiting.set_result(text)

    def message(self, method: str, call: str, number: str, to: str = "") -> bytes:
        to = to or f"To: <sip:{number}@{self.server}>"
        return (
            f"{method} sip:{number}@{self.server};user=phone SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {self.here};rport;branch=z9hG4bK{call}\r\nMax-Forwards: 70\r\n"
            f"From: <sip:caller@{self.here}>;tag={call}\r\n{to}\r\nCall-ID: {call}\r\nCSeq: 1 {method}\r\n"
            f"Contact: <sip:caller@{self.here}>\r\nContent-Length: 0\r\n\r\n"
        ).encode()

    async def call(self, call: str, number: str) -> str | None:
        """The final answer, acknowledged; None if none came."""
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.waiting[call] = answer
        until = time.monotonic() + CALL_SECONDS
        try:
            while (left := until - time.monotonic()) > 0:
                self.transport.sendto(self.message("INVITE", call, number))
                try:
                    text = await asyncio.wait_for(asyncio.shield(answer), min(left, CALL_AGAIN_SECONDS))
                except TimeoutError:
                    continue
                to = next((line for line in text.split("\r\n") if line.lower().startswith("to:")), "")
                self.transport.sendto(self.message("ACK", call, number, to))
                return text
            return None
        finally:
            del self.waiting[call]


class _Gateway(asyncio.DatagramProtocol):
    """The next hop: each INVITE is redirected to the URI that it was called with."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.DatagramTransport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        text = data.decode("utf-8", "replace")
        method, _, rest = text.partition(" ")
        if method != "INVITE":
            return
        uri = rest.partition(" ")[0]
        copied = "".join(_COPIED.findall(text)).replace("\r\nCall-ID", ";tag=hop\r\nCall-ID")
        head = f"SIP/2.0 302 Moved Temporarily\r\n{copied}Contact: <{uri}>\r\nContent-Length: 0\r\n\r\n"
        self.transport.sendto(head.encode(), addr)


async def _caller(server: str, expect: str, gateway: int | None) -> Ask:
    host, _, port = server.partition(":")
    loop = asyncio.get_running_loop()
    if gateway is not None:
        await loop.create_datagram_endpoint(_Gateway, local_addr=(host, gateway))
    _, caller = await loop.create_datagram_endpoint(lambda: _Caller(host, int(port)), remote_addr=(host, int(port)))

    async def ask(at: int) -> str:
        right = Right(at)
        dialled = right.number if expect == "carrier" else f"+{right.number}"
        text = await caller.call(f"{caller.here.partition(':')[2]}-{at}", dialled)
        if text is None or text.startswith("SIP/2.0 5"):
            return FAILED
        contact = _CONTACT.search(text)
        if not text.startswith("SIP/2.0 302") or contact is None or ";npdi" not in contact[1]:
            return WRONG
        rn = _RN.search(contact[1])
        told = "-" if rn is None else rn[1].removeprefix("+")
        return OK if told == (right.carrier_id if expect == "carrier" else right.routing_number) else WRONG

    return ask


# -- ENUM ------------------------------------------------------------------------------------------------


class _Stub(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[bytes]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.DatagramTransport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: object) -> None:
        waiting = self.waiting.get(int.from_bytes(data[:2]))
        if waiting is not None and not waiting.done():
            waiting.set_result(data)


async def _resolver(server: str) -> Ask:
    host, _, port = server.partition(":")
    loop = asyncio.get_running_loop()
    _, stub = await loop.create_datagram_endpoint(_Stub, remote_addr=(host, int(port)))

    async def ask(at: int) -> str:
        right = Right(at)
        query = dns.message.make_query(".".join([*reversed(right.number), APEX]), "NAPTR")
        query.id = at & 0xFFFF
        answer = stub.waiting[query.id] = loop.create_future()
        try:
            stub.transport.sendto(query.to_wire())
            reply = dns.message.from_wire(await asyncio.wait_for(answer, DNS_SECONDS))
        except (TimeoutError, dns.exception.DNSException):
            return FAILED
        finally:
            stub.waiting.pop(query.id, None)
        if reply.rcode() == dns.rcode.SERVFAIL:
            return FAILED
        text = " ".join(record.to_text() for records in reply.answer for record in records)
        rn = _RN.search(text)
        told = "-" if rn is None else rn[1].removeprefix("+")
        return OK if ";npdi" in text and told == right.routing_number else WRONG

    return ask


if __name__ == "__main__":
    main()
