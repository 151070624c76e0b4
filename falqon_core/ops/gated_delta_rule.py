"""Linear attention by the gated delta rule, each segment from an empty state.

A head carries a state S [Dk, Dv]. Token t lets it decay, reads what its key finds there, and writes
a correction: S <- exp(g_t) S, S <- S + k_t beta_t (v_t - k_t S), and its output is q_t S. Tokens go
in chunks of `CHUNK`: within one, all corrections are the solution of one triangular system, and
only states pass from chunk to chunk (Yang, Kautz, Hatamizadeh 2025, Gated Delta Networks). A chunk
never holds tokens of two segments, so a packed segment is computed exactly as one alone. All is
fp32. What is given up: chunks follow one another on a GPU too, and no kernel fuses them.
"""

import torch
from torch import Tensor

from falqon_core.ops.segments import segment_numbers

CHUNK = 64
EPSILON = 1e-6  # Of the norm of queries and keys.


def gated_delta_rule(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, bounds: Tensor
) -> Tensor:
    """Return the outputs [N, H, Dv] of values [N, H, Dv] of all segments within `bounds`.

    query and key [N, K, Dk], K dividing H, are normed here; decay (g, at most 0) and beta [N, H].
    """
    num_tokens, num_heads, width = value.shape
    slots, is_first = _chunk_slots(bounds, num_tokens)
    num_chunks = len(is_first)

    def spread(x: Tensor) -> Tensor:
        """Return [C, heads, CHUNK, ..] of [N, heads, ..], zeros where a chunk has no token."""
        filled = x.new_zeros(num_chunks * CHUNK, *x.shape[1:], dtype=torch.float32)
        filled[slots] = x.float()
        return filled.unflatten(0, (num_chunks, CHUNK)).transpose(1, 2)

    repeats = num_heads // key.shape[1]
    q, k = (_normed(spread(x)).repeat_interleave(repeats, 1) for x in (query, key))
    q = q * key.shape[-1] ** -0.5
    v, g, b = (spread(x) for x in (value, decay, beta))
    outputs = _chunks(q, k, v, g, b, is_first)
    # [C, H, CHUNK, Dv] -> [C * CHUNK, H, Dv]
    return outputs.transpose(1, 2).reshape(-1, num_heads, width)[slots]


def _chunk_slots(bounds: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Return each token's place among the chunks, int64 [N], and True for chunks that begin a
    segment, bool [C].
    """
    num_segments = len(bounds) - 1
    chunks = (bounds.diff() + CHUNK - 1) // CHUNK
    first = chunks.cumsum(0) - chunks
    # At most so many; the last may stay empty.
    is_first = torch.zeros(
        num_tokens // CHUNK + num_segments, dtype=torch.bool, device=bounds.device
    )
    is_first[first] = True
    numbers = segment_numbers(bounds, num_tokens)
    offsets = torch.arange(num_tokens, device=bounds.device) - bounds[numbers]
    return first[numbers] * CHUNK + offsets, is_first


def _normed(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + EPSILON)


def _chunks(q: Tensor, k: Tensor, v: Tensor, g: Tensor, b: Tensor, is_first: Tensor) -> Tensor:
    """Return the outputs [C, H, CHUNK, Dv] of chunks in their order."""
    total = g.cumsum(-1)  # of the decay since the chunk began, [C, H, CHUNK]
    future = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=g.device).triu(1)
    # Decay from token j to token i of a chunk, 0 where j comes after i.
    between = (total[..., :, None] - total[..., None, :]).masked_fill(future, float("-inf")).exp()
    weighted = k * b[..., None]
    system = (weighted @ k.mT) * between
    # What each token writes by itself, and what it takes back of the state before the chunk.
    sides = torch.cat([v * b[..., None], weighted * total.exp()[..., None]], -1)
    solved = torch.linalg.solve_triangular(system, sides, upper=False, unitriangular=True)
    written, read = solved.split([v.shape[-1], k.shape[-1]], -1)
    within = (q @ k.mT) * between
    left = total[..., -1:]
    parts = (
        is_first,
        written,
        read,
        within,
        q * total.exp()[..., None],
        (k * (left - total).exp()[..., None]).mT,
        left.exp()[..., None],
    )
    state = q.new_zeros(q.shape[1], k.shape[-1], v.shape[-1])
    outputs = []
    # Not an index a chunk: the gradient of each would be as large as that of all.
    for begins, own, taken, scores, queries, keys, fading in zip(
        *(part.unbind() for part in parts), strict=True
    ):
        state = state.masked_fill(begins, 0.0)
        values = own - taken @ state
        outputs.append(queries @ state + scores @ values)
        state = state * fading + keys @ values
    return torch.stack(outputs)
