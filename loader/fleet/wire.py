"""One delta of a feed as a message of the engine, and back. Bytes only: no connection, no clock.

The message carries what lies at the feed's source: data file, manifest and signature, byte for byte, so that a
replica checks them as if it had fetched them. The engine needs no trust for that.

    subject                             PREFIX.FEED, one for each feed
    payload                             the data file's bytes; empty when it is larger than PAYLOAD_BYTES_MAX
    Nats-Msg-Id                         NAME@SHA256: the engine takes each file once
    Nats-Expected-Last-Subject-Sequence of the subject, so that two relays cannot publish out of order
    Lookupd-File                        the data file's name
    Lookupd-Manifest                    its manifest, base64
    Lookupd-Signature                   the manifest's minisign signature, base64; absent when it is not signed
    Lookupd-Payload                     `message`, or `files`: the data is at the feed's files only
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping

import msgspec

from loader.files import parse_file_name
from lookupd.errors import FeedError
from lookupd.limits import MANIFEST_BYTES_MAX

PAYLOAD_BYTES_MAX = 512 * 1024
"""Half of what a server takes by default (`max_payload`, 1 MiB, with headers): some 10,000 notices, compressed."""

SIGNATURE_BYTES_MAX = 4096
"""A minisign signature has about 300 bytes."""

FILE, MANIFEST, SIGNATURE, PAYLOAD = "Lookupd-File", "Lookupd-Manifest", "Lookupd-Signature", "Lookupd-Payload"
MESSAGE_ID = "Nats-Msg-Id"
EXPECTED_LAST = "Nats-Expected-Last-Subject-Sequence"


class Envelope(msgspec.Struct, frozen=True):
    """A delta on its way. data None: it is at the feed's files only. signature None: the feed is not signed."""

    feed: str
    sequence: int
    name: str
    manifest: bytes
    signature: bytes | None
    data: bytes | None

    def files(self) -> dict[str, bytes]:
        """What is to lie in a spool, by name, in the order in which a source publishes it."""
        found = {} if self.data is None else {self.name: self.data}
        if self.signature is not None:
            found[f"{self.name}.json.minisig"] = self.signature
        return found | {f"{self.name}.json": self.manifest}


def encode_envelope(envelope: Envelope) -> tuple[bytes, dict[str, str]]:
    """Payload and headers, but for EXPECTED_LAST, which the publisher knows. Data that is too large stays out."""
    data = envelope.data if envelope.data is not None and len(envelope.data) <= PAYLOAD_BYTES_MAX else None
    headers = {
        MESSAGE_ID: f"{envelope.name}@{hashlib.sha256(envelope.manifest).hexdigest()}",
        FILE: envelope.name,
        MANIFEST: base64.b64encode(envelope.manifest).decode(),
        PAYLOAD: "files" if data is None else "message",
    }
    if envelope.signature is not None:
        headers[SIGNATURE] = base64.b64encode(envelope.signature).decode()
    return data or b"", headers


def decode_envelope(payload: bytes, headers: Mapping[str, str] | None) -> Envelope:
    """Raises FeedError for whatever no relay of ours has sent; nothing of the data is looked at."""
    headers = headers or {}
    name = headers.get(FILE, "")
    found = parse_file_name(name)
    if found is None or found.type != "delta":
        raise FeedError(f"message: {FILE} {name[:80]!r} is no delta's name: see who else publishes to this subject")
    where = headers.get(PAYLOAD)
    if where not in {"message", "files"} or (where == "files" and payload):
        raise FeedError(f"message {name}: {PAYLOAD} is {str(where)[:40]!r}: expected `message` or `files`")
    manifest = _decoded(headers, MANIFEST, MANIFEST_BYTES_MAX, name)
    if manifest is None:
        raise FeedError(f"message {name}: no {MANIFEST}: it cannot be checked")
    signature = _decoded(headers, SIGNATURE, SIGNATURE_BYTES_MAX, name)
    return Envelope(found.feed, found.sequence, name, manifest, signature, payload if where == "message" else None)


def _decoded(headers: Mapping[str, str], header: str, bytes_max: int, name: str) -> bytes | None:
    text = headers.get(header)
    if text is None:
        return None
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise FeedError(f"message {name}: {header} is no base64") from None
    if len(value) > bytes_max:
        raise FeedError(f"message {name}: {header} is longer than {bytes_max} bytes")
    return value
