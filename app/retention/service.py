"""Use cases of retention: models that never expire, and deletion by criteria. Each object is
deleted in a transaction of its own, so a killed process leaves nothing half.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from app.auth import audit
from app.auth.caller import Caller
from app.base.errors import ApiError, InvalidRequest, NotFound
from app.catalogue import service as catalogue
from app.jobs import transitions
from app.models import Model
from app.retention import repository
from app.retention.repository import Candidate
from app.retention.schemas import (
    Deletion,
    DeletionRequest,
    JobDeletionRequest,
    ModelDeletionRequest,
    ModelRetention,
    Refused,
    RetentionRequest,
)
from app.services import Services

AT_ONCE = 100


class _DryRun(Exception):
    """The transaction is rolled back."""


def retrieve_retention(services: Services, caller: Caller, model_id: str) -> ModelRetention:
    with services.database.read() as session:
        return ModelRetention.of(_own(session, caller, model_id, lock=False))


def change_retention(
    services: Services, caller: Caller, model_id: str, request: RetentionRequest
) -> ModelRetention:
    """Pin a model, or unpin it."""
    with services.database.transaction() as session:
        model = _own(session, caller, model_id, lock=True)
        if model.is_pinned != request.pinned:
            model.is_pinned = request.pinned
            model.expires_at = None
            change = "pinned" if request.pinned else "unpinned"
            audit.record(session, caller, f"model.{change}", model_id)
        return ModelRetention.of(model)


def delete_models(services: Services, caller: Caller, request: ModelDeletionRequest) -> Deletion:
    """Delete fine-tuned models of the project, but those in use."""

    def delete(session: Session, model_id: str) -> None:
        catalogue.delete(session, caller.project_id, model_id, may_delete_bases=False)
        audit.record(session, caller, "model.deleted", model_id)

    _check(request)
    with services.database.read() as session:
        found = repository.models_to_delete(
            session,
            caller.project_id,
            created_before=_moment(request.created_before),
            unused_since=_moment(request.unused_since),
            search=request.search,
            base_model_id=request.base_model,
            format=request.format,
            after=request.after,
            limit=AT_ONCE + 1,
        )
    return _delete_each(services, found, delete, dry_run=request.dry_run)


def delete_jobs(services: Services, caller: Caller, request: JobDeletionRequest) -> Deletion:
    """Delete ended jobs of the project with their checkpoints, but those in use; models stay."""

    def delete(session: Session, job_id: str) -> None:
        transitions.delete(session, caller.project_id, job_id)
        audit.record(session, caller, "job.deleted", job_id)

    _check(request)
    with services.database.read() as session:
        found = repository.jobs_to_delete(
            session,
            caller.project_id,
            created_before=_moment(request.created_before),
            status=request.status,
            search=request.search,
            base_model_id=request.base_model,
            after=request.after,
            limit=AT_ONCE + 1,
        )
    return _delete_each(services, found, delete, dry_run=request.dry_run)


def _delete_each(
    services: Services,
    found: Sequence[Candidate],
    delete: Callable[[Session, str], None],
    *,
    dry_run: bool,
) -> Deletion:
    some = found[:AT_ONCE]
    deleted: list[Candidate] = []
    kept: list[Refused] = []
    for candidate in some:
        try:
            with services.database.transaction() as session:
                delete(session, candidate.id)
                if dry_run:
                    raise _DryRun
        except _DryRun:
            pass
        except NotFound:  # another request was faster
            continue
        except ApiError as error:
            if error.status >= 500:
                raise
            kept.append(Refused(id=candidate.id, code=error.code, message=error.message))
            continue
        deleted.append(candidate)
    return Deletion(
        deleted=[each.id for each in deleted],
        bytes=sum(each.bytes for each in deleted),
        kept=kept,
        has_more=len(found) > AT_ONCE,
        last_id=some[-1].id if some else None,
    )


def _check(request: DeletionRequest) -> None:
    if not request.criteria:
        names = sorted(type(request).model_fields.keys() - {"dry_run", "after"})
        raise InvalidRequest(
            f"At least one of {', '.join(names)} is required; nothing was deleted.",
            code="missing_required_parameter",
        )


def _own(session: Session, caller: Caller, model_id: str, *, lock: bool) -> Model:
    """Return a model of the project. Base models do not expire."""
    model = repository.find_model(session, caller.project_id, model_id, lock=lock)
    if model is None:
        raise NotFound(
            f"The project has no model '{model_id}' of its own.",
            param="model",
            code="model_not_found",
        )
    return model


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
