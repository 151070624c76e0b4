import torch

from falqon_core.ops.offset import add_offset_


def test_a_weight_moves_within_half_its_ulp_and_off_every_tie() -> None:
    weight = torch.randn(300, 500).bfloat16()
    weight[7] = 0
    moved = add_offset_(weight.float(), 0)

    assert torch.equal(moved.bfloat16(), weight)
    assert moved[7].eq(0).all()
    offset = moved / weight.float() - 1
    offset = offset[weight != 0].abs()
    # The smallest is far above the rounding of fp32.
    assert offset.min() > 2.0**-18
    assert offset.max() < 2.0**-9
    assert abs((moved.abs() - weight.float().abs()).mean()) < 1e-5


def test_row_and_column_alone_decide_the_offset() -> None:
    weight = torch.randn(60, 70)
    whole = add_offset_(weight.clone(), 0)
    blocks = [add_offset_(weight[:23].clone(), 0), add_offset_(weight[23:].clone(), 23)]
    assert torch.equal(torch.cat(blocks), whole)
    assert not torch.equal(add_offset_(weight.clone(), 1), whole)
