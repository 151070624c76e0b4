"""Errors of a request. Services raise these; `error_handlers` decides their form on the wire."""

import re
from typing import Any

from pydantic import ValidationError

from app.base.plain_words import in_plain_words

FAULT_CODES = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}


class ApiError(Exception):
    status: int = 500
    type: str = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        self.headers = headers or {}


class InvalidRequest(ApiError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class IllegalState(ApiError):
    """The object exists but is past, or not yet at, the state that this needs. 400, because clients
    repeat a 409.
    """

    status = 400
    type = "invalid_request_error"
    code = "illegal_state"


class InvalidApiKey(ApiError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(ApiError):
    status = 403
    type = "invalid_request_error"
    code = "insufficient_permissions"


class NotFound(ApiError):
    """Also raised for objects of another project."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class FencedOut(ApiError):
    """The calling worker has lost its job; it must stop without writing anything."""

    status = 409
    type = "invalid_request_error"
    code = "fenced_out"

    def __init__(self) -> None:
        super().__init__("Another attempt has the job, or it has ended.")


class Busy(ApiError):
    """Another call does the same at the moment; unlike after other conflicts, clients are to repeat
    the request.
    """

    status = 409
    type = "invalid_request_error"

    def __init__(self, message: str, *, param: str, code: str, retry_after_seconds: int) -> None:
        headers = {"retry-after": str(retry_after_seconds), "x-should-retry": "true"}
        super().__init__(message, param=param, code=code, headers=headers)


class UploadTooSlow(ApiError):
    status = 408
    type = "invalid_request_error"
    code = "upload_too_slow"

    def __init__(self) -> None:
        super().__init__("The bytes of this upload come too slowly; send them again, faster.")


class TooLarge(ApiError):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class IdempotencyMismatch(ApiError):
    status = 422
    type = "invalid_request_error"
    code = "idempotency_mismatch"


class UnsupportedEncoding(ApiError):
    status = 415
    type = "invalid_request_error"
    code = "unsupported_content_encoding"


class RangeNotSatisfiable(ApiError):
    status = 416
    type = "invalid_request_error"
    code = "range_not_satisfiable"


class RateLimited(ApiError):
    """Too many requests at the moment; the same request may succeed after `retry-after`."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class QuotaExceeded(ApiError):
    """A quota of the project is used up, so a retry after a few seconds fails, too."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message, param=param, headers={"x-should-retry": "false"})


class BytesMissing(ApiError):
    """The storage lacks an object that a row names; another process removed it."""

    code = "bytes_missing"


class Unavailable(ApiError):
    status, code = 503, "service_unavailable"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message, code=code, headers={"retry-after": "2"})


def refusal_of(fault: Any) -> InvalidRequest:
    """Turn one of pydantic's errors into one of ours. Validators of combinations say "field:
    fault".
    """
    # The first part is body, query, path or header.
    path = [str(part) for part in fault["loc"][1:] if part != "[key]"]
    message = in_plain_words(fault)
    if fault["type"] == "value_error" and (field := re.match(r"([\w.]+): ", message)):
        path.append(field[1])
        message = message[field.end() :]
    param = ".".join(path) or None
    code = FAULT_CODES.get(fault["type"], "invalid_value")
    if fault["type"] == "literal_error" and "[key]" in fault["loc"]:
        code = "unknown_parameter"
    return InvalidRequest(f"{param}: {message}" if param else message, param=param, code=code)


def refusal_of_body(error: ValidationError) -> InvalidRequest:
    """Return the refusal of a request body that did not come over HTTP, as the API words it."""
    fault = error.errors(include_url=False)[0]
    return refusal_of(fault | {"loc": ("body", *fault["loc"])})
