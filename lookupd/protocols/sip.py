"""A SIP request and what it gets -> the answer's bytes. No transactions are kept (RFC 3261 section 8.2.7).

What is answered to whom is decided in `fastpath.sip`.

Source: RFC 3261 sections 8.2.6, 8.2.7, 8.3, 18.2 and 21; RFC 3581 section 4.
"""

from __future__ import annotations

from typing import Final

import xxhash

from lookupd.model import InForce
from lookupd.protocols.sip_message import SipRequest, Via, parameter_name

PING: Final = b"\r\n\r\n"
PONG: Final = b"\r\n"
"""Keep-alive in a stream (RFC 5626 section 3.5.1)."""

ALLOW: Final = b"Allow: INVITE, ACK, CANCEL, OPTIONS"
ACCEPT: Final = b"Accept: application/sdp"
RETRY_LATER: Final = b"Retry-After: 5"
"""Seconds until data that is missing may be there; a switch turns to another server meanwhile."""

RETRY_SOON: Final = b"Retry-After: 1"
"""An allowance is full again after a second."""

REASONS: Final = {
    200: b"OK",
    301: b"Moved Permanently",
    302: b"Moved Temporarily",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    416: b"Unsupported URI Scheme",
    483: b"Too Many Hops",
    484: b"Address Incomplete",
    500: b"Server Internal Error",
    503: b"Service Unavailable",
    505: b"Version Not Supported",
    513: b"Message Too Large",
}
"""Every status that is sent, with its phrase."""


def encode_reply(
    request: SipRequest, status: int, host: str, port: int, tag_seed: int, lines: tuple[bytes, ...] = ()
) -> bytes:
    """The answer to a request. host, port: where it came from; host without a zone. lines: further header lines.

    Fields that a faulty request lacks are left out. The same request has the same answer, byte for byte.
    """
    reply = [b"SIP/2.0 %d %b" % (status, REASONS[status]), b"Via: " + complete_via(request.via, host, port)]
    reply += [b"Via: " + via for via in request.vias]
    if request.from_field:
        reply.append(b"From: " + request.from_field)
    if request.to_field:
        tag = b";tag=" + make_tag(request, tag_seed) if request.to_tag == b"" else b""
        reply.append(b"To: " + request.to_field + tag)
    if request.call_id:
        reply.append(b"Call-ID: " + request.call_id)
    if request.cseq:
        reply.append(b"CSeq: " + request.cseq)
    return b"\r\n".join((*reply, *lines, b"Content-Length: 0\r\n\r\n"))


def complete_via(via: Via, host: str, port: int) -> bytes:
    """The top Via line's value with where the request came from.

    An rport gets the port, and `received` behind it; without rport, `received` is the last parameter, and only there
    if sent-by is not the address itself. What a request brought of either is not kept.
    """
    received = b"received=" + host.encode("ascii")
    parts = [via.base]
    told = False
    for parameter in via.parameters:
        name = parameter_name(parameter)
        if name == b"rport" and not told:
            parts += [b"rport=%d" % port, received]
            told = True
        elif name not in (b"rport", b"received"):
            parts.append(parameter)
    if not told and via.host != host.encode("ascii"):
        parts.append(received)
    return b";".join(parts) + via.rest


def make_tag(request: SipRequest, seed: int) -> bytes:
    """A To tag that every repetition of the request gets too: 16 hex digits. seed: 64 bits that nobody else knows."""
    text = b"\0".join((request.via.branch, request.call_id, request.from_tag or b""))
    return xxhash.xxh3_64_hexdigest(text, seed).encode("ascii")


def told(serial: int, age_seconds: int | None) -> bytes:
    """The header that says from which data an answer is, and how old it is."""
    return f"X-Lookupd: serial={serial}, age={'-' if age_seconds is None else age_seconds}".encode("ascii")


def restricted(restriction: InForce) -> bytes:
    """The header that says that a restriction is placed on the number, which, and when it lapses, in Unix seconds."""
    return f"X-Lookupd-Restriction: {restriction.measure.label}; until={restriction.until}".encode("ascii")
