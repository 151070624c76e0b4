from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Evaluation, EvaluationAnswer, OperationStatus


def find(session: Session, project_id: str, job_id: str, evaluation_id: str) -> Evaluation | None:
    statement = select(Evaluation).where(
        Evaluation.id == evaluation_id,
        Evaluation.project_id == project_id,
        Evaluation.job_id == job_id,
    )
    return session.scalars(statement).one_or_none()


def newest_first(
    session: Session, project_id: str, job_id: str, *, after: str | None, limit: int
) -> list[Evaluation]:
    """Return the newest first, at most one more than `limit`."""
    statement = select(Evaluation).where(
        Evaluation.project_id == project_id, Evaluation.job_id == job_id
    )
    if after is not None:
        statement = statement.where(Evaluation.id < after)
    return list(session.scalars(statement.order_by(Evaluation.id.desc()).limit(limit + 1)))


def newest_completed(session: Session, project_id: str, job_id: str) -> Evaluation | None:
    statement = select(Evaluation).where(
        Evaluation.project_id == project_id,
        Evaluation.job_id == job_id,
        Evaluation.status == OperationStatus.COMPLETED,
    )
    return session.scalars(statement.order_by(Evaluation.id.desc()).limit(1)).one_or_none()


def lines_of(session: Session, evaluation_id: str) -> dict[int, int]:
    """Return the lines in the file of the rows whose answers are stored, by their numbers."""
    statement = select(EvaluationAnswer.number, EvaluationAnswer.line).where(
        EvaluationAnswer.evaluation_id == evaluation_id
    )
    lines: dict[int, int] = dict(session.execute(statement).all())
    return lines


def answers_of(
    session: Session, evaluation_id: str, numbers: Sequence[int]
) -> dict[int, EvaluationAnswer]:
    """Return the answers to these rows, by their numbers."""
    statement = select(EvaluationAnswer).where(
        EvaluationAnswer.evaluation_id == evaluation_id, EvaluationAnswer.number.in_(numbers)
    )
    return {answer.number: answer for answer in session.scalars(statement)}
