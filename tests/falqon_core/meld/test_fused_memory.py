"""What fused decoder layers keep for backward."""

import pytest
import torch

from falqon_core.meld.fused import normed_linears, normed_qkv, normed_swiglu
from tests.falqon_core.meld.fused_models import (
    HIDDEN,
    INTERMEDIATE,
    RANK,
    TRAINS_A,
    loss_of,
    melded,
    num_bytes,
    pair,
    rotation,
    saved_tensors,
)
from tests.falqon_core.meld.models import ALIGNED, tiny_model


@pytest.mark.usefixtures("on_codes")
def test_backward_keeps_the_inputs_of_norms_gate_and_up_and_o_a() -> None:
    model = tiny_model("llama", **ALIGNED)
    melded(model)
    layer = model.model.layers[1]
    x, residual = (torch.randn(2, 5, HIDDEN).bfloat16().requires_grad_() for _ in range(2))
    with saved_tensors() as saved:
        group = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
        normed_linears(x, layer.input_layernorm, group)
    assert [tuple(tensor.shape) for tensor in saved] == [
        (10, 3 * RANK),
        (2, 5, HIDDEN),
        (HIDDEN,),
        (10, 1),
    ]
    assert saved[1].data_ptr() == x.data_ptr()
    assert num_bytes(saved[:1]) == 10 * 3 * RANK * 2
    with saved_tensors() as saved:
        normed_swiglu(
            x, residual, layer.self_attn.o_proj, layer.post_attention_layernorm, layer.mlp
        )
    assert [tuple(tensor.shape) for tensor in saved] == [
        (10, HIDDEN),
        (HIDDEN,),
        (10, 1),
        (10, 2 * INTERMEDIATE),
        (10, 2),
        (10, 4 * RANK),
    ]
    assert saved[3].dtype == torch.float8_e4m3fn
    assert num_bytes(saved) == sum(tensor.nbytes for tensor in saved)


@pytest.mark.usefixtures("on_codes")
def test_where_a_trains_the_codes_that_the_linears_read_are_kept_as_well() -> None:
    model = tiny_model("llama", **ALIGNED)
    melded(model, TRAINS_A)
    layer = model.model.layers[1]
    x, residual = (torch.randn(2, 5, HIDDEN).bfloat16().requires_grad_() for _ in range(2))
    with saved_tensors() as saved:
        normed_swiglu(
            x, residual, layer.self_attn.o_proj, layer.post_attention_layernorm, layer.mlp
        )
    codes = [tensor for tensor in saved if tensor.dtype == torch.float8_e4m3fn]
    assert [tuple(tensor.shape) for tensor in codes] == [
        (10, 2 * INTERMEDIATE),
        (10, HIDDEN),
        (10, HIDDEN),
        (10, INTERMEDIATE),
    ]


@pytest.mark.usefixtures("on_codes")
def test_query_key_and_value_lie_in_the_one_buffer_that_backward_keeps() -> None:
    model = tiny_model("llama", **ALIGNED)
    melded(model)
    layer = model.model.layers[1]
    x = torch.randn(2, 5, HIDDEN).bfloat16().requires_grad_()
    tables = rotation(model, 5)
    group = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
    with saved_tensors() as saved:
        *rotated, passed = normed_qkv(x, layer.input_layernorm, group, tables)
    assert passed.data_ptr() == x.data_ptr()
    assert [tuple(y.shape) for y in rotated] == [(2, 4, 5, 12), (2, 2, 5, 12), (2, 2, 5, 12)]
    assert len({y.untyped_storage().data_ptr() for y in rotated}) == 1
    of_norm = (x, layer.input_layernorm.weight, torch.empty(10, 1))
    assert num_bytes([rotated[0], *tables, *of_norm]) == num_bytes(saved)


@pytest.mark.usefixtures("on_codes")
def test_a_fused_model_keeps_less_than_one_that_is_not() -> None:
    sizes = []
    for model, _ in pair("llama"):
        with saved_tensors() as saved:
            loss_of(model)
        sizes.append(num_bytes(saved))
    assert sizes[0] < sizes[1]  # by q and k, which are rotated in place
