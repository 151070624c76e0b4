from typing import Annotated, Literal, Self

from pydantic import Field

from app.catalogue.naming import hub_id
from app.models import Model
from app.pagination import Object


class ModelObject(Object):
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    base_model: str | None
    fine_tuning_job: str | None
    bytes: int
    hub_id: str
    format: Annotated[str | None, Field(description="of a model that was exported: fp8, lora, bf16 or gguf; otherwise null")]

    @classmethod
    def of(cls, model: Model) -> Self:
        return cls(
            id=model.id,
            created=int(model.created_at.timestamp()),
            owned_by=model.project_id or "system",
            base_model=model.base_model_id,
            fine_tuning_job=model.job_id,
            bytes=model.bytes,
            hub_id=hub_id(model.id),
            format=model.format,
        )


class ModelDeleted(Object):
    object: Literal["model"] = "model"
    deleted: bool = True
