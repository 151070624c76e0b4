from typing import Annotated, Literal, Self

from pydantic import Field

from app.files.addresses import MAX_ADDRESS, without_query
from app.models import ModelImport
from app.models.strict_model import StrictModel
from app.operations.schemas import OperationError, OperationObject

MAX_ID = 193


class ModelImportRequest(StrictModel):
    id: Annotated[
        str,
        Field(min_length=1, max_length=MAX_ID, description="id by which jobs will name the model"),
    ]
    source: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_ADDRESS,
            description="hf://owner/name or hf://owner/name@revision, https://host/model.gguf, "
            "or builtin:falqon-tiny",
        ),
    ]


class ModelImportObject(OperationObject):
    object: Literal["model.import"] = "model.import"
    model: Annotated[str, Field(description="the resulting base model, once completed")]
    source: str
    bytes: Annotated[int, Field(description="bytes that the worker has fetched and written so far")]
    conversions: Annotated[
        list[str],
        Field(
            description=(
                "conversions of the source, and requirements for inference if the workers' own "
                "engine does not load the model, in sentences; empty until completed"
            )
        ),
    ]
    error: Annotated[
        OperationError | None, Field(description="reason of the failure; a new request retries it")
    ]

    @classmethod
    def of(cls, imported: ModelImport) -> Self:
        return cls(
            **cls.values_of(imported),
            model=imported.model_id,
            source=without_query(imported.source),
            bytes=imported.bytes,
            conversions=imported.conversions,
        )
