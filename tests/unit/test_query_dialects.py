"""`lookupd query` over ENUM and SIP: what a daemon answers, and what a server does that is none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import dns.message
import pytest

from lookupd import clients
from lookupd.client import NoAnswer
from lookupd.errors import LookupdError
from lookupd.model import AnswerView
from tests.conftest import PLAN, Workbench, free_port, run_cli, serve

LISTEN = 'enum = ["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]\nsip = ["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]'
PROFILES = """
[enum]
apex = "np.example"
tell = "edns"
unmapped_routing_number = "0"
[sip]
tell = true
unmapped_routing_number = "0"
"""
EXPECTED = [
    ("0912345678", "ported", "D0402"),
    ("+886 923-456-789", "ported", "D9999"),
    ("886911111111", "not_ported", None),
    ("886930000000", "not_allocated", None),
]


@contextlib.asynccontextmanager
async def asked(workbench: Workbench, profiles: str = PROFILES) -> Any:
    """What each way of asking a daemon brings for numbers."""
    async with serve(workbench.config(profiles, LISTEN)) as served:
        servers = {
            "enum": f"enum://127.0.0.1:{served.port('enum', 'udp')}/np.example",
            "enum+tcp": f"enum+tcp://127.0.0.1:{served.port('enum', 'tcp')}/NP.example.",
            "sip": f"sip://127.0.0.1:{served.port('sip', 'udp')}",
            "sip+tcp": f"sip+tcp://127.0.0.1:{served.port('sip', 'tcp')}",
        }

        async def ask(way: str, *numbers: str, timeout: float = 5) -> list[AnswerView]:
            return await asyncio.to_thread(clients.ask, [servers[way]], numbers, PLAN, timeout)

        yield ask


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("way", ["enum", "enum+tcp", "sip", "sip+tcp"])
async def test_every_outcome_is_read_as_it_was_meant(loaded: Workbench, way: str) -> None:
    async with asked(loaded) as ask:
        views = await ask(way, *(number for number, _, _ in EXPECTED))
        assert [(view.outcome, view.routing_number) for view in views] == [row[1:] for row in EXPECTED]
        assert [view.number for view in views] == ["+886912345678", "+886923456789", "+886911111111", "+886930000000"]
        assert {view.serial for view in views} == {3}
        assert all(view.age_seconds is not None and view.age_seconds < 100 for view in views)
        (short,) = await ask(way, "110")
        assert short.outcome == ("not_allocated" if way.startswith("enum") else "not_portable")


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("form", ["replace", "prefix"])
async def test_routing_number_in_the_users_place_is_found(loaded: Workbench, form: str) -> None:
    async with asked(loaded, f'[sip]\nform = "{form}"\n') as ask:
        ported, other = await ask("sip", "0912345678", "886911111111")
    assert ported.outcome == "ported"
    assert ported.routing_number == {"replace": "D0402", "prefix": "D0402886912345678"}[form]
    assert (other.outcome, other.routing_number, other.serial) == ("not_ported", None, 0)


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("way", ["enum", "sip", "sip+tcp"])
async def test_server_without_data_is_unavailable(workbench: Workbench, way: str) -> None:
    workbench.load_tables()
    async with asked(workbench) as ask:
        (view,) = await ask(way, "0912345678")
    assert view.outcome == "unavailable"


@pytest.mark.usefixtures("each_engine")
async def test_answer_that_is_cut_is_asked_for_over_tcp(loaded: Workbench) -> None:
    port = free_port()
    listen = f'enum = ["udp://127.0.0.1:{port}", "tcp://127.0.0.1:{port}"]'
    domain = f"{'gateway' * 10}.example"
    profile = f'[enum]\napex = "np.example"\nservice = ["E2U+pstn:tel", "E2U+pstn:sip"]\ndomain = "{domain}"\n'
    async with serve(loaded.config(profile, listen)) as served:
        server = f"enum://127.0.0.1:{port}/np.example"
        (view,) = await asyncio.to_thread(clients.ask, [server], ["0912345678"], PLAN, 5)
        counted = {t: served.daemon.metrics.queries("enum", t).received for t in ("udp", "tcp")}
    assert (view.outcome, counted) == ("ported", {"udp": 1, "tcp": 1})


# -- the command -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("each_engine")
async def test_command_asks_one_server_after_another(loaded: Workbench) -> None:
    async with serve(loaded.config(PROFILES, LISTEN)) as served:
        silent = f"sip://127.0.0.1:{free_port()}"
        server = f"enum://127.0.0.1:{served.port('enum', 'udp')}/np.example"
        arguments = ("query", "0912345678", "--server", silent, "--server", server)
        told = await asyncio.to_thread(run_cli, "lookupd.cli", *arguments)
        as_json = await asyncio.to_thread(run_cli, "lookupd.cli", *arguments, "--json")
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("+886912345678 ported routing_number=D0402 serial=3 age=")
    fields = json.loads(as_json.stdout)
    assert (fields["outcome"], fields["operator"], fields["network_code"]) == ("ported", None, None)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--server", "enum://127.0.0.1"], 1, "name the apex"),
        (["--server", "sip://127.0.0.1/apex"], 1, "no path"),
        (["--server", "sip://localhost"], 1, "localhost"),
        (["--server", "sip+tls://127.0.0.1"], 1, "write it like enum://"),
        (["--server", "enum://127.0.0.1:99999/np.example"], 1, "write it like"),
        (["--server", "enum://127.0.0.1/a..b"], 1, "no domain name"),
        (["--server", "sip://127.0.0.1", "--server", "udp://127.0.0.1:4700"], 2, "asked in turn"),
    ],
)
def test_server_that_is_none_is_refused(arguments: list[str], code: int, words: str) -> None:
    told = run_cli("lookupd.cli", "query", "0912345678", *arguments)
    assert (told.returncode, words in told.stderr) == (code, True), told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize("server", ["enum://127.0.0.1/np.example", "sip://127.0.0.1"])
def test_what_is_no_number_is_refused(server: str) -> None:
    with pytest.raises(LookupdError, match="digits"):
        clients.ask([server], ["no@number"], PLAN, 1)


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("way", ["enum", "sip"])
async def test_carrier_code_alone_says_ported_too(loaded: Workbench, way: str) -> None:
    profiles = '[enum]\napex = "np.example"\ncic_context = "+886"\n[sip]\ncic_context = "+886"\n'
    async with asked(loaded, profiles) as ask:
        (view,) = await ask(way, "886223450000")
    assert (view.outcome, view.routing_number) == ("ported", None)


# -- servers that are none -------------------------------------------------------------------------------


@contextlib.contextmanager
def answering(reply: Callable[[bytes], bytes]) -> Iterator[int]:
    """A UDP server that sends back what a function makes of each datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    datagram, peer = sock.recvfrom(65_535)
                    if datagram == b"end":
                        return
                    sock.sendto(reply(datagram), peer)

        thread = threading.Thread(target=run)
        thread.start()
        port: int = sock.getsockname()[1]
        try:
            yield port
        finally:
            sock.sendto(b"end", ("127.0.0.1", port))
            thread.join()


def sip_answer(contact: str, status: str = "302 Moved Temporarily") -> Callable[[bytes], bytes]:
    def reply(request: bytes) -> bytes:
        lines = request.decode().split("\r\n")
        kept = [line for line in lines if line.startswith(("Via", "From", "To", "Call-ID", "CSeq"))]
        return "\r\n".join([f"SIP/2.0 {status}", *kept, f"Contact: {contact}", "", ""]).encode()

    return reply


def dns_answer(rule: str, rcode: int = 0) -> Callable[[bytes], bytes]:
    def reply(query: bytes) -> bytes:
        answer = dns.message.make_response(dns.message.from_wire(query))
        answer.set_rcode(rcode)
        if rule:
            name = answer.question[0].name
            text = f'100 10 "u" "E2U+pstn:tel" "{rule}" .'
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", "NAPTR", text))
        return answer.to_wire()

    return reply


@pytest.mark.parametrize(
    ("scheme", "reply", "words"),
    [
        ("enum", dns_answer("!^.*$!tel:+886912345678!"), "without npdi"),
        ("enum", dns_answer("tel:+886912345678;npdi"), "cannot be read"),
        ("enum", dns_answer("", 1), "FORMERR"),
        ("sip", sip_answer("<sip:+886912345678@127.0.0.1>"), "without npdi"),
        ("sip", sip_answer(""), "without npdi"),
        ("sip", sip_answer("", "486 Busy Here"), "486 Busy Here"),
    ],
)
def test_answer_that_says_nothing_is_an_error(scheme: str, reply: Callable[[bytes], bytes], words: str) -> None:
    with answering(reply) as port:
        server = f"{scheme}://127.0.0.1:{port}" + ("/np.example" if scheme == "enum" else "")
        with pytest.raises(clients.WrongAnswer, match=words):
            clients.ask([server], ["0912345678"], PLAN, 2)


@pytest.mark.parametrize("scheme", ["enum", "sip"])
@pytest.mark.parametrize(
    "junk", [b"", b"\0" * 12, b"SIP/2.0 302 Moved\r\n\r\n", b"SIP/2.0 999 X\r\n" * 100, b"\xff" * 600]
)
def test_junk_is_no_answer(scheme: str, junk: bytes) -> None:
    with answering(lambda datagram: junk) as port:
        server = f"{scheme}://127.0.0.1:{port}" + ("/np.example" if scheme == "enum" else "")
        with pytest.raises((NoAnswer, clients.WrongAnswer)):
            clients.ask([server], ["0912345678"], PLAN, 0.3)


def test_request_over_udp_is_sent_again() -> None:
    seen: list[bytes] = []

    def second_time(request: bytes) -> bytes:
        seen.append(request)
        return sip_answer("<sip:+886912345678;npdi;rn=1402@h>")(request) if len(seen) > 1 else b"\r\n\r\n"

    with answering(second_time) as port:
        (view,) = clients.ask([f"sip://127.0.0.1:{port}"], ["0912345678"], PLAN, 5)
    assert (view.outcome, view.routing_number) == ("ported", "1402")
    assert seen[0] == seen[1]
    assert seen[2].startswith(b"ACK ")
