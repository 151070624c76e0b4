"""The two storages of a group against each other and against linears that are alone. Where no GPU
is, codes lie on the CPU.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from falqon_core.meld import packed_weight
from falqon_core.meld.base import BaseWeight, keep_base
from falqon_core.meld.gradients import cat_or_view
from falqon_core.meld.host_arena import arena_bytes
from falqon_core.meld.host_base import HostBase
from falqon_core.meld.linear import MeldedLinear, call_together, meld
from falqon_core.meld.packed_weight import (
    EmulatedWeight,
    Fp8Weight,
    PackedWeight,
    new_packed_weight,
)
from falqon_core.meld.update import Anchored, Stochastic, TopK, UpdateRule
from falqon_core.ops.offset import add_offset_
from falqon_core.ops.quantize import quantize_rows
from tests.falqon_core.meld.streams import card
from tests.falqon_core.ops.devices import KERNEL_DEVICE

__all__ = ["card"]

# the rank is no multiple of 16
SIZES = (64, 32, 32)
NUM_INPUTS = 96
RANK = 5
TOKENS = 37
DEVICE = torch.device(KERNEL_DEVICE)


def emulated(sizes: tuple[int, ...], like: Tensor) -> PackedWeight:
    return EmulatedWeight(sizes, NUM_INPUTS, RANK, like, simulate_fp8=False)


def simulated(sizes: tuple[int, ...], like: Tensor) -> PackedWeight:
    return EmulatedWeight(sizes, NUM_INPUTS, RANK, like, simulate_fp8=True)


def fp8(sizes: tuple[int, ...], like: Tensor) -> PackedWeight:
    return Fp8Weight(sizes, NUM_INPUTS, RANK, like.device, fp8=True)


def dequantized(sizes: tuple[int, ...], like: Tensor) -> PackedWeight:
    return Fp8Weight(sizes, NUM_INPUTS, RANK, like.device, fp8=False)


NewWeight = Callable[[tuple[int, ...], Tensor], PackedWeight]
STORAGES = [emulated, simulated, fp8, dequantized]
RULES: list[UpdateRule] = [Anchored(), TopK(7), Stochastic(3)]


def group(
    new: NewWeight, rule: UpdateRule, sizes: tuple[int, ...] = SIZES, num_steps: int = 1
) -> list[MeldedLinear]:
    """Melded linears of one input that have made some steps; the same numbers for every storage and
    size of the group.
    """
    layers: list[MeldedLinear] = []
    packed = None
    for index, size in enumerate(SIZES):
        torch.manual_seed(index)
        weight = torch.randn(size, NUM_INPUTS).bfloat16().to(DEVICE)
        a = torch.linalg.qr(torch.randn(NUM_INPUTS, RANK))[0].t().to(DEVICE)
        if packed is None or len(sizes) == 1:
            packed = new(sizes if len(sizes) > 1 else (size,), weight)
        layer = MeldedLinear(
            packed,
            index if len(sizes) > 1 else 0,
            None,
            0.5,
            BaseWeight(weight) if rule.keeps_base else None,
        )
        with torch.no_grad():
            rule.start(layer, weight, a)
            for _ in range(num_steps):
                layer.delta += torch.randn(size, RANK).to(DEVICE) * 0.1
                rule.after_step(layer)
        layers.append(layer)
    return layers


def outputs_and_gradients(layers: list[MeldedLinear]) -> list[Tensor]:
    torch.manual_seed(9)
    x = torch.randn(TOKENS, NUM_INPUTS).bfloat16().to(DEVICE).requires_grad_()
    grads = [torch.randn(TOKENS, layer.out_features).bfloat16().to(DEVICE) for layer in layers]
    outputs = call_together(x, *layers)
    torch.autograd.backward(outputs, grads)
    return [*outputs, x.grad, *(layer.delta.grad for layer in layers)]


def with_rows_of(layers: list[MeldedLinear], source: list[MeldedLinear]) -> list[MeldedLinear]:
    for layer, other in zip(layers, source, strict=True):
        layer.w_rows.write(other.weight, other.w_rows.scale)
        layer.a_rows.write(other.a, other.a_rows.scale)
    return layers


def assert_equal(ours: list[Tensor], expected: list[Tensor]) -> None:
    """Up to the rounding of the results to bf16 and the order of fp32 additions."""
    for actual, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(
            actual.float(),
            other.float(),
            rtol=2**-7,
            atol=2**-7 * other.float().pow(2).mean().sqrt().item(),
        )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("new", STORAGES)
def test_a_group_computes_what_its_linears_compute_alone(new: NewWeight, rule: UpdateRule) -> None:
    """Of grad_input three parts are added in bf16 when alone; with FP8 gradients a group rounds all
    of a token's at one scale.
    """
    together = group(new, rule)
    alone = group(new, rule, sizes=(1,))
    assert len({id(layer.packed) for layer in together}) == 1
    assert len({id(layer.packed) for layer in alone}) == 3
    for layer, other in zip(together, alone, strict=True):
        assert torch.equal(layer.weight, other.weight)
        assert torch.equal(layer.w_rows.scale, other.w_rows.scale)
        assert torch.equal(layer.a, other.a)
        assert torch.equal(layer.a_rows.scale, other.a_rows.scale)
    ours = outputs_and_gradients(together)
    expected = outputs_and_gradients(alone)
    grad_x = ours.pop(3)
    expected_x = expected.pop(3)
    assert (grad_x - expected_x).norm() < (
        0.05 if new in (simulated, fp8) else 2**-8
    ) * expected_x.norm()
    assert_equal(ours, expected)


@pytest.mark.parametrize(("on_fp8", "on_values"), [(fp8, simulated), (dequantized, emulated)])
def test_the_same_rows_give_the_same_numbers_from_codes_and_from_values(
    on_fp8: NewWeight, on_values: NewWeight
) -> None:
    """`simulate_fp8` is what an FP8 GPU computes, and codes without FP8 GEMMs are what a CPU
    computes.
    """
    values = group(on_values, Anchored())
    assert_equal(
        outputs_and_gradients(with_rows_of(group(on_fp8, Anchored()), values)),
        outputs_and_gradients(values),
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("new", STORAGES)
def test_every_storage_holds_the_same_weights_after_steps(new: NewWeight, rule: UpdateRule) -> None:
    """The anchored product is rounded to bf16 on the CPU and not on codes, which moves a value over
    a tie now and then.
    """
    for layer, other in zip(
        group(new, rule, num_steps=3), group(emulated, rule, num_steps=3), strict=True
    ):
        assert (layer.weight != other.weight.to(DEVICE)).float().mean() < 0.01
        torch.testing.assert_close(
            layer.weight.float(), other.weight.float(), rtol=2**-3, atol=2**-9
        )
        assert torch.equal(layer.a, other.a)
        assert torch.equal(layer.w_rows.scale, other.w_rows.scale)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("new", STORAGES)
def test_what_a_checkpoint_holds_brings_every_storage_back(
    new: NewWeight, rule: UpdateRule
) -> None:
    layers = group(new, rule)
    again = group(new, rule, num_steps=0)
    with torch.no_grad():
        for layer, other in zip(again, layers, strict=True):
            rule.load(layer, rule.state(other))
    for name, buffer in layers[0].packed.named_buffers():
        assert torch.equal(again[0].packed.get_buffer(name).float(), buffer.float()), name


@pytest.mark.parametrize("rule", RULES)
def test_codes_take_one_byte_a_weight_and_zeros_fill_them_up(rule: UpdateRule) -> None:
    packed = group(fp8, rule, num_steps=3)[0].packed
    assert isinstance(packed, Fp8Weight)
    num_rows = packed.num_outputs + 3 * RANK
    num_bytes = sum(buffer.nbytes for buffer in packed.buffers())
    num_bytes -= 2 * 3 * RANK * NUM_INPUTS  # each A in bf16, too
    assert len(packed.qdata) == num_rows + 1, "a multiple of 16"
    # and the scales, those of the columns of grad_input and of dy B as well
    num_scales = len(packed.qdata) + NUM_INPUTS + 3 * RANK + 1
    assert num_bytes == len(packed.qdata) * NUM_INPUTS + 4 * num_scales
    assert packed.qdata[num_rows:].float().eq(0).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("new", STORAGES)
def test_a_step_tells_how_many_values_it_changed(new: NewWeight, rule: UpdateRule) -> None:
    """Where codes are compared, a row whose scale doubles has changed even where its values have
    not.
    """
    (layer, *_) = group(new, rule)
    weight = layer.weight.clone()
    (old_qdata, _) = layer.quantized_weight()
    with torch.no_grad():
        layer.delta[3:20] += 0.3
        changed = rule.after_step(layer)
        values = torch.count_nonzero(layer.weight != weight).item()
        assert changed in (
            values,
            torch.count_nonzero(layer.quantized_weight()[0].float() != old_qdata.float()).item(),
        )
        assert values > 0
        weight = layer.weight.clone()
        rule.after_step(layer)  # the delta has not moved since
    assert torch.equal(layer.weight, weight)


@pytest.mark.parametrize("new", STORAGES)
def test_a_base_in_eight_bits_gives_every_storage_the_same_rows(new: NewWeight) -> None:
    """Without a delta they are those of the weight that the eight bits say."""
    torch.manual_seed(2)
    weight = torch.randn(64, NUM_INPUTS).bfloat16().to(DEVICE)
    base = keep_base(weight, "int8")
    layer = MeldedLinear(new((64,), weight), 0, None, 0.5, base)

    with torch.no_grad():
        Anchored().start(layer, weight, torch.randn(RANK, NUM_INPUTS).to(DEVICE))

    assert base.values.dtype == torch.int8
    expected, scale = quantize_rows(add_offset_(base.values * base.scale, 0))
    assert torch.equal(layer.weight.float(), expected)
    assert torch.equal(layer.w_rows.scale, scale)
    assert 0.02 < (layer.weight != quantize_rows(weight)[0]).float().mean() < 0.5


@pytest.mark.parametrize("is_locked", [False, True])
def test_a_base_in_host_memory_passes_in_blocks(
    is_locked: bool, request: pytest.FixtureRequest
) -> None:
    if DEVICE.type == "cpu":
        request.getfixturevalue("card")
    layers = group(fp8, Anchored())
    bases = [layer.base.values for layer in layers if layer.base is not None]
    host = HostBase(arena_bytes(bases), DEVICE, block_bytes=5 * bases[0][0].nbytes)
    for layer, base in zip(layers, bases, strict=True):
        layer.base = BaseWeight(host.place(base), host=host)
    if is_locked:
        host.lock()
    qdata = layers[0].packed.get_buffer("qdata")[: sum(SIZES)]
    expected = qdata.float()
    qdata.zero_()

    with torch.no_grad():
        changed = [int(layer.refresh()) for layer in layers]

    assert torch.equal(qdata.float(), expected)
    assert all(0.9 * base.numel() < number for number, base in zip(changed, bases, strict=True))


def test_ranks_and_sizes_that_fp8_gemms_do_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks are filled up; widths are not, such linears are dequantized."""
    monkeypatch.setattr(packed_weight, "has_fp8_gemm", lambda device: True)
    kinds = {}
    for width in (40, 48):
        like = torch.empty(32, width, dtype=torch.bfloat16, device="meta")
        packed = new_packed_weight([32, 16], 3, like, simulate_fp8=False)
        assert isinstance(packed, Fp8Weight)
        kinds[width] = (packed.fp8, len(packed.qdata))
    assert kinds == {40: (False, 64), 48: (True, 64)}


@pytest.mark.parametrize(
    ("hardware", "simulate", "fp8"),
    [(True, False, True), (False, False, False), (False, True, True)],
)
def test_a_gpu_without_fp8_dequantizes_unless_its_rounding_is_asked_for(
    hardware: bool, simulate: bool, fp8: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_weight, "has_fp8_gemm", lambda device: hardware)
    packed = new_packed_weight(
        [32], 3, torch.empty(32, 48, dtype=torch.bfloat16, device="meta"), simulate
    )
    assert isinstance(packed, Fp8Weight)
    assert packed.fp8 is fp8


@pytest.mark.parametrize(
    ("new", "num_bytes", "is_rounded"),
    [(emulated, 2, False), (simulated, 2, True), (fp8, 1, True), (dequantized, 2, False)],
)
def test_what_is_kept_of_an_input_gives_it_back(
    new: NewWeight, num_bytes: int, is_rounded: bool
) -> None:
    (layer, *_) = group(new, Anchored())
    x = torch.randn(TOKENS, NUM_INPUTS).bfloat16().to(DEVICE)

    output, (values, *scales) = layer.packed.output_and_input(x)

    expected = quantize_rows(x)[0] if is_rounded else x
    assert torch.equal(layer.packed.input_of((values, *scales), x.dtype), expected)
    assert torch.equal(output, layer.packed.output(x))
    assert values.nbytes == num_bytes * x.numel()


def test_the_gradient_of_a_without_fp8_is_that_of_the_input_itself() -> None:
    """In float64 from the same rows: scaling * (dY B)^T x, which codes of x are 1/16 away from."""
    rule = Anchored()
    weight = torch.randn(64, NUM_INPUTS).bfloat16().to(DEVICE)
    packed = dequantized((64,), weight)
    layer = MeldedLinear(packed, 0, None, 0.5, BaseWeight(weight), trains_a=True)
    with torch.no_grad():
        rule.start(layer, weight, torch.randn(RANK, NUM_INPUTS).to(DEVICE))
        layer.delta.normal_()
        rule.after_step(layer)
    x = torch.randn(TOKENS, NUM_INPUTS).bfloat16().to(DEVICE)
    grad = torch.randn(TOKENS, 64).bfloat16().to(DEVICE)
    layer(x).backward(grad)
    assert layer.a_master is not None
    expected = 0.5 * (grad.double() @ layer.delta.detach().double()).t() @ x.double()
    ours = layer.a_master.grad.double()
    assert (ours - expected).norm() < 2**-7 * expected.norm()


@pytest.mark.parametrize("needs_input", [True, False])
def test_one_product_gives_grad_input_and_the_gradient_of_a(needs_input: bool) -> None:
    """In float64 from the rounded dY, B and x that the product reads; x may need no gradient, as
    that of the first layer.
    """
    rule = Anchored()
    weight = torch.randn(sum(SIZES), NUM_INPUTS).bfloat16().to(DEVICE)
    packed = fp8(SIZES, weight)
    layers = [
        MeldedLinear(packed, index, None, 0.5, BaseWeight(part), trains_a=True)
        for index, part in enumerate(weight.split(SIZES))
    ]
    with torch.no_grad():
        for layer in layers:
            rule.start(layer, layer.base.values, torch.randn(RANK, NUM_INPUTS).to(DEVICE))
            layer.delta.normal_()
            rule.after_step(layer)
    x = torch.randn(TOKENS, NUM_INPUTS).bfloat16().to(DEVICE).requires_grad_(needs_input)
    grads = [torch.randn(TOKENS, size).bfloat16().to(DEVICE) for size in SIZES]

    torch.autograd.backward(call_together(x, *layers), grads)

    scale = packed.weight_scale
    joined = (torch.cat(grads, 1) * scale).bfloat16()
    rounded = quantize_rows(joined)[0].double()
    if needs_input:
        expected_x = (rounded / scale) @ torch.cat([layer.weight for layer in layers]).double()
        assert (x.grad - expected_x).norm() < 2**-8 * expected_x.norm()
    parts = zip(rounded.split(SIZES, 1), scale.split(SIZES), layers, strict=True)
    for grad, of_rows, layer in parts:
        b = quantize_rows((layer.delta.detach() / of_rows[:, None]).t())[0].t().double()
        assert (b * of_rows[:, None] - layer.delta).norm() < 2**-4 * layer.delta.norm()
        expected = 0.5 * (grad @ b).t() @ quantize_rows(x.detach())[0].double()
        assert layer.a_master is not None
        assert (layer.a_master.grad - expected).norm() < 2**-7 * expected.norm()


def test_a_member_of_a_group_has_no_forward_of_its_own() -> None:
    layer, *_ = group(emulated, Anchored())
    with pytest.raises(AssertionError, match="call_together"):
        layer(torch.randn(3, NUM_INPUTS, dtype=torch.bfloat16, device=DEVICE))


def test_linears_that_are_not_melded_are_called_one_by_one() -> None:
    linears = [nn.Linear(8, 5), nn.Linear(8, 3)]
    x = torch.randn(2, 8)
    ours = call_together(x, linears[0], *meld([linears[1]], 2, 1.0))
    assert torch.equal(ours[0], linears[0](x))
    assert ours[1].shape == (2, 3)


def test_neighbours_in_memory_are_joined_without_a_copy() -> None:
    both = torch.randn(5, 12)
    left = both[:, 2:5]
    right = both[:, 5:9]
    assert cat_or_view([left, right]).data_ptr() == left.data_ptr()
    assert torch.equal(cat_or_view([left, right]), both[:, 2:9])
    for parts in (
        [right, left],
        [left, both[:, 6:9]],
        [left, right.clone()],
        [both[:, :3], both[:, :3]],
        [both.t(), both.t()],
    ):
        assert torch.equal(cat_or_view(parts), torch.cat(parts, 1))
