"""Ask a number by an INVITE, as a switch does, and read the redirect. No call is ever set up."""

from __future__ import annotations

import re
import secrets
import socket
import time
from contextlib import closing

import msgspec

from lookupd.client import NoAnswer
from lookupd.clients import Server, WrongAnswer, read_parameters, view
from lookupd.errors import LookupdError
from lookupd.limits import SIP_MESSAGE_BYTES_MAX
from lookupd.model import AnswerView, Outcome

T1_SECONDS = 0.5
"""Until a request over UDP is sent again; each time after twice as long (RFC 3261 section 17.1.1.2)."""

_OUTCOMES = {
    404: Outcome.NOT_ALLOCATED,
    484: Outcome.NOT_PORTABLE,
    500: Outcome.UNAVAILABLE,
    503: Outcome.UNAVAILABLE,
    403: Outcome.REFUSED,
}
_ASKED = re.compile(r"\+?[0-9A-Za-z*#]{1,40}")
_CONTACT = re.compile(r"<(?:sips?:(?P<user>[^@<>]*)@|tel:(?P<tel>[^@<>]*)>)", re.IGNORECASE)
_TOLD = re.compile(r"serial=([0-9]{1,10}), age=([0-9]{1,10}|-)")


class Reply(msgspec.Struct, frozen=True):
    """A response's status, and its header lines by their names in small letters."""

    status: int
    reason: str
    fields: dict[str, str]


def query(server: Server, asked: str, timeout: float) -> AnswerView:
    """The answer to one number. asked: as it stands in the Request-URI. Raises NoAnswer, WrongAnswer, LookupdError."""
    if not _ASKED.fullmatch(asked):
        raise LookupdError(f"{asked[:40]!r}: a number is digits, perhaps with a plus sign before them")
    kind = socket.SOCK_STREAM if server.tcp else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    try:
        with closing(socket.socket(family, kind)) as sock:
            sock.settimeout(timeout)
            sock.connect((server.host, server.port))
            dialog = Dialog(server, asked, sock.getsockname())
            reply = (_ask_stream if server.tcp else _ask_datagrams)(sock, dialog, timeout)
            sock.sendall(dialog.request("ACK", reply.fields.get("to", "")))
    except TimeoutError:
        raise NoAnswer(f"{server.url}: no answer within {timeout:g} s") from None
    except OSError as error:
        raise NoAnswer(f"{server.url}: {error.strerror or error}") from None
    return read_answer(server, asked, reply)


class Dialog:
    """What the requests of one question share."""

    def __init__(self, server: Server, asked: str, local: tuple[object, ...]) -> None:
        self._own = _host_port(str(local[0]), local[1])
        self._to = f"sip:{asked.replace('#', '%23')}@{_host_port(server.host, server.port)};user=phone"
        self._transport = "TCP" if server.tcp else "UDP"
        self.branch = f"z9hG4bK{secrets.token_hex(8)}"
        self._tag, self._call_id = secrets.token_hex(4), secrets.token_hex(8)

    def request(self, method: str, to: str = "") -> bytes:
        """to: the answer's To, for the ACK."""
        lines = (
            f"{method} {self._to} SIP/2.0",
            f"Via: SIP/2.0/{self._transport} {self._own};rport;branch={self.branch}",
            "Max-Forwards: 70",
            f"From: <sip:lookupd@{self._own}>;tag={self._tag}",
            f"To: {to or f'<{self._to}>'}",
            f"Call-ID: {self._call_id}",
            f"CSeq: 1 {method}",
            f"Contact: <sip:lookupd@{self._own}>",
            "Content-Length: 0",
        )
        return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii", "replace")

    def read(self, message: bytes) -> Reply | None:
        """The final answer to the INVITE; None for anything else."""
        start, *lines = message.decode("utf-8", "replace").split("\r\n\r\n", 1)[0].split("\r\n")
        found = re.fullmatch(r"SIP/2\.0 ([2-6][0-9]{2}) ?(.*)", start)
        fields: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            fields.setdefault(name.strip().lower(), value.strip())
        is_ours = self.branch in fields.get("via", "") and fields.get("cseq", "").split() == ["1", "INVITE"]
        return Reply(int(found[1]), found[2], fields) if found and is_ours else None


def _host_port(host: str, port: object) -> str:
    host = host.partition("%")[0]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _ask_datagrams(sock: socket.socket, dialog: Dialog, timeout: float) -> Reply:
    """Ask, and again as the RFC says. Raises TimeoutError, OSError."""
    until = time.monotonic() + timeout
    wait = T1_SECONDS
    while (left := until - time.monotonic()) > 0:
        sock.send(dialog.request("INVITE"))
        again_at = time.monotonic() + min(wait, left)
        while (left := again_at - time.monotonic()) > 0:
            sock.settimeout(left)
            try:
                reply = dialog.read(sock.recv(SIP_MESSAGE_BYTES_MAX))
            except TimeoutError:
                break
            if reply is not None:
                return reply
        wait *= 2
    raise TimeoutError


def _ask_stream(sock: socket.socket, dialog: Dialog, timeout: float) -> Reply:
    """Ask once. An answer of ours has no body: whatever lies behind its head is not read. Raises as above."""
    until = time.monotonic() + timeout
    sock.sendall(dialog.request("INVITE"))
    received = b""
    while len(received) <= SIP_MESSAGE_BYTES_MAX:
        head, end, rest = received.partition(b"\r\n\r\n")
        if end:
            reply = dialog.read(head.lstrip(b"\r\n"))
            if reply is not None:
                return reply
            received = rest
            continue
        sock.settimeout(max(until - time.monotonic(), 0.001))
        piece = sock.recv(SIP_MESSAGE_BYTES_MAX)
        if not piece:
            raise ConnectionError("the server closed the connection")
        received += piece
    raise ConnectionError("the server sent more than an answer has")


def read_answer(server: Server, asked: str, reply: Reply) -> AnswerView:
    """What the answer to our INVITE says. Raises WrongAnswer."""
    told = _TOLD.fullmatch(reply.fields.get("x-lookupd", ""))
    serial = int(told[1]) if told else 0
    age_seconds = int(told[2]) if told and told[2] != "-" else None
    if reply.status not in {301, 302}:
        if reply.status not in _OUTCOMES:
            raise WrongAnswer(f"{server.url}: {reply.status} {reply.reason}")
        return view(asked, _OUTCOMES[reply.status], None, serial, age_seconds)
    contact = reply.fields.get("contact", "")
    found = _CONTACT.search(contact)
    user = (found["user"] or found["tel"] or "") if found else ""
    said = read_parameters(user)
    if not said.dipped:
        raise WrongAnswer(f"{server.url}: a Contact without npdi: {contact!r}")
    rn, number = said.rn, user.partition(";")[0]
    if rn is None and number.removeprefix("+") != asked.removeprefix("+"):
        rn = number.removeprefix("+")  # the routing number in the number's place, or before it: by the server's profile
    is_ported = said.ported or rn is not None
    return view(asked, Outcome.PORTED if is_ported else Outcome.NOT_PORTED, rn, serial, age_seconds)
