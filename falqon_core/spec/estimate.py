"""How long a training will take and what it costs: arithmetic only, before and during a job; its memory is in `spec.memory`.

Before: a roofline. Floating-point operations of the melded method over the device's peak times a stated efficiency, with a
band around it. During: the measured seconds of the steps done. What is given up: no learning from earlier jobs yet, and
token counts come from characters when no tokenizer has seen the file; `basis` says which.
"""

import math
import statistics
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from falqon_core.spec.config import Recipe
from falqon_core.spec.memory import fitted, training_memory_bytes
from falqon_core.spec.models import ModelDimensions

# English text and the chat templates of the supported models, counted on the rows that ship with the project and on GSM8K.
CHARACTERS_PER_TOKEN = 3.6
TEMPLATE_TOKENS_PER_SEQUENCE = 25

GIB = 2**30


class Device(BaseModel):
    """A kind of device. `tflops` is the dense peak of the arithmetic the trainer uses there, per device (CPU: per core).

    `reported_as`: the names that the driver gives to this kind, and to none with another peak.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    tflops: float
    memory_gib: float | None = None
    usd_per_hour: Decimal
    price_source: str
    reported_as: tuple[str, ...] = ()


# Peaks are the vendors' dense figures; FP8 where the hardware has it, bf16 on A100. CPU: bf16 GEMM per core with AVX512-bf16.
DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device(name="cpu", tflops=0.2, usd_per_hour=Decimal("0.045"), price_source="one general-purpose cloud vCPU, on demand, 2026-11"),
        Device(
            name="rtx-4090",
            tflops=330,
            memory_gib=24,
            usd_per_hour=Decimal("0.35"),
            price_source="market-place rate, 2026-11",
            reported_as=("NVIDIA GeForce RTX 4090",),
        ),
        Device(
            name="l40s",
            tflops=733,
            memory_gib=48,
            usd_per_hour=Decimal("1.861"),
            price_source="large cloud, on demand, 2026-11",
            reported_as=("NVIDIA L40S",),
        ),
        Device(
            name="a100",
            tflops=312,
            memory_gib=80,
            usd_per_hour=Decimal("1.79"),
            price_source="specialised cloud, 2026-11",
            reported_as=("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-40GB", "NVIDIA A100 80GB PCIe", "NVIDIA A100-PCIE-40GB"),
        ),
        Device(
            name="h100",
            tflops=1979,
            memory_gib=80,
            usd_per_hour=Decimal("2.69"),
            price_source="RunPod community, 2026-11",
            reported_as=("NVIDIA H100 80GB HBM3",),
        ),
    )
}
ROOFLINE_EFFICIENCY = {"cpu": 0.45, "gpu": 0.40}
ROOFLINE_BAND = (0.6, 2.5)  # low and high as multiples of the expected seconds: a roofline knows no more than that


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
    usd_per_device_hour: Decimal
    price_source: str


class Estimate(BaseModel):
    model_config = ConfigDict(frozen=True)

    device: str
    num_devices: int
    num_records: int
    tokens_per_epoch: int
    trained_tokens: int
    steps: int
    memory_bytes: int
    fits: bool | None
    seconds: Range
    cost: Cost
    basis: str
    reason: str | None = None


def reported_device(name: str) -> Device | None:
    """The device that the driver calls `name`; None when its peak is not known here."""
    return next((device for device in DEVICES.values() if name in device.reported_as), None)


def tokens_from_characters(num_characters: int, num_sequences: int) -> int:
    """Tokens of a file, template included, when only its characters are known."""
    return round(num_characters / CHARACTERS_PER_TOKEN) + TEMPLATE_TOKENS_PER_SEQUENCE * num_sequences


def training_flops(dimensions: ModelDimensions, recipe: Recipe, tokens: int, keys_per_token: float | None = None) -> float:
    """Floating-point operations for `tokens` tokens: forward and grad_input of every linear, grad of B, lm_head, attention.

    There is no weight gradient (A and W are frozen), so a linear costs 4 per weight and token instead of 6.
    `keys_per_token`: how many keys a token attends to on average. Before a training that is not known; then a quarter of
    `max_seq_length` is taken: records half as long as allowed, of which a token sees half.
    """
    _, b_elements = dimensions.num_adapter_parameters(recipe.rank)
    linear = 4 * dimensions.num_linear_parameters + 4 * b_elements
    head = 4 * dimensions.vocab_size * dimensions.hidden_size
    return float(tokens) * (linear + head + 3 * _attention_flops(dimensions, recipe, keys_per_token))


def reference_flops(dimensions: ModelDimensions, recipe: Recipe, tokens: int) -> float:
    """Floating-point operations for the one forward pass of the untouched base over `tokens` tokens that method "dpo" begins with."""
    head = 2 * dimensions.vocab_size * dimensions.hidden_size
    return float(tokens) * (2 * dimensions.num_linear_parameters + head + _attention_flops(dimensions, recipe, None))


def _attention_flops(dimensions: ModelDimensions, recipe: Recipe, keys_per_token: float | None) -> float:
    """Of one token in forward; backward takes twice as much."""
    if keys_per_token is None:
        keys_per_token = min(recipe.max_seq_length, dimensions.max_position_embeddings) / 4
    return 4 * dimensions.num_layers * dimensions.num_heads * dimensions.head_dim * keys_per_token


def estimate(
    dimensions: ModelDimensions,
    recipe: Recipe,
    *,
    num_records: int,
    tokens_per_epoch: int,
    device: Device,
    num_devices: int = 1,
    tokens_basis: str = "characters",
) -> Estimate:
    """Estimate one job. `recipe` must be resolved; on `cpu`, `num_devices` counts cores.

    `memory_bytes` is what the trainer would use of the device: an open `microbatch_tokens` is chosen as it would. The tokens of a
    preference record are those of both its halves.
    """
    assert recipe.batch_size is not None, "resolve the recipe first"
    steps = recipe.num_steps(num_records)
    tokens = round(tokens_per_epoch * steps / max(1, math.ceil(num_records / recipe.batch_size)))
    is_cpu = device.name == "cpu"
    efficiency = ROOFLINE_EFFICIENCY["cpu" if is_cpu else "gpu"]
    flops = training_flops(dimensions, recipe, tokens)
    if recipe.method == "dpo":
        flops += reference_flops(dimensions, recipe, tokens_per_epoch)
    expected = flops / (device.tflops * 1e12 * num_devices * efficiency)
    low, high = (expected * factor for factor in ROOFLINE_BAND)
    placed = fitted(dimensions, recipe, math.inf if device.memory_gib is None else device.memory_gib * GIB, is_cpu)
    fits = None if device.memory_gib is None else placed is not None
    rate = device.usd_per_hour * num_devices
    return Estimate(
        device=device.name,
        num_devices=num_devices,
        num_records=num_records,
        tokens_per_epoch=tokens_per_epoch,
        trained_tokens=tokens,
        steps=steps,
        memory_bytes=training_memory_bytes(dimensions, placed or recipe, is_cpu),
        fits=fits,
        seconds=Range(low=low, expected=expected, high=high),
        cost=Cost(
            low=dollars(rate, low),
            expected=dollars(rate, expected),
            high=dollars(rate, high),
            usd_per_device_hour=device.usd_per_hour,
            price_source=device.price_source,
        ),
        basis=f"roofline at {efficiency:.0%} of {device.tflops * num_devices:g} TFLOP/s; tokens from {tokens_basis}",
        reason="memory_exceeds_device" if fits is False else None,
    )


def dollars(usd_per_hour: Decimal, seconds: float) -> Decimal:
    """Cost to a hundredth of a cent."""
    return (usd_per_hour * Decimal(str(seconds)) / 3600).quantize(Decimal("0.0001"), ROUND_HALF_UP)


class Remaining(NamedTuple):
    low: float
    expected: float
    high: float


def remaining_seconds(step_seconds: Sequence[float], steps_left: int) -> Remaining | None:
    """Time left from the measured seconds of this attempt's latest steps; None before two steps are known.

    Expected: the mean step. The band: two standard errors of the sum of `steps_left` such steps, plus the uncertainty of the
    mean itself; it narrows as steps come in and never promises more than the measured rate supports.
    """
    if len(step_seconds) < 2:
        return None
    mean, deviation = statistics.fmean(step_seconds), statistics.stdev(step_seconds)
    spread = 2 * deviation * (steps_left**0.5 + steps_left / len(step_seconds) ** 0.5)
    expected = mean * steps_left
    return Remaining(max(0.0, expected - spread), expected, expected + spread)
