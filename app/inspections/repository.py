"""Questions and their answers. Free of the web framework: the worker answers through it."""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.ids import new_id
from app.models import File, Inspection, OperationStatus


class Question(NamedTuple):
    """Of a file: what is it to this model? With a validation file: and what do they share?"""

    file_id: str
    model_id: str
    max_seq_length: int
    validation_file_id: str  # empty for none


def find(session: Session, question: Question) -> Inspection | None:
    return session.scalars(select(Inspection).filter_by(**question._asdict())).one_or_none()


def of_file(session: Session, file_id: str) -> list[Inspection]:
    return list(session.scalars(select(Inspection).where(Inspection.file_id == file_id).order_by(Inspection.id)))


def tokens_of(session: Session, project_id: str, file_ids: Sequence[str]) -> dict[str, int]:
    """Tokens of one epoch, as the newest completed inspection of each file counted them."""
    tokens = Inspection.result["tokens_per_epoch"].as_integer().label("tokens")
    completed = (Inspection.file_id.in_(file_ids), Inspection.status == OperationStatus.COMPLETED)
    mine = select(Inspection.file_id, tokens).join(File, File.id == Inspection.file_id).where(File.project_id == project_id)
    statement = mine.where(*completed).order_by(Inspection.id)
    return {row.file_id: row.tokens for row in session.execute(statement)}


def num_in_progress(session: Session, project_id: str) -> int:
    statement = select(func.count()).select_from(Inspection).join(File, File.id == Inspection.file_id)
    return session.scalars(statement.where(File.project_id == project_id, Inspection.status == OperationStatus.IN_PROGRESS)).one()


def ask(session: Session, question: Question) -> None:
    """Nothing if somebody else has just asked the same."""
    with suppress(IntegrityError), session.begin_nested():
        session.add(Inspection(id=new_id("inspection-"), status=OperationStatus.IN_PROGRESS, **question._asdict()))


def exact_tokens(session: Session, file_id: str, model_id: str, max_seq_length: int) -> int | None:
    """Tokens of one epoch as the model's tokenizer counts them, when an inspection knows them for this length."""
    statement = select(Inspection.max_seq_length, Inspection.result).where(
        Inspection.file_id == file_id, Inspection.model_id == model_id, Inspection.status == OperationStatus.COMPLETED
    )
    for asked_length, result in session.execute(statement):
        if result is not None and (asked_length == max_seq_length or result["longest"] <= min(asked_length, max_seq_length)):
            return int(result["tokens_per_epoch"])
    return None
