"""The time of a melded step's large products alone: what no CPU step can go below."""

import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import torch

from falqon_core.data.loader import Microbatch
from falqon_core.ops.matmul import LACKS_BF16
from falqon_core.train.model import load_dimensions

ROUNDS = 3
# [M, K] . [K, N]
Product = tuple[int, int, int]


def gemm_seconds(model: Path, rank: int, microbatches: Sequence[Microbatch]) -> float:
    """Return the seconds of the products of these forward and backward passes: the linears', their
    adapters' and the head's, the best of `ROUNDS` each.
    """
    return sum(
        num_times * _seconds(product)
        for microbatch in microbatches
        for product, num_times in _products(
            model, rank, microbatch.input_ids.numel(), microbatch.num_labels
        )
    )


def _products(
    model: Path, rank: int, num_tokens: int, num_labels: int
) -> Iterator[tuple[Product, int]]:
    """Yield each product with the number of times that a pass computes it."""
    dimensions = load_dimensions(model)
    layers = dimensions.num_layers
    for outputs, inputs in dimensions.linear_shapes.values():
        yield (num_tokens, inputs, outputs + rank), layers
        yield (num_tokens, outputs, inputs), layers
        yield (outputs, num_tokens, rank), layers
        if inputs <= dimensions.hidden_size:  # A of a linear with a wide input is frozen.
            yield (num_tokens, outputs, rank), layers
            yield (rank, num_tokens, inputs), layers
    yield (num_labels, dimensions.hidden_size, dimensions.vocab_size), 1
    yield (num_labels, dimensions.vocab_size, dimensions.hidden_size), 1


@cache
def _seconds(product: Product) -> float:
    num_rows, num_inner, num_columns = product
    dtype = torch.float32 if LACKS_BF16 else torch.bfloat16
    a = torch.randn(num_rows, num_inner).to(dtype)
    b = torch.randn(num_columns, num_inner).to(dtype).t()
    out = torch.empty(num_rows, num_columns, dtype=dtype)
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
