"""Cursor pages as OpenAI's clients read them. Without `has_more` they would page forever."""

from collections.abc import Sequence
from datetime import datetime
from typing import Generic, Literal, Self, TypeVar

from pydantic import BaseModel

from app.base.errors import InvalidRequest
from app.base.ids import is_id


class Object(BaseModel):
    id: str


def unix_seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


T = TypeVar("T", bound=Object)


class Page(BaseModel, Generic[T]):
    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, objects: Sequence[T], limit: int | None = None) -> Self:
        """Make a page; repositories fetch a row more than `limit`, so that `has_more` is known."""
        page = list(objects[:limit])
        first_id, last_id = (page[0].id, page[-1].id) if page else (None, None)
        has_more = len(objects) > len(page)
        return cls(data=page, first_id=first_id, last_id=last_id, has_more=has_more)


def check_cursor(after: str | None, prefix: str, what: str) -> None:
    """Refuse a cursor by its form only.

    The row that the cursor names may be gone by now: deleted by the caller, or a checkpoint that
    was replaced.
    """
    if after is not None and not is_id(prefix, after):
        raise invalid_cursor(after, what)


def invalid_cursor(after: str, what: str) -> InvalidRequest:
    return InvalidRequest(
        f"after: '{after}' is not the id of {what}.", param="after", code="invalid_cursor"
    )
