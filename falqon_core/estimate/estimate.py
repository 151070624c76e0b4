"""The time and the cost of a training before it starts: arithmetic only. Its memory is in
`estimate.memory`.

`basis` says where the rate comes from. "measured": what earlier attempts of the same model, method
and device really reached (`estimate.throughput`). "roofline": floating-point operations of the
melded method over the device's peak times a stated efficiency, with fixed times for a step, the
start and the export, which a new worker measures by a short training of the smallest model; until
it has, they are of one machine. Token counts come from characters when no tokenizer
has seen the file; the explanation says so.
"""

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field

from falqon_core.contract.config import Recipe
from falqon_core.contract.figures import Dollars, Measure, Seconds
from falqon_core.contract.rates import AutomaticRate
from falqon_core.estimate.adapter import adapter_size
from falqon_core.estimate.calibration import Calibration
from falqon_core.estimate.devices import DeviceSpec
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.evaluation import EvaluationEstimate
from falqon_core.estimate.memory import (
    MemoryPlan,
    plan_memory,
    training_memory_bytes,
    usable_bytes,
)
from falqon_core.estimate.prices import Price, default_price, dollars
from falqon_core.estimate.throughput import Throughput

# English text and the chat templates of the supported models, counted on the rows that ship with
# the project and on GSM8K.
CHARACTERS_PER_TOKEN = 3.6
TEMPLATE_TOKENS_PER_SEQUENCE = 25
# The possible error of such a count, or of another tokenizer's, on both sides; a roofline's band is
# wide enough as it is.
UNCOUNTED_FACTOR = 1.2

GIB = 2**30
ROOFLINE_EFFICIENCY = {"cpu": 0.45, "gpu": 0.40}
# Cards with FP8 multiply bf16 at this share of their peak, by the vendors' data sheets.
BF16_SHARE = 0.5
# Operations of a weight of an expert and a token that chose it: forward, the same again in
# backward, since results are not kept, and grad_input.
EXPERT_PRODUCTS = 6
# On a CPU the weights of each expert are dequantized for each of its products, and the products are
# called one after the other: measured on two cores (AMD EPYC, AVX512), 32 experts of 48 x 64 to
# 2048 x 1024 weights.
CPU_CALL_SECONDS = 35e-6
CPU_WEIGHTS_PER_SECOND = 225e6  # dequantized by each core
# Low and high as multiples of the expected seconds: a roofline gives no more than that.
ROOFLINE_BAND = (0.6, 2.5)
# The same if the peak itself is assumed from the card's capability.
ASSUMED_BAND = (0.2, 6.0)

# Times that no arithmetic gives, until an attempt has been measured here. CPU: a job of falqon-tiny
# on two shared cores (2026-11-26; 300 steps of 400 records; of two jobs the one with less beside
# it) took 8.5 s until its first step, 35 s for its steps and 17 s for merge, certificate, export
# and upload. GPU: not measured.
START_SECONDS = {"cpu": 8.0, "gpu": 20.0}
EXPORT_SECONDS = {"cpu": 15.0, "gpu": 15.0}
STEP_SECONDS = {"cpu": 0.1, "gpu": 0.05}
# Seconds a GiB of the base model in bf16: fetched, read, written, hashed, verified and uploaded.
# Not measured: about 300 MB/s, three times over.
SECONDS_PER_GIB = {"cpu": 10.0, "gpu": 10.0}
START_SHARE = 1 / 3  # of these seconds: fetched and read; the rest is the export
FIXED_BAND = (0.3, 2.5)  # A dedicated machine is faster.
CALIBRATED_BAND = (0.6, 2.0)  # The band of the same times once this machine has measured them.

Basis = Literal["measured", "roofline"]
TokensBasis = Literal["counted", "characters", "stated"]
TOKENS_FROM: dict[TokensBasis, str] = {
    "counted": "tokens counted by the tokenizer",
    "characters": "tokens from characters",
    "stated": "tokens as the request says",
}


class Range(BaseModel):
    """Seconds."""

    model_config = ConfigDict(frozen=True)

    low: float
    expected: float
    high: float


class Cost(BaseModel):
    """Dollars as decimal strings on the wire."""

    model_config = ConfigDict(frozen=True)

    currency: Literal["usd"] = "usd"
    low: Decimal
    expected: Decimal
    high: Decimal
    usd_per_device_hour: Decimal  # zero: the device has no price
    price_source: str

    @property
    def is_unpriced(self) -> bool:
        return self.usd_per_device_hour == 0


class Estimate(BaseModel):
    """`n`: measured attempts behind it. `overhead_seconds`: the part of the seconds that is no
    training; null where it is not known.
    """

    model_config = ConfigDict(frozen=True)

    device: str
    num_devices: int
    num_records: int
    num_examples: int | None = None  # Estimates from before texts were split have none.
    num_validation_records: Annotated[
        int, Field(description="to check the model on, beside the `num_records` to train on")
    ] = 0
    tokens_per_epoch: int
    trained_tokens: int
    steps: int
    memory_bytes: int
    fits: bool | None
    seconds: Range
    overhead_seconds: float | None
    cost: Cost
    basis: Basis
    n: int
    tokens_per_second: float
    tokens_basis: TokensBasis
    explanation: str
    reason: str | None = None
    automatic_rate: AutomaticRate | None = None  # learning rate that "auto" is for this model
    learning_rate: Annotated[
        float | None, Field(description="of the job; null for a range test, which tries many")
    ] = None
    warnings: list[str] = []  # about the job, in sentences
    engine_note: Annotated[
        str | None,
        Field(
            description="what it takes to ask the model, where the workers' own engine does not "
            "load it"
        ),
    ] = None

    evaluation: Annotated[
        EvaluationEstimate | None,
        Field(
            description="the evaluation that follows by itself, beside `cost` and `seconds`, which "
            "are those of the training; null where there is none"
        ),
    ] = None

    @computed_field(description="null unless `learning_rate` is the automatic one")  # type: ignore[prop-decorator]
    @property
    def learning_rate_reason(self) -> str | None:
        """Return why it is this rate."""
        if self.automatic_rate is None or self.automatic_rate.value != self.learning_rate:
            return None
        return self.automatic_rate.reason

    @property
    def total_cost(self) -> Decimal:
        """Return the expected cost of the training and the evaluation."""
        return self.cost.expected + (self.evaluation.cost if self.evaluation else 0)

    @property
    def is_mostly_overhead(self) -> bool:
        """True where most of the time goes to start and export, not to training."""
        return (self.overhead_seconds or 0.0) > self.seconds.expected / 2


class Actual(BaseModel):
    """The final time and cost of a job beside its estimate: all its attempts, staging and export
    included.

    `ratio`: actual over expected seconds; `inside_band`: whether they lie between low and high.
    Both are null where they would compare unlike things.
    """

    model_config = ConfigDict(frozen=True)

    seconds: Seconds
    cost: Dollars | None
    ratio: Measure | None
    inside_band: bool | None


@dataclass(frozen=True)
class _Speed:
    seconds: Range
    overhead_seconds: float | None
    basis: Basis
    n: int
    explanation: str


def tokens_from_characters(num_characters: int, num_sequences: int) -> int:
    """Estimate the tokens of a file, template included, when only its characters are known."""
    return (
        round(num_characters / CHARACTERS_PER_TOKEN) + TEMPLATE_TOKENS_PER_SEQUENCE * num_sequences
    )


def training_flops(
    dimensions: ModelDimensions, recipe: Recipe, tokens: int, keys_per_token: float | None = None
) -> float:
    """Count the floating-point operations for `tokens` tokens: forward and grad_input of every
    linear, adapters, lm_head, attention.

    There is no weight gradient (W is frozen), so a linear costs 4 per weight and token instead of
    6. Melded, B costs its gradient alone; where A trains A and B cost 6 each.
    `keys_per_token`: how many keys a token attends to on average. Before a training that is not
    known; then a quarter of `max_seq_length` is taken: records half as long as allowed, of which a
    token sees half.
    """
    size = adapter_size(dimensions, recipe)
    adapter = 4 * size.b_of_frozen + 6 * (size.trained_a + size.b_of_trained)
    experts = EXPERT_PRODUCTS * dimensions.num_active_expert_parameters
    linear = 4 * dimensions.num_linear_parameters + adapter + experts
    head = 4 * dimensions.vocab_size * dimensions.hidden_size
    return float(tokens) * (
        linear + head + 3 * _attention_flops(dimensions, recipe, keys_per_token)
    )


def num_validations(
    recipe: Recipe, steps: int, num_examples: int, num_validation_examples: int
) -> int:
    """Count the passes over the validation data: the evaluations of a *resolved* recipe, those of
    the merged model with weights and with weights and activations in FP8, and that of the model
    before its first step, for objective "dpo" as its reference. What FALQON trained need not be
    merged, and weights in blocks are served as they trained.
    """
    if recipe.find_rate:
        return 0
    every = recipe.evaluation_steps(num_examples, num_validation_examples)
    of_merged = 1 if recipe.method == "falqon" else 2
    if recipe.weights != "fp8":
        of_merged = 0
    return 1 + math.ceil(steps / every) + of_merged


def forward_flops(dimensions: ModelDimensions, recipe: Recipe, tokens: int) -> float:
    """Count the floating-point operations for one forward pass over `tokens` tokens, as for a
    validation and for the reference of objective "dpo".
    """
    head = 2 * dimensions.vocab_size * dimensions.hidden_size
    weights = dimensions.num_linear_parameters + dimensions.num_active_expert_parameters
    return float(tokens) * (2 * weights + head + _attention_flops(dimensions, recipe, None))


def _attention_flops(
    dimensions: ModelDimensions, recipe: Recipe, keys_per_token: float | None
) -> float:
    """Count those of one token in forward, of other token mixers as well; backward takes twice as
    much.
    """
    if keys_per_token is None:
        keys_per_token = min(recipe.max_seq_length, dimensions.max_position_embeddings) / 4
    queries = sum(kind.number * kind.num_queries for kind in dimensions.layer_kinds)
    flops = 4 * queries * keys_per_token
    if (mixer := dimensions.mixer) is not None:
        flops += mixer.num_layers * mixer.flops(dimensions.hidden_size)
    return flops


def estimate(
    dimensions: ModelDimensions,
    recipe: Recipe,
    *,
    num_records: int,
    num_examples: int | None = None,
    tokens_per_epoch: int,
    num_validation_records: int = 0,
    num_validation_examples: int | None = None,
    validation_tokens: int = 0,
    device: DeviceSpec,
    num_devices: int = 1,
    price: Price | None = None,
    throughput: Throughput | None = None,
    calibration: Calibration | None = None,
    tokens_basis: TokensBasis = "characters",
) -> Estimate:
    """Estimate one job. `recipe` must be resolved; on `cpu`, `num_devices` counts cores.

    `throughput`: of the same model, method, device and number of devices; without it a roofline
    answers, with the fixed times of `calibration`. `num_examples`, `num_validation_examples`: what
    a step counts, where long texts become more than the records. `memory_bytes` is what the trainer
    would use of the device: an open `microbatch_tokens` is chosen as it would. Several devices
    share the records of a step, so no more than those are busy; what they exchange is not counted.
    The tokens of a preference record are those of both its halves. `validation_tokens`: of one pass
    over the validation data; a measured `throughput` includes such passes.
    """
    assert recipe.batch_size is not None, "resolve the recipe first"
    num_examples = num_examples or num_records
    steps = recipe.num_steps(num_examples)
    tokens = round(tokens_per_epoch * steps / max(1, math.ceil(num_examples / recipe.batch_size)))
    if throughput is not None:
        if recipe.find_rate:
            throughput = _throughput_of_range_test(
                throughput, dimensions, recipe, device, calibration
            )
        speed = _measured_speed(throughput, tokens, tokens_basis)
    else:
        flops = training_flops(dimensions, recipe, tokens)
        num_checked = num_validation_examples or num_validation_records
        passes = num_validations(recipe, steps, num_examples, num_checked)
        flops += forward_flops(dimensions, recipe, validation_tokens * passes)
        if recipe.objective == "dpo":
            flops += forward_flops(dimensions, recipe, min(tokens, tokens_per_epoch))
        elif recipe.find_rate:
            flops += forward_flops(dimensions, recipe, tokens)
        is_shared = device.name == "cpu" or num_devices <= recipe.batch_size
        busy = num_devices if is_shared else recipe.batch_size
        peak = _with_peak_of_method(device, recipe)
        if peak.tflops == device.tflops and device.name != "cpu" and device.has_fp8:
            # Experts multiply in bf16 beside products in FP8.
            in_bf16 = EXPERT_PRODUCTS * tokens * dimensions.num_active_expert_parameters
            flops += (1 / BF16_SHARE - 1) * in_bf16
        exports = not recipe.find_rate
        speed = _roofline_speed(flops, steps, dimensions, peak, busy, calibration, exports=exports)
    is_cpu = device.name == "cpu"
    dimensions = dimensions.model_copy(update={"has_fp8": device.has_fp8})
    device_bytes = math.inf if device.memory_gib is None else usable_bytes(device.memory_gib * GIB)
    num_processes = 1 if is_cpu else num_devices
    fitting = plan_memory(dimensions, recipe, device_bytes, is_cpu, num_processes)
    fits = None if device.memory_gib is None else fitting is not None
    plan = fitting or MemoryPlan(recipe)
    training_seconds = speed.seconds.expected - (speed.overhead_seconds or 0.0)
    tokens_per_second = round(tokens / training_seconds, 1) if training_seconds > 0 else 0.0
    return Estimate(
        device=device.name,
        num_devices=num_devices,
        num_records=num_records,
        num_examples=num_examples,
        num_validation_records=num_validation_records,
        tokens_per_epoch=tokens_per_epoch,
        trained_tokens=tokens,
        steps=steps,
        memory_bytes=training_memory_bytes(dimensions, plan.recipe, is_cpu, plan.placement),
        fits=fits,
        seconds=speed.seconds,
        overhead_seconds=speed.overhead_seconds,
        cost=_cost(price or default_price(device.name), num_devices, speed.seconds),
        basis=speed.basis,
        n=speed.n,
        tokens_per_second=tokens_per_second,
        tokens_basis=tokens_basis,
        explanation=f"{speed.explanation}; {TOKENS_FROM[tokens_basis]}",
        reason="memory_exceeds_device" if fits is False else None,
        automatic_rate=recipe.automatic_rate(dimensions.hidden_size),
        learning_rate=None if recipe.find_rate else recipe.learning_rate,
    )


def compare(expected: Range, seconds: float, cost: Decimal | None) -> Actual:
    """Return the final figures of a job beside its estimate."""
    return Actual(
        seconds=round(seconds, 1),
        cost=cost,
        ratio=round(seconds / expected.expected, 4) if expected.expected > 0 else None,
        inside_band=expected.low <= seconds <= expected.high,
    )


def _throughput_of_range_test(
    training: Throughput,
    dimensions: ModelDimensions,
    recipe: Recipe,
    device: DeviceSpec,
    calibration: Calibration | None,
) -> Throughput:
    """Return the speed of a range test from that of trainings: the untouched model reads each batch
    as well, and the overhead ends with the start.
    """
    forward = forward_flops(dimensions, recipe, 1) / training_flops(dimensions, recipe, 1)
    rate, overhead = training.tokens_per_second, training.overhead_seconds
    rate = rate.model_copy(update={"median": rate.median / (1 + forward)})
    if overhead is not None:
        start, export = _overhead_seconds(dimensions, device, calibration)
        share = start / (start + export)
        overhead = overhead.model_copy(update={"median": overhead.median * share})
    return training.model_copy(update={"tokens_per_second": rate, "overhead_seconds": overhead})


def _overhead_seconds(
    dimensions: ModelDimensions, device: DeviceSpec, calibration: Calibration | None
) -> tuple[float, float]:
    """Return the seconds of the start and of the export, as far as arithmetic tells them."""
    kind = _kind_of(device)
    seconds = SECONDS_PER_GIB[kind] * 2 * dimensions.num_parameters / GIB
    times = calibration or _fixed_times(kind)
    start = times.start_seconds + seconds * START_SHARE
    return start, times.export_seconds + seconds * (1 - START_SHARE)


def _kind_of(device: DeviceSpec) -> str:
    return "cpu" if device.name == "cpu" else "gpu"


def _fixed_times(kind: str) -> Calibration:
    return Calibration(
        start_seconds=START_SECONDS[kind],
        step_seconds=STEP_SECONDS[kind],
        export_seconds=EXPORT_SECONDS[kind],
    )


def _measured_speed(throughput: Throughput, tokens: int, tokens_basis: TokensBasis) -> _Speed:
    rate = throughput.tokens_per_second
    factor = rate.factor
    if tokens_basis != "counted":
        factor *= UNCOUNTED_FACTOR
    expected = tokens / rate.median
    low = expected / factor
    high = expected * factor
    overhead_seconds = None
    if (overhead := throughput.overhead_seconds) is not None:
        overhead_seconds = overhead.median
        low += overhead.median / overhead.factor
        expected += overhead.median
        high += overhead.median * overhead.factor
    attempts = "attempt" if throughput.n == 1 else "attempts"
    return _Speed(
        seconds=Range(low=low, expected=expected, high=high),
        overhead_seconds=overhead_seconds,
        basis="measured",
        n=throughput.n,
        explanation=f"median of {throughput.n} finished {attempts} of this installation",
    )


def _with_peak_of_method(device: DeviceSpec, recipe: Recipe) -> DeviceSpec:
    is_fp8_card = device.name != "cpu" and device.has_fp8
    if not is_fp8_card or recipe.has_fp8_products:
        return device
    return device.model_copy(update={"tflops": device.tflops * BF16_SHARE})


def _roofline_speed(
    flops: float,
    steps: int,
    dimensions: ModelDimensions,
    device: DeviceSpec,
    num_devices: int,
    calibration: Calibration | None,
    *,
    exports: bool,
) -> _Speed:
    kind = _kind_of(device)
    efficiency = ROOFLINE_EFFICIENCY[kind]
    computed = flops / (device.tflops * 1e12 * num_devices * efficiency)
    if kind == "cpu":
        computed += steps * _expert_seconds(dimensions, num_devices)
    start, export = _overhead_seconds(dimensions, device, calibration)
    overhead = start + export if exports else start
    fixed = overhead + (calibration or _fixed_times(kind)).step_seconds * steps
    band = FIXED_BAND if calibration is None else CALIBRATED_BAND
    computed_band = ASSUMED_BAND if device.peak == "assumed" else ROOFLINE_BAND
    low, high = (computed * r + fixed * f for r, f in zip(computed_band, band, strict=True))
    kind_of_peak = {"listed": "", "assumed": "an assumed ", "measured": "a measured "}[device.peak]
    peak = f"{efficiency:.0%} of {kind_of_peak}{device.tflops * num_devices:g} TFLOP/s"
    return _Speed(
        seconds=Range(low=low, expected=computed + fixed, high=high),
        overhead_seconds=overhead,
        basis="roofline",
        n=0,
        explanation=f"roofline at {peak}, and about {overhead:.0f} s for start"
        + (" and export" if exports else "")
        + (", measured here" if calibration else ""),
    )


def _expert_seconds(dimensions: ModelDimensions, num_cores: int) -> float:
    """Return what the experts of a mixture take of a step on a CPU beside their arithmetic. Each is
    taken to have tokens, in one pass over the step's records.
    """
    if dimensions.experts is None:
        return 0.0
    calls = 2 * dimensions.num_expert_layers * dimensions.experts.num_experts
    weights = dimensions.num_expert_parameters / (CPU_WEIGHTS_PER_SECOND * num_cores)
    # Forward, the same again in backward, and grad_input.
    return EXPERT_PRODUCTS / 2 * (CPU_CALL_SECONDS * calls + weights)


def _cost(price: Price, num_devices: int, seconds: Range) -> Cost:
    rate = price.usd_per_device_hour * num_devices
    return Cost(
        low=dollars(rate, seconds.low),
        expected=dollars(rate, seconds.expected),
        high=dollars(rate, seconds.high),
        usd_per_device_hour=price.usd_per_device_hour,
        price_source=price.label,
    )
