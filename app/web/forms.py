"""Forms as requests of the API: an empty field counts as not sent. An error stands at its field,
beside the text that the user typed."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.responses import RedirectResponse

from app.base.errors import ApiError, InvalidRequest
from app.base.plain_words import in_plain_words
from app.web.session import notify
from app.web.visitor import FORM_SCRIPT

T = TypeVar("T", bound=BaseModel)
Errors = dict[str, str]  # By field; an empty name stands for the whole form.


class InvalidForm(InvalidRequest):
    """`errors`: what is wrong with each field."""

    def __init__(self, errors: Errors) -> None:
        name, words = next(iter(errors.items()))
        super().__init__(f"{name}: {words}" if name else words, param=name or None)
        self.errors = errors


def parse_form(kind: type[T], **fields: Any) -> T:
    """Read texts as the fields of a request. Raises `InvalidForm`."""
    values = {name: value for name, value in fields.items() if value not in (None, "")}
    # Pydantic's validation of strings takes neither lists nor an absent text of an object.
    are_nested = any(isinstance(value, list | dict) for value in values.values())
    try:
        if are_nested:
            return kind.model_validate(values)
        return kind.model_validate_strings(values)
    except ValidationError as error:
        # The first of several errors at one field wins.
        faults = reversed(error.errors(include_url=False))
        raise InvalidForm(
            {
                str(fault["loc"][0]) if fault["loc"] else "": in_plain_words(fault)
                for fault in faults
            }
        ) from None


class TypedForm:
    """The texts of a form. As a context it keeps a refusal as `errors` at its fields, for the page
    that shows the form again.
    """

    def __init__(self, *other_fields: str, **texts: str | None) -> None:
        self.values = {name: text or "" for name, text in texts.items()}
        self.errors: Errors = {}
        self._fields = (*texts, *other_fields)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        if isinstance(error, ApiError):
            self.errors = errors_of(error, self._fields)
        return bool(self.errors)

    @property
    def status_code(self) -> int:
        return 400 if self.errors else 200


EMPTY_FORM = TypedForm()


def errors_of(error: ApiError, fields: Collection[str]) -> Errors:
    """Return the errors at each of `fields`; those of no field go to the top."""
    if isinstance(error, InvalidForm):
        return {name if name in fields else "": words for name, words in error.errors.items()}
    last = (error.param or "").rpartition(".")[2]
    if last in fields:
        return {last: error.message.removeprefix(f"{error.param}: ")}
    return {"": error.message}


@contextmanager
def notify_refusals(request: Request) -> Iterator[None]:
    """Say what is refused on the page that follows; a script says it on the page that there is,
    where what was typed stays.
    """
    try:
        yield
    except ApiError as error:
        if FORM_SCRIPT in request.headers:
            raise
        notify(request, error.message, failed=True)


def redirect_to(path: str) -> RedirectResponse:
    return RedirectResponse(path, 303)
