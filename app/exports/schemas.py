from typing import Annotated, Literal, Self

from pydantic import Field

from app.models import Export, OperationStatus
from app.models.strict_model import StrictModel
from app.operations.schemas import OperationError, OperationObject
from falqon_core.contract.formats import FormatName
from falqon_core.contract.rounding import Rounding


class ExportRequest(StrictModel):
    format: Annotated[
        FormatName,
        Field(
            description="lora: adapter for PEFT; gguf_lora: adapter for llama.cpp; "
            "bf16: merged, not quantized; "
            "gguf: for llama.cpp, gguf_…: in 8, 5 or 4 bits; gguf_q4_0: the codes of weights in "
            "Q4_0; q4_1: the INT4 weights that qa_lora trained, for llama.cpp; "
            "fp8, nvfp4, mxfp4, q4_0, q8_0: of a checkpoint, as it was trained"
        ),
    ]


class ExportObject(OperationObject):
    object: Literal["model.export"] = "model.export"
    model: Annotated[str, Field(description="the model or checkpoint that is exported")]
    format: FormatName
    error: Annotated[
        OperationError | None, Field(description="reason of the failure; a new request retries it")
    ]
    exported_model: Annotated[
        str | None,
        Field(description="the resulting model, once completed: its files are its artifacts"),
    ]
    rounding: Annotated[
        Rounding | None,
        Field(
            description="for forms that are rounded to fewer bits: what that costs in loss, if "
            "the files of the job were still there to measure it on"
        ),
    ]

    @classmethod
    def of(cls, export: Export) -> Self:
        is_completed = export.status == OperationStatus.COMPLETED
        return cls(
            **cls.values_of(export),
            model=export.source,
            format=export.format,
            exported_model=export.exported_model_id if is_completed else None,
            rounding=export.rounding if is_completed else None,
        )
