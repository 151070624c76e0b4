"""Checkpoints and models whose time is over. No project restricts the cleaner, which deletes for
all of them; it locks each row before it looks whether anything needs it.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import Session

from app.aliases import service as aliases
from app.base.database import now_plus, now_plus_once
from app.catalogue import service as catalogue
from app.jobs.checkpoints import best_of
from app.models import (
    AliasSwitch,
    Batch,
    Checkpoint,
    CheckpointPermission,
    Engine,
    EngineState,
    Evaluation,
    Export,
    Job,
    Model,
    OperationStatus,
    Project,
    SwitchStatus,
)
from app.models.job_lifecycle import TERMINAL

ENGINE_RECENTLY = timedelta(days=1)  # a question that is being answered is not counted yet
JOBS_AT_ONCE = 100
MODELS_AT_ONCE = 100


def projects(session: Session) -> Sequence[Project]:
    return session.scalars(select(Project).order_by(Project.id)).all()


def old_jobs(session: Session, project_id: str, kept: timedelta) -> Sequence[str]:
    """Return some ended jobs whose checkpoints are too old, the oldest first."""
    statement = select(Job.id).where(*_is_old(project_id, kept)).order_by(Job.finished_at)
    return session.scalars(statement.limit(JOBS_AT_ONCE)).all()


def lock_old_job(session: Session, project_id: str, job_id: str, kept: timedelta) -> Job | None:
    """Lock the job, so that no other begins to build on one of its checkpoints."""
    statement = select(Job).where(Job.id == job_id, *_is_old(project_id, kept))
    return session.scalars(statement.with_for_update(skip_locked=True)).one_or_none()


def dispensable_checkpoints(session: Session, job_id: str) -> list[Checkpoint]:
    """Return the checkpoints of an ended job but the best, the last, and those that another job
    builds on or another project may use.
    """
    order = (Checkpoint.step.desc(), Checkpoint.attempt.desc())
    rows = session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(*order))
    checkpoints = list(rows)
    ids = [checkpoint.id for checkpoint in checkpoints]
    shared = select(CheckpointPermission.checkpoint_id)
    needed = {
        *session.scalars(select(Job.base_checkpoint_id).where(Job.base_checkpoint_id.in_(ids))),
        *session.scalars(shared.where(CheckpointPermission.checkpoint_id.in_(ids))),
    }
    best = best_of(checkpoints)
    return [each for each in checkpoints[1:] if each is not best and each.id not in needed]


def unused_models(session: Session, project_id: str, kept: timedelta) -> Sequence[str]:
    """Return some models that were not used for so long and are not announced, the oldest first."""
    last_use = func.coalesce(Model.used_at, Model.created_at)
    unused = (
        *_is_expirable(project_id),
        Model.expires_at.is_(None),
        last_use < now_plus_once(-kept.total_seconds()),
    )
    statement = select(Model.id).where(*unused).order_by(last_use, Model.id)
    return session.scalars(statement.limit(MODELS_AT_ONCE)).all()


def due_models(session: Session, project_id: str) -> Sequence[str]:
    """Return some models that were announced and are due, the oldest first."""
    statement = select(Model.id).where(*_is_due(project_id)).order_by(Model.expires_at, Model.id)
    return session.scalars(statement.limit(MODELS_AT_ONCE)).all()


def lock_model(session: Session, project_id: str, model_id: str, *, is_due: bool) -> Model | None:
    """Lock the model, so that no job begins to use it."""
    conditions = _is_due(project_id) if is_due else _is_expirable(project_id)
    statement = select(Model).where(Model.id == model_id, *conditions)
    return session.scalars(
        statement.with_for_update(skip_locked=True), execution_options={"populate_existing": True}
    ).one_or_none()


def is_needed(session: Session, model: Model) -> bool:
    """Return whether a name, a job, a model or an operation needs the model, or it is loaded."""
    return (
        bool(aliases.names_of(session, model.id))
        or catalogue.is_trained_from(session, model.id)
        or catalogue.answers_for_another(session, model)
        or bool(session.scalar(select(or_(*_needs(model)))))
    )


def _needs(model: Model) -> list[ColumnElement[bool]]:
    child, unfinished = Model.__table__.alias(), OperationStatus.IN_PROGRESS
    is_loaded = or_(
        Engine.keep_loaded,
        and_(
            Engine.state == EngineState.WAITING,
            Engine.replica == 0,
            Engine.declined_by.is_(None),
        ),
        Engine.used_at > now_plus(-ENGINE_RECENTLY.total_seconds()),
    )
    undecided = (SwitchStatus.EVALUATING, SwitchStatus.CANARY)
    return [
        exists().where(child.c.base_model_id == model.id, child.c.deleted_at.is_(None)),
        exists().where(Engine.model_id == model.id, is_loaded),
        exists().where(AliasSwitch.model_id == model.id, AliasSwitch.status.in_(undecided)),
        exists().where(
            Export.project_id == model.project_id,
            Export.source == model.id,
            Export.status == unfinished,
        ),
        exists().where(Batch.model_id == model.id, Batch.status == unfinished),
        exists().where(Evaluation.job_id == model.job_id, Evaluation.status == unfinished),
    ]


def _is_old(project_id: str, kept: timedelta) -> tuple[ColumnElement[bool], ...]:
    is_exported = exists().where(
        Export.job_id == Job.id, Export.status == OperationStatus.IN_PROGRESS
    )
    return (
        Job.project_id == project_id,
        Job.status.in_(TERMINAL),
        Job.checkpoints_removed_at.is_(None),
        Job.finished_at < now_plus_once(-kept.total_seconds()),
        ~is_exported,
    )


def _is_expirable(project_id: str) -> tuple[ColumnElement[bool], ...]:
    return (Model.project_id == project_id, Model.deleted_at.is_(None), Model.is_pinned.is_(False))


def _is_due(project_id: str) -> tuple[ColumnElement[bool], ...]:
    is_over = and_(Model.expires_at.is_not(None), Model.expires_at < now_plus_once())
    return (*_is_expirable(project_id), is_over)


class Candidate(NamedTuple):
    id: str
    bytes: int


def find_model(session: Session, project_id: str, model_id: str, *, lock: bool) -> Model | None:
    statement = select(Model).where(
        Model.project_id == project_id, Model.id == model_id, Model.deleted_at.is_(None)
    )
    return session.scalars(statement.with_for_update() if lock else statement).one_or_none()


def models_to_delete(
    session: Session,
    project_id: str,
    *,
    created_before: datetime | None,
    unused_since: datetime | None,
    search: str | None,
    base_model_id: str | None,
    format: str | None,
    after: str | None,
    limit: int,
) -> list[Candidate]:
    """Return models of a project that meet all criteria, by id; None is no criterion."""
    last_use = func.coalesce(Model.used_at, Model.created_at)
    conditions = [Model.project_id == project_id, Model.deleted_at.is_(None)]
    if created_before is not None:
        conditions.append(Model.created_at < created_before)
    if unused_since is not None:
        conditions += [last_use < unused_since, Model.is_pinned.is_(False)]
    if search is not None:
        conditions.append(Model.id.icontains(search, autoescape=True))
    if base_model_id is not None:
        conditions.append(Model.base_model_id == base_model_id)
    if format is not None:
        conditions.append(Model.format == format)
    if after is not None:
        conditions.append(Model.id > after)
    statement = select(Model.id, Model.bytes).where(*conditions).order_by(Model.id).limit(limit)
    return [Candidate(*row) for row in session.execute(statement)]


def jobs_to_delete(
    session: Session,
    project_id: str,
    *,
    created_before: datetime | None,
    status: str | None,
    search: str | None,
    base_model_id: str | None,
    after: str | None,
    limit: int,
) -> list[Candidate]:
    """Return ended jobs of a project that meet all criteria, the oldest first, with the bytes of
    their checkpoints.
    """
    conditions = [Job.project_id == project_id, Job.status.in_(TERMINAL)]
    if created_before is not None:
        conditions.append(Job.created_at < created_before)
    if status is not None:
        conditions.append(Job.status == status)
    if search is not None:
        conditions.append(Job.id.icontains(search, autoescape=True))
    if base_model_id is not None:
        conditions.append(Job.base_model_id == base_model_id)
    if after is not None:
        conditions.append(Job.id > after)
    of_job = select(func.sum(Checkpoint.bytes)).where(Checkpoint.job_id == Job.id)
    num_bytes = func.coalesce(of_job.scalar_subquery(), 0)
    statement = select(Job.id, num_bytes).where(*conditions).order_by(Job.id).limit(limit)
    return [Candidate(id_, int(total)) for id_, total in session.execute(statement)]
