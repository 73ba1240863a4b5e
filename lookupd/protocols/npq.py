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
from lookupd.model import Answer, AnswerView, InForce, Measure, Outcome, UnixSeconds
from lookupd.units import restriction_fields

VERSION: Final = 1
QUERY: Final = 0
ANSWER: Final = 1
ERROR: Final = 2

DETAIL_NONE: Final = 0
DETAIL_NAMES: Final = 1
"""With the number in E.164 form and the operator's name, for people and tools."""

FLAG_RESTRICTED: Final = 1
MEASURE_SHIFT: Final = 1
MEASURE_MASK: Final = 0b111
UNTIL_SHIFT: Final = 4
UNTIL_MAX: Final = 0xFFFF_FFFF
"""Flags of a restricted number: the measure in three bits behind the first, and from the fifth bit on the moment at
which the restriction lapses, in Unix seconds. Who knows the first bit alone still knows that there is one."""

_MEASURES: Final = {int(measure): measure for measure in Measure}

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
_decode_numbers = msgspec.msgpack.Decoder(list[Number]).decode
_decode_answer = msgspec.msgpack.Decoder(NpqAnswer).decode
_encode = msgspec.msgpack.Encoder().encode


def decode_query(message: bytes) -> NpqQuery:
    """Read one query message.

    Raises QueryRefused if it can be told what is wrong (another version, too many numbers), ProtocolError
    `malformed` if it is no message of ours, `not_a_query` if it is of another kind. No other error escapes.
    """
    try:
        query = _decode_query(message)
    except RecursionError:
        return decode_query(_shallow(message))
    except (msgspec.MsgspecError, UnicodeDecodeError):
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
    except RecursionError:
        return _why(_shallow(message))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ProtocolError("malformed")
    if head.kind != QUERY:
        return ProtocolError("not_a_query")
    query_id: int | None
    try:
        query_id = _decode_id(head.id)
    except msgspec.MsgspecError:
        query_id = None
    return QueryRefused(query_id, ERROR_MALFORMED if head.version == VERSION else ERROR_VERSION)


_ELEMENTS_KNOWN: Final = len(NpqQuery.__struct_fields__)
_NIL: Final = b"\xc0"
_CONTAINERS: Final = frozenset((*range(0x80, 0xA0), *range(0xDC, 0xE0)))
_ARRAY_HEAD_BYTES: Final = {**dict.fromkeys(range(0x90, 0xA0), 1), 0xDC: 3, 0xDD: 5}


def _shallow(message: bytes) -> bytes:
    """A message with the same verdict as one that is nested too deep for a decoder that recurses.

    It has the elements that we know and no others; nil stands for one of them that holds more than numbers, as
    no query's does. Raises ProtocolError `malformed`.
    """
    try:
        at = _ARRAY_HEAD_BYTES[message[0]]
        count = int.from_bytes(message[1:at], "big") if at > 1 else message[0] & FIXARRAY_MAX
        known = []
        for _ in range(min(count, _ELEMENTS_KNOWN)):
            start, at = at, _end_of(message, at, 1)
            known.append(_flat(message[start:at]))
        at = _end_of(message, at, count - len(known))
    except (IndexError, KeyError):
        raise ProtocolError("malformed") from None
    if at != len(message):
        raise ProtocolError("malformed")
    return bytes((0x90 | len(known),)) + b"".join(known)


def _flat(element: bytes) -> bytes:
    """The element, or nil for one that is nested and no list of numbers."""
    if element[0] in _CONTAINERS:
        try:
            _decode_numbers(element)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return _NIL
    return element


_COUNTED: Final = {
    **dict.fromkeys((0xC4, 0xC7, 0xD9), 1),
    **dict.fromkeys((0xC5, 0xC8, 0xDA, 0xDC, 0xDE), 2),
    **dict.fromkeys((0xC6, 0xC9, 0xDB, 0xDD, 0xDF), 4),
}
"""First bytes behind which a length or a number of entries stands -> bytes of that."""

_SIZED: Final = {
    **dict.fromkeys((0xCC, 0xD0), 2),
    **dict.fromkeys((0xCD, 0xD1, 0xD4), 3),
    **dict.fromkeys((0xCA, 0xCE, 0xD2), 5),
    **dict.fromkeys((0xCB, 0xCF, 0xD3), 9),
    **{0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18},
    **{code: 1 + (code & 0x1F) for code in range(0xA0, 0xC0)},
}
_SIZES: Final = tuple(0 if code in _COUNTED or code == 0xC1 else _SIZED.get(code, 1) for code in range(0x100))
"""Bytes that a first byte and what belongs to it take, without the values it holds; 0 = not told by it alone."""

_MORE: Final = tuple(
    (2 if code < 0x90 else 1) * (code & 0xF) - 1 if 0x80 <= code < 0xA0 else -1 for code in range(0x100)
)
"""How many values more are left behind it: those it holds, without itself."""


def _end_of(message: bytes, at: int, values: int) -> int:
    """Where so many values end, however deep they are nested; may lie behind the message's end.

    Values left to pass over are counted, so depth costs no stack. Raises IndexError or KeyError if they are none.
    """
    left, sizes, more = values, _SIZES, _MORE
    while left:
        code = message[at]
        size = sizes[code]
        if size:
            at += size
            left += more[code]
            continue
        width = _COUNTED[code]
        if width == 1:
            count = message[at + 1]
        elif width == 2:
            count = message[at + 1] << 8 | message[at + 2]
        else:
            count = int.from_bytes(message[at + 1 : at + 1 + width], "big")
        at += 1 + width
        if code >= 0xDC:
            left += count - 1 if code < 0xDE else 2 * count - 1
        else:
            at += count + (0xC7 <= code <= 0xC9)  # an extension has a byte more, its type
            left -= 1
    return at


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
    flags = 0 if answer.restriction is None else _flags(answer.restriction)
    if route is None:
        result: Result = (int(answer.outcome), None, None, flags)
    else:
        result = (int(answer.outcome), route.network_code, route.routing_number, flags)
    if detail == DETAIL_NAMES:
        result += (answer.tn, route.operator if route else None)
    return result


def _flags(restriction: InForce) -> int:
    return FLAG_RESTRICTED | restriction.measure << MEASURE_SHIFT | restriction.until << UNTIL_SHIFT


def restriction_of(flags: int) -> dict[str, str] | None:
    """What the flags of a result tell, as JSON shows it; empty of one whose measure is not known here."""
    if not flags & FLAG_RESTRICTED:
        return None
    measure, until = flags >> MEASURE_SHIFT & MEASURE_MASK, flags >> UNTIL_SHIFT
    if measure not in _MEASURES or until > UNTIL_MAX:
        return {}
    return restriction_fields(InForce(_MEASURES[measure], UnixSeconds(until)))


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
        restriction=restriction_of(flags),
        serial=serial,
        age_seconds=age,
    )
