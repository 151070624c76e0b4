"""Whole optimizer steps of the CUDA path, traced on torch's meta device: no GPU and no memory.

`falqon_core.train.step.train_step` runs as it is. Kernels registered for "cuda" are taken, their
Triton launches recorded; attention without segments is FlashAttention, as a GPU would take it. What
the meta device does not answer is said by hand: FP8 GEMMs exist, numbers that the host reads are 1.
Nothing of it runs on a GPU: bytes and launches are counted, seconds are not known.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils import _foreach_utils
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.data.loader import Microbatch
from falqon_core.meld import convert, packed_weight
from falqon_core.meld.token_mixers import mix_by_segment
from falqon_core.methods.falqon import Falqon
from falqon_core.objectives import create_objective
from falqon_core.ops import attention, scaled_mm
from falqon_core.ops.dispatch import operator
from falqon_core.ops.experts import quantize_experts
from falqon_core.train.activation_checkpointing import checkpoint_activations
from falqon_core.train.optimizer import Optimizer
from falqon_core.train.step import StepBatch, train_step
from tests.falqon_core.trace.launches import Recorder, Specialization, recorded_launches
from tests.falqon_core.trace.ledger import DEVICE, Ledger, Tracer

LEARNING_RATE = 1e-4


class StepTrace(NamedTuple):
    """One step: what it did, and which specializations of `kernels` (by name) it launched how
    often.
    """

    ledger: Ledger
    specializations: dict[Specialization, int]
    kernels: dict[str, Any]


def trace_step(
    config: PretrainedConfig, recipe: Recipe, microbatches: Sequence[Microbatch]
) -> StepTrace:
    """Trace the second step of a training of `recipe` (resolved): the optimizer has its moments."""
    ledger = Ledger()
    recorder = Recorder(ledger)
    with _on_meta(), recorded_launches(recorder), Tracer(ledger):
        model, method = _melded_model(config, recipe)
        optimizer = Optimizer(method.parameters(), recipe.weight_decay, recipe.max_grad_norm)
        objective = create_objective(recipe)
        num_tokens = sum(microbatch.num_tokens for microbatch in microbatches)
        count = sum(objective.count(microbatch) for microbatch in microbatches)
        for step in (1, 2):
            ledger.start_step()
            recorder.counts.clear()
            batch = StepBatch(step, microbatches, count, num_tokens)
            train_step(model, method, objective, optimizer, batch, LEARNING_RATE)
    return StepTrace(ledger, dict(recorder.counts), recorder.kernels)


def _melded_model(config: PretrainedConfig, recipe: Recipe) -> tuple[PreTrainedModel, Falqon]:
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=attention.ATTENTION_NAME
        )
    model.eval().requires_grad_(False)
    quantize_experts(model)
    mix_by_segment(model)
    if recipe.activation_checkpointing:
        checkpoint_activations(model)
    method = Falqon(recipe)
    convert.swap_blocks(model)
    # which A it is changes no shape
    method.layers = convert.convert_to_melded(model, recipe, method.rule, fresh=False)
    return model, method


@contextmanager
def _on_meta() -> Iterator[None]:
    kinds = ["cuda", "meta"]
    optimizer = import_module("torch.optim.optimizer")
    with pytest.MonkeyPatch.context() as patches:
        for target, name, value in (
            (operator, "__call__", _call_cuda_kernel),
            (scaled_mm, "gemm_for", lambda *_: scaled_mm.rowwise),
            (packed_weight, "has_fp8_gemm", lambda _: True),
            (attention, "_sdpa", _flash_attention),
            (torch, "equal", lambda *_: True),
            (_foreach_utils, "_get_foreach_kernels_supported_devices", lambda: kinds),
            (optimizer, "_get_foreach_kernels_supported_devices", lambda: kinds),
            (optimizer, "_get_fused_kernels_supported_devices", lambda: kinds),
        ):
            patches.setattr(target, name, value)
        yield


def _call_cuda_kernel(self: Any, first: Tensor, *args: Any, **kwargs: Any) -> Any:
    function = self.kernels["cuda"] if first.device == DEVICE and self.kernels else self.oracle
    return function(first, *args, **kwargs)


def _flash_attention(
    query: Tensor, key: Tensor, value: Tensor, is_causal: bool = True, scale: float = 1.0
) -> Tensor:
    output: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, 0.0, is_causal, False, scale=scale
    )[0]
    return output
