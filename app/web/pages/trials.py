"""Try it: one prompt, what the model answers, and its base model beside it."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from sse_starlette import EventSourceResponse

from app.auth.caller import Caller
from app.catalogue import endpoints as catalogue
from app.catalogue.schemas import ModelObject
from app.http.dependencies import App, Services
from app.stream.endpoints import event_stream
from app.trials import endpoints
from app.trials.schemas import MAX_PROMPT_CHARACTERS, MAX_TOKENS, TrialRequest
from app.web import live
from app.web.forms import asked, to, told
from app.web.rendering import fragment, page, shared
from app.web.text import model_page
from app.web.visitor import CHANGES, MAX_FORM_BYTES, PageRoute, Visitor, WritingVisitor

SHOWN = 10
LOOK_SECONDS = 1.0

router = APIRouter(prefix="/models/{model:path}/try", route_class=PageRoute)
streams = APIRouter(prefix="/models/{model:path}/try")


@streams.get("/live")
def trial_stream(app: App, request: Request, caller: Visitor, model: str) -> EventSourceResponse:
    """The answers as they are written."""
    context = shared(request, caller)
    shown = catalogue.retrieve_model(app, caller, model)

    def render() -> live.Parts:
        return {"trials": fragment("models/trials.html", **context, **_trials(app, caller, shown))}

    return event_stream(live.parts(app, caller.key_id, caller.project_id, render, LOOK_SECONDS))


@router.get("")
def try_page(app: App, request: Request, caller: Visitor, model: str) -> Response:
    shown = catalogue.retrieve_model(app, caller, model)
    limits = {"max_prompt_characters": MAX_PROMPT_CHARACTERS, "max_tokens": MAX_TOKENS}
    return page(request, "models/try.html", caller, here="/models", **limits, **_trials(app, caller, shown))


@router.post("", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def try_model(
    app: App,
    request: Request,
    caller: WritingVisitor,
    model: str,
    prompt: Annotated[str, Form()] = "",
    max_tokens: Annotated[str, Form()] = "",
) -> Response:
    with told(request):
        # A form sends line ends as CR LF.
        endpoints.create_trial(app, caller, model, asked(TrialRequest, prompt=prompt.replace("\r\n", "\n"), max_tokens=max_tokens))
    return to(f"{model_page(model)}/try")


def _trials(app: Services, caller: Caller, model: ModelObject) -> dict[str, Any]:
    found = endpoints.list_trials(app, caller, model.id, SHOWN).data
    return {"model": model, "trials": found, "in_progress": any(trial.status == "in_progress" for trial in found)}
