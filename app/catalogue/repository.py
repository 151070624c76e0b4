from collections.abc import Sequence

from sqlalchemy import Select, or_, select, update
from sqlalchemy.orm import Session

from app.database import now_plus
from app.jobs.lifecycle import TERMINAL
from app.models import Artifact, Job, Model


def visible(session: Session, project_id: str) -> list[Model]:
    """Base models, then the project's own, oldest first."""
    return list(session.scalars(_of(project_id).order_by(Model.project_id.is_not(None), Model.created_at, Model.id)))


def find(session: Session, project_id: str, model_id: str) -> Model | None:
    return session.scalars(_visible(project_id, model_id)).one_or_none()


def like(session: Session, project_id: str, *, start: str = "", end: str = "") -> list[Model]:
    """Those whose id begins and ends so."""
    begins, ends = Model.id.startswith(start, autoescape=True), Model.id.endswith(end, autoescape=True)
    return list(session.scalars(_of(project_id).where(begins, ends).order_by(Model.created_at, Model.id)))


def find_to_use(session: Session, project_id: str, model_id: str) -> Model | None:
    """It is not deleted before the transaction ends."""
    return session.scalars(_visible(project_id, model_id).with_for_update(read=True)).one_or_none()


def find_to_delete(session: Session, project_id: str, model_id: str) -> Model | None:
    """Nobody begins to use it before the transaction ends."""
    return session.scalars(_visible(project_id, model_id).with_for_update()).one_or_none()


def live_job_from(session: Session, project_id: str, model_id: str) -> str | None:
    return session.scalar(
        select(Job.id).where(Job.project_id == project_id, Job.base_model_id == model_id, Job.status.not_in(TERMINAL)).limit(1)
    )


def mark_deleted(session: Session, project_id: str, model_id: str) -> None:
    session.execute(update(Model).where(Model.id == model_id, Model.project_id == project_id).values(deleted_at=now_plus()))


def storage_keys(session: Session, project_id: str, model_id: str) -> Sequence[str]:
    mine = select(Artifact.storage_key).join(Model, Model.id == Artifact.model_id)
    return session.scalars(mine.where(Model.id == model_id, Model.project_id == project_id)).all()


def _visible(project_id: str, model_id: str) -> Select[Model]:
    return _of(project_id).where(Model.id == model_id)


def _of(project_id: str) -> Select[Model]:
    return select(Model).where(or_(Model.project_id.is_(None), Model.project_id == project_id), Model.deleted_at.is_(None))
