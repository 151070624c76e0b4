"""MXFP4 as gpt-oss has its experts: 4 bits a weight (e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their
negatives), and for 32 weights of a row a power of two, stored with a bias of 127.

Nothing is rounded to it here: weights that came in this form are put back into it from bf16, which
holds them exactly.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from falqon_core.contract.errors import ModelError

BLOCK = 32
NUMBERS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
BIAS = 127
HIGHEST = 2  # e2m1's exponent of 4 and 6
# The bits of e2m1 are those of a number in fp16 that is smaller by this power of two.
HALF_EXPONENT = 14


def encode(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the codes of bf16 [R, C], uint8 [R, C / 2], and exponents, uint8 [R, C / 32]; None
    where a weight has none.
    """
    blocks = weight.float().unflatten(1, (-1, BLOCK))
    _, exponent = torch.frexp(blocks.abs().amax(2, keepdim=True))
    # The largest of a block lies from 4 to 8, where it is 4 or 6.
    exponent = (exponent - 1 - HIGHEST).clamp(-BIAS, BIAS)
    halves = torch.ldexp(blocks, -exponent - HALF_EXPONENT).half()
    bits = halves.view(torch.int16).flatten(1)
    codes = ((bits >> 12) & 8) | ((bits >> 9) & 7)
    packed = (codes[:, 0::2] | codes[:, 1::2] << 4).to(torch.uint8)
    exponents = (exponent.squeeze(2) + BIAS).to(torch.uint8)
    is_exact = torch.equal(decode(packed, exponents, weight.dtype), weight)
    return (packed, exponents) if is_exact else None


def decode(codes: Tensor, exponents: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Return the weights [R, C] of codes uint8 [R, C / 2] and exponents uint8 [R, C / 32]; exact in
    bf16 and fp32.
    """
    values = F.embedding(codes.int(), _pairs(codes.device, dtype)).flatten(1)
    scale = torch.exp2(exponents.to(torch.float32) - BIAS).to(dtype)
    return values.unflatten(1, (-1, BLOCK)).mul_(scale[:, :, None]).flatten(1)


@cache
def _pairs(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return both numbers of each byte of codes, [256, 2]."""
    numbers = torch.tensor((*NUMBERS, *(-number for number in NUMBERS)), dtype=dtype, device=device)
    codes = torch.arange(256, device=device)
    return numbers[torch.stack((codes & 15, codes >> 4), 1)]


def ggml_blocks(weight: Tensor) -> Tensor:
    """Return bf16 [R, C] as llama.cpp has it, uint8 [R, 17 C / 32]: the exponent of a block, then
    byte j with the codes of weights j and j + 16. Raises `ModelError` where that is not exact.
    """
    encoded = encode(weight)
    if encoded is None:
        raise ModelError("a weight of the experts is not in MXFP4, as config.json says it is")
    codes, exponents = encoded
    numbers = torch.stack((codes & 15, codes >> 4), 2).flatten(1).unflatten(1, (-1, 2, BLOCK // 2))
    blocks = numbers[:, :, 0] | numbers[:, :, 1] << 4
    return torch.cat((exponents[:, :, None], blocks), 2).flatten(1)
