"""Description of the API: FastAPI's own, derived from the endpoints, and every response that does
not come from an endpoint.
"""

from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

Json = dict[str, Any]

# Faults in a request are answered with 400 and our own body.
UNUSED_SCHEMAS = ("HTTPValidationError", "ValidationError")


def _rate_limit_headers(unit: str, limit: str, remaining: str) -> Json:
    """Return the three headers of a rate limit, with these descriptions of the first two."""
    return {
        f"x-ratelimit-limit-{unit}": {
            "description": limit,
            "schema": {"type": "string", "pattern": "^[0-9]+$"},
        },
        f"x-ratelimit-remaining-{unit}": {
            "description": remaining,
            "schema": {"type": "string", "pattern": "^[0-9]+$"},
        },
        f"x-ratelimit-reset-{unit}": {
            "description": "until none is used",
            "schema": {"type": "string", "pattern": r"^[0-9]+\.[0-9]{3}s$"},
        },
    }


HEADERS: Json = {
    "x-request-id": {
        "description": "id of the request in the log",
        "required": True,
        "schema": {"type": "string"},
    },
    "x-should-retry": {
        "description": "the same request fails again",
        "required": True,
        "schema": {"type": "string", "enum": ["false"]},
    },
    "retry-after": {
        "description": "seconds",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    **_rate_limit_headers("requests", "requests that the key may make in a minute", "of these"),
}
# Headers of inference endpoints, in addition to those of the request rate.
HEADERS_OF_TOKENS: Json = _rate_limit_headers(
    "tokens",
    "tokens that models may read and write for the key in a minute",
    "the remaining ones; without those of an answer that is still streamed",
)
# A rate limit passes, a quota does not; `code` tells them apart.
HEADERS_OF_429: Json = {
    name: HEADERS[name] | {"required": False} for name in ("retry-after", "x-should-retry")
} | {
    "retry-after-ms": {
        "description": "milliseconds",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    }
}
DESCRIPTIONS = {
    400: (
        "The request is not valid, or the state of the object does not allow it; see `code` and "
        "`param`"
    ),
    401: "No API key, or an unknown one",
    403: "The API key lacks the right",
    404: "There is no such object in the key's project",
    413: "The body is larger than this call accepts",
    415: "The body is compressed",
    429: "The key exceeds its rate limit, or a quota of its project is used up",
    422: "The idempotency key was used with another body",
    500: "An error of the server",
    503: "Database or storage are unavailable",
}


class Error(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    error: Error


def describe(app: FastAPI) -> Callable[[], Json]:
    derived = app.openapi

    def openapi() -> Json:
        return app.openapi_schema or _complete(derived())

    return openapi


def _complete(schema: Json) -> Json:
    components = schema["components"]
    for name in UNUSED_SCHEMAS:
        components["schemas"].pop(name, None)
    envelope = ErrorResponse.model_json_schema(ref_template="#/components/schemas/{model}")
    components["schemas"] |= envelope.pop("$defs") | {"ErrorResponse": envelope}
    components["headers"] = HEADERS
    for operations in schema["paths"].values():
        for operation in operations.values():
            operation["responses"] = dict(sorted(_responses(operation).items()))
    return schema


def _responses(operation: Json) -> Json:
    responses: Json = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422", "")):
        del responses["422"]
    for status in _statuses(operation):
        responses.setdefault(str(status), {"description": DESCRIPTIONS[status]})
    for name, response in responses.items():
        if int(name) >= HTTPStatus.BAD_REQUEST and "content" not in response:
            response["content"] = {
                "application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}
            }
        shared: Json = {
            header: {"$ref": f"#/components/headers/{header}"}
            for header in _headers(int(name), bool(_rights(operation)))
        }
        if int(name) == HTTPStatus.TOO_MANY_REQUESTS:
            shared |= HEADERS_OF_429
        response["headers"] = shared | response.get("headers", {})
    return responses


def _statuses(operation: Json) -> Iterator[int]:
    """Return the statuses of the errors that the machinery around an endpoint, or its dependencies,
    can respond with.
    """
    parameters = operation.get("parameters", [])
    yield 500
    if parameters or "requestBody" in operation:
        yield 400
    if any(parameter["in"] == "path" for parameter in parameters):
        yield 404
    if any(parameter["name"] == "Idempotency-Key" for parameter in parameters):
        yield 422
    if rights := _rights(operation):
        yield from (401, 413, 415, 429, 503)
        if rights != {"infer"}:
            yield 403


def _rights(operation: Json) -> set[str]:
    return {
        right
        for requirement in operation.get("security", [])
        for rights in requirement.values()
        for right in rights
    }


def _headers(status: int, of_key: bool) -> Iterator[str]:
    yield "x-request-id"
    if of_key:
        yield from (name for name in HEADERS if name.startswith("x-ratelimit-"))
    if (
        HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
        and status != HTTPStatus.TOO_MANY_REQUESTS
    ):
        yield "x-should-retry"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        yield "retry-after"
