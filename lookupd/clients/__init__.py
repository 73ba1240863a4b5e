"""Clients of the dialects that switches speak, and of HTTP, for `lookupd query`: servers in turn, no hedging.

    enum://192.0.2.10:53/np.example     sip://192.0.2.10:5060     enum+tcp://...     sip+tcp://...
    http://127.0.0.1:9474               https://lookupd.example:9474

The first see what a switch would see: what a dialect does not tell, such as the network's name, is null in their
answers, and the serial 0. The library for programs is `lookupd.client`, which speaks npq.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from lookupd.client import NoAnswer
from lookupd.errors import LookupdError
from lookupd.model import AnswerView, Outcome
from lookupd.numbering import Plan, strip_separators

PORTS = {"enum": 53, "sip": 5060, "http": 80, "https": 443}
"""Where a dialect is served unless the server's port is told."""

_BY_HTTP = frozenset({"http", "https"})


class Server(msgspec.Struct, frozen=True):
    """Whom to ask. apex: of enum."""

    dialect: str
    tcp: bool
    host: str
    port: int
    apex: str
    url: str


class WrongAnswer(LookupdError):
    """What came back cannot be an answer to the question."""


def is_ours(server: str) -> bool:
    """Whether a server is asked by this package, and not over npq."""
    return server.partition("://")[0].partition("+")[0] in PORTS


def parse_server(text: str) -> Server:
    """`enum://192.0.2.10/np.example`. Raises LookupdError with the reason."""
    example = "enum://192.0.2.10:53/np.example, sip://192.0.2.10:5060 or https://192.0.2.10:9474"
    try:
        parts = urlsplit(text)
        port = parts.port
        host = parts.hostname or ""
        if parts.scheme not in _BY_HTTP or not host:  # a certificate is of a name, a switch asks an address
            host = str(ipaddress.ip_address(host))
    except ValueError as error:
        raise LookupdError(f"server {text}: {error}: write it like {example}") from None
    dialect, _, transport = parts.scheme.partition("+")
    apex = parts.path.strip("/")
    transports = {""} if dialect in _BY_HTTP else {"", "udp", "tcp"}
    extra = parts.query or parts.fragment or parts.username is not None or "/" in apex
    if dialect not in PORTS or transport not in transports or extra:
        raise LookupdError(f"server {text}: write it like {example}")
    if (dialect == "enum") != bool(apex):
        raise LookupdError(f"server {text}: {'name the apex' if dialect == 'enum' else 'no path'}: {example}")
    return Server(dialect, transport == "tcp", host, PORTS[dialect] if port is None else port, apex, text.rstrip("/"))


def ask(
    servers: Sequence[str],
    numbers: Sequence[str],
    plan: Plan,
    timeout: float,
    keys: tuple[str | None, str | None] = (None, None),
) -> list[AnswerView]:
    """Ask each number, of one server after another until one answers. timeout: seconds, for each server.

    numbers: as people write them; plan: that national ones are read in; a server over HTTP reads them in its own.
    keys: of https: files with the token, and with authorities. Raises LookupdError, NoAnswer, WrongAnswer.
    """
    parsed = [parse_server(server) for server in servers]
    by_http = [server.dialect in _BY_HTTP for server in parsed]
    if any(by_http):
        from lookupd.clients import http

        if not all(by_http):
            raise LookupdError("servers over HTTP are asked many numbers at once, not beside enum:// and sip://")
        return http.query(parsed, numbers, timeout, http.Keys(*keys))
    return [_ask_one(parsed, number, plan, timeout) for number in numbers]


def _ask_one(servers: list[Server], number: str, plan: Plan, timeout: float) -> AnswerView:
    from lookupd.clients import enum, sip

    tn = plan.read_text(number)
    asked = strip_separators(number) if tn is None else f"+{tn}"
    trouble: list[str] = []
    poor: AnswerView | None = None
    for server in servers:
        query = enum.query if server.dialect == "enum" else sip.query
        try:
            view = query(server, asked, timeout)
        except NoAnswer as error:
            trouble.append(str(error))
            continue
        if not is_poor(view):
            return view
        poor = view
    if poor is not None:
        return poor
    raise NoAnswer("; ".join(trouble))


def is_poor(view: AnswerView) -> bool:
    """Whether another server may know more."""
    return view.outcome in {Outcome.UNAVAILABLE.label, Outcome.REFUSED.label}


def view(
    number: str, outcome: Outcome, rn: str | None = None, serial: int = 0, age_seconds: int | None = None
) -> AnswerView:
    """An answer that tells no more than these."""
    return AnswerView(number, outcome.label, None, rn, None, None, serial, age_seconds)


class Told(msgspec.Struct, frozen=True):
    """What the parameters of a URI say: whether a dip was made, the `rn` without its plus sign, whether the number was
    ported, which a `cic` alone says too."""

    dipped: bool
    rn: str | None
    ported: bool


def read_parameters(text: str) -> Told:
    """Of the user part of a SIP URI, or of a tel URI."""
    found: dict[str, str] = {}
    for parameter in text.split(";")[1:]:
        name, _, value = parameter.partition("=")
        found.setdefault(name.strip().lower(), value.strip())
    rn = found.get("rn", "").removeprefix("+") or None
    return Told("npdi" in found or rn is not None, rn, rn is not None or "cic" in found)
