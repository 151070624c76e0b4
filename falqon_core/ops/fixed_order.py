"""Attention whose backward adds in a fixed order on a GPU, so that a training ends with the same
bits whether it was interrupted or not.

Blocks of keys each add their part to the gradient of the queries, in FlashAttention-2 as in
memory-efficient attention; on a GPU in the order in which they happen to end. torch's kernels keep
an order where the process asks for deterministic algorithms at the time of the call, and its choice
of a kernel then leaves out cuDNN's, which has none (ATen, transformers/cuda/attention_backward.cu
and sdp_utils.cpp). All else that a training launches has an order already, and some of it no
deterministic form in torch (the loss scatters), so the process asks around attention alone.

Read in torch's source; tests/gpu shows it where there is a card. What is given up: the time and the
memory of one fp32 gradient of the queries for each block of keys that runs at a time.
"""

import os
from collections.abc import Callable

import torch
from torch import Tensor

# Under deterministic algorithms torch refuses cuBLAS without a workspace fixed before its first
# use.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def in_fixed_order(attend: Callable[[], Tensor]) -> Tensor:
    """Return the result of `attend`, one operation of torch, whose backward then keeps an order."""
    # Activations that are computed again come here within a backward that keeps an order.
    was_kept = torch.are_deterministic_algorithms_enabled()
    _keep_order(True)
    try:
        output = attend()
    finally:
        _keep_order(was_kept)
    node = output.grad_fn
    if node is not None:
        node.register_prehook(lambda _: _keep_order(True))
        node.register_hook(lambda *_: _keep_order(False))
    return output


def _keep_order(kept: bool) -> None:
    # The setting would write NaN first.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.set_deterministic_debug_mode("error" if kept else "default")
