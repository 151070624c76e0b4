from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.http.pagination import Object
from app.models import Export
from app.operations.schemas import OperationError
from falqon_core.contract.formats import FormatName


class ExportRequest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Annotated[
        FormatName,
        Field(description="lora: adapter for PEFT; bf16: merged, not quantized; gguf: for llama.cpp; fp8: of a checkpoint"),
    ]


class ExportObject(Object):
    object: Literal["model.export"] = "model.export"
    model: Annotated[str, Field(description="the model or checkpoint that is exported")]
    format: FormatName
    status: Literal["in_progress", "completed", "failed"]
    error: Annotated[OperationError | None, Field(description="why it failed; asking again tries again")]
    exported_model: Annotated[str | None, Field(description="the model that it is, once completed: its files are its artifacts")]
    created_at: int

    @classmethod
    def of(cls, export: Export) -> Self:
        return cls.model_validate(
            {
                "id": export.id,
                "model": export.source,
                "format": export.format,
                "status": export.status,
                "error": OperationError.of(export),
                "exported_model": export.exported_model_id if export.status == "completed" else None,
                "created_at": int(export.created_at.timestamp()),
            }
        )
