from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.http.pagination import Object
from app.models import DatasetStatistics, File
from app.operations.schemas import OperationError, Status
from falqon_core.contract.inspection import Inspection as Result
from falqon_core.contract.template_kwargs import TemplateKwargs, read_template_kwargs
from falqon_core.records.file_check import FileReport


# The API calls dataset statistics an inspection.
class InspectionObject(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    model: str
    max_seq_length: int
    validation_file: str | None
    chat_template_kwargs: TemplateKwargs | None
    status: Status
    error: Annotated[OperationError | None, Field(description="why it failed")] = None
    result: Annotated[Result | None, Field(description="null until it has completed")] = None

    @classmethod
    def of(cls, row: DatasetStatistics) -> Self:
        return cls.model_validate(
            {
                "model": row.model_id,
                "max_seq_length": row.max_seq_length,
                "validation_file": row.validation_file_id or None,
                "chat_template_kwargs": read_template_kwargs(row.chat_template_kwargs) or None,
                "status": row.status,
                "error": OperationError.of(row),
                "result": row.result,
            }
        )


class FileReportObject(Object):
    object: Literal["file.report"] = "file.report"
    status: Annotated[
        str,
        Field(
            description="status of the file; its check has ended when it is 'processed' or 'error'"
        ),
    ]
    report: Annotated[
        FileReport | None,
        Field(description="report of the check, line by line; null until it has ended"),
    ]
    inspections: Annotated[
        list[InspectionObject],
        Field(description="statistics of the file under the requested model, or under all"),
    ]

    @classmethod
    def of(cls, file: File, inspections: list[InspectionObject]) -> Self:
        return cls(id=file.id, status=file.status, report=file.report, inspections=inspections)
