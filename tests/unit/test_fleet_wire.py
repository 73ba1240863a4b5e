"""The message that carries a delta: what comes out is what went in; anything else is refused."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.fleet.wire import (
    FILE,
    MANIFEST,
    MESSAGE_ID,
    PAYLOAD,
    PAYLOAD_BYTES_MAX,
    SIGNATURE,
    Envelope,
    decode_envelope,
    encode_envelope,
)
from lookupd.errors import FeedError
from lookupd.limits import MANIFEST_BYTES_MAX

DELTA = Envelope("main", 7, "delta-main-7.ndjson.zst", b"{}", b"untrusted comment", b"data")


@given(
    st.binary(max_size=MANIFEST_BYTES_MAX), st.none() | st.binary(max_size=4096), st.none() | st.binary(max_size=9999)
)
def test_envelope_survives_the_message(manifest: bytes, signature: bytes | None, data: bytes | None) -> None:
    envelope = Envelope("main", 7, "delta-main-7.ndjson", manifest, signature, data)
    assert decode_envelope(*encode_envelope(envelope)) == envelope


def test_data_over_the_bound_stays_at_the_files() -> None:
    largest = b"x" * PAYLOAD_BYTES_MAX
    for data, kept in ((largest, largest), (largest + b"x", None)):
        payload, headers = encode_envelope(Envelope("main", 7, "delta-main-7.ndjson", b"{}", None, data))
        assert decode_envelope(payload, headers).data == kept


def test_message_id_differs_where_the_manifest_does() -> None:
    other = Envelope("main", 7, DELTA.name, b"{ }", None, b"data")
    assert encode_envelope(DELTA)[1][MESSAGE_ID] != encode_envelope(other)[1][MESSAGE_ID]


def test_files_are_named_in_the_order_a_source_publishes_them() -> None:
    assert list(DELTA.files()) == [DELTA.name, f"{DELTA.name}.json.minisig", f"{DELTA.name}.json"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({FILE: None}, "no delta's name"),
        ({FILE: "../delta-main-7.ndjson"}, "no delta's name"),
        ({FILE: "snapshot-main-7.csv"}, "no delta's name"),
        ({PAYLOAD: None}, "expected `message` or `files`"),
        ({PAYLOAD: "elsewhere"}, "expected `message` or `files`"),
        ({PAYLOAD: "files"}, "expected `message` or `files`"),
        ({MANIFEST: None}, "cannot be checked"),
        ({MANIFEST: "*"}, "no base64"),
        ({MANIFEST: base64.b64encode(b"x" * (MANIFEST_BYTES_MAX + 1)).decode()}, "longer than"),
        ({SIGNATURE: "é"}, "no base64"),
    ],
)
def test_message_of_no_relay_is_refused(changed: dict[str, str | None], reason: str) -> None:
    payload, headers = encode_envelope(DELTA)
    headers = {name: value for name, value in (headers | changed).items() if value is not None}
    with pytest.raises(FeedError, match=reason):
        decode_envelope(payload, headers)


@given(st.binary(max_size=100), st.dictionaries(st.sampled_from([FILE, MANIFEST, PAYLOAD, SIGNATURE]), st.text()))
def test_any_message_is_an_envelope_or_a_feed_error(payload: bytes, headers: dict[str, str]) -> None:
    found = None
    with contextlib.suppress(FeedError):
        found = decode_envelope(payload, headers)
    assert found is None or found.name == headers[FILE]
