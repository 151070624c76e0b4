"""Use cases of studies; each function is one unit of work, and notifies after its commit."""

import math
import statistics
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.aliases import service as aliases
from app.auth import audit
from app.auth.caller import Caller
from app.base.errors import IllegalState, NotFound
from app.base.ids import new_id
from app.base.settings import Settings
from app.estimates import service as estimates
from app.http.pagination import Page, check_cursor
from app.jobs import creation, idempotency, transitions
from app.jobs import service as jobs
from app.jobs.base_model import base_of
from app.jobs.comparison import figures_of, recipe_of
from app.jobs.requests import read_recipe
from app.models import Job, JobStatus, Study
from app.models.job_lifecycle import TERMINAL
from app.models.study_request import StudyRequest
from app.services import Services
from app.studies import repository
from app.studies.requests import job_requests
from app.studies.schemas import ListedStudyObject, StudyObject
from falqon_core.contract.methods import METHOD_SPECS, MethodName
from falqon_core.estimate.comparison import ComparisonRow, TrainingFigures, combine

ID_PREFIX = "study-"


@dataclass(frozen=True, slots=True)
class ComparedMethod:
    """Method at its best learning rate. `jobs`: its trainings with that rate."""

    row: ComparisonRow
    jobs: list[Job]


def create_study(
    services: Services,
    caller: Caller,
    request: StudyRequest,
    *,
    idempotency_key: str | None = None,
    retry_count: int = 0,
) -> StudyObject:
    """Create a study with its jobs, or return the one that the same request has created before."""
    body = request.model_dump(mode="json", exclude_unset=True)
    submission = idempotency.SubmissionRequest(
        caller, "create study", body, idempotency_key, retry_count
    )
    with services.database.transaction() as session:
        study = create_once(session, submission, request, services.settings)
        created = _to_object(session, study)
    for job in created.jobs:
        if job.status == JobStatus.QUEUED:
            services.notifier.notify(Job, job.id)
    return created


def list_studies(
    services: Services, caller: Caller, *, after: str | None, limit: int
) -> Page[ListedStudyObject]:
    """List studies, the newest first."""
    check_cursor(after, ID_PREFIX, "a study")
    with services.database.read() as session:
        studies = repository.newest_first(session, caller.project_id, after=after, limit=limit)
        by_study = jobs.list_of_studies(session, caller.project_id, [study.id for study in studies])
        objects = [ListedStudyObject.of(study, by_study[study.id]) for study in studies]
    return Page[ListedStudyObject].of(objects, limit)


def retrieve_study(services: Services, caller: Caller, study_id: str) -> StudyObject:
    with services.database.read() as session:
        return _to_object(session, get(session, caller.project_id, study_id))


def cancel_study(services: Services, caller: Caller, study_id: str) -> StudyObject:
    """Cancel every job of a study that has not ended. Idempotent."""
    project_id = caller.project_id
    with services.database.transaction() as session:
        study = get(session, project_id, study_id)
        of_study = jobs.list_of_studies(session, project_id, [study_id])[study_id]
        live = [job for job in of_study if job.status not in TERMINAL]
        for job in live:
            with suppress(IllegalState):  # it has just ended by itself
                transitions.cancel(session, project_id, job.id)
        if live:
            audit.record(session, caller, "study.cancelled", study_id)
        return _to_object(session, study)


def read_table(services: Services, caller: Caller, study_id: str) -> list[ComparisonRow]:
    return retrieve_study(services, caller, study_id).table


def _to_object(session: Session, study: Study) -> StudyObject:
    of_study = jobs.list_of_studies(session, study.project_id, [study.id])[study.id]
    table = [compared.row for compared in compare(session, study.project_id, of_study)]
    return StudyObject.of(study, of_study).model_copy(update={"table": table})


def create_once(
    session: Session,
    submission: idempotency.SubmissionRequest,
    request: StudyRequest,
    settings: Settings,
) -> Study:
    """Create a study with its jobs, or return the one that the same request has created before."""
    project_id = submission.caller.project_id
    # The first job stands for all: they are written together.
    first_id = new_id("ftjob-")
    before = idempotency.find_or_record(session, submission, first_id)
    if before is not None:
        assert before.study_id is not None
        return get(session, project_id, before.study_id)
    model = aliases.resolve(session, project_id, request.model)
    base, _ = base_of(session, project_id, model, lock=False)
    requests = job_requests(request, estimates.width_of(base))
    job_ids = [first_id, *(new_id("ftjob-") for _ in requests[1:])]
    study = Study(id=new_id(ID_PREFIX), project_id=project_id, requested=request)
    session.add(study)
    session.flush()
    for job_id, of_job in zip(job_ids, requests, strict=True):
        creation.create(session, submission.caller, of_job, settings, job_id, study.id)
    audit.record(session, submission.caller, "study.created", study.id)
    return study


def get(session: Session, project_id: str, study_id: str) -> Study:
    study = repository.find(session, project_id, study_id)
    if study is None:
        raise NotFound(f"There is no study '{study_id}'.", param="study_id", code="study_not_found")
    return study


def names(session: Session, project_id: str, ids: Collection[str]) -> dict[str, str]:
    """Return the name of each study, or one made of its id."""
    studies = repository.find_several(session, project_id, ids) if ids else []
    return {study.id: study.requested.name or f"Study {study.id[-8:]}" for study in studies}


def compare(session: Session, project_id: str, of_study: Sequence[Job]) -> list[ComparedMethod]:
    """Return the methods in the order of the jobs."""
    figures = figures_of(session, project_id, of_study)
    by_method: dict[MethodName, dict[float | None, list[Job]]] = {}
    for job in of_study:
        requested = read_recipe(job.requested).recipe
        by_rate = by_method.setdefault(requested.method, {})
        by_rate.setdefault(requested.learning_rate, []).append(job)
    compared = []
    for method, by_rate in by_method.items():
        best = min(
            by_rate.values(), key=lambda alike: _mean_loss([figures[job.id] for job in alike])
        )
        recipe = recipe_of(best[0])
        row = combine(METHOD_SPECS[method].title, recipe, [figures[job.id] for job in best])
        compared.append(ComparedMethod(row, best))
    return compared


def _mean_loss(trainings: Sequence[TrainingFigures]) -> float:
    """Return the mean as served; infinity while there is none."""
    losses = [
        figures.valid_loss_as_served
        for figures in trainings
        if figures.valid_loss_as_served is not None
    ]
    return statistics.fmean(losses) if losses else math.inf
