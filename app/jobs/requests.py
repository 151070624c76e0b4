"""What a user may ask for, and the recipe it means. Free of the web framework: the worker reads stored requests with it."""

from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from app.errors import InvalidRequest
from app.jobs.falqon_options import Budget, Extras
from app.jobs.integrations import Integration, each_once
from falqon_core.contract.config import Recipe

MAX_METADATA_PAIRS = 16


def _without_auto(value: object) -> object:
    return None if value == "auto" else value


NO_NUL = r"^[^\x00]*$"  # Postgres keeps no such character
Name = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=NO_NUL)]
_PositiveInt = Annotated[int, Field(ge=1)]
_PositiveFloat = Annotated[float, Field(gt=0)]
Count = Annotated[_PositiveInt | None, BeforeValidator(_without_auto, json_schema_input_type=_PositiveInt | Literal["auto"] | None)]
Factor = Annotated[_PositiveFloat | None, BeforeValidator(_without_auto, json_schema_input_type=_PositiveFloat | Literal["auto"] | None)]


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Hyperparameters(_Request):
    """As OpenAI spells them; absent, null and "auto" are the same."""

    n_epochs: Count = None
    batch_size: Count = None
    learning_rate_multiplier: Factor = None


class SupervisedMethod(_Request):
    hyperparameters: Hyperparameters | None = None


class DpoHyperparameters(Hyperparameters):
    beta: Factor = None


class DpoMethod(_Request):
    hyperparameters: DpoHyperparameters | None = None


class Method(_Request):
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedMethod | None = None
    dpo: DpoMethod | None = None
    reinforcement: dict[str, Any] | None = None

    @property
    def hyperparameters(self) -> Hyperparameters | None:
        chosen = self.dpo if self.type == "dpo" else self.supervised
        return chosen.hyperparameters if chosen else None


class JobRequest(_Request):
    model: Annotated[Name, Field(description="a base model, a fine-tuned one, or a checkpoint `<model>:ckpt-step-<n>`")]
    training_file: Name
    validation_file: Name | None = None
    suffix: Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9._-]*$")] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = Field(None, description="the older place; `method` is the newer one")
    integrations: Annotated[list[Integration], AfterValidator(each_once)] | None = None
    metadata: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(max_length=64, pattern=NO_NUL)],
                Annotated[str, StringConstraints(max_length=512, pattern=NO_NUL)],
            ],
            Field(max_length=MAX_METADATA_PAIRS),
        ]
        | None
    ) = None
    priority: Annotated[int, Field(ge=-10, le=10)] = Field(0, description="among the queued jobs of its project; higher runs first")
    falqon: Extras = Field(Extras(), description="everything beyond the official fields")

    @model_validator(mode="after")
    def _what_is_not_here_yet(self) -> Self:
        if self.method is not None and self.method.type == "reinforcement":
            raise ValueError("method: 'reinforcement' is not supported; 'supervised' and 'dpo' are")
        if self.validation_file is not None and self.falqon.validation_fraction > 0:
            raise ValueError("validation_file: the recipe holds out a validation_fraction already; leave one of them out")
        if self.falqon.early_stopping_patience is not None and self.validation_file is None and self.falqon.validation_fraction == 0:
            raise ValueError("falqon.early_stopping_patience: needs validation data; send a validation_file or a validation_fraction")
        return self

    @property
    def asked_hyperparameters(self) -> Hyperparameters:
        """From `method` and the older place; each may be said in either, or in both alike."""
        inner, outer = self.method.hyperparameters if self.method else None, self.hyperparameters
        if inner is None or outer is None:
            return inner or outer or Hyperparameters()
        said = outer.model_dump(exclude_none=True)
        if any(getattr(inner, name) not in (None, value) for name, value in said.items()):
            raise InvalidRequest(
                "hyperparameters: they differ from those in method; send them once.", param="hyperparameters", code="conflict"
            )
        return inner.model_copy(update=said)


class ResumeExtras(_Request):
    budget: Budget | None = Field(None, description="caps that are not named stay as they are; null takes one away")


class ResumeRequest(_Request):
    falqon: ResumeExtras = ResumeExtras()


class RequestedRecipe(NamedTuple):
    recipe: Recipe  # with "auto" where the user left it open
    learning_rate_multiplier: float

    def resolved(self, num_records: int) -> Recipe:
        return self.recipe.resolved(num_records, self.learning_rate_multiplier)


def asked(request: JobRequest) -> RequestedRecipe:
    """One recipe from the official fields and ours. Raises `InvalidRequest` where they contradict each other or cannot be honoured."""
    official, extras = request.asked_hyperparameters, request.falqon.recipe_fields
    pairs = {
        "method": ("method", {"supervised": "falqon", "dpo": "dpo"}[request.method.type] if request.method else None),
        "beta": ("beta", official.beta if isinstance(official, DpoHyperparameters) else None),
        "num_epochs": ("n_epochs", official.n_epochs),
        "batch_size": ("batch_size", official.batch_size),
        "seed": ("seed", request.seed),
    }
    for ours, (theirs, value) in pairs.items():
        if value is None:
            continue
        if extras.get(ours, value) != value:
            raise InvalidRequest(f"{theirs}: falqon.{ours} says {extras[ours]}, not {value}; send it once.", param=theirs, code="conflict")
        extras[ours] = value
    multiplier = official.learning_rate_multiplier
    if multiplier is not None and extras.get("learning_rate") is not None:
        raise InvalidRequest(
            "learning_rate_multiplier: falqon.learning_rate is absolute; leave one of them out.",
            param="learning_rate_multiplier",
            code="conflict",
        )
    try:
        found = RequestedRecipe(Recipe.model_validate(extras), multiplier or 1.0)
        found.resolved(num_records=1)
    except ValidationError as error:
        raise _impossible(error) from None
    return found


def _impossible(error: ValidationError) -> InvalidRequest:
    fault = error.errors(include_url=False)[0]
    name = str(fault["loc"][0]) if fault["loc"] else fault["msg"].removeprefix("Value error, ").partition(":")[0]
    param = {"num_epochs": "n_epochs", "learning_rate": "learning_rate_multiplier"}.get(name, name)
    return InvalidRequest(f"{param}: {fault['msg'].removeprefix('Value error, ')}", param=param)
