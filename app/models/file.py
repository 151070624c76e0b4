from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement

from app.models.answer_file import AnswerFileOrigin
from app.models.base import Base, CreatedAt, PydanticType
from falqon_core.records.file_check import FileReport


class FileStatus(StrEnum):
    UPLOADED = "uploaded"  # the bytes are stored, the check has not ended
    PROCESSED = "processed"
    ERROR = "error"  # the check found errors, listed in `report`


class Purpose(StrEnum):
    ASSISTANTS = "assistants"
    BATCH = "batch"
    FINE_TUNE = "fine-tune"  # the only one that is checked, and that jobs read
    VISION = "vision"
    USER_DATA = "user_data"
    EVALS = "evals"
    FINE_TUNE_RESULTS = "fine-tune-results"  # ours to write, as the next one
    BATCH_OUTPUT = "batch_output"


class File(Base):
    """File that a user uploaded, or that a job produced."""

    __tablename__ = "files"
    __table_args__ = (
        Index("ix_files_project_id_id", "project_id", "id"),
        Index("ix_files_project_id_purpose_id", "project_id", "purpose", "id"),
        Index(
            "ix_files_project_id_deleted_at_bytes", "project_id", "deleted_at", "bytes"
        ),  # index for quotas: summed without the table
        Index("ix_files_status", "status"),
        Index(
            "ix_files_expires_at",
            "expires_at",
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
        Index(
            "uq_files_project_id_idempotency_key",
            "project_id",
            "idempotency_key",
            unique=True,
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    storage_key: Mapped[str] = mapped_column(index=True)
    idempotency_key: Mapped[str | None]  # a retry with the same key makes no second file
    status: Mapped[str]
    status_details: Mapped[str | None]
    report: Mapped[FileReport | None] = mapped_column(PydanticType(FileReport))
    # null: no stored answers
    made_of: Mapped[AnswerFileOrigin | None] = mapped_column(PydanticType(AnswerFileOrigin))
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]  # its bytes are removed later, see `app.garbage.orphans`


class _WithoutErrors(FunctionElement[FileReport]):
    """Report whose list of errors the database leaves out."""

    type = PydanticType(FileReport)
    inherit_cache = True


@compiles(_WithoutErrors, "sqlite")
def _without_errors_of_sqlite(element: _WithoutErrors, compiler: SQLCompiler, **kw: Any) -> str:
    return f"json_remove({compiler.process(element.clauses, **kw)}, '$.errors')"


@compiles(_WithoutErrors, "postgresql")
def _without_errors_of_postgresql(element: _WithoutErrors, compiler: SQLCompiler, **kw: Any) -> str:
    return f"({compiler.process(element.clauses, **kw)} - 'errors')"


REPORT_WITHOUT_ERRORS = _WithoutErrors(File.report)
