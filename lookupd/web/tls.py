"""TLS of the HTTP listeners: the context that connections are taken with, and what a client's certificate says."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from lookupd.errors import ConfigError
from lookupd.key_files import load_authorities, load_chain
from lookupd.settings import HttpSettings


class ServerTls(NamedTuple):
    """context: for new connections. fingerprint: of everything in it; the same = connections may go on."""

    context: ssl.SSLContext
    fingerprint: bytes


def server_tls(http: HttpSettings, before: ServerTls | None = None) -> ServerTls:
    """From the files as they are now; that of before if nothing in them changed. Raises ConfigError.

    A client's certificate is asked for and may be left out: a token does as well. No session is continued, so that
    every connection shows its certificate anew.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    content = load_chain(context, ("http.certificate", http.certificate), ("http.key", http.key))
    if http.client_ca:
        content += load_authorities(context, "http.client_ca", http.client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    fingerprint = sha256(content).digest()
    if before is not None and before.fingerprint == fingerprint:
        return before
    return ServerTls(context, fingerprint)


def certificate_names(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """Whose a verified certificate is: its DNS names, or where it has none, its common name.

    certificate: as `ssl.SSLSocket.getpeercert` tells it.
    """
    if not certificate:
        return frozenset()
    names = frozenset(value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS")
    if names:
        return names
    return frozenset(value for part in certificate.get("subject", ()) for key, value in part if key == "commonName")


def expiry(path: str | Path) -> int:
    """Unix seconds at which the first certificate of a PEM file expires. Raises ConfigError."""
    from cryptography import x509

    try:
        content = Path(path).read_bytes()
        return int(x509.load_pem_x509_certificate(content).not_valid_after_utc.timestamp())
    except OSError as error:
        raise ConfigError(f"http.certificate: {path}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"http.certificate: {path}: holds no certificate in PEM form") from None
