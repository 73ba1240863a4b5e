"""Who may ask an HTTP listener, and for what: address, Host, Origin, token or certificate, permission, in this order.

A web page that an operator has open can send requests to loopback in his name: Host tells a name that was bent to
our address (DNS rebinding), Origin and Sec-Fetch-Site tell whose page it is. Connections are `transports.http`'s.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import re
import ssl
import time
from hashlib import sha256
from typing import Literal

import msgspec
from aiohttp import HttpVersion11, web

from lookupd.access import Access, Client
from lookupd.errors import ConfigError
from lookupd.key_files import read_tokens
from lookupd.peer_keys import read_peer_keys
from lookupd.settings import Config, Endpoint, Permission
from lookupd.web.tls import ServerTls, certificate_names, expiry, server_tls

Needs = Permission | Literal["peer"] | None

OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

HEADERS = {
    "Server": "lookupd",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Of every answer."""

_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9._-]{1,253}))(?::[0-9]{1,5})?")
_CHARACTER = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%(?!00|2[eEfF]|5[cC])[0-9A-Fa-f]{2})"
_TARGET = re.compile(rf"(?:/(?!/|\.{{1,2}}(?:/|$)){_CHARACTER}*)+")
_BODILESS = {"GET", "HEAD"}


class Refused(Exception):
    """No answer but this. reason: of `HTTP_REFUSALS`; None = the request itself is wrong."""

    def __init__(self, status: int, reason: str | None, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.reason, self.text = status, reason, text
        self.headers = headers or {}

    def response(self) -> web.Response:
        """As it is sent; the connection ends with it."""
        response = web.Response(status=self.status, text=f"{self.text}\n", headers=self.headers)
        response.force_close()
        return response


class Secrets(msgspec.Struct, frozen=True):
    """What files say. tls: None where no listener has it. tokens: their SHA-256, by the client's name. certificates:
    the name in the certificate, by the client's. hosts: in small letters."""

    tls: ServerTls | None = None
    tokens: dict[str, tuple[bytes, ...]] = {}
    certificates: dict[str, str] = {}
    hosts: frozenset[str] = frozenset()


def read_secrets(config: Config, *, wanted: bool = True, before: Secrets | None = None) -> Secrets:
    """From the files as they are now. wanted: whether a listener is https; without one they are left alone.

    Raises ConfigError, naming setting, file, reason and way out.
    """
    hosts = frozenset(host.lower() for host in config.http.hosts)
    if not wanted:
        return Secrets(hosts=hosts)
    tls = server_tls(config.http, before.tls if before else None) if config.http.certificate else None
    tokens = {}
    for at, client in enumerate(config.clients):
        if client.token_file:
            found = read_tokens(f"client[{at}].token_file", client.token_file)
            tokens[client.name] = tuple(_hashed(token) for token in found)
    certificates = {client.name: client.certificate for client in config.clients if client.certificate}
    return Secrets(tls, tokens, certificates, hosts)


def secrets_of_daemon(config: Config, before: Secrets | None = None) -> Secrets:
    """For its listeners. Raises ConfigError."""
    wanted = any(endpoint.transport == "https" for _, endpoint in config.endpoints())
    return read_secrets(config, wanted=wanted, before=before)


def look_at_files(config: Config) -> None:
    """What a start would read, for `check-config --deep`: every file that is named. Raises ConfigError."""
    read_secrets(config)
    if config.http.certificate and expiry(config.http.certificate) <= time.time():
        raise ConfigError(f"http.certificate: {config.http.certificate}: has expired: renew it")
    read_peer_keys(config.replica, config.replica.peer)


class Guard:
    """Of one listener. Which clients there are, and what they show, may be replaced at any time, both at once."""

    def __init__(self, endpoint: Endpoint, access: Access, secrets: Secrets) -> None:
        """endpoint: of the listener. Beyond this machine an address alone is no proof."""
        self.access = access
        self.secrets = secrets
        self._is_tls = endpoint.transport == "https"
        self._is_local = endpoint.is_loopback

    @property
    def context(self) -> ssl.SSLContext | None:
        """For new connections; None without TLS."""
        return self.secrets.tls.context if self._is_tls and self.secrets.tls is not None else None

    def is_own(self, host: str, port: int) -> bool:
        """See `Access.is_own`."""
        return self.access.is_own(host, port)

    def is_listed(self, host: str, port: int) -> bool:
        """Whether anybody with this address is answered; see `Access.find_asker`."""
        return self.access.find_asker(host, port) is not None

    def admit(self, request: web.Request, needs: Needs, *, anonymous: bool = False) -> Client:
        """The client that asks. anonymous: its address is enough. Raises Refused."""
        host, port, own_host = _sockets_of(request)
        if not self.is_listed(host, port):
            raise Refused(403, "unknown_client", "this address is on no client's list")
        _check_form(request)
        self._check_host(request, own_host)
        self._check_origin(request)
        client = self._identify(request, host, port, anonymous)
        if needs == "peer" and not client.peer:
            raise Refused(403, "permission", "this client is no peer: [[client]] peer = true lets it read the store")
        if needs not in (None, "peer") and needs not in client.may:
            raise Refused(403, "permission", f'this client may not: [[client]] may = [..., "{needs}"] lets it')
        return client

    # -- whose page it is --------------------------------------------------------------------------------

    def _check_host(self, request: web.Request, own_host: str) -> None:
        named = request.headers.getall("Host", [])
        if not named and request.version < HttpVersion11:
            return  # a health check of a load balancer: every browser says Host
        if len(named) != 1:
            raise Refused(400, "host", "a request has one Host header")
        found = _HOST.fullmatch(named[0])
        name = "" if found is None else (found["six"] or found["name"]).lower()
        if not (name in OWN_NAMES or name in self.secrets.hosts or _same_address(name, own_host)):
            raise Refused(
                421, "host", "Host is no name of this listener: ask by its address, or list the name in http.hosts"
            )

    def _check_origin(self, request: web.Request) -> None:
        headers = request.headers
        host = headers.get("Host", "").lower()
        schemes = ("https",) if request.secure else ("http", "https")  # a proxy before us may have TLS
        own = {f"{scheme}://{host}" for scheme in schemes}
        if any(origin.lower() not in own for origin in headers.getall("Origin", [])):
            raise Refused(403, "origin", "a page of another origin asks")
        sites = headers.getall("Sec-Fetch-Site", [])
        if all(site in {"same-origin", "none"} for site in sites) or _is_visit(request):
            return
        raise Refused(403, "origin", "a page of another site asks")

    # -- who it is ---------------------------------------------------------------------------------------

    def _identify(self, request: web.Request, host: str, port: int, anonymous: bool) -> Client:
        if self.access.is_own(host, port):
            return self.access.clients[-1]
        holders = self.access.holders(host)
        shown = _shown_token(request)
        names = certificate_names(request.get_extra_info("peercert"))
        proven = [client for client in holders if self._proves(client, shown, names)]
        if proven:
            return proven[0]
        if anonymous or self._is_local:
            return holders[0]
        why = (
            "this token or certificate is not of a client with this address"
            if shown or names
            else ("this listener wants a token (Authorization: Bearer) or a client certificate")
        )
        raise Refused(401, "credential", why, {"WWW-Authenticate": 'Basic realm="lookupd", charset="UTF-8"'})

    def _proves(self, client: Client, shown: bytes | None, names: frozenset[str]) -> bool:
        """Every token is compared, in constant time."""
        tokens = self.secrets.tokens.get(client.name, ())
        fits = [hmac.compare_digest(token, shown) for token in tokens] if shown is not None else []
        return any(fits) or self.secrets.certificates.get(client.name) in names


def _sockets_of(request: web.Request) -> tuple[str, int, str]:
    """Address and port of who asks, and the address that it came to. Raises Refused if it is gone already."""
    peer, here = request.get_extra_info("peername"), request.get_extra_info("sockname")
    if not peer or not here:
        raise Refused(403, "unknown_client", "gone")
    return peer[0], peer[1], here[0]


def _check_form(request: web.Request) -> None:
    """What our own clients never send is refused whole, rather than understood in one of two ways."""
    path = request.raw_path.partition("?")[0]
    if request.method not in {"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"}:
        raise Refused(405, None, "no such method", {"Allow": "GET, HEAD, POST"})
    if not _TARGET.fullmatch(path):
        raise Refused(400, None, "the path is written in a way that is not taken here: / and plain names")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Refused(415, None, "bodies are taken as they are: no Content-Encoding")
    if request.method in _BODILESS and request.body_exists and request.match_info.http_exception is None:
        raise Refused(400, None, f"{request.method} has no body")


def _is_visit(request: web.Request) -> bool:
    """A person follows a link to the status page, which alone is shown."""
    headers = request.headers
    return (
        request.method in _BODILESS
        and request.raw_path == "/"
        and headers.get("Sec-Fetch-Mode") == "navigate"
        and headers.get("Sec-Fetch-Dest", "document") == "document"
        and not headers.getall("Origin", [])
    )


def _shown_token(request: web.Request) -> bytes | None:
    """Hashed; of a browser, which can only ask for a name and a password, the password."""
    shown = request.headers.getall("Authorization", [])
    if len(shown) != 1:
        return None
    scheme, _, value = shown[0].partition(" ")
    if scheme.lower() == "bearer":
        return _hashed(value.strip())
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(value.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    return _hashed(decoded.partition(":")[2])


def _hashed(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogateescape")).digest()


def _same_address(name: str, own: str) -> bool:
    try:
        return ipaddress.ip_address(name) == ipaddress.ip_address(own.partition("%")[0])
    except ValueError:
        return False


def harden(response: web.StreamResponse) -> None:
    """The headers of every answer; what a handler says itself of caching and content stays."""
    response.headers.update(HEADERS)
    response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    if "ETag" not in response.headers:
        response.headers.setdefault("Cache-Control", "no-store")
