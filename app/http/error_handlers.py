from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from obstore.exceptions import BaseError as StorageError
from sqlalchemy.exc import DataError, SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from app.base.database import DATABASE_UNAVAILABLE_ERRORS
from app.base.errors import ApiError, IllegalState, InvalidRequest, Unavailable, refusal_of
from app.base.logging import redact_keys
from app.base.storage.reach import KeyTaken
from app.http import form_errors
from app.http.not_served import advice_for
from falqon_core.contract.errors import is_disk_full

HTTP_CODES = {
    404: "unknown_url",
    405: "method_not_allowed",
    413: "request_too_large",
}
MAX_SHOWN = 100  # characters of a header
REPEATABLE_STATUSES = {408, 429}  # the 4xx after which a client may repeat the request unchanged

log = structlog.get_logger()


def install(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(DataError, _on_text_no_database_keeps)
    for unreachable in DATABASE_UNAVAILABLE_ERRORS:
        app.add_exception_handler(unreachable, _on_database_error)
    app.add_exception_handler(KeyTaken, _on_key_taken)
    app.add_exception_handler(StorageError, _on_storage_error)
    app.add_exception_handler(OSError, _on_os_error)


def body(message: str, type: str, param: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def internal_error() -> JSONResponse:
    message = (
        "The server had an error while processing your request. Search the log for the request id."
    )
    return JSONResponse(body(message, "server_error", None, "internal_error"), 500)


def answer(error: ApiError) -> JSONResponse:
    headers = dict(error.headers)
    if error.status < 500 and error.status not in REPEATABLE_STATUSES:
        headers.setdefault("x-should-retry", "false")
    return JSONResponse(
        body(redact_keys(error.message), error.type, error.param, error.code), error.status, headers
    )


def _on_api_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return answer(error)


def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    if isinstance(error.body, bytes):  # FastAPI parses only declared JSON
        kind = request.headers.get("content-type", "")
        came = f"as {kind[:MAX_SHOWN]}" if kind else "without one"
        return answer(
            InvalidRequest(f"Send Content-Type: application/json; this body came {came}.")
        )
    return answer(refusal_of(error.errors()[0]))


def on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ApiError):
        return answer(error.__cause__)
    if isinstance(error.__cause__, OSError):  # a body that did not fit into a temporary file
        return _on_os_error(request, error.__cause__)
    if error.status_code == 400:
        return answer(form_errors.refusal_of(error))
    message = {
        404: f"Unknown request URL: {request.method} {request.url.path}",
        405: f"Not allowed: {request.method} {request.url.path}",
    }.get(error.status_code, str(error.detail))
    headers = (
        {"allow": _allowed(request)} if error.status_code == 405 else dict(error.headers or {})
    )
    code = HTTP_CODES.get(error.status_code, "invalid_request")
    if error.status_code == 404 and (advice := advice_for(request.url.path)):
        message, code = advice, "not_served"
    refusal = ApiError(message, code=code, headers=headers)
    refusal.status = error.status_code
    refusal.type = "invalid_request_error"
    return answer(refusal)


def _allowed(request: Request) -> str:
    """Return every method of the address.

    Each method has a route of its own, and the router matches only the first.
    """
    routes = [route for route in iter_route_contexts(request.app.routes) if route.methods]
    path = next(
        (route.path for route in routes if route.path_regex.match(request.scope["path"])), None
    )
    methods = {method for route in routes if route.path == path for method in route.methods or ()}
    return ", ".join(sorted(methods)) or "GET, HEAD"


def _on_text_no_database_keeps(_request: Request, _error: Exception) -> JSONResponse:
    return answer(InvalidRequest("A value holds a character that cannot be stored, such as NUL."))


def _on_database_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SQLAlchemyError)
    log.error("database unavailable", error=str(error.__cause__ or error))
    return answer(
        Unavailable("The database is unavailable; try again.", code="database_unavailable")
    )


def _on_key_taken(_request: Request, error: Exception) -> JSONResponse:
    return answer(IllegalState(f"Objects are written once: {error}.", code="key_taken"))


def _on_storage_error(_request: Request, error: Exception) -> JSONResponse:
    log.error("storage failed", error=str(error))
    return answer(Unavailable("The storage is unavailable.", code="storage_unavailable"))


def _on_os_error(_request: Request, error: Exception) -> JSONResponse:
    if not is_disk_full(error):
        raise error
    log.error("the disk is full", error=str(error))
    return answer(Unavailable("The server has no space left to store this.", code="storage_full"))
