"""Cursor pages as OpenAI's clients read them. Without `has_more` they would ask forever."""

from collections.abc import Sequence
from typing import Generic, Literal, Self, TypeVar

from pydantic import BaseModel

from app.errors import InvalidRequest
from app.ids import is_id


class Object(BaseModel):
    id: str


T = TypeVar("T", bound=Object)


class Page(BaseModel, Generic[T]):
    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, objects: Sequence[T], limit: int | None = None) -> Self:
        """Repositories fetch one row more than `limit`; whether it is there is `has_more`."""
        shown = list(objects[:limit])
        return cls(
            data=shown,
            first_id=shown[0].id if shown else None,
            last_id=shown[-1].id if shown else None,
            has_more=len(objects) > len(shown),
        )


def check_cursor(after: str | None, prefix: str, what: str) -> None:
    """Its form only. What it names may be gone by now: deleted by whoever was shown it, or a checkpoint that a newer one replaced."""
    if after is not None and not is_id(prefix, after):
        raise invalid_cursor(after, what)


def invalid_cursor(after: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"after: '{after}' is not the id of {what}.", param="after", code="invalid_cursor")
