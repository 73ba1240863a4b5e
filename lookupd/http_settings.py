"""What is checked of the HTTP listeners, and of the peer that is asked over HTTP, before any file is opened.

Plain http stays on loopback: beyond it, TLS keeps tokens and numbers from whoever is on the way.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lookupd.errors import ConfigError
from lookupd.limits import HTTP_HOSTS_MAX

if TYPE_CHECKING:
    from lookupd.settings import ClientSettings, Config, Endpoint, HttpSettings

_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_-]{1,63})*")


def check_http(config: Config, endpoints: list[tuple[str, Endpoint]]) -> None:
    """endpoints: the key and place of each HTTP listener, of the daemon and others. Raises ConfigError, naming the
    key, the reason and the way out."""
    for key, endpoint in endpoints:
        if endpoint.transport == "http" and not endpoint.is_loopback:
            raise ConfigError(
                f"{key}: {endpoint}: beyond loopback only https:// : write it so, with http.certificate and http.key, "
                f"or take http://127.0.0.1:{endpoint.port}"
            )
        if endpoint.transport == "https" and not config.http.certificate:
            raise ConfigError(f"{key}: {endpoint}: needs http.certificate and http.key")
    _check_files(config.http)
    _check_hosts(config.http)
    for at, client in enumerate(config.clients):
        _check_client(f"client[{at}]", client, config.http)
    _check_peer(config)


def _check_files(http: HttpSettings) -> None:
    if bool(http.certificate) != bool(http.key):
        raise ConfigError("http.certificate and http.key: only together")
    if http.client_ca and not http.certificate:
        raise ConfigError("http.client_ca: only with http.certificate: clients show theirs over https alone")


def _check_hosts(http: HttpSettings) -> None:
    if len(http.hosts) > HTTP_HOSTS_MAX:
        raise ConfigError(f"http.hosts: at most {HTTP_HOSTS_MAX}")
    for host in http.hosts:
        if not (_HOST.fullmatch(host.lower()) or _is_address(host)):
            raise ConfigError(f"http.hosts: {host[:80]!r}: a name or address alone, such as lookupd-a.noc.example")


def _check_client(where: str, client: ClientSettings, http: HttpSettings) -> None:
    if client.certificate and not http.client_ca:
        raise ConfigError(f"{where}.certificate: needs http.client_ca, whose certificates are believed")


def _check_peer(config: Config) -> None:
    for key, url in (("sync.peer", config.sync.peer), ("replica.peer", config.replica.peer)):
        if not url:
            continue
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{key}: {url}: write it like https://192.0.2.7:9474")
        if url.startswith("http://") and not is_loopback_url(url):
            raise ConfigError(f"{key}: {url}: beyond loopback only https:// : the whole store goes this way")
    replica = config.replica
    if bool(replica.peer_certificate) != bool(replica.peer_key):
        raise ConfigError("replica.peer_certificate and replica.peer_key: only together")
    for key in ("peer_ca", "peer_token_file", "peer_certificate"):
        if getattr(replica, key) and not (config.replica.peer or config.peer).startswith("https://"):
            raise ConfigError(f"replica.{key}: only with replica.peer = https://...")


def is_loopback_url(url: str) -> bool:
    """Whether a URL names this machine, whatever a resolver says."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
