"""Codecs and responders against any bytes: a value or a ProtocolError, a reply or silence, and every query counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookupd.access import Client
from lookupd.engine import Engine
from lookupd.errors import ProtocolError
from lookupd.fastpath.batch import NpqResponder, PdbResponder, Responder
from lookupd.limits import DATAGRAM_BYTES_MAX, NPQ_DATAGRAM_ANSWER_BYTES_MAX
from lookupd.model import (
    DROP_REASONS,
    TN,
    Answer,
    InForce,
    Measure,
    NetworkCode,
    Outcome,
    Route,
    RoutingNumber,
    UnixSeconds,
)
from lookupd.observe.counters import QueryCounters
from lookupd.protocols import npq, pdb
from lookupd.settings import ClientSettings
from lookupd.units import restriction_fields

often = settings(max_examples=400, deadline=None, print_blob=True)
seldom = settings(max_examples=60, deadline=None, print_blob=True)

Codec = Callable[[bytes], Any]

# -- bytes -----------------------------------------------------------------------------------------------


def evenly(*strategies: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Each as often as the others; one_of would count the alternatives inside them."""
    return st.sampled_from(strategies).flatmap(lambda strategy: strategy)


NUMBERS = ["", "110", "886912345678", "+886912345679", "0923456789", "886223450000", "886931000000", "8" * 40]

ids_16 = st.integers(0, 0xFFFF)
ids_32 = st.integers(0, 0xFFFF_FFFF)
digits = st.text("0123456789", max_size=40)
dialled = st.one_of(st.sampled_from(NUMBERS), digits, st.text(max_size=40))
asked = st.one_of(dialled, st.integers(0, 2**64 - 1), st.just(886912345678))

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=8), st.binary(max_size=8)
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=3), inner)),
    max_leaves=20,
)

npq_queries = st.builds(
    npq.encode_query, ids_32, st.one_of(dialled, st.lists(dialled, max_size=60)), st.integers(-1, 2)
)
npq_likes = st.builds(
    lambda version, kind, rest: msgspec.msgpack.encode([version, kind, *rest]),
    st.sampled_from([1, 1, 1, 2, 0, -1]),
    st.sampled_from([0, 0, 0, 1, 2]),
    st.one_of(st.lists(trees, max_size=6), st.tuples(ids_32, st.one_of(asked, st.lists(asked), trees), trees)),
)
pdb_payloads = st.one_of(
    st.sampled_from([number.encode() + b"\0" for number in NUMBERS]),
    digits.map(lambda text: text.encode() + b"\0"),
    st.binary(),
)
pdb_messages = st.builds(
    lambda version, kind, code, length, query_id, payload: (
        bytes(
            [version, kind, code, (6 + len(payload)) & 0xFF if length is None else length, *query_id.to_bytes(2, "big")]
        )
        + payload
    ),
    st.sampled_from([1, 1, 1, 1, 0, 2]),
    st.sampled_from([0, 0, 0, 1, 2]),
    st.integers(0, 4),
    st.one_of(st.none(), st.integers(0, 255)),
    ids_16,
    pdb_payloads,
)
pdb_queries = st.builds(pdb.encode_query, st.sampled_from(NUMBERS), ids_16)
npq_messages = evenly(npq_queries, npq_likes)
pdb_datagrams = evenly(pdb_queries, pdb_messages, pdb_payloads)
messages = evenly(npq_messages, pdb_datagrams)


@st.composite
def mutations(draw: st.DrawFn, of: st.SearchStrategy[bytes] = messages) -> bytes:
    """A message, then some bytes of it changed, put in, taken out or cut off."""
    message = bytearray(draw(of))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(message)))
        match draw(st.sampled_from(["change", "put in", "take out", "cut", "repeat"])):
            case "change":
                message[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "put in":
                message[at:at] = draw(st.binary(max_size=6))
            case "take out":
                del message[at : at + draw(st.integers(1, 6))]
            case "cut":
                del message[at:]
            case "repeat":
                message[at:at] = message[:at]
    return bytes(message)


long_ones = st.builds(
    lambda start, piece, size: (start + piece * (size // len(piece) + 1))[:size],
    st.one_of(st.just(b""), messages),
    st.one_of(
        st.sampled_from([b"\x91", b"\x81", b"\xdd\0\0\xff\xff", b"\0", b"8", b"\xff"]),
        st.binary(min_size=1, max_size=9),
    ),
    st.one_of(st.integers(0, DATAGRAM_BYTES_MAX), st.just(DATAGRAM_BYTES_MAX)),
)
datagrams = evenly(st.binary(max_size=300), messages, mutations(), long_ones)


# -- codecs ----------------------------------------------------------------------------------------------


def view_answer(message: bytes) -> Any:
    answer = npq.decode_answer(message)
    return npq.view_results(["110"] * 3, answer)


@pytest.mark.parametrize(
    "decode",
    [
        pytest.param(lambda message: pdb.decode_query(message, legacy=True), id="pdb query"),
        pytest.param(lambda message: pdb.decode_query(message, legacy=False), id="pdb query, older form not served"),
        pytest.param(pdb.decode_answer, id="pdb answer"),
        pytest.param(npq.decode_query, id="npq query"),
        pytest.param(npq.decode_answer, id="npq answer"),
        pytest.param(view_answer, id="npq results"),
    ],
)
@often
@given(message=datagrams)
def test_any_bytes_are_a_value_or_a_protocol_error(decode: Codec, message: bytes) -> None:
    try:
        decode(message)
    except ProtocolError as error:
        assert error.reason in DROP_REASONS  # noqa: PT017 - nothing raised is right as well
        if isinstance(error, npq.QueryRefused):
            assert npq.decode_answer(npq.encode_error(error)).id == error.query_id  # noqa: PT017


def npq_verdict(decode: Codec, message: bytes) -> Any:
    try:
        query = decode(message)
    except npq.QueryRefused as error:
        return error.query_id, error.code
    except ProtocolError as error:
        return error.reason
    return query


@often
@given(message=evenly(npq_queries, npq_messages, mutations(npq_messages), long_ones))
def test_npq_query_read_as_one_nested_too_deep_has_the_same_verdict(message: bytes) -> None:
    by_counting = npq_verdict(lambda message: npq.decode_query(npq._shallow(message)), message)
    assert by_counting == npq_verdict(npq.decode_query, message)


@often
@given(number=st.text("0123456789", max_size=246), query_id=ids_16)
def test_pdb_query_survives_the_round_trip(number: str, query_id: int) -> None:
    query = pdb.decode_query(pdb.encode_query(number, query_id))
    assert query == pdb.PdbQuery(query_id, number if len(number) <= 32 else "", False)


@often
@given(number=st.text("0123456789", min_size=1, max_size=32), query_id=ids_16, carrier_id=st.integers(1, 32_767))
def test_pdb_answer_survives_the_round_trip(number: str, query_id: int, carrier_id: int) -> None:
    query = pdb.PdbQuery(query_id, number, False)
    assert pdb.decode_answer(pdb.encode_answer(query, carrier_id)) == pdb.PdbAnswer(
        query_id, pdb.OK, number, carrier_id
    )
    assert pdb.decode_answer(pdb.encode_answer(query, None)) == pdb.PdbAnswer(query_id, pdb.NOT_FOUND, "", None)


@often
@given(
    query_id=ids_32,
    numbers=st.one_of(dialled, st.lists(dialled, min_size=1, max_size=100)),
    detail=st.integers(-(2**63), 2**64 - 1),
)
def test_npq_query_survives_the_round_trip(query_id: int, numbers: str | list[str], detail: int) -> None:
    query = npq.decode_query(npq.encode_query(query_id, numbers, detail))
    assert query == npq.NpqQuery(npq.VERSION, npq.QUERY, query_id, numbers, detail)


routes = st.builds(
    Route,
    st.from_regex(r"[0-9A-Z]{1,8}", fullmatch=True).map(NetworkCode),
    st.none() | st.from_regex(r"[0-9A-F]{1,15}", fullmatch=True).map(RoutingNumber),
    st.text(min_size=1, max_size=64),
    st.none() | st.integers(1, 999),
    st.booleans(),
)


restrictions = st.none() | st.builds(InForce, st.sampled_from(Measure), st.integers(0, 2**32 - 1).map(UnixSeconds))


@st.composite
def answer_lists(draw: st.DrawFn) -> list[Answer]:
    """Answers of one state, as the engine gives them."""
    serial, age = draw(ids_32), draw(st.none() | st.integers(0, 2**40))
    answers = []
    for _ in range(draw(st.integers(1, 40))):
        outcome = draw(st.sampled_from(Outcome))
        route = draw(routes) if outcome in {Outcome.PORTED, Outcome.NOT_PORTED} else None
        tn = draw(st.none() | st.integers(10_000, 10**15 - 1).map(TN))
        answers.append(Answer("110", tn, outcome, route, draw(restrictions), serial, age))
    return answers


@seldom
@given(answers=answer_lists(), query_id=ids_32, detail=st.sampled_from([0, 1]), bytes_max=st.integers(500, 5000))
def test_npq_answer_holds_the_first_results_whole_and_keeps_its_bound(
    answers: list[Answer], query_id: int, detail: int, bytes_max: int
) -> None:
    numbers: list[Any] = ["110"] * len(answers)
    query = npq.NpqQuery(npq.VERSION, npq.QUERY, query_id, numbers, detail)
    message, held = npq.encode_answer(query, answers, bytes_max)
    assert len(message) <= bytes_max
    assert 1 <= held <= len(answers)
    if held < len(answers):
        more, _ = npq.encode_answer(query, answers[: held + 1], 1 << 20)
        assert len(more) > bytes_max
    answer = npq.decode_answer(message)
    assert (answer.id, answer.serial, answer.age) == (query_id, answers[0].serial, answers[0].age_seconds)
    views = npq.view_results(numbers, answer)
    assert len(views) == held
    for view, sent in zip(views, answers, strict=False):
        assert view.outcome == sent.outcome.label
        assert view.network_code == (sent.route.network_code if sent.route else None)
        assert view.routing_number == (sent.route.routing_number if sent.route else None)
        assert view.operator == (sent.route.operator if sent.route and detail else None)
        assert view.restriction == restriction_fields(sent.restriction)
        assert view.number == (f"+{sent.tn}" if sent.tn and detail else "110")


# -- responders on a real store --------------------------------------------------------------------------


def replies_of(responder: Responder, messages: list[tuple[bytes, bool]], *, lost: bool) -> list[bytes | None]:
    """The replies to one batch of (message, client is over its rate), all sent or all lost; the books stay right."""
    counters = responder.counters
    kept = [*counters.answered, *counters.refused]  # without those whose reply is yet to be sent
    replies = []
    for message, over_rate in messages:
        received, before = counters.received, [*counters.answered, *counters.refused]
        client = Client(ClientSettings("any", (), queries_per_second=int(over_rate)))
        client.take(1, 1_000_000_000)
        replies.append(responder.respond(message, client, 1_000_000_000, ("127.0.0.1", 5000)))
        assert counters.balance() == 0
        assert counters.received > received
        if replies[-1] is None:
            after = [*counters.answered, *counters.refused]
            kept = [at + now - was for at, now, was in zip(kept, after, before, strict=True)]
    if lost:
        responder.take_back(0, sum(reply is not None for reply in replies))
        assert [*counters.answered, *counters.refused] == kept
        assert counters.balance() == 0
    responder.settle()
    return replies


states = {
    "state": st.sampled_from(["full"] * 7 + ["empty"]),
    "over_rate": st.sampled_from([False] * 7 + [True]),
    "lost": st.booleans(),
}


batches = st.lists(
    st.tuples(
        st.lists(st.tuples(evenly(npq_queries, npq_queries, pdb_queries, datagrams), st.booleans()), max_size=6),
        st.booleans(),
    ),
    max_size=4,
)


@often
@given(sequence=batches, tells_errors=st.booleans())
def test_books_are_kept_over_any_batches_sent_or_lost(
    engines: dict[str, Engine], sequence: list[tuple[list[tuple[bytes, bool]], bool]], tells_errors: bool
) -> None:
    bound = NPQ_DATAGRAM_ANSWER_BYTES_MAX
    responders: list[Responder] = [
        PdbResponder(engines["full"], QueryCounters("pdb", "udp"), legacy=True, unmapped_carrier_id=1000),
        NpqResponder(engines["full"], QueryCounters("npq", "udp"), answer_bytes_max=bound, tells_errors=tells_errors),
    ]
    for batch, lost in sequence:
        for responder in responders:
            replies_of(responder, batch, lost=lost)


@pytest.mark.parametrize("legacy", [True, False])
@often
@given(message=evenly(pdb_queries, pdb_queries, pdb_datagrams, mutations(pdb_datagrams), datagrams), **states)
def test_pdb_reply_echoes_the_request_and_is_hardly_longer(
    engines: dict[str, Engine], legacy: bool, message: bytes, state: str, over_rate: bool, lost: bool
) -> None:
    responder = PdbResponder(engines[state], QueryCounters("pdb", "udp"), legacy=legacy, unmapped_carrier_id=1000)
    (reply,) = replies_of(responder, [(message, over_rate)], lost=lost)
    if state == "empty" or over_rate:
        assert reply is None
    if reply is None:
        return
    if message[0] == pdb.VERSION:
        assert len(reply) <= len(message) + 2
        assert reply[:2] == bytes([pdb.VERSION, pdb.REPLY])
        assert reply[2] in {pdb.OK, pdb.NOT_NUMBER, pdb.NOT_FOUND}
        assert reply[3] == len(reply)
        assert reply[4:6] == message[4:6]
        number, zero, _ = message[6:].partition(b"\0")
        assert zero
        assert (len(reply) == 6) == (reply[2] != pdb.OK)
        if reply[2] == pdb.OK:
            assert reply[6:-2] == number + b"\0"
            assert 0 < int.from_bytes(reply[-2:], "big") <= 1000
    else:
        assert legacy
        number = message[: len(message) - len(message.lstrip(b"0123456789"))]
        assert number
        assert reply[:-2] == number + b"\0"
        # A request need not end in a zero byte, its reply does.
        assert len(reply) == len(number) + 3
        assert int.from_bytes(reply[-2:], "big") <= 1000


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@often
@given(message=evenly(npq_queries, npq_messages, mutations(npq_messages), datagrams), **states)
def test_npq_reply_is_a_message_that_the_client_reads(
    engines: dict[str, Engine], transport: str, message: bytes, state: str, over_rate: bool, lost: bool
) -> None:
    tells_errors = transport == "tcp"
    counters = QueryCounters("npq", transport)
    bytes_max = NPQ_DATAGRAM_ANSWER_BYTES_MAX
    responder = NpqResponder(engines[state], counters, answer_bytes_max=bytes_max, tells_errors=tells_errors)
    (reply,) = replies_of(responder, [(message, over_rate)], lost=lost)
    if reply is None:
        assert not tells_errors
        return
    assert len(reply) <= bytes_max
    answer = npq.decode_answer(reply)
    if answer.kind == npq.ERROR:
        assert answer.serial in npq.ERROR_TEXTS
        assert counters.received == sum(counters.dropped) == 1
        return
    query = npq.decode_query(message)
    assert (answer.id, counters.received) == (query.id, len(npq.numbers_of(query)))
    views = npq.view_results(npq.numbers_of(query), answer)
    assert 1 <= len(views) <= counters.received
    outcomes = {view.outcome for view in views}
    if over_rate:
        assert outcomes == {"refused"}
    elif state == "empty":
        assert outcomes == {"unavailable"}
    else:
        assert not outcomes & {"refused", "unavailable"}


@seldom
@given(numbers=st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=400), detail=st.sampled_from([0, 1]))
def test_npq_batch_asked_in_parts_has_the_results_of_its_numbers(
    engines: dict[str, Engine], numbers: list[str], detail: int
) -> None:
    bound = NPQ_DATAGRAM_ANSWER_BYTES_MAX
    responder = NpqResponder(engines["full"], QueryCounters("npq", "udp"), answer_bytes_max=bound, tells_errors=False)
    client = Client(ClientSettings("any", ()))

    def ask(question: str | list[str]) -> npq.NpqAnswer:
        reply = responder.respond(npq.encode_query(1, question, detail), client, 1_000_000_000, ("127.0.0.1", 5000))
        assert reply is not None
        return npq.decode_answer(reply)

    results: list[Any] = []
    while len(results) < len(numbers):
        part = ask(numbers[len(results) :]).results
        assert part
        results += part
    alone = {number: ask(number).results for number in set(numbers)}
    assert results == [alone[number] for number in numbers]
    assert responder.counters.balance() == 0
