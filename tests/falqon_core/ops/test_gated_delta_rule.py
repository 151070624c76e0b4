"""The gated delta rule is what transformers computes of each segment alone, chunks crossed."""

import torch
from transformers.models.qwen3_5.modeling_qwen3_5 import torch_recurrent_gated_delta_rule

from falqon_core.ops.gated_delta_rule import CHUNK, gated_delta_rule

LENGTHS = (3, CHUNK, 2 * CHUNK + 5, 1)
BOUNDS = torch.tensor([0, *LENGTHS]).cumsum(0)


def inputs() -> list[torch.Tensor]:
    """Queries and keys of two heads, values of four, decays and rates."""
    torch.manual_seed(0)
    shapes = [(2, 8), (2, 8), (4, 6), (4,), (4,)]
    query, key, value, decay, beta = (torch.randn(sum(LENGTHS), *shape) for shape in shapes)
    made = [query, key, value, -decay.abs(), beta.sigmoid()]
    return [x.requires_grad_() for x in made]


def test_packed_segments_are_computed_as_each_alone() -> None:
    ours, theirs = inputs(), inputs()
    weights = torch.randn(sum(LENGTHS), 4, 6)

    actual = gated_delta_rule(*ours, BOUNDS)
    (actual * weights).sum().backward()

    # An older transformers repeats no heads.
    query, key = (x.repeat_interleave(2, 1) for x in theirs[:2])
    parts = zip(*(x.split(LENGTHS) for x in (query, key, *theirs[2:])), strict=True)
    expected = torch.cat(
        [
            torch_recurrent_gated_delta_rule(
                *(x[None] for x in part), use_qk_l2norm_in_kernel=True
            )[0][0]
            for part in parts
        ]
    )
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    (expected * weights).sum().backward()
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=1e-4)


def test_nothing_of_a_segment_reaches_the_next() -> None:
    """Not even what is no number."""
    query, key, value, decay, beta = (x.detach() for x in inputs())
    expected = gated_delta_rule(query, key, value, decay, beta, BOUNDS)
    value[: LENGTHS[0]] = float("inf")

    actual = gated_delta_rule(query, key, value, decay, beta, BOUNDS)

    assert torch.equal(actual[LENGTHS[0] :], expected[LENGTHS[0] :])
