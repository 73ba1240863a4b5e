"""Files with secrets and certificates: tokens, keys, authorities. Read, bounded, and told what is wrong in words.

Whose they are, and what they are used for, is `web.guard`'s, `web.tls`'s and `peer_keys`'.
"""

from __future__ import annotations

import re
import ssl
import stat
from pathlib import Path

from lookupd.errors import ConfigError
from lookupd.limits import PEM_FILE_BYTES_MAX, TOKEN_CHARS_MAX, TOKEN_CHARS_MIN, TOKEN_FILE_BYTES_MAX, TOKENS_MAX

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750 section 2.1."""


def read_tokens(key: str, path: str) -> tuple[str, ...]:
    """One token, or the old and the new one, a line each. key: the setting. Raises ConfigError."""
    content = _read(key, path, TOKEN_FILE_BYTES_MAX, secret=True)
    tokens = tuple(line.strip() for line in content.decode("utf-8", "replace").splitlines() if line.strip())
    if not 1 <= len(tokens) <= TOKENS_MAX:
        raise ConfigError(f"{key}: {path}: holds {len(tokens)} tokens: one a line, at most {TOKENS_MAX}, old and new")
    for at, token in enumerate(tokens, 1):
        if not _TOKEN.fullmatch(token) or not TOKEN_CHARS_MIN <= len(token) <= TOKEN_CHARS_MAX:
            raise ConfigError(
                f"{key}: {path}: line {at}: a token has {TOKEN_CHARS_MIN} to {TOKEN_CHARS_MAX} of A-Z a-z 0-9 . _ ~ + "
                "/ - : `openssl rand -hex 32` makes one"
            )
    return tokens


def load_chain(context: ssl.SSLContext, certificate: tuple[str, str], key: tuple[str, str]) -> bytes:
    """Our own certificate and its key into a context. Each: the setting, and its path. Returns the bytes of both.

    Raises ConfigError.
    """
    public = _read(*certificate, PEM_FILE_BYTES_MAX)
    private = _read(*key, PEM_FILE_BYTES_MAX, secret=True)
    if b"-----BEGIN CERTIFICATE-----" not in public:
        raise ConfigError(f"{certificate[0]}: {certificate[1]}: holds no certificate in PEM form")
    if b"PRIVATE KEY-----" not in private:
        raise ConfigError(f"{key[0]}: {key[1]}: holds no private key in PEM form")
    try:
        context.load_cert_chain(certificate[1], key[1], _no_passphrase)
    except _Encrypted:
        raise ConfigError(f"{key[0]}: {key[1]}: has a passphrase: `openssl pkey` writes one without") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{key[0]}: {key[1]}: is not the key of {certificate[1]}") from None
        raise ConfigError(f"{certificate[0]}: {certificate[1]}: cannot be used: {_reason(error)}") from None
    except OSError as error:
        raise ConfigError(f"{certificate[0]}: {error.strerror}") from None
    return public + private


def load_authorities(context: ssl.SSLContext, key: str, path: str) -> bytes:
    """Whose certificates are believed. Returns the bytes. Raises ConfigError."""
    content = _read(key, path, PEM_FILE_BYTES_MAX)
    try:
        context.load_verify_locations(cadata=content.decode("ascii"))
    except ssl.SSLError as error:
        raise ConfigError(f"{key}: {path}: holds no usable certificate in PEM form: {_reason(error)}") from None
    except ValueError:
        raise ConfigError(f"{key}: {path}: holds no certificate in PEM form") from None
    return content


class _Encrypted(Exception):
    """A key that only a person could open."""


def _no_passphrase() -> str:
    raise _Encrypted  # else OpenSSL asks on the terminal


def _read(key: str, path: str, bytes_max: int, *, secret: bool = False) -> bytes:
    try:
        with Path(path).open("rb") as file:
            if not stat.S_ISREG(Path(path).stat().st_mode):
                raise ConfigError(f"{key}: {path}: is no file")
            if secret and Path(path).stat().st_mode & stat.S_IROTH:
                raise ConfigError(f"{key}: {path}: everybody on this machine can read it: chmod o= {path}")
            content = file.read(bytes_max + 1)
    except OSError as error:
        raise ConfigError(f"{key}: {path}: {error.strerror}") from None
    if len(content) > bytes_max:
        raise ConfigError(f"{key}: {path}: has more than {bytes_max} bytes: is it the right file?")
    return content


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "not understood").lower().replace("_", " ")
