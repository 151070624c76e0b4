import pytest
import torch
from torch import nn

from falqon_core.meld.activations import rounded_activations, rounds_activations
from falqon_core.meld.linear import call_together
from falqon_core.meld.update import Anchored
from tests.falqon_core.meld.test_packed_weight import (
    DEVICE,
    NUM_INPUTS,
    TOKENS,
    NewWeight,
    assert_equal,
    dequantized,
    emulated,
    fp8,
    group,
    simulated,
    with_rows_of,
)


@pytest.mark.parametrize(("plain", "rounding"), [(emulated, simulated), (dequantized, fp8)])
def test_activations_are_rounded_as_on_a_card_for_a_while(
    plain: NewWeight, rounding: NewWeight
) -> None:
    torch.manual_seed(9)
    x = torch.randn(TOKENS, NUM_INPUTS).bfloat16().to(DEVICE)
    layers = group(plain, Anchored())
    expected = call_together(x, *with_rows_of(group(rounding, Anchored()), layers))
    model = nn.ModuleList(layers)
    with torch.no_grad():
        before = call_together(x, *layers)
        with rounded_activations(model):
            assert rounds_activations(model)
            rounded = call_together(x, *layers)
        after = call_together(x, *layers)
    assert_equal(list(rounded), list(expected))
    assert not torch.equal(rounded[0], before[0])
    assert not rounds_activations(model)
    assert all(map(torch.equal, before, after))
