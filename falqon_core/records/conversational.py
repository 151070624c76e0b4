"""Lines as TRL has them, whose parts are texts or lists of messages: a prompt with its completion,
or with a chosen and a rejected answer.

They become lines of `records.shapes` before they are checked, so that every rule of those applies;
`locate` leads a fault back to what was written.
"""

from typing import Any

from falqon_core.records.fields import Rewritten
from falqon_core.records.jsonl import Unusable
from falqon_core.records.openai_lines import Path
from falqon_core.records.refusals import advice_on_missing


def chat_of_completion(line: dict[str, Any]) -> Rewritten:
    """Return the chat of prompt and completion, of which the completion is learned."""
    prompt = _messages(line, "prompt", "user")
    completion = _messages(line, "completion", "assistant")
    if not completion:
        raise _fault("completion", "the completion is empty", "write the answer")

    def locate(path: Path) -> Path:
        match path:
            case ("messages", int(index), *rest):
                return _position("prompt", prompt, "completion", index, rest)
        return path

    rest = {key: inner for key, inner in line.items() if key not in ("prompt", "completion")}
    messages = [*map(_unlearned, prompt), *completion]
    return Rewritten(rest | {"messages": messages}, locate)


def preference_of_pair(line: dict[str, Any]) -> Rewritten:
    """Return the preference record of a chosen and a rejected answer. Both may begin with the
    chat that they answer, alone or after the prompt.
    """
    chosen = _messages(line, "chosen", "assistant")
    rejected = _messages(line, "rejected", "assistant")
    if not chosen or not rejected:
        raise _fault("rejected" if chosen else "chosen", "an answer is empty", "write the answer")
    history = chosen[:-1]
    if history != rejected[:-1]:
        message = "'chosen' and 'rejected' differ before their last message"
        raise _fault("rejected", message, "write one chat with two last messages")
    prompt: list[Any] = []
    if line.get("prompt") is not None or not history:
        prompt = _messages(line, "prompt", "user")
    if prompt and history[-len(prompt) :] == prompt:
        prompt = []

    def locate(path: Path) -> Path:
        match path:
            case ("input", "messages", int(index), *rest):
                return _position("prompt", prompt, "chosen", index, rest)
            case ("input", *rest):
                return tuple(rest)
            case ("preferred_output", *rest):
                return ("chosen", len(history), *rest[1:]) if rest else ("chosen",)
            case ("non_preferred_output", *rest):
                return ("rejected", len(history), *rest[1:]) if rest else ("rejected",)
        return path

    chat: dict[str, Any] = {"messages": prompt + history}
    rest: dict[str, Any] = {}
    for key, inner in line.items():
        if key in ("tools", "functions", "parallel_tool_calls"):
            chat[key] = inner
        elif key not in ("prompt", "chosen", "rejected"):
            rest[key] = inner
    outputs = {"preferred_output": chosen[-1:], "non_preferred_output": rejected[-1:]}
    return Rewritten(rest | {"input": chat} | outputs, locate)


def _messages(line: dict[str, Any], key: str, role: str) -> list[Any]:
    match line.get(key):
        case str(text):
            return [{"role": role, "content": text}]
        case dict(message):
            return [message]
        case list(messages):
            return messages
        case None:
            raise _fault(key, "Field required", advice_on_missing(line, key))
    raise _fault(key, "expected text or a list of messages", "write one of the two")


def _unlearned(message: Any) -> Any:
    is_answer = isinstance(message, dict) and message.get("role") == "assistant"
    return message | {"weight": 0} if is_answer else message


def _position(first: str, messages: list[Any], second: str, index: int, rest: list[Any]) -> Path:
    if index < len(messages):
        return (first, index, *rest)
    return (second, index - len(messages), *rest)


def _fault(key: str, message: str, advice: str) -> Unusable:
    return Unusable((key,), message, advice, "invalid_record")
