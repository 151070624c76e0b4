"""Studies: the same training with several methods, compared in one table."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.orm import Session

from app.base.errors import IllegalState, NotFound
from app.base.ids import new_id
from app.base.settings import Settings
from app.http.pagination import check_cursor
from app.jobs import idempotency
from app.jobs import service as jobs
from app.jobs.comparison import figures_of, recipe_of
from app.jobs.requests import read_recipe
from app.models import Job, Study
from app.models.job_lifecycle import TERMINAL
from app.models.study_request import StudyRequest
from app.studies import repository
from app.studies.requests import job_requests
from falqon_core.contract.methods import METHODS, MethodName
from falqon_core.estimate.comparison import ComparisonRow, TrainingFigures, combine

ID = "study-"


class ComparedMethod(NamedTuple):
    """A method at the best of its rates. `jobs`: its trainings with that rate."""

    row: ComparisonRow
    jobs: list[Job]


def create_once(
    session: Session, submission: idempotency.Request, request: StudyRequest, settings: Settings
) -> Study:
    """Create a study with its jobs, or return the one that the same request has created before."""
    project_id = submission.caller.project_id
    requests = job_requests(request)
    job_ids = [new_id("ftjob-") for _ in requests]
    # The first job stands for all: they are written together.
    before = idempotency.remember(session, submission, job_ids[0])
    if before is not None:
        assert before.study_id is not None
        return get(session, project_id, before.study_id)
    study = Study(id=new_id(ID), project_id=project_id, requested=request)
    session.add(study)
    session.flush()
    for job_id, of_job in zip(job_ids, requests, strict=True):
        jobs.create(session, submission.caller, of_job, settings, job_id, study.id)
    return study


def get(session: Session, project_id: str, study_id: str) -> Study:
    study = repository.find(session, project_id, study_id)
    if study is None:
        raise NotFound(f"There is no study '{study_id}'.", param="study_id", code="study_not_found")
    return study


def page(session: Session, project_id: str, *, after: str | None, limit: int) -> list[Study]:
    """Return the newest first, one more than `limit` where there is one."""
    check_cursor(after, ID, "a study")
    return repository.newest_first(session, project_id, after=after, limit=limit)


def cancel(session: Session, project_id: str, study_id: str) -> Study:
    """Cancel every job that has not ended. Idempotent."""
    study = get(session, project_id, study_id)
    for job in jobs.of_studies(session, project_id, [study_id])[study_id]:
        if job.status in TERMINAL:
            continue
        try:
            jobs.cancel(session, project_id, job.id)
        except IllegalState:  # it has just ended by itself
            continue
    return study


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
        row = combine(METHODS[method].title, recipe, [figures[job.id] for job in best])
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
