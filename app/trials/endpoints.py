from typing import Annotated

from fastapi import APIRouter, Query

from app.http.dependencies import ApiRoute, App, Reader, Writer
from app.http.pagination import Page
from app.trials import service
from app.trials.schemas import TrialObject, TrialRequest

router = APIRouter(prefix="/v1/models/{model:path}/trials", tags=["models"], route_class=ApiRoute)


@router.post("")
def create_trial(app: App, caller: Writer, model: str, body: TrialRequest) -> TrialObject:
    """Let a model answer a prompt, and its base model beside it. A worker does it on its CPU, greedily, within five minutes; the answers
    grow meanwhile. For a look at what the training has done: serving is not done here."""
    with app.database.transaction() as session:
        trial = TrialObject.of(service.ask(session, caller.project_id, model, body.prompt, body.max_tokens))
    app.notifier.notify_trial(trial.id)
    return trial


@router.get("")
def list_trials(app: App, caller: Reader, model: str, limit: Annotated[int, Query(ge=1, le=100)] = 20) -> Page[TrialObject]:
    """The newest first. They are kept for a day."""
    with app.database.read() as session:
        return Page[TrialObject].of([TrialObject.of(trial) for trial in service.newest(session, caller.project_id, model, limit)])


@router.get("/{trial_id}")
def retrieve_trial(app: App, caller: Reader, model: str, trial_id: str) -> TrialObject:
    with app.database.read() as session:
        return TrialObject.of(service.get(session, caller.project_id, model, trial_id))
