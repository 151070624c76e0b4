"""Models that never expire, and deletion of many at once."""

import time
from typing import Annotated

from fastapi import Form, Request, Response
from pydantic import Field

from app.auth.caller import Caller
from app.http.dependencies import ServicesDep
from app.models.strict_model import StrictModel
from app.retention import service
from app.retention.schemas import Deletion, ModelDeletionRequest, RetentionRequest
from app.services import Services
from app.web.forms import notify_refusals, parse_form, redirect_to
from app.web.rendering import page
from app.web.session import notify
from app.web.text import model_page
from app.web.visitor import PageRouter, WritingVisitor

MODELS_PATH = "/models"
DAY_SECONDS = 86_400
MAX_ROUNDS = 100  # 10,000 models of one form

router = PageRouter(MODELS_PATH)
Typed = Annotated[str, Form()]


class DeletionForm(StrictModel):
    search: str | None = Field(None, max_length=512)
    unused_days: int | None = Field(None, ge=1, le=36_500)
    created_days: int | None = Field(None, ge=1, le=36_500)

    def request(self, *, dry_run: bool) -> ModelDeletionRequest:
        return ModelDeletionRequest(
            search=self.search,
            unused_since=_days_ago(self.unused_days),
            created_before=_days_ago(self.created_days),
            dry_run=dry_run,
        )


@router.change("/delete")
def delete_models(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    search: Typed = "",
    unused_days: Typed = "",
    created_days: Typed = "",
    confirmed: Typed = "",
) -> Response:
    """Show the models that meet all criteria, and delete them once that is confirmed."""
    with notify_refusals(request):
        form = parse_form(
            DeletionForm,
            search=search.strip(),
            unused_days=unused_days,
            created_days=created_days,
        )
        if confirmed:
            _delete_all(services, request, caller, form)
        else:
            found = service.delete_models(services, caller, form.request(dry_run=True))
            return page(
                request, "models/delete.html", caller, here=MODELS_PATH, found=found, typed=form
            )
    return redirect_to(MODELS_PATH)


@router.change("/{model:path}/pin")
def pin_model(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    model: str,
    pinned: Annotated[bool, Form()] = False,
) -> Response:
    with notify_refusals(request):
        service.change_retention(services, caller, model, RetentionRequest(pinned=pinned))
        notify(request, "The model never expires." if pinned else "The model may expire.")
    return redirect_to(model_page(model))


def _delete_all(services: Services, request: Request, caller: Caller, form: DeletionForm) -> None:
    criteria = form.request(dry_run=False)
    num_deleted = num_kept = 0
    for _ in range(MAX_ROUNDS):
        deletion: Deletion = service.delete_models(services, caller, criteria)
        num_deleted += len(deletion.deleted)
        num_kept += len(deletion.kept)
        if not deletion.has_more:
            break
        criteria = criteria.model_copy(update={"after": deletion.last_id})
    kept = f" {num_kept} in use stay." if num_kept else ""
    notify(request, f"{num_deleted} models are deleted.{kept}")


def _days_ago(days: int | None) -> int | None:
    return None if days is None else max(1, int(time.time()) - days * DAY_SECONDS)
