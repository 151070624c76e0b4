"""Weights in blocks as they lie in files: tensors of compressed-tensors, and blocks of llama.cpp.

Codes are uint8 [O, I], one a weight, and scales fp32 [O, I / block] (meld/block_quantizer.py). In a
folder, beside the name of the weight:

  nvfp4       `weight_packed` uint8 [O, I / 2], the even column in the low half of a byte;
              `weight_scale` e4m3 [O, I / 16]; `weight_global_scale` fp32 [1], by which scales are
              divided: the inverse of the tensor's unit, a power of two
  mxfp4       the same halves; `weight_scale` uint8 [O, I / 32], an exponent with a bias of 127
  q4_0, q8_0  `weight_packed` int32 [O, I / 8] or [O, I / 4], codes with an offset of 8 or 128 from
              the lowest bits on; `weight_scale` bf16 [O, I / 32]; `weight_shape` int64 [2]

Activations are not quantized, neither here nor while it trained. Nothing is rounded here: each
scale has as few bits as its file keeps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from falqon_core.contract.block_weights import BLOCK_SPECS, BlockName
from falqon_core.contract.errors import ModelError
from falqon_core.importers.mxfp4 import BIAS, NUMBERS

PACKED, SCALE, GLOBAL_SCALE, SHAPE = (
    "weight_packed",
    "weight_scale",
    "weight_global_scale",
    "weight_shape",
)
STORED = (PACKED, SCALE, GLOBAL_SCALE, SHAPE)


def pack_halves(codes: Tensor) -> Tensor:
    """Return codes below 16, uint8 [O, I], as bytes [O, I / 2]."""
    return codes[:, 0::2] | codes[:, 1::2] << 4


def unpack_halves(packed: Tensor) -> Tensor:
    """Return uint8 [O, I] of bytes [O, I / 2]."""
    return torch.stack((packed & 15, packed >> 4), 2).flatten(1)


def flip_sign(codes: Tensor) -> Tensor:
    """Return bytes of two's complement with an offset of 128 in its place, or the reverse."""
    return codes ^ 128


def _numbers_of_e2m1(codes: Tensor) -> Tensor:
    numbers = torch.tensor((*NUMBERS, *(-number for number in NUMBERS)))
    return numbers[codes.int()]


def _numbers_of_int4(codes: Tensor) -> Tensor:
    return codes.float() - 8


def _numbers_of_int8(codes: Tensor) -> Tensor:
    return codes.view(torch.int8).float()


@dataclass(frozen=True)
class BlockForm:
    """One form of a weight in files."""

    name: BlockName
    scale_dtype: torch.dtype
    pack_codes: Callable[[Tensor], Tensor]
    unpack_codes: Callable[[Tensor], Tensor]
    numbers_of_codes: Callable[[Tensor], Tensor]

    def pack(self, codes: Tensor, scales: Tensor, unit: float) -> dict[str, Tensor]:
        """Return the tensors of one weight by their last names; `unit` is that of nvfp4's scales,
        1 for the others.
        """
        codes, scales = codes.cpu(), scales.cpu()
        packed = self.pack_codes(codes).contiguous()
        if self.name == "nvfp4":
            return {
                PACKED: packed,
                SCALE: (scales / unit).to(self.scale_dtype),
                GLOBAL_SCALE: torch.tensor([1 / unit]),
            }
        if self.name == "mxfp4":
            _, exponent = torch.frexp(scales)  # Of a power of two the fraction is a half.
            return {PACKED: packed, SCALE: (exponent - 1 + BIAS).to(self.scale_dtype)}
        return {
            PACKED: packed.view(torch.int32),
            SCALE: scales.to(self.scale_dtype),
            SHAPE: torch.tensor(codes.shape),
        }

    def unpack(self, name: str, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return codes and scales of one weight, whose `name` an error tells. Raises `ModelError`
        where a tensor is missing, or has another shape or dtype.
        """
        packed, scale = self._take(name, tensors, PACKED), self._take(name, tensors, SCALE)
        block = BLOCK_SPECS[self.name].block
        expected_dtype = torch.uint8 if self.name in ("nvfp4", "mxfp4") else torch.int32
        if packed.ndim != 2 or packed.dtype != expected_dtype or scale.dtype != self.scale_dtype:
            raise ModelError(f"{name} is no weight in {BLOCK_SPECS[self.name].title}")
        codes = self.unpack_codes(packed.contiguous().view(torch.uint8))
        if scale.shape != (len(codes), codes.shape[1] // block) or codes.shape[1] % block:
            raise ModelError(
                f"{name} has {list(codes.shape)} codes, and its scales are {list(scale.shape)}"
            )
        if self.name == "mxfp4":
            return codes, torch.exp2(scale.float() - BIAS)
        if self.name == "nvfp4":
            shared = self._take(name, tensors, GLOBAL_SCALE)
            if shared.dtype != torch.float32 or shared.shape != (1,) or not shared.item() > 0:
                raise ModelError(f"{name}: its global scale is no positive number")
            return codes, scale.float() / shared
        return codes, scale.float()

    def dequantize(self, codes: Tensor, scales: Tensor) -> Tensor:
        """Return the weight, bf16 [O, I]; exact."""
        numbers = self.numbers_of_codes(codes).unflatten(1, (-1, BLOCK_SPECS[self.name].block))
        return numbers.mul_(scales[:, :, None]).flatten(1).to(torch.bfloat16)

    @staticmethod
    def _take(name: str, tensors: Mapping[str, Tensor], last: str) -> Tensor:
        if last not in tensors:
            raise ModelError(f"{name} lacks its {last}")
        return tensors[last]


_E2M1 = (pack_halves, unpack_halves, _numbers_of_e2m1)
BLOCK_FORMS: dict[str, BlockForm] = {
    form.name: form
    for form in (
        BlockForm("nvfp4", torch.float8_e4m3fn, *_E2M1),
        BlockForm("mxfp4", torch.uint8, *_E2M1),
        BlockForm("q4_0", torch.bfloat16, pack_halves, unpack_halves, _numbers_of_int4),
        BlockForm("q8_0", torch.bfloat16, flip_sign, flip_sign, _numbers_of_int8),
    )
}


def ggml_block_bytes(name: BlockName, codes: Tensor, scales: Tensor) -> Tensor:
    """Return a weight in Q4_0 or Q8_0 as llama.cpp has it, uint8 [O, bytes of a row]: of a block
    the scale in fp16, then byte j with the codes of weights j (low half) and j + 16, or with weight
    j.
    """
    block = BLOCK_SPECS[name].block
    heads = scales.to(torch.float16)[:, :, None].view(torch.uint8)
    of_blocks = codes.unflatten(1, (-1, block))
    if name == "q4_0":
        of_blocks = of_blocks[:, :, : block // 2] | of_blocks[:, :, block // 2 :] << 4
    return torch.cat([heads, of_blocks], 2).flatten(1)
