"""Settings that are allowed but deserve a second look before a start; `check-config` and the daemon tell them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from typing import TypeVar

from lookupd.limits import AMPLIFICATION_MAX, PREFIX_BITS_V4, PREFIX_BITS_V6
from lookupd.profiles import EnumSettings, NumberForm, SipSettings
from lookupd.protocols import dns
from lookupd.protocols.enum_dns import profile_of
from lookupd.protocols.sip_message import SIP_PORT
from lookupd.settings import ClientSettings, Config

Profile = TypeVar("Profile", bound=NumberForm)

EXAMPLE_NUMBER = "886912345678"
EXAMPLE_RN = "00000"
"""A ported number of usual length and its route: what an ENUM answer's length is told of."""


def warnings(config: Config) -> list[str]:
    """One sentence each, with the setting before it. The configuration has been checked."""
    found = [*_of_listeners(config), *_of_peer(config), *_of_clients(config), *_of_https(config)]
    found += [*_of_settlement(config), *_of_batches(config)]
    for where, enum in _served(config, "enum", lambda client: client.enum):
        found += _of_enum(where, enum, config)
    for where, sip in _served(config, "sip", lambda client: client.sip):
        found += _of_sip(where, sip, config)
    found += [
        f"feed.{name}: no public_key: files are taken without a signature"
        for name, feed in config.feeds.items()
        if not feed.public_keys
    ]
    return found


def _of_listeners(config: Config) -> Iterator[str]:
    if not config.endpoints():
        yield "listen: nothing is served: name at least one listener"
    for name, default in (("enum", EnumSettings()), ("sip", SipSettings())):
        is_set = any(getattr(each, name) != default for each in (config, *config.clients))
        if is_set and not getattr(config.listen, name):
            yield f"{name}: has settings, but listen.{name} names no listener"
    streams = _sockets(config, "enum", "tcp")
    for host, port in _sockets(config, "enum", "udp"):
        if (host, port) not in streams:
            yield f"listen.enum: {host} port {port} over UDP alone: who gets a cut answer asks again over TCP there"


def _of_peer(config: Config) -> Iterator[str]:
    if not config.replica.peer:
        return
    if not config.listen.http_urls:
        yield "replica.peer: is watched, but cannot watch us: listen.http names no listener"
    elif not any(client.peer for client in config.clients):
        yield "replica.peer: is watched, but cannot watch us: no [[client]] has peer = true"


def _of_batches(config: Config) -> Iterator[str]:
    may = any("batch" in client.may for client in config.clients)
    if config.batches.path and not may:
        yield 'batches.path: nobody may use it: no [[client]] has may = [..., "batch"]'
    if config.batches.path and not config.listen.http_urls:
        yield "batches.path: is set, but listen.http names no listener"


def _of_clients(config: Config) -> Iterator[str]:
    beyond = [str(endpoint) for _, endpoint in config.endpoints() if not endpoint.is_loopback]
    networks = [ipaddress.ip_network(source) for client in config.clients for source in client.sources]
    if beyond and all(network.is_loopback for network in networks):
        yield f"client: {', '.join(beyond)} listens beyond loopback, but only loopback is answered"
    for network in networks:
        if network.num_addresses > 1 << (24 if network.version == 4 else 96):
            yield f"client: {network} is wider than a /8: is that meant?"
    if not any(_sockets(config, dialect, "udp") for dialect in ("enum", "sip")):
        return
    for client in config.clients:
        for source in client.sources:
            network = ipaddress.ip_network(source)
            bits = PREFIX_BITS_V4 if network.version == 4 else PREFIX_BITS_V6
            if network.is_global and network.prefixlen < bits and not client.queries_per_prefix:
                yield (
                    f"client {client.name}: queries_per_prefix is 0: whoever forges an address of {network} over UDP "
                    f"has up to {AMPLIFICATION_MAX} times as many bytes sent there, at any rate"
                )


def _of_settlement(config: Config) -> Iterator[str]:
    for client in config.clients if config.settlement.per_query else ():
        if not client.account:
            yield f"client {client.name}: has no account: what it asks is charged to the one without a name"


def _of_https(config: Config) -> Iterator[str]:
    """A client that is answered over UDP may well have nothing to show."""
    if not any(endpoint.transport == "https" for _, endpoint in config.endpoints()):
        return
    for client in config.clients:
        beyond = not all(ipaddress.ip_network(source).is_loopback for source in client.sources)
        if beyond and not client.token_file and not client.certificate:
            yield f"client {client.name}: has neither token_file nor certificate: over https it is refused"


def _served(config: Config, dialect: str, of: Callable[[ClientSettings], Profile]) -> Iterator[tuple[str, Profile]]:
    """The profiles by which a served dialect answers, each once: that of the section, and of clients with their own."""
    if not getattr(config.listen, dialect):
        return
    common: Profile = getattr(config, dialect)
    if any(of(client) == common for client in config.clients):
        yield dialect, common
    for client in config.clients:
        if of(client) != common:
            yield f"client {client.name}: {dialect}", of(client)


def _of_enum(where: str, settings: EnumSettings, config: Config) -> Iterator[str]:
    yield from _of_form(where, settings)
    if "E2U+pstn:sip" in settings.services:
        yield from _of_domain(where, settings.domain, config)
    for key, seconds in (("ttl", settings.ttl), ("negative_ttl", settings.negative_ttl)):
        if seconds > config.limits.port:
            yield (
                f"{where}.{key}: {seconds} s: resolvers keep an old answer for longer than limits.port, "
                f"{config.limits.port:g} s"
            )
    if _sockets(config, "enum", "udp"):
        room, answered = _example_bytes(settings)
        if answered > room:
            yield (
                f"{where}: the answer to a usual ported number has {answered} bytes, and who asks over UDP without "
                f"EDNS has room for {room}: it is cut, and asked for again over TCP; one service may be enough"
            )


def _of_sip(where: str, settings: SipSettings, config: Config) -> Iterator[str]:
    yield from _of_form(where, settings)
    yield from _of_domain(where, settings.domain, config)
    if settings.status == 301:
        yield f"{where}.status: 301: a switch may keep the route for good (RFC 3261 section 21.3.2); 302 is forgotten"


def _of_form(where: str, form: NumberForm) -> Iterator[str]:
    if form.unmapped_routing_number and not form.rn_context and not form.unmapped_routing_number[0].isdigit():
        yield (
            f"{where}.unmapped_routing_number: sent as +{form.unmapped_routing_number}, and a global number begins "
            "with a country code (RFC 4694 section 4): a national one needs rn_context"
        )


def _of_domain(where: str, domain: str, config: Config) -> Iterator[str]:
    """A switch that goes where the URI points must not ask here again: it has the number's answer already."""
    host, colon, port = domain.rpartition(":")
    if not colon or domain.endswith("]"):
        host, port = domain, str(SIP_PORT)
    served = _sockets(config, "sip", "udp") | _sockets(config, "sip", "tcp")
    if (host.strip("[]").lower(), int(port)) in served:
        yield f"{where}.domain: {domain} is where listen.sip listens: a call that goes there comes back, and gets 404"


def _sockets(config: Config, dialect: str, transport: str) -> set[tuple[str, int]]:
    return {
        (endpoint.host, endpoint.port)
        for name, endpoint in config.endpoints()
        if (name, endpoint.transport) == (dialect, transport)
    }


def _example_bytes(settings: EnumSettings) -> tuple[int, int]:
    """What fits an answer to a question without EDNS below the shortest apex, and what the answer has."""
    apex = min(settings.apexes, key=len)
    name = dns.encode_name(".".join((*reversed(EXAMPLE_NUMBER), apex)))
    asked = dns.HEADER.size + len(name) + 4  # and its type and class
    room = min(dns.UNEXTENDED_BYTES, AMPLIFICATION_MAX * asked)
    return room, asked + len(profile_of(settings).records(settings.unmapped_routing_number or EXAMPLE_RN, None))
