"""`GET /v1/openapi.json`: the API as OpenAPI 3.1 has it, for tools. docs/protocols/http.md says it to people.

Written beside the handlers, and held to them by a run of schemathesis against a daemon.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from lookupd import __version__
from lookupd.limits import HTTP_ARRAY_NUMBERS_MAX, HTTP_ENTRIES_MAX, NUMBER_CHARS_MAX
from lookupd.model import AnswerView, Measure, Outcome, Vitals
from lookupd.web import Route, json_response

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_WHOLE: Schema = {"type": "integer"}
_WHOLE_OR_NULL: Schema = {"type": ["integer", "null"]}
_OBJECT: Schema = {"type": "object"}
_MOMENT: Schema = {"type": "string", "format": "date-time"}
_ASKED_MOMENT: Schema = {
    "type": "string",
    "pattern": "^(197[1-9]|19[89][0-9]|20[0-9]{2})-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
    "T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](Z|[+-](0[0-9]|1[0-4]):00)$",
    "description": "RFC 3339, from 1971 on.",
    "example": "2026-11-22T14:03:00+08:00",
}


def routes() -> list[Route]:
    """For whoever is on the list: it tells of nobody."""
    told = document()

    async def handler(_: web.Request) -> web.Response:
        return json_response(told, headers={"Cache-Control": "no-cache"})

    return [Route("GET", "/v1/openapi.json", handler, None)]


def document() -> Schema:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "lookupd",
            "version": __version__,
            "description": "Whether a number was ported and which network serves it, and how the replica is.",
        },
        "servers": [{"url": "/"}],
        "paths": _paths(),
        "components": {"schemas": _schemas(), "securitySchemes": _security()},
        "security": [{}, {"bearer": []}, {"basic": []}],
    }


def _security() -> Schema:
    return {
        "bearer": {"type": "http", "scheme": "bearer", "description": "The client's token; beyond loopback."},
        "basic": {"type": "http", "scheme": "basic", "description": "Any name, and the token as the password."},
    }


# -- schemas ---------------------------------------------------------------------------------------------


def _schemas() -> Schema:
    from lookupd.web import openapi_batches, openapi_risk

    (_, vitals), found = msgspec.json.schema_components(
        [AnswerView, Vitals], ref_template="#/components/schemas/{name}"
    )
    assert vitals["$ref"].endswith("/Vitals")
    answer = found.pop("AnswerView")
    answer |= {"title": "Answer", "description": "Keys never vanish; what is absent is null."}
    answer["properties"]["restriction"] = _restriction()
    answer["properties"]["outcome"] = {"enum": [outcome.label for outcome in Outcome]}
    return found | {
        "Answer": answer,
        "Error": _record({"error": _TEXT}, {"way_out": _TEXT, "line": _WHOLE}),
        "Imsi": _record(
            {"imsi": _TEXT, "restriction": _restriction(), "serial": _WHOLE, "age_seconds": _WHOLE_OR_NULL}
        ),
        "AnswerOrError": {"anyOf": [_ref("Answer"), _ref("Error")]},
        "Replica": _replica(),
        "Status": _record({"now": _MOMENT, "replica": _ref("Replica"), "peer": _or_null("Replica"), "pair": _pair()}),
        "Receipt": _receipt(),
        "Feed": _feed(),
        "Feeds": _feeds(),
        "Entry": _entry(),
        "Batch": openapi_batches.batch(),
        "RiskCheck": openapi_risk.risk_check(),
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(name: str) -> Schema:
    return {"anyOf": [_ref(name), {"type": "null"}]}


def _record(needed: Schema, more: Schema | None = None) -> Schema:
    return {"type": "object", "properties": needed | (more or {}), "required": list(needed)}


def _restriction() -> Schema:
    """The strictest that is in force."""
    found = _record({"kind": {"enum": [measure.label for measure in Measure]}, "until": _MOMENT})
    return {"anyOf": [found, {"type": "null"}]}


def _replica() -> Schema:
    needed = {"name": _TEXT_OR_NULL, "ready": {"type": ["boolean", "null"]}, "vitals": _or_null("Vitals")}
    texts = ("version", "engine", "reason", "withdrawn", "digest", "started_at")
    wholes = ("serial", "age_seconds", "ported", "blocks", "damaged_blocks", "uptime_seconds")
    more = dict.fromkeys(texts, _TEXT_OR_NULL) | dict.fromkeys(wholes, _WHOLE_OR_NULL) | {"up": {"type": "boolean"}}
    return _record(needed, more)


def _pair() -> Schema:
    fields = {
        "state": {"enum": ["alone", "agrees", "behind", "ahead", "differs"]},
        "verdict": {"enum": ["we", "they", "undecided", None]},
        "why": _TEXT_OR_NULL,
        "lag_files": _WHOLE,
        "lag_seconds": {"type": "number"},
        "summary": _TEXT,
    }
    return {"anyOf": [_record(fields), {"type": "null"}]}


def _receipt() -> Schema:
    moments = dict.fromkeys(("received_at", "confirmed_at"), _MOMENT)
    return _record(
        dict.fromkeys(("serial", "sequence", "applied", "pending"), _WHOLE)
        | moments
        | {"type": _TEXT, "source": _TEXT, "visible_at": _TEXT_OR_NULL, "visible_seconds": {"type": ["number", "null"]}}
    )


def _feed() -> Schema:
    return _record(
        {
            "feed": _TEXT,
            "sequence": _WHOLE,
            "type": _TEXT,
            "created_at": _TEXT_OR_NULL,
            "confirmed_at": _MOMENT,
            "age_seconds": _WHOLE,
            "receipts": {"type": "array", "items": _ref("Receipt")},
            "exchange": {"type": ["object", "null"]},
        }
    )


def _feeds() -> Schema:
    return _record(
        {
            "limits": _record({"port": {"type": "number"}, "return": {"type": "number"}}),
            "feeds": {"type": "array", "items": _ref("Feed")},
            "pending": _WHOLE_OR_NULL,
            "next_moment": _TEXT_OR_NULL,
            "exchange_reason": _TEXT_OR_NULL,
        }
    )


def _entry() -> Schema:
    """What is always there; docs/history.md has every field."""
    return _record(
        {"serial": _WHOLE, "kind": _TEXT, "applied_at": _MOMENT, "added": _WHOLE, "removed": _WHOLE, "changed": _WHOLE},
        {"tn": _TEXT_OR_NULL, "tn_to": _TEXT_OR_NULL, "ref": _TEXT_OR_NULL, "feed": _TEXT_OR_NULL},
    )


# -- paths -----------------------------------------------------------------------------------------------


def _paths() -> Schema:
    from lookupd.web import openapi_batches, openapi_risk

    return {
        "/v1/numbers/{number}": {
            "get": _operation(
                "The answer to a number, or as it was at a moment",
                "Answer",
                parameters=[_number(), _as_of(), _header("If-None-Match", "The ETag of an answer that is known.")],
                others={304: None, 400: "AnswerOrError", 404: "Error", 429: "AnswerOrError", 503: "AnswerOrError"},
                headers={"ETag": {"schema": _TEXT, "description": "Of the data; not with as_of."}},
            )
        },
        "/v1/numbers/{number}/explanation": {
            "get": _operation(
                "Each step to the answer, and the history of the number",
                _OBJECT,
                parameters=[_number(), _as_of()],
                others={400: "Error", 404: "Error", 429: "Error", 503: "Error"},
            )
        },
        "/v1/numbers": {"post": _many()},
        "/v1/imsis/{imsi}": {
            "get": _operation(
                "What is placed on an IMSI",
                "Imsi",
                parameters=[_imsi()],
                others={400: "Error", 429: "Error", 503: "Error"},
            )
        },
        "/v1/status": {"get": _operation("The replica and its peer, side by side", "Status")},
        "/v1/feeds": {"get": _operation("The feeds, and their clocks", "Feeds", others={503: "Error"})},
        "/v1/notices": {
            "get": _operation("The newest changes", _list("notices", "Entry"), others={503: "Error"}),
        },
        "/v1/journal": {"get": _journal()},
        "/v1/openapi.json": {"get": _operation("This document", _OBJECT)},
        **openapi_batches.paths(),
        **openapi_risk.paths(),
    }


def _number() -> Schema:
    schema = {"type": "string", "pattern": rf"^[+]?[0-9][0-9 .()-]{{0,{NUMBER_CHARS_MAX - 2}}}$"}
    words = "Digits, with + before a country code, or national; blanks, dots, hyphens and brackets are passed over."
    return {"name": "number", "in": "path", "required": True, "schema": schema, "description": words}


def _imsi() -> Schema:
    schema = {"type": "string", "pattern": "^[0-9]{14,15}$"}
    return {"name": "imsi", "in": "path", "required": True, "schema": schema, "description": "14 or 15 digits."}


def _as_of() -> Schema:
    return _query("as_of", _ASKED_MOMENT, "The answer as it was at this time; needs the permission `history`.")


def _query(name: str, schema: Schema, words: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": words}


def _header(name: str, words: str) -> Schema:
    return {"name": name, "in": "header", "schema": _TEXT, "description": words}


def _list(name: str, item: str) -> Schema:
    return _record({name: {"type": "array", "items": _ref(item)}})


def _operation(
    summary: str,
    found: str | Schema,
    *,
    parameters: list[Schema] | None = None,
    others: dict[int, str | None] | None = None,
    headers: Schema | None = None,
) -> Schema:
    """found: the schema of 200. others: of further statuses; 401 and 403 are everywhere."""
    schema = _ref(found) if isinstance(found, str) else found
    answered: Schema = {"description": "As asked.", "content": {"application/json": {"schema": schema}}}
    if headers:
        answered["headers"] = headers
    responses: Schema = {"200": answered}
    for status, name in ({401: "Error", 403: "Error"} | (others or {})).items():
        responses[str(status)] = {"description": _STATUS_WORDS[status]}
        if name is not None:
            responses[str(status)]["content"] = {"application/json": {"schema": _ref(name)}}
    return {"summary": summary, "responses": responses} | ({"parameters": parameters} if parameters else {})


_STATUS_WORDS = {
    304: "The answer that is known still holds.",
    400: "Not what can be asked; the error says why.",
    401: "Beyond loopback: without a token or a certificate.",
    403: "The client is on no list, or may not ask for this.",
    404: "Before the kept history; no such batch.",
    408: "The body stopped coming.",
    409: "Not in this state; or the same upload is under way.",
    413: "Too much at once.",
    415: "A body of another kind.",
    422: "The same key was used for something else; or a time too far ahead.",
    429: "Over the client's rate, or its number of batches; Retry-After says when to ask again.",
    503: "No data to answer from; Retry-After says when to ask again.",
    507: "The disk has no room.",
}


def _many() -> Schema:
    # A body of lines has no schema: whatever stands in a line, a line comes back that says so.
    number: Schema = {"anyOf": [_TEXT, _WHOLE | {"minimum": 0}]}
    asked = {"anyOf": [*number["anyOf"], _record({"number": number})]}
    operation = _operation(
        "The answers to many numbers, in their order",
        {"type": "array", "items": _ref("AnswerOrError")},
        others={400: "Error", 408: "Error", 413: "Error", 415: "Error"},
    )
    lines = {"schema": _TEXT, "example": '{"number":"+886912345678","outcome":"ported",...}\n'}
    operation["responses"]["200"]["content"]["application/x-ndjson"] = lines
    operation["requestBody"] = {
        "required": True,
        "description": "Lines are answered while they arrive, each by a line; an array by an array.",
        "content": {
            "application/json": {"schema": {"type": "array", "items": asked, "maxItems": HTTP_ARRAY_NUMBERS_MAX}},
            "application/x-ndjson": {"schema": {}, "example": '"+886912345678"\n"0912345679"\n'},
            "text/plain": {"schema": {}, "example": "+886912345678\n0912345679\n"},
        },
    }
    return operation


def _journal() -> Schema:
    found = _record({"entries": {"type": "array", "items": _ref("Entry")}, "next": _WHOLE_OR_NULL})
    return _operation(
        "Entries of the journal, the newest first",
        found,
        parameters=[
            _query("number", {"type": "string", "pattern": "^[+]?[1-9][0-9]{4,14}$"}, "Only those of this number."),
            _query("ref", _TEXT, "Only those with this reference of the sender."),
            _query("since", _ASKED_MOMENT, "Only those from this time on."),
            _query("before", {"type": "integer", "minimum": 1}, "Only serials below: `next` of the page before."),
            _query("limit", {"type": "integer", "minimum": 1, "maximum": HTTP_ENTRIES_MAX}, "At most so many."),
        ],
        others={400: "Error", 503: "Error"},
    )
