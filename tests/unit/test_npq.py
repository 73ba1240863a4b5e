"""The npq codec, table by table: both sides of each bound, cut at every byte, and hostile bytes."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import time
from typing import Any

import msgspec
import pytest

from lookupd.client import LookupClient
from lookupd.errors import ProtocolError
from lookupd.limits import NPQ_DATAGRAM_ANSWER_BYTES_MAX, NPQ_FRAME_BYTES_MAX
from lookupd.model import (
    TN,
    Answer,
    AnswerView,
    InForce,
    Measure,
    NetworkCode,
    Outcome,
    Route,
    RoutingNumber,
    UnixSeconds,
)
from lookupd.protocols import npq
from lookupd.units import restriction_fields
from tests.conftest import Workbench, serve

pack = msgspec.msgpack.encode
unpack = msgspec.msgpack.decode

ALPHA = Route(NetworkCode("1401"), RoutingNumber("D0401"), "Alpha Telecom", 101, True)
GAMMA = Route(NetworkCode("1403"), None, "Gamma", None, True)
WIDEST = Route(NetworkCode("9" * 8), RoutingNumber("F" * 15), "\U0001f4de" * 64, 999, True)
"""Every field as long as the tables let it be, the name in characters of four bytes."""

HELD = InForce(Measure.ALERT, UnixSeconds(2**32 - 1))
HELD_FLAGS = 1 + 4 * 2 + (2**32 - 1) * 16


def answer_of(
    asked: str,
    outcome: Outcome = Outcome.PORTED,
    route: Route | None = ALPHA,
    *,
    tn: int | None = None,
    restriction: InForce | None = None,
    serial: int = 3,
    age: int | None = 42,
) -> Answer:
    return Answer(asked, None if tn is None else TN(tn), outcome, route, restriction, serial, age)


def refusal(message: bytes) -> tuple[str, int | None, int | None]:
    """How decode_query refuses: reason, and the id and code of the error message if one is sent."""
    with pytest.raises(ProtocolError) as caught:
        npq.decode_query(message)
    error = caught.value
    if isinstance(error, npq.QueryRefused):
        return error.reason, error.query_id, error.code
    return error.reason, None, None


MALFORMED = ("malformed", None, None)
NOT_A_QUERY = ("not_a_query", None, None)


# -- queries ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query_id", [0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1])
@pytest.mark.parametrize(
    "numbers", ["", "886912345678", "+886912345678", "1" * 40, "é" * 40, [""], ["110", "0912345678"], ["1"] * 1000]
)
@pytest.mark.parametrize("detail", [0, 1])
def test_query_survives_the_round_trip(query_id: int, numbers: str | list[str], detail: int) -> None:
    query = npq.decode_query(npq.encode_query(query_id, numbers, detail))
    assert query == npq.NpqQuery(1, 0, query_id, numbers, detail)
    assert npq.numbers_of(query) == (numbers if isinstance(numbers, list) else [numbers])


@pytest.mark.parametrize(
    ("elements", "numbers", "detail"),
    [
        ([1, 0, 5, "110"], ["110"], 0),
        ([1, 0, 5, 886912345678], ["886912345678"], 0),
        ([1, 0, 5, 0], ["0"], 0),
        ([1, 0, 5, 2**64 - 1], ["18446744073709551615"], 0),
        ([1, 0, 5, ["110", 119, ""]], ["110", "119", ""], 0),
        ([1, 0, 5, "110", 1], ["110"], 1),
        ([1, 0, 5, "110", 2], ["110"], 2),
        ([1, 0, 5, "110", -1], ["110"], -1),
        ([1, 0, 5, "110", 1, None], ["110"], 1),
        ([1, 0, 5, "110", 1, {"later": [1.5, b"x", msgspec.msgpack.Ext(5, b"y")]}, True], ["110"], 1),
    ],
)
def test_query_is_read(elements: list[Any], numbers: list[str], detail: int) -> None:
    query = npq.decode_query(pack(elements))
    assert (query.id, npq.numbers_of(query), query.detail) == (5, numbers, detail)


@pytest.mark.parametrize(
    "width", [b"\x05", b"\xcc\x05", b"\xcd\0\x05", b"\xce\0\0\0\x05", b"\xcf" + b"\0" * 7 + b"\x05"]
)
@pytest.mark.parametrize("head", [b"\x94", b"\xdc\0\x04", b"\xdd\0\0\0\x04"])
@pytest.mark.parametrize("text", [b"\xa3", b"\xd9\x03", b"\xda\0\x03", b"\xdb\0\0\0\x03"])
def test_every_width_of_an_integer_an_array_and_a_text_is_read(width: bytes, head: bytes, text: bytes) -> None:
    query = npq.decode_query(head + b"\xd0\x01" + b"\xd3" + b"\0" * 8 + width + text + b"110")
    assert query == npq.NpqQuery(1, 0, 5, "110", 0)


@pytest.mark.parametrize(
    ("elements", "refused"),
    [
        # both sides of the bounds
        ([1, 0, 2**32, "110"], ("malformed", None, 1)),
        ([1, 0, -1, "110"], ("malformed", None, 1)),
        ([1, 0, 5, "1" * 41], ("malformed", 5, 1)),
        ([1, 0, 2**32 - 1, "1" * 41], ("malformed", 2**32 - 1, 1)),
        ([1, 0, 0, ["1" * 41]], ("malformed", 0, 1)),
        ([1, 0, 5, -1], ("malformed", 5, 1)),
        ([1, 0, 5, [1, -1]], ("malformed", 5, 1)),
        ([1, 0, 5, []], ("malformed", 5, 3)),
        ([1, 0, 5, ["1"] * 1001], ("malformed", 5, 3)),
        ([1, 0, 5, "110", 2**64 - 1], None),
        # wrong types
        ([1, 0, 5.0, "110"], ("malformed", None, 1)),
        ([1, 0, True, "110"], ("malformed", None, 1)),
        ([1, 0, None, "110"], ("malformed", None, 1)),
        ([1, 0, "5", "110"], ("malformed", None, 1)),
        ([1, 0, [], "110"], ("malformed", None, 1)),
        ([1, 0, 5, None], ("malformed", 5, 1)),
        ([1, 0, 5, True], ("malformed", 5, 1)),
        ([1, 0, 5, 1.0], ("malformed", 5, 1)),
        ([1, 0, 5, b"110"], ("malformed", 5, 1)),
        ([1, 0, 5, {}], ("malformed", 5, 1)),
        ([1, 0, 5, [["110"]]], ("malformed", 5, 1)),
        ([1, 0, 5, ["110", None]], ("malformed", 5, 1)),
        ([1, 0, 5, msgspec.msgpack.Ext(5, b"110")], ("malformed", 5, 1)),
        ([1, 0, 5, "110", None], ("malformed", 5, 1)),
        ([1, 0, 5, "110", 1.0], ("malformed", 5, 1)),
        ([1, 0, 5, "110", "1"], ("malformed", 5, 1)),
        # something is missing
        ([1, 0, 5], ("malformed", 5, 1)),
        ([1, 0], MALFORMED),
        ([1], MALFORMED),
        ([], MALFORMED),
        # another version, with our layout or not
        ([0, 0, 5, "110"], ("not_a_query", 5, 2)),
        ([2, 0, 5, "110"], ("not_a_query", 5, 2)),
        ([2, 0, 5], ("not_a_query", 5, 2)),
        ([2, 0, 5, {"number": "110"}, [], 1.5], ("not_a_query", 5, 2)),
        ([2, 0, "five", "110"], ("not_a_query", None, 2)),
        ([2, 0, 2**32, "110"], ("not_a_query", None, 2)),
        ([2, 0, 5, ["1"] * 1001], ("not_a_query", 5, 2)),
        ([-1, 0, 5, "110"], ("not_a_query", 5, 2)),
        ([2**64 - 1, 0, 5, "110"], ("not_a_query", 5, 2)),
        # a version or a kind that is none
        ([1.0, 0, 5, "110"], MALFORMED),
        ([True, 0, 5, "110"], MALFORMED),
        ([None, 0, 5, "110"], MALFORMED),
        (["1", 0, 5, "110"], MALFORMED),
        ([1, False, 5, "110"], MALFORMED),
        ([1, 0.0, 5, None], MALFORMED),
        ([1, None, 5, "110"], MALFORMED),
        # another kind
        ([1, 1, 5, 3, 42, [2, None, None, 0]], NOT_A_QUERY),
        ([1, 1, 5, 3, None, [2, None, None, 0]], NOT_A_QUERY),
        ([1, 2, 5, 1, "not a query"], NOT_A_QUERY),
        ([1, 3, 5, "110"], NOT_A_QUERY),
        ([1, -1, 5, "110"], NOT_A_QUERY),
        ([2, 1, 5, "110"], NOT_A_QUERY),
        ([2, 2**64 - 1, 5, {}], NOT_A_QUERY),
        # no array
        (None, MALFORMED),
        (True, MALFORMED),
        (1, MALFORMED),
        (1.5, MALFORMED),
        ("110", MALFORMED),
        (b"110", MALFORMED),
        ({0: 1, 1: 0, 2: 5, 3: "110"}, MALFORMED),
        (msgspec.msgpack.Ext(1, b"110"), MALFORMED),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", repr(value))[:60],  # an address would differ from process to process
)
def test_what_is_no_query_is_refused_with_its_reason(elements: Any, refused: tuple[Any, ...] | None) -> None:
    if refused is None:
        npq.decode_query(pack(elements))
    else:
        assert refusal(pack(elements)) == refused


WHOLE = {
    "single": npq.encode_query(2**32 - 1, "886912345678"),
    "integer": pack([1, 0, 300, 886912345678, 1]),
    "batch": npq.encode_query(7, ["886912345678", "110", "x" * 40], 1),
    "later elements": pack([1, 0, 7, "110", 0, {"a": [1, None, 1.5]}, b"zz"]),
    "version 2": pack([2, 0, 70_000, {"numbers": ["110"]}]),
    "too many": pack([1, 0, 7, ["1"] * 1001]),
    "nil for a number": pack([1, 0, 7, None]),
}


@pytest.mark.parametrize("name", WHOLE)
def test_query_cut_at_any_byte_is_malformed(name: str) -> None:
    message = WHOLE[name]
    for length in range(len(message)):
        assert refusal(message[:length]) == MALFORMED, length


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("behind", [b"\0", b"\xc0", b"\xc1", b"\xff", WHOLE["single"]])
def test_query_with_bytes_behind_it_is_malformed(name: str, behind: bytes) -> None:
    assert refusal(WHOLE[name] + behind) == MALFORMED


DEEP = [
    ("message", b"", b"", MALFORMED),
    ("version", b"\x94", b"\x00\x05\xa0", MALFORMED),
    ("id", b"\x94\x01\x00", b"\xa0", ("malformed", None, 1)),
    ("numbers", b"\x94\x01\x00\x05", b"", ("malformed", 5, 1)),
    ("one of the numbers", b"\x94\x01\x00\x05\x91", b"", ("malformed", 5, 1)),
    ("detail", b"\x95\x01\x00\x05\xa0", b"", ("malformed", 5, 1)),
    ("later", b"\x96\x01\x00\x05\xa0\x00", b"", None),
    ("later, behind numbers", b"\x96\x01\x00\x05\x92\xa1\x31\x02\x01", b"", None),
    ("later, behind an id that is none", b"\x96\x01\x00\xc0\xa0\x00", b"", ("malformed", None, 1)),
    ("later, behind no numbers", b"\x96\x01\x00\x05\x90\x00", b"", ("malformed", 5, 3)),
    ("version 2", b"\x94\x02\x00\x05", b"", ("not_a_query", 5, 2)),
    ("id of version 2", b"\x93\x02\x00", b"", ("not_a_query", None, 2)),
    ("another kind", b"\x94\x01\x01\x05", b"", NOT_A_QUERY),
]


@pytest.mark.parametrize("depth", [10, 900, 990, 1_010, 5_000, 60_000, 262_000])
@pytest.mark.parametrize(("place", "before", "behind", "refused"), DEEP, ids=[case[0] for case in DEEP])
@pytest.mark.parametrize("level", [b"\x91", b"\x81\xa1k", b"\xdc\0\1", b"\x92\xc0"], ids=lambda level: level.hex(" "))
def test_depth_of_nesting_changes_no_verdict(
    level: bytes, place: str, before: bytes, behind: bytes, refused: tuple[Any, ...] | None, depth: int
) -> None:
    message = before + level * depth + b"\xc0" + behind
    if refused is None:
        query = npq.decode_query(message)
        assert (query.id, query.numbers) == (5, ["1", 2] if place.endswith("numbers") else "")
    else:
        assert refusal(message) == refused
    for cut in (message[:-1], message + b"\xc0", message[:-1] + b"\xc1", message[:-1] + b"\xda\0"):
        assert refusal(cut) == MALFORMED


def test_deep_nesting_is_read_alike_wherever_the_call_comes_from() -> None:
    message = b"\x96\x01\x00\x05\xa0\x00" + b"\x91" * 500 + b"\xc0"

    def read(frames: int) -> npq.NpqQuery:
        return read(frames - 1) if frames else npq.decode_query(message)

    assert {read(frames) for frames in (0, 300, 600)} == {npq.NpqQuery(1, 0, 5, "", 0)}


@pytest.mark.parametrize(
    "declared",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdc\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xde\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xda\xff\xff",
        b"\xd9\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x05",
    ],
    ids=["array32", "array16", "map32", "map16", "str32", "str16", "str8", "bin32", "ext32"],
)
@pytest.mark.parametrize(
    "start", [b"", b"\x94\x01\x00\x05", b"\x94\x02\x00\x05", b"\x96\x01\x00\x05\xa0\x00", b"\x93\x01\x00"]
)
def test_length_that_the_message_does_not_hold_is_malformed(start: bytes, declared: bytes) -> None:
    assert refusal(start + declared) == MALFORMED
    assert refusal(start + declared + b"\x01" * 100) == MALFORMED


@pytest.mark.parametrize("text", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80"])
def test_text_that_is_not_utf8_is_malformed(text: bytes) -> None:
    message = b"\x94\x01\x00\x05" + bytes([0xA0 | len(text)]) + text
    assert refusal(message) == ("malformed", 5, 1)


def test_map_whose_keys_collide_costs_no_time() -> None:
    # hash(-1) == hash(-2), so all of these keys would fall into one place of a dict: seconds to build it.
    keys = b"".join(b"\x9d" + bytes(key) + b"\0" for key in itertools.product((0xFF, 0xFE), repeat=13))
    keys += b"".join(
        b"\x9e" + bytes(key) + b"\0" for key in itertools.product((0xFF, 0xFE), repeat=13) for key in [(*key, 0)]
    )
    message = b"\x94\x02\x00\x05\xdf" + (1 << 14).to_bytes(4, "big") + keys
    assert len(message) <= NPQ_FRAME_BYTES_MAX
    started = time.process_time()
    assert refusal(message) == ("not_a_query", 5, 2)
    assert time.process_time() - started < 0.1


# -- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [npq.ERROR_MALFORMED, npq.ERROR_VERSION, npq.ERROR_TOO_MANY])
@pytest.mark.parametrize("query_id", [None, 0, 2**32 - 1])
def test_error_survives_the_round_trip(code: int, query_id: int | None) -> None:
    message = npq.encode_error(npq.QueryRefused(query_id, code))
    assert unpack(message) == [1, 2, query_id, code, npq.ERROR_TEXTS[code]]
    error = npq.decode_answer(message)
    assert (error.kind, error.id, error.serial, error.age) == (npq.ERROR, query_id, code, npq.ERROR_TEXTS[code])
    assert refusal(message) == NOT_A_QUERY


# -- answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "detail", "result"),
    [
        (answer_of("x"), 0, [0, "1401", "D0401", 0]),
        (answer_of("x", restriction=HELD), 0, [0, "1401", "D0401", HELD_FLAGS]),
        (answer_of("x", Outcome.NOT_PORTED, GAMMA), 0, [1, "1403", None, 0]),
        (answer_of("x", Outcome.NOT_ALLOCATED, None), 0, [2, None, None, 0]),
        (answer_of("x", Outcome.NOT_PORTABLE, None, restriction=HELD), 0, [3, None, None, HELD_FLAGS]),
        (answer_of("x", Outcome.UNAVAILABLE, None, age=None), 0, [4, None, None, 0]),
        (answer_of("x", Outcome.REFUSED, None), 0, [5, None, None, 0]),
        (answer_of("x", tn=886912345679), 1, [0, "1401", "D0401", 0, 886912345679, "Alpha Telecom"]),
        (answer_of("x", Outcome.NOT_ALLOCATED, None, tn=886931000000), 1, [2, None, None, 0, 886931000000, None]),
        (answer_of("x", Outcome.NOT_PORTABLE, None), 1, [3, None, None, 0, None, None]),
        (answer_of("x", tn=886912345679), 2, [0, "1401", "D0401", 0]),
        (answer_of("x", tn=886912345679), -1, [0, "1401", "D0401", 0]),
    ],
)
def test_result_holds_what_the_answer_says(answer: Answer, detail: int, result: list[Any]) -> None:
    single = npq.NpqQuery(1, 0, 9, "x", detail)
    assert npq.encode_answer(single, [answer], 1232) == (pack([1, 1, 9, 3, answer.age_seconds, result]), 1)
    batch = npq.NpqQuery(1, 0, 9, ["x"], detail)
    assert npq.encode_answer(batch, [answer], 1232) == (pack([1, 1, 9, 3, answer.age_seconds, [result]]), 1)


def mixed_answers(count: int) -> list[Answer]:
    """Results of many sizes, one after the other."""
    return [
        answer_of(
            str(at),
            Outcome.NOT_ALLOCATED if at % 3 == 0 else Outcome.PORTED,
            None if at % 3 == 0 else (ALPHA, GAMMA, WIDEST)[at % 7 % 3],
            tn=None if at % 5 == 0 else 10 ** (4 + at % 11),
            restriction=HELD if at % 2 == 0 else None,
        )
        for at in range(count)
    ]


@pytest.mark.parametrize("detail", [0, 1])
def test_batch_holds_as_many_results_as_fit_and_not_one_more(detail: int) -> None:
    answers = mixed_answers(40)
    query = npq.NpqQuery(1, 0, 9, [answer.asked for answer in answers], detail)
    whole, held = npq.encode_answer(query, answers, 1 << 20)
    assert held == 40
    results = unpack(whole)[5]
    for count in range(1, 41):
        fitting = pack([1, 1, 9, 3, 42, results[:count]])
        assert npq.encode_answer(query, answers, len(fitting)) == (fitting, count)
        shorter, fewer = npq.encode_answer(query, answers, len(fitting) - 1)
        assert fewer == count - 1
        assert len(shorter) < len(fitting)


@pytest.mark.parametrize("asked", [1, 15, 16, 17, 243, 244, 245, 999, 1000])
def test_answer_in_a_datagram_stays_within_the_bound(asked: int) -> None:
    # 5 bytes a result: 244 of them and a head of 9 bytes make 1,229.
    answers = [answer_of("110", Outcome.NOT_PORTABLE, None)] * asked
    query = npq.NpqQuery(1, 0, 9, ["110"] * asked, 0)
    message, held = npq.encode_answer(query, answers, NPQ_DATAGRAM_ANSWER_BYTES_MAX)
    assert len(message) <= NPQ_DATAGRAM_ANSWER_BYTES_MAX
    assert held == len(unpack(message)[5]) == min(asked, 244)


def test_widest_result_fits_a_datagram() -> None:
    widest = answer_of("1", route=WIDEST, tn=10**15 - 1, restriction=HELD, serial=2**32 - 1, age=2**40)
    query = npq.NpqQuery(1, 0, 2**32 - 1, ["1"] * 1000, 1)
    message, held = npq.encode_answer(query, [widest] * 1000, NPQ_DATAGRAM_ANSWER_BYTES_MAX)
    assert 1 <= held < 1000
    assert len(message) <= NPQ_DATAGRAM_ANSWER_BYTES_MAX


def test_thousand_widest_results_without_names_fit_a_frame() -> None:
    widest = answer_of("1", route=WIDEST, tn=10**15 - 1, restriction=HELD, serial=2**32 - 1, age=2**40)
    query = npq.NpqQuery(1, 0, 2**32 - 1, ["1"] * 1000, 0)
    message, held = npq.encode_answer(query, [widest] * 1000, NPQ_FRAME_BYTES_MAX)
    assert held == 1000
    assert len(message) <= NPQ_FRAME_BYTES_MAX


@pytest.mark.parametrize("detail", [0, 1])
def test_results_reach_the_client_as_they_were_sent(detail: int) -> None:
    answers = [*mixed_answers(20), answer_of("w", route=WIDEST, tn=10**15 - 1)]
    asked = [answer.asked for answer in answers]
    message, held = npq.encode_answer(npq.NpqQuery(1, 0, 9, list(asked), detail), answers, 1 << 20)
    assert held == len(answers)
    views = npq.view_results(asked, npq.decode_answer(message))
    assert views == [
        AnswerView(
            number=f"+{answer.tn}" if detail and answer.tn is not None else answer.asked,
            outcome=answer.outcome.label,
            network_code=answer.route.network_code if answer.route else None,
            routing_number=answer.route.routing_number if answer.route else None,
            operator=answer.route.operator if answer.route and detail else None,
            restriction=restriction_fields(answer.restriction),
            serial=3,
            age_seconds=42,
        )
        for answer in answers
    ]


def test_single_result_reaches_the_client_as_it_was_sent() -> None:
    message, _ = npq.encode_answer(npq.NpqQuery(1, 0, 9, "110", 0), [answer_of("110")], 1232)
    (view,) = npq.view_results(["110"], npq.decode_answer(message))
    assert view == AnswerView("110", "ported", "1401", "D0401", None, None, 3, 42)


def test_later_elements_of_an_answer_are_passed_over() -> None:
    later = [0, "1401", "D0401", 0xFF, 886912345678, "Alpha Telecom", {"new": 1}, None]
    for results in (later, [later]):
        answer = npq.decode_answer(pack([1, 1, 9, 3, 42, results, "later", [1.5]]))
        (view,) = npq.view_results(["x"], answer)
        assert (view.number, view.outcome, view.restriction) == ("+886912345678", "ported", {})


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (0, None),
        (0xFE, None),
        (1, {}),
        (0xF, {}),
        (3 + 1_800_000_000 * 16, {"kind": "stop", "until": "2027-01-15T08:00:00Z"}),
        (9 + 2**36 - 16, {"kind": "alert", "until": "2106-02-07T06:28:15Z"}),
        (9 + 2**36, {}),
    ],
)
def test_flags_tell_a_restriction_and_what_is_not_known_is_still_one(flags: int, told: dict[str, str] | None) -> None:
    (view,) = npq.view_results(["x"], npq.decode_answer(pack([1, 1, 9, 3, 42, [0, "1401", "D0401", flags]])))
    assert view.restriction == told


ANSWERS = {
    "single": pack([1, 1, 2**32 - 1, 3, 42, [0, "1401", "D0401", 0]]),
    "batch": pack([1, 1, 9, 2**32 - 1, None, [[2, None, None, 0], [0, "1", None, 1, 886912345678, "x"]]]),
    "error": npq.encode_error(npq.QueryRefused(None, 3)),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answer_cut_anywhere_or_with_bytes_behind_it_is_malformed(name: str) -> None:
    message = ANSWERS[name]
    npq.decode_answer(message)
    for wrong in [message[:length] for length in range(len(message))] + [message + b"\0", message * 2]:
        with pytest.raises(ProtocolError, match="malformed"):
            npq.decode_answer(wrong)


@pytest.mark.parametrize(
    "elements",
    [
        [1, 0, 9, "110"],
        [1, 0, 9, 110, 1],
        [1, 3, 9, 3, 42, []],
        [2, 1, 9, 3, 42, []],
        [0, 2, 9, 3, "text"],
        [1, 1, "9", 3, 42, []],
        [1, 1, 9.0, 3, 42, []],
        [1, 1, 9, None, 42, []],
        [1, 1, 9, 3, 42, None],
        [1, 1, 9, 3, 42, "ab"],
        [1, 1, 9, 3, 42, {}],
        [1, 1, 9],
        [],
        None,
        {"a": 1},
    ],
    ids=repr,
)
def test_what_is_no_answer_is_malformed(elements: Any) -> None:
    with pytest.raises(ProtocolError, match="malformed"):
        npq.decode_answer(pack(elements))


@pytest.mark.parametrize(
    "results",
    [
        [0],
        [0, "1401", None],
        [[0, "1401", None]],
        [[0, "1401", None, 0], None],
        [[0, "1401", None, 0], 5],
        [6, None, None, 0],
        [-1, None, None, 0],
        ["0", None, None, 0],
        [None, None, None, 0],
        [[], [0, "1401", None, 0]],
        [0, "1401", None, None],
        [0, "1401", None, "0"],
    ],
    ids=repr,
)
def test_result_that_is_none_is_malformed(results: list[Any]) -> None:
    answer = npq.decode_answer(pack([1, 1, 9, 3, 42, results]))
    with pytest.raises(ProtocolError, match="malformed"):
        npq.view_results(["1", "2"], answer)


@pytest.mark.parametrize("depth", [900, 5_000, 60_000])
def test_deep_nesting_in_an_answer_is_no_crash(depth: int) -> None:
    for start in (b"", b"\x96\x01\x01\x09\x03", b"\x96\x01\x01\x09\x03\x2a", b"\x96\x01\x01\x09\x03\x2a\x91"):
        for level in (b"\x91", b"\x81\xa1k", b"\x81"):
            for end in (b"", b"\xc0" * depth):
                with pytest.raises(ProtocolError, match="malformed"):
                    npq.view_results(["1"], npq.decode_answer(start + level * depth + end))


# -- ids in the client library ---------------------------------------------------------------------------


async def test_question_asked_late_of_the_second_server_keeps_its_own_id(loaded: Workbench) -> None:
    # While each waits for the silent server the others take further ids.
    expected = {
        "886912345678": "ported",
        "886931000000": "not_allocated",
        "110": "not_portable",
        "886911000000": "not_ported",
    }
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        async with serve(loaded.config()) as served:
            servers = [f"udp://127.0.0.1:{silent.getsockname()[1]}", f"udp://127.0.0.1:{served.port('npq', 'udp')}"]
            async with LookupClient(servers, timeout=5, hedge=0.02) as client:
                views = await asyncio.gather(*(client.query(number) for number in expected))
    assert [view.outcome for view in views] == list(expected.values())


async def test_tasks_that_ask_at_once_share_one_socket() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        async with LookupClient([f"udp://127.0.0.1:{silent.getsockname()[1]}"], timeout=0.3) as client:
            await asyncio.gather(*(client.query("110") for _ in range(20)), return_exceptions=True)
        silent.setblocking(False)
        sources = {silent.recvfrom(100)[1] for _ in range(20)}
    assert len(sources) == 1
