"""What forms send, as the API's requests: a field left empty is one that was not sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.responses import RedirectResponse

from app.errors import ApiError, InvalidRequest
from app.web.session import notify

T = TypeVar("T", bound=BaseModel)


def parse_form(kind: type[T], **fields: Any) -> T:
    """Read texts as the fields of a request. Raises `InvalidRequest`."""
    values = {name: value for name, value in fields.items() if value not in (None, "")}
    # Of lists pydantic reads no texts.
    has_lists = any(isinstance(value, list) for value in values.values())
    try:
        if has_lists:
            return kind.model_validate(values)
        return kind.model_validate_strings(values)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        path = ".".join(map(str, fault["loc"]))
        message = fault["msg"].removeprefix("Value error, ")
        raise InvalidRequest(f"{path}: {message}" if path else message) from None


@contextmanager
def notify_refusals(request: Request) -> Iterator[None]:
    """Say what is refused on the page that follows."""
    try:
        yield
    except ApiError as error:
        notify(request, error.message, failed=True)


def redirect_to(path: str) -> RedirectResponse:
    return RedirectResponse(path, 303)
