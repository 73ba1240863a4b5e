"""Ask a number by ENUM, as a switch or a resolver does. Messages are dnspython's, which nobody here wrote."""

from __future__ import annotations

import struct

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype

from lookupd.client import NoAnswer
from lookupd.clients import Server, WrongAnswer, read_parameters, view
from lookupd.errors import LookupdError
from lookupd.limits import DNS_ANSWER_BYTES_MAX
from lookupd.model import AnswerView, Outcome
from lookupd.protocols.enum_dns import NO_AGE, TELL_OPTION

_OUTCOMES = {
    dns.rcode.NXDOMAIN: Outcome.NOT_ALLOCATED,
    dns.rcode.SERVFAIL: Outcome.UNAVAILABLE,
    dns.rcode.REFUSED: Outcome.REFUSED,
}
_TOLD = struct.Struct(">II")


def query(server: Server, asked: str, timeout: float) -> AnswerView:
    """The answer to one number. asked: `+` and digits, or digits as they are dialled.

    Over UDP, and again over TCP when the answer is cut. Raises NoAnswer, WrongAnswer, LookupdError for what is no name.
    """
    digits = asked.removeprefix("+")
    if not digits.isascii() or not digits.isdigit():
        raise LookupdError(f"{asked[:40]!r}: ENUM asks for digits, and for a plus sign before them")
    try:
        name = dns.name.from_text(".".join((*reversed(digits), server.apex)))
        question = dns.message.make_query(name, dns.rdatatype.NAPTR, use_edns=0, payload=DNS_ANSWER_BYTES_MAX)
    except dns.exception.DNSException as error:
        raise LookupdError(f"{asked[:40]} at {server.apex}: no domain name: {error}") from None
    try:
        if server.tcp:
            answer = dns.query.tcp(question, server.host, timeout, server.port)
        else:
            answer, _ = dns.query.udp_with_fallback(question, server.host, timeout, server.port)
    except (dns.exception.Timeout, OSError, EOFError) as error:
        raise NoAnswer(f"{server.url}: {str(error) or 'no answer'}") from None
    except dns.exception.DNSException as error:
        raise WrongAnswer(f"{server.url}: no DNS answer: {error or type(error).__name__}") from None
    return read_answer(server, asked, answer)


def read_answer(server: Server, asked: str, answer: dns.message.Message) -> AnswerView:
    """What an answer to our question says. Raises WrongAnswer."""
    serial, age_seconds = _told(answer)
    rcode = answer.rcode()
    if rcode != dns.rcode.NOERROR:
        if rcode not in _OUTCOMES:
            raise WrongAnswer(f"{server.url}: {dns.rcode.to_text(rcode)}")
        return view(asked, _OUTCOMES[rcode], None, serial, age_seconds)
    records = [
        record
        for rrset in answer.answer
        if rrset.rdtype == dns.rdatatype.NAPTR and rrset.name == answer.question[0].name
        for record in rrset
    ]
    if not records:
        return view(asked, Outcome.NOT_ALLOCATED, None, serial, age_seconds)
    first = min(records, key=lambda record: (record.order, record.preference))
    regexp = first.regexp.decode("ascii", "replace")
    parts = regexp.split(regexp[:1]) if regexp else []
    if len(parts) != 4:
        raise WrongAnswer(f"{server.url}: a NAPTR whose rule cannot be read: {regexp!r}")
    told = read_parameters(parts[2].partition("@")[0])
    if not told.dipped:
        raise WrongAnswer(f"{server.url}: a URI without npdi: {parts[2]!r}")
    return view(asked, Outcome.PORTED if told.ported else Outcome.NOT_PORTED, told.rn, serial, age_seconds)


def _told(answer: dns.message.Message) -> tuple[int, int | None]:
    """Serial and age, where the server says them; the serial also from the SOA of what does not exist."""
    for option in answer.options:
        data = option.to_wire() or b""
        if option.otype == TELL_OPTION and len(data) == _TOLD.size:
            serial, age = _TOLD.unpack(data)
            return serial, None if age == NO_AGE else age
    serials = [rrset[0].serial for rrset in answer.authority if rrset.rdtype == dns.rdatatype.SOA]
    return (serials[0] if serials else 0), None
