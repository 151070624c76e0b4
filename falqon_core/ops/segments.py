"""Places of tokens within their segments, for layers that carry something from token to token.

The tokens of a microbatch are N in one row after another: segments packed end to end, bounded by
`cu_seqlens`, or rows of one padded length, each a segment. Sizes of results follow from shapes
alone, so that a program never waits for a GPU here.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def segment_bounds(
    num_rows: int, num_tokens: int, cu_seqlens: Tensor | None, device: torch.device
) -> Tensor:
    """Return the boundaries of all segments, int64 [n + 1], of rows [B, T]."""
    if cu_seqlens is not None:
        return cu_seqlens.to(torch.int64)
    return torch.arange(num_rows + 1, device=device) * num_tokens


def segment_numbers(bounds: Tensor, num_tokens: int) -> Tensor:
    """Return the number of each token's segment, int64 [N]."""
    return torch.bucketize(torch.arange(num_tokens, device=bounds.device), bounds[1:], right=True)


def causal_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, bounds: Tensor) -> Tensor:
    """Return, for each channel, the weighted sum of a token and those before it in its segment,
    [N, C] of [N, C].

    weight [C, K], the token itself last; sums are fp32 and rounded once.
    """
    num_tokens, reach = len(x), weight.shape[1]
    offsets = torch.arange(num_tokens, device=x.device)
    offsets = offsets - bounds[segment_numbers(bounds, num_tokens)]
    wide, taps = x.float(), weight.float()
    output = wide * taps[:, -1]
    for distance in range(1, reach):
        earlier = F.pad(wide, (0, 0, distance, 0))[:num_tokens] * taps[:, -1 - distance]
        output = output + earlier.masked_fill((offsets < distance)[:, None], 0.0)
    if bias is not None:
        output = output + bias.float()
    return output.to(x.dtype)
