from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field

from app.http.pagination import Object, unix_seconds
from app.models import Model
from app.models.strict_model import StrictModel

LATEST_TIME = 32_503_680_000  # the year 3000
MAX_ID = 512

Moment = Annotated[int, Field(ge=1, le=LATEST_TIME)]
Text = Annotated[str, Field(min_length=1, max_length=MAX_ID, pattern=r"^[^\x00]*$")]


class RetentionRequest(StrictModel):
    pinned: Annotated[bool, Field(description="whether the model never expires")]


class ModelRetention(Object):
    object: Literal["model.retention"] = "model.retention"
    pinned: bool
    used_at: Annotated[
        int | None, Field(description="last question or download, exact to the hour")
    ]
    expires_at: Annotated[
        int | None, Field(description="end of the model, unless it is used or pinned before")
    ]

    @classmethod
    def of(cls, model: Model) -> Self:
        return cls(
            id=model.id,
            pinned=model.is_pinned,
            used_at=unix_seconds(model.used_at),
            expires_at=unix_seconds(model.expires_at),
        )


class DeletionRequest(StrictModel):
    """Criteria that hold together; at least one is required."""

    created_before: Moment | None = Field(None, description="seconds since 1970")
    search: Text | None = Field(None, description="part of the id")
    base_model: Text | None = None
    dry_run: bool = Field(False, description="delete nothing, and say what would be deleted")
    after: Text | None = Field(None, description="`last_id` of the answer before")

    @property
    def criteria(self) -> dict[str, object]:
        return self.model_dump(exclude={"dry_run", "after"}, exclude_none=True)


class ModelDeletionRequest(DeletionRequest):
    unused_since: Moment | None = Field(
        None, description="neither asked nor downloaded since; seconds since 1970"
    )
    format: Text | None = None


class JobDeletionRequest(DeletionRequest):
    status: Literal["succeeded", "failed", "cancelled"] | None = None


class Refused(BaseModel):
    id: str
    code: str | None
    message: str


class Deletion(BaseModel):
    object: Literal["deletion"] = "deletion"
    deleted: list[str]
    bytes: Annotated[int, Field(description="of the deleted models, or of their jobs' checkpoints")]
    kept: Annotated[list[Refused], Field(description="what is in use, and by what")]
    has_more: Annotated[bool, Field(description="more match: send the request with `after`")]
    last_id: str | None
