from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from app.catalogue.naming import hub_id
from app.catalogue.repository import ListedModel
from app.http.pagination import Object
from app.models import Alias, Model
from app.models.alias import AliasTarget
from app.models.model import ServeAs
from app.models.strict_model import StrictModel
from falqon_core.contract.gguf_support import engine_note
from falqon_core.contract.rounding import Rounding

MAX_REPLICAS = 16  # of a model
NOT_SERVABLE = "lora"  # no engine of the workers takes PEFT's form of an adapter


class ModelChange(StrictModel):
    """Change of a model; what is absent stays."""

    serve_as: Annotated[
        ServeAs | None,
        Field(
            description="merged: from weights of its own, exactly those trained; shared: as an "
            "adapter on its base, which models share in memory, from the moment that its distance "
            "is measured"
        ),
    ] = None
    replicas: Annotated[
        int | None, Field(ge=1, le=MAX_REPLICAS, description="engines that answer at once")
    ] = None

    @model_validator(mode="after")
    def _change_something(self) -> Self:
        if self.serve_as is None and self.replicas is None:
            raise ValueError("serve_as or replicas is required")
        return self


class SharedForm(BaseModel):
    model: Annotated[str, Field(description="the adapter that answers, on the base model")]
    bound: Annotated[
        Rounding,
        Field(
            description="how far its answers are from those of the merged model, on held-out rows"
        ),
    ]


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
        Field(description="format of an exported model, such as fp8 or gguf_q4_k_m; else null"),
    ]
    engine_note: Annotated[
        str | None,
        Field(
            description=(
                "why inference with the model is not possible, or its requirements if the "
                "workers' own engine does not load it; else null"
            )
        ),
    ]

    replicas: Annotated[
        int | None,
        Field(description="engines that answer at once while it is asked; null in a list"),
    ] = None
    serve_as: Annotated[
        ServeAs | None,
        Field(
            description="for the model of a job: merged, from weights of its own, or shared, as an "
            "adapter on its base; null in lists"
        ),
    ] = None
    shared_form: Annotated[
        SharedForm | None,
        Field(
            description="what answers where serve_as is shared; null as long as the merged model "
            "does: until the adapter is made and measured. null in lists"
        ),
    ] = None
    stands_for: Annotated[
        list[AliasTarget] | None,
        Field(description="models that an alias stands for; null for a model"),
    ] = None

    @classmethod
    def of(cls, model: Model | ListedModel) -> Self:
        return cls(**fields_of(model))


def fields_of(model: Model | ListedModel) -> dict[str, Any]:
    """Return the fields of a `ModelObject`, for encoding a list of many."""
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
        "engine_note": engine_note_of(model),
        "replicas": None,
        "serve_as": None,
        "shared_form": None,
        "stands_for": None,
    }


def fields_of_alias(alias: Alias) -> dict[str, Any]:
    """Return the fields of an alias as a model of the list."""
    return {
        "id": alias.name,
        "object": "model",
        "created": int(alias.created_at.timestamp()),
        "owned_by": alias.project_id or "system",
        "base_model": None,
        "fine_tuning_job": None,
        "bytes": 0,
        "hub_id": hub_id(alias.targets.heaviest),
        "format": None,
        "engine_note": None,
        "replicas": None,
        "serve_as": None,
        "shared_form": None,
        "stands_for": [target.model_dump() for target in alias.targets.models],
    }


def engine_note_of(model: Model | ListedModel) -> str | None:
    """Return sentences that say why the model cannot be used for inference, or what that takes;
    None if it can.
    """
    if model.format == NOT_SERVABLE:
        merged = model.id.removesuffix(f":{NOT_SERVABLE}")
        return f"'{model.id}' is an adapter; use '{merged}', which has it merged in."
    return engine_note(model.config)


class ModelDeleted(Object):
    object: Literal["model"] = "model"
    deleted: bool = True
