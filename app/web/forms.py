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


def asked(kind: type[T], **fields: Any) -> T:
    """Texts become what the request's fields are. Raises `InvalidRequest`."""
    given = {name: value for name, value in fields.items() if value not in (None, "")}
    has_lists = any(isinstance(value, list) for value in given.values())  # of which pydantic reads no texts
    try:
        return kind.model_validate(given) if has_lists else kind.model_validate_strings(given)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise InvalidRequest(f"{where + ': ' if where else ''}{fault['msg'].removeprefix('Value error, ')}") from None


@contextmanager
def told(request: Request) -> Iterator[None]:
    """What cannot be done is said on the page that follows."""
    try:
        yield
    except ApiError as error:
        notify(request, error.message, failed=True)


def to(path: str) -> RedirectResponse:
    return RedirectResponse(path, 303)
