"""Blocks are those of the `gguf` library where it can quantize, and what llama.cpp can read."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, dequantize, quantize

from falqon_core.contract.formats import FormatUnavailable, QuantizedGguf
from falqon_core.export.gguf_blocks import block_types, quantize_blocks

Q = GGMLQuantizationType


@pytest.fixture(scope="module")
def matrix() -> torch.Tensor:
    return torch.randn(7, 512, generator=torch.manual_seed(0)).to(torch.bfloat16)


@pytest.mark.parametrize("block", [Q.Q8_0, Q.Q5_0, Q.Q5_1])
def test_older_blocks_are_those_of_the_gguf_library(matrix: torch.Tensor, block: Q) -> None:
    expected = quantize(matrix.float().numpy(), block)
    np.testing.assert_array_equal(quantize_blocks(matrix, block), expected)


def test_more_bits_round_less(matrix: torch.Tensor) -> None:
    errors = [
        np.abs(dequantize(quantize_blocks(matrix, block), block) - matrix.float().numpy()).mean()
        for block in (Q.Q4_K, Q.Q5_K, Q.Q6_K, Q.Q8_0)
    ]
    assert 0 < errors[3] < errors[2] < errors[1] < errors[0] < 0.1


def shapes(num_layers: int, num_columns: int) -> dict[str, tuple[int, int]]:
    parts = ("attn_q", "attn_v", "ffn_down")
    return {
        f"blk.{layer}.{part}.weight": (64, num_columns)
        for layer in range(num_layers)
        for part in parts
    } | {"token_embd.weight": (960, num_columns)}


@pytest.mark.parametrize(("format", "usual"), [("gguf_q4_k_m", Q.Q4_K), ("gguf_q5_k_m", Q.Q5_K)])
def test_a_medium_mix_spends_bits_where_llama_quantize_does(
    format: QuantizedGguf, usual: Q
) -> None:
    types = block_types(shapes(16, 256), format)
    precise = {layer for layer in range(16) if types[f"blk.{layer}.ffn_down.weight"] == Q.Q6_K}
    assert precise == {0, 1, 4, 7, 10, 13, 14, 15}
    assert all(types[f"blk.{layer}.attn_v.weight"] == Q.Q6_K for layer in precise)
    assert {types[f"blk.{layer}.attn_q.weight"] for layer in range(16)} == {usual}
    assert types["token_embd.weight"] == Q.Q6_K, "it is the output, too"
    with_output = block_types(shapes(16, 256) | {"output.weight": (960, 256)}, format)
    assert (with_output["token_embd.weight"], with_output["output.weight"]) == (usual, Q.Q6_K)


def test_rows_of_no_256_get_the_next_larger_older_block() -> None:
    types = block_types(shapes(1, 96), "gguf_q4_k_m")
    assert types["blk.0.attn_q.weight"] == Q.Q5_0
    assert types["token_embd.weight"] == Q.Q8_0
    with pytest.raises(FormatUnavailable, match="rows of 80 weights"):
        block_types(shapes(1, 80), "gguf_q8_0")
