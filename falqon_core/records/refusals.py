"""Refusals of lines, each with a code and what to do: features that are not supported, and formats
whose fields have other names.
"""

from collections.abc import Mapping, Set
from typing import Any

from falqon_core.records.jsonl import Unusable

# Fields that only their refusal reads, listed so that no table loses them either.
REFUSED_FIELDS = (
    "chat_template_kwargs",
    "completions",
    "kto_tag",
    "label",
    "labels",
    "reference_answer",
    "schemaVersion",
    "weight",
)
_TARGETS = (
    "messages",
    "preferred_output",
    "non_preferred_output",
    "conversations",
    "completion",
    "chosen",
    "rejected",
)
_MEDIA = {"images": "vision", "videos": "vision", "audios": "audio"}
_OF_FORMATS = frozenset(("schemaVersion", "body", "completions"))
_BATCH_FIELDS = ("custom_id", "method", "url")
_PAIR = "rename '{}' to 'prompt' and '{}' to 'completion'"
# Fields of data sets whose names are others here.
_RENAMES: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("instruction", "context", "response"),
        "rename 'context' to 'input' and 'response' to 'output'",
    ),
    (("instruction", "response"), "rename 'response' to 'output'"),
    (("instruction", "completion"), "rename 'completion' to 'output'"),
    (
        ("prompt", "query", "response"),
        "rename 'prompt' to 'instruction', 'query' to 'input' and 'response' to 'output'",
    ),
    (("prompt", "response"), "rename 'response' to 'completion'"),
    (("prompt", "output"), "rename 'output' to 'completion'"),
    (("prompt", "answer"), "rename 'answer' to 'completion'"),
    (("question", "answer"), _PAIR.format("question", "answer")),
    (("question", "response"), _PAIR.format("question", "response")),
    (("question", "output"), _PAIR.format("question", "output")),
    (("query", "response"), _PAIR.format("query", "response")),
    (("query", "answer"), _PAIR.format("query", "answer")),
    (("problem", "solution"), _PAIR.format("problem", "solution")),
    (("input", "output"), _PAIR.format("input", "output")),
    (("conversation",), "rename 'conversation' to 'messages'"),
    (("dialog",), "rename 'dialog' to 'messages'"),
    (("dialogue",), "rename 'dialogue' to 'messages'"),
)


def renaming(line: Mapping[str, Any]) -> str | None:
    """Return the fields of a known data set that are to be renamed, where the line is from one."""
    return next((advice for names, advice in _RENAMES if line.keys() >= set(names)), None)


def advice_on_missing(line: Mapping[str, Any], name: str) -> str:
    """Return the advice about a line without the field."""
    if advice := renaming(line):
        return advice
    if name == "completion":
        return "add the answer to learn as 'completion'; a prompt alone teaches nothing"
    if name == "prompt" and "chosen" in line and "rejected" in line:
        return (
            "write the beginning that both texts share as 'prompt', and only the answers as "
            "'chosen' and 'rejected'"
        )
    return "add it"


def refuse_formats(line: Mapping[str, Any]) -> None:
    """Raise `Unusable` for a line of a format that no shape here is near to."""
    if _OF_FORMATS.isdisjoint(line):
        return
    if isinstance(line.get("schemaVersion"), str):
        message = "this is a line for Amazon Bedrock"
        advice = (
            "write each 'content' and 'system' as a text instead of a list, and remove "
            "'schemaVersion'"
        )
        raise Unusable(("schemaVersion",), message, advice, "bedrock_not_supported")
    is_batch = isinstance(line.get("body"), dict) and not line.keys().isdisjoint(_BATCH_FIELDS)
    if is_batch and line.keys().isdisjoint(_TARGETS):
        message = "this is a request for the Batch API, which asks a model and teaches it nothing"
        advice = (
            "write what stands in 'body.messages' as 'messages', and behind it the assistant's "
            "answer as the last message"
        )
        raise Unusable(("body",), message, advice, "batch_request_not_supported")
    if isinstance(line.get("completions"), list) and "completion" not in line:
        message = "answers judged step by step are not supported"
        advice = "write the right steps as one text in 'completion', and remove the other fields"
        raise Unusable(("completions",), message, advice, "stepwise_not_supported")


def refuse_features(line: dict[str, Any], fields: Set[str]) -> None:
    """Raise `Unusable` for what a line asks of its training beside the fields of its shape."""
    if "text" in fields or len(line) == 1:
        return
    for key in _TARGETS:
        if key in line and key not in fields:
            raise _two_shapes(key, line)
    if line.get("output") and {"instruction", "chosen"} <= fields:
        raise _two_shapes("output", line)
    for key, kind in _MEDIA.items():
        if line.get(key):
            message = f"{key}: not supported, only text is trained"
            raise Unusable(
                (key,), message, "remove the field, or the line", f"{kind}_not_supported"
            )
    if line.get("chat_template_kwargs"):
        message = "variables of the chat template for one line are not supported"
        advice = "set falqon.chat_template_kwargs for the whole job, and remove the field"
        code = "template_variables_not_supported"
        raise Unusable(("chat_template_kwargs",), message, advice, code)
    if line.get("reference_answer") is not None:
        message = "reinforcement fine-tuning, which grades answers, is not supported"
        advice = "write the wanted answer as the last assistant message and remove the field"
        raise Unusable(("reference_answer",), message, advice, "reinforcement_not_supported")
    for key in ("label", "kto_tag"):
        if _is_verdict(line.get(key)):
            message = "answers judged one by one (KTO) are not supported"
            advice = "keep the good ones without the field, or write pairs for method dpo"
            raise Unusable((key,), message, advice, "kto_not_supported")
    if line.get("weight") not in (None, 1):
        message = "a weight of a whole line is not supported"
        raise Unusable(
            ("weight",), message, "repeat or remove the line", "line_weight_not_supported"
        )
    if "preferred_output" in fields and (line.get("tools") or line.get("functions")):
        message = "the tools of a preference record belong into 'input'"
        key = "tools" if line.get("tools") else "functions"
        raise Unusable((key,), message, "move them there", "invalid_record")
    if "conversations" in fields and line.get("tools"):
        message = "tools in ShareGPT are not supported"
        raise Unusable(("tools",), message, "write 'messages'", "sharegpt_tools_not_supported")


def _is_verdict(value: Any) -> bool:
    return isinstance(value, bool) or value in ("true", "false", "True", "False")


def _two_shapes(key: str, line: Mapping[str, Any]) -> Unusable:
    advice = "keep those of one"
    if key in ("chosen", "rejected") and "messages" in line:
        advice = "rename 'messages' to 'prompt'"
    return Unusable((key,), "the line has targets of two shapes", advice, "ambiguous_record")
