"""Charts of the half-yearly report: numbers in, SVG out, readable in grey and on paper.

Every chart stands beside a table with the same figures, so it is a picture to a screen reader, with a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH = 640
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 18, 40
_TICKS = 4
_ROW, _NAMES = 30, 150

PATTERNS = (
    '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="6" height="6" fill="#fff"/><rect width="3" height="6" fill="#555"/></pattern></defs>'
)


class Bar(NamedTuple):
    """label: beneath it. is_marked: drawn hatched, as what is over a limit."""

    label: str
    value: int
    is_marked: bool = False


def columns(name: str, bars: Sequence[Bar], height: int = 200) -> str:
    """Columns beside each other, with their values above and an axis at the left."""
    top = _round_up(max((bar.value for bar in bars), default=0))
    inner_height, inner_width = height - _TOP - _BOTTOM, WIDTH - _LEFT - _RIGHT
    step = inner_width / max(len(bars), 1)
    parts = [*_axis(top, inner_height)]
    for at, bar in enumerate(bars):
        tall = inner_height * bar.value / top
        x, y = _LEFT + at * step + step * 0.15, _TOP + inner_height - tall
        fill = "url(#hatch)" if bar.is_marked else "#1f4e79"
        middle = _LEFT + (at + 0.5) * step
        parts.append(_box(x, y, step * 0.7, tall, fill))
        parts += [_text(middle, y - 4, f"{bar.value:,}", "middle")] if bar.value else []
        parts.append(_text(middle, height - _BOTTOM + 16, bar.label, "middle"))
    return _svg(name, height, parts)


def pairs(name: str, rows: Sequence[tuple[str, int, int]]) -> str:
    """For each name two bars, one filled and one hatched, each with its value at its end."""
    top = max((max(first, second) for _, first, second in rows), default=0) or 1
    room = WIDTH - _NAMES - 80
    parts = []
    for at, (label, first, second) in enumerate(rows):
        y = 6 + at * _ROW
        parts.append(_text(_NAMES - 8, y + 17, label[:22], "end"))
        for value, fill, offset in ((first, "#1f4e79", 0), (second, "url(#hatch)", 12)):
            parts.append(_box(_NAMES, y + offset, room * value / top, 10, fill))
            parts.append(_text(_NAMES + room * value / top + 5, y + offset + 9, f"{value:,}", "start"))
    return _svg(name, 12 + _ROW * max(len(rows), 1), parts)


def _axis(top: int, inner_height: float) -> list[str]:
    parts = []
    for tick in range(_TICKS + 1):
        y = _TOP + inner_height * (1 - tick / _TICKS)
        parts.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ccc"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{top * tick // _TICKS:,}", "end"))
    return parts


def _round_up(value: int) -> int:
    """The next number above that quarters well."""
    size = 4
    while size < value:
        for factor in (2, 5):
            if size * factor >= value:
                return size * factor
        size *= 10
    return size


def _box(x: float, y: float, width: float, height: float, fill: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" fill="{fill}" '
        'stroke="#1f2933" stroke-width="0.5"/>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(name: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(name)}" font-size="11">{PATTERNS}'
        + "".join(parts)
        + "</svg>"
    )
