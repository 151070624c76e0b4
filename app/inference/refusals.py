"""Meaning of an engine's refusal, in our words and its own. Free of the web framework."""

import httpx

from app.base.errors import ApiError, InvalidRequest, Unavailable

MAX_ERROR_BYTES = 65_536
NO_SUCH_TOKENS = "prompt: the model has no such tokens."
ENGINE_UNAVAILABLE = "engine_unavailable"
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
    message = _message_of(raw[:MAX_ERROR_BYTES])
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


def _message_of(raw: bytes) -> str:
    try:
        error = httpx.Response(200, content=raw).json()
        return str(error["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return raw.decode(errors="replace")[:300]
