"""The ENUM dialect: a DNS query in, its authoritative reply out, counted. `protocols.enum_dns` has the records."""

from __future__ import annotations

from lookupd.access import Client
from lookupd.engine import Engine
from lookupd.errors import ProtocolError
from lookupd.fastpath.batch import Peer, Tallies
from lookupd.limits import DNS_MESSAGE_BYTES_MAX, DNS_QUERY_BYTES_MAX
from lookupd.model import Outcome
from lookupd.observe.counters import QueryCounters, Usage
from lookupd.protocols import dns, enum_dns
from lookupd.protocols.dns import Query, Sections
from lookupd.protocols.enum_dns import Profile, Zone

_PORTED, _UNAVAILABLE = Outcome.PORTED, Outcome.UNAVAILABLE


class EnumResponder(Tallies):
    """NAPTR for numbers, the zone's own records, NODATA, NXDOMAIN; an error of DNS for everything else."""

    late_ns = 0  # an answer carries its question and id: a late one does no harm
    message_bytes_max = DNS_QUERY_BYTES_MAX

    def __init__(self, engine: Engine, counters: QueryCounters, *, udp: bool) -> None:
        """udp: answers are bounded, and addresses may be forged."""
        super().__init__(engine, counters)
        self._udp = udp

    def respond(self, message: bytes, client: Client, now_ns: int, peer: Peer) -> bytes | None:
        """See Responder."""
        self.counters.received += 1
        self._client, self._host = client, peer[0]
        usage = client.usage["enum"]
        try:
            query = dns.decode_query(message)
        except ProtocolError as error:
            return self._fault(error, client, usage, now_ns, peer)
        if client.is_limited:
            if self._udp and not client.take_from(peer[0], now_ns):
                self.tell_refusal(usage)
                return dns.encode_reply(query, dns.NOERROR, flags=dns.TC)  # who is no forger comes again over TCP
            if not client.take(1, now_ns):
                self.tell_refusal(usage)
                return dns.encode_reply(query, dns.REFUSED)
        profile = client.enum
        found = profile.find(query.name) if query.klass == dns.IN else None
        if found is None:
            self.tell_fault("not_a_query", usage)
            return dns.encode_reply(query, dns.REFUSED)
        zone, head = found
        digits = enum_dns.digits_of(head) if head not in zone.inside else None
        if not self._engine.usable:
            asked = None if digits is None else self._engine.plan.digits("+" + digits)
            self.tell_answer(_UNAVAILABLE, usage, asked)
            return dns.encode_reply(query, dns.SERVFAIL)
        if digits is None:
            self.tell_other(usage)
            return self._reply(query, *enum_dns.own_records(zone, head, query, self._engine.serial))
        return self._answer(query, profile, zone, head, digits, usage)

    def _fault(self, error: ProtocolError, client: Client, usage: Usage, now_ns: int, peer: Peer) -> bytes | None:
        """Silence, or the error that the message gets; it counts as dropped either way."""
        if isinstance(error, dns.QueryRefused) and (
            not client.is_limited or client.take(1, now_ns, peer[0] if self._udp else None)
        ):
            self.tell_fault(error.reason, usage)
            return error.reply
        self.drop(error.reason, usage)
        return None

    def _answer(self, query: Query, profile: Profile, zone: Zone, head: bytes, digits: str, usage: Usage) -> bytes:
        engine = self._engine
        asked = engine.plan.digits("+" + digits)
        outcome, route, restriction = engine.find(asked)
        parts = profile.parts(outcome, route)
        if outcome is _UNAVAILABLE or (outcome is _PORTED and parts == (None, None)):
            # No data, or no route to tell: `npdi` alone would be a wrong answer.
            self.tell_answer(_UNAVAILABLE, usage, asked)
            return dns.encode_reply(query, dns.SERVFAIL)
        self.tell_answer(outcome, usage, asked, route)
        option = profile.option(engine.serial, engine.age_seconds, restriction)
        if parts is None:
            exists = engine.has_under(digits, ranges=profile.answers_unported)
            rcode = dns.NOERROR if exists else dns.NXDOMAIN
            return self._reply(query, rcode, enum_dns.negative(zone, head, engine.serial, option))
        if query.kind in {dns.NAPTR, dns.ANY}:
            sections = Sections(answers=profile.records(*parts), answer_count=profile.services, option=option)
        elif query.kind == dns.TXT and profile.tells_txt:
            sections = Sections(answers=profile.txt(engine.serial, engine.age_seconds), answer_count=1, option=option)
        else:
            sections = enum_dns.negative(zone, head, engine.serial, option)
        return self._reply(query, dns.NOERROR, sections)

    def _reply(self, query: Query, rcode: int, sections: Sections) -> bytes:
        bytes_max = dns.datagram_bytes_max(query) if self._udp else DNS_MESSAGE_BYTES_MAX
        return dns.encode_reply(query, rcode, sections, bytes_max=bytes_max, flags=dns.AA)
