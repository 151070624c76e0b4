"""How far a job is, when it will end and what it has cost, as its worker last reported."""

from decimal import Decimal

from pydantic import BaseModel, ConfigDict


class JobCost(BaseModel):
    """Dollars; decimal strings on the wire and in the database."""

    model_config = ConfigDict(frozen=True)

    currency: str
    usd_per_device_hour: Decimal
    price_source: str
    accrued: Decimal
    projected: Decimal | None  # null until there is something to project from
    projected_low: Decimal | None
    projected_high: Decimal | None


class JobProgress(BaseModel):
    """Before the first step of a job only its cost is set. `mfu` is the share of the device's peak
    that is used; `seconds_per_step` the median of this attempt's latest steps.
    """

    model_config = ConfigDict(frozen=True)

    step: int = 0
    total_steps: int = 1
    epoch: float = 0.0
    percent: float = 0.0
    tokens_per_second: float | None = None
    seconds_per_step: float | None = None
    eta_seconds: float | None = None
    eta_low_seconds: float | None = None
    eta_high_seconds: float | None = None
    train_loss: float | None = None
    valid_loss: float | None = None
    valid_loss_as_served: float | None = None
    trained_tokens: int | None = None
    num_trainable_parameters: int | None = None
    memory_bytes: int | None = None
    mfu: float | None = None
    gpu_utilization: float | None = None
    gpu_temperature: float | None = None
    elapsed_seconds: float | None = None
    cost: JobCost | None = None
