"""Move a base off the ties of its rows' grid, each weight by a fixed part of its own rounding.

A bf16 weight has eight significant bits and a code four, so one in sixteen lies half way between
two codes, and the smallest delta would move it by a whole half-spacing: a first step of a size that
no learning rate controls. A bf16 weight is itself the rounding of some number within half an ulp,
so it is read as one of those: `weight * (1 + offset)`, |offset| < 2^-9. No offset is zero, and none
is small enough to be rounded away, so that no weight is left on a tie; a zero stays zero. The same
offset is less than half a step of an int8 base, whose few values in a row may lie on ties together.

The offset of an element is a pure function of its row and column: the same at every step, in every
process, on every device, and nothing is stored. Its byte is the sum of a row's and a column's,
modulo 256, as in `stochastic.random_bytes`, but both come of a hash: with Philox the kernel's
machine code had 58 KB instead of 37 (sm_89). What is given up: offsets of two layers are the same
where row and column are. Signs of weights are not, so errors do not add up.
"""

from functools import lru_cache

import torch
from torch import Tensor

from falqon_core.ops.kernels import jit, tl

_WORD = 0xFFFFFFFF


def add_offset_(values: Tensor, first_row: int) -> Tensor:
    """Move values fp32 [R, C] off the ties, in place; `first_row` is the index in the weight of the
    first of these rows.
    """
    num_rows, num_columns = values.shape
    of_row = _bytes(0, first_row + num_rows, values.device)[first_row:] + 128
    of_column = _bytes(1, num_columns, values.device)
    # int16 [R, C], which wraps: 256 k + 128 with k from -128 to 127, each as often.
    offset = of_row[:, None] + of_column[None, :]
    # Of a bf16 weight the product is exact, so that only the sum is rounded.
    return values.addcmul_(values, offset.to(torch.float32), value=2.0**-24)


def _bytes(axis: int, number: int, device: torch.device) -> Tensor:
    """Return 256 times the byte of each of the first rows (axis 0) or columns (1), int16, which
    wraps.
    """
    # Rounded up, so that the blocks of a weight share what is kept.
    return _first_bytes(axis, 1 << (number - 1).bit_length(), device)[:number]


@lru_cache(64)
def _first_bytes(axis: int, number: int, device: torch.device) -> Tensor:
    # The finalizer of MurmurHash3 in int64, of whose wrapped products the low words are right.
    word = torch.arange(number, device=device) * 2 + axis
    word = (word ^ word >> 16) * 0x85EBCA6B & _WORD
    word = (word ^ word >> 13) * 0xC2B2AE35 & _WORD
    # The last shift of the finalizer leaves the upper half as it is.
    return ((word >> 24) * 256 - 2**15).to(torch.int16)


@jit
def offset_tile(row, column):
    """Return 1 + offset of the rows [BR] and columns [BC] given, fp32 [BR, BC]."""
    total = hashed_byte(row * 2)[:, None] + hashed_byte(column * 2 + 1)[None, :]
    # Both shifts leave the sum modulo 256 with its sign: -128 to 127, in units of 2^-16.
    return 1.0 + ((total << 24 >> 24).to(tl.float32) + 0.5) * 0.0000152587890625


@jit
def hashed_byte(index):
    """Return the first byte of the hash of the indices [N], int32 [N]."""
    word = index.to(tl.uint32)
    word = (word ^ (word >> 16)) * 0x85EBCA6B
    word = (word ^ (word >> 13)) * 0xC2B2AE35
    return (word >> 24).to(tl.int32)
