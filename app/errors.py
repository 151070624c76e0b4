"""What a request can fail with. Services raise these; `error_handlers` alone knows how they look on the wire."""


class ApiError(Exception):
    status: int = 500
    type: str = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        self.headers = headers or {}


class InvalidRequest(ApiError):
    status, type, code = 400, "invalid_request_error", "invalid_value"


class IllegalState(ApiError):
    """The object exists but is past, or not yet at, the point where this can be done. 400, because clients repeat a 409."""

    status, type, code = 400, "invalid_request_error", "illegal_state"


class InvalidApiKey(ApiError):
    status, type, code = 401, "invalid_request_error", "invalid_api_key"


class Forbidden(ApiError):
    status, type, code = 403, "invalid_request_error", "insufficient_permissions"


class NotFound(ApiError):
    """Also for what exists but belongs to another project."""

    status, type, code = 404, "invalid_request_error", "not_found"


class TooLarge(ApiError):
    status, type, code = 413, "invalid_request_error", "request_too_large"


class IdempotencyMismatch(ApiError):
    status, type, code = 422, "invalid_request_error", "idempotency_mismatch"


class UnsupportedEncoding(ApiError):
    status, type, code = 415, "invalid_request_error", "unsupported_content_encoding"


class RangeNotSatisfiable(ApiError):
    status, type, code = 416, "invalid_request_error", "range_not_satisfiable"


class RateLimited(ApiError):
    """Too many requests just now; the same request may succeed after `retry-after`."""

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class QuotaExceeded(ApiError):
    """A quota of the project is used up, which waiting a few seconds does not change."""

    status, type, code = 429, "insufficient_quota", "insufficient_quota"

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message, param=param, headers={"x-should-retry": "false"})


class BytesMissing(ApiError):
    """A row names what the storage does not hold; somebody else removed it."""

    code = "bytes_missing"


class Unavailable(ApiError):
    status, code = 503, "service_unavailable"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message, code=code, headers={"retry-after": "2"})
