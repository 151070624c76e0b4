"""Time and cost of the evaluation that follows a training: the model and its base answer the rows
that were held out.

Without measurements, an answer takes as long as a device needs to read the weights once for each of
its tokens, a few answers at a time. Not measured: the rates of memory below.
"""

from decimal import Decimal
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.prices import Price, dollars

MAX_ROWS = 200
MAX_TOKENS = 256  # of an answer; a base model often uses all of them
NUM_MODELS = 2  # the model and its base
BYTES_PER_SECOND = {"cpu": 1e10, "gpu": 1e12}
LEAST_TOKEN_SECONDS = 0.002
ANSWERS_AT_ONCE = 2
PLACES = Decimal("0.0001")


class EvaluationEstimate(BaseModel):
    """Evaluation that follows the training by itself."""

    model_config = ConfigDict(frozen=True)

    num_rows: Annotated[int, Field(description="rows that each model answers")]
    seconds: Annotated[float, Field(description="time in which they answer")]
    cost: Decimal


class AnswerRate(NamedTuple):
    """What an answer that is charged took and cost in earlier evaluations of models of one base."""

    seconds: float
    cost: Decimal


def estimate_evaluation(
    dimensions: ModelDimensions,
    num_rows: int,
    tokens_per_row: float,
    device: str,
    price: Price,
    num_devices: int,
    measured: AnswerRate | None = None,
    num_models: int = NUM_MODELS,
    num_charged_models: int = NUM_MODELS,
) -> EvaluationEstimate:
    """Estimate an evaluation on so many held-out rows. `num_charged_models`: those that engines of
    workers answer for; the operator's own servers are not charged.
    """
    num_rows = min(num_rows, MAX_ROWS)
    num_answers = num_models * num_rows
    if measured is not None:
        cost = (measured.cost * num_charged_models * num_rows).quantize(PLACES)
        return EvaluationEstimate(
            num_rows=num_rows, seconds=measured.seconds * num_answers, cost=cost
        )
    kind = "cpu" if device == "cpu" else "gpu"
    weights = 2 * dimensions.num_parameters / BYTES_PER_SECOND[kind]
    expected_tokens = min(MAX_TOKENS, tokens_per_row / 2)
    tokens = (expected_tokens + MAX_TOKENS) / 2  # on average, with one model that ends too late
    seconds = num_answers * tokens * max(weights, LEAST_TOKEN_SECONDS) / ANSWERS_AT_ONCE
    charged_seconds = seconds * num_charged_models / num_models
    cost = dollars(price.usd_per_device_hour * num_devices, charged_seconds)
    return EvaluationEstimate(num_rows=num_rows, seconds=seconds, cost=cost)
