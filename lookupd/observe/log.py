"""Log lines: changes of state, one line each, `event key=value`, to stderr. Never one per packet."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime

_PLAIN = re.compile(r"[\w./:+@*\[\]-]+")


def log(event: str, **fields: object) -> None:
    """Write one line. Values with blanks or control characters are quoted as JSON, so a line stays a line."""
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    parts = [at, event, *(f"{name}={_text(value)}" for name, value in fields.items())]
    print(" ".join(parts), file=sys.stderr, flush=True)


def _text(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
