"""Snapshot rows of our own format, a whole chunk at a time: numpy instead of a loop.

It takes a chunk only if every row has the everyday form, and declines otherwise; `lookupd.parse_row` then
reads that chunk row by row, accepts what is merely unusual and names what is wrong. So nothing is accepted
here that `parse_row` would refuse, and no message is made in two places. Where the native module is, it does
the same (`native/src/bulk/rows.rs`): the same rows, the same chunks declined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from loader.formats import words
from lookupd import native_bulk
from lookupd.limits import NETWORK_CODE_CHARS_MAX, ROUTING_NUMBER_CHARS_MAX, SNAPSHOT_LINE_BYTES_MAX
from lookupd.store.columns import U32s, U64s

Bytes = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.signedinteger[Any]]

_COMMA, _LINE_END, _ZERO, _NINE = 44, 10, 48, 57
_TIME_CHARS = 25
_FRONT, _BACK = bytes(2 * words.WORD_BYTES), bytes(_TIME_CHARS)
_CODE_SLOTS_BITS = 12
_CODE_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_DAYS_IN_MONTH = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


@dataclass(frozen=True)
class RawColumns:
    """A chunk's rows: numbers and times as values, codes and routing numbers as indices into lists.

    network and donor index `codes`, routing_number indexes `routing_numbers`; -1 = empty. ported_at is 0
    where the row has none. codes are sorted by length, then text; routing_numbers by text.
    """

    tn: U64s
    network: Indices
    donor: Indices
    routing_number: Indices
    ported_at: U32s
    codes: list[str]
    routing_numbers: list[str]


@dataclass(frozen=True)
class _Field:
    """Where a column's text starts in each row, and how long it is."""

    start: Positions
    length: Positions


def parse_rows(chunk: bytes, columns: tuple[str, ...]) -> RawColumns | None:
    """The rows of a chunk that ends with a line end, or None if any of them is not of the everyday form."""
    return parse_natively(chunk, columns) if native_bulk.available() else parse_with_numpy(chunk, columns)


def parse_natively(chunk: bytes, columns: tuple[str, ...]) -> RawColumns | None:
    """`parse_rows` by the native module, which must be there."""
    found = native_bulk.parse_rows(chunk, columns)
    if found is None:
        return None
    tn, network, donor, routing_number, ported_at, codes, routing_numbers = found
    return RawColumns(
        np.frombuffer(tn, np.uint64),
        np.frombuffer(network, np.int32),
        np.frombuffer(donor, np.int32),
        np.frombuffer(routing_number, np.int32),
        np.frombuffer(ported_at, np.uint32),
        codes,
        routing_numbers,
    )


def parse_with_numpy(chunk: bytes, columns: tuple[str, ...]) -> RawColumns | None:
    """`parse_rows` without it."""
    if b"\0" in chunk:  # which pads short codes below
        return None
    # Room around the text, so that a fixed number of bytes can be taken at and before any position.
    text = np.frombuffer(b"".join((_FRONT, chunk, _BACK)), np.uint8)
    fields = _split(text, len(_FRONT), len(_FRONT) + len(chunk), columns)
    if fields is None:
        return None
    rows = len(fields["tn"].start)
    tn = _numbers(text, fields["tn"])
    names, found = _codes(text, [fields["network_code"], fields.get("donor")])
    routing_numbers, routing_number = _routing_numbers(text, fields.get("routing_number"), rows)
    ported_at = _times(text, fields.get("ported_at"), rows)
    if tn is None or found is None or routing_number is None or ported_at is None or (found[0] < 0).any():
        return None
    return RawColumns(tn, found[0], found[1], routing_number, ported_at, names, routing_numbers)


def _split(text: Bytes, first: int, end_at: int, columns: tuple[str, ...]) -> dict[str, _Field] | None:
    """Every row of text[first:end_at] has as many fields as the header, and is not longer than a row may be."""
    rows = text[first:end_at]
    ends = np.flatnonzero((rows == _COMMA) | (rows == _LINE_END)) + first
    if len(ends) == 0 or len(ends) % len(columns) or rows[-1] != _LINE_END:
        return None
    is_line_end = (text[ends] == _LINE_END).reshape(-1, len(columns))
    if is_line_end[:, :-1].any() or not is_line_end[:, -1].all():
        return None
    start = np.r_[first, ends[:-1] + 1].reshape(-1, len(columns))
    end = ends.reshape(-1, len(columns))
    if (end[:, -1] - start[:, 0]).max() > SNAPSHOT_LINE_BYTES_MAX:
        return None
    return {name: _Field(start[:, at].copy(), end[:, at] - start[:, at]) for at, name in enumerate(columns)}


def _numbers(text: Bytes, field: _Field) -> U64s | None:
    """5 to 15 digits without a leading zero."""
    if field.length.min() < 5 or field.length.max() > 15 or (text[field.start] == _ZERO).any():
        return None
    end = field.start + field.length
    text_words = words.words_of(text)
    low_count = np.minimum(field.length, words.WORD_BYTES)
    low = words.last_digits(text_words[end - words.WORD_BYTES], low_count)
    high = words.last_digits(text_words[end - 2 * words.WORD_BYTES], field.length - low_count)
    return None if low is None or high is None else high * np.uint64(10**words.WORD_BYTES) + low


def _codes(text: Bytes, fields: list[_Field | None]) -> tuple[list[str], list[Positions] | None]:
    """Distinct network codes of all the fields, and each row's index among them; -1 where it is empty."""
    text_words = words.words_of(text)
    packed: list[U64s] = []
    for field in fields:
        if field is not None and field.length.max() > NETWORK_CODE_CHARS_MAX:
            return [], None
        packed.append(words.first_chars(text_words[field.start], field.length) if field else np.zeros(0, np.uint64))
    found = [distinct_values(value) for value in packed]
    every = np.unique(np.concatenate([distinct for distinct, _ in found]))
    texts = [value.tobytes().rstrip(b"\0") for value in every]
    if not all(_is_code_char[list(text)].all() for text in texts):
        return [], None
    names = sorted((text.decode("ascii") for text in texts if text), key=lambda name: (len(name), name))
    by_name = {name: at for at, name in enumerate(names)} | {"": -1}
    index_of = np.array([by_name[text.decode("ascii")] for text in texts], np.int64)
    rows = len(packed[0])
    indices = []
    for distinct, at in found:
        indices.append(index_of[np.searchsorted(every, distinct)][at] if len(at) else np.full(rows, -1))
    return names, indices


def distinct_values(values: U64s) -> tuple[U64s, Positions]:
    """The distinct values, and each value's index among them.

    Few are distinct, so a small table of slots finds most of them at a quarter of the price of sorting: each
    slot takes one value of those that fall into it. What another value has pushed out is sorted.
    """
    slots = ((values * _CODE_FACTOR) >> np.uint64(64 - _CODE_SLOTS_BITS)).astype(np.int64)
    kept = np.zeros(1 << _CODE_SLOTS_BITS, np.uint64)
    used = np.zeros(1 << _CODE_SLOTS_BITS, bool)
    kept[slots] = values
    used[slots] = True
    missed = np.flatnonzero(kept[slots] != values)
    distinct = np.unique(np.concatenate((kept[used], values[missed])))
    at = np.searchsorted(distinct, kept)[slots]
    at[missed] = np.searchsorted(distinct, values[missed])
    return distinct, at


def _char_set(chars: bytes) -> Mask:
    allowed = np.zeros(256, bool)
    allowed[list(chars)] = True
    return allowed


_is_code_char = _char_set(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_is_routing_char = _char_set(b"0123456789ABCDEF")


def _routing_numbers(text: Bytes, field: _Field | None, rows: int) -> tuple[list[str], Positions | None]:
    """Distinct routing numbers and each row's index among them; most rows have none."""
    index = np.full(rows, -1, np.int64)
    if field is None or not field.length.any():
        return [], index
    if field.length.max() > ROUTING_NUMBER_CHARS_MAX:
        return [], None
    some = np.flatnonzero(field.length)
    length = field.length[some]
    at = np.arange(ROUTING_NUMBER_CHARS_MAX)
    chars = text[np.minimum(field.start[some][:, None] + at, len(text) - 1)]
    inside = at < length[:, None]
    if not _is_routing_char[chars[inside]].all():
        return [], None
    chars[~inside] = 0
    distinct, index[some] = np.unique(chars.view(f"S{ROUTING_NUMBER_CHARS_MAX}").reshape(-1), return_inverse=True)
    return [value.decode("ascii") for value in distinct], index


def _times(text: Bytes, field: _Field | None, rows: int) -> U32s | None:
    """`2026-03-01T09:00:00+08:00` or `...Z`; 0 where the field is empty."""
    seconds = np.zeros(rows, np.uint32)
    if field is None or not field.length.any():
        return seconds
    for length in np.flatnonzero(np.bincount(field.length)).tolist():
        if length == 0:
            continue
        if length not in {20, _TIME_CHARS}:
            return None
        at = np.flatnonzero(field.length == length)
        usual = words.times(words.words_of(text), field.start[at]) if length == _TIME_CHARS else None
        if usual is not None:
            seconds[at] = usual
            continue
        chars = text[field.start[at][:, None] + np.arange(length)]
        values = _seconds(chars)
        if values is None:
            return None
        seconds[at] = values
    return seconds


def _seconds(chars: Bytes) -> U32s | None:
    """chars: one time a row, 20 or 25 of them."""
    with_offset = chars.shape[1] == _TIME_CHARS
    marks = {4: "-", 7: "-", 10: "T", 13: ":", 16: ":"} | ({22: ":"} if with_offset else {19: "Z"})
    for at, mark in marks.items():
        if (chars[:, at] != ord(mark)).any():
            return None
    digit_at = [at for at in range(chars.shape[1]) if at not in marks and at != 19]
    digits = chars[:, digit_at]
    if ((digits < _ZERO) | (digits > _NINE)).any():
        return None

    def number(at: int, count: int) -> npt.NDArray[np.int64]:
        value = np.zeros(len(chars), np.int64)
        for place in range(at, at + count):
            value = value * 10 + (chars[:, place] - _ZERO)
        return value

    year, month, day = number(0, 4), number(5, 2), number(8, 2)
    hour, minute, second = number(11, 2), number(14, 2), number(17, 2)
    if (month < 1).any() or (month > 12).any() or (hour > 23).any() or (minute > 59).any() or (second > 59).any():
        return None
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    last_day = _DAYS_IN_MONTH[month] + (leap & (month == 2))
    if (day < 1).any() or (day > last_day).any():
        return None
    seconds = _days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second
    if with_offset:
        sign = chars[:, 19]
        if ((sign != ord("+")) & (sign != ord("-"))).any():
            return None
        offset_hour, offset_minute = number(20, 2), number(23, 2)
        if (offset_hour > 23).any() or (offset_minute > 59).any():
            return None
        seconds -= np.where(sign == ord("-"), -1, 1) * (offset_hour * 3600 + offset_minute * 60)
    if (seconds <= 0).any() or (seconds >= 1 << 32).any():
        return None
    return seconds.astype(np.uint32)


def _days_since_1970(
    year: npt.NDArray[np.int64], month: npt.NDArray[np.int64], day: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Of a date in the Gregorian calendar: numpy counts months since 1970 and turns them into days."""
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    return months.astype("datetime64[D]").astype(np.int64) + day - 1
