import torch
from torch import Tensor

from falqon_core.ops.formats.dynamic8 import (
    Dynamic8,
    dequantize_dynamic8,
    dynamic_map,
    quantize_dynamic8,
)
from falqon_core.ops.formats.nf4 import VALUES, Nf4, dequantize_nf4, quantize_nf4

CPU = torch.device("cpu")


def weight_of(num_rows: int, num_columns: int) -> Tensor:
    return torch.randn(num_rows, num_columns, generator=torch.Generator().manual_seed(0)) * 0.02


def values_of(weight: Nf4, like: Tensor) -> Tensor:
    return dequantize_nf4(weight, like.shape, torch.float32)


def test_without_shifts_it_is_the_nf4_of_bitsandbytes() -> None:
    from bitsandbytes.functional import create_dynamic_map, dequantize_4bit, quantize_4bit

    weight = weight_of(96, 320)
    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    ours = quantize_nf4(weight, torch.zeros(480))
    assert torch.equal(state.code, torch.tensor(VALUES))
    assert torch.equal(state.state2.code, create_dynamic_map())
    assert torch.equal(state.state2.code, dynamic_map(CPU))
    assert torch.equal(ours.codes.view(-1), packed.view(-1))
    torch.testing.assert_close(ours.scales.absmax, state.state2.absmax)
    torch.testing.assert_close(ours.mean_scale[0], state.offset)
    # it takes the second nearest of the 8-bit values here and there
    theirs = ours._replace(scales=Dynamic8(state.absmax, state.state2.absmax))
    assert (ours.scales.codes.int() - state.absmax.int()).abs().max() <= 1
    torch.testing.assert_close(values_of(theirs, weight), dequantize_4bit(packed, state))


def test_weights_become_the_nearest_values_around_the_shift_of_their_block() -> None:
    weight = weight_of(7, 50)  # 350 weights: 5 blocks, and a part of one
    shifts = torch.linspace(-0.01, 0.01, 6)
    quantized = quantize_nf4(weight, shifts)
    result = values_of(quantized, weight).view(-1)
    for number, shift in enumerate(shifts):
        block = weight.view(-1)[number * 64 : (number + 1) * 64]
        scale = (block - shift).abs().max()
        candidates = torch.tensor(VALUES) * scale + shift
        nearest = candidates[(block[:, None] - candidates).abs().argmin(1)]
        # of scale and shift in 8 bits
        torch.testing.assert_close(
            result[number * 64 : (number + 1) * 64], nearest, rtol=0, atol=0.03 * scale.item()
        )


def test_eight_bits_keep_the_nearest_of_the_values_by_blocks_of_256() -> None:
    numbers = torch.cat([weight_of(1, 256)[0], 1000 * weight_of(1, 70)[0]])
    quantized = quantize_dynamic8(numbers)
    assert (quantized.codes.shape, quantized.absmax.shape) == ((326,), (2,))
    for block in (slice(0, 256), slice(256, 326)):
        scale = numbers[block].abs().max()
        candidates = dynamic_map(CPU) * scale
        distances = (numbers[block, None] - candidates).abs().amin(1)
        result = dequantize_dynamic8(quantized)[block]
        torch.testing.assert_close((result - numbers[block]).abs(), distances)


def test_zeros_stay_zeros() -> None:
    weight = torch.zeros(2, 64)
    assert torch.equal(values_of(quantize_nf4(weight, torch.zeros(2)), weight), weight)
