"""What stands beside an uploaded list: in the query how it is to be read, in a header the key of a repeated request.

The list itself is `batches`'.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from aiohttp import web

from lookupd.jobs import Wishes
from lookupd.limits import JOBS_AHEAD_SECONDS, JOBS_KEY_CHARS_MAX, JOBS_NAME_CHARS_MAX
from lookupd.units import parse_time
from lookupd.web.errors import Problem

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
"""By name: a tab or a semicolon in a query is easily lost on the way."""

ENCODINGS = ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "big5", "cp950")

_NUMBER = re.compile(r"[1-9][0-9]{0,3}")
_KEY = re.compile(rf"[!-~]{{1,{JOBS_KEY_CHARS_MAX}}}")
_KNOWN = frozenset({"column", "separator", "encoding", "split", "at", "name"})
_SWITCH = {"true": True, "false": False}


class Asked(NamedTuple):
    """at: when it is to begin. key: hashed with the client's name; empty = none."""

    name: str
    at: int | None
    wishes: Wishes
    key: str


def read_asked(request: web.Request, client: str, now: float) -> Asked:
    """Raises Problem, naming the parameter."""
    query = request.query
    for name in query:
        if name not in _KNOWN:
            raise Problem(400, f"{name[:40]}: no such parameter", f"known: {', '.join(sorted(_KNOWN))}")
        if len(query.getall(name)) > 1:
            raise Problem(400, f"{name}: is there twice")
    wishes = Wishes(
        _column(query.get("column")), _separator(query.get("separator")), _encoding(query.get("encoding")),
        _switch("split", query.get("split", "false")),
    )  # fmt: skip
    called = "".join(each if each.isprintable() else " " for each in _text("name", query.get("name", "")))
    return Asked(called, _moment(query.get("at"), now), wishes, _key(request, client))


def _text(name: str, text: str) -> str:
    if len(text) > JOBS_NAME_CHARS_MAX:
        raise Problem(400, f"{name}: at most {JOBS_NAME_CHARS_MAX} characters")
    return text


def _column(text: str | None) -> str | int | None:
    """By its number, or else its name."""
    if text is None:
        return None
    if not _text("column", text):
        raise Problem(400, "column: empty", "its name in the header, or its number from 1 on")
    return int(text) if _NUMBER.fullmatch(text) else text


def _separator(text: str | None) -> str | None:
    if text is None:
        return None
    found = SEPARATORS.get(text, text)
    if found not in SEPARATORS.values():
        raise Problem(400, f"separator: one of {', '.join(SEPARATORS)}")
    return found


def _encoding(text: str | None) -> str | None:
    if text is not None and text not in ENCODINGS:
        raise Problem(400, f"encoding: one of {', '.join(ENCODINGS)}")
    return text


def _switch(name: str, text: str) -> bool:
    if text not in _SWITCH:
        raise Problem(400, f"{name}: true or false")
    return _SWITCH[text]


def _moment(text: str | None, now: float) -> int | None:
    if text is None:
        return None
    try:
        moment = parse_time(text)
    except ValueError as error:
        raise Problem(400, f"at: {error}") from None
    if moment > now + JOBS_AHEAD_SECONDS:
        raise Problem(422, f"at: more than {JOBS_AHEAD_SECONDS // 86_400} days ahead")
    return moment


def _key(request: web.Request, client: str) -> str:
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        return ""
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise Problem(400, f"Idempotency-Key: one, of 1 to {JOBS_KEY_CHARS_MAX} letters, digits and signs")
    return hashlib.sha256(f"{client}\0{keys[0]}".encode()).hexdigest()
