"""Recipe of a request. Free of the web framework: the worker reads stored requests with it."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from app.base.errors import InvalidRequest
from app.base.plain_words import in_plain_words
from app.models.falqon_options import Budget
from app.models.job_request import (
    MAX_METADATA_PAIRS,
    DpoHyperparameters,
    Hyperparameters,
    JobRequest,
    PairName,
    PairValue,
)
from app.models.stored_json import build_validator
from app.models.strict_model import StrictModel
from falqon_core.contract.config import Recipe
from falqon_core.contract.recipe_options import LearningRate

_STORED_RECIPE = build_validator(Recipe)
_LEARNING_RATE: TypeAdapter[float] = TypeAdapter(
    LearningRate, config=ConfigDict(strict=True, allow_inf_nan=False)
)


@dataclass(frozen=True, slots=True)
class JobFilters:
    """Filters of a list of jobs."""

    status: str | None = None
    model: str | None = None
    metadata: dict[str, str] | None = field(default_factory=dict)  # None: jobs without any


class UpdateRequest(StrictModel):
    metadata: Annotated[
        dict[PairName, PairValue | None],
        Field(
            max_length=MAX_METADATA_PAIRS,
            description="pairs to set; null removes one, the others stay",
        ),
    ]


class ResumeExtras(StrictModel):
    budget: Budget | None = Field(
        None, description="absent caps stay as they are; null removes a cap"
    )


class ResumeRequest(StrictModel):
    falqon: ResumeExtras = ResumeExtras()


@dataclass(frozen=True, slots=True)
class RequestedRecipe:
    recipe: Recipe  # "auto" where the user left it open
    learning_rate_multiplier: float

    def resolved(
        self,
        num_records: int,
        width: int,
        *,
        num_examples: int | None = None,
        has_validation_file: bool = False,
    ) -> Recipe:
        """Resolve it for a model of hidden size `width`."""
        return self.recipe.resolved(
            num_records,
            self.learning_rate_multiplier,
            width,
            num_examples=num_examples,
            has_validation_file=has_validation_file,
        )


def official_hyperparameters(request: JobRequest) -> Hyperparameters:
    """Merge those of `method` and of the older place; each may stand in either or in both."""
    inner = request.method.hyperparameters if request.method else None
    outer = request.hyperparameters
    if inner is None or outer is None:
        return inner or outer or Hyperparameters()
    values = outer.model_dump(exclude_none=True)
    if any(getattr(inner, name) not in (None, value) for name, value in values.items()):
        raise InvalidRequest(
            "hyperparameters: they differ from those in method; send them once.",
            param="hyperparameters",
            code="conflict",
        )
    return inner.model_copy(update=values)


def resolve_recipe(request: JobRequest) -> RequestedRecipe:
    """Merge the official fields and ours into one recipe. Raises `InvalidRequest` if they
    contradict each other or are not supported.
    """
    fields, multiplier = _merge_fields(request)
    try:
        recipe = Recipe.model_validate(fields)
    except ValidationError as error:
        raise _impossible(error) from None
    try:
        # The rate of no model is higher than that at the width of the measurements.
        _LEARNING_RATE.validate_python(recipe.automatic_rate().value * multiplier)
    except ValidationError as error:
        raise _impossible(error, "learning_rate_multiplier") from None
    return RequestedRecipe(recipe, multiplier)


def read_recipe(stored: JobRequest) -> RequestedRecipe:
    """Return the recipe of a request that was accepted before, for display."""
    fields, multiplier = _merge_fields(stored)
    return RequestedRecipe(_STORED_RECIPE.validate_python(fields), multiplier)


def _merge_fields(request: JobRequest) -> tuple[dict[str, Any], float]:
    """Return the fields of the recipe and the multiplier of its learning rate."""
    official = official_hyperparameters(request)
    extras = request.falqon.recipe_fields
    pairs = {
        "objective": ("method", request.method.type if request.method else None),
        "beta": ("beta", official.beta if isinstance(official, DpoHyperparameters) else None),
        "num_epochs": ("n_epochs", official.n_epochs),
        "batch_size": ("batch_size", official.batch_size),
        "seed": ("seed", request.seed),
    }
    for ours, (theirs, value) in pairs.items():
        if value is None:
            continue
        if extras.get(ours, value) != value:
            raise InvalidRequest(
                f"{theirs}: falqon.{ours} says {extras[ours]}, not {value}; send it once.",
                param=theirs,
                code="conflict",
            )
        extras[ours] = value
    multiplier = official.learning_rate_multiplier
    if multiplier is not None and extras.get("learning_rate") is not None:
        raise InvalidRequest(
            "learning_rate_multiplier: falqon.learning_rate is absolute; leave one of them out.",
            param="learning_rate_multiplier",
            code="conflict",
        )
    return extras, multiplier or 1.0


def _impossible(error: ValidationError, param: str | None = None) -> InvalidRequest:
    fault = error.errors(include_url=False)[0]
    message = in_plain_words(fault)
    if param is None:
        name = str(fault["loc"][0]) if fault["loc"] else message.partition(":")[0]
        param = {"num_epochs": "n_epochs"}.get(name, name)
    return InvalidRequest(f"{param}: {message}", param=param)
