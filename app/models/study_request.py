"""Request for a comparison of methods on the user's data, as it came and as it is stored."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from app.models.job_request import NO_NUL, Name
from app.models.strict_model import StrictModel
from falqon_core.contract.methods import METHOD_SPECS, MethodName

MAX_JOBS = 64  # per study
MAX_NAME = 64  # characters
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Rate = Annotated[float, Field(gt=0, le=1)]
RateFactor = Annotated[float, Field(gt=0, le=1000)]


def _expand_all(value: object) -> object:
    return list(METHOD_SPECS) if value == "all" else value


# One type behind a validator: an error of one branch of a union has no field's name.
Methods = Annotated[
    list[MethodName],
    Field(min_length=1),
    BeforeValidator(_expand_all, json_schema_input_type=list[MethodName] | Literal["all"]),
]


class StudyRequest(StrictModel):
    model: Annotated[Name, Field(description="base model of all jobs, as in a job")]
    training_file: Name
    validation_file: Name | None = None
    methods: Methods = Field(
        list(METHOD_SPECS),
        description="a job, or one for each seed, trains with each of them; all unless set",
    )
    objective: Literal["supervised", "dpo"] = Field(
        "supervised", description="dpo for preference records, as `method.type` of a job"
    )
    falqon: dict[str, Any] = Field(
        {},
        description="options of every job, as `falqon` of a job has them, without `method`; an "
        "option that only some methods have goes to those",
    )
    learning_rates: dict[MethodName, Rate] = Field(
        {}, description="absolute, by method, in the place of falqon.learning_rate"
    )
    rate_factors: Annotated[list[RateFactor], Field(min_length=1)] = Field(
        [1.0],
        description="a job trains at each of these times the rate that its method has; the table "
        "has a row for the best of them, by validation loss as served",
    )
    seeds: Annotated[list[Seed], Field(min_length=1)] | None = Field(
        None, description="a job of each method with each; one job with falqon.seed unless set"
    )
    name: Annotated[str, StringConstraints(max_length=MAX_NAME, pattern=NO_NUL)] | None = None

    @model_validator(mode="after")
    def _refuse_what_no_study_can_be(self) -> Self:
        for field in ("methods", "rate_factors", "seeds"):
            values = getattr(self, field) or []
            if len(set(values)) < len(values):
                raise ValueError(f"{field}: each can be there once")
        num_jobs = len(self.methods) * len(self.rate_factors) * len(self.seeds or [None])
        if num_jobs > MAX_JOBS:
            raise ValueError(
                f"methods: they make {num_jobs} jobs with these rates and seeds; a study has at "
                f"most {MAX_JOBS}"
            )
        if "method" in self.falqon:
            raise ValueError("falqon.method: a study has methods beside falqon instead")
        if self.falqon.get("find_rate"):
            raise ValueError("falqon.find_rate: a study compares models, and a range test has none")
        if self.falqon.get("switch"):
            raise ValueError(
                "falqon.switch: switch the name to the best model, once the study has told it"
            )
        if self.seeds is not None and "seed" in self.falqon:
            raise ValueError("falqon.seed: there are seeds already; leave one of them out")
        return self
