"""Rendering of pages and their parts as HTML. Every text of a user passes through Jinja's escaping;
nothing is marked safe."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.templating import Jinja2Templates

from app.auth.caller import RIGHTS, Caller
from app.catalogue.schemas import NOT_SERVABLE
from app.evaluations.summary import describe_p_value
from app.http.dependencies import get_services
from app.jobs.queue_forecast import MAX_FORECAST
from app.models import Scope
from app.web import assets, session, text
from app.web.headers import page_headers
from app.web.job_form import label_of
from falqon_core.contract.formats import NOT_TRAINABLE

WEB_FOLDER = Path(__file__).parent
IMPORT_STATUS = {  # The kind and the words of a model's import.
    "failed": ("failed", "not added"),
    "completed": ("succeeded", "added"),
    "in_progress": ("running", "being added"),
}
MOST_UNFOLDED = 3  # Queued jobs that a table shows without being opened.


@dataclass(frozen=True, slots=True)
class Screen:
    path: str
    label: str


JOBS = Screen("/", "Jobs")
NAVIGATION = {
    "Train": (
        JOBS,
        Screen("/data", "Data"),
        Screen("/compare", "Compare"),
        Screen("/studies", "Studies"),
    ),
    "Use": (Screen("/models", "Models"), Screen("/playground", "Playground")),
    "Run": (
        Screen("/workers", "Workers"),
        Screen("/usage", "Usage"),
        Screen("/settings", "Settings"),
    ),
}
SCREENS = tuple(screen for group in NAVIGATION.values() for screen in group)


def current_screen(path: str) -> Screen | None:
    """Return the screen that a page is, or is part of."""
    if path.startswith("/jobs/"):
        return JOBS
    return next(
        (each for each in SCREENS if path == each.path or path.startswith(f"{each.path}/")),
        None,
    )


templates = Jinja2Templates(WEB_FOLDER / "templates")
templates.env.auto_reload = False  # It would check every file for every part of every page.
templates.env.trim_blocks = templates.env.lstrip_blocks = True
templates.env.filters |= text.FILTERS | {"setting_label": label_of}
templates.env.globals |= {
    "IMPORT_STATUS": IMPORT_STATUS,
    "asset": assets.asset,
    "current_screen": current_screen,
    "max_forecast": MAX_FORECAST,
    "most_unfolded": MOST_UNFOLDED,
    "navigation": NAVIGATION,
    "not_servable": NOT_SERVABLE,
    "not_trainable": NOT_TRAINABLE,
    "p_value": describe_p_value,
    "state": text.state,
}


def page(
    request: Request,
    name: str,
    caller: Caller | None = None,
    status_code: int = 200,
    **context: Any,
) -> Response:
    """`name`: a template that extends base.html."""
    context = (
        shared(request, caller)
        | context
        | {
            "assets_missing": not assets.are_installed(),
            "notice": request.session.pop(session.NOTICE, None),
        }
    )
    return templates.TemplateResponse(request, name, context, status_code, page_headers())


def fragment(name: str, **context: Any) -> str:
    """Render a part of a page, for a stream; `context` holds what `shared` gives."""
    return templates.get_template(name).render(context)


def shared(request: Request, caller: Caller | None) -> dict[str, Any]:
    """Return the values that every template may use."""
    may_write = caller is not None and RIGHTS.index(caller.scope) >= RIGHTS.index(Scope.WRITE)
    origin = str(request.base_url).rstrip("/")
    return {
        "caller": caller,
        "may_write": may_write,
        "csrf": session.form_token(request),
        "other_keys": session.other_keys(request),
        "origin": origin,
        "provider": get_services(request).settings.provider_name,
    }
