"""Which dialect is framed how in a TCP stream."""

from __future__ import annotations

from collections.abc import Callable

from lookupd.protocols.framing import ENUM_FRAMING, NPQ_FRAMING, Framing
from lookupd.protocols.sip_framing import SipFraming

FRAMINGS: dict[str, Callable[[], Framing]] = {
    "npq": lambda: NPQ_FRAMING,
    "enum": lambda: ENUM_FRAMING,
    "sip": SipFraming,
}
"""By dialect: the framing of a new connection."""
