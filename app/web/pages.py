from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.templating import Jinja2Templates
from starlette.responses import RedirectResponse

from app.dependencies import App, address_of, authenticate
from app.errors import InvalidApiKey, RateLimited
from app.jobs import repository as jobs
from app.jobs.lifecycle import TERMINAL
from app.jobs.repository import Filters
from app.jobs.schemas import JobObject
from app.keys import service as keys
from app.web.headers import page_headers
from app.web.session import KEY_ID, refuse_other_sites
from app.web.text import duration, moment, state

HERE = Path(__file__).parent
MAX_JOBS = 100
MAX_FORM_BYTES = 2**14  # a stranger may send one

templates = Jinja2Templates(HERE / "templates")
templates.env.filters |= {"duration": duration, "moment": moment}

router = APIRouter(include_in_schema=False)


@router.get("/")
def jobs_page(app: App, request: Request) -> Response:
    with app.database.read() as session:
        caller = keys.still_valid(session, request.session.get(KEY_ID, ""))
        if caller is None:
            return _page(request, "sign_in.html", refused="")
        rows = jobs.newest_first(session, caller.project_id, Filters(), after=None, limit=MAX_JOBS)[:MAX_JOBS]
    shown = [(JobObject.of(job), state(job)) for job in rows]
    return _page(request, "jobs.html", jobs=shown, is_live=any(job.status not in TERMINAL for job in rows))


@router.post("/sign-in", max_body_size=MAX_FORM_BYTES, dependencies=[Depends(refuse_other_sites)])
def sign_in(app: App, request: Request, key: Annotated[str, Form()]) -> Response:
    try:
        caller = authenticate(app, address_of(request), key.strip())
    except (InvalidApiKey, RateLimited) as error:
        return _page(request, "sign_in.html", status_code=error.status, refused=error.message)
    request.session[KEY_ID] = caller.key_id
    return RedirectResponse("/", 303)


@router.post("/sign-out", dependencies=[Depends(refuse_other_sites)])
def sign_out(request: Request) -> Response:
    request.session.clear()
    return RedirectResponse("/", 303)


def _page(request: Request, name: str, status_code: int = 200, **context: Any) -> Response:
    return templates.TemplateResponse(request, name, context, status_code, page_headers())
