import pytest
import torch
from torch import nn

from falqon_core.contract.config import Recipe
from falqon_core.meld.blocks import Attention, SwiGLU
from falqon_core.meld.convert import convert_to_melded, swap_blocks
from falqon_core.meld.linear import MeldedLinear
from falqon_core.meld.update import Anchored
from falqon_core.ops import matmul
from falqon_core.ops.quantize import quantize_rows
from tests.falqon_core.meld.models import CONFIGS, EIGHT_TOKENS, tiny_model

RECIPE = Recipe(rank=8, a_init="orthonormal").resolved(10)


@pytest.mark.parametrize("name", CONFIGS)
def test_blocks_alone_change_nothing(name: str) -> None:
    model = tiny_model(name, torch.float32)
    plain = tiny_model(name, torch.float32)
    swap_blocks(model)
    kinds = [type(module) for module in model.modules()]
    assert (kinds.count(Attention), kinds.count(SwiGLU)) == (2, 2)
    assert list(model.state_dict()) == list(plain.state_dict())
    input_ids = torch.randint(3, 97, (2, 11))
    torch.testing.assert_close(
        model(input_ids).logits, plain(input_ids).logits, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", CONFIGS)
def test_generation_with_a_cache_is_transformers_own(name: str, implementation: str) -> None:
    """Longer than Mistral's window, from a batch that is padded on the left, so masks, positions
    and the cache all play a part.
    """
    model, plain = (tiny_model(name, torch.float32, implementation) for _ in range(2))
    swap_blocks(model)
    convert_to_melded(model, RECIPE, Anchored())
    for full_name, linear in plain.named_modules():
        if isinstance(linear, nn.Linear) and full_name != "lm_head":
            linear.weight.data = quantize_rows(linear.weight.data)[0]
    input_ids = torch.randint(3, 97, (2, 5))
    mask = torch.ones_like(input_ids)
    input_ids[0, :2], mask[0, :2] = 0, 0
    ours, expected = (
        network.generate(input_ids, attention_mask=mask, generation_config=EIGHT_TOKENS)
        for network in (model, plain)
    )
    assert ours.shape == (2, 13)
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_grouped_model_trains_as_an_ungrouped_one(name: str) -> None:
    """The same start and data: the loss and every gradient, up to the rounding of bf16."""
    results = []
    for blocks_first in (True, False):
        model = tiny_model(name)
        if blocks_first:
            swap_blocks(model)
        layers = convert_to_melded(model, RECIPE, Anchored())
        if not blocks_first:
            swap_blocks(model)
        assert {len(layer.packed.sizes) for layer in layers.values()} == (
            {1, 2, 3} if blocks_first else {1}
        )
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for layer in layers.values():
                layer.delta.normal_(std=0.05, generator=generator)
                layer.refresh()
        input_ids = torch.randint(3, 97, (1, 24), generator=generator)
        hidden = model.model(
            input_ids, use_cache=False, cu_seqlens=torch.tensor([0, 9, 24]), max_seqlen=15
        ).last_hidden_state
        loss = hidden.float().square().mean()
        loss.backward()
        results.append((loss, {name: layer.delta.grad for name, layer in layers.items()}))
    (loss, grads), (expected, expected_grads) = results
    torch.testing.assert_close(loss, expected, rtol=2e-3, atol=0)
    assert list(grads) == list(expected_grads)
    for layer_name, grad in grads.items():
        assert (grad - expected_grads[layer_name]).norm() < 0.03 * expected_grads[
            layer_name
        ].norm(), layer_name


def test_one_block_takes_one_product_for_all_that_read_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forward: four GEMMs a layer instead of seven; grad_input: four; none of the gradients of gate
    and up is copied.
    """
    model = tiny_model("llama")
    swap_blocks(model)
    layers = convert_to_melded(model, RECIPE, Anchored())
    packed = {id(layer.packed): layer.packed for layer in layers.values()}
    assert len(packed) == 2 * 4
    calls: list[tuple[str, int]] = []
    kind = type(next(iter(packed.values())))
    output = kind.output_and_input
    grad_input = kind.grad_input
    monkeypatch.setattr(
        kind,
        "output_and_input",
        lambda self, x: (calls.append(("output", id(self))), output(self, x))[1],
    )
    monkeypatch.setattr(
        kind,
        "grad_input",
        lambda self, grad: (calls.append(("grad_input", id(self))), grad_input(self, grad))[1],
    )
    model(torch.randint(3, 97, (1, 7))).logits.sum().backward()
    assert sum(name == "output" for name, _ in calls) == 8
    # The first layer's q, k and v read embeddings, which are frozen.
    assert sum(name == "grad_input" for name, _ in calls) == 7


def test_the_gradients_of_gate_and_up_reach_their_product_without_a_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Without bf16 instructions the product reads one fp32 copy.
    monkeypatch.setattr(matmul, "LACKS_BF16", False)
    torch.manual_seed(0)
    model = tiny_model("llama")
    swap_blocks(model)
    convert_to_melded(model, RECIPE, Anchored())
    mlp = model.model.layers[0].mlp
    assert isinstance(mlp.gate_proj, MeldedLinear)
    packed = mlp.gate_proj.packed
    grads: list[torch.Tensor] = []
    real = packed.grad_input
    monkeypatch.setattr(packed, "grad_input", lambda grad: (grads.append(grad), real(grad))[1])
    mlp(torch.randn(2, 5, 40, dtype=torch.bfloat16, requires_grad=True)).sum().backward()
    (grad,) = grads
    assert grad.shape == (10, 112)
    # the buffer that swiglu's backward wrote
    assert grad.untyped_storage().nbytes() == 10 * 112 * 2
    assert grad._base is None or grad.storage_offset() == 0
