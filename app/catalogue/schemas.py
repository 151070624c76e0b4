from typing import Literal, Self

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
        )


class ModelDeleted(Object):
    object: Literal["model"] = "model"
    deleted: bool = True
