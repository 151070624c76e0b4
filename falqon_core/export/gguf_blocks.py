"""Matrices of a GGUF file in llama.cpp's smaller blocks, made by llama.cpp's own quantizer.

The blocks are computed in the library that `xllamacpp` brings, whose C interface has them. Which
matrix gets which block follows `llama-quantize`: the K types of a "medium" mix have 6 bits where
rounding costs most (the output, and every third of the values and of the down projections, as well
as those of the first and the last eighth), and a matrix whose rows are no multiple of 256 gets the
older block of the next larger size.
"""

import ctypes
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType, quant_shape_to_byte_shape
from torch import Tensor

from falqon_core.contract.formats import FormatName, FormatUnavailable, QuantizedGguf

Q = GGMLQuantizationType
FILE_TYPES: dict[FormatName, LlamaFileType] = {
    "gguf": LlamaFileType.MOSTLY_BF16,
    "q4_1": LlamaFileType.MOSTLY_Q4_1,
    "gguf_q4_0": LlamaFileType.MOSTLY_Q4_0,
    "gguf_q8_0": LlamaFileType.MOSTLY_Q8_0,
    "gguf_q5_k_m": LlamaFileType.MOSTLY_Q5_K_M,
    "gguf_q4_k_m": LlamaFileType.MOSTLY_Q4_K_M,
}
# Of matrices that were trained in the blocks of the file.
TRAINED_BLOCKS: dict[FormatName, Q] = {"q4_1": Q.Q4_1, "gguf_q4_0": Q.Q4_0, "gguf_q8_0": Q.Q8_0}
BLOCKS = {"gguf_q8_0": Q.Q8_0, "gguf_q5_k_m": Q.Q5_K, "gguf_q4_k_m": Q.Q4_K}
# Of the next larger size, for rows that are no multiple of 256.
SMALLER_ROWS = {Q.Q4_K: Q.Q5_0, Q.Q5_K: Q.Q5_1, Q.Q6_K: Q.Q8_0}
OUTPUT, EMBEDDING = "output.weight", "token_embd.weight"
PRECISE = (".attn_v.weight", ".ffn_down.weight")
FUSED = ".attn_qkv.weight"
FUSED_BLOCKS = {"gguf_q5_k_m": Q.Q6_K, "gguf_q4_k_m": Q.Q5_K}
_ELSEWHERE = (
    "format: the xllamacpp package of this worker does not bring llama.cpp's quantizer; take gguf, "
    "and make it smaller by `llama-quantize model.gguf model-q4_k_m.gguf Q4_K_M`"
)


def block_types(shapes: Mapping[str, Sequence[int]], format: QuantizedGguf) -> dict[str, Q]:
    """Return the block of each matrix, by its name in the file; `shapes` are [O, I] by name.

    Raises `FormatUnavailable` where the rows of a matrix fill no blocks.
    """
    types = dict.fromkeys(shapes, BLOCKS[format])
    if format != "gguf_q8_0":
        types[OUTPUT if OUTPUT in shapes else EMBEDDING] = Q.Q6_K
        for ending in PRECISE:
            alike = [name for name in shapes if name.endswith(ending)]
            for index, name in enumerate(alike):
                if _is_precise(index, len(alike)):
                    types[name] = Q.Q6_K
        types |= {name: FUSED_BLOCKS[format] for name in shapes if name.endswith(FUSED)}
    return {name: _fitting(block, shapes[name][1]) for name, block in types.items()}


def _is_precise(index: int, number: int) -> bool:
    first = number // 8
    return index < first or index >= 7 * number // 8 or (index - first) % 3 == 2


def _fitting(block: Q, num_columns: int) -> Q:
    if num_columns % GGML_QUANT_SIZES[block][0]:
        block = SMALLER_ROWS.get(block, block)
    if num_columns % GGML_QUANT_SIZES[block][0]:
        raise FormatUnavailable(
            f"format: rows of {num_columns} weights are no multiple of the 32 that llama.cpp's "
            "blocks have; take gguf"
        )
    return block


def quantize_blocks(matrix: Tensor, block: Q) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return uint8 [O, bytes of a row] of a matrix [O, I]. Raises `FormatUnavailable` where no
    library of this machine has the quantizer.
    """
    quantize = _quantizer()
    blocks = np.empty(quant_shape_to_byte_shape(matrix.shape, block), dtype=np.uint8)

    def fill(first: int, last: int) -> None:
        rows = matrix[first:last].float().contiguous()
        quantize(block, rows.data_ptr(), blocks[first:].ctypes.data, 0, *rows.shape, None)

    num_threads = torch.get_num_threads()
    bounds = np.linspace(0, len(matrix), num_threads + 1, dtype=int).tolist()
    with ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(fill, bounds[:-1], bounds[1:]))
    return blocks


@cache
def _quantizer() -> Any:
    """Return llama.cpp's function (block, rows, output, first, number of rows, columns, weights of
    the columns) -> bytes written.
    """
    spec = find_spec("xllamacpp")
    library = find_spec("xllamacpp.xllamacpp") if spec else None
    if library is None or library.origin is None:
        raise FormatUnavailable(_ELSEWHERE)
    try:
        function = ctypes.CDLL(library.origin).ggml_quantize_chunk
    except (OSError, AttributeError):
        raise FormatUnavailable(_ELSEWHERE) from None
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    function.argtypes += [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    return function
