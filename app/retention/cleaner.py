"""Removal of checkpoints and models that a project keeps for some days only: in every API process,
once an hour, by the database's clock. Each is one transaction, with the marks of its bytes, so a
killed process leaves nothing half.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog
from sqlalchemy.orm import Session

from app.base.database import Database, now_plus
from app.base.settings import Settings
from app.catalogue import service as catalogue
from app.garbage import orphans
from app.jobs import service as jobs
from app.jobs.events import NewEvent, append
from app.models import Model
from app.models.base import JsonObject
from app.retention import repository
from app.webhooks import events as webhooks
from falqon_core.fault_points import fault

NOTICE = timedelta(days=7)  # between the announcement and the end of a model
log = structlog.get_logger()


def clean(database: Database, settings: Settings) -> None:
    """Remove what is due, announce what will be."""
    with database.read() as session:
        projects = repository.projects(session)
    for project in projects:
        checkpoints_kept = _days(project.checkpoints_kept_days) or settings.checkpoints_kept
        models_kept = _days(project.models_kept_days) or settings.models_kept
        if checkpoints_kept is not None:
            remove_checkpoints(database, project.id, checkpoints_kept)
        if models_kept is not None:
            expire_models(database, project.id)
            announce_models(database, project.id, models_kept)


def remove_checkpoints(database: Database, project_id: str, kept: timedelta) -> None:
    """Remove checkpoints of jobs that ended longer ago, but the best and the last of each."""
    _for_each(
        database,
        lambda session: repository.old_jobs(session, project_id, kept),
        lambda session, job_id: _remove_of_job(session, project_id, job_id, kept),
    )


def _for_each(
    database: Database,
    find: Callable[[Session], Sequence[str]],
    change: Callable[[Session, str], bool],
) -> None:
    """Change all that are found, in a transaction each, until none of those found can be."""
    while True:
        with database.read() as session:
            ids = find(session)
        num_done = 0
        for id_ in ids:
            with database.transaction() as session:
                num_done += change(session, id_)
        if not num_done:
            return


def _remove_of_job(session: Session, project_id: str, job_id: str, kept: timedelta) -> bool:
    """Return False if another process, or a job that begins, has the job."""
    if repository.lock_old_job(session, project_id, job_id, kept) is None:
        return False
    checkpoints = repository.dispensable_checkpoints(session, job_id)
    for checkpoint in checkpoints:
        session.delete(checkpoint)
    orphans.mark_orphaned(session, [f"{each.storage_prefix}/" for each in checkpoints])
    events = []
    if checkpoints:
        message = (
            f"{len(checkpoints)} of the checkpoints were removed {kept.days} days after the end of "
            "the job. The best and the last stay."
        )
        events.append(NewEvent(message))
    append(session, job_id, events, checkpoints_removed_at=now_plus())
    fault("before_retention_commit")
    return True


def announce_models(database: Database, project_id: str, kept: timedelta) -> None:
    """Tell of models that nobody used for so long; they end a week later."""
    _for_each(
        database,
        lambda session: repository.unused_models(session, project_id, kept),
        lambda session, model_id: _announce(session, project_id, model_id, kept),
    )


def _announce(session: Session, project_id: str, model_id: str, kept: timedelta) -> bool:
    """Return False if another process has the model."""
    model = repository.lock_model(session, project_id, model_id, is_due=False)
    if model is None:
        return False
    if _is_spared(session, model):
        return True
    model.expires_at = now_plus(NOTICE.total_seconds())
    session.flush()
    session.refresh(model)
    assert model.expires_at is not None
    message = (
        f"The model {model.id} was neither asked nor downloaded for {kept.days} days. It is "
        f"deleted on {model.expires_at:%Y-%m-%d} (UTC), unless it is used or pinned before."
    )
    _tell(session, project_id, model, message, "model.expiring")
    webhooks.record_model(session, project_id, model.id, "expiring")
    return True


def expire_models(database: Database, project_id: str) -> None:
    """Delete models that were announced a week ago and have not been used since."""
    _for_each(
        database,
        lambda session: repository.due_models(session, project_id),
        lambda session, model_id: _expire(session, project_id, model_id),
    )


def _expire(session: Session, project_id: str, model_id: str) -> bool:
    model = repository.lock_model(session, project_id, model_id, is_due=True)
    if model is None:
        return False
    if not _is_spared(session, model):
        catalogue.delete(session, project_id, model_id, may_delete_bases=False)
        message = f"The unused model {model_id} is deleted."
        _tell(session, project_id, model, message, "model.expired")
        webhooks.record_model(session, project_id, model_id, "expired")
        fault("before_retention_commit")
        log.info("an unused model is deleted", model=model_id, project=project_id)
    return True


def _is_spared(session: Session, model: Model) -> bool:
    """Count as a use that something needs the model."""
    if not repository.is_needed(session, model):
        return False
    model.used_at, model.expires_at = now_plus(), None
    return True


def _tell(session: Session, project_id: str, model: Model, message: str, event: str) -> None:
    """Tell of it among the events of the model's job, if that is still there."""
    if model.job_id is None or not jobs.present(session, project_id, [model.job_id]):
        return
    data: JsonObject = {"event": event, "model": model.id}
    append(session, model.job_id, [NewEvent(message, "warn", data=data)])


def _days(number: int | None) -> timedelta | None:
    return None if number is None else timedelta(days=number)
