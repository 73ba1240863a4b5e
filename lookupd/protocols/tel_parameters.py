"""RFC 4694's parameters of a number that was dipped: `npdi`, `rn`, `cic` and their contexts, for ENUM and SIP alike."""

from __future__ import annotations

import re

from lookupd.model import Route
from lookupd.profiles import NumberForm

_HEX_DIGITS = re.compile(r"[0-9A-Fa-f]+")


def parameters(form: NumberForm, rn: str | None, cic: str | None, npdi: str = "npdi") -> str:
    """With a semicolon before each, in the order of their names, as RFC 3261 section 19.1.6 wants a user part's.

    rn: without a context it is sent in its global form, with `+` (RFC 4694 section 4). cic: needs `form.cic_context`.
    npdi: as it is to be written.
    """
    text = ""
    if cic is not None:
        text += f";cic={cic};cic-context={form.cic_context}"
    text += f";{npdi}"
    if rn is not None:
        text += f";rn={rn};rn-context={form.rn_context}" if form.rn_context else f";rn=+{rn}"
    return text


def routing_number(form: NumberForm, route: Route) -> str | None:
    """The `rn` of a ported number's route; None when neither its network nor the profile has one."""
    return route.routing_number or form.unmapped_routing_number or None


def carrier_code(form: NumberForm, route: Route) -> str | None:
    """The `cic` of a route, None when the profile sends none or the network's code is not of hexadecimal digits."""
    return route.network_code if form.cic_context and _HEX_DIGITS.fullmatch(route.network_code) else None
