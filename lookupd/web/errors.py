"""Errors of the HTTP API: one JSON object, whatever went wrong: what, and the way out where there is one."""

from __future__ import annotations

from aiohttp import web

from lookupd.observe.log import log
from lookupd.settings import Permission
from lookupd.web import CLIENT, Handler, json_response
from lookupd.web.guard import Refused

API = "/v1/"


class Problem(Exception):
    """What a request is answered with instead. retry: seconds, where asking again may help."""

    def __init__(self, status: int, error: str, way_out: str | None = None, *, retry: int | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.way_out, self.retry = status, error, way_out, retry

    def told(self) -> dict[str, str]:
        """In words."""
        return {"error": self.error} if self.way_out is None else {"error": self.error, "way_out": self.way_out}

    def response(self) -> web.Response:
        """As it is sent."""
        headers = {} if self.retry is None else {"Retry-After": str(self.retry)}
        return json_response(self.told(), status=self.status, headers=headers)


def need(request: web.Request, permission: Permission) -> None:
    """Raises Problem unless the client may."""
    if permission not in request[CLIENT].may:
        raise Problem(403, f"this client may not see this: it needs {permission!r}", "[[client]] may = [...]")


def refusal(request: web.Request, refused: Refused) -> web.Response:
    """In words; below /v1/ as JSON."""
    response = refused.response()
    if request.path.startswith(API):
        response.content_type = "application/json"
        response.body = Problem(refused.status, refused.text).response().body
    return response


@web.middleware
async def told_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Below /v1/ an error is JSON, also one that the library raises: an unknown path, a method that is not there."""
    try:
        return await handler(request)
    except Problem as problem:
        return problem.response()
    except web.HTTPException as error:
        if not request.path.startswith(API) or error.status < 400:
            raise
        response = Problem(error.status, (error.text or error.reason).strip()).response()
        response.headers.update(
            {name: error.headers[name] for name in ("Allow", "Retry-After") if name in error.headers}
        )
        return response
    except ConnectionError:
        return web.Response()  # to nobody: the client is gone
    except Exception as error:
        resource = request.match_info.route.resource  # its pattern: a path may hold a number
        log("http_failed", message=f"{request.method} {resource and resource.canonical}", error=type(error).__name__)
        return Problem(500, "a fault of the program: its log has more").response()
