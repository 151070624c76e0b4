"""What can be asked of a job, each a plain form that ends on a page. The endpoints of the API do it."""

from decimal import Decimal, InvalidOperation
from typing import Annotated

from fastapi import APIRouter, Form, Request
from pydantic import ValidationError
from starlette.responses import RedirectResponse

from app.errors import ApiError, InvalidRequest
from app.http.dependencies import TOUCHES_STORAGE, App
from app.jobs import endpoints
from app.jobs.falqon_options import Budget
from app.jobs.requests import ResumeExtras, ResumeRequest
from app.web.session import notify
from app.web.visitor import CHANGES, MAX_FORM_BYTES, PageRoute, WritingVisitor

Back = Annotated[str, Form()]

router = APIRouter(prefix="/jobs/{job_id}", route_class=PageRoute, dependencies=CHANGES)


@router.post("/cancel", max_body_size=MAX_FORM_BYTES)
def cancel(app: App, request: Request, caller: WritingVisitor, job_id: str, back: Back = "") -> RedirectResponse:
    try:
        job = endpoints.cancel_job(app, caller, job_id)
        notify(request, "The job is cancelled." if job.status == "cancelled" else "The job stops at its next step.")
    except ApiError as error:
        _tell(request, error)
    return _to("/" if back == "/" else f"/jobs/{job_id}")


@router.post("/pause", max_body_size=MAX_FORM_BYTES)
def pause(app: App, request: Request, caller: WritingVisitor, job_id: str) -> RedirectResponse:
    try:
        job = endpoints.pause_job(app, caller, job_id)
        notify(request, "The job is paused." if job.status == "paused" else "The job writes a checkpoint and pauses.")
    except ApiError as error:
        _tell(request, error)
    return _to(f"/jobs/{job_id}")


@router.post("/resume", max_body_size=MAX_FORM_BYTES)
def resume(
    app: App,
    request: Request,
    caller: WritingVisitor,
    job_id: str,
    max_cost_usd: Annotated[str | None, Form()] = None,
    max_seconds: Annotated[str | None, Form()] = None,
) -> RedirectResponse:
    try:
        endpoints.resume_job(app, caller, job_id, _with_budget(max_cost_usd, max_seconds))
        notify(request, "The job goes on.")
    except ApiError as error:
        _tell(request, error)
    return _to(f"/jobs/{job_id}")


@router.post("/clone", max_body_size=MAX_FORM_BYTES)
def clone(app: App, request: Request, caller: WritingVisitor, job_id: str) -> RedirectResponse:
    try:
        copy = endpoints.clone_job(app, caller, job_id, None)
    except ApiError as error:
        _tell(request, error)
        return _to(f"/jobs/{job_id}")
    notify(request, f"This is the copy of {job_id}.")
    return _to(f"/jobs/{copy.id}")


@router.post("/delete", max_body_size=MAX_FORM_BYTES, dependencies=TOUCHES_STORAGE)
def delete(app: App, request: Request, caller: WritingVisitor, job_id: str) -> RedirectResponse:
    try:
        endpoints.delete_job(app, caller, job_id)
    except ApiError as error:
        _tell(request, error)
        return _to(f"/jobs/{job_id}")
    notify(request, f"{job_id} is deleted.")
    return _to("/")


def _with_budget(max_cost_usd: str | None, max_seconds: str | None) -> ResumeRequest | None:
    """An empty field takes the cap away; a form without the fields changes none."""
    if max_cost_usd is None and max_seconds is None:
        return None
    try:
        budget = Budget(
            max_cost_usd=Decimal(max_cost_usd) if max_cost_usd else None,
            max_seconds=int(max_seconds) if max_seconds else None,
        )
    except (InvalidOperation, ValueError, ValidationError):
        raise InvalidRequest("The budget: dollars as 1.50, seconds as a whole number, or nothing for no cap.") from None
    return ResumeRequest(falqon=ResumeExtras(budget=budget))


def _tell(request: Request, error: ApiError) -> None:
    notify(request, error.message, failed=True)


def _to(path: str) -> RedirectResponse:
    return RedirectResponse(path, 303)
