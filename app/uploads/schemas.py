from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints

from app.files.schemas import FileObject, Lifetime, UploadPurpose
from app.http.pagination import Object
from app.models import File, FileImport, Upload, UploadPart
from app.models.strict_model import StrictModel

MAX_PARTS = 10_000


PartId = Annotated[str, StringConstraints(max_length=64)]


class ExpiresAfter(StrictModel):
    anchor: Literal["created_at"]
    seconds: Lifetime


class UploadRequest(StrictModel):
    filename: str
    purpose: UploadPurpose
    bytes: Annotated[int, Field(ge=1)]
    mime_type: Annotated[
        str, StringConstraints(max_length=255), Field(description="ignored; the content decides")
    ]
    expires_after: Annotated[
        ExpiresAfter | None, Field(description="purpose of the file that the upload becomes")
    ] = None


class CompleteRequest(StrictModel):
    part_ids: Annotated[
        list[PartId],
        Field(min_length=1, max_length=MAX_PARTS, description="in the order of their bytes"),
    ]
    md5: (
        Annotated[
            str,
            StringConstraints(pattern="^[0-9a-fA-F]{32}$"),
            Field(description="MD5 of all bytes, in hexadecimal"),
        ]
        | None
    ) = None


class UploadObject(Object):
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: str
    file: FileObject | None

    @classmethod
    def of(
        cls, upload: Upload, file: File | None = None, imported: FileImport | None = None
    ) -> Self:
        return cls(
            id=upload.id,
            bytes=upload.bytes,
            created_at=int(upload.created_at.timestamp()),
            expires_at=int(upload.expires_at.timestamp()),
            filename=upload.filename,
            purpose=upload.purpose,
            status=upload.status,
            file=FileObject.of(file, imported) if file else None,
        )


class PartObject(Object):
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str

    @classmethod
    def of(cls, part: UploadPart) -> Self:
        return cls(
            id=part.id, created_at=int(part.created_at.timestamp()), upload_id=part.upload_id
        )
