"""The best answers of a model and its worst ones, beside the expected and the base's answers."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from app.models import EvaluationAnswer
from app.models.evaluation import AnswerExample, AnswerScores, EvaluationPlan

NUM_EXAMPLES = 3  # of the best answers, and of the worst
MAX_CHARACTERS = 1_000  # of each text


def choose_examples(plan: EvaluationPlan, scores: AnswerScores) -> tuple[list[int], list[int]]:
    """Return the rows of the last model's best answers, best first, and of its worst ones, worst
    first: of equal ones the earlier row is better. No row is both, and every model has answered it.
    """
    columns = [scores.by_model[model.model] for model in plan.models]
    graded = enumerate(zip(*columns, strict=True))
    ranked = sorted(
        ([-score for score in row[-1]], number) for number, row in graded if None not in row
    )
    best_first = [number for _, number in ranked]
    return best_first[:NUM_EXAMPLES], best_first[NUM_EXAMPLES:][-NUM_EXAMPLES:][::-1]


def examples_of(
    numbers: Sequence[int],
    answers: Mapping[int, EvaluationAnswer],
    scores: Sequence[list[float] | None],
) -> list[AnswerExample]:
    """Return the answers to these rows, without those of an attempt that stored none."""
    return [
        AnswerExample(
            line=answers[number].line,
            prompt=answers[number].prompt,
            expected=answers[number].expected,
            answer=answers[number].answer or "",
            base_answer=answers[number].base_answer,
            scores=scores[number] or [],
        )
        for number in numbers
        if number in answers
    ]


def shorten(value: Any) -> str:
    """Return a text that a database keeps, cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.replace("\0", "\ufffd").encode(errors="replace").decode()
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"
