"""Starting model of a job: a base model, a fine-tuned one, or a checkpoint of an ended job."""

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy.orm import Session

from app.base.errors import InvalidRequest, NotFound
from app.catalogue import service as catalogue
from app.catalogue.naming import fine_tuned_model_id
from app.jobs import checkpoint_repository, repository
from app.jobs.checkpoint_repository import NamedCheckpoint, find_own, find_permitted
from app.jobs.checkpoints import CheckpointName, checkpoint_name
from app.models import Checkpoint, Job, Model
from app.models.job_lifecycle import TERMINAL
from falqon_core.contract.block_weights import Weights


def base_of(
    session: Session, project_id: str, name: str, *, lock: bool
) -> tuple[Model, Checkpoint | None]:
    """Return a model of the catalogue; or the model that a checkpoint's training began from, with
    the checkpoint. Locked, they stay.
    """
    parsed = CheckpointName.parse(name)
    if parsed is None:
        return catalogue.base_for_job(session, project_id, name, lock=lock), None
    row = _newest_of_name(session, project_id, parsed, find_own) or _newest_of_name(
        session, project_id, parsed, find_permitted
    )
    if row is None or (lock and not _lock(session, row)):
        raise InvalidRequest(
            f"model: there is no checkpoint '{name}' here.", param="model", code="model_not_found"
        )
    if row.job.status not in TERMINAL:
        raise InvalidRequest(
            f"model: the job of '{name}' is {row.job.status}; "
            "its checkpoints can be used when it has ended.",
            param="model",
            code="checkpoint_not_available",
        )
    if checkpoint_repository.lacks_its_base(session, row.job):
        raise InvalidRequest(
            f"model: '{name}' continues from a checkpoint that has been deleted.",
            param="model",
            code="checkpoint_not_available",
        )
    model = catalogue.base_for_job(session, row.job.project_id, row.job.base_model_id, lock=lock)
    return model, row.checkpoint


def _lock(session: Session, row: NamedCheckpoint) -> bool:
    """Lock the job; return False if it, or its old checkpoint, was removed meanwhile."""
    return repository.lock_for_reading(session, row.job.id) and checkpoint_repository.exists_still(
        session, row.checkpoint.id
    )


def began_from(session: Session, job: Job) -> str:
    """Return the model that a job's training begins from, by its own name: the request may have an
    alias, which stands for another model tomorrow.
    """
    return began_from_by_job(session, [job])[job.id]


def began_from_by_job(session: Session, jobs: Sequence[Job]) -> dict[str, str]:
    ids = {job.base_checkpoint_id for job in jobs if job.base_checkpoint_id is not None}
    rows = checkpoint_repository.find_named(session, ids) if ids else {}
    return {job.id: _began_from(job, rows) for job in jobs}


def _began_from(job: Job, checkpoints: Mapping[str, NamedCheckpoint]) -> str:
    if job.base_checkpoint_id is None:
        return job.base_model_id
    requested = job.requested.model
    # A project may have been renamed since; what was exported before keeps its name.
    if CheckpointName.parse(requested) is not None:
        return requested
    row = checkpoints.get(job.base_checkpoint_id)
    if row is not None:
        model_id = fine_tuned_model_id(row.job, row.project_name)
        return checkpoint_name(model_id, row.checkpoint.step)
    # It has been deleted, and nothing has its name any more.
    return f"checkpoint:{job.base_checkpoint_id}"


def own_checkpoint(session: Session, project_id: str, name: str) -> Checkpoint:
    return _own(session, project_id, name).checkpoint


def trained_format(session: Session, project_id: str, name: str) -> Weights:
    """Return the format in which a checkpoint of the project becomes a model."""
    return _own(session, project_id, name).job.weights


def _own(session: Session, project_id: str, name: str) -> NamedCheckpoint:
    parsed = CheckpointName.parse(name)
    row = _newest_of_name(session, project_id, parsed, find_own) if parsed else None
    if row is None:
        raise NotFound(
            f"There is no checkpoint '{name}'.",
            param="fine_tuned_model_checkpoint",
            code="checkpoint_not_found",
        )
    return row


def _newest_of_name(
    session: Session,
    project_id: str,
    name: CheckpointName,
    find: Callable[[Session, str, str, int], list[NamedCheckpoint]],
) -> NamedCheckpoint | None:
    """Return the newest checkpoint of that name: several attempts may have reached the step."""
    for row in find(session, project_id, name.job_tail, name.step):
        if fine_tuned_model_id(row.job, row.project_name) == name.model_id:
            return row
    return None
