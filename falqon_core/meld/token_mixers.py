"""Token mixers that carry something along a sequence, gated delta nets and short convolutions, as
training runs them: over packed segments, each from its own beginning.

transformers' modules stay, with their names and parameters; only a pass of training, which names
its segments, is computed here. Every other pass, with a cache or without, is transformers' own, so
`train.agreement` compares the two. What lies between the linears is computed again in backward.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from falqon_core.meld.blocks import recompute_in_backward
from falqon_core.ops.gated_delta_rule import gated_delta_rule
from falqon_core.ops.segments import causal_convolution, segment_bounds

Projections = tuple[str, ...]
Mix = Callable[..., Tensor]


def mix_by_segment(model: nn.Module) -> None:
    """Let the token mixers of `model` keep segments apart, in place."""
    for layer in model.modules():
        for module in layer.children():
            if (mixer := MIXERS.get(type(module).__name__)) is not None:
                module.forward = partial(_forward, module, *mixer)
                layer.register_forward_pre_hook(partial(_hand_on, module), with_kwargs=True)


def _hand_on(module: Any, _layer: nn.Module, _args: object, kwargs: dict[str, Any]) -> None:
    """Give the mixer the segments of its layer's pass: not each layer of an older transformers
    passes them on.
    """
    module.segments = {key: value for key, value in kwargs.items() if key == "cu_seqlens"}


def _forward(
    module: Any, projections: Projections, mix: Mix, hidden_states: Tensor, **kwargs: Any
) -> Tensor:
    """Return the mixer's output [B, T, H] of hidden_states [B, T, H]; packed rows bring
    `cu_seqlens`, padded ones None.
    """
    if "cu_seqlens" not in module.segments:
        return cast(Tensor, type(module).forward(module, hidden_states, **kwargs))
    rows, tokens = hidden_states.shape[:2]
    bounds = segment_bounds(rows, tokens, module.segments["cu_seqlens"], hidden_states.device)
    projected = [getattr(module, name)(hidden_states).flatten(0, 1) for name in projections]
    mixed = recompute_in_backward(partial(mix, module), bounds, *projected)
    return cast(Tensor, module.out_proj(mixed.unflatten(0, (rows, tokens))))


def _gated_delta(net: Any, bounds: Tensor, qkv: Tensor, z: Tensor, b: Tensor, a: Tensor) -> Tensor:
    """Return what a gated delta net makes [N, ..] of its projections [N, ..]."""
    weight = net.conv1d.weight.squeeze(1)
    qkv = F.silu(causal_convolution(qkv, weight, net.conv1d.bias, bounds))
    query, key, value = qkv.split([net.key_dim, net.key_dim, net.value_dim], -1)
    decay = -net.A_log.float().exp() * F.softplus(a.float() + net.dt_bias)
    output = gated_delta_rule(
        query.unflatten(-1, (-1, net.head_k_dim)),
        key.unflatten(-1, (-1, net.head_k_dim)),
        value.unflatten(-1, (-1, net.head_v_dim)),
        decay,
        b.sigmoid(),
        bounds,
    )
    heads = output.to(z.dtype).flatten(0, 1), z.reshape(-1, net.head_v_dim)
    return cast(Tensor, net.norm(*heads)).view(len(z), -1)


def _short_convolution(module: Any, bounds: Tensor, projected: Tensor) -> Tensor:
    """Return what a gated short convolution makes [N, H] of its projection [N, 3 H]."""
    before, after, x = projected.chunk(3, -1)
    weight = module.conv.weight.squeeze(1)
    return after * causal_convolution(before * x, weight, module.conv.bias, bounds)


DELTA = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"), _gated_delta
# By the class of transformers: the linears that read the input, and what follows them.
MIXERS: dict[str, tuple[Projections, Mix]] = {
    "Lfm2ShortConv": (("in_proj",), _short_convolution),
    "Qwen3_5GatedDeltaNet": DELTA,
    "Qwen3_5MoeGatedDeltaNet": DELTA,
}
