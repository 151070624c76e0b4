from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from app.http.pagination import Object
from app.models import Alias
from app.models.alias import ALIAS_PATTERN, MAX_TARGETS, AliasTarget, AliasTargets
from app.models.strict_model import StrictModel

Name = Annotated[str, StringConstraints(pattern=ALIAS_PATTERN)]


class AliasRequest(StrictModel):
    """Name, and one model, or several that share the requests by their weights."""

    name: Annotated[Name, Field(description="letters, digits and ._:@+-, such as gpt-4o-mini")]
    model: Annotated[str | None, Field(min_length=1, max_length=512)] = None
    models: Annotated[
        list[AliasTarget] | None,
        Field(
            min_length=1,
            max_length=MAX_TARGETS,
            description=(
                "a canary: the share of a model is its weight among the weights of all; a user "
                "stays with a model"
            ),
        ),
    ] = None

    @model_validator(mode="after")
    def _name_models_once(self) -> Self:
        if (self.model is None) == (self.models is None):
            raise ValueError("write either model or models")
        names = [target.model for target in self.targets.models]
        if len(set(names)) < len(names):
            raise ValueError("each model only once")
        return self

    @property
    def targets(self) -> AliasTargets:
        return AliasTargets(models=self.models or [AliasTarget(model=self.model or "")])


class RollbackRequest(StrictModel):
    version: Annotated[
        int | None,
        Field(
            ge=1,
            description="the version before the one in force, if left out; before a switch, if "
            "one set that",
        ),
    ] = None


class AliasObject(Object):
    """The id is the name."""

    object: Literal["model_alias"] = "model_alias"
    models: Annotated[list[AliasTarget], Field(description="none: the name was deleted")]
    version: int
    project_id: Annotated[str | None, Field(description="null: a name in every project")]
    key_id: Annotated[str | None, Field(description="who set it; null: the settings did")]
    switch: Annotated[str | None, Field(description="the switch that set it; null: a request did")]
    created_at: Annotated[int, Field(description="when this version began")]

    @classmethod
    def of(cls, alias: Alias) -> Self:
        return cls(
            id=alias.name,
            models=alias.targets.models,
            version=alias.version,
            project_id=alias.project_id,
            key_id=alias.key_id,
            switch=alias.switch_id,
            created_at=int(alias.created_at.timestamp()),
        )


class AliasDeleted(Object):
    object: Literal["model_alias"] = "model_alias"
    deleted: bool = True


class AliasUsage(Object):
    """Requests of the project that named an alias on one day, by model; the id is the model."""

    object: Literal["model_alias.usage"] = "model_alias.usage"
    day: date
    requests: int
    errors: Annotated[int, Field(description="answers that failed, or that the model refused")]
    average_milliseconds: Annotated[
        float | None, Field(description="until the answer, or its stream, began")
    ]
