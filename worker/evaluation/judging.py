"""Scores of a model that judges answers, for a `score_model` grader."""

import json
import sys
from typing import Any

from app.inference.schemas import ChatCompletionRequest
from app.models.graders import ScoreModel
from worker.evaluation.asking import Asker, EngineRefused, Question
from worker.evaluation.grading import Item, fill
from worker.evaluation.rows import CHAT_PATH

MAX_TOKENS = 512  # of a judgement
FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "score",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"result": {"type": "number"}},
            "required": ["result"],
            "additionalProperties": False,
        },
    },
}


class NotJudged(Exception):
    """The judge gave no score; with the reason."""


class Judge:
    """The models that judge the answers of one evaluation."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    def score(self, grader: ScoreModel, item: Item, answer: str) -> float:
        """Return the score, between 0 and 1. Raises `NotJudged`, `MissingField` and what the asker
        raises.
        """
        question = Question(CHAT_PATH, _body(grader, item, answer))
        (reply,) = self._asker.ask(grader.model, [question], is_judge=True)
        if isinstance(reply, EngineRefused):
            raise NotJudged(reply.message)
        low, high = grader.range
        return (min(high, max(low, _read(grader, reply))) - low) / (high - low)


def _body(grader: ScoreModel, item: Item, answer: str) -> bytes:
    low, high = grader.range
    form = f'\n\nReply with JSON only: {{"result": NUMBER}}, the number from {low:g} to {high:g}.'
    messages = [
        {"role": message.role, "content": fill(message.content, item, answer)}
        for message in grader.input
    ]
    messages[-1]["content"] += form
    fields = {
        "model": grader.model,
        "messages": messages,
        "max_tokens": MAX_TOKENS,
        "temperature": 0.0,
        "response_format": FORMAT,
    }
    return ChatCompletionRequest.model_validate(fields).for_engine()


def _read(grader: ScoreModel, reply: str) -> float:
    try:
        document: Any = json.loads(reply)
    except (ValueError, RecursionError):
        document = None
    match document:
        case {"result": float() | int() as result} if type(result) is not bool:
            if abs(result) <= sys.float_info.max:  # neither NaN nor a number of 400 digits
                return float(result)
    raise NotJudged(f"{grader.model} gave no score for '{grader.name}': {reply[:200]!r}")
