"""Text eight characters at a time: a number, a code or a time of every row at once, as 64-bit integers.

A word holds its first character in its lowest byte. Only arithmetic; which text belongs to which field, and
what is accepted at all, is for `lookupd_columns`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lookupd.store.columns import U32s, U64s

Bytes = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]

WORD_BYTES = 8

_FIRST_CHARS = np.array([(1 << (8 * count)) - 1 for count in range(WORD_BYTES + 1)], np.uint64)
_HIGH_BITS = np.uint64(0x8080808080808080)
_BYTE = np.uint64(0xFF)

# Added to a byte of 10 or more, 0x76 sets its high bit, and 0x7F does for 1 or more: a digit less "0" passes
# the one, a mark less itself the other. A byte beyond 0x7F has the bit itself, so that a carry changes nothing.
_DIGITS = np.uint64(0x7676767676767676)
_DIGITS_AND_MARKS = np.uint64(0x76767F76767F7676)


def words_of(text: Bytes) -> U64s:
    """The word that starts at each position, a view: index it with positions. The last 7 bytes start none."""
    return np.ndarray((len(text) - WORD_BYTES + 1,), "<u8", text.data, strides=(1,))


def first_chars(words: U64s, count: Positions) -> U64s:
    """The words with everything behind the first `count` characters (at most 8) made NUL."""
    return words & _FIRST_CHARS[count]


def last_digits(words: U64s, count: Positions) -> U64s | None:
    """The decimal number that the last `count` characters (at most 8) of each word are; None if one is none."""
    digits = (words ^ _packed("00000000")) & ~_FIRST_CHARS[WORD_BYTES - count]
    if _beyond(digits, _DIGITS):
        return None
    # Pairs of digits, then two steps in one multiplication each: 8 digits without a loop.
    pairs = digits * np.uint64(10) + (digits >> np.uint64(8))
    half = np.uint64(0x000000FF000000FF)
    value = (pairs & half) * np.uint64(100 + (1_000_000 << 32))
    value += ((pairs >> np.uint64(16)) & half) * np.uint64(1 + (10_000 << 32))
    return value >> np.uint64(32)


def times(words: U64s, start: Positions) -> U32s | None:
    """Unix seconds of times like `2026-03-01T09:00:00+08:00` at these positions, of the years 2000 to 2099.

    None if any is something else, wrong or merely unusual: a slower way tells which.
    """
    if ((words[start] & np.uint64(0xFFFF)) != _packed("20")).any():
        return None
    if ((words[start + 3] >> np.uint64(56)) != np.uint64(ord("T"))).any():
        return None
    date = words[start + 2] ^ _packed("00-00-00")
    time = words[start + 11] ^ _packed("00:00:00")
    zone = (words[start + 17] & ~np.uint64(0xFFFF)) ^ _packed("\0\0+00:00")
    if (zone == zone[0]).all():
        zone = zone[:1]  # a country has one or two
    minus = ((zone >> np.uint64(16)) & _BYTE) == np.uint64(ord("+") ^ ord("-"))
    zone[minus] &= ~np.uint64(0xFF0000)
    if any(_beyond(word, _DIGITS_AND_MARKS) for word in (date, time, zone)):
        return None
    year, month, day = _pairs(date)
    hour, minute, second = _pairs(time)
    _, hours_east, minutes_east = _pairs(zone)
    if max(hour.max(), hours_east.max()) > 23 or max(minute.max(), second.max(), minutes_east.max()) > 59:
        return None
    if month.max() > 12 or day.max() > 31:
        return None
    days = _days()[(year * 13 + month) * 32 + day]
    if not days.all():
        return None
    east = (hours_east * 3600 + minutes_east * 60) * np.where(minus, -1, 1)
    seconds: Positions = days * 86_400 + hour * 3600 + minute * 60 + second - east
    return seconds.astype(np.uint32)


def _packed(chars: str) -> np.uint64:
    return np.uint64(int.from_bytes(chars.encode("ascii"), "little"))


def _beyond(words: U64s, addend: np.uint64) -> bool:
    """Whether any byte of any word is more than its addend lets pass."""
    return bool(np.bitwise_or.reduce((words + addend) | words) & _HIGH_BITS)


def _pairs(digits: U64s) -> tuple[Positions, Positions, Positions]:
    """Of words of digits like 26-03-01, marks made 0: the three numbers."""
    pairs = digits * np.uint64(10) + (digits >> np.uint64(8))
    parts = [((pairs >> np.uint64(shift)) & _BYTE).view(np.int64) for shift in (0, 24, 48)]
    return parts[0], parts[1], parts[2]


@lru_cache(maxsize=1)
def _days() -> Positions:
    """Days since 1970 by (year since 2000 * 13 + month) * 32 + day; 0 = there is no such day."""
    table = np.zeros(100 * 13 * 32, np.int64)
    dates = np.arange(np.datetime64("2000-01-01"), np.datetime64("2100-01-01"))
    months = dates.astype("datetime64[M]")
    month = months.astype(np.int64) % 12 + 1
    year = months.astype(np.int64) // 12 - 30
    day = (dates - months.astype("datetime64[D]")).astype(np.int64) + 1
    table[(year * 13 + month) * 32 + day] = dates.astype(np.int64)
    return table
