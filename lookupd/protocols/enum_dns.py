"""ENUM: a number's name in a zone of ours -> NAPTR, NODATA or NXDOMAIN, made on the fly from what the engine says.

A client's settings are compiled into a Profile: its zones, and the records of each route, which are the same for all
of the route's numbers. Messages are read and put together by `dns`. Sources: RFC 6116, RFC 4769, RFC 4694, RFC 2308.
"""

from __future__ import annotations

import ipaddress
import struct
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from lookupd.limits import E164_DIGITS_MAX, ROUTES_MAX
from lookupd.model import InForce, Outcome, Route
from lookupd.profiles import EnumSettings
from lookupd.protocols import dns
from lookupd.protocols.dns import Query, Sections
from lookupd.protocols.tel_parameters import carrier_code, parameters, routing_number

ORDER: Final = 100
PREFERENCE_STEP: Final = 10
SOA_TTL: Final = 3600
REFRESH, RETRY, EXPIRE = 3600, 600, 604_800
TELL_OPTION: Final = 65_001
"""EDNS option of the range for local use (RFC 6891 section 9) that carries serial and age, u32 each."""

RESTRICTION_OPTION: Final = 65_002
"""The option beside it for a restricted number: measure, three zero bytes, when it lapses (Unix seconds, u32)."""

NO_AGE: Final = 0xFFFF_FFFF
_OWNER_IS_QUESTION = struct.pack(">H", dns.POINTER | dns.QUESTION_AT)
_SOA_NUMBERS = struct.Struct(">5I")
_NAPTR_NUMBERS = struct.Struct(">HH")
_TELL = struct.Struct(">HHII")
_RESTRICTION = struct.Struct(">HHB3xI")
_ONE = b"\x01"


class Name(NamedTuple):
    """A name as it stands in records of a zone: inside it, what stands before the apex; otherwise whole."""

    labels: bytes
    is_inside: bool

    def encode(self, pointer: bytes) -> bytes:
        """pointer: to the apex in the message's question."""
        return self.labels + pointer if self.is_inside else self.labels


class Host(NamedTuple):
    """A name server and its addresses, as data of A and AAAA records."""

    name: Name
    v4: tuple[bytes, ...]
    v6: tuple[bytes, ...]

    def records(self, owner: bytes, kind: int) -> list[bytes]:
        """Those of a type, or of ANY."""
        found = [dns.encode_record(owner, dns.A, SOA_TTL, data) for data in self.v4 if kind in {dns.A, dns.ANY}]
        found += [dns.encode_record(owner, dns.AAAA, SOA_TTL, data) for data in self.v6 if kind in {dns.AAAA, dns.ANY}]
        return found


class Zone:
    """One apex of a profile."""

    def __init__(self, apex: str, settings: EnumSettings) -> None:
        self.apex = dns.encode_name(apex).lower()
        """Wire form, in lower case."""
        self.size = len(self.apex)
        servers = settings.nameservers or {f"ns.{apex}": ()}
        self.hosts = [_host(name, addresses, self.apex) for name, addresses in servers.items()]
        self.inside = {host.name.labels.lower(): host for host in self.hosts if host.name.is_inside}
        self.above = {start for labels in self.inside for start in _above(labels)}
        """Labels before the apex of names that have nothing themselves and a server below."""
        self.negative_ttl = min(SOA_TTL, settings.negative_ttl)
        self._minimum = settings.negative_ttl

    def soa(self, pointer: bytes, serial: int, ttl: int) -> bytes:
        """The SOA record. pointer: to the apex in the question, its owner."""
        data = (
            self.hosts[0].name.encode(pointer)
            + b"\x0ahostmaster"
            + pointer
            + _SOA_NUMBERS.pack(serial, REFRESH, RETRY, EXPIRE, self._minimum)
        )
        return dns.encode_record(pointer, dns.SOA, ttl, data)

    def servers(self, pointer: bytes) -> bytes:
        """The NS records, as many as there are hosts."""
        return b"".join(dns.encode_record(pointer, dns.NS, SOA_TTL, host.name.encode(pointer)) for host in self.hosts)

    def addresses(self, pointer: bytes) -> list[bytes]:
        """Of the servers that lie in this zone."""
        return [record for host in self.inside.values() for record in host.records(host.name.encode(pointer), dns.ANY)]


def _host(name: str, addresses: tuple[str, ...], apex: bytes) -> Host:
    wire = dns.encode_name(name)
    is_inside = wire.lower().endswith(apex) and _is_labels(wire[: -len(apex)])
    packed = [ipaddress.ip_address(address) for address in addresses]
    return Host(
        Name(wire[: -len(apex)], True) if is_inside else Name(wire, False),
        tuple(address.packed for address in packed if address.version == 4),
        tuple(address.packed for address in packed if address.version == 6),
    )


def _is_labels(head: bytes) -> bool:
    """Whether these bytes are whole labels, so that a name goes on behind them."""
    at = 0
    while at < len(head):
        at += 1 + head[at]
    return at == len(head)


def _above(labels: bytes) -> list[bytes]:
    """What is left when labels are taken off the front, one after another, to the last."""
    found = []
    at = 0
    while at < len(labels):
        at += 1 + labels[at]
        found.append(labels[at:])
    return found


class Profile:
    """How one client is answered. Owned by whoever compiled it; only its memory of records grows, up to a bound."""

    def __init__(self, settings: EnumSettings) -> None:
        self.settings = settings
        zones = [Zone(apex, settings) for apex in settings.apexes]
        self.zones = sorted(zones, key=lambda zone: zone.size, reverse=True)
        self.tells_txt = settings.tell == "txt"
        self.tells_option = settings.tell == "edns"
        self.answers_unported = settings.unported != "unknown"
        self.services = len(settings.services)
        self._records: dict[tuple[str | None, str | None], bytes] = {}

    def find(self, name: bytes) -> tuple[Zone, bytes] | None:
        """The zone that a name lies in, and its labels before the apex; None if it lies in none.

        name: wire form in lower case. Of several apexes the longest one that fits is meant.
        """
        for zone in self.zones:
            if name.endswith(zone.apex):
                head = name[: -zone.size]
                if head[::2] == _ONE * (len(head) // 2) or _is_labels(head):
                    return zone, head
        return None

    def parts(self, outcome: Outcome, route: Route | None) -> tuple[str | None, str | None] | None:
        """`rn` and `cic` of a number's records; None if it has no records: it is as unknown here."""
        if outcome is Outcome.PORTED and route is not None:
            return routing_number(self.settings, route), carrier_code(self.settings, route)
        if outcome is Outcome.NOT_PORTED and self.answers_unported:
            return route.routing_number if route is not None and self.settings.unported == "rn" else None, None
        return None

    def records(self, rn: str | None, cic: str | None) -> bytes:
        """The NAPTR records of a number, one for each service: the same for every number with these."""
        key = (rn, cic)
        found = self._records.get(key)
        if found is None:
            if len(self._records) > ROUTES_MAX:
                self._records.clear()
            found = self._records[key] = b"".join(self._naptr(at, rn, cic) for at in range(self.services))
        return found

    def _naptr(self, at: int, rn: str | None, cic: str | None) -> bytes:
        settings = self.settings
        service = settings.services[at]
        said = parameters(settings, rn, cic)
        # The pattern takes the whole number, the replacement puts it back (RFC 6116 section 3.2).
        uri = f"tel:\\1{said}" if service.endswith("tel") else f"sip:\\1{said}@{settings.domain};user=phone"
        data = (
            _NAPTR_NUMBERS.pack(ORDER, PREFERENCE_STEP * (at + 1))
            + b"".join(bytes([len(text)]) + text.encode() for text in ("u", service, f"!^(.*)$!{uri}!"))
            + b"\0"
        )
        return dns.encode_record(_OWNER_IS_QUESTION, dns.NAPTR, settings.ttl, data)

    def txt(self, serial: int, age_seconds: int | None) -> bytes:
        """The TXT record of a number: what its answer was made from."""
        text = f"serial={serial} age={'-' if age_seconds is None else age_seconds}".encode()
        return dns.encode_record(_OWNER_IS_QUESTION, dns.TXT, self.settings.ttl, bytes([len(text)]) + text)

    def option(self, serial: int, age_seconds: int | None, restriction: InForce | None = None) -> bytes:
        """The same as an option of the OPT record, and another one if a restriction is in force; empty if the profile
        does not send them."""
        if not self.tells_option:
            return b""
        age = NO_AGE if age_seconds is None else min(age_seconds, NO_AGE)
        told = _TELL.pack(TELL_OPTION, 8, serial, age)
        if restriction is None:
            return told
        return told + _RESTRICTION.pack(RESTRICTION_OPTION, 8, restriction.measure, min(restriction.until, NO_AGE))


def profile_of(settings: EnumSettings) -> Profile:
    """The compiled settings, the same for equal ones."""
    return _compiled(msgspec.json.encode(settings))


@lru_cache(maxsize=64)
def _compiled(settings: bytes) -> Profile:
    return Profile(msgspec.json.decode(settings, type=EnumSettings))


def digits_of(head: bytes) -> str | None:
    """The number that the labels before an apex say, its last digit first; None if they are something else.

    head: wire form without the apex.
    """
    count = len(head) // 2
    if not 0 < count <= E164_DIGITS_MAX or head[::2] != _ONE * count:
        return None
    digits = head[1::2]
    return digits[::-1].decode("ascii") if digits.isdigit() else None


def pointer_to_apex(head: bytes) -> bytes:
    """To where the apex stands in the question's name."""
    return struct.pack(">H", dns.POINTER | dns.QUESTION_AT + len(head))


def negative(zone: Zone, head: bytes, serial: int, option: bytes = b"") -> Sections:
    """The authority section of NODATA and NXDOMAIN (RFC 2308 section 3)."""
    soa = zone.soa(pointer_to_apex(head), serial, zone.negative_ttl)
    return Sections(authority=soa, authority_count=1, option=option)


def own_records(zone: Zone, head: bytes, query: Query, serial: int) -> tuple[int, Sections]:
    """What the zone says of itself, or of a name that is no number: the reply's code and records."""
    pointer = pointer_to_apex(head)
    if not head:
        found = _apex_records(zone, pointer, query.kind, serial)
    elif head in zone.inside:
        records = zone.inside[head].records(_OWNER_IS_QUESTION, query.kind)
        found = Sections(answers=b"".join(records), answer_count=len(records))
    else:
        return dns.NOERROR if head in zone.above else dns.NXDOMAIN, negative(zone, head, serial)
    return dns.NOERROR, found if found.answer_count else negative(zone, head, serial)


def _apex_records(zone: Zone, pointer: bytes, kind: int, serial: int) -> Sections:
    answers, count = b"", 0
    extra: list[bytes] = []
    if kind in {dns.SOA, dns.ANY}:
        answers, count = zone.soa(pointer, serial, SOA_TTL), 1
    if kind in {dns.NS, dns.ANY}:
        answers, count = answers + zone.servers(pointer), count + len(zone.hosts)
        extra = zone.addresses(pointer) if kind == dns.NS else []
    return Sections(answers=answers, answer_count=count, extra=b"".join(extra), extra_count=len(extra))
