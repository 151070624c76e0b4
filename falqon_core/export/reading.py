"""Read the weights of a checkpoint that `export.fp8` wrote, back as plain bf16, so that training
can continue from it.

weight = codes * scale, computed in fp32 and rounded once, to bf16. No other quantized format is
read.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from falqon_core.export.fp8 import quantization_config

SCALE = "_scale"


def is_ours(config: dict[str, Any]) -> bool:
    """Return whether a parsed config.json describes the format of `export_fp8`."""
    described = config.get("quantization_config")
    return isinstance(described, dict) and described == quantization_config(
        described.get("ignore", [])
    )


def dequantized(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of the folder by the name a plain model has, on the CPU.

    Raises `ValueError` for codes without their scale, or the reverse, and the errors of reading a
    file.
    """
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    for name in [name for name in tensors if name.endswith(SCALE)]:
        weight = name.removesuffix(SCALE)
        if weight not in tensors:
            raise ValueError(f"{name} is there without {weight}")
        tensors[weight] = (tensors[weight].float() * tensors.pop(name)).to(torch.bfloat16)
    for name, value in tensors.items():
        if value.dtype == torch.float8_e4m3fn:
            raise ValueError(f"{name} is there without {name}{SCALE}")
    return tensors
