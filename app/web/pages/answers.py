import hashlib
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Form, Query, Request, Response

from app.http.body_limit import MAX_JSON_BYTES
from app.http.dependencies import After, ServicesDep
from app.models.answer_file import AnswerFileRequest, AnswerFilter
from app.stored_answers import files, service
from app.stored_answers.records import corrected_text
from app.stored_answers.schemas import Judgement
from app.web.forms import notify_refusals, parse_form, redirect_to
from app.web.rendering import page
from app.web.session import notify
from app.web.visitor import (
    CHANGES,
    MAX_FORM_BYTES,
    TOUCHES_STORAGE,
    PageRouter,
    Visitor,
    WritingVisitor,
)

PATH = "/answers"
PAGE_SIZE = 50
MAX_MESSAGES = 100
# The longest correction that the API takes is this large when percent-encoded.
MAX_JUDGEMENT_BYTES = 3 * MAX_JSON_BYTES + MAX_FORM_BYTES
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
    text = corrected_text(answer.corrected)
    return page(
        request,
        "answers/answer.html",
        caller,
        here="/data",
        answer=answer,
        messages=messages,
        corrected_text=text,
        shown=_digest(text or ""),
    )


@router.post(
    "/{answer_id}",
    max_body_size=MAX_JUDGEMENT_BYTES,
    form_limits={"max_part_size": MAX_JUDGEMENT_BYTES},
    dependencies=CHANGES,
)
def change_answer(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    answer_id: str,
    rating: Field = "",
    corrected: Field = "",
    shown: Field = "",
) -> Response:
    """Rate an answer, and write the one that should have come; an empty field takes one away.
    `shown`: the digest of the text that the page showed; a page without a field for it has none.
    """
    with notify_refusals(request):
        text = _normalise(corrected)
        keeps_correction = _digest(text) == (shown or _digest(""))
        written = "" if keeps_correction else text.strip()
        judgement = parse_form(Judgement, rating=rating.strip(), corrected=written)
        service.judge_answer(
            services, caller, answer_id, judgement, keeps_correction=keeps_correction
        )
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


def _normalise(text: str) -> str:
    """Return the text with the line breaks of stored texts, in place of those of forms."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _digest(text: str) -> str:
    return hashlib.sha256(_normalise(text).encode()).hexdigest()


def _parse_filter(model: str, label: str, corrected: str) -> AnswerFilter:
    """Return the filter that the fields of the page say. Raises `InvalidForm`."""
    name, _, value = label.partition("=")
    fields: dict[str, Any] = {"metadata": {name.strip(): value.strip()} if label.strip() else {}}
    if model.strip():
        fields["model"] = model.strip()
    if corrected in ("yes", "no"):
        fields["corrected"] = corrected == "yes"
    return parse_form(AnswerFilter, **fields)
