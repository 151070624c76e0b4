"""Activation checkpointing: a decoder layer keeps only its input and computes the rest again in
backward.

The same operations on the same inputs give the same bits, so gradients do not change. It costs
time: about one forward pass in three passes. The inputs may wait in host memory
(activation_offload.py).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Checkpoint every decoder layer of `model` from now on, while gradients are enabled; nothing
    is random in them, so no random state is kept.
    """
    for layer in model.base_model.layers:
        layer.forward = _recomputing(layer)


def _recomputing(layer: nn.Module) -> Callable[..., Any]:
    def recomputing(*args: Any, **kwargs: Any) -> Any:
        # Looked up at each call: a method may have made another kind of layer of it.
        forward = partial(type(layer).forward, layer)
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return recomputing
