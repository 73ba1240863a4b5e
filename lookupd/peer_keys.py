"""How we ask the peer over https: whom we believe, and what we show; and what went wrong with TLS, in words."""

from __future__ import annotations

import ssl
from typing import NamedTuple

from lookupd.key_files import load_authorities, load_chain, read_tokens
from lookupd.settings import Replica

_EXPIRED, _NOT_YET = 10, 9
_NAMES = {62, 64}
"""X509_V_ERR_... of OpenSSL's x509_vfy.h: expired and not yet valid; another host name, another address."""


class PeerKeys(NamedTuple):
    """context: None over http. headers: sent with each request, to the peer alone."""

    context: ssl.SSLContext | None
    headers: dict[str, str]


NO_KEYS = PeerKeys(None, {})


def read_peer_keys(replica: Replica, url: str) -> PeerKeys:
    """For requests to `url`; a token is never sent over http. Files are read now. Raises ConfigError."""
    if not url.startswith("https://"):
        return NO_KEYS
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if replica.peer_ca:
        load_authorities(context, "replica.peer_ca", replica.peer_ca)
    else:
        context.load_default_certs()
    if replica.peer_certificate:
        certificate = ("replica.peer_certificate", replica.peer_certificate)
        load_chain(context, certificate, ("replica.peer_key", replica.peer_key))
    headers = {}
    if replica.peer_token_file:
        # Of two, the newest, which stands last: the peer takes both while one replaces the other.
        headers["Authorization"] = f"Bearer {read_tokens('replica.peer_token_file', replica.peer_token_file)[-1]}"
    return PeerKeys(context, headers)


def tls_trouble(error: BaseException | None) -> str | None:
    """What is wrong with the peer's certificate or ours, and the way out; None if it is something else."""
    error = _first_cause(error)
    if not isinstance(error, ssl.SSLError):
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == _EXPIRED:
            return "its certificate has expired: renew it there"
        if error.verify_code == _NOT_YET:
            return "its certificate is not valid yet: are both clocks right?"
        if error.verify_code in _NAMES:
            return "its certificate is for another name or address: make one with the address of replica.peer"
        return f"its certificate is not trusted ({error.verify_message}): is replica.peer_ca its authority?"
    reason = error.reason or "broken off"
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return f"it does not take our certificate ({_words(reason)}): renew replica.peer_certificate"
    return f"no TLS: {_words(reason)}: does https:// listen there?"


def _first_cause(error: BaseException | None) -> BaseException | None:
    """Clients wrap it, aiohttp in an SSLError of its own that knows nothing."""
    while error is not None:
        reason = getattr(error, "reason", None)
        cause = reason if isinstance(reason, BaseException) else error.__cause__
        if cause is None:
            break
        error = cause
    return error


def _words(reason: str) -> str:
    return reason.lower().replace("_", " ")
