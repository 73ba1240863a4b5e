"""One batch of messages: bytes in, bytes out. The Python path defines what is right."""

from __future__ import annotations

ENGINE = "python"
"""Which engine serves UDP."""
