from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.http.pagination import Object
from app.models import File, Inspection
from app.operations.schemas import OperationError
from falqon_core.contract.inspection import Inspection as Result
from falqon_core.records.file_check import FileReport


class InspectionObject(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    model: str
    max_seq_length: int
    validation_file: str | None
    status: Literal["in_progress", "completed", "failed"]
    error: Annotated[OperationError | None, Field(description="why it failed")] = None
    result: Annotated[Result | None, Field(description="null until it has completed")] = None

    @classmethod
    def of(cls, row: Inspection) -> Self:
        return cls.model_validate(
            {
                "model": row.model_id,
                "max_seq_length": row.max_seq_length,
                "validation_file": row.validation_file_id or None,
                "status": row.status,
                "error": OperationError.of(row),
                "result": row.result,
            }
        )


class FileReportObject(Object):
    object: Literal["file.report"] = "file.report"
    status: Annotated[str, Field(description="of the file; its check has ended when it is 'processed' or 'error'")]
    report: Annotated[FileReport | None, Field(description="what the check found, line by line; null until it has ended")]
    inspections: Annotated[
        list[InspectionObject], Field(description="what the file is to a model: the one that was asked for, or all there are")
    ]

    @classmethod
    def of(cls, file: File, inspections: list[InspectionObject]) -> Self:
        report = FileReport.model_validate(file.report) if file.report is not None else None
        return cls(id=file.id, status=file.status, report=report, inspections=inspections)
