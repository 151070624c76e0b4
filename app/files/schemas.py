from typing import Annotated, Any, Literal, Self

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.http.pagination import Object
from app.models import File, Purpose

MIN_LIFETIME_SECONDS, MAX_LIFETIME_SECONDS = 3600, 30 * 24 * 3600

UploadPurpose = Literal[Purpose.ASSISTANTS, Purpose.BATCH, Purpose.FINE_TUNE, Purpose.VISION, Purpose.USER_DATA, Purpose.EVALS]
Lifetime = Annotated[int, Field(ge=MIN_LIFETIME_SECONDS, le=MAX_LIFETIME_SECONDS)]


class FileForm(BaseModel):
    """multipart/form-data, with `expires_after` spelled as the client spells objects in forms."""

    model_config = ConfigDict(extra="forbid")

    file: UploadFile
    purpose: UploadPurpose
    anchor: Literal["created_at"] | None = Field(None, alias="expires_after[anchor]")
    seconds: Lifetime | None = Field(None, alias="expires_after[seconds]")

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.anchor is None) != (self.seconds is None):
            raise ValueError("expires_after: needs both 'anchor' and 'seconds'")
        return self


class FileObject(Object):
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: str
    status_details: str | None
    report: Annotated[dict[str, Any] | None, Field(description="what the check found; null until it has ended")]

    @classmethod
    def of(cls, file: File) -> Self:
        return cls(
            id=file.id,
            bytes=file.bytes,
            created_at=int(file.created_at.timestamp()),
            expires_at=None if file.expires_at is None else int(file.expires_at.timestamp()),
            filename=file.filename,
            purpose=file.purpose,
            status=file.status,
            status_details=file.status_details,
            report=file.report,
        )


class FileDeleted(Object):
    object: Literal["file"] = "file"
    deleted: bool = True
