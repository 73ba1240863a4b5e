"""docs/protocols/sip.md is true: every example is sent to a daemon and answered byte for byte, every bound is ours."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from lookupd import limits
from lookupd.config import read_config
from lookupd.profiles import SipSettings
from lookupd.protocols.sip import REASONS
from tests.conftest import Workbench, serve
from tests.sip_calls import read_reply

pytestmark = pytest.mark.usefixtures("each_engine")

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocols" / "sip.md"
PAGES_PORT = b"40000"
ONE_A_SECOND = '[[client]]\nname = "slow"\nsources = ["127.0.0.0/8"]\nqueries_per_second = 1'


class Example(NamedTuple):
    """One worked example. settings: of [sip]. received is b"" for silence."""

    title: str
    transport: str
    state: str
    settings: dict[str, str]
    sent: bytes
    received: bytes


def read_examples(text: str) -> list[Example]:
    """Every block that begins with ```sip; a line that is not of the fixed form fails."""
    title, words, examples = "", None, []
    for line in text.splitlines():
        if line.startswith("### "):
            title = line[4:]
        elif line.startswith("```sip"):
            words, sides, silent = line[3:].split(), {"C": b"", "S": b""}, False
        elif words is None:
            continue
        elif line == "```":
            assert sides["C"], title
            assert silent != bool(sides["S"]), title
            states = [word for word in words[2:] if "=" not in word]
            settings = dict(word.split("=", 1) for word in words[2:] if "=" in word)
            examples.append(Example(title, words[1], " ".join(states), settings, sides["C"], sides["S"]))
            words = None
        elif line == "S: silence":
            silent = True
        else:
            found = re.fullmatch(r"([CS]):(?: (.+))?", line)
            assert found is not None, line
            assert found[1] == "S" or not sides["S"], f"{title}: a client's line after a server's"
            sides[found[1]] += (found[2] or "").encode() + b"\r\n"
    assert words is None
    return examples


TEXT = DOCUMENT.read_text(encoding="utf-8")
EXAMPLES = read_examples(TEXT)


def section(settings: dict[str, str]) -> str:
    """[sip] of these settings, as TOML."""
    plain = {key: value if value.isdigit() or value == "true" else f'"{value}"' for key, value in settings.items()}
    return "\n".join(["[sip]", *(f"{key} = {value}" for key, value in plain.items())])


def without_what_varies(answer: bytes) -> bytes:
    """Tags of ours and the age blanked out."""
    answer = re.sub(rb"(\r\nTo: [^\r]*;tag=)[0-9a-f]{16}\r", rb"\1T\r", answer)
    return re.sub(rb"(\r\nX-Lookupd: serial=[0-9]+, age=)[0-9]+\r", rb"\1A\r", answer)


def converse(transport: str, port: int, sent: bytes, wanted: int) -> tuple[bytes, int]:
    """What comes back, up to so many bytes, and the client's own port, which stands for the page's."""
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.settimeout(5 if wanted else 0.3)
        sock.connect(("127.0.0.1", port))
        own = sock.getsockname()[1]
        sock.sendall(sent.replace(PAGES_PORT, b"%d" % own))
        answer = b""
        while not answer or len(answer) < wanted:
            try:
                piece = sock.recv(65_535)
            except TimeoutError:
                break
            answer += piece
            if not piece:
                break
        return answer, own


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.title for example in EXAMPLES])
async def test_example_is_answered_byte_for_byte(workbench: Workbench, example: Example) -> None:
    if example.state != "unavailable":
        workbench.load_tables()
        workbench.snapshot(now=int(time.time()) - 42)
    if example.state == "restricted":
        workbench.restrict(886912345678, int(time.time()) - 42)
    extra = section(example.settings) + ("\n" + ONE_A_SECOND if example.state == "refused" else "")
    listen = f'sip = ["{example.transport}://127.0.0.1:0"]'
    async with serve(workbench.config(extra, listen)) as served:
        port = served.port("sip", example.transport)
        if example.state == "refused":
            await asyncio.to_thread(converse, example.transport, port, example.sent, len(example.received))
        answer, own = await asyncio.to_thread(converse, example.transport, port, example.sent, len(example.received))
    expected = example.received.replace(PAGES_PORT, b"%d" % own)
    assert without_what_varies(answer) == without_what_varies(expected)


# -- the page itself -------------------------------------------------------------------------------------


def test_titles_of_examples_are_unique() -> None:
    titles = [example.title for example in EXAMPLES]
    assert len(titles) == len(set(titles)) == TEXT.count("```sip ") > 15


def test_examples_show_both_transports_every_state_and_silence() -> None:
    assert {example.transport for example in EXAMPLES} == {"udp", "tcp"}
    assert {example.state for example in EXAMPLES} == {"", "unavailable", "refused", "restricted"}
    assert sum(not example.received for example in EXAMPLES) == 1
    shown = {int(status) for status in re.findall(r"^S: SIP/2\.0 ([0-9]{3})", TEXT, re.MULTILINE)}
    assert shown == {200, 301, 302, 400, 404, 405, 484, 503}
    tables = TEXT.partition("## Examples")[0]
    for status in REASONS:
        assert re.search(rf"\b{status}\b", tables), status


def test_each_answer_is_what_a_strict_client_takes() -> None:
    for example in EXAMPLES:
        for answer in re.split(rb"(?<=\r\n\r\n)(?:\r\n)?(?=SIP)", example.received):
            if answer:
                read_reply(answer)


def test_settings_of_the_page_are_the_defaults(workbench: Workbench) -> None:
    block = TEXT.partition("```toml\n")[2].partition("```")[0]
    file = workbench.write("page.toml", block)
    config = read_config(file)
    assert config.sip == SipSettings()
    assert set(msgspec.to_builtins(config.sip)) == set(
        re.findall(r"^([a-z_]+) = ", block.split("[sip]")[1].split("[")[0], re.M)
    )
    assert config.clients[0].sip == SipSettings(form="prefix")
    assert len(config.listen.sip) == 2


@pytest.mark.parametrize(
    "sentence",
    [
        f"over {limits.SIP_LINES_MAX} header lines, over {limits.SIP_VIAS_MAX} Via values |",
        f"of fewer than {limits.TN_DIGITS_MIN} digits",
        f"an answer over {limits.AMPLIFICATION_MAX} times as long as its request",
        f"is read up to\n{limits.SIP_DATAGRAM_BYTES_MAX:,} bytes",
        f"| a message is longer than {limits.SIP_MESSAGE_BYTES_MAX:,} bytes |",
        f"there are over {limits.SIP_LINES_MAX} header lines |",
        f"| {limits.CONNECTIONS_MAX:,} connections are open on the same port, or ",
        f"or {limits.CONNECTIONS_PER_SOURCE_MAX} from this address |",
        f"| {limits.FRAME_SECONDS:.0f} s after its first byte |",
        f"| nothing came | {limits.SIP_IDLE_SECONDS:.0f} s |",
        f"reads on for up to {limits.FRAME_SECONDS:.0f} s",
    ],
)
def test_bound_on_the_page_is_the_one_in_force(sentence: str) -> None:
    assert sentence in TEXT


@pytest.mark.parametrize(
    ("settings", "user"),
    [
        ({}, "+886912345678;npdi;rn=+D0402"),
        ({"rn_context": "+886"}, "+886912345678;npdi;rn=D0402;rn-context=+886"),
        (
            {"rn_context": "+886", "cic_context": "+886"},
            "+886912345678;cic=1402;cic-context=+886;npdi;rn=D0402;rn-context=+886",
        ),
        ({"form": "replace"}, "+D0402;npdi"),
        ({"form": "prefix"}, "D0402886912345678;npdi"),
    ],
)
async def test_contact_on_the_page_is_the_one_that_is_sent(
    loaded: Workbench, settings: dict[str, str], user: str
) -> None:
    contact = f"<sip:{user}@host;user=phone>"
    assert f"| `{contact}`" in TEXT
    async with serve(loaded.config(section(settings), 'sip = ["udp://127.0.0.1:0"]')) as served:
        message = EXAMPLES[0].sent.replace(b"@127.0.0.1:5060;user=phone SIP", b"@host SIP")
        answer, _ = await asyncio.to_thread(converse, "udp", served.port("sip", "udp"), message, 1)
    assert read_reply(answer).contact == contact
