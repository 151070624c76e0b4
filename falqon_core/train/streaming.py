"""A base model that is larger than its device, before it is quantized: the linears of its decoder
layers lie in host memory and pass through the device one layer at a time.

The untouched base is asked little: whether training agrees with transformers, and along which
directions the first batches pull. So each layer's weights are
copied when it is computed, and its activations are computed again in backward, with the weights
copied again. The same operations on the same numbers give the same bits. What is given up: copies
do not overlap with computing, half a second a pass for 7B.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel


def move_all_but_linears(model: PreTrainedModel, device: torch.device) -> None:
    """Move `model` to `device`, in place, but for the weights of its decoder layers' linears."""
    linears = [linear for layer in model.base_model.layers for linear in _linears(layer)]
    weights = [linear._parameters.pop("weight") for linear in linears]
    model.to(device)
    for linear, weight in zip(linears, weights, strict=True):
        linear._parameters["weight"] = weight


@contextmanager
def stream_layers(model: PreTrainedModel) -> Iterator[None]:
    """Let the decoder layers bring their linears' weights to the model's device as they run; what
    of them still lies in host memory at the end stays there.
    """
    device = model.get_input_embeddings().weight.device
    for layer in model.base_model.layers:
        layer.forward = _streaming(layer, device)
    try:
        yield
    finally:
        for layer in model.base_model.layers:
            del layer.forward


def _streaming(layer: nn.Module, device: torch.device) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        linears = _linears(layer)
        weights = [linear._parameters["weight"] for linear in linears]
        try:
            for linear, weight in zip(linears, weights, strict=True):
                linear._parameters["weight"] = weight.detach().to(device)
            return type(layer).forward(layer, *args, **kwargs)
        finally:
            for linear, weight in zip(linears, weights, strict=True):
                linear._parameters["weight"] = weight

    def streaming(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return run(*args, **kwargs)
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return streaming


def _linears(layer: nn.Module) -> list[nn.Linear]:
    return [module for module in layer.modules() if isinstance(module, nn.Linear)]
