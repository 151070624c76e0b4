from typing import Annotated, Any, Literal, Self

from pydantic import Field

from app.catalogue.naming import hub_id
from app.catalogue.repository import ListedModel
from app.http.pagination import Object
from app.models import Alias, Model
from app.models.alias import AliasTarget
from falqon_core.contract.formats import engine_note

NOT_SERVABLE = "lora"  # no engine of the workers takes PEFT's form of an adapter


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
    stands_for: Annotated[
        list[AliasTarget] | None,
        Field(description="models that an alias stands for; null for a model"),
    ] = None

    @classmethod
    def of(cls, model: Model | ListedModel) -> Self:
        replicas = model.replicas if isinstance(model, Model) else None
        return cls(**fields_of(model) | {"replicas": replicas})


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
