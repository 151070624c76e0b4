"""Everything a job's page shows, gathered once: for the page itself and for the parts that its
stream replaces.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from app.artifacts import service as artifacts
from app.artifacts.schemas import ArtifactObject
from app.auth.caller import Caller
from app.catalogue import service as catalogue
from app.catalogue.schemas import ModelObject
from app.errors import NotFound
from app.evaluations import service as evaluations
from app.evaluations.schemas import EvaluationObject
from app.exports import service as exports
from app.jobs import history, listing, service
from app.jobs.checkpoints import best_of, checkpoint_name
from app.jobs.effective_steps import effective_steps
from app.jobs.presenter import to_object
from app.jobs.requests import read_recipe
from app.jobs.schemas import EventObject
from app.models import Checkpoint, Desired, Event, Export, Job, JobStatus, OperationStatus
from app.models.job_lifecycle import LIVE, TERMINAL
from app.services import Services
from app.web.charts import marks_of
from app.web.job_answers import answered
from app.web.model_view import commands
from app.web.text import state

MAX_MESSAGES = 200
MAX_CHECKPOINTS = 50
MAX_EVALUATIONS = 3
OUTLINE_POINTS = 200  # of the curve that is drawn where no script runs

# The parts of the page that a stream replaces. What is quick to gather changes with every step; the
# rest when something happened.
QUICK = ("title", "actions", "progress", "cost")
SLOW = ("marks", "attempts", "samples", "checkpoints", "evaluations", "artifacts")


class Line(NamedTuple):
    seq: int
    event: EventObject


class CheckpointRow(NamedTuple):
    """A checkpoint, and the model of its name, if somebody had one made of it."""

    checkpoint: Checkpoint
    name: str
    is_model: bool
    export: Export | None

    @property
    def is_pending(self) -> bool:
        return self.export is not None and self.export.status == OperationStatus.IN_PROGRESS


def quick(session: Session, services: Services, caller: Caller, job_id: str) -> dict[str, Any]:
    row = service.get(session, caller.project_id, job_id)
    return {
        "row": row,
        "job": to_object(session, services.settings, row),
        "state": state(row),
        "tab_title": tab_title(row),
        "is_live": row.status in LIVE,
        "has_ended": row.status in TERMINAL,
        "may": _possible(row),
        "asked": read_recipe(row.requested).recipe.model_fields_set,
    }


def tab_title(job: Job) -> str:
    """Return what tells the tab of a job from others: how far it is, then its name."""
    name = job.suffix or f"Job {job.id[-8:]}"
    if job.status == JobStatus.RUNNING and job.progress is not None:
        return f"{job.progress.percent:.0f} % · {name}"
    return f"{state(job).capitalize()} · {name}"


def slow(session: Session, caller: Caller, job: Job, origin: str) -> dict[str, Any]:
    """`origin`: of the service, for commands."""
    messages = service.messages(session, job.id, limit=MAX_MESSAGES)
    checkpoints = service.checkpoints(session, job, after=None, limit=MAX_CHECKPOINTS)[
        :MAX_CHECKPOINTS
    ]
    model_id = service.model_id(session, job)
    effective = effective_steps(session, [job.id])[job.id]
    spans = history.list_spans(session, job, messages)
    return {
        "lines": lines(messages),
        "spans": spans,
        "marks": marks_of(spans, checkpoints),
        "prompts": answered(history.list_prompts(messages, effective)),
        "checkpoints": _checkpoint_rows(session, job, model_id, checkpoints),
        "best": best_of(checkpoints),
        "evaluations": _evaluations(session, caller, job),
    } | _model(session, caller, job, origin)


def outline(session: Session, job: Job) -> list[tuple[int, float]]:
    return listing.sparklines(session, [job], OUTLINE_POINTS).get(job.id, [])


def lines(messages: list[Event]) -> list[Line]:
    return [Line(event.seq, EventObject.of(event)) for event in messages]


def _model(session: Session, caller: Caller, job: Job, origin: str) -> dict[str, Any]:
    """Return the files of the model that the job has made, and what is done with them."""
    if job.status != JobStatus.SUCCEEDED or job.fine_tuned_model_id is None:
        return {"artifacts": [], "commands": []}
    try:
        model = ModelObject.of(catalogue.get(session, caller.project_id, job.fine_tuned_model_id))
        files = artifacts.of_model(session, caller.project_id, model.id)
    except NotFound:  # the model has been deleted; its job stays
        return {"artifacts": [], "commands": []}
    return {
        "artifacts": [ArtifactObject.of(artifact) for artifact in files],
        "commands": commands(model, [artifact.name for artifact in files], origin),
    }


def _checkpoint_rows(
    session: Session, job: Job, model_id: str, checkpoints: Sequence[Checkpoint]
) -> list[CheckpointRow]:
    names = [checkpoint_name(model_id, checkpoint.step) for checkpoint in checkpoints]
    asked = exports.models_of_checkpoints(session, job.project_id, names)
    made = catalogue.present(session, job.project_id, names)
    return [
        CheckpointRow(checkpoint, name, name in made, asked.get(name))
        for checkpoint, name in zip(checkpoints, names, strict=True)
    ]


def _evaluations(session: Session, caller: Caller, job: Job) -> list[EvaluationObject]:
    newest = evaluations.page(session, caller.project_id, job.id, after=None, limit=MAX_EVALUATIONS)
    return [EvaluationObject.of(evaluation) for evaluation in newest[:MAX_EVALUATIONS]]


def _possible(job: Job) -> set[str]:
    """Return what a user may ask of it now; the services refuse the rest."""
    running = job.status == JobStatus.RUNNING
    desired = job.desired
    may = {"clone"}
    if job.status in TERMINAL:
        may.add("delete")
    elif desired != Desired.CANCEL:
        may.add("cancel")
        pausing = running and desired == Desired.PAUSE
        may.add("resume" if pausing or job.status == JobStatus.PAUSED else "pause")
    return may
