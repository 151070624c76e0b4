from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field

from app.files.addresses import MAX_ADDRESS, without_query
from app.http.pagination import Object, unix_seconds
from app.models import File, FileImport, Purpose
from app.models.answer_file import AnswerFileOrigin
from app.models.strict_model import StrictModel
from app.operations.schemas import OperationError, Status
from falqon_core.contract.sources import ColumnMapping, SourceFormat
from falqon_core.records.file_check import FileReport

MAX_PAGE = 10_000
PAGE = 1_000  # unless the client asks for another number; it reads on by itself
MIN_LIFETIME_SECONDS = 3600
MAX_LIFETIME_SECONDS = 30 * 24 * 3600

UploadPurpose = Literal[
    Purpose.ASSISTANTS,
    Purpose.BATCH,
    Purpose.FINE_TUNE,
    Purpose.VISION,
    Purpose.USER_DATA,
    Purpose.EVALS,
]
Order = Literal["asc", "desc"]
Lifetime = Annotated[int, Field(ge=MIN_LIFETIME_SECONDS, le=MAX_LIFETIME_SECONDS)]


class SourceRequest(StrictModel):
    """File with the content of an address, instead of uploaded bytes."""

    source: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_ADDRESS,
            description="hf://owner/name@revision/split, s3://bucket/key or https://host/path",
        ),
    ]
    purpose: Literal["fine-tune"]
    mapping: Annotated[
        ColumnMapping | None,
        Field(
            description='the column of each field: {"prompt": "question", "completion": "answer"}'
        ),
    ] = None


class FileSource(BaseModel):
    """Source of a file's records, and the progress of the worker that reads it."""

    source: Annotated[
        str, Field(description="an address, or the name of the file that was uploaded")
    ]
    format: SourceFormat | None
    mapping: Annotated[dict[str, str], Field(description="the column of each field; empty: itself")]
    revision: Annotated[
        str | None, Field(description="the address with its revision, once it was read")
    ]
    sha256: str | None
    bytes: int | None
    status: Status
    progress: Annotated[float, Field(description="0 to 1")]
    num_records: int
    first_records: Annotated[
        list[str], Field(description="as JSON lines, cut, while the records are being read")
    ]
    ignored_columns: Annotated[list[str], Field(description="unused columns")]
    error: OperationError | None

    @classmethod
    def of(cls, imported: FileImport) -> Self:
        names = cls.model_fields.keys() - {"source", "error"}
        values = {name: getattr(imported, name) for name in names}
        return cls(
            **values, source=without_query(imported.source), error=OperationError.of(imported)
        )


class FileObject(Object):
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: str
    status_details: str | None
    report: Annotated[
        FileReport | None,
        Field(
            description="report of the check; null until it has ended. Lists of files leave its "
            "`errors` empty: `num_errors` counts them, and the file alone has them"
        ),
    ]

    source: Annotated[
        FileSource | None,
        Field(description="source of the records; null: they were uploaded"),
    ]
    made_of: Annotated[
        AnswerFileOrigin | None,
        Field(description="stored answers that became the lines; `request` makes the file again"),
    ]

    @classmethod
    def of(cls, file: File, imported: FileImport | None = None) -> Self:
        return cls(
            id=file.id,
            bytes=file.bytes,
            created_at=int(file.created_at.timestamp()),
            expires_at=unix_seconds(file.expires_at),
            filename=file.filename,
            purpose=file.purpose,
            status=file.status,
            status_details=file.status_details,
            report=file.report,
            source=FileSource.of(imported) if imported else None,
            made_of=file.made_of,
        )


class FileDeleted(Object):
    object: Literal["file"] = "file"
    deleted: bool = True
