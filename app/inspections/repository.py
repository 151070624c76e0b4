"""Questions and their answers. Free of the web framework: the worker claims and answers through it."""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from sqlalchemy import func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.database import now_plus
from app.ids import new_id
from app.models import File, Inspection, InspectionStatus
from app.models.base import JsonObject

_UNSYNCED = {"synchronize_session": False}


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
    completed = (Inspection.file_id.in_(file_ids), Inspection.status == InspectionStatus.COMPLETED)
    mine = select(Inspection.file_id, tokens).join(File, File.id == Inspection.file_id).where(File.project_id == project_id)
    statement = mine.where(*completed).order_by(Inspection.id)
    return {row.file_id: row.tokens for row in session.execute(statement)}


def num_in_progress(session: Session, project_id: str) -> int:
    statement = select(func.count()).select_from(Inspection).join(File, File.id == Inspection.file_id)
    return session.scalars(statement.where(File.project_id == project_id, Inspection.status == InspectionStatus.IN_PROGRESS)).one()


def ask(session: Session, question: Question) -> None:
    """Nothing if somebody else has just asked the same."""
    with suppress(IntegrityError), session.begin_nested():
        session.add(Inspection(id=new_id("inspection-"), status=InspectionStatus.IN_PROGRESS, **question._asdict()))


def exact_tokens(session: Session, file_id: str, model_id: str, max_seq_length: int) -> int | None:
    """Tokens of one epoch as the model's tokenizer counts them, when an inspection knows them for this length."""
    statement = select(Inspection.max_seq_length, Inspection.result).where(
        Inspection.file_id == file_id, Inspection.model_id == model_id, Inspection.status == InspectionStatus.COMPLETED
    )
    for asked_length, result in session.execute(statement):
        if result is not None and (asked_length == max_seq_length or result["longest"] <= min(asked_length, max_seq_length)):
            return int(result["tokens_per_epoch"])
    return None


def claim(session: Session, stale_seconds: float) -> Inspection | None:
    """Take the oldest that nobody works on, or whose worker has been silent for so long."""
    free = (
        Inspection.status == InspectionStatus.IN_PROGRESS,
        or_(Inspection.claimed_at.is_(None), Inspection.claimed_at < now_plus(-stale_seconds)),
    )
    oldest = select(Inspection.id).where(*free).order_by(Inspection.id).limit(1).with_for_update(skip_locked=True).scalar_subquery()
    statement = update(Inspection).where(Inspection.id == oldest, *free).values(claimed_at=now_plus()).returning(Inspection)
    return session.scalars(statement, execution_options=_UNSYNCED).one_or_none()


def renew(session: Session, inspection_id: str) -> bool:
    """False when nobody wants the answer any more."""
    return _write(session, inspection_id, claimed_at=now_plus())


def release(session: Session, inspection_id: str) -> None:
    _write(session, inspection_id, claimed_at=None)


def complete(session: Session, inspection_id: str, result: JsonObject) -> None:
    _write(session, inspection_id, status=InspectionStatus.COMPLETED, result=result)


def fail(session: Session, inspection_id: str, code: str, message: str) -> None:
    _write(session, inspection_id, status=InspectionStatus.FAILED, error_code=code, error_message=message)


def _write(session: Session, inspection_id: str, **values: object) -> bool:
    """Two who answer the same question say the same; the first counts."""
    statement = update(Inspection).where(Inspection.id == inspection_id, Inspection.status == InspectionStatus.IN_PROGRESS)
    return session.scalar(statement.values(**values).returning(Inspection.id), execution_options=_UNSYNCED) is not None
