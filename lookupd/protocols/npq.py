"""Our own protocol, MessagePack in small arrays: number portability queries, one or many at a time.

    query   [1, 0, id, number | [number, ...], detail]
    answer  [1, 1, id, serial, age, result | [result, ...]]
    error   [1, 2, id, code, text]
    result  [outcome, network_code, routing_number, flags]      and with detail 1: + [number, operator]

One message is one datagram, or over TCP one frame: four bytes of length, big-endian, then the message.
`docs/protocols/npq.md` is the whole description, with worked bytes.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, Final

import msgspec

from lookupd.errors import ProtocolError
from lookupd.limits import NPQ_NUMBERS_MAX, NUMBER_CHARS_MAX
from lookupd.model import Answer, AnswerView, Outcome

VERSION: Final = 1
QUERY: Final = 0
ANSWER: Final = 1
ERROR: Final = 2

DETAIL_NONE: Final = 0
DETAIL_NAMES: Final = 1
"""With the number in E.164 form and the operator's name, for people and tools."""

FLAG_RESTRICTED: Final = 1

ERROR_MALFORMED: Final = 1
ERROR_VERSION: Final = 2
ERROR_TOO_MANY: Final = 3
ERROR_TEXTS: Final = {
    ERROR_MALFORMED: "not a query",
    ERROR_VERSION: f"version {VERSION} is spoken here",
    ERROR_TOO_MANY: f"1 to {NPQ_NUMBERS_MAX} numbers in a query",
}

FIXARRAY_MAX: Final = 15
ARRAY16_MORE_BYTES: Final = 2
"""MessagePack: the head of an array of more than 15 elements is three bytes instead of one."""

FRAME_HEADER = struct.Struct(">I")

Number = Annotated[str, msgspec.Meta(max_length=NUMBER_CHARS_MAX)] | Annotated[int, msgspec.Meta(ge=0)]
QueryId = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)]
Result = tuple[Any, ...]


class NpqQuery(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One query message. Elements behind those known here are ignored, so that later ones may add some."""

    version: int
    kind: int
    id: QueryId
    numbers: Number | list[Number]
    detail: int = DETAIL_NONE


class NpqAnswer(msgspec.Struct, frozen=True, array_like=True):
    """One answer message, as a client reads it. results: one result, or a list of them."""

    version: int
    kind: int
    id: int | None
    serial: int
    age: Any = None
    results: list[Any] = []


class _Head(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What queries of every version begin with."""

    version: int
    kind: int
    id: msgspec.Raw


class QueryRefused(ProtocolError):
    """A query that gets an error message. id: None when it could not be read."""

    def __init__(self, query_id: int | None, code: int) -> None:
        super().__init__("not_a_query" if code == ERROR_VERSION else "malformed")
        self.query_id = query_id
        self.code = code


_decode_query = msgspec.msgpack.Decoder(NpqQuery).decode
_decode_head = msgspec.msgpack.Decoder(_Head).decode
_decode_id = msgspec.msgpack.Decoder(QueryId).decode
_decode_answer = msgspec.msgpack.Decoder(NpqAnswer).decode
_encode = msgspec.msgpack.Encoder().encode


def decode_query(message: bytes) -> NpqQuery:
    """Read one query message.

    Raises QueryRefused if it can be told what is wrong (another version, too many numbers), ProtocolError
    `malformed` if it is no message of ours, `not_a_query` if it is of another kind. No other error escapes.
    """
    try:
        query = _decode_query(message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _why(message) from None
    if query.kind != QUERY:
        raise ProtocolError("not_a_query")
    if query.version != VERSION:
        raise QueryRefused(query.id, ERROR_VERSION)
    if isinstance(query.numbers, list) and not 1 <= len(query.numbers) <= NPQ_NUMBERS_MAX:
        raise QueryRefused(query.id, ERROR_TOO_MANY)
    return query


def _why(message: bytes) -> ProtocolError:
    """A version that we do not know may have another layout: look at the first elements alone.

    The others are skipped, not built: a dict of keys chosen to collide would cost seconds.
    """
    try:
        head = _decode_head(message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ProtocolError("malformed")
    if head.kind != QUERY:
        return ProtocolError("not_a_query")
    query_id: int | None
    try:
        query_id = _decode_id(head.id)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        query_id = None
    return QueryRefused(query_id, ERROR_MALFORMED if head.version == VERSION else ERROR_VERSION)


def numbers_of(query: NpqQuery) -> list[str]:
    """What was asked, as dialled text."""
    numbers = query.numbers if isinstance(query.numbers, list) else [query.numbers]
    return [number if type(number) is str else str(number) for number in numbers]


def encode_one(query: NpqQuery, answer: Answer) -> bytes:
    """The answer message to a query of a single number; it fits any datagram."""
    return _encode((VERSION, ANSWER, query.id, answer.serial, answer.age_seconds, _result(answer, query.detail)))


def encode_answer(query: NpqQuery, answers: list[Answer], bytes_max: int) -> tuple[bytes, int]:
    """The answer message, and how many of the answers it holds: as many as fit, from the first.

    answers: in the order asked, at least one, all of one state. A client asks again for the rest.
    """
    first = answers[0]
    if not isinstance(query.numbers, list):
        return encode_one(query, first), 1
    results = [_result(answer, query.detail) for answer in answers]
    message = _encode((VERSION, ANSWER, query.id, first.serial, first.age_seconds, results))
    if len(message) <= bytes_max:
        return message, len(results)
    room = bytes_max - len(_encode((VERSION, ANSWER, query.id, first.serial, first.age_seconds, [])))
    held = 0
    for result in results:
        room -= len(_encode(result))
        if room < (0 if held < FIXARRAY_MAX else ARRAY16_MORE_BYTES):
            break
        held += 1
    return _encode((VERSION, ANSWER, query.id, first.serial, first.age_seconds, results[:held])), held


def _result(answer: Answer, detail: int) -> Result:
    route = answer.route
    flags = FLAG_RESTRICTED if answer.restricted else 0
    if route is None:
        result: Result = (int(answer.outcome), None, None, flags)
    else:
        result = (int(answer.outcome), route.network_code, route.routing_number, flags)
    if detail == DETAIL_NAMES:
        result += (answer.tn, route.operator if route else None)
    return result


def encode_error(error: QueryRefused) -> bytes:
    """The error message."""
    return _encode((VERSION, ERROR, error.query_id, error.code, ERROR_TEXTS[error.code]))


def encode_query(query_id: int, numbers: str | list[str], detail: int = DETAIL_NONE) -> bytes:
    """A query message."""
    return _encode((VERSION, QUERY, query_id, numbers, detail))


def decode_answer(message: bytes) -> NpqAnswer:
    """Read one answer or error message. Raises ProtocolError `malformed`.

    An error message has kind ERROR; its code stands in `serial`, its text in `age`.
    """
    try:
        answer = _decode_answer(message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ProtocolError("malformed") from None
    if answer.version != VERSION or answer.kind not in {ANSWER, ERROR}:
        raise ProtocolError("malformed")
    return answer


def view_results(asked: list[str], answer: NpqAnswer) -> list[AnswerView]:
    """The results of an answer as people see them; may be fewer than asked. Raises ProtocolError `malformed`."""
    results = answer.results
    if results and not isinstance(results[0], list):
        results = [results]
    try:
        return [
            _view(number, answer.serial, answer.age, *result) for number, result in zip(asked, results, strict=False)
        ]
    except (TypeError, ValueError):
        raise ProtocolError("malformed") from None


def _view(
    asked: str,
    serial: int,
    age: int | None,
    outcome: int,
    network_code: str | None,
    routing_number: str | None,
    flags: int,
    number: int | None = None,
    operator: str | None = None,
    *_later: Any,
) -> AnswerView:
    return AnswerView(
        number=asked if number is None else f"+{number}",
        outcome=Outcome(outcome).label,
        network_code=network_code,
        routing_number=routing_number,
        operator=operator,
        restriction={} if flags & FLAG_RESTRICTED else None,
        serial=serial,
        age_seconds=age,
    )
