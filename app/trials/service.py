"""Prompts that a model is tried with. A cpu worker lets it answer, and its base model beside it."""

from contextlib import suppress
from datetime import timedelta

from sqlalchemy.orm import Session

from app.catalogue import service as catalogue
from app.database import Database
from app.errors import IllegalState, InvalidRequest, NotFound
from app.ids import new_id
from app.models import Model, OperationStatus, Trial
from app.trials import repository

MAX_IN_PROGRESS = 3  # of one project; each holds a cpu worker for up to five minutes
KEPT = timedelta(days=1)  # prompts are nobody's business for longer
ANSWERING = (None, "fp8", "bf16")  # the formats that can be asked


def ask(session: Session, project_id: str, model_id: str, prompt: str, max_tokens: int) -> Trial:
    model = catalogue.get(session, project_id, model_id)
    if model.format not in ANSWERING:
        raise InvalidRequest(f"model: '{model_id}' is in the {model.format} format; try the model that it was made from.", param="model")
    if repository.num_in_progress(session, project_id) >= MAX_IN_PROGRESS:
        raise IllegalState(f"{MAX_IN_PROGRESS} prompts of this project are being answered; ask again after that.", code="too_many_trials")
    trial = Trial(
        id=new_id("trial-"),
        project_id=project_id,
        model_id=model.id,
        base_model_id=_base_of(session, project_id, model),
        prompt=prompt,
        max_tokens=max_tokens,
        status=OperationStatus.IN_PROGRESS,
        tries=0,
    )
    session.add(trial)
    session.flush()
    return trial


def get(session: Session, project_id: str, model_id: str, trial_id: str) -> Trial:
    catalogue.get(session, project_id, model_id)
    trial = repository.find(session, project_id, model_id, trial_id)
    if trial is None:
        raise NotFound(f"There is no trial '{trial_id}' of this model; they are kept for a day.", param="trial_id", code="trial_not_found")
    return trial


def newest(session: Session, project_id: str, model_id: str, limit: int) -> list[Trial]:
    catalogue.get(session, project_id, model_id)
    return repository.newest(session, project_id, model_id, limit)


def forget_old(database: Database) -> None:
    with database.transaction() as session:
        repository.forget(session, KEPT.total_seconds())


def _base_of(session: Session, project_id: str, model: Model) -> str | None:
    if model.base_model_id is not None:
        with suppress(NotFound):
            return catalogue.get(session, project_id, model.base_model_id).id
    return None
