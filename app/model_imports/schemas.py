from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.files.addresses import MAX_ADDRESS, without_query
from app.models import ModelImport
from app.operations.schemas import OperationError, OperationObject

MAX_ID = 193


class ModelImportRequest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: Annotated[
        str,
        Field(min_length=1, max_length=MAX_ID, description="by which jobs will name the model"),
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
    model: Annotated[str, Field(description="the base model that it is, once completed")]
    source: str
    bytes: Annotated[int, Field(description="that the worker has fetched and written so far")]
    conversions: Annotated[
        list[str],
        Field(
            description="what was converted of the source, and what it takes to ask the model "
            "where the workers' own engine cannot, in sentences; empty until completed"
        ),
    ]
    error: Annotated[
        OperationError | None, Field(description="why it failed; asking again tries again")
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
