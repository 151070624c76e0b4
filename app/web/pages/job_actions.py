"""Actions of a user on a job, each a plain form that ends on a page."""

from typing import Annotated

from fastapi import Form, Request, Response
from starlette.responses import RedirectResponse

from app.auth.caller import Caller
from app.base.errors import ApiError, InvalidRequest
from app.evaluations import service as evaluations
from app.evaluations.automatic import GRADERS
from app.evaluations.schemas import EvaluationRequest
from app.exports import service as exports
from app.http.dependencies import ServicesDep
from app.jobs import service
from app.jobs.checkpoints import checkpoint_name
from app.jobs.metadata import NOTE, TITLE
from app.jobs.requests import UpdateRequest
from app.models.falqon_options import Budget
from app.services import Services
from app.studies import service as studies
from app.studies.requests import THREE_RATES, study_like
from app.web.forms import InvalidForm, notify_refusals, parse_form, redirect_to
from app.web.pages.job import show_job
from app.web.session import notify
from app.web.text import job_name
from app.web.visitor import FORM_SCRIPT, TOUCHES_STORAGE, PageRouter, WritingVisitor
from falqon_core.contract.formats import FormatName

USED_UP = "The budget is used up. Enter a higher cap, or leave the field empty for no cap."
Back = Annotated[str, Form()]

router = PageRouter("/jobs/{job_id}")


@router.change("/cancel")
def cancel(
    services: ServicesDep, request: Request, caller: WritingVisitor, job_id: str, back: Back = ""
) -> RedirectResponse:
    with notify_refusals(request):
        job = service.cancel_job(services, caller, job_id)
        if job.status == "cancelled":
            notify(request, "Job cancelled.")
        else:
            notify(request, "The job stops at its next step.")
    return redirect_to("/" if back == "/" else f"/jobs/{job_id}")


@router.change("/pause")
def pause(
    services: ServicesDep, request: Request, caller: WritingVisitor, job_id: str
) -> RedirectResponse:
    with notify_refusals(request):
        job = service.pause_job(services, caller, job_id)
        if job.status == "paused":
            notify(request, "Job paused.")
        else:
            notify(request, "The job writes a checkpoint and pauses.")
    return redirect_to(f"/jobs/{job_id}")


@router.change("/resume")
def resume(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    job_id: str,
    has_caps: Annotated[bool, Form()] = False,
    max_cost_usd: Annotated[str, Form()] = "",
    max_seconds: Annotated[str, Form()] = "",
) -> Response:
    """`has_caps`: the form has the fields of the budget, each with a cap or empty for none."""
    try:
        budget = _read_budget(max_cost_usd, max_seconds) if has_caps else None
        service.resume_job(services, caller, job_id, budget)
    except ApiError as error:
        if error.code == "budget_exhausted":  # it speaks of the API's JSON
            error.message = USED_UP
        if FORM_SCRIPT in request.headers:
            raise
        notify(request, error.message, failed=True)
        typed = {"max_cost_usd": max_cost_usd, "max_seconds": max_seconds}
        return show_job(services, request, caller, job_id, typed if has_caps else None)
    notify(request, "Job resumed.")
    return redirect_to(f"/jobs/{job_id}")


@router.change("/edit")
def edit(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    job_id: str,
    title: Annotated[str, Form()] = "",
    note: Annotated[str, Form()] = "",
) -> RedirectResponse:
    """Set the title and the note of a job; an empty one is removed."""
    with notify_refusals(request):
        texts = {TITLE: title.strip(), NOTE: note.replace("\r\n", "\n").strip()}
        pairs = {name: text or None for name, text in texts.items()}
        changes = parse_form(UpdateRequest, metadata=pairs).metadata
        service.update_job(services, caller, job_id, changes)
        notify(request, "Saved.")
    return redirect_to(f"/jobs/{job_id}")


@router.change("/clone")
def clone(
    services: ServicesDep, request: Request, caller: WritingVisitor, job_id: str
) -> RedirectResponse:
    # One whose answer was lost may have made its copy: then that is the copy.
    retry_count = int(request.headers.get(FORM_SCRIPT) == "repeat")
    with notify_refusals(request):
        copy = service.clone_job(services, caller, job_id, {}, retry_count=retry_count)
        notify(request, f"This is the copy of {job_id}.")
        return redirect_to(f"/jobs/{copy.id}")
    return redirect_to(f"/jobs/{job_id}")


@router.change("/rates")
def try_rates(
    services: ServicesDep, request: Request, caller: WritingVisitor, job_id: str
) -> RedirectResponse:
    """Start a study of the same job at three learning rates."""
    # One whose answer was lost may have made its study: then that is the study.
    retry_count = int(request.headers.get(FORM_SCRIPT) == "repeat")
    with notify_refusals(request):
        with services.database.read() as session:
            job = service.get(session, caller.project_id, job_id)
        study_request = study_like(
            job.requested, f"{job_name(job)}, three rates", rate_factors=THREE_RATES
        )
        study = studies.create_study(services, caller, study_request, retry_count=retry_count)
        notify(request, "Study started: a job for each learning rate.")
        return redirect_to(f"/studies/{study.id}")
    return redirect_to(f"/jobs/{job_id}")


@router.change("/delete", *TOUCHES_STORAGE)
def delete(
    services: ServicesDep, request: Request, caller: WritingVisitor, job_id: str
) -> RedirectResponse:
    with notify_refusals(request):
        service.delete_job(services, caller, job_id)
        notify(request, f"{job_id} is deleted.")
        return redirect_to("/")
    return redirect_to(f"/jobs/{job_id}")


@router.change("/evaluations")
def evaluate(
    services: ServicesDep, request: Request, caller: WritingVisitor, job_id: str
) -> RedirectResponse:
    """Have the job's model and its base answer the rows that were held out."""
    with notify_refusals(request):
        evaluations.create_evaluation(services, caller, job_id, EvaluationRequest(graders=GRADERS))
        notify(request, "A worker asks the model and its base; the result appears on this page.")
    return redirect_to(f"/jobs/{job_id}#job-evaluations")


@router.change("/checkpoints/{step}/model")
def make_model(
    services: ServicesDep, request: Request, caller: WritingVisitor, job_id: str, step: int
) -> RedirectResponse:
    """Have a checkpoint made into a model of its own."""
    return _export(services, request, caller, job_id, step, None)


@router.change("/checkpoints/{step}/adapter")
def make_adapter(
    services: ServicesDep, request: Request, caller: WritingVisitor, job_id: str, step: int
) -> RedirectResponse:
    """Have a checkpoint made into an adapter that can be asked, also while the job goes on."""
    return _export(services, request, caller, job_id, step, "gguf_lora")


def _export(
    services: Services,
    request: Request,
    caller: Caller,
    job_id: str,
    step: int,
    format: FormatName | None,
) -> RedirectResponse:
    """Have a checkpoint made into that format; None is the one that it was trained in."""
    with notify_refusals(request):
        with services.database.read() as session:
            job = service.get(session, caller.project_id, job_id)
            name = checkpoint_name(service.model_id(session, job), step)
            format = format or job.weights
        export = exports.create_export(services, caller, name, format)
        if export.exported_model:
            notify(request, f"The model of step {step} is ready.")
        else:
            notify(request, f"A worker creates the model of step {step}.")
    return redirect_to(f"/jobs/{job_id}")


def _read_budget(max_cost_usd: str, max_seconds: str) -> Budget:
    try:
        caps = parse_form(Budget, max_cost_usd=max_cost_usd, max_seconds=max_seconds)
        return Budget(**dict(caps))  # With a cap that is left empty: it is taken away.
    except InvalidForm:
        raise InvalidRequest(
            "Enter dollars as 1.50 and seconds as a whole number, or nothing for no cap."
        ) from None
