"""One question of each dialect as bytes, and what a message that comes is to it. No socket, no clock.

A message that cannot be taken for an answer to anything has no key. One with the key of a question that is over is
late, or came twice; with that of the question under way, it is the answer, whatever it says.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import NamedTuple, Protocol

import dns.exception
import dns.message
import msgspec

from lookupd.clients import Server, WrongAnswer, enum, sip
from lookupd.errors import LookupdError, ProtocolError
from lookupd.limits import DNS_ANSWER_BYTES_MAX, PROBE_HTTP_BYTES_MAX
from lookupd.model import Outcome
from lookupd.protocols import dns as dns_wire
from lookupd.protocols import npq, pdb
from lookupd.protocols.framing import Frame, Framing
from lookupd.protocols.framings import FRAMINGS


class Told(NamedTuple):
    """An answer. is_data: it says something of the number. ported: None where the dialect does not tell. cut: it did
    not fit a datagram: to be asked again over TCP."""

    is_data: bool
    ported: bool | None = None
    cut: bool = False


class Question(Protocol):
    """One question. message: its bytes, without what a stream puts around them."""

    key: Hashable
    message: bytes

    def read(self, message: bytes) -> Told | None:
        """Of a message with our key; None for one that only says to wait. Raises WrongAnswer, ProtocolError."""
        ...

    def thanks(self, message: bytes) -> bytes | None:
        """What is sent when the answer has come, at once, and for each copy of it."""
        ...


class _Silent:
    def thanks(self, message: bytes) -> bytes | None:
        """See Question."""
        return None


_NO_DATA = frozenset({Outcome.UNAVAILABLE.label, Outcome.REFUSED.label})


def _told(outcome: str) -> Told:
    if outcome in _NO_DATA:
        return Told(False)
    return Told(True, outcome == Outcome.PORTED.label)


class NpqQuestion(_Silent):
    """Without details, as a switch asks."""

    def __init__(self, number: str, query_id: int) -> None:
        self.key: Hashable = query_id
        self.message = npq.encode_query(query_id, number)
        self._number = number

    def read(self, message: bytes) -> Told | None:
        """See Question."""
        answer = npq.decode_answer(message)
        if answer.kind == npq.ERROR:
            raise WrongAnswer(f"an error: {answer.age}")
        views = npq.view_results([self._number], answer)
        if not views:
            raise WrongAnswer("an answer without a result")
        return _told(views[0].outcome)


class PdbQuestion(_Silent):
    """A carrier id comes for numbers that were not ported, too: the answer does not tell."""

    def __init__(self, number: str, query_id: int) -> None:
        self.key: Hashable = query_id
        self.message = pdb.encode_query(number, query_id)
        self._number = number

    def read(self, message: bytes) -> Told | None:
        """See Question."""
        answer = pdb.decode_answer(message)
        if answer.code == pdb.NOT_FOUND:
            return Told(True)
        if answer.code != pdb.OK or answer.number != self._number:
            raise WrongAnswer(f"code {answer.code}, or the answer for another number")
        return Told(True)


_NAPTR_IN = bytes.fromhex("0023 0001")
_OPT = bytes.fromhex("00 0029") + DNS_ANSWER_BYTES_MAX.to_bytes(2, "big") + bytes(6)


class EnumQuestion(_Silent):
    """With an OPT, as resolvers and switches ask."""

    def __init__(self, number: str, query_id: int, server: Server) -> None:
        self.key: Hashable = query_id
        self._server, self._number = server, number
        self._asked = dns_wire.encode_name(".".join((*reversed(number), server.apex))) + _NAPTR_IN
        self.message = dns_wire.HEADER.pack(query_id, dns_wire.RD, 1, 0, 0, 1) + self._asked + _OPT

    def read(self, message: bytes) -> Told | None:
        """See Question."""
        asked = message[dns_wire.QUESTION_AT : dns_wire.QUESTION_AT + len(self._asked)]
        if asked.lower() != self._asked.lower():
            raise WrongAnswer("the answer to another question, or none")
        if message[2] & dns_wire.TC >> 8:
            return Told(False, cut=True)
        try:
            view = enum.read_answer(self._server, f"+{self._number}", dns.message.from_wire(message))
        except (dns.exception.DNSException, ValueError, IndexError) as error:
            raise WrongAnswer(f"no DNS answer: {error or type(error).__name__}") from None
        return _told(view.outcome)


class SipQuestion:
    """An INVITE, and the ACK of its answer."""

    def __init__(self, number: str, server: Server, local: tuple[object, ...]) -> None:
        self._server, self._asked = server, f"+{number}"
        self._dialog = sip.Dialog(server, self._asked, local)
        self.key: Hashable = self._dialog.branch.encode()
        self.message = self._dialog.request("INVITE")

    def read(self, message: bytes) -> Told | None:
        """See Question."""
        reply = self._dialog.read(message)
        if reply is None:
            if message.startswith(b"SIP/2.0 1"):
                return None
            raise WrongAnswer("no answer to the INVITE")
        return _told(sip.read_answer(self._server, self._asked, reply).outcome)

    def thanks(self, message: bytes) -> bytes | None:
        """See Question."""
        reply = self._dialog.read(message)
        return None if reply is None else self._dialog.request("ACK", reply.fields.get("to", ""))


class _HttpAnswer(msgspec.Struct, frozen=True):
    outcome: str


_decode_http = msgspec.json.Decoder(_HttpAnswer).decode
_OUTCOMES = frozenset(outcome.label for outcome in Outcome)
_BRANCH = re.compile(rb"^(?:via|v)[ \t]*:[^\r\n]*?;[ \t]*branch=([^;,\s]+)", re.IGNORECASE | re.MULTILINE)


class HttpQuestion(_Silent):
    """GET /v1/numbers/NUMBER, on a connection that stays."""

    key: Hashable = "http"

    def __init__(self, number: str, server: Server) -> None:
        host = f"[{server.host}]" if ":" in server.host else server.host
        self.message = (
            f"GET /v1/numbers/+{number} HTTP/1.1\r\nHost: {host}:{server.port}\r\nUser-Agent: lookupd-probe\r\n\r\n"
        ).encode()

    def read(self, message: bytes) -> Told | None:
        """See Question."""
        try:
            outcome = _decode_http(message.partition(b"\r\n\r\n")[2]).outcome
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise WrongAnswer(f"no JSON of ours: {error}") from None
        if outcome not in _OUTCOMES:
            raise WrongAnswer(f"an outcome that there is not: {outcome[:40]!r}")
        return _told(outcome)


_LENGTH = re.compile(rb"\r\nContent-Length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)


class HttpFraming:
    """Where one answer ends: after its head and the bytes that Content-Length says."""

    idle_seconds = 0.0

    def cut(self, received: bytearray, at: int) -> Frame:
        """See Framing."""
        head = received.find(b"\r\n\r\n", at, at + PROBE_HTTP_BYTES_MAX)
        if head < 0:
            return Frame(None, at, last=len(received) - at >= PROBE_HTTP_BYTES_MAX)
        found = _LENGTH.search(received, at, head + 2)
        end = head + 4 + (int(found[1]) if found else PROBE_HTTP_BYTES_MAX + 1)
        if end - head > PROBE_HTTP_BYTES_MAX:
            return Frame(None, at, last=True)
        return Frame(bytes(received[at:end]), end) if len(received) >= end else Frame(None, at)

    def begun(self) -> bytes:
        """See Framing."""
        return b""

    def wrap(self, reply: bytes) -> tuple[bytes, ...]:
        """See Framing."""
        return (reply,)


def framing(dialect: str) -> Framing:
    """Of a new connection."""
    return HttpFraming() if dialect == "http" else FRAMINGS[dialect]()


def make_question(server: Server, number: str, query_id: int, local: tuple[object, ...]) -> Question:
    """number: E.164 digits. query_id: 32 bits that no recent question had. local: our end of the socket."""
    match server.dialect:
        case "npq":
            return NpqQuestion(number, query_id)
        case "pdb":
            return PdbQuestion(number, query_id & 0xFFFF)
        case "enum":
            return EnumQuestion(number, query_id & 0xFFFF, server)
        case "sip":
            return SipQuestion(number, server, local)
        case "http":
            return HttpQuestion(number, server)
    raise LookupdError(f"server {server.url}: nobody here speaks {server.dialect}")


def key_of(dialect: str, message: bytes) -> Hashable | None:
    """Which question a message answers, by its own word; None if it answers none."""
    try:
        match dialect:
            case "npq":
                return npq.decode_answer(message).id
            case "pdb":
                return pdb.decode_answer(message).id
            case "enum":
                is_answer = len(message) > dns_wire.QUESTION_AT and message[2] & dns_wire.QR >> 8
                return int.from_bytes(message[:2], "big") if is_answer else None
            case "sip":
                found = _BRANCH.search(message) if message.startswith(b"SIP/2.0 ") else None
                return found[1] if found else None
            case _:
                return HttpQuestion.key if message.startswith(b"HTTP/1.1 ") else None
    except ProtocolError:
        return None
