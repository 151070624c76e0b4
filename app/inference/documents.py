"""Answers of an engine as JSON objects, and the one answer that they are together. Free of the web
framework.
"""

import json
from collections.abc import Sequence
from typing import Any

from app.inference.questions import EngineRequest
from app.inference.refusals import EngineError
from app.inference.rewriting import Rewriter, trim
from app.inference.usage import UsageTally, usage_of

ENGINE_FIELDS = ("timings", "usage")  # the engine's own figures, and the usage of one choice


def join(
    questions: Sequence[EngineRequest],
    documents: Sequence[dict[str, Any]],
    rewriter: Rewriter,
    tally: UsageTally,
    *,
    is_private: bool,
) -> dict[str, Any]:
    """Return the answers to the single requests of one request as its answer."""
    choices = [
        choice
        for question, document in zip(questions, documents, strict=True)
        for choice in question.place(choices_of(document))
    ]
    document = strip(documents[0]) | {"choices": choices}
    if all(usage_of(each) for each in documents):
        document["usage"] = tally.document(is_private=is_private)
    trim(document)
    rewriter.rewrite(document)
    return document


def parse(raw: bytes) -> dict[str, Any]:
    """Return an answer or an event of the engine. Raises `EngineError`."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise EngineError("The engine's response is not a JSON object.")
    return document


def strip(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in ENGINE_FIELDS}


def choices_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    choices = document.get("choices")
    if not isinstance(choices, list):
        return []
    return [choice for choice in choices if isinstance(choice, dict)]
