"""Lines of a training file, made of stored answers."""

import json
from typing import Any

Json = dict[str, Any]
CHAT_FIELDS = ("messages", "tools", "parallel_tool_calls")


def given_message(document: Json) -> Json | None:
    """Return the first message of an answer; None for one that is cut or empty."""
    if document["object"] == "response":
        return _message_of_output(document)
    choice = document["choices"][0]
    if choice.get("finish_reason") in ("length", "content_filter"):
        return None
    message: Json = choice["message"]
    has_answer = any(message.get(name) for name in ("content", "tool_calls", "function_call"))
    return message if has_answer else None


def corrected_text(message: Json | None) -> str | None:
    """Return the text of a correction, empty without one; None for one with more than a text."""
    if message is None:
        return ""
    content = message.get("content")
    is_text = isinstance(content, str) and message.keys() <= {"role", "content"}
    return content if is_text else None


def supervised_line(question: Json, answer: Json) -> bytes:
    chat = {name: question[name] for name in CHAT_FIELDS if question.get(name) is not None}
    return _line(chat | {"messages": [*question["messages"], answer]})


def preference_line(question: Json, corrected: Json, given: Json) -> bytes:
    chat = {name: question[name] for name in CHAT_FIELDS if question.get(name) is not None}
    return _line({"input": chat, "preferred_output": [corrected], "non_preferred_output": [given]})


def _line(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def _message_of_output(document: Json) -> Json | None:
    if document["status"] != "completed":
        return None
    texts = [
        part["text"]
        for item in document["output"]
        if item["type"] == "message"
        for part in item["content"]
        if part["type"] == "output_text"
    ]
    calls = [
        {
            "id": item["call_id"],
            "type": "function",
            "function": {"name": item["name"], "arguments": item["arguments"]},
        }
        for item in document["output"]
        if item["type"] == "function_call"
    ]
    if not texts and not calls:
        return None
    message: Json = {"role": "assistant", "content": "".join(texts) or None}
    return message | {"tool_calls": calls} if calls else message
