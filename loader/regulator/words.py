"""The report's language: its strings, and numbers and times as people read them. None is said, and never shown as 0."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from lookupd.i18n import REPORT_CONTEXT, context_messages

Translate = Callable[[str], str]

LANGUAGES = {"en": None, "zh-TW": "zh_TW"}
"""Those that a report is written in, as HTML names them, and their catalogues; None = as it stands in the code."""


def t_later(text: str) -> str:
    """As it is: marks a text for the catalogue that is translated when a page is written."""
    return text


def translator(language: str) -> Translate:
    """Of one of LANGUAGES. Raises OSError if its catalogue cannot be read."""
    catalogue = LANGUAGES[language]
    known = {} if catalogue is None else context_messages(catalogue, REPORT_CONTEXT)
    return lambda text: known.get(text) or text


class Words:
    """Values in one language, escaped."""

    def __init__(self, t: Translate) -> None:
        self._t = t
        self._unknown = f"<span>{escape(t('not known'))}</span>"

    def count(self, value: int | None) -> str:
        """1,234."""
        return self._unknown if value is None else f"{value:,}"

    def share(self, value: float | None, digits: int = 3) -> str:
        """Of 0 to 1, in per cent. Less than all is never told as all."""
        if value is None:
            return self._unknown
        shown = f"{value * 100:.{digits}f}"
        if value < 1 and float(shown) >= 100:
            shown = f"{100 - 10**-digits:.{digits}f}"
        return f"{shown} %"

    def seconds(self, value: float | None) -> str:
        """In the unit that fits: ms, s, min, h or d."""
        if value is None:
            return self._unknown
        t = self._t
        if value < 1:
            return t("{number} ms").format(number=f"{value * 1000:.3g}")
        if value < 120:
            return t("{number} s").format(number=_short(value))
        if value < 3600:
            return t("{number} min").format(number=_short(value / 60))
        if value < 3 * 86_400:
            return t("{number} h").format(number=_short(value / 3600))
        return t("{number} d").format(number=_short(value / 86_400))

    def text(self, value: str | None) -> str:
        """What comes from a file or the store."""
        return self._unknown if value is None else escape(value)


def _short(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")
