"""docs/protocols/enum.md is true: every example is sent and answered byte for byte, every bound and default is ours."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

import dns.flags
import dns.message
import dns.rcode
import msgspec
import pytest

from lookupd import limits
from lookupd.config import read_config
from lookupd.profiles import ENUM_SERVICES, EnumSettings
from tests.conftest import Workbench, serve

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocols" / "enum.md"
AGE_SECONDS = 42
LISTEN = 'enum = ["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]'
LINE = re.compile(r"([CS]): ((?:[0-9a-f]{2} )*[0-9a-f]{2})(?: +# .+)?")
BLOCK = re.compile(r"^```enum ([^\n]+)\n(.*?)^```$", re.M | re.S)
MARKER = bytes.fromhex("ff ff 20 00 00 00 00 00 00 00 00 00")
"""A NOTIFY whose reply, when it comes first, proves that nothing came before it."""

TEXT = DOCUMENT.read_text(encoding="utf-8")
PROSE = " ".join(TEXT.split())


class Example(NamedTuple):
    """One worked example. received is None for silence."""

    title: str
    transport: str
    client: str
    state: str
    sent: bytes
    received: bytes | None


def read_examples(text: str) -> list[Example]:
    """Every block that begins with `enum`; a line of it that is not of the fixed form fails."""
    examples = []
    sections = [section.partition("\n") for section in re.split(r"^### ", text, flags=re.M)[1:]]
    blocks = [(title, found) for title, _, rest in sections for found in re.findall(BLOCK, rest)]
    for title, (head, block) in blocks:
        transport, client, *state = head.split()
        sides = {"C": b"", "S": b""}
        silent = False
        for line in block.splitlines():
            if line == "S: silence":
                silent = True
                continue
            found = LINE.fullmatch(line)
            assert found, line
            side, digits = found.groups()
            assert side == "S" or not sides["S"], f"{title}: a client's line after a server's"
            sides[side] += bytes.fromhex(digits)
        assert sides["C"], title
        assert silent != bool(sides["S"]), title
        examples.append(Example(title, transport, client, " ".join(state), sides["C"], None if silent else sides["S"]))
    return examples


EXAMPLES = read_examples(TEXT)
every_example = pytest.mark.parametrize("example", EXAMPLES, ids=[example.title for example in EXAMPLES])
(SETTINGS,) = re.findall(r"^```toml examples\n(.*?)^```$", TEXT, re.M | re.S)
SOURCES = {client["name"]: client["sources"][0].partition("/")[0] for client in tomllib.loads(SETTINGS)["client"]}


def frames(stream: bytes) -> list[bytes]:
    """The messages of a TCP stream."""
    found = []
    while stream:
        (length,) = struct.unpack_from(">H", stream)
        assert len(stream) >= 2 + length
        found.append(stream[2 : 2 + length])
        stream = stream[2 + length :]
    return found


# -- the page itself -------------------------------------------------------------------------------------


def test_titles_of_examples_are_unique_and_none_was_passed_over() -> None:
    titles = [example.title for example in EXAMPLES]
    assert len(titles) == len(set(titles)) == TEXT.count("```enum ") > 20


def test_examples_show_each_code_and_silence_over_both_transports() -> None:
    replies = [
        dns.message.from_wire(message)
        for example in EXAMPLES
        if example.received
        for message in (frames(example.received) if example.transport == "tcp" else [example.received])
    ]
    codes = {"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "BADVERS"}
    assert {dns.rcode.to_text(reply.rcode()) for reply in replies} == codes
    assert sum(bool(reply.flags & dns.flags.TC) for reply in replies) == 2
    assert sum(example.received is None for example in EXAMPLES) == 2
    assert {example.transport for example in EXAMPLES} == {"udp", "tcp"}
    assert {example.client for example in EXAMPLES} == set(SOURCES)
    assert {example.state for example in EXAMPLES} == {"", "no-data", "restricted"}
    services = {
        record.service.decode() for reply in replies for rrset in reply.answer for record in rrset if rrset.rdtype == 35
    }
    assert services == set(ENUM_SERVICES)


def test_table_of_settings_has_every_setting_and_its_default() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| `([^`]+)` \|", TEXT, re.M))
    defaults = tomllib.loads("\n".join(f"{key} = {value}" for key, value in rows.items()))
    assert defaults == msgspec.to_builtins(EnumSettings())


def test_first_configuration_is_accepted(tmp_path: Path) -> None:
    text = re.search(r"^```toml\n(.*?)^```$", TEXT, re.M | re.S)
    assert text
    path = tmp_path / "lookupd.toml"
    path.write_text(text[1])
    assert read_config(path).clients[0].enum == EnumSettings(apex="np.example", rn_context="+886")


@pytest.mark.parametrize(
    "sentence",
    [
        f"one name or a list, at most {limits.ENUM_APEXES_MAX};",
        f"each with its addresses, at most {limits.NAMESERVERS_MAX} of {limits.NAMESERVERS_MAX};",
        f"numbers have {limits.TN_DIGITS_MIN} to {limits.E164_DIGITS_MAX}.",
        f"| over {limits.E164_DIGITS_MAX} digits;",
        f"at most {limits.NAPTR_TEXT_BYTES_MAX} bytes",
        f"of more than {limits.DNS_NAME_BYTES_MAX} bytes, a label of more than 63",
        f"more than {limits.DNS_ADDITIONAL_MAX} additional records",
        f"from 512 to {limits.DNS_ANSWER_BYTES_MAX:,}. And never more than {limits.AMPLIFICATION_MAX} times the",
        f"Of a question {limits.DNS_QUERY_BYTES_MAX:,} bytes are read",
        f"messages of up to {limits.DNS_MESSAGE_BYTES_MAX:,} bytes",
        f"an OPT if the question had one: {limits.DNS_ANSWER_BYTES_MAX:,} bytes",
    ],
)
def test_bound_on_the_page_is_the_bound_in_force(sentence: str) -> None:
    assert sentence in PROSE


# -- the examples ----------------------------------------------------------------------------------------


@every_example
@pytest.mark.usefixtures("each_engine")
async def test_example_is_answered_by_a_running_daemon(tmp_path: Path, example: Example) -> None:
    for attempt in range(10):
        workbench = Workbench(tmp_path / str(attempt))
        workbench.folder.mkdir()
        asked_in = int(time.time())
        if example.state != "no-data":
            workbench.load_tables()
            workbench.snapshot(now=asked_in - AGE_SECONDS)
        if example.state == "restricted":
            workbench.restrict(886912345678, asked_in - AGE_SECONDS)
        found = await ask_daemon(workbench, example)
        if found == example.received or int(time.time()) == asked_in:  # the data's age did not grow meanwhile
            assert found == example.received
            return
    pytest.fail("the machine is too slow to load and ask within a second")


async def ask_daemon(workbench: Workbench, example: Example) -> bytes | None:
    """What a client of a fresh daemon gets; over TCP the whole stream."""
    async with serve(workbench.config(SETTINGS, LISTEN)) as served:
        port, source = served.port("enum", example.transport), SOURCES[example.client]
        if example.transport == "tcp":
            return await asyncio.to_thread(tcp_exchange, port, source, example.sent)
        tries = 50 if example.client in {"slow", "spread"} else 1  # until the allowance of one a second is used up
        return await asyncio.to_thread(udp_exchange, port, source, example, tries)


def udp_exchange(port: int, source: str, example: Example, tries: int) -> bytes | None:
    """The reply; None if that to the marker behind the message came first. tries: until it is the expected one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", port))
        reply = None
        for _ in range(tries):
            sock.send(example.sent)
            if example.received is None:
                sock.send(MARKER)
            received = sock.recv(65_535)
            reply = None if received[:2] == MARKER[:2] else received
            if reply == example.received:
                break
        return reply


def tcp_exchange(port: int, source: str, stream: bytes) -> bytes:
    """Everything that comes back to a client that sends these bytes and then closes its sending side."""
    with socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0)) as sock:
        sock.sendall(stream)
        sock.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := sock.recv(65_536):
            received += chunk
        return received
