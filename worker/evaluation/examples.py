"""The best answers of a model and its worst ones, beside the expected ones."""

import json
from collections.abc import Sequence
from typing import Any

from app.models.evaluation import AnswerExample, RankedAnswer
from worker.evaluation.rows import EvaluationRow

NUM_EXAMPLES = 3  # of the best answers, and of the worst
MAX_CHARACTERS = 1_000  # of each text


def rank(ranked: Sequence[RankedAnswer], answer: RankedAnswer) -> list[RankedAnswer]:
    """Return the best answers so far and the worst ones, the best first; of equal ones, that of the
    earlier row.
    """
    shortened = answer.model_copy(update={"answer": shorten(answer.answer)})
    best_first = sorted(
        [*ranked, shortened], key=lambda each: ([-score for score in each.scores], each.row)
    )
    if len(best_first) <= 2 * NUM_EXAMPLES:
        return best_first
    return best_first[:NUM_EXAMPLES] + best_first[-NUM_EXAMPLES:]


def examples(
    ranked: Sequence[RankedAnswer], rows: Sequence[EvaluationRow]
) -> tuple[list[AnswerExample], list[AnswerExample]]:
    """Return the best answers, best first, and the worst ones, worst first; none is both."""
    shown = [_example(answer, rows[answer.row]) for answer in ranked]
    return shown[:NUM_EXAMPLES], shown[NUM_EXAMPLES:][::-1]


def shorten(value: Any) -> str:
    """Return a text that a database keeps, cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.replace("\0", "\ufffd").encode(errors="replace").decode()
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"


def _example(answer: RankedAnswer, row: EvaluationRow) -> AnswerExample:
    return AnswerExample(
        line=row.line,
        prompt=shorten(row.prompt),
        expected=shorten(row.item["reference"]),
        answer=answer.answer,
        scores=answer.scores,
    )
