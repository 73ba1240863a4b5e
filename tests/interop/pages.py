"""The configurations on the pages of docs/integration, as a reader copies them.

A fenced block whose first line is a comment that names a file is that file; tests run it, so that a page and what is
tested cannot drift apart.
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
INTEGRATION = DOCS / "integration"

_FENCED = re.compile(r"^```[a-z]*\n(?P<head>[^\n]*\n)(?P<rest>.*?)^```$", re.MULTILINE | re.DOTALL)


def block(page: str, name: str) -> str:
    """The one block of a page (`kamailio-enum.md`) whose first line, a comment, ends with this name of a file."""
    return block_of(INTEGRATION / page, name)


def block_of(page: Path, name: str) -> str:
    """As `block`, of a page anywhere."""
    text = page.read_text()
    found = [match["head"] + match["rest"] for match in _FENCED.finditer(text) if match["head"].split()[-1:] == [name]]
    assert len(found) == 1, f"{page}: {len(found)} blocks are named {name}"
    return found[0]
