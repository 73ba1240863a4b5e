"""Times, durations, sizes and what is told of a restriction: from text and back."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

from lookupd.model import InForce, UnixMillis, UnixSeconds

_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_DURATION_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZE = re.compile(r"([0-9]{1,9})(B|KiB|MiB|GiB|TiB)")
_SIZE_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-]([0-9]{2}):([0-9]{2}))"
)
_CLOCK_MAX = (23, 59, 59, 23, 59)
"""Hour, minute and second, then hour and minute of the offset: Python's versions differ in what they let pass."""

_TIME_END = 1 << 32


class Duration(float):
    """Seconds, written `500ms`, `30s`, `5m`, `1h`, `184d`."""


class Size(int):
    """Bytes, written `64GiB`."""


def parse_duration(text: str) -> Duration:
    """Raises ValueError with the reason."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no duration: write it like 500ms, 30s, 5m, 1h or 184d")
    return Duration(int(found[1]) * _DURATION_MS[found[2]] / 1000)


def parse_size(text: str) -> Size:
    """Raises ValueError with the reason."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no size: write it like 512MiB or 64GiB")
    return Size(int(found[1]) * _SIZE_BYTES[found[2]])


@lru_cache(4096)  # the notices of a delta share their seconds
def parse_time(text: str) -> UnixSeconds:
    """An RFC 3339 time with an offset (section 5.6), of the years 1970 to 2106; parts of a second are cut.

    Raises ValueError with the reason. A leap second is no valid time here.
    """
    found = _TIME.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no RFC 3339 time with an offset, such as 2026-03-01T09:00:00+08:00")
    if any(int(part) > most for part, most in zip(found.groups("0"), _CLOCK_MAX, strict=True)):
        raise ValueError(f"{text!r}: there is no such time")
    try:
        seconds = int(datetime.fromisoformat(text.upper()).timestamp())
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r}: there is no such time") from None
    if not 0 < seconds < _TIME_END:
        raise ValueError(f"{text!r}: not within the years 1970 to 2106")
    return UnixSeconds(seconds)


def format_time(seconds: int | None) -> str | None:
    """RFC 3339 in UTC, `2026-03-01T01:00:00Z`; None stays None."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_millis(millis: int | None) -> str | None:
    """RFC 3339 in UTC with milliseconds, `2026-03-01T01:00:00.250Z`; None stays None."""
    if millis is None:
        return None
    return datetime.fromtimestamp(millis // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{millis % 1000:03}Z"


def parse_millis(text: str) -> UnixMillis:
    """What `format_millis` wrote. Raises ValueError."""
    seconds, _, fraction = text.removesuffix("Z").partition(".")
    return UnixMillis(parse_time(seconds + "Z") * 1000 + int(fraction or "0"))


def format_size(size: float) -> str:
    """For people: `206.1 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def restriction_fields(restriction: InForce | None) -> dict[str, str] | None:
    """As JSON shows it in an answer: which kind, and until when."""
    if restriction is None:
        return None
    return {"kind": restriction.measure.label, "until": str(format_time(restriction.until))}
