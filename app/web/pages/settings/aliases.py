from typing import Annotated

from fastapi import Form, Request, Response

from app.aliases import service
from app.aliases.schemas import AliasRequest
from app.auth.caller import Caller
from app.catalogue import service as catalogue
from app.http.dependencies import ServicesDep
from app.services import Services
from app.switches import service as switches
from app.web.forms import EMPTY_FORM, TypedForm, notify_refusals, parse_form, redirect_to
from app.web.pages.settings.layout import SETTINGS_PATH, settings_page
from app.web.session import notify
from app.web.visitor import PageRouter, Visitor, WritingVisitor

ALIASES_PATH = f"{SETTINGS_PATH}/aliases"
DAYS = 7
Field = Annotated[str | None, Form()]

router = PageRouter(ALIASES_PATH)


@router.get("")
def aliases_page(services: ServicesDep, request: Request, caller: Visitor) -> Response:
    return _page(services, request, caller)


@router.change("")
def set_alias(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    name: Field = None,
    model: Field = None,
) -> Response:
    with TypedForm(name=name, model=model) as form:
        alias_request = parse_form(AliasRequest, name=name, model=model)
        service.put_alias(services, caller, alias_request, everywhere=False)
        notify(request, f"{name} stands for {model} within a second.")
        return redirect_to(ALIASES_PATH)
    return _page(services, request, caller, form)


@router.change("/{alias}/rollback")
def roll_back_alias(
    services: ServicesDep, request: Request, caller: WritingVisitor, alias: str
) -> Response:
    with notify_refusals(request):
        restored = service.roll_back(services, caller, alias, None, everywhere=False)
        models = ", ".join(target.model for target in restored.models)
        notify(request, f"{alias} stands for {models or 'nothing'} again.")
    return redirect_to(ALIASES_PATH)


@router.change("/{alias}/delete")
def delete_alias(
    services: ServicesDep, request: Request, caller: WritingVisitor, alias: str
) -> Response:
    with notify_refusals(request):
        service.delete_alias(services, caller, alias, everywhere=False)
        notify(request, f"{alias} is deleted.")
    return redirect_to(ALIASES_PATH)


def _page(
    services: Services, request: Request, caller: Caller, form: TypedForm = EMPTY_FORM
) -> Response:
    with services.database.read() as session:
        models = catalogue.trainable(session, caller.project_id)
    return settings_page(
        request,
        "aliases.html",
        caller,
        ALIASES_PATH,
        form,
        aliases=service.list_aliases(services, caller).data,
        usage=service.sum_usage(services, caller, DAYS),
        days=DAYS,
        models=models,
        switches=switches.newest_by_alias(services, caller),
    )
