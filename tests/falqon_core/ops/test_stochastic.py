from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from falqon_core.ops import stochastic
from falqon_core.ops.quantize import quantize_codes, quantize_rows, row_blocks
from falqon_core.ops.stochastic import (
    fold_stochastic,
    fold_stochastic_triton,
    philox,
    random_bits,
    random_bytes,
    round_stochastically,
)
from tests.falqon_core.ops.devices import KERNEL_DEVICE, codes_apart, equal_codes

ALL_CODES = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
GRID = ALL_CODES.float()[ALL_CODES.float().isfinite()].unique()  # sorted
ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # the known answers of the Random123 library
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_generator_gives_the_published_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], words: tuple[int, int, int, int]
) -> None:
    assert tuple(int(word) for word in philox(counter, key)) == words


def test_bits_depend_on_every_part_of_the_key_and_on_nothing_else() -> None:
    def bits(
        rows: int = 6,
        columns: int = 9,
        seed: int = 1,
        step: int = 2,
        layer: int = 3,
        first: int = 0,
    ) -> Tensor:
        return random_bits(slice(first, rows), columns, seed, step, layer, torch.device("cpu"))

    assert torch.equal(bits(), bits())
    # not on the shape around an element
    assert torch.equal(bits(rows=100, columns=50)[:6, :9], bits())
    assert torch.equal(bits(first=2), bits()[2:])
    for other in (bits(seed=2), bits(step=3), bits(layer=4)):
        assert (other != bits()).all()
    assert bits().unique().numel() == 54


def test_bytes_are_uniform_and_any_two_are_independent() -> None:
    cpu = torch.device("cpu")
    many = random_bytes(slice(0, 4096), 3000, 1, 2, 3, cpu)
    assert torch.equal(random_bytes(slice(6, 17), 9, 1, 2, 3, cpu), many[6:17, :9])
    counts = many.flatten().bincount(minlength=256)
    assert len(counts) == 256
    assert (counts / many.numel() * 256 - 1).abs().max() < 0.2
    centred = many.double() - 127.5
    for other in (
        centred.roll(1, 0),
        centred.roll(1, 1),
        *(
            random_bytes(slice(0, 4096), 3000, *key, cpu).double() - 127.5
            for key in ((9, 2, 3), (1, 9, 3), (1, 2, 9))
        ),
    ):
        assert (centred * other).mean().abs() < 0.05 * centred.square().mean()


def test_a_value_on_the_grid_stays_and_any_other_goes_to_a_neighbour() -> None:
    bits = random_bits(slice(0, 1), GRID.numel(), 0, 0, 0, torch.device("cpu"))[0]
    assert torch.equal(round_stochastically(GRID, bits), GRID)
    assert torch.equal(round_stochastically(GRID, torch.full_like(bits, ONES)), GRID)
    between = GRID[:-1] + (GRID[1:] - GRID[:-1]) * 0.3
    rounded = round_stochastically(between, bits[:-1])
    assert ((rounded == GRID[:-1]) | (rounded == GRID[1:])).all()
    assert torch.equal(
        round_stochastically(between, torch.zeros_like(bits[:-1])).abs(),
        torch.minimum(GRID[:-1].abs(), GRID[1:].abs()),
    )


def test_the_mean_over_many_draws_is_the_value() -> None:
    values = torch.cat(
        [torch.tensor([1e-4, 0.003, 0.0151, 0.3, -1.03, 17.2, -440.0]), torch.randn(50) * 20]
    )
    draws = 20_000
    bits = random_bits(slice(0, draws), values.numel(), 5, 0, 0, torch.device("cpu"))
    mean = round_stochastically(values.expand(draws, -1).contiguous(), bits).double().mean(0)
    above = torch.searchsorted(GRID, values)
    spacing = GRID[above] - GRID[above - 1]
    # five standard deviations at most
    assert ((mean - values).abs() / spacing < 5 * 0.5 / draws**0.5).all()


def arguments(num_outputs: int, num_inputs: int, rank: int, exact: bool) -> tuple[Tensor, ...]:
    """With `exact` every sum fits into fp32 whatever the order of additions."""
    torch.manual_seed(num_inputs)
    base = torch.randn(num_outputs, num_inputs, device=KERNEL_DEVICE).bfloat16()
    qdata, scale = quantize_codes.oracle(base)
    delta = torch.randn(num_outputs, rank, device=KERNEL_DEVICE) * 0.05
    a = torch.randn(rank, num_inputs, device=KERNEL_DEVICE)
    if exact:
        delta = (delta * 256).round() / 256
        a = a.round()
    return qdata, scale, delta, quantize_rows(a.bfloat16())[0]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("num_outputs", "num_inputs", "rank"), [(1, 1, 1), (33, 130, 5), (70, 67, 70)]
)
def test_the_kernel_folds_as_the_oracle_does(
    num_outputs: int, num_inputs: int, rank: int, exact: bool
) -> None:
    qdata, scale, delta, a = arguments(num_outputs, num_inputs, rank, exact)
    before = qdata.float()
    expected = qdata.clone()
    expected_scale = scale.clone()
    expected_changed = fold_stochastic.oracle(expected, expected_scale, delta, a, 0.5, 7, 16, 1)
    changed = fold_stochastic_triton(qdata, scale, delta, a, 0.5, 7, 16, 1)
    assert torch.equal(scale, expected_scale)
    assert changed == (qdata.float() != before).sum()
    if exact:
        assert equal_codes(qdata, expected)
        assert changed == expected_changed
    else:
        apart = codes_apart(qdata, expected)
        assert apart.max() <= 1
        assert (apart > 0).float().mean() < 1e-3


@pytest.mark.parametrize("fold", [fold_stochastic.oracle, fold_stochastic_triton])
def test_nothing_moves_without_a_step_and_another_step_or_layer_rounds_otherwise(
    fold: Callable[..., Tensor],
) -> None:
    qdata, scale, delta, a = arguments(5, 60, 3, exact=True)
    original = qdata.clone()
    kept_scale = scale.clone()
    assert fold(qdata, scale, torch.zeros_like(delta), a, 1.0, 1, 2, 3) == 0
    assert equal_codes(qdata, original)
    assert torch.equal(scale, kept_scale)

    def folded(step: int, layer: int) -> Tensor:
        qdata = original.clone()
        fold(qdata, kept_scale.clone(), delta, a, 1.0, 1, step, layer)
        return qdata

    assert equal_codes(folded(2, 3), folded(2, 3))
    assert not equal_codes(folded(2, 3), folded(3, 3))
    assert not equal_codes(folded(2, 3), folded(2, 4))


def test_the_oracle_gives_the_same_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums are exact, so that another shape of the product cannot show."""
    whole, parts = (arguments(33, 130, 5, exact=True) for _ in range(2))
    changed = fold_stochastic.oracle(*whole, 0.5, 7, 16, 1)
    monkeypatch.setattr(stochastic, "row_blocks", partial(row_blocks, elements=4 * 130))
    assert fold_stochastic.oracle(*parts, 0.5, 7, 16, 1) == changed
    for ours, expected in zip(parts, whole, strict=True):
        assert torch.equal(ours.float(), expected.float())


def test_folds_far_smaller_than_a_code_add_up_on_average() -> None:
    """A drift of a twentieth of a code in every step, that rounding to nearest would lose
    altogether.
    """
    torch.manual_seed(0)
    qdata, scale = quantize_codes.oracle(torch.full((8, 256), 300.0))
    delta, a = (
        torch.full((8, 1), 1.6),
        torch.ones(1, 256).bfloat16(),
    )  # codes between 256 and 448 are 32 apart
    start = qdata.float() * scale
    for step in range(40):
        fold_stochastic(qdata, scale, delta, a, 1.0, 3, step, 0)
    moved = (qdata.float() * scale - start).mean()
    assert moved == pytest.approx(40 * 1.6, rel=0.05)
