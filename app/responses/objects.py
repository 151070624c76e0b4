"""Response objects, made of chat completions."""

import time
from typing import Any

from app.base.ids import new_id
from app.responses.schemas import ResponseRequest

Document = dict[str, Any]
ECHOED = (
    "instructions",
    "max_output_tokens",
    "previous_response_id",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "temperature",
    "top_p",
    "user",
)


def begun(request: ResponseRequest, response_id: str, *, is_stored: bool) -> Document:
    """Return a response before its first token."""
    sent = request.model_dump(mode="json", by_alias=True, exclude={"input"})
    text = sent["text"] or {}
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": request.model,
        "output": [],
        "parallel_tool_calls": sent["parallel_tool_calls"] is not False,
        "tool_choice": sent["tool_choice"] or "auto",
        "tools": sent["tools"] or [],
        "text": {"format": text.get("format") or {"type": "text"}},
        "truncation": "disabled",
        "store": is_stored,
        "metadata": request.metadata or {},
        "usage": None,
    } | {name: sent[name] for name in ECHOED}


def ended(
    response: Document,
    answer: Document,
    output: list[Document],
    usage: Document,
    *,
    is_cut: bool,
) -> Document:
    """Return a response with the items of the engine's answer. `is_cut`: by the most tokens, maybe
    before its first item or in its thoughts.
    """
    return response | {
        "status": "incomplete" if is_cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "model": answer.get("model", response["model"]),
        "output": output,
        "usage": usage_of(usage),
    }


def whole(response: Document, answer: Document) -> Document:
    """Return a response with the answer of an engine that was not streamed."""
    choices = answer["choices"]
    output = [item for choice in choices for item in output_of(choice)]
    return ended(response, answer, output, answer["usage"], is_cut=any(map(is_cut, choices)))


def is_cut(choice: Document) -> bool:
    return bool(choice.get("finish_reason") == "length")


def output_of(choice: Document) -> list[Document]:
    """Return the items that a choice of a chat completion is."""
    message = choice["message"]
    status = "incomplete" if is_cut(choice) else "completed"
    items = []
    if thoughts := message.get("reasoning_content"):
        items.append(reasoning_item(thoughts, status="completed"))
    calls = message.get("tool_calls") or []
    if message.get("content") or not calls:
        items.append(message_item(message.get("content") or "", status=status))
    items += [call_item(call, status=status) for call in calls]
    return items


def message_item(text: str, *, status: str, item_id: str | None = None) -> Document:
    return {
        "id": item_id or new_id("msg_"),
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [text_part(text)],
    }


def text_part(text: str) -> Document:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def reasoning_item(text: str, *, status: str, item_id: str | None = None) -> Document:
    return {
        "id": item_id or new_id("rs_"),
        "type": "reasoning",
        "status": status,
        "summary": [],
        "content": [{"type": "reasoning_text", "text": text}],
    }


def call_item(call: Document, *, status: str, item_id: str | None = None) -> Document:
    function = call.get("function") or {}
    return {
        "id": item_id or new_id("fc_"),
        "type": "function_call",
        "status": status,
        "call_id": call.get("id") or new_id("call_"),
        "name": function.get("name") or "",
        "arguments": function.get("arguments") or "",
    }


def usage_of(usage: Document) -> Document:
    details = usage.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens", 0)
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }
