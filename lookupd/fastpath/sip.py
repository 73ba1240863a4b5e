"""SIP requests -> answers: who gets which, in which order, and how it is counted. The definition of correct.

The bytes are read and written by `protocols.sip_message`, `sip_uri` and `sip`.
"""

from __future__ import annotations

from typing import NamedTuple

from lookupd.access import Client
from lookupd.engine import Engine, Found
from lookupd.errors import ProtocolError
from lookupd.fastpath.batch import Peer, Tallies
from lookupd.limits import AMPLIFICATION_MAX, SIP_DATAGRAM_BYTES_MAX, TN_DIGITS_MIN
from lookupd.model import Outcome, Route
from lookupd.observe.counters import QueryCounters, Usage
from lookupd.profiles import SipSettings
from lookupd.protocols import sip
from lookupd.protocols.sip_message import SipRequest, is_blank, read_request
from lookupd.protocols.sip_uri import Target, contact, read_target
from lookupd.protocols.tel_parameters import carrier_code, routing_number


class Verdict(NamedTuple):
    """What a request gets: a status and further header lines, and how that is counted.

    outcome: of the number, None if none was looked up; digits, route: its own, for the query log. fault: one of
    DROP_REASONS, "" = a request as it should be. over_rate: refused for the client's rate.
    """

    status: int
    lines: tuple[bytes, ...] = ()
    outcome: Outcome | None = None
    fault: str = ""
    over_rate: bool = False
    digits: str | None = None
    route: Route | None = None


_OVER_RATE = Verdict(503, (sip.RETRY_SOON,), over_rate=True)
_UNAVAILABLE = Verdict(503, (sip.RETRY_LATER,), Outcome.UNAVAILABLE)
_NO_ROUTE = Verdict(500, (), Outcome.UNAVAILABLE)
_ALIVE = Verdict(200, (sip.ALLOW, sip.ACCEPT))
_CANCELLED = Verdict(200)
_DIPPED = Verdict(404)
_TOO_MANY_HOPS = Verdict(483, (), fault="not_a_query")
_NOT_ALLOWED = Verdict(405, (sip.ALLOW,), fault="not_a_query")
_FAULTS = {
    400: Verdict(400, (), fault="malformed"),
    505: Verdict(505, (), fault="not_a_query"),
    513: Verdict(513, (), fault="malformed"),
}
_URI_FAULTS = {"malformed": _FAULTS[400], "not_a_query": Verdict(416, (), fault="not_a_query")}


class SipResponder(Tallies):
    """The sip dialect: a redirect for a number that is served, a failure for any other."""

    late_ns = 0  # an answer belongs to its request by Via and CSeq: a late one does no harm
    message_bytes_max = SIP_DATAGRAM_BYTES_MAX

    def __init__(self, engine: Engine, counters: QueryCounters, *, udp: bool, tag_seed: int) -> None:
        """udp: messages are datagrams, whose sources may be forged. tag_seed: see `sip.make_tag`."""
        super().__init__(engine, counters)
        self._udp = udp
        self._tag_seed = tag_seed

    def respond(self, message: bytes, client: Client, now_ns: int, peer: Peer) -> bytes | None:
        """See Responder. What never has an answer (keep-alive, ACK, a response) takes nothing of the allowance."""
        usage = client.usage["sip"]
        self._client, self._host = client, peer[0]
        self.counters.received += 1
        self.reply_port = 0
        if is_blank(message):
            return self._respond_blank(message, usage)
        try:
            request = read_request(message, stream=not self._udp)
        except ProtocolError as error:
            if error.reason == "malformed" and not self._may_be_read(client, now_ns, peer):
                self.refuse(usage)
            else:
                self.drop(error.reason, usage)
            return None
        if request.method == b"ACK":
            self.drop("malformed", usage) if request.fault else self.absorb(usage)
            return None
        verdict = self._judge_within_rate(request, client, now_ns, peer)
        if verdict is None:
            self.refuse(usage)
            return None
        host = peer[0].partition("%")[0]
        reply = sip.encode_reply(request, verdict.status, host, peer[1], self._tag_seed, verdict.lines)
        if self._udp and len(reply) > AMPLIFICATION_MAX * len(message):
            self.drop("no_room", usage, verdict.digits)
            return None
        self._tell(verdict, usage)
        if self._udp:
            self.reply_port = request.via.reply_port
        return reply

    def _respond_blank(self, message: bytes, usage: Usage) -> bytes | None:
        if self._udp or message != sip.PING:
            self.absorb(usage)
            return None
        self.tell_other(usage)
        return sip.PONG

    def _may_be_read(self, client: Client, now_ns: int, peer: Peer) -> bool:
        """Whether a message that has no answer is within the rate all the same."""
        return not client.is_limited or client.take(1, now_ns, peer[0] if self._udp else None)

    def _judge_within_rate(self, request: SipRequest, client: Client, now_ns: int, peer: Peer) -> Verdict | None:
        """None for silence: a prefix over its rate may be forged, and only a new call is told to go elsewhere."""
        if client.is_limited:
            if self._udp and not client.take_from(peer[0], now_ns):
                return None
            if not client.take(1, now_ns):
                return _OVER_RATE if not request.fault and request.method in (b"INVITE", b"OPTIONS") else None
        return self._judge(request, client.sip)

    def _judge(self, request: SipRequest, settings: SipSettings) -> Verdict:
        if request.fault:
            return _FAULTS[request.fault]
        method = request.method
        if method == b"OPTIONS":
            return _ALIVE if self._engine.usable else _UNAVAILABLE
        if request.max_forwards == 0:
            return _TOO_MANY_HOPS
        if method == b"CANCEL":
            return _CANCELLED
        if method != b"INVITE":
            return _NOT_ALLOWED
        try:
            target = read_target(request.uri)
        except ProtocolError as error:
            return _URI_FAULTS[error.reason]
        if target.dipped:
            return _DIPPED
        plan = self._engine.plan
        if target.context_digits:
            digits = plan.digits_in(target.context_digits, target.digits)
        else:
            digits = plan.digits(target.asked)
        found = self._engine.find(digits)
        verdict = self._redirect(settings, target, digits, found)
        if self.tap.sample:
            verdict = verdict._replace(digits=digits, route=found[1])
        if found[2] is not None:
            verdict = verdict._replace(lines=(*verdict.lines, sip.restricted(found[2])))
        if settings.tell:
            header = sip.told(self._engine.serial, self._engine.age_seconds)
            verdict = verdict._replace(lines=(*verdict.lines, header))
        return verdict

    def _redirect(self, settings: SipSettings, target: Target, digits: str | None, found: Found) -> Verdict:
        """The answer to a number."""
        outcome, route, _ = found
        if outcome is Outcome.UNAVAILABLE:
            return _UNAVAILABLE
        rn = cic = None
        if outcome is Outcome.PORTED:
            assert route is not None
            rn, cic = routing_number(settings, route), carrier_code(settings, route)
            if rn is None and (cic is None or settings.form != "rn"):
                return _NO_ROUTE  # the number alone would say that it was not ported
        elif outcome is Outcome.NOT_PORTED and settings.unported != "unknown":
            assert route is not None
            rn = route.routing_number if settings.unported == "rn" else None
        else:
            incomplete = outcome is Outcome.NOT_PORTABLE and self._is_incomplete(target, digits)
            return Verdict(484 if incomplete else 404, (), outcome)
        return Verdict(settings.status, (b"Contact: " + contact(settings, target, rn, cic),), outcome)

    def _is_incomplete(self, target: Target, digits: str | None) -> bool:
        """Whether more digits might have made a number of it."""
        if not target.asked:
            return False
        if len(target.asked.removeprefix("+")) < TN_DIGITS_MIN:
            return True
        return digits is not None and self._engine.plan.is_incomplete(digits)

    def _tell(self, verdict: Verdict, usage: Usage) -> None:
        if verdict.over_rate:
            self.tell_refusal(usage)
        elif verdict.fault:
            self.tell_fault(verdict.fault, usage)
        elif verdict.outcome is not None:
            self.tell_answer(verdict.outcome, usage, verdict.digits, verdict.route)
        else:
            self.tell_other(usage)
