"""Request for a job, as it came and as it is stored. Its rules hold on the way in; a stored request
is read without them.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    model_validator,
)

from app.models.falqon_options import FalqonOptions
from app.models.integrations import Integration, refuse_duplicates
from app.models.strict_model import StrictModel

MAX_METADATA_PAIRS = 16
MAX_RECORDS = 10**9
MAX_TOKENS = 10**12


def _without_auto(value: object) -> object:
    return None if value == "auto" else value


NO_NUL = r"^[^\x00]*$"  # Postgres keeps no such character
Name = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=NO_NUL)]
PairName = Annotated[str, StringConstraints(max_length=64, pattern=NO_NUL)]
PairValue = Annotated[str, StringConstraints(max_length=512, pattern=NO_NUL)]
_PositiveInt = Annotated[int, Field(ge=1)]
_PositiveFloat = Annotated[float, Field(gt=0)]
Count = Annotated[
    _PositiveInt | None,
    BeforeValidator(_without_auto, json_schema_input_type=_PositiveInt | Literal["auto"] | None),
]
Factor = Annotated[
    _PositiveFloat | None,
    BeforeValidator(_without_auto, json_schema_input_type=_PositiveFloat | Literal["auto"] | None),
]


class Hyperparameters(StrictModel):
    """Hyperparameters in OpenAI's spelling; absent, null and "auto" are the same."""

    n_epochs: Count = None
    batch_size: Count = None
    learning_rate_multiplier: Factor = None


class SupervisedMethod(StrictModel):
    hyperparameters: Hyperparameters | None = None


class DpoHyperparameters(Hyperparameters):
    beta: Factor = None


class DpoMethod(StrictModel):
    hyperparameters: DpoHyperparameters | None = None


class Method(StrictModel):
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedMethod | None = None
    dpo: DpoMethod | None = None
    reinforcement: dict[str, Any] | None = None

    @property
    def hyperparameters(self) -> Hyperparameters | None:
        chosen = self.dpo if self.type == "dpo" else self.supervised
        return chosen.hyperparameters if chosen else None


class JobRequest(StrictModel):
    model: Annotated[
        Name,
        Field(
            description="a base model, a fine-tuned one, or a checkpoint `<model>:ckpt-step-<n>`"
        ),
    ]
    training_file: Name
    validation_file: Name | None = None
    suffix: (
        Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9._-]*$")] | None
    ) = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = Field(
        None, description="the older place; `method` is the newer one"
    )
    integrations: Annotated[list[Integration], AfterValidator(refuse_duplicates)] | None = None
    metadata: Annotated[dict[PairName, PairValue], Field(max_length=MAX_METADATA_PAIRS)] | None = (
        None
    )
    priority: Annotated[int, Field(ge=-10, le=10)] = Field(
        0, description="among the queued jobs of its project; higher runs first"
    )
    falqon: FalqonOptions = Field(
        FalqonOptions(), description="everything beyond the official fields"
    )

    @model_validator(mode="after")
    def _refuse_what_is_not_supported(self) -> Self:
        if self.method is not None and self.method.type == "reinforcement":
            raise ValueError("method: 'reinforcement' is not supported; 'supervised' and 'dpo' are")
        if self.validation_file is not None and self.falqon.validation_fraction:
            raise ValueError(
                "validation_file: the recipe holds out a validation_fraction already; "
                "leave one of them out"
            )
        if (
            self.falqon.early_stopping_patience is not None
            and self.validation_file is None
            and self.falqon.validation_fraction == 0
        ):
            raise ValueError(
                "falqon.early_stopping_patience: needs validation data; "
                "send a validation_file or a validation_fraction"
            )
        return self

    @model_validator(mode="after")
    def _refuse_to_serve_no_model(self) -> Self:
        if self.falqon.find_rate and self.falqon.serve_as is not None:
            raise ValueError("falqon.serve_as: a range test has no model to serve")
        return self

    @model_validator(mode="after")
    def _refuse_a_switch_that_nothing_could_decide(self) -> Self:
        options = self.falqon
        if options.switch is None:
            return self
        if options.find_rate:
            raise ValueError("falqon.switch: a range test has no model to switch to")
        if not options.evaluate:
            raise ValueError("falqon.switch: the evaluation decides; leave falqon.evaluate out")
        if self.validation_file is None and options.validation_fraction == 0:
            raise ValueError(
                "falqon.switch: held-out records decide; send a validation_file or a "
                "validation_fraction"
            )
        return self


class TrainingData(StrictModel):
    """Size of a training file that has not been uploaded yet."""

    num_records: Annotated[int, Field(ge=1, le=MAX_RECORDS)]
    num_tokens: Annotated[
        int,
        Field(
            ge=1,
            le=MAX_TOKENS,
            description="of one epoch; of preference records, with both answers",
        ),
    ]


class EstimateRequest(JobRequest):
    training_file: Name = ""
    training_data: TrainingData | None = Field(
        None, description="in the place of `training_file`, before there is one"
    )

    @model_validator(mode="after")
    def _has_one_sort_of_data(self) -> Self:
        if bool(self.training_file) == (self.training_data is not None):
            raise ValueError("training_file: send either it or training_data")
        return self
