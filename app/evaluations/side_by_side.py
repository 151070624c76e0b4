"""Answers of several jobs to the same held-out rows, beside each other."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.evaluations import repository
from app.evaluations.answers import ComparedRow, compare_rows
from app.models import Evaluation, EvaluationAnswer

ROWS_PER_PAGE = 10


@dataclass(frozen=True, slots=True)
class JobAnswer:
    """Answer of a job's model. `graders`: names, in the order of the scores."""

    job_id: str
    text: str | None
    scores: list[float]
    graders: list[str]


@dataclass(frozen=True, slots=True)
class SharedRow:
    line: int
    prompt: str
    expected: str
    answers: list[JobAnswer]


@dataclass(frozen=True, slots=True)
class SharedAnswers:
    job_ids: list[str]  # jobs that have answered the rows
    rows: list[SharedRow]  # of this page
    num_rows: int
    page: int
    num_pages: int


@dataclass(frozen=True, slots=True)
class _Answered:
    """An evaluation with its rows by their lines in the file."""

    evaluation: Evaluation
    rows: Mapping[int, ComparedRow]


def read_shared(
    session: Session, project_id: str, job_ids: Sequence[str], page: int
) -> SharedAnswers | None:
    """Return a page of the rows that at least two jobs have answered in their newest evaluations,
    those first whose scores differ most; None where there are none.
    """
    newest = [repository.newest_completed(session, project_id, job_id) for job_id in job_ids]
    found = [evaluation for evaluation in newest if evaluation is not None]
    files = Counter(evaluation.file_id for evaluation in found)
    (file_id, num_alike), *_ = files.most_common(1) or [("", 0)]
    if num_alike < 2:
        return None
    answered = [
        _Answered(evaluation, _rows_by_line(session, evaluation))
        for evaluation in found
        if evaluation.file_id == file_id
    ]
    lines = set.intersection(*(set(each.rows) for each in answered))
    if not lines:
        return None
    ordered = sorted(lines, key=lambda line: (-_spread(answered, line), line))
    shown = ordered[(page - 1) * ROWS_PER_PAGE : page * ROWS_PER_PAGE]
    return SharedAnswers(
        job_ids=[each.evaluation.job_id for each in answered],
        rows=_read_rows(session, answered, shown),
        num_rows=len(lines),
        page=page,
        num_pages=-(-len(lines) // ROWS_PER_PAGE),
    )


def _rows_by_line(session: Session, evaluation: Evaluation) -> dict[int, ComparedRow]:
    lines = repository.lines_of(session, evaluation.id)
    rows = {row.number: row for row in compare_rows(evaluation)}
    return {line: rows[number] for number, line in lines.items() if number in rows}


def _spread(answered: Sequence[_Answered], line: int) -> float:
    means = [statistics.fmean(each.rows[line].scores) for each in answered]
    return max(means) - min(means)


def _read_rows(
    session: Session, answered: Sequence[_Answered], lines: Sequence[int]
) -> list[SharedRow]:
    texts = [
        repository.answers_of(
            session, each.evaluation.id, [each.rows[line].number for line in lines]
        )
        for each in answered
    ]
    shared = []
    for line in lines:
        of_jobs = [
            _answer(each, each.rows[line], of_evaluation)
            for each, of_evaluation in zip(answered, texts, strict=True)
        ]
        first = texts[0][answered[0].rows[line].number]
        shared.append(SharedRow(line, first.prompt, first.expected, of_jobs))
    return shared


def _answer(
    answered: _Answered, row: ComparedRow, texts: Mapping[int, EvaluationAnswer]
) -> JobAnswer:
    evaluation = answered.evaluation
    graders = [grader.name for grader in evaluation.plan.graders]
    return JobAnswer(evaluation.job_id, texts[row.number].answer, row.scores, graders)
