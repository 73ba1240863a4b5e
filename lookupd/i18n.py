"""Languages of what people read: which one is asked for, and its catalogue. English is the text in the code.

Help is translated by `lookupd.help`, the page by `web.messages`. Logs, JSON and `key=value` are never translated, nor
are the words of an error: they are looked up, by scripts and by support.
"""

from __future__ import annotations

import gettext
import os
import struct
import sys
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path

DOMAIN = "lookupd"
LOCALES = Path(__file__).parent / "locale"
LANGUAGES = ("zh_TW",)
"""Those that have a catalogue, by their names in `LANG`."""

PAGE_CONTEXT = "page"
"""msgctxt of the status page's strings: of a catalogue, the page is given these alone."""

REPORT_CONTEXT = "report"
"""msgctxt of what the regulator's report says, which is written in all languages, whoever runs the command."""

_PLAIN_LOCALES = ("", "C", "POSIX")

_chosen = gettext.NullTranslations()


def choose_language(environment: Mapping[str, str] = os.environ) -> str | None:
    """What LANGUAGE, LC_ALL, LC_MESSAGES and LANG ask for, as GNU gettext reads them; None is English.

    English too where they name an encoding other than UTF-8, since the terminal could not show what we would write.
    """
    locale = next((value for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := environment.get(name))), "")
    if _plain(locale) in _PLAIN_LOCALES or not _is_utf8(environment):
        return None
    for name in (environment.get("LANGUAGE") or locale).split(":"):
        wanted = _plain(name)
        if wanted in LANGUAGES:
            return wanted
        if wanted in _PLAIN_LOCALES or wanted.partition("_")[0] == "en":
            return None
    return None


def _plain(locale: str) -> str:
    """`zh_TW` of `zh_TW.UTF-8@radical`."""
    return locale.partition("@")[0].partition(".")[0]


def _is_utf8(environment: Mapping[str, str]) -> bool:
    """Whether the locale's encoding, if it names one, and those of our streams can show any language."""
    locale = next((value for name in ("LC_ALL", "LC_CTYPE", "LANG") if (value := environment.get(name))), "")
    named = locale.partition("@")[0].partition(".")[2]
    encodings = [named or "utf-8", *(getattr(stream, "encoding", None) or "" for stream in (sys.stdout, sys.stderr))]
    return all(encoding.lower().replace("-", "").replace("_", "") == "utf8" for encoding in encodings)


def begin() -> None:
    """Choose the language of this run of a command, and of click's own words, which it looks up by the standard
    library's gettext.

    In English nothing is read. A catalogue that is missing or broken is as if there were none.
    """
    global _chosen  # noqa: PLW0603  (as gettext's own: one language a process)
    language = choose_language()
    _chosen = gettext.NullTranslations() if language is None else _read(LOCALES, language)
    if is_translated():
        gettext.bindtextdomain(DOMAIN, str(LOCALES))
    gettext.textdomain(DOMAIN if is_translated() else "messages")  # the latter is where the standard library begins


def translate(message: str) -> str:
    """In the language of this run; as it is where that has no words for it. Before `begin`: English."""
    return _chosen.gettext(message) if message else ""  # the empty one is the catalogue's header


def is_translated() -> bool:
    """Whether this run of a command speaks another language than English."""
    return isinstance(_chosen, gettext.GNUTranslations)


def cells(text: str) -> int:
    """How wide it is on a terminal."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


@cache
def _read(folder: Path, language: str) -> gettext.NullTranslations:
    try:
        return gettext.translation(DOMAIN, folder, [language])
    except Exception:  # the parser raises whatever it stumbles over; help in English is better than none
        return gettext.NullTranslations()


def page_messages(language: str) -> dict[str, str]:
    """The page's strings in one of LANGUAGES, by the English ones. Raises OSError if the catalogue cannot be read."""
    return context_messages(language, PAGE_CONTEXT)


def context_messages(language: str, context: str) -> dict[str, str]:
    """The strings of one msgctxt, likewise."""
    prefix = context + "\x04"
    messages = read_messages(LOCALES / language / "LC_MESSAGES" / f"{DOMAIN}.mo")
    return {key.removeprefix(prefix): text for key, text in messages.items() if key.startswith(prefix)}


def read_messages(path: Path) -> dict[str, str]:
    """All of a compiled catalogue; keys have `context NUL-4` before the text where there is one. Raises OSError."""
    data = path.read_bytes()

    def text(table: int, index: int) -> str:
        length, offset = struct.unpack_from("<2I", data, table + 8 * index)
        if offset + length > len(data):
            raise ValueError("cut off")
        return data[offset : offset + length].decode()

    try:
        magic, _, count, keys, texts = struct.unpack_from("<5I", data)
        if magic != 0x950412DE:
            raise ValueError("no catalogue, or of the other byte order")
        return {text(keys, index): text(texts, index) for index in range(count)}
    except (ValueError, struct.error) as error:
        raise OSError(f"{path}: {error}") from None
