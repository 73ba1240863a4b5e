"""Both engines answer alike: ten million messages, and fewer that shrink to the smallest one that differs."""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lookupd.fastpath import native_missing
from lookupd.fastpath.batch import Peer

if missing := native_missing():
    pytest.skip(missing, allow_module_level=True)

from lookupd.model import TN, Measure, Outcome
from lookupd.profiles import SipSettings
from lookupd.protocols import dns, enum_dns, npq, pdb, sip
from tests.parity import differential, enum_messages, sip_messages
from tests.parity.differential import Opened, Scenario, pick
from tests.parity.stores import BLOCKS, CONFIRMED_AT, PLANS, RANGES

MESSAGES = int(os.environ.get("LOOKUPD_PARITY_MESSAGES", "10000000"))
SEEDS = (1, int(time.strftime("%Y%m%d", time.gmtime())))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp("parity")
    differential.prepare(folder, 1)
    both = Opened(folder, 1)
    yield both
    both.close()


@pytest.mark.timeout(1200)
def test_ten_million_messages_are_answered_alike(capsys: pytest.CaptureFixture[str]) -> None:
    for seed, share in zip(SEEDS, (0.6, 0.4), strict=True):
        count = round(MESSAGES * share)
        asked, queries, reports = differential.run(seed, count, len(os.sched_getaffinity(0)))
        assert not reports, f"seed {seed}\n" + "\n\n".join(reports)
        assert queries > asked >= count
        with capsys.disabled():
            print(f"seed {seed}: {asked} messages, {queries} queries, no difference")


def test_messages_meet_every_outcome_and_every_reason(opened: Opened) -> None:
    """The messages are worth asking: what they never reach is not compared."""
    met: dict[str, set[str]] = {dialect: set() for dialect in differential.SERVED}
    restricted: dict[str, set[bytes]] = {dialect: set() for dialect in ("sip", "enum")}
    for chunk in range(120):
        rng = np.random.default_rng([1, chunk])
        scenario = pick(rng)
        both = opened.both(scenario)
        messages = opened.pools[scenario.dialect].take(rng, 5000)
        for now, now_ns, peer, batch in differential.batches(rng, scenario, messages):
            both.begin(now)
            replies = both.ask(batch, now_ns, peer)[1]
            if scenario.dialect in restricted:
                restricted[scenario.dialect] |= {told for reply, _ in replies for told in _restrictions(reply or b"")}
        counts = both.counts()[1]
        for name in ("answered", "refused", "dropped", "unreadable", "odd", "other"):
            counted: Any = counts[name]
            values: list[int] = counted if isinstance(counted, list) else [counted]
            met[scenario.dialect] |= {f"{name} {at}" for at, value in enumerate(values) if value}
    assert restricted["sip"] == {measure.label.encode() for measure in Measure}
    assert len(restricted["enum"]) >= 2  # fewer of its clients are told
    answered = {
        f"answered {int(outcome)}" for outcome in Outcome if outcome not in {Outcome.REFUSED, Outcome.UNAVAILABLE}
    }
    assert met["npq"] == answered | {"answered 4", "refused 1", "dropped 0", "dropped 1", "dropped 5", "unreadable 0"}
    assert met["enum"] == met["npq"] - {"dropped 5"} | {"other 0"}
    assert met["sip"] == met["npq"] | {"other 0"}
    assert met["pdb"] == answered | {"refused 1", "odd 0", *(f"dropped {at}" for at in (0, 1, 2, 4)), "unreadable 0"}


def _restrictions(reply: bytes) -> list[bytes]:
    """The measures that a reply of sip or enum tells."""
    return re.findall(rb"X-Lookupd-Restriction: ([a-z_]+); until=[0-9]+\r\n", reply) + re.findall(
        rb"\xfd\xea\x00\x08([\x01-\x04])\0\0\0", reply, re.DOTALL
    )


@pytest.mark.parametrize("fault", ["a byte", "a silence", "a count", "a record"])
def test_difference_is_found_and_can_be_seen_again(opened: Opened, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    if fault == "a byte":
        monkeypatch.setattr(npq, "FLAG_RESTRICTED", 2)
        monkeypatch.setattr(enum_dns, "REFRESH", 3601)
        monkeypatch.setattr(sip, "ALLOW", b"Allow: INVITE")
    elif fault == "a silence":
        monkeypatch.setattr(pdb, "PDB_MESSAGE_BYTES_MAX", 254)
        monkeypatch.setattr(npq, "NPQ_NUMBERS_MAX", 999)
    elif fault == "a count":
        monkeypatch.setattr("lookupd.fastpath.batch.NO_ROOM", 2)
    else:
        monkeypatch.setattr("lookupd.fastpath.batch.DROPPED_LABEL", "refused")
    found = [(chunk, report) for chunk in range(40) if (report := opened.run_chunk(chunk, 5000)[1]) is not None]
    assert found
    chunk, report = found[0]
    assert f"--seed 1 --chunk {chunk}" in report
    assert {"a count": "dropped: python", "a record": "query log"}.get(fault, "asked ") in report
    assert opened.run_chunk(chunk, 5000)[1] == report  # the same again


# -- fewer, and shrinking --------------------------------------------------------------------------------

NUMBERS = [
    *(block * 1000 + at for block in BLOCKS for at in (0, 1, 2, 500, 999)),
    *(int((prefix + "345678901234567")[:12]) for prefix in RANGES),
]
texts = st.one_of(
    st.sampled_from(NUMBERS).map(str),
    st.sampled_from(NUMBERS).map(lambda tn: f"+{tn}"),
    st.sampled_from(NUMBERS).map(lambda tn: f"0{str(tn)[3:]}"),
    st.text(max_size=42),
    st.from_regex(r"\A\+?[0-9]{0,17}\Z"),
)
numbers = st.one_of(texts, st.sampled_from(NUMBERS), st.integers(-(2**63), 2**64 - 1))
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.floats(),
        st.integers(-(2**63), 2**64 - 1),
        st.text(max_size=5),
        st.binary(max_size=5),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.integers(0, 3), inner, max_size=3)),
    max_leaves=6,
)
npq_messages = st.one_of(
    st.tuples(st.just(1), st.just(0), st.integers(0, 2**32 - 1), numbers, st.integers(0, 2)),
    st.tuples(st.just(1), st.just(0), st.integers(0, 2**32 - 1), st.lists(numbers, max_size=40), st.integers(0, 2)),
    st.lists(st.one_of(values, st.integers(0, 2), numbers), max_size=7),
).map(msgspec.msgpack.encode)
labels = st.one_of(
    texts.map(lambda text: text.encode()[::-1]).map(lambda digits: [digits[at : at + 1] for at in range(len(digits))]),
    st.lists(st.sampled_from([b"1", b"8", b"ns", b"NS1", b"below", b"the", b"np", b"\0", b"12"]), max_size=4),
)
names = st.tuples(labels, st.sampled_from(enum_messages.APEXES)).map(
    lambda parts: b"".join(bytes([len(label)]) + label for label in parts[0]) + enum_messages.name_of(parts[1])
)
records = st.one_of(
    st.tuples(st.sampled_from(enum_messages.SIZES), st.sampled_from([0, 0, 0x8000, 0x1_0000, 0xFFFF_FFFF])).map(
        lambda said: b"\0" + dns.RECORD.pack(dns.OPT, said[0], said[1], 0)
    ),
    st.binary(max_size=8).map(lambda data: dns.encode_record(b"\x01k\0", 250, 0, data)),
)
dns_messages = st.builds(
    lambda flags, counts, name, asked, more: (
        dns.HEADER.pack(7, flags, *counts, len(more)) + name + struct.pack(">HH", *asked) + b"".join(more)
    ),
    st.sampled_from([0, dns.RD, 0x0010, dns.QR, 0x2000]),
    st.sampled_from([(1, 0, 0)] * 8 + [(0, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)]),
    names,
    st.tuples(st.sampled_from(enum_messages.KINDS), st.sampled_from(enum_messages.CLASSES)),
    st.lists(records, max_size=3),
)
pdb_messages = st.one_of(
    st.tuples(texts, st.integers(0, 0xFFFF)).map(
        lambda asked: (
            pdb.HEADER.pack(1, 0, 0, min(len(asked[0].encode()) + 7, 255), asked[1]) + asked[0].encode() + b"\0"
        )
    ),
    texts.map(str.encode),
    st.integers(240, 260).map(lambda digits: b"9" * digits),
)
sip_requests = st.builds(
    sip_messages.request,
    st.randoms(use_true_random=False),
    st.just([TN(number) for number in NUMBERS]),
    st.sampled_from([0.0, 0.05, 0.3]),
)


@st.composite
def changed(draw: st.DrawFn, messages: st.SearchStrategy[bytes]) -> bytes:
    """As made, or with some bytes taken out, others put in."""
    message = draw(messages)
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, len(message)))
        message = message[:start] + draw(st.binary(max_size=3)) + message[start + draw(st.integers(0, 3)) :]
    return message


scenarios = st.builds(
    Scenario,
    dialect=st.sampled_from(differential.SERVED),
    store=st.sampled_from(["rich", "wrapped", "bare", None]),
    country=st.sampled_from(list(PLANS)),
    stale_after=st.sampled_from([0.0, 0.5, 42.0]),
    now=st.sampled_from([CONFIRMED_AT + at for at in (0, 42, 43, -1, 2**33)]),
    queries_per_second=st.sampled_from([0, 1, 3]),
    clock_ns=st.sampled_from([0, differential.NS, 1 << 63]),
    legacy=st.booleans(),
    unmapped_carrier_id=st.sampled_from([1000, 1]),
    answer_bytes_max=st.sampled_from([1, 20, 100, 1232, 262_144]),
    tells_errors=st.booleans(),
    queries_per_prefix=st.sampled_from([0, 0, 1]),
    enum=st.sampled_from(list(enum_messages.PROFILES)),
    sip=st.builds(
        SipSettings,
        status=st.sampled_from([301, 302]),
        form=st.sampled_from(["rn", "replace", "prefix"]),
        npdi=st.sampled_from(["npdi", "npdi=yes"]),
        domain=st.sampled_from(["", "gw.example:5060"]),
        unported=st.sampled_from(["npdi", "rn", "unknown"]),
        rn_context=st.sampled_from(["", "+886"]),
        cic_context=st.sampled_from(["", "np.example"]),
        unmapped_routing_number=st.sampled_from(["", "D9990"]),
        tell=st.booleans(),
    ),
    tag_seed=st.sampled_from([0, 1, (1 << 64) - 1]),
    sample=st.sampled_from([0, 1, 2]),
    only=st.sampled_from([(), ("dropped",), ("ported", "not_ported")]),
)


@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scenario=scenarios,
    batch=st.lists(
        st.one_of(
            changed(npq_messages),
            changed(pdb_messages),
            changed(dns_messages),
            changed(sip_requests),
            st.binary(max_size=40),
        ),
        min_size=1,
        max_size=4,
    ),
    peer=st.sampled_from(differential.PEERS["sip"]),
)
def test_any_message_is_answered_alike(opened: Opened, scenario: Scenario, batch: list[bytes], peer: Peer) -> None:
    both = opened.both(scenario)
    both.begin(scenario.now)
    ours, theirs = both.ask(batch, scenario.clock_ns, peer)
    assert ours == theirs
    noted, theirs_noted = both.noted()
    assert noted == theirs_noted
    ours_counted, theirs_counted = both.counts()
    assert ours_counted == theirs_counted
