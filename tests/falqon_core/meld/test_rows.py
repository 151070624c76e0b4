"""The two storages of a group against each other and against linears that are alone. Where no GPU is, codes lie on the CPU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from falqon_core.meld import rows as rows_module
from falqon_core.meld.linear import MeldedLinear, call_together, meld
from falqon_core.meld.matmul import side_by_side
from falqon_core.meld.rows import EmulatedWeight, Fp8Weight, PackedWeight, new_rows
from falqon_core.meld.update import Anchored, Stochastic, TopK, UpdateRule
from tests.falqon_core.ops.devices import KERNEL_DEVICE

SIZES, NUM_INPUTS, RANK, TOKENS = (64, 32, 32), 96, 5, 37  # the rank is no multiple of 16
DEVICE = torch.device(KERNEL_DEVICE)


def shadow(sizes: tuple[int, ...], like: Tensor) -> PackedWeight:
    return EmulatedWeight(sizes, NUM_INPUTS, RANK, like, simulate_fp8=False)


def simulated(sizes: tuple[int, ...], like: Tensor) -> PackedWeight:
    return EmulatedWeight(sizes, NUM_INPUTS, RANK, like, simulate_fp8=True)


def codes(sizes: tuple[int, ...], like: Tensor) -> PackedWeight:
    return Fp8Weight(sizes, NUM_INPUTS, RANK, like.device, fp8=True)


def dequantized(sizes: tuple[int, ...], like: Tensor) -> PackedWeight:
    return Fp8Weight(sizes, NUM_INPUTS, RANK, like.device, fp8=False)


NewRows = Callable[[tuple[int, ...], Tensor], PackedWeight]
STORAGES = [shadow, simulated, codes, dequantized]
RULES: list[UpdateRule] = [Anchored(), TopK(7), Stochastic(3)]


def group(new: NewRows, rule: UpdateRule, sizes: tuple[int, ...] = SIZES, num_steps: int = 1) -> list[MeldedLinear]:
    """Melded linears of one input that have made some steps; the same numbers for every storage and size of the group."""
    layers: list[MeldedLinear] = []
    rows = None
    for index, size in enumerate(SIZES):
        torch.manual_seed(index)
        weight = torch.randn(size, NUM_INPUTS).bfloat16().to(DEVICE)
        a = torch.linalg.qr(torch.randn(NUM_INPUTS, RANK))[0].t().to(DEVICE)
        if rows is None or len(sizes) == 1:
            rows = new(sizes if len(sizes) > 1 else (size,), weight)
        layer = MeldedLinear(rows, index if len(sizes) > 1 else 0, None, 0.5, weight if rule.keeps_base else None)
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
        layer.set_weight(other.weight, other.scale)
        layer.set_a(other.a, other.a_scale)
    return layers


def assert_equal(ours: list[Tensor], expected: list[Tensor]) -> None:
    """Up to the rounding of the results to bf16 and the order of fp32 additions."""
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=2**-7, atol=2**-7 * other.float().pow(2).mean().sqrt().item())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("new", STORAGES)
def test_a_group_computes_what_its_linears_compute_alone(new: NewRows, rule: UpdateRule) -> None:
    """Of grad_input three parts are added in bf16 when alone; with FP8 gradients a group rounds all of a token's at one scale."""
    together, alone = group(new, rule), group(new, rule, sizes=(1,))
    assert len({id(layer.rows) for layer in together}) == 1
    assert len({id(layer.rows) for layer in alone}) == 3
    for one, other in zip(together, alone, strict=True):
        for name in ("weight", "scale", "a", "a_scale"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
    ours, expected = outputs_and_gradients(together), outputs_and_gradients(alone)
    grad_x, expected_x = ours.pop(3), expected.pop(3)
    assert (grad_x - expected_x).norm() < (0.05 if new in (simulated, codes) else 2**-8) * expected_x.norm()
    assert_equal(ours, expected)


@pytest.mark.parametrize(("on_codes", "on_values"), [(codes, simulated), (dequantized, shadow)])
def test_the_same_rows_give_the_same_numbers_from_codes_and_from_values(on_codes: NewRows, on_values: NewRows) -> None:
    """`simulate_fp8` is what an FP8 GPU computes, and codes without FP8 GEMMs are what a CPU computes."""
    values = group(on_values, Anchored())
    assert_equal(outputs_and_gradients(with_rows_of(group(on_codes, Anchored()), values)), outputs_and_gradients(values))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("new", STORAGES)
def test_every_storage_holds_the_same_weights_after_steps(new: NewRows, rule: UpdateRule) -> None:
    """The anchored product is rounded to bf16 on the CPU and not on codes, which moves a value over a tie now and then."""
    for one, other in zip(group(new, rule, num_steps=3), group(shadow, rule, num_steps=3), strict=True):
        assert (one.weight != other.weight.to(DEVICE)).float().mean() < 0.01
        torch.testing.assert_close(one.weight.float(), other.weight.float(), rtol=2**-3, atol=2**-9)
        assert torch.equal(one.a, other.a)
        assert torch.equal(one.scale, other.scale)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("new", STORAGES)
def test_what_a_checkpoint_holds_brings_every_storage_back(new: NewRows, rule: UpdateRule) -> None:
    layers = group(new, rule)
    again = group(new, rule, num_steps=0)
    with torch.no_grad():
        for one, other in zip(again, layers, strict=True):
            rule.load(one, rule.state(other))
    for name, buffer in layers[0].rows.named_buffers():
        assert torch.equal(again[0].rows.get_buffer(name).float(), buffer.float()), name


@pytest.mark.parametrize("rule", RULES)
def test_both_layouts_of_codes_say_the_same(rule: UpdateRule) -> None:
    rows = group(codes, rule, num_steps=3)[0].rows
    assert isinstance(rows, Fp8Weight)
    assert rows.codes_t is not None
    assert torch.equal(rows.codes_t.float(), rows.codes[: rows.num_outputs].float().t())
    assert len(rows.codes) % 16 == 0
    assert rows.codes[rows.num_outputs + 3 * RANK :].float().eq(0).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("new", STORAGES)
def test_a_step_tells_how_many_values_it_changed(new: NewRows, rule: UpdateRule) -> None:
    """Where codes are compared, a row whose scale doubles has changed even where its values have not."""
    (layer, *_) = group(new, rule)
    weight, (old_codes, _) = layer.weight.clone(), layer.quantized_weight()
    with torch.no_grad():
        layer.delta[3:20] += 0.3
        changed = rule.after_step(layer)
        values = torch.count_nonzero(layer.weight != weight).item()
        assert changed in (values, torch.count_nonzero(layer.quantized_weight()[0].float() != old_codes.float()).item())
        assert values > 0
        weight = layer.weight.clone()
        rule.after_step(layer)  # the delta has not moved since
    assert torch.equal(layer.weight, weight)


def test_a_base_in_host_memory_passes_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base that is on another device than the codes; the meta device stands for nothing, so this one needs a GPU."""
    if DEVICE.type == "cpu":
        pytest.skip("needs a second kind of memory")
    monkeypatch.setattr(rows_module, "HOST_BLOCK_ELEMENTS", 5 * NUM_INPUTS)
    one, other = group(codes, Anchored()), group(codes, Anchored())
    with torch.no_grad():
        for layer in one:
            assert layer.base is not None
            layer.base = layer.base.cpu().pin_memory()
            layer.refresh()
    assert torch.equal(one[0].rows.get_buffer("codes").float(), other[0].rows.get_buffer("codes").float())


def test_ranks_and_sizes_that_fp8_gemms_do_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks are filled up; widths are not, such linears are dequantized."""
    monkeypatch.setattr(rows_module, "has_fp8_gemm", lambda device: True)
    kinds = {}
    for width in (40, 48):
        like = torch.empty(32, width, dtype=torch.bfloat16, device="meta")
        made = new_rows([32, 16], 3, like, simulate_fp8=False)
        assert isinstance(made, Fp8Weight)
        kinds[width] = (made.fp8, len(made.codes))
    assert kinds == {40: (False, 64), 48: (True, 64)}


@pytest.mark.parametrize(("hardware", "simulate", "fp8"), [(True, False, True), (False, False, False), (False, True, True)])
def test_a_gpu_without_fp8_dequantizes_unless_its_rounding_is_asked_for(
    hardware: bool, simulate: bool, fp8: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "has_fp8_gemm", lambda device: hardware)
    made = new_rows([32], 3, torch.empty(32, 48, dtype=torch.bfloat16, device="meta"), simulate)
    assert isinstance(made, Fp8Weight)
    assert made.fp8 is fp8
    assert (made.codes_t is not None) is fp8


def test_a_member_of_a_group_has_no_forward_of_its_own() -> None:
    layer, *_ = group(shadow, Anchored())
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
    left, right = both[:, 2:5], both[:, 5:9]
    assert side_by_side([left, right]).data_ptr() == left.data_ptr()
    assert torch.equal(side_by_side([left, right]), both[:, 2:9])
    for parts in ([right, left], [left, both[:, 6:9]], [left, right.clone()], [both[:, :3], both[:, :3]], [both.t(), both.t()]):
        assert torch.equal(side_by_side(parts), torch.cat(parts, 1))
