import pytest
import torch
from torch import Tensor, nn

from falqon_core.meld.linear import meld
from falqon_core.meld.update import TopK
from falqon_core.ops.quantize import codes_of, quantize_rows
from falqon_core.ops.topk import fold_rows, fold_rows_triton
from tests.falqon_core.ops.devices import KERNEL_DEVICE, codes_apart, equal_codes


@pytest.mark.parametrize("size", [0.03, 100.0])  # within the range, and far beyond it
def test_the_oracle_is_the_published_rule_of_meld(size: float) -> None:
    torch.manual_seed(1)
    (layer,) = meld([nn.Linear(48, 20, bias=False, dtype=torch.bfloat16)], 4, 1.0, base_copy=None)
    with torch.no_grad():
        rule = TopK(6)
        rule.start(layer, torch.randn(20, 48).bfloat16(), torch.randn(4, 48) * 0.3)
        qdata, scale = layer.quantized_weight()
        delta = layer.delta.normal_(std=size).clone()
        chosen = delta.abs().sum(1).topk(6).indices
        before = qdata.float()
        changed = fold_rows(qdata, scale, delta, layer.a, chosen)
        rule.after_step(layer)
    assert equal_codes(qdata, layer.quantized_weight()[0])
    assert changed == (qdata.float() != before).sum() > 0
    others = torch.ones(20, dtype=torch.bool).index_fill(0, chosen, False)
    assert torch.equal(qdata.float()[others], before[others])


def arguments(num_outputs: int, num_inputs: int, rank: int) -> tuple[Tensor, ...]:
    torch.manual_seed(num_inputs)
    a = quantize_rows(torch.randn(rank, num_inputs, device=KERNEL_DEVICE).bfloat16())[0]
    scale = torch.full((num_outputs, 1), 2.0**-7, device=KERNEL_DEVICE)
    qdata = codes_of(torch.randn(num_outputs, num_inputs, device=KERNEL_DEVICE), scale)
    delta = torch.randn(num_outputs, rank, device=KERNEL_DEVICE) * 0.3
    delta[-1] *= 100
    return (
        qdata,
        scale,
        delta,
        a,
        torch.randperm(num_outputs, device=KERNEL_DEVICE)[: max(1, num_outputs // 2)],
    )


@pytest.mark.parametrize(
    ("num_outputs", "num_inputs", "rank"), [(1, 1, 1), (33, 130, 5), (9, 600, 20)]
)
def test_the_kernel_folds_as_the_oracle_does(num_outputs: int, num_inputs: int, rank: int) -> None:
    qdata, scale, delta, a, rows = arguments(num_outputs, num_inputs, rank)
    before = qdata.float()
    kept_scale = scale.clone()
    expected = qdata.clone()
    fold_rows.oracle(expected, scale, delta, a, rows)
    changed = fold_rows_triton(qdata, scale, delta, a, rows)
    apart = codes_apart(qdata, expected)
    assert apart.max() <= 1
    # another order of additions may move a value over a tie
    assert (apart > 0).float().mean() < 1e-3
    assert changed == (qdata.float() != before).sum()
    assert torch.equal(scale, kept_scale)


def test_the_kernel_saturates() -> None:
    qdata, scale, delta, a, rows = arguments(4, 33, 2)
    fold_rows_triton(qdata, scale, torch.full_like(delta, 1e4), a, rows)
    folded = qdata.float()[rows]
    assert folded.isfinite().all()
    assert folded.abs().max() == 448
