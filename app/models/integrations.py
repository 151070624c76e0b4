"""Experiment trackers that a job may report to. W&B as OpenAI spells it, the others in the same
manner.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from app.models.strict_model import StrictModel

MAX_TAGS = 16

IntegrationType = Literal["wandb", "mlflow", "tensorboard", "trackio"]
Name = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")
]


class WandbOptions(StrictModel):
    project: Name
    name: Name | None = Field(None, description="name of the run; absent: the id of the job")
    entity: Name | None = None
    tags: Annotated[list[Name], Field(max_length=MAX_TAGS)] | None = None


class MlflowOptions(StrictModel):
    experiment: Name
    name: Name | None = None


class TensorboardOptions(StrictModel):
    pass


class TrackioOptions(StrictModel):
    project: Name
    name: Name | None = None


class Integration(StrictModel):
    """Addresses and credentials come from the environment of the worker."""

    type: IntegrationType
    wandb: WandbOptions | None = None
    mlflow: MlflowOptions | None = None
    tensorboard: TensorboardOptions | None = None
    trackio: TrackioOptions | None = None

    @model_validator(mode="after")
    def _options_of_its_type_alone(self) -> Self:
        for name in ("wandb", "mlflow", "tensorboard", "trackio"):
            if name != self.type and getattr(self, name) is not None:
                raise ValueError(f"{name}: the type of this integration is '{self.type}'")
        if self.type != "tensorboard" and getattr(self, self.type) is None:
            raise ValueError(f"{self.type}: an integration of this type needs this object")
        return self


def refuse_duplicates(integrations: list[Integration]) -> list[Integration]:
    types = [integration.type for integration in integrations]
    for name in types:
        if types.count(name) > 1:
            raise ValueError(f"'{name}' is named more than once")
    return integrations
