from typing import Annotated, Any, Literal, Self

from pydantic import Field

from app.models import File
from app.pagination import Object

PURPOSE = "fine-tune"


class FileObject(Object):
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
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
            filename=file.filename,
            purpose=file.purpose,
            status=file.status,
            status_details=file.status_details,
            report=file.report,
        )


class FileDeleted(Object):
    object: Literal["file"] = "file"
    deleted: bool = True
