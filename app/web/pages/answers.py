from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Form, Query, Request, Response

from app.http.dependencies import TOUCHES_STORAGE, After, ServicesDep
from app.models.answer_file import AnswerFileRequest, AnswerFilter
from app.stored_answers import files, service
from app.web.forms import notify_refusals, parse_form, redirect_to
from app.web.rendering import page
from app.web.session import notify
from app.web.visitor import PageRouter, Visitor, WritingVisitor

PATH = "/answers"
PAGE_SIZE = 50
MAX_MESSAGES = 100
Text = Annotated[str, Query(max_length=512)]
Field = Annotated[str, Form()]

router = PageRouter(PATH)


@router.get("")
def answers_page(
    services: ServicesDep,
    request: Request,
    caller: Visitor,
    model: Text = "",
    label: Text = "",
    corrected: Text = "",
    after: After = None,
) -> Response:
    """List stored answers. `label`: a pair of the metadata, as in rating=good."""
    filter = _parse_filter(model, label, corrected)
    filters = {"model": model, "label": label, "corrected": corrected}
    return page(
        request,
        "answers/page.html",
        caller,
        here="/data",
        rows=service.list_rows(services, caller, filter, after=after, limit=PAGE_SIZE),
        filters=filters,
        is_filtered=not filter.is_empty,
        query=urlencode({name: value for name, value in filters.items() if value}),
        after=after,
    )


@router.change("/files", *TOUCHES_STORAGE)
def make_file(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    shape: Field = "supervised",
    held_out_file: Field = "",
    model: Field = "",
    label: Field = "",
    corrected: Field = "",
) -> Response:
    with notify_refusals(request):
        body = parse_form(AnswerFileRequest, shape=shape, held_out_file=held_out_file.strip())
        filter = _parse_filter(model, label, corrected)
        file = files.make_file(services, caller, body.model_copy(update={"filter": filter}))
        return redirect_to(f"/data/{file.id}")
    return redirect_to(PATH)


@router.change("/delete")
def delete_answers(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    model: Field = "",
    label: Field = "",
    corrected: Field = "",
) -> Response:
    with notify_refusals(request):
        filter = _parse_filter(model, label, corrected)
        deleted = service.delete_answers(services, caller, filter)
        more = "; there are more" if deleted.has_more else ""
        notify(request, f"{deleted.num_deleted} answers are deleted{more}.")
    return redirect_to(PATH)


@router.get("/{answer_id}")
def answer_page(
    services: ServicesDep, request: Request, caller: Visitor, answer_id: str
) -> Response:
    answer = service.retrieve_answer(services, caller, None, answer_id)
    messages = service.list_messages(
        services, caller, None, answer_id, after=None, limit=MAX_MESSAGES, order="asc"
    )
    return page(
        request, "answers/answer.html", caller, here="/data", answer=answer, messages=messages
    )


@router.change("/{answer_id}")
def change_answer(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    answer_id: str,
    rating: Annotated[str, Form(max_length=512)] = "",
    corrected: Field = "",
) -> Response:
    """Rate an answer, and write the one that should have come; an empty field takes one away."""
    with notify_refusals(request):
        service.judge_answer(services, caller, answer_id, rating.strip(), corrected.strip())
        notify(request, "Your judgement is kept.")
    return redirect_to(f"{PATH}/{answer_id}")


@router.change("/{answer_id}/delete")
def delete_answer(
    services: ServicesDep, request: Request, caller: WritingVisitor, answer_id: str
) -> Response:
    with notify_refusals(request):
        service.delete_answer(services, caller, None, answer_id)
        notify(request, "The answer is deleted.")
    return redirect_to(PATH)


def _parse_filter(model: str, label: str, corrected: str) -> AnswerFilter:
    """Return the filter that the fields of the page say."""
    name, _, value = label.partition("=")
    fields: dict[str, Any] = {"metadata": {name.strip(): value.strip()} if label.strip() else {}}
    if model.strip():
        fields["model"] = model.strip()
    if corrected in ("yes", "no"):
        fields["corrected"] = corrected == "yes"
    return AnswerFilter.model_validate(fields)
