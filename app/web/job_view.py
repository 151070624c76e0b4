"""Everything a job's page shows, gathered once: for the page itself and for the parts that its
stream replaces.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.artifacts import service as artifacts
from app.artifacts.schemas import ArtifactObject
from app.auth.caller import Caller
from app.base.errors import NotFound
from app.catalogue import service as catalogue
from app.catalogue.schemas import ModelObject
from app.evaluations import service as evaluations
from app.evaluations.schemas import EvaluationObject
from app.exports import service as exports
from app.files import service as files
from app.jobs import history, listing, service
from app.jobs.checkpoints import best_of, checkpoint_name
from app.jobs.effective_steps import effective_steps
from app.jobs.presenter import to_object
from app.jobs.requests import read_recipe
from app.jobs.schemas import EventObject, JobObject
from app.keys import service as keys
from app.models import (
    Checkpoint,
    Desired,
    Event,
    Export,
    File,
    FileStatus,
    Job,
    JobStatus,
    OperationStatus,
)
from app.models.job_lifecycle import LIVE, TERMINAL
from app.services import Services
from app.studies import service as studies
from app.web.charts import marks_of
from app.web.job_answers import answered
from app.web.job_header import (
    Points,
    dollars_of_budget,
    learning_of,
    seconds_of_budget,
    waited_seconds,
)
from app.web.job_stages import is_exporting, stages_of
from app.web.model_view import commands
from app.web.text import job_name, state
from falqon_core.contract.config import Recipe
from falqon_core.contract.formats import FormatUnavailable, check_format
from falqon_core.records.jsonl import RecordError

MAX_MESSAGES = 200
MAX_CHECKPOINTS = 50
MAX_EVALUATIONS = 3
MAX_BAD_LINES = 5  # Bad lines of a file that made a job fail; the page of the file has more.
OUTLINE_POINTS = 200  # Points of the curve that is drawn without scripts.

# The parts of the page that a stream replaces. Progress is cheap to read and changes with every
# step; the rest when something happened.
PROGRESS_PARTS = ("title", "actions", "progress", "cost", "log")
RESULT_PARTS = (
    *("stages", "marks", "attempts", "samples", "checkpoints", "evaluations", "artifacts"),
    "range_test",
)


@dataclass(frozen=True, slots=True)
class LogLine:
    seq: int
    event: EventObject


@dataclass(frozen=True, slots=True)
class FailureView:
    reason: str
    file: File | None  # The file that made it fail.
    lines: list[RecordError]
    num_more: int


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A checkpoint, with the model of its name and the adapter, if somebody had them made of it."""

    checkpoint: Checkpoint
    name: str
    is_model: bool
    export: Export | None
    is_adapter: bool
    adapter: Export | None

    @property
    def adapter_name(self) -> str:
        return f"{self.name}:gguf_lora"

    @property
    def is_pending(self) -> bool:
        return any(
            export is not None and export.status == OperationStatus.IN_PROGRESS
            for export in (self.export, self.adapter)
        )


def progress_context(
    session: Session,
    services: Services,
    caller: Caller,
    job_id: str,
    validation: Points | None = None,
) -> dict[str, Any]:
    """Return the values of the parts that change with every step. `validation`: losses by step,
    where the caller has them: reading them is slow.
    """
    row = service.get(session, caller.project_id, job_id)
    job = to_object(session, services.settings, row)
    training = listing.sparklines(session, [row]).get(row.id, [])
    if validation is None:
        validation = history.list_validation_losses(session, row) if row.attempt else []
    key_name = row.key_id and keys.name_of(session, row.project_id, row.key_id)
    return {
        "row": row,
        "job": job,
        "files": _file_names(session, row),
        "failure": _failure(session, row, job),
        "validation": validation,
        "learning": learning_of(training, validation),
        "dollars": dollars_of_budget(job, row),
        "seconds": seconds_of_budget(row),
        "waited": waited_seconds(row),
        "key_name": key_name,
        "state": state(row),
        "tab_title": tab_title(row),
        "is_exporting": is_exporting(row),
        "is_live": row.status in LIVE,
        "has_ended": row.status in TERMINAL,
        "may": _possible(row),
        "study_name": _study_name(session, row),
        "asked": read_recipe(row.requested).recipe.model_fields_set,
    }


def _study_name(session: Session, job: Job) -> str | None:
    if job.study_id is None:
        return None
    return studies.names(session, job.project_id, [job.study_id]).get(job.study_id)


def tab_title(job: Job) -> str:
    """Return the title of a job's tab: its progress, then its name."""
    name = job_name(job)
    if job.status == JobStatus.RUNNING and job.progress is not None:
        return f"{job.progress.percent:.0f} % · {name}"
    return f"{state(job).capitalize()} · {name}"


def results_context(session: Session, caller: Caller, job: Job, origin: str) -> dict[str, Any]:
    """Return the values of the parts that change now and then. `origin`: the address of the
    service, for commands.
    """
    messages, older_than = read_messages(session, job.id)
    checkpoints = service.checkpoints(session, job, after=None, limit=MAX_CHECKPOINTS)[
        :MAX_CHECKPOINTS
    ]
    model_id = service.model_id(session, job)
    effective = effective_steps(session, [job.id])[job.id]
    spans = history.list_spans(session, job, messages)
    return {
        "lines": lines(messages),
        "older_than": older_than,
        "spans": spans,
        "stages": stages_of(job, spans[-1].attempt if spans else None, messages),
        "marks": marks_of(spans, checkpoints),
        "prompts": answered(history.list_prompts(messages, effective)),
        "checkpoints": _checkpoint_rows(session, job, model_id, checkpoints),
        "may_ask": _has_adapter(session, job),
        "best": best_of(checkpoints),
        "evaluations": _evaluations(session, caller, job),
        "can_evaluate": evaluations.can_evaluate(job),
        "range_curve": _range_curve(job),
    } | _model(session, caller, job, origin)


def _range_curve(job: Job) -> list[tuple[float, float]]:
    """Return the curve of a range test, the learning rates as their logarithms."""
    result = job.progress.range_test if job.progress is not None else None
    points = result.points if result is not None else []
    return [(math.log10(point.learning_rate), point.loss_change) for point in points]


def outline(session: Session, job: Job) -> list[tuple[int, float]]:
    return listing.sparklines(session, [job], OUTLINE_POINTS).get(job.id, [])


def read_messages(
    session: Session, job_id: str, before: int | None = None
) -> tuple[list[Event], int | None]:
    """Return the newest of those before a number, and the number that older ones stand before, if
    there are any.
    """
    messages = service.messages(session, job_id, limit=MAX_MESSAGES + 1, before=before)
    newest = messages[:MAX_MESSAGES]
    return newest, newest[-1].seq if len(messages) > len(newest) else None


def lines(messages: list[Event]) -> list[LogLine]:
    return [LogLine(event.seq, EventObject.of(event)) for event in messages]


def _file_names(session: Session, job: Job) -> dict[str, str]:
    """Return the names of files by parameter, without deleted files."""
    ids = {"training_file": job.training_file_id, "validation_file": job.validation_file_id}
    rows = {use: files.find(session, job.project_id, id_) for use, id_ in ids.items()}
    return {use: file.filename for use, file in rows.items() if file is not None}


def _failure(session: Session, row: Job, job: JobObject) -> FailureView | None:
    """Say why the job failed; of a bad file with its first lines that are."""
    if job.error is None:
        return None
    param = job.error.param or ""
    name = f"The {param.replace('_', ' ')}"
    reason = job.error.message
    if param and reason.startswith(f"{param} "):
        reason = f"{name}{reason.removeprefix(param)}"
    ids = {"training_file": row.training_file_id, "validation_file": row.validation_file_id}
    file = files.find(session, row.project_id, ids.get(param))
    if file is None or file.report is None:
        return FailureView(reason, None, [], 0)
    tolerated = read_recipe(row.requested).recipe.max_bad_record_fraction
    if file.status == FileStatus.ERROR:
        reason = f"{name} {file.filename} is not valid."
    elif not file.report.too_bad(tolerated):
        return FailureView(reason, None, [], 0)
    first = file.report.errors[:MAX_BAD_LINES]
    return FailureView(reason, file, first, file.report.num_errors - len(first))


def _model(session: Session, caller: Caller, job: Job, origin: str) -> dict[str, Any]:
    """Return the files of the model that the job has made, and what is done with them."""
    if job.status != JobStatus.SUCCEEDED or job.fine_tuned_model_id is None:
        return {"artifacts": [], "commands": []}
    try:
        model = ModelObject.of(catalogue.get(session, caller.project_id, job.fine_tuned_model_id))
        rows = artifacts.list_of_model(session, caller.project_id, model.id)
    except NotFound:  # The model has been deleted; its job stays.
        return {"artifacts": [], "commands": []}
    return {
        "artifacts": [ArtifactObject.of(artifact) for artifact in rows],
        "commands": commands(model, [artifact.name for artifact in rows], origin),
    }


def _checkpoint_rows(
    session: Session, job: Job, model_id: str, checkpoints: Sequence[Checkpoint]
) -> list[CheckpointRow]:
    names = [checkpoint_name(model_id, checkpoint.step) for checkpoint in checkpoints]
    merged = exports.of_checkpoints(session, job.project_id, names, job.weights)
    adapters = exports.of_checkpoints(session, job.project_id, names, "gguf_lora")
    wanted = [*names, *(export.exported_model_id for export in adapters.values())]
    models = catalogue.present(session, job.project_id, wanted)
    return [
        CheckpointRow(
            checkpoint,
            name,
            name in models,
            merged.get(name),
            f"{name}:gguf_lora" in models,
            adapters.get(name),
        )
        for checkpoint, name in zip(checkpoints, names, strict=True)
    ]


def _has_adapter(session: Session, job: Job) -> bool:
    """Return whether an engine can put the job's checkpoints on their base."""
    if job.base_checkpoint_id is not None:
        return False
    try:
        base = catalogue.get(session, job.project_id, job.base_model_id)
        check_format("gguf_lora", job.recipe or Recipe(), base.config)
    except (NotFound, FormatUnavailable):
        return False
    return True


def _evaluations(session: Session, caller: Caller, job: Job) -> list[EvaluationObject]:
    newest = evaluations.page(session, caller.project_id, job.id, after=None, limit=MAX_EVALUATIONS)
    return [EvaluationObject.of(evaluation) for evaluation in newest[:MAX_EVALUATIONS]]


def _possible(job: Job) -> set[str]:
    """Return the actions that a user may take now; the services refuse the rest."""
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
