"""Numbers in 8 bits of bitsandbytes' dynamic data type (arXiv 2110.02861), 256 of them to a scale:
the format of QLoRA's block scales.

The data type has seven decades, each with twice the values of the one below, so that small
numbers keep their magnitude and large ones their digits.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK_SIZE = 256
_NUM_DECADES = 7


class Dynamic8(NamedTuple):
    """Quantized numbers: codes uint8 [N], and the largest magnitude of each 256 numbers, fp32
    [ceil(N / 256)].
    """

    codes: Tensor
    absmax: Tensor


@cache
def dynamic_map(device: torch.device) -> Tensor:
    """Return the values of the 256 codes, fp32 [256], ascending within +-1; not to be written
    to.
    """
    positive = []
    for decade in range(_NUM_DECADES):
        # Decade d has 2^d values, the means of equal parts of [0.1, 1].
        edges = torch.linspace(0.1, 1, 2**decade + 1, dtype=torch.float32)
        positive.append(10.0 ** (decade + 1 - _NUM_DECADES) * (edges[:-1] + edges[1:]) / 2)
    magnitudes = torch.cat(positive)
    extra = torch.tensor([0.0, 1.0])
    return torch.cat([-magnitudes, magnitudes, extra]).sort().values.to(device)


def quantize_dynamic8(numbers: Tensor) -> Dynamic8:
    """Round numbers, fp32 [N], to the nearest values."""
    blocks = pad(numbers, (0, -len(numbers) % BLOCK_SIZE)).view(-1, BLOCK_SIZE)
    absmax = blocks.abs().amax(1)
    values = dynamic_map(numbers.device)
    # fp32 [255]: the limits between neighbouring values.
    edges = (values[1:] + values[:-1]) / 2
    codes = torch.bucketize(blocks / absmax.clamp_min(1e-30)[:, None], edges).to(torch.uint8)
    return Dynamic8(codes.view(-1)[: len(numbers)], absmax)


def dequantize_dynamic8(numbers: Dynamic8) -> Tensor:
    """Return the numbers, fp32 [N]."""
    values = dynamic_map(numbers.codes.device).index_select(0, numbers.codes.int())
    return values.mul_(numbers.absmax.repeat_interleave(BLOCK_SIZE)[: len(values)])
