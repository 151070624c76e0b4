"""Meaning of an engine's refusal, in our words and its own. Free of the web framework."""

import json
from typing import Any

import httpx

from app.base.errors import ApiError, InvalidRequest, QuotaExceeded, Unavailable

MAX_ERROR_BYTES = 65_536
NO_SUCH_TOKENS = "prompt: the model has no such tokens."
ENGINE_UNAVAILABLE = "engine_unavailable"
BUSY_STATUSES = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
# Errors of an engine that does not respond, or no longer.
CONNECTION_ERRORS = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.TimeoutException)
# Errors before a connection is there: the engine has read nothing.
NEVER_SENT_ERRORS = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class EngineError(ApiError):
    """The engine has failed with this request, and might succeed with another one."""

    code = "engine_failed"


def refusal_of(status: int, raw: bytes, prompt_field: str = "messages") -> ApiError:
    """Turn the engine's error into one of ours, with its words. `prompt_field` is the user's field
    with the model's input.
    """
    message = _message_of(raw)
    match status:
        case 400 | 413 | 422:
            if "context" in message:
                return InvalidRequest(message, param=prompt_field, code="context_length_exceeded")
            if "invalid tokens" in message:
                return InvalidRequest(NO_SUCH_TOKENS, param=prompt_field)
            return InvalidRequest(message, code="refused_by_engine")
        case 404:
            return InvalidRequest(
                f"The engine does not have this model: {message}",
                param="model",
                code="model_not_loaded",
            )
        case 429 | 503:
            return Unavailable(f"The engine is busy: {message}", code="engine_busy")
    return EngineError(f"The engine has failed: {message}")


def is_busy(status: int, raw: bytes) -> bool:
    """Return whether the engine may take the request later; with a spent quota it does not."""
    return status in BUSY_STATUSES and error_of(raw).get("code") != QuotaExceeded.code


def error_of(raw: bytes) -> dict[str, Any]:
    """Return the error of an engine's answer; nothing if there is none that can be read."""
    try:
        error = json.loads(raw[:MAX_ERROR_BYTES])["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return error if isinstance(error, dict) else {"message": str(error)}


def _message_of(raw: bytes) -> str:
    return str(error_of(raw).get("message", raw.decode(errors="replace")[:300]))
