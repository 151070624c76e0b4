"""Progress, ETA and cost of a job, as its worker last reported."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from falqon_core.contract.figures import Count, Dollars, Measure, Name, Seconds, Step, TotalSteps
from falqon_core.contract.health import HealthFinding
from falqon_core.contract.range_test import RangeTest

MAX_FINDINGS = 16


class JobCost(BaseModel):
    """Cost in dollars; decimal strings on the wire and in the database."""

    model_config = ConfigDict(frozen=True)

    currency: Name
    usd_per_device_hour: Dollars
    price_source: Name
    accrued: Dollars
    projected: Dollars | None  # null until there is something to project from
    projected_low: Dollars | None
    projected_high: Dollars | None


class JobProgress(BaseModel):
    """Progress of a job; before its first step only the cost is set. `mfu` is the used share of the
    device's peak; `seconds_per_step` the median of this attempt's latest steps. Losses of the
    merged model: `valid_loss_fp8_weights` has weights in FP8, `valid_loss_as_served` activations
    too. `untouched_valid_loss`: before the first step. `model_step`: the step whose model is handed
    out, once it is written. `stopped_early`: no step follows, though some are left. `first_loss`:
    mean of the first steps, with which `health` compares the later ones.
    """

    model_config = ConfigDict(frozen=True)

    step: Step = 0
    total_steps: TotalSteps = 1
    epoch: Measure = 0.0
    percent: Annotated[float, Field(ge=0, le=100)] = 0.0
    tokens_per_second: Measure | None = None
    seconds_per_step: Seconds | None = None
    eta_seconds: Seconds | None = None
    eta_low_seconds: Seconds | None = None
    eta_high_seconds: Seconds | None = None
    train_loss: Measure | None = None
    untouched_valid_loss: Measure | None = None
    valid_loss: Measure | None = None
    valid_loss_fp8_weights: Measure | None = None
    valid_loss_as_served: Measure | None = None
    model_step: Step | None = None
    stopped_early: bool = False
    first_loss: Measure | None = None
    health: list[HealthFinding] = Field([], max_length=MAX_FINDINGS)
    range_test: RangeTest | None = None
    trained_tokens: Count | None = None
    num_trainable_parameters: Count | None = None
    memory_bytes: Count | None = None
    mfu: Measure | None = None
    gpu_utilization: Measure | None = None
    gpu_temperature: Measure | None = None
    elapsed_seconds: Seconds | None = None
    cost: JobCost | None = None
