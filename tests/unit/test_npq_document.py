"""docs/protocols/npq.md is true: every example is sent and answered byte for byte, every bound is ours.

At the end a client written from that page alone: sockets, struct and bytes, nothing of ours.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lookupd import limits
from lookupd.access import SECOND_NS, Client
from lookupd.engine import Engine
from lookupd.fastpath.batch import NpqResponder
from lookupd.model import Outcome, UnixSeconds
from lookupd.observe.counters import QueryCounters
from lookupd.protocols.npq import ERROR_TEXTS
from lookupd.settings import ClientSettings
from tests.conftest import PLAN, Workbench, serve

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocols" / "npq.md"
CONFIRMED_AT = 1_790_000_000
AGE_SECONDS = 42
PORTED = 886912345678
LINE = re.compile(r"([CS]): ((?:[0-9a-f]{2} )*[0-9a-f]{2})(?: \* ([0-9]+))?(?: +# .+)?")
SLOW_CLIENT = '[[client]]\nname = "slow"\nsources = ["127.0.0.0/8"]\nqueries_per_second = 1'
MARKER = bytes.fromhex("94 01 00 ce 7f ff ff fe a3 31 31 30")
"""A query; what was answered before its answer came is all that will be."""


class Example(NamedTuple):
    """One worked example. received is None for silence."""

    title: str
    transport: str
    state: str
    sent: bytes
    received: bytes | None


def read_examples(text: str) -> list[Example]:
    """Every fenced block of the page; a line that is not of the fixed form fails."""
    title, block, examples = "", None, []
    for line in text.splitlines():
        if line.startswith("### "):
            title = line[4:]
        elif line.startswith("```"):
            if block is None:
                name, *words = line[3:].split()
                assert name == "npq", line
                block, transport, state = {"C": b"", "S": b""}, words[0], " ".join(words[1:])
                silent = False
            else:
                assert block["C"], title
                assert silent != bool(block["S"]), title
                examples.append(Example(title, transport, state, block["C"], None if silent else block["S"]))
                block = None
        elif block is not None:
            if line == "S: silence":
                silent = True
                continue
            found = LINE.fullmatch(line)
            assert found, line
            side, digits, times = found.groups()
            assert side == "S" or not block["S"], f"{title}: a client's line after a server's"
            block[side] += bytes.fromhex(digits) * int(times or 1)
    assert block is None
    return examples


TEXT = DOCUMENT.read_text(encoding="utf-8")
EXAMPLES = read_examples(TEXT)
every_example = pytest.mark.parametrize("example", EXAMPLES, ids=[example.title for example in EXAMPLES])


@pytest.fixture
def confirmed(workbench: Workbench) -> Workbench:
    """The page's data, confirmed at a known moment."""
    workbench.load_tables()
    workbench.snapshot(now=CONFIRMED_AT)
    return workbench


def frames(stream: bytes) -> list[bytes]:
    """The messages of a TCP stream."""
    found = []
    while stream:
        (length,) = struct.unpack_from(">I", stream)
        assert len(stream) >= 4 + length
        found.append(stream[4 : 4 + length])
        stream = stream[4 + length :]
    return found


# -- the page itself -------------------------------------------------------------------------------------


def test_titles_of_examples_are_unique() -> None:
    titles = [example.title for example in EXAMPLES]
    assert len(titles) == len(set(titles)) == TEXT.count("```npq") > 15


def test_examples_show_each_outcome_each_error_and_silence() -> None:
    answers = [frames(e.received) if e.transport == "tcp" else [e.received] for e in EXAMPLES if e.received]
    messages = [read_message(message) for group in answers for message in group]
    results = [message[5] for message in messages if message[1] == 1]
    flat = [result for found in results for result in (found if isinstance(found[0], list) else [found])]
    assert {result[0] for result in flat} == set(Outcome)
    assert {len(result) for result in flat} == {4, 6}
    assert {message[3] for message in messages if message[1] == 2} == set(ERROR_TEXTS)
    assert {message[2] is None for message in messages if message[1] == 2} == {True, False}
    assert sum(example.received is None for example in EXAMPLES) == 2
    assert {example.transport for example in EXAMPLES} == {"udp", "tcp"}
    assert {example.state for example in EXAMPLES} == {"", "unavailable", "refused", "restricted"}


@pytest.mark.parametrize(
    "sentence",
    [
        f"or up to {limits.NPQ_NUMBERS_MAX:,} at once",
        f"An answer to a batch is at most {limits.NPQ_DATAGRAM_ANSWER_BYTES_MAX:,} bytes",
        f"A message is at most {limits.NPQ_FRAME_BYTES_MAX:,} bytes",
        f"| {limits.CONNECTIONS_MAX:,} connections are open on the same port",
        f"or {limits.CONNECTIONS_PER_SOURCE_MAX} from this address |",
        f"| {limits.FRAME_SECONDS:.0f} s after its first byte |",
        f"over {limits.WRITE_BUFFER_BYTES_MAX >> 20} MiB waits | {limits.FRAME_SECONDS:.0f} s |",
        f"| no complete frame came | {limits.CONNECTION_IDLE_SECONDS:.0f} s |",
        f"still leave, for {limits.DRAIN_SECONDS:.0f} s when it stops",
        f"A text has at most {limits.NUMBER_CHARS_MAX} characters",
        f"E.164 numbers have {limits.TN_DIGITS_MIN} to {limits.E164_DIGITS_MAX} digits here",
        f"text, 1 to {limits.NETWORK_CODE_CHARS_MAX} of `0-9 A-Z`",
        f"text, 1 to {limits.ROUTING_NUMBER_CHARS_MAX} of `0-9 A-F`",
        f"after {limits.CLIENT_HEDGE_SECONDS * 1000:.0f} ms without a good answer",
    ],
)
def test_bound_on_the_page_is_the_bound_in_force(sentence: str) -> None:
    assert sentence in " ".join(TEXT.split())


def test_outcomes_on_the_page_are_ours() -> None:
    rows = re.findall(r"^\| ([0-9]) \| `([a-z_]+)` \|", TEXT, re.MULTILINE)
    assert [(int(value), name) for value, name in rows] == [(int(outcome), outcome.label) for outcome in Outcome]


# -- the examples ----------------------------------------------------------------------------------------


@every_example
def test_example_is_answered_as_written(confirmed: Workbench, example: Example) -> None:
    tcp = example.transport == "tcp"
    engine = Engine(PLAN)
    counters = QueryCounters("npq", example.transport)
    bytes_max = limits.NPQ_FRAME_BYTES_MAX if tcp else limits.NPQ_DATAGRAM_ANSWER_BYTES_MAX
    responder = NpqResponder(engine, counters, answer_bytes_max=bytes_max, tells_errors=tcp)
    client = Client(ClientSettings("slow", (), queries_per_second=1 if example.state == "refused" else 0))
    client.take(1, SECOND_NS)
    if example.state == "restricted":
        confirmed.restrict(PORTED, CONFIRMED_AT)
    with confirmed.reader() as reader:
        engine.reader = None if example.state == "unavailable" else reader
        engine.begin(UnixSeconds(CONFIRMED_AT + AGE_SECONDS))
        messages = frames(example.sent) if tcp else [example.sent]
        replies = [responder.respond(message, client, SECOND_NS, ("127.0.0.1", 5000)) for message in messages]
    if tcp:
        assert example.received is not None
        assert replies == frames(example.received)
    else:
        assert replies == [example.received]
    assert counters.balance() == 0


@every_example
@pytest.mark.usefixtures("each_engine")
async def test_example_is_answered_by_a_running_daemon(tmp_path: Path, example: Example) -> None:
    for attempt in range(10):
        workbench = Workbench(tmp_path / str(attempt))
        workbench.folder.mkdir()
        asked_in = int(time.time())
        if example.state != "unavailable":
            workbench.load_tables()
            workbench.snapshot(now=asked_in - AGE_SECONDS)
        if example.state == "restricted":
            workbench.restrict(PORTED, asked_in - AGE_SECONDS)
        found = await ask_daemon(workbench, example)
        if int(time.time()) == asked_in:  # the data's age did not grow meanwhile
            assert found == example.received
            return
    pytest.fail("the machine is too slow to load and ask within a second")


async def ask_daemon(workbench: Workbench, example: Example) -> bytes | None:
    """What a client of a fresh daemon gets; over TCP the whole stream."""
    async with serve(workbench.config(SLOW_CLIENT if example.state == "refused" else "")) as served:
        port = served.port("npq", example.transport)
        if example.state == "refused":
            await asyncio.to_thread(use_up_the_rate, served.port("npq", "udp"))
        if example.transport == "tcp":
            return await asyncio.to_thread(tcp_exchange, port, example.sent)
        replies = await asyncio.to_thread(udp_exchange, port, example.sent)
        assert len(replies) <= 1
        return replies[0] if replies else None


def use_up_the_rate(port: int) -> None:
    """A hundred numbers at one a second: a debt longer than any test."""
    message = bytes.fromhex("94 01 00 01 dc 00 64") + b"\xa0" * 100
    assert len(udp_exchange(port, message)) == 1


def udp_exchange(port: int, message: bytes) -> list[bytes]:
    """Everything that comes back before the answer to a second marker; the first may overtake what came with it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect(("127.0.0.1", port))
        sock.send(message)
        replies = []
        for _ in range(2):
            sock.send(MARKER)
            while MARKER[3:8] not in (reply := sock.recv(65_535)):
                replies.append(reply)
        return replies


def tcp_exchange(port: int, stream: bytes) -> bytes:
    """Everything that comes back to a client that sends these bytes and then closes its sending side."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(stream)
        sock.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := sock.recv(65_536):
            received += chunk
        return received


# -- what the page says of connections -------------------------------------------------------------------


@pytest.mark.usefixtures("each_engine")
async def test_client_that_closes_its_side_gets_every_answer(confirmed: Workbench) -> None:
    query = bytes.fromhex("00 00 00 08 94 01 00 07 a3 31 31 30")
    async with serve(confirmed.config()) as served:
        received = await asyncio.to_thread(tcp_exchange, served.port("npq", "tcp"), query * 2000)
    assert len(frames(received)) == 2000


@pytest.mark.usefixtures("each_engine")
async def test_frame_over_the_bound_ends_the_connection_behind_the_answers(confirmed: Workbench) -> None:
    query = bytes.fromhex("00 00 00 08 94 01 00 07 a3 31 31 30")
    async with serve(confirmed.config()) as served:
        stream = query * 3 + struct.pack(">I", limits.NPQ_FRAME_BYTES_MAX + 1) + query
        received = await asyncio.to_thread(tcp_exchange, served.port("npq", "tcp"), stream)
    assert [read_message(message)[1] for message in frames(received)] == [1, 1, 1]


@pytest.mark.usefixtures("each_engine")
async def test_frame_at_the_bound_is_answered(confirmed: Workbench) -> None:
    bound = limits.NPQ_FRAME_BYTES_MAX
    async with serve(confirmed.config()) as served:
        stream = struct.pack(">I", bound) + b"\xc0" * bound + bytes.fromhex("00 00 00 08 94 01 00 07 a3 31 31 30")
        received = await asyncio.to_thread(tcp_exchange, served.port("npq", "tcp"), stream)
    assert [read_message(message)[1] for message in frames(received)] == [2, 1]


# -- a client from the page alone ------------------------------------------------------------------------


def pack_query(query_id: int, numbers: str | int | list[str | int], detail: int | None = None) -> bytes:
    """A query, every integer in its widest form."""
    message = bytes([0x94 if detail is None else 0x95, 1, 0]) + b"\xce" + struct.pack(">I", query_id)
    if isinstance(numbers, list):
        message += b"\xdd" + struct.pack(">I", len(numbers))
    for number in numbers if isinstance(numbers, list) else [numbers]:
        if isinstance(number, int):
            message += b"\xcf" + struct.pack(">Q", number)
        else:
            message += bytes([0xD9, len(number)]) + number.encode()
    return message if detail is None else message + bytes([detail])


def read_message(message: bytes) -> Any:
    """Read the forms that the page lists, and no bytes more or less."""
    value, at = read_value(message, 0)
    assert at == len(message)
    return value


def read_value(message: bytes, at: int) -> tuple[Any, int]:
    first = message[at]
    at += 1
    if first <= 0x7F:
        return first, at
    if 0xCC <= first <= 0xCF:
        size = 1 << (first - 0xCC)
        return int.from_bytes(message[at : at + size], "big"), at + size
    if first == 0xC0:
        return None, at
    if 0xA0 <= first <= 0xBF or first in {0xD9, 0xDA}:
        size, at = (first & 0x1F, at) if first <= 0xBF else read_length(message, at, first - 0xD8)
        assert len(message) >= at + size
        return message[at : at + size].decode(), at + size
    assert 0x90 <= first <= 0x9F or first == 0xDC, hex(first)
    count, at = (first & 0x0F, at) if first <= 0x9F else read_length(message, at, 2)
    values = []
    for _ in range(count):
        value, at = read_value(message, at)
        values.append(value)
    return values, at


def read_length(message: bytes, at: int, size: int) -> tuple[int, int]:
    return int.from_bytes(message[at : at + size], "big"), at + size


def ask_udp(port: int, message: bytes) -> Any:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect(("127.0.0.1", port))
        sock.send(message)
        return read_message(sock.recv(65_535))


def ask_tcp(port: int, message: bytes) -> Any:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock, sock.makefile("rb") as stream:
        sock.sendall(struct.pack(">I", len(message)) + message)
        (length,) = struct.unpack(">I", stream.read(4))
        return read_message(stream.read(length))


both_transports = pytest.mark.parametrize(("transport", "ask"), [("udp", ask_udp), ("tcp", ask_tcp)])
Ask = Callable[[int, bytes], Any]


@both_transports
async def test_client_from_the_page_alone_is_answered(confirmed: Workbench, transport: str, ask: Ask) -> None:
    async with serve(confirmed.config()) as served:
        port = served.port("npq", transport)
        single = await asyncio.to_thread(ask, port, pack_query(4_000_000_000, "0912345678"))
        named = await asyncio.to_thread(ask, port, pack_query(1, 886912345678, 1))
        batch = await asyncio.to_thread(ask, port, pack_query(2, ["+886911000000", 886931000000, "110"], 0))
    assert single[:4] == [1, 1, 4_000_000_000, 3]
    assert single[4] > 0
    assert single[5] == [0, "1402", "D0402", 0]
    assert named[2] == 1
    assert named[5] == [0, "1402", "D0402", 0, 886912345678, "Beta Mobile"]
    assert batch[5] == [[1, "1401", "D0401", 0], [2, None, None, 0], [3, None, None, 0]]


@both_transports
async def test_client_from_the_page_alone_gets_a_long_batch_in_parts(
    confirmed: Workbench, transport: str, ask: Ask
) -> None:
    numbers: list[str | int] = ["0912345678", 886911000000, "+886931000000", "886223450000"] * 250
    results: list[Any] = []
    parts = 0
    async with serve(confirmed.config()) as served:
        while len(results) < len(numbers):
            question = pack_query(parts, numbers[len(results) :])
            answer = await asyncio.to_thread(ask, served.port("npq", transport), question)
            assert answer[2] == parts
            assert answer[5]
            results += answer[5]
            parts += 1
    expected = [[0, "1402", "D0402", 0], [1, "1401", "D0401", 0], [2, None, None, 0], [0, "1403", None, 0]]
    assert results == expected * 250
    assert (parts == 1) == (transport == "tcp")


@both_transports
async def test_client_from_the_page_alone_is_told_its_errors(confirmed: Workbench, transport: str, ask: Ask) -> None:
    async with serve(confirmed.config()) as served:
        port = served.port("npq", transport)
        many = await asyncio.to_thread(ask, port, pack_query(3, [1] * 1001))
        long = await asyncio.to_thread(ask, port, pack_query(4, "1" * 41))
        later = await asyncio.to_thread(ask, port, b"\x93\x09\x00\x05")
    assert [message[:4] for message in (many, long, later)] == [[1, 2, 3, 3], [1, 2, 4, 1], [1, 2, 5, 2]]
