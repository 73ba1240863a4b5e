"""Signatures of manifests, in minisign's format (Ed25519): read keys, check, and sign for tests and relays.

Which file may follow which is `apply`'s business; here is only whether the sender's key signed these bytes.

A signature file has four lines: a comment nobody checks; base64 of algorithm, key id and signature; a trusted
comment; base64 of a second signature, over the first one and that comment. Algorithm `Ed` signs the file, `ED`
its BLAKE2b-512. Source: minisign's documentation, section on the signature format.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lookupd.errors import ConfigError, FeedError
from lookupd.limits import MANIFEST_BYTES_MAX
from lookupd.model import UnixSeconds
from lookupd.units import format_time, parse_time

PLAIN, HASHED = b"Ed", b"ED"
KEY_BYTES = 2 + 8 + 32
SIGNATURE_BYTES = 2 + 8 + 64
_UNTRUSTED = "untrusted comment: "
_TRUSTED = "trusted comment: "


class PublicKey(msgspec.Struct, frozen=True):
    """A sender's key. id: 8 bytes, which a signature names; key: 32 bytes; until: when we stop believing it."""

    id: bytes
    key: bytes
    until: UnixSeconds | None = None

    @property
    def name(self) -> str:
        """As minisign prints it."""
        return format_key_id(self.id)


def format_key_id(key_id: bytes) -> str:
    """Hex of the little-endian number, without leading zeros."""
    return f"{int.from_bytes(key_id, 'little'):X}"


def parse_public_key(text: str) -> PublicKey:
    """A minisign public key: its base64 line, perhaps with ` until TIME`, or the whole key file. Raises ConfigError."""
    last = text.strip().splitlines()[-1].strip() if text.strip() else ""
    line, _, until = last.partition(" until ")
    try:
        raw = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != KEY_BYTES or raw[:2] != PLAIN:
        raise ConfigError(f"{line[:60]!r} is no minisign public key: it is 56 characters that start with RW")
    try:
        return PublicKey(raw[2:10], raw[10:], parse_time(until) if until else None)
    except ValueError as error:
        raise ConfigError(f"key {format_key_id(raw[2:10])}: until {error}") from None


def check_signature(
    data: bytes, signature_file: Path, keys: tuple[PublicKey, ...], now: UnixSeconds | None = None
) -> PublicKey:
    """Raises FeedError unless one of the keys signed the data; returns that key.

    The trusted comment must be signed too, though nothing is read from it. now: when the file is judged, by
    which a key may have expired; None = the wall clock. The file's own date is no measure: whoever has the
    old key can write any date.
    """
    return check_signature_text(data, _read(signature_file), signature_file.name, keys, now)


def check_signature_text(
    data: bytes, text: bytes, name: str, keys: tuple[PublicKey, ...], now: UnixSeconds | None = None
) -> PublicKey:
    """The same with the signature file's bytes, and its name for messages."""
    lines = _lines(name, text)
    signature, comment_signature = _decode(name, lines[1]), _decode(name, lines[3])
    algorithm, key_id, signed = signature[:2], signature[2:10], signature[10:]
    if len(signature) != SIGNATURE_BYTES or algorithm not in {PLAIN, HASHED} or len(comment_signature) != 64:
        raise FeedError(f"{name}: not a minisign signature; the store is unchanged")
    key = next((key for key in keys if key.id == key_id), None)
    if key is None:
        known = ", ".join(key.name for key in keys)
        raise FeedError(
            f"{name}: signed by key {format_key_id(key_id)}, this feed's keys are {known}: "
            "if the sender has a new key, add it to the feed's public_key; the store is unchanged"
        )
    at = UnixSeconds(int(time.time())) if now is None else now
    if key.until is not None and at >= key.until:
        raise FeedError(
            f"{name}: key {key.name} expired at {format_time(key.until)}: ask the sender to sign with the new key, "
            "or extend `until` in the feed's public_key; the store is unchanged"
        )
    message = hashlib.blake2b(data).digest() if algorithm == HASHED else data
    comment = lines[2].removeprefix(_TRUSTED).encode()
    public = Ed25519PublicKey.from_public_bytes(key.key)
    try:
        public.verify(signed, message)
        public.verify(comment_signature, signed + comment)
    except InvalidSignature:
        raise FeedError(f"{name}: the signature does not fit: fetch it and its manifest again") from None
    return key


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MANIFEST_BYTES_MAX + 1)
    except FileNotFoundError:
        raise FeedError(f"{path.name}: missing: this feed's files must be signed; the store is unchanged") from None
    except OSError as error:
        raise FeedError(f"{path.name}: {error.strerror}") from None


def _lines(name: str, text: bytes) -> list[str]:
    """The four of them."""
    try:
        lines = text.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        lines = []
    if (
        len(text) > MANIFEST_BYTES_MAX
        or len(lines) != 4
        or not lines[0].startswith(_UNTRUSTED)
        or not lines[2].startswith(_TRUSTED)
    ):
        raise FeedError(f"{name}: not a minisign signature; the store is unchanged")
    return lines


def _decode(name: str, line: str) -> bytes:
    try:
        raw = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if base64.b64encode(raw).decode() != line:  # one text for one signature
        raise FeedError(f"{name}: not a minisign signature; the store is unchanged")
    return raw


class Signer:
    """A secret key in memory: for feeds made up by `generate`, for tests, and for relays."""

    def __init__(self, seed: bytes, key_id: bytes) -> None:
        """seed: 32 bytes; key_id: 8 bytes."""
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = PublicKey(key_id, self._key.public_key().public_bytes_raw())

    def public_key_text(self) -> str:
        """The base64 line of a public key file."""
        return base64.b64encode(PLAIN + self.public_key.id + self.public_key.key).decode()

    def sign(self, data: bytes, comment: str) -> str:
        """A signature file's text."""
        signed = self._key.sign(hashlib.blake2b(data).digest())
        comment_signature = self._key.sign(signed + comment.encode())
        signature = base64.b64encode(HASHED + self.public_key.id + signed).decode()
        return (
            f"{_UNTRUSTED}signature of a lookupd feed\n{signature}\n"
            f"{_TRUSTED}{comment}\n{base64.b64encode(comment_signature).decode()}\n"
        )
