"""Forms of the weights that FALQON trains: FP8 with a scale for each row, or blocks with one each.

Blocks lie within rows, so a linear whose inputs fill no whole blocks cannot be held in them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Weights = Literal["fp8", "nvfp4", "mxfp4", "q4_0", "q8_0"]
BlockName = Literal["nvfp4", "mxfp4", "q4_0", "q8_0"]


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """`block`: weights of a row that share a scale; `bits`: of a weight in files, its share of the
    scale included; `folder`: the form's name in compressed-tensors, and `arguments` what
    compressed-tensors is told of the weights.
    """

    title: str
    block: int
    bits: float
    folder: str
    arguments: Mapping[str, Any]


_E4M3, _BYTES = "torch.float8_e4m3fn", "torch.uint8"
_FLOAT: dict[str, Any] = {"num_bits": 4, "type": "float", "strategy": "group"}
_INT: dict[str, Any] = {"num_bits": 4, "type": "int", "strategy": "group"}
BLOCK_SPECS: dict[BlockName, BlockSpec] = {
    "nvfp4": BlockSpec(
        "NVFP4",
        16,
        4.5,
        "nvfp4-pack-quantized",
        _FLOAT | {"strategy": "tensor_group", "scale_dtype": _E4M3, "zp_dtype": _E4M3},
    ),
    "mxfp4": BlockSpec(
        "MXFP4",
        32,
        4.25,
        "mxfp4-pack-quantized",
        _FLOAT | {"scale_dtype": _BYTES, "zp_dtype": _BYTES},
    ),
    "q4_0": BlockSpec("Q4_0", 32, 4.5, "pack-quantized", _INT),
    "q8_0": BlockSpec("Q8_0", 32, 8.5, "pack-quantized", _INT | {"num_bits": 8}),
}
# A worker keeps a scale in fp32 while it trains.
SCALE_BYTES = 4


def title_of(weights: Weights) -> str:
    """Return the name of a form as people write it."""
    return "FP8" if weights == "fp8" else BLOCK_SPECS[weights].title


def bits_of(weights: Weights) -> float:
    """Return the bits of a weight in files."""
    return 8 if weights == "fp8" else BLOCK_SPECS[weights].bits


def block_refusal(weights: Weights, num_inputs: Sequence[tuple[str, int]]) -> str | None:
    """Return why linears, each with its name and inputs, cannot be held in blocks, and which forms
    can; None when they can.
    """
    if weights == "fp8":
        return None
    spec = BLOCK_SPECS[weights]
    odd = next(((name, number) for name, number in num_inputs if number % spec.block), None)
    if odd is None:
        return None
    name, number = odd
    fitting = [
        form
        for form, other in BLOCK_SPECS.items()
        if all(inputs % other.block == 0 for _, inputs in num_inputs)
    ]
    return (
        f"{name} has {number} inputs, no multiple of the {spec.block} weights that a block "
        f"of {spec.title} has; take {' or '.join(['fp8', *fitting])}, or leave it out of "
        "target_modules"
    )
