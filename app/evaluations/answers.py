"""Answers of an evaluation, row by row: those of its last model beside those of the base."""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy.orm import Session

from app.evaluations import repository
from app.models import Evaluation, EvaluationAnswer

ROWS_PER_PAGE = 20

Outcome = Literal["better", "worse", "same"]


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """Scores are in the order of the graders."""

    number: int
    base_scores: list[float]
    scores: list[float]

    def gain(self, grader: int) -> float:
        return self.scores[grader] - self.base_scores[grader]

    def outcome(self, grader: int) -> Outcome:
        gain = self.gain(grader)
        if gain == 0:
            return "same"
        return "better" if gain > 0 else "worse"


@dataclass(frozen=True, slots=True)
class AnswersPage:
    rows: list[tuple[ComparedRow, EvaluationAnswer]]
    counts: dict[Outcome, int]  # of all rows that both models have answered
    num_rows: int  # that match the filter
    page: int
    num_pages: int


def read_page(
    session: Session, evaluation: Evaluation, grader: int, outcome: Outcome | None, page: int
) -> AnswersPage:
    """Return a page of the rows with this outcome by a grader: the largest difference first, and
    without an outcome in the order of the file.
    """
    compared = compare_rows(evaluation)
    outcomes: tuple[Outcome, ...] = ("better", "worse", "same")
    of_rows = [row.outcome(grader) for row in compared]
    matching = compared
    if outcome is not None:
        matching = [row for row in compared if row.outcome(grader) == outcome]
        matching.sort(key=lambda row: -abs(row.gain(grader)))
    shown = matching[(page - 1) * ROWS_PER_PAGE : page * ROWS_PER_PAGE]
    answers = repository.answers_of(session, evaluation.id, [row.number for row in shown])
    return AnswersPage(
        rows=[(row, answers[row.number]) for row in shown if row.number in answers],
        counts={each: of_rows.count(each) for each in outcomes},
        num_rows=len(matching),
        page=page,
        num_pages=max(1, -(-len(matching) // ROWS_PER_PAGE)),
    )


def compare_rows(evaluation: Evaluation) -> list[ComparedRow]:
    """Return the rows that the base and the last model have answered."""
    models = evaluation.plan.models
    base, last = (
        evaluation.scores.by_model.get(model.model, []) for model in (models[0], models[-1])
    )
    # The last model may be at work still.
    pairs = enumerate(zip(base, last, strict=False))
    return [
        ComparedRow(number, of_base, of_last)
        for number, (of_base, of_last) in pairs
        if of_base is not None and of_last is not None
    ]
