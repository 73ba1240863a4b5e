"""The path of risk checks, as OpenAPI has it; the document itself is `openapi`'s."""

from __future__ import annotations

from lookupd.limits import AUDIT_PURPOSE_CHARS_MAX
from lookupd.model import Outcome
from lookupd.web.openapi import _ASKED_MOMENT as ASKED_MOMENT
from lookupd.web.openapi import _MOMENT as MOMENT
from lookupd.web.openapi import _TEXT as TEXT
from lookupd.web.openapi import _TEXT_OR_NULL as TEXT_OR_NULL
from lookupd.web.openapi import _WHOLE as WHOLE
from lookupd.web.openapi import _WHOLE_OR_NULL as WHOLE_OR_NULL
from lookupd.web.openapi import Schema
from lookupd.web.openapi import _number as number
from lookupd.web.openapi import _operation as operation
from lookupd.web.openapi import _query as query
from lookupd.web.openapi import _record as record
from lookupd.web.openapi import _restriction as restriction

_FLAG: Schema = {"type": "boolean"}


def risk_check() -> Schema:
    """See `risk.RiskView`."""
    move = record(
        {
            "at": MOMENT,
            "kind": {"enum": ["port", "return", "correct", "snapshot"]},
            "from_network": TEXT_OR_NULL,
            "to_network": TEXT_OR_NULL,
            "serial": WHOLE,
        }
    )
    return record(
        {
            "number": TEXT,
            "as_of": MOMENT,
            "outcome": {"enum": [outcome.label for outcome in Outcome]},
            "network_code": TEXT_OR_NULL,
            "operator": TEXT_OR_NULL,
            "last_ported_at": TEXT_OR_NULL,
            "last_ported_from": TEXT_OR_NULL,
            "last_ported_to": TEXT_OR_NULL,
            "window_from": MOMENT,
            "window_seconds": WHOLE,
            "window_covered": _FLAG,
            "ports": WHOLE,
            "returns": WHOLE,
            "restriction": restriction(),
            "restricted_in_window": _FLAG,
            "known_since": MOMENT,
            "moves": {"type": "array", "items": move},
            "is_cut": _FLAG,
            "serial": WHOLE,
            "age_seconds": WHOLE_OR_NULL,
        }
    )


def paths() -> Schema:
    """By path and method."""
    purpose: Schema = {
        "type": "string",
        "pattern": f"^[A-Za-z0-9][A-Za-z0-9 .,:/-]{{0,{AUDIT_PURPOSE_CHARS_MAX - 1}}}$",
        "example": "payment 4711",
    }
    window: Schema = {"type": "string", "pattern": "^([1-9][0-9]{0,2})d$", "example": "180d"}
    parameters = [
        number(),
        query("purpose", purpose, "Why it is asked; kept in the audit.") | {"required": True},
        query("as_of", ASKED_MOMENT, "As it was at this time."),
        query("window", window, "How far back from there ports are counted."),
    ]
    answered = operation(
        "A number's past for a risk check; audited",
        "RiskCheck",
        parameters=parameters,
        others={400: "Error", 404: "Error", 429: "Error", 503: "Error"},
    )
    return {"/v1/numbers/{number}/history": {"get": answered}}
