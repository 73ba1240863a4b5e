"""The paths of batches, as OpenAPI has them; the document itself is `openapi`'s."""

from __future__ import annotations

from lookupd.jobs import STATES
from lookupd.limits import JOBS_KEY_CHARS_MAX, JOBS_NAME_CHARS_MAX
from lookupd.web.batch_wishes import ENCODINGS, SEPARATORS
from lookupd.web.openapi import _ASKED_MOMENT as ASKED_MOMENT
from lookupd.web.openapi import _MOMENT as MOMENT
from lookupd.web.openapi import _OBJECT as OBJECT
from lookupd.web.openapi import _TEXT as TEXT
from lookupd.web.openapi import _TEXT_OR_NULL as TEXT_OR_NULL
from lookupd.web.openapi import _WHOLE as WHOLE
from lookupd.web.openapi import Schema
from lookupd.web.openapi import _list as list_of
from lookupd.web.openapi import _operation as operation
from lookupd.web.openapi import _query as query
from lookupd.web.openapi import _record as record

_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"}}
_NETWORK = {
    "name": "network", "in": "path", "required": True,
    "schema": {"type": "string", "pattern": "^[0-9A-Za-z]{1,16}$"}, "description": "Its code, or `none`.",
}  # fmt: skip


def batch() -> Schema:
    """A job in words: see `batches.told`."""
    return record(
        {
            "id": TEXT,
            "name": TEXT,
            "state": {"enum": list(STATES)},
            "created_at": MOMENT,
            "at": TEXT_OR_NULL,
            "ended_at": TEXT_OR_NULL,
            "expires_at": MOMENT,
            "bytes": WHOLE,
            "bytes_done": WHOLE,
            "percent": {"type": "number"},
            "rows": WHOLE,
            "reason": TEXT_OR_NULL,
            "result": TEXT_OR_NULL,
            "results": {"type": "array", "items": TEXT},
            "summary": {"type": ["object", "null"]},
        }
    )


def paths() -> Schema:
    """By path and method."""
    here = "/v1/batches/{id}"
    gone: dict[int, str | None] = {404: "Error", 503: "Error"}
    not_now = gone | {409: "Error"}
    return {
        "/v1/batches": {
            "get": operation("The client's own jobs, the newest first", list_of("batches", "Batch"), others=gone),
            "post": _upload(),
        },
        here: {"get": operation("How far a job is", "Batch", parameters=[_ID], others=gone)},
        f"{here}/result": {"get": _file("The list with its answers", [_ID], not_now)},
        f"{here}/result/{{network}}.csv": {"get": _file("Those of one network", [_ID, _NETWORK], not_now)},
        f"{here}/summary": {"get": operation("Counts of a job", OBJECT, parameters=[_ID], others=not_now)},
        f"{here}/cancel": {"post": operation("End it", "Batch", parameters=[_ID], others=not_now)},
        f"{here}/delete": {
            "post": operation(
                "Forget it, and delete its files",
                record({"id": TEXT, "deleted": {"type": "boolean"}}),
                parameters=[_ID],
                others=gone,
            )
        },
    }


def _upload() -> Schema:
    text = {"type": "string", "maxLength": JOBS_NAME_CHARS_MAX}
    key = {"type": "string", "pattern": f"^[!-~]{{1,{JOBS_KEY_CHARS_MAX}}}$"}
    statuses = (400, 404, 408, 409, 413, 415, 422, 429, 503, 507)
    found = operation(
        "A list of numbers becomes a job",
        "Batch",
        parameters=[
            query("column", text | {"minLength": 1}, "Of the numbers: its name, or its number from 1 on."),
            query("separator", {"enum": [*SEPARATORS, *SEPARATORS.values()]}, "Between columns; else found out."),
            query("encoding", {"enum": list(ENCODINGS)}, "Of the text; else UTF-8, or by its byte-order mark."),
            query("split", {"enum": ["true", "false"]}, "Also a result for each network."),
            query("at", ASKED_MOMENT, "When it begins; else at once. At most 31 days ahead."),
            query("name", text, "What the client calls it."),
            {"name": "Idempotency-Key", "in": "header", "schema": key, "description": "Asked again, the same job."},
        ],
        others=dict.fromkeys(statuses, "Error"),
    )
    found["responses"]["201"] = found["responses"]["200"] | {
        "description": "It is a job.", "headers": {"Location": {"schema": TEXT, "description": "Of the job."}},
    }  # fmt: skip
    found["responses"]["200"] = found["responses"]["200"] | {"description": "It was one before, by its key."}
    packed = {"schema": {"type": "string", "format": "binary"}}
    found["requestBody"] = {
        "required": True,
        "description": "A line for each number, with whatever columns; as gzip or zstd, too.",
        "content": {
            "text/csv": {"schema": {"type": "string", "minLength": 1}, "example": "id,tn\nA1,0912345678\n"},
            "application/gzip": packed,
            "application/zstd": packed,
        },
    }
    return found


def _file(summary: str, parameters: list[Schema], others: dict[int, str | None]) -> Schema:
    found = operation(summary, TEXT, parameters=parameters, others=others | {304: None})
    csv = {"text/csv": {"schema": TEXT}}
    found["responses"]["200"]["content"] = csv
    found["responses"]["200"]["headers"] = {"ETag": {"schema": TEXT, "description": "Of the file."}}
    found["responses"]["206"] = {"description": "The part that Range asks for.", "content": csv}
    found["responses"]["416"] = {"description": "The file has no such part."}
    return found
