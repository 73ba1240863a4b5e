"""Log lines: changes of state, one line each, to stderr, as `event key=value` or as JSON. Never one per packet.

Which events there are, their ids and what they mean is in `events`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from datetime import UTC, datetime
from typing import Literal

from lookupd.observe.events import EVENTS, PRIORITIES

_PLAIN = re.compile(r"[\w./:+@*\[\]-]+")
_format: Literal["text", "json"] = "text"


def use_format(form: Literal["text", "json"]) -> None:
    """How lines are written from now on: `log.format`."""
    global _format  # noqa: PLW0603 - a process has one stderr
    _format = form


def log(event: str, **fields: object) -> None:
    """Write one line. Values with blanks or control characters are quoted as JSON, so a line stays a line."""
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    known = EVENTS.get(event)  # a test sees to it that each is there
    number, level = (known.id, known.level) if known else ("LK0000", "error")
    if _format == "json":
        texts = {name: value if isinstance(value, int | float) else str(value) for name, value in fields.items()}
        line = json.dumps({"time": at, "event": event, "id": number, "level": level} | texts, ensure_ascii=False)
    else:
        line = " ".join([at, event, *(f"{name}={_text(value)}" for name, value in fields.items()), f"id={number}"])
    priority = f"<{PRIORITIES[level]}>" if "JOURNAL_STREAM" in os.environ else ""
    print(f"{priority}{line}", file=sys.stderr, flush=True)


def _text(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
