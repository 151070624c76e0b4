"""The systems that a job may train with: FALQON, and those that its paper compares it with.

One `MethodSpec` a method is all that forms, estimates, cards and documentation know of it. How it
computes is in the module of its name in `falqon_core.methods`.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

MethodName = Literal[
    "falqon", "lora", "qlora", "qa_lora", "ir_lora", "fp8_lora", "fp6_lora", "fishman"
]
Moments = Literal["fp32", "fp8"]


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """`base_bytes`: of a frozen weight while it trains; `state_bytes`: of a trained parameter with
    its gradient and moments. `keeps_inputs`: those of linears whose A trains are kept for backward.
    `has_fp8_products`: on cards with FP8; other methods multiply in bf16 there.
    `options`: fields of a recipe that not all methods have, and this one has. `learning_rate`: the
    automatic one of supervised training at the width of its measurement (rates.py). `moments`: what
    those of the optimizer are rounded to. `packages`: what a worker has to have installed beyond
    what every worker has.
    """

    title: str
    paper: str
    summary: str
    base_bytes: float
    learning_rate: float
    state_bytes: int = 16
    keeps_inputs: bool = True
    has_fp8_products: bool = False
    moments: Moments = "fp32"
    options: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


METHOD_SPECS: dict[MethodName, MethodSpec] = {
    "falqon": MethodSpec(
        title="FALQON",
        paper="NeurIPS 2025",
        summary="the adapter is melded into the rounded weights, which each step rounds anew",
        base_bytes=1.0,
        learning_rate=5e-4,
        has_fp8_products=True,
        options=(
            "weights",
            "update_rule",
            "a_init",
            "train_a",
            "num_update_rows",
            "base_copy",
            "simulate_fp8",
        ),
    ),
    "lora": MethodSpec(
        title="LoRA",
        paper="arXiv 2106.09685",
        summary="adapters beside the weights in bf16; nothing is quantized while it trains",
        base_bytes=2.0,
        learning_rate=2e-3,
    ),
    "qlora": MethodSpec(
        title="QLoRA",
        paper="arXiv 2305.14314",
        summary="adapters beside weights in 4 bits, NF4 with double quantization",
        base_bytes=0.516,
        learning_rate=2e-3,
        packages=("bitsandbytes",),
    ),
    "qa_lora": MethodSpec(
        title="QA-LoRA",
        paper="arXiv 2309.14717",
        summary="weights in INT4 groups whose minima train, so that the merged model is INT4 again",
        base_bytes=0.6875,  # Codes, and three fp16 numbers a group of 32.
        learning_rate=2e-3,
        keeps_inputs=False,
        options=("group_size",),
    ),
    "ir_lora": MethodSpec(
        title="IR-LoRA",
        paper="arXiv 2402.05445",
        summary="4-bit codes of the largest entropy, and adapters that average over inputs as well",
        base_bytes=0.625,  # Int4 in groups of 32; nf4: 0.532.
        learning_rate=2e-3,
        options=("quantizer", "group_size"),
    ),
    "fp8_lora": MethodSpec(
        title="FP8 LoRA (as torchao)",
        paper="pytorch/ao, float8 training",
        summary="adapters beside weights that are cast to FP8 for every product",
        base_bytes=2.0,
        learning_rate=2e-3,
        has_fp8_products=True,
        options=("adapters_fp8",),
    ),
    "fp6_lora": MethodSpec(
        title="LoRA over FP6",
        paper="arXiv 2401.14112",
        summary="adapters beside weights in 6 bits, E3M2 or E2M3",
        base_bytes=0.75,
        learning_rate=2e-3,
        options=("weight_format",),
    ),
    "fishman": MethodSpec(
        title="Fishman et al., FP8",
        paper="arXiv 2409.12517",
        summary="weights and adapters in FP8 with delayed scales, FP8 moments and Smooth-SwiGLU",
        base_bytes=2.0,
        learning_rate=2e-3,
        moments="fp8",
    ),
}

SMALLEST_GROUP = 8
LARGEST_GROUP = 1024
_ALL_OPTIONS = {option for spec in METHOD_SPECS.values() for option in spec.options}


def foreign_options(method: MethodName) -> dict[str, list[str]]:
    """Return the options that `method` does not have, each with the methods that have it."""
    return {
        option: [name for name, spec in METHOD_SPECS.items() if option in spec.options]
        for option in sorted(_ALL_OPTIONS - set(METHOD_SPECS[method].options))
    }


def group_size_refusal(group_size: int, num_inputs: Collection[tuple[str, int]]) -> str | None:
    """Return why linears of so many inputs, each with its name, cannot be cut into groups of
    `group_size`, and which sizes would do; None when they can.
    """
    common = math.gcd(*(size for _, size in num_inputs))
    fitting = [
        str(size)
        for size in range(SMALLEST_GROUP, LARGEST_GROUP + 1, 2)  # two codes lie in a byte
        if common % size == 0
    ]
    if str(group_size) in fitting:
        return None
    odd = next(((name, size) for name, size in num_inputs if size % group_size), None)
    reason = f"{group_size} is odd"
    if odd is not None:
        reason = f"{group_size} does not divide the {odd[1]} inputs of {odd[0]}"
    if not fitting:
        return f"{reason}, and no size fits all linears; name fewer of them in target_modules"
    return f"{reason}; sizes that fit all linears: {', '.join(fitting)}"


def rank_refusal(rank: int, shapes: Collection[tuple[str, tuple[int, int]]]) -> str | None:
    """Return why elastic adapters of `rank` do not fit linears of these shapes [O, I], each with
    its name, and which ranks would do; None when they fit.
    """
    for name, (num_outputs, num_inputs) in shapes:
        if num_inputs % rank or num_outputs % rank:
            common = math.gcd(*(size for _, shape in shapes for size in shape))
            fitting = [str(size) for size in range(1, common + 1) if common % size == 0]
            return (
                f"method 'ir_lora' cuts inputs and outputs into rank equal parts, and {rank} does "
                f"not divide the {num_inputs} inputs and {num_outputs} outputs of {name}; ranks "
                f"that fit all linears: {', '.join(fitting)}"
            )
    return None
