"""Questions to the operator's upstream, such as OpenAI, and its refusals. Free of the web
framework.

A question goes on as its client wrote it: nothing is put into an engine's words. What the upstream
refuses keeps its status and code.
"""

import json
from collections.abc import Mapping
from typing import Any

import httpx

from app.base.errors import ApiError
from app.inference.refusals import error_of
from app.inference.rewriting import Rewriter
from app.inference.schemas import ChatCompletionRequest, InferenceRequest
from app.inference.tool_calls import ToolCallRewriter
from app.inference.tool_choice import CallPlan
from app.models.alias import UPSTREAM_PREFIX

# Answers are stored here, and `functions` have become tools.
KEPT_FIELDS = {"store", "metadata", "functions", "function_call"}
ENGINE_FIELDS = ("chat_template_kwargs",)
RETRY_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry")
KEY_STATUSES = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
MIN_REFUSAL = 400


class UpstreamError(ApiError):
    """The upstream has refused, or has not answered; the status is its own."""

    def __init__(self, status: int, message: str, **options: Any) -> None:
        super().__init__(message, **options)
        self.status = status
        self.type = "invalid_request_error" if status < 500 else "server_error"


def question_for(body: InferenceRequest) -> tuple[bytes, Rewriter]:
    """Return the request for the upstream, and the rewriter of its answer."""
    fields = body.model_dump(
        mode="json", exclude_unset=True, exclude_none=True, exclude=KEPT_FIELDS
    )
    if body.stream:
        fields["stream_options"] = {"include_usage": True}
    rewriter = Rewriter()
    if isinstance(body, ChatCompletionRequest) and body.is_legacy:
        names = frozenset(tool["function"]["name"] for tool in fields.get("tools", ()))
        rewriter = ToolCallRewriter(CallPlan("native", names, "tool_calls", is_legacy=True))
    return json.dumps(fields).encode(), rewriter


def spell(question: bytes) -> bytes:
    """Return a request with the model's name there, and without what only engines know."""
    fields = json.loads(question)
    fields["model"] = fields["model"].removeprefix(UPSTREAM_PREFIX)
    for name in ENGINE_FIELDS:
        fields.pop(name, None)
    return json.dumps(fields).encode()


def refusal_of(
    status: int, raw: bytes, headers: Mapping[str, str], *, token: str = ""
) -> UpstreamError:
    """Return the upstream's refusal with its status and code. `token`: its key, which refusals
    repeat, and which no caller may see.
    """
    error = error_of(raw)
    code = error.get("code")
    message = error.get("message") or "it gives no reason"
    if status in KEY_STATUSES:
        message = "it does not take the key that this service has for it"
    elif token:
        message = str(message).replace(token, "***")
    param = error.get("param")
    return UpstreamError(
        status if status >= MIN_REFUSAL else httpx.codes.BAD_GATEWAY,
        f"The upstream has refused: {message}",
        code=code if isinstance(code, str) else "refused_by_upstream",
        param=param if isinstance(param, str) else None,
        headers={name: headers[name] for name in RETRY_HEADERS if name in headers},
    )


def failure_of(error: Exception) -> UpstreamError:
    """Return the error to raise for a connection that broke, or that brought nothing in time."""
    if isinstance(error, httpx.TimeoutException):
        message = "The upstream does not answer in time; try again."
        return UpstreamError(httpx.codes.GATEWAY_TIMEOUT, message, code="upstream_timeout")
    message = "The upstream does not answer; try again."
    return UpstreamError(httpx.codes.BAD_GATEWAY, message, code="upstream_unavailable")
