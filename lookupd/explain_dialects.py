"""What each dialect would answer to a number, for each client's profile: asked of the very responders that serve.

So the explanation cannot differ from what is sent. What a switch makes of it is in docs/integration.
"""

from __future__ import annotations

from typing import Any

import dns.message
import dns.rcode
import dns.rdatatype

from lookupd.access import Client
from lookupd.engine import Engine
from lookupd.errors import ConfigError
from lookupd.fastpath.batch import PdbResponder, Responder
from lookupd.fastpath.enum import EnumResponder
from lookupd.fastpath.sip import SipResponder
from lookupd.limits import E164_DIGITS_MAX
from lookupd.observe.counters import QueryCounters
from lookupd.profiles import EnumSettings
from lookupd.protocols import pdb
from lookupd.settings import ClientSettings, Config

_PEER = ("127.0.0.1", 5060)
_PDB_CODES = {pdb.OK: "OK", pdb.NOT_NUMBER: "NOT_NUMBER", pdb.NOT_FOUND: "NOT_FOUND"}
_SHOWN = ("contact", "retry-after", "x-lookupd")


def choose_clients(config: Config, name: str | None) -> tuple[ClientSettings, ...]:
    """All of the configuration, or the one of this name. Raises ConfigError if there is none."""
    found = tuple(client for client in config.clients if name in {None, client.name})
    if not found:
        known = ", ".join(client.name for client in config.clients)
        raise ConfigError(f"client: there is no {name!r}; known: {known}")
    return found


def dialect_answers(
    engine: Engine, config: Config, asked: str, clients: tuple[ClientSettings, ...], served: tuple[str, ...]
) -> list[dict[str, Any]]:
    """One entry for the clients that are answered alike, in the list's order: their names, and what each dialect says.

    asked: `+` and digits, or as dialled. served: the dialects that are shown. The engine's batch has begun.
    """
    found: list[dict[str, Any]] = []
    for settings in clients:
        answers = _answers(engine, config, asked, settings, served)
        known = next((entry for entry in found if {**entry, "clients": None} == {**answers, "clients": None}), None)
        if known is not None:
            known["clients"].append(settings.name)
        else:
            found.append({"clients": [settings.name], **answers})
    return found


def _answers(
    engine: Engine, config: Config, asked: str, settings: ClientSettings, served: tuple[str, ...]
) -> dict[str, Any]:
    client = Client(ClientSettings(settings.name, (), enum=settings.enum, sip=settings.sip))
    found: dict[str, Any] = {}
    if "pdb" in served:
        found["pdb"] = _pdb(engine, config, asked, client)
    if "enum" in served:
        found["enum"] = _enum(engine, asked, client, settings.enum)
    if "sip" in served:
        found["sip"] = _sip(engine, asked, client)
    return found


def _reply(responder: Responder, message: bytes, client: Client) -> bytes | None:
    return responder.respond(message, client, 0, _PEER)


def _pdb(engine: Engine, config: Config, asked: str, client: Client) -> dict[str, Any]:
    settings = config.pdb
    responder = PdbResponder(
        engine, QueryCounters("pdb", "udp"), legacy=settings.legacy, unmapped_carrier_id=settings.unmapped_carrier_id
    )
    reply = _reply(responder, pdb.encode_query(asked.removeprefix("+"), 1), client)
    if reply is None:
        return {"code": "silence"}
    answer = pdb.decode_answer(reply)
    return {"code": _PDB_CODES[answer.code], "carrier_id": answer.carrier_id}


def _enum(engine: Engine, asked: str, client: Client, settings: EnumSettings) -> list[dict[str, Any]]:
    """For each apex: the name asked, the code and the records."""
    digits = asked.removeprefix("+")
    if not digits.isascii() or not digits.isdigit() or len(digits) > E164_DIGITS_MAX:
        return []
    responder = EnumResponder(engine, QueryCounters("enum", "tcp"), udp=False)
    found = []
    for apex in settings.apexes:
        query = dns.message.make_query(".".join((*reversed(digits), apex)), dns.rdatatype.NAPTR)
        reply = _reply(responder, query.to_wire(), client)
        assert reply is not None  # a query that dnspython made is one
        answer = dns.message.from_wire(reply)
        records = [record.to_text() for rrset in answer.answer for record in rrset]
        name = query.question[0].name.to_text()
        found.append({"name": name, "code": dns.rcode.to_text(answer.rcode()), "records": records})
    return found


def _sip(engine: Engine, asked: str, client: Client) -> dict[str, Any]:
    """The status line, and the header lines that say something of the number."""
    responder = SipResponder(engine, QueryCounters("sip", "udp"), udp=True, tag_seed=0)
    uri = f"sip:{asked}@127.0.0.1;user=phone"
    request = (
        f"INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;rport;branch=z9hG4bK0\r\nMax-Forwards: 70\r\n"
        f"From: <sip:lookupd@127.0.0.1>;tag=0\r\nTo: <{uri}>\r\nCall-ID: 0\r\nCSeq: 1 INVITE\r\n"
        "Content-Length: 0\r\n\r\n"
    )
    reply = _reply(responder, request.encode(), client)
    if reply is None:
        return {"status": "silence"}
    status, *lines = reply.decode().split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return {"status": status.partition(" ")[2]} | {name: fields[name] for name in _SHOWN if name in fields}
