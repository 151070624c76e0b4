from typing import Annotated

from fastapi import Query, Request, Response

from app.evaluations import service
from app.evaluations.answers import Outcome, read_page
from app.evaluations.schemas import EvaluationObject
from app.evaluations.summary import deciding_grader
from app.http.dependencies import ServicesDep
from app.jobs import service as jobs
from app.models.graders import MAX_GRADERS
from app.web.rendering import page
from app.web.visitor import PageRouter, Visitor

MAX_PAGE = 100

router = PageRouter("/jobs/{job_id}/evaluations")


@router.get("/{evaluation_id}")
def evaluation_page(
    services: ServicesDep,
    request: Request,
    caller: Visitor,
    job_id: str,
    evaluation_id: str,
    grader: Annotated[int | None, Query(ge=1, le=MAX_GRADERS)] = None,
    outcome: Outcome | None = None,
    number: Annotated[int, Query(ge=1, le=MAX_PAGE, alias="page")] = 1,
) -> Response:
    """Show the rows of an evaluation. `grader`: its place among the graders, from 1; that of the
    verdict unless one is chosen.
    """
    with services.database.read() as session:
        job = jobs.get(session, caller.project_id, job_id)
        row = service.get(session, caller.project_id, job_id, evaluation_id)
        evaluation = EvaluationObject.of(row)
        if grader is None:
            grader = 1 + (deciding_grader(row.result) if row.result else 0)
        grader = min(grader, len(evaluation.graders))
        answers = read_page(session, row, grader - 1, outcome, number)
    return page(
        request,
        "evaluation/page.html",
        caller,
        job=job,
        evaluation=evaluation,
        step=row.plan.models[-1].step,
        answers=answers,
        grader=grader,
        outcome=outcome,
    )
