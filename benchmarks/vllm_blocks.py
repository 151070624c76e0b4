"""Does vLLM read what a folder in NVFP4 or MXFP4 holds? Without a card, in an environment with
vLLM's CPU build (docs/engines.md, Comparison of answers):

    vllm/bin/python benchmarks/vllm_blocks.py MODEL

vLLM multiplies weights in blocks on cards only, and its CPU build refuses them for want of a
product. A plain product stands in for it here. All that leads to it is vLLM's own: the scheme that
config.json asks for, the tensors that are loaded, and q, k, v and gate, up fused under one global
scale. Each linear's values are compared bit by bit with those that follow from the file; then a
question is asked.
"""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from vllm import LLM, SamplingParams
from vllm.model_executor.layers.quantization.compressed_tensors.schemes import (
    compressed_tensors_w4a4_mxfp4,
    compressed_tensors_w4a4_nvfp4,
)

FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
NUMBERS = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
QUESTION = "What is the capital of France?"


def dequantize(packed: Tensor, scale: Tensor, unit: Tensor | float) -> Tensor:
    """Return bf16 [O, I] of packed e2m1 codes [O, I / 2], the first in the lower bits, scales of
    blocks [O, I / block] (bytes are exponents) and the one scale of the tensor.
    """
    codes = torch.stack([packed & 15, packed >> 4], dim=2).flatten(1).int()
    numbers = NUMBERS[codes & 7] * torch.where(codes > 7, -1.0, 1.0)
    scales = torch.exp2(scale.float() - 127) if scale.dtype == torch.uint8 else scale.float()
    blocks = numbers.unflatten(1, (scales.shape[1], -1)) * (scales * unit)[:, :, None]
    return blocks.flatten(1).bfloat16()


def load(layer: Any) -> None:
    """Dequantize what vLLM has loaded."""
    unit = getattr(layer, "weight_global_scale", 1.0)
    layer.values = dequantize(layer.weight.data, layer.weight_scale.data, unit)


def multiply(layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, layer.values, bias)


def create_product(*_: Any, **__: Any) -> SimpleNamespace:
    """Return what vLLM takes for a card's kernel."""
    return SimpleNamespace(
        process_weights_after_loading=load, apply_weights=multiply, input_quant_key=lambda: None
    )


def values_in_file(tensors: dict[str, Tensor], name: str) -> Tensor:
    """Return the values of one linear; compressed-tensors stores the unit's reciprocal."""
    unit = tensors.get(f"{name}.weight_global_scale")
    scale = tensors[f"{name}.weight_scale"]
    return dequantize(tensors[f"{name}.weight_packed"], scale, 1.0 if unit is None else 1 / unit)


def main() -> None:
    folder = Path(sys.argv[1])
    compressed_tensors_w4a4_nvfp4.init_nvfp4_linear_kernel = create_product
    compressed_tensors_w4a4_mxfp4.init_mxfp4_linear_kernel = create_product
    llm = LLM(
        str(folder),
        max_model_len=512,
        kv_cache_memory_bytes=2 * 10**8,
        enforce_eager=True,
        dtype="bfloat16",
        distributed_executor_backend="uni",
    )
    model = llm.llm_engine.model_executor.driver_worker.model_runner.model
    tensors = load_file(folder / "model.safetensors")
    differing = compared = 0
    for name, layer in model.named_modules():
        if hasattr(layer, "values") and isinstance(layer.values, Tensor):
            stem, _, last = name.rpartition(".")
            parts = [f"{stem}.{part}" for part in FUSED.get(last, (last,))]
            expected = torch.cat([values_in_file(tensors, part) for part in parts])
            compared += 1
            differing += not torch.equal(expected, layer.values)
    print(f"{compared} linears of vLLM, {differing} with other values than the file's")
    chat = [{"role": "user", "content": QUESTION}]
    answer = llm.chat(chat, SamplingParams(temperature=0, max_tokens=24))[0].outputs[0]
    print(f"{QUESTION} {answer.text!r}")


if __name__ == "__main__":
    main()
