from typing import Annotated, Any, Literal, Self

from pydantic import Field

from app.catalogue.naming import hub_id
from app.catalogue.repository import Listed
from app.http.pagination import Object
from app.models import Model


class ModelObject(Object):
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    base_model: str | None
    fine_tuning_job: str | None
    bytes: int
    hub_id: str
    format: Annotated[
        str | None,
        Field(description="of a model that was exported: fp8, lora, bf16, gguf or q4_1; else null"),
    ]

    @classmethod
    def of(cls, model: Model | Listed) -> Self:
        return cls(**fields_of(model))


def fields_of(model: Model | Listed) -> dict[str, Any]:
    """Name what a `ModelObject` says, as a list of many is encoded."""
    return {
        "id": model.id,
        "object": "model",
        "created": int(model.created_at.timestamp()),
        "owned_by": model.project_id or "system",
        "base_model": model.base_model_id,
        "fine_tuning_job": model.job_id,
        "bytes": model.bytes,
        "hub_id": hub_id(model.id),
        "format": model.format,
    }


class ModelDeleted(Object):
    object: Literal["model"] = "model"
    deleted: bool = True
