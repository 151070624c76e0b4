"""Object `falqon` of a request: all hyperparameters of a recipe, and options of the service."""

from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, ValidationError, model_validator

from app.base.plain_words import in_plain_words
from app.models.model import ServeAs
from app.models.strict_model import StrictModel
from app.models.switch_options import SwitchOptions
from falqon_core.contract.config import Recipe
from falqon_core.contract.methods import METHOD_SPECS, MethodName
from falqon_core.contract.recipe_options import RecipeOptions
from falqon_core.estimate.prices import Dollars

MAX_GPUS = 64
ANY_DEVICE = "any"


def _check_num_gpus(value: Any) -> Any:
    """Raise `ValueError`; an error of one branch of a union would not have the field's name."""
    if value is None or value == "auto" or (type(value) is int and 1 <= value <= MAX_GPUS):
        return value
    raise ValueError(f"write a whole number from 1 to {MAX_GPUS}, or auto")


NumGpus = Annotated[
    int | Literal["auto"] | None,
    PlainValidator(
        _check_num_gpus,
        json_schema_input_type=Annotated[int, Field(ge=1, le=MAX_GPUS)] | Literal["auto"] | None,
    ),
]


class Budget(StrictModel):
    """Caps of a job over all its attempts. At a cap it writes a checkpoint and pauses; raising the
    cap lets it continue.
    """

    max_cost_usd: Dollars | None = None
    max_seconds: Annotated[int, Field(ge=1, le=10**9)] | None = Field(
        None, description="Seconds of run time; time in the queue is free"
    )

    def find_reached_cap(self, seconds: float, cost: Decimal | None) -> str | None:
        """Return the cap that these amounts reach, if any: its name and value."""
        if self.max_cost_usd is not None and cost is not None and cost >= self.max_cost_usd:
            return f"max_cost_usd {self.max_cost_usd}"
        if self.max_seconds is not None and seconds >= self.max_seconds:
            return f"max_seconds {self.max_seconds}"
        return None


class EarlyStopping(StrictModel):
    patience: Annotated[int, Field(ge=1, description="as falqon.early_stopping_patience")]
    min_delta: Annotated[
        float | None, Field(description="not supported: every lower validation loss counts")
    ] = None


class FalqonOptions(RecipeOptions):
    method: MethodName = Field(
        "falqon",
        description="Training method: "
        + "; ".join(f"{name}: {spec.summary}" for name, spec in METHOD_SPECS.items()),
    )
    budget: Budget | None = None
    early_stopping: EarlyStopping | None = None
    gpu: Annotated[str, Field(max_length=64)] = Field(
        ANY_DEVICE,
        description="Required device, by its name in the price table, or any",
    )
    num_gpus: NumGpus = Field(
        None,
        description="GPUs of one machine, each with the whole model and a share of every step's "
        "records; default: 1; auto: as many as a worker has and a step has records. "
        "On a CPU, slots",
    )
    evaluate: bool = Field(
        True,
        description="compare the model with its base on the records that were held out, once the "
        "job has succeeded, unless the project has switched that off",
    )
    switch: SwitchOptions | None = None
    serve_as: ServeAs | None = Field(
        None,
        description="merged: the model answers from weights of its own, exactly those trained; "
        "shared: as an adapter on its base, which models share in memory, once the distance is "
        "measured (method lora trains on just that base); default: as the project says",
    )
    sample_prompts: list[str] | None = Field(
        None, description="Not supported: prompts come from the validation data, see num_samples"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_name_for_patience(cls, value: Any) -> Any:
        match value:
            case {"early_stopping": {"patience": int(patience)}, **rest} if (
                "early_stopping_patience" not in rest
            ):
                return value | {"early_stopping_patience": patience}
        return value

    @model_validator(mode="after")
    def _refuse_what_no_recipe_can_be(self) -> Self:
        try:
            Recipe.model_validate(self.recipe_fields)
        except ValidationError as error:
            raise ValueError(in_plain_words(error.errors(include_url=False)[0])) from None
        return self

    @model_validator(mode="after")
    def _refuse_what_is_not_supported(self) -> Self:
        if self.early_stopping is not None:
            if self.early_stopping.patience != self.early_stopping_patience:
                raise ValueError(
                    "early_stopping_patience: early_stopping.patience says something else; "
                    "send it once"
                )
            if self.early_stopping.min_delta:
                raise ValueError(
                    "early_stopping.min_delta: not supported; "
                    "every lower validation loss counts as better"
                )
        if self.sample_prompts:
            raise ValueError(
                "sample_prompts: not supported; validation prompts are completed, see num_samples"
            )
        return self

    @property
    def recipe_fields(self) -> dict[str, Any]:
        """Return the fields of the recipe that the user set."""
        return self.model_dump(include=set(Recipe.model_fields), exclude_unset=True)
