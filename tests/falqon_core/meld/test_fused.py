"""Fused decoder layers against the same modules one after another. Codes lie on the CPU here and
the operators are their oracles, so every number is the same bit for bit.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from falqon_core.contract.config import Recipe
from falqon_core.meld import linear, packed_weight
from falqon_core.meld.convert import convert_to_melded, swap_blocks
from falqon_core.meld.fused import (
    FUSING_OPERATORS,
    FusedDecoderLayer,
    normed_linears,
    normed_qkv,
    normed_swiglu,
)
from falqon_core.meld.packed_weight import Fp8Weight
from falqon_core.meld.update import Anchored
from falqon_core.ops.quantize import quantize_codes
from falqon_core.ops.rms_norm_backward import rms_norm_backward
from falqon_core.train.activation_checkpointing import checkpoint_activations
from tests.falqon_core.meld.fused_models import (
    HIDDEN,
    RANK,
    RECIPE,
    TOKENS,
    TRAINS_A,
    loss_of,
    melded,
    num_bytes,
    pair,
    rotation,
    saved_tensors,
)
from tests.falqon_core.meld.models import ALIGNED, EIGHT_TOKENS, tiny_model
from tests.falqon_core.ops.devices import KERNEL_DEVICE

# qwen2 has biases on q, k and v; qwen3 norms between projections and rotation
NAMES = ["llama", "mistral", "qwen2", "qwen3"]


@pytest.mark.usefixtures("on_codes")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("recipe", "packed"), [(RECIPE, True), (RECIPE, False), (TRAINS_A, True)])
def test_losses_gradients_and_deltas_are_the_same_bits(
    name: str, recipe: Recipe, packed: bool
) -> None:
    losses: list[list[Tensor]] = []
    results: list[dict[str, Tensor]] = []
    for model, layers in pair(name, recipe):
        trained = [p for layer in layers.values() for p in (layer.delta, layer.a_master)]
        optimizer = torch.optim.AdamW([p for p in trained if p is not None], lr=0.01)
        losses.append([])
        for _ in range(3):
            optimizer.zero_grad()
            loss = loss_of(model, packed)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for layer in layers.values():
                    Anchored().after_step(layer)
            losses[-1].append(loss.detach())
        tensors = {
            "delta": lambda layer: layer.delta,
            "grad": lambda layer: layer.delta.grad,
            "codes": lambda layer: layer.weight,
        }
        if recipe.train_a:
            tensors["grad of A"] = lambda layer: layer.a_master.grad
        results.append(
            {
                f"{key} {kind}": of(layer)
                for key, layer in layers.items()
                for kind, of in tensors.items()
            }
        )
    assert torch.equal(torch.stack(losses[0]), torch.stack(losses[1]))
    assert losses[0][0] != losses[0][2]
    assert len(results[0]) == (4 if recipe.train_a else 3) * 14
    for key, tensor in results[0].items():
        assert torch.equal(tensor, results[1][key]), key


@pytest.mark.usefixtures("on_codes")
def test_an_input_that_needs_a_gradient_gets_the_same() -> None:
    grads = []
    for model, _ in pair("llama"):
        embeddings = (
            torch.randn(1, TOKENS, HIDDEN, generator=torch.Generator().manual_seed(2))
            .bfloat16()
            .requires_grad_()
        )
        model.model(
            inputs_embeds=embeddings, use_cache=False
        ).last_hidden_state.float().square().mean().backward()
        grads.append(embeddings.grad)
    assert torch.equal(*grads)
    assert grads[0].count_nonzero() > 0


@pytest.mark.usefixtures("on_codes")
def test_the_kernels_take_these_operands_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gate and up are columns of a wider product, scales are slices. Up to a code now and then."""
    operators = (*FUSING_OPERATORS, rms_norm_backward, quantize_codes)
    model = tiny_model("llama", **ALIGNED, num_hidden_layers=1).to(KERNEL_DEVICE)
    melded(model)
    (layer,) = model.model.layers
    generator = torch.Generator().manual_seed(4)
    x, residual, grad = (
        torch.randn(1, 5, HIDDEN, generator=generator).bfloat16().to(KERNEL_DEVICE)
        for _ in range(3)
    )
    inputs = [
        x.requires_grad_(),
        residual.requires_grad_(),
        *(linear.delta for linear in layer.mlp.children()),
        layer.self_attn.o_proj.delta,
        layer.self_attn.q_proj.delta,
        layer.self_attn.v_proj.delta,
    ]
    results = []
    for implementations in (
        [operator.oracle for operator in operators],
        [operator.kernels["cuda"] for operator in operators],
    ):
        for operator, implementation in zip(operators, implementations, strict=True):
            monkeypatch.setitem(operator.kernels, KERNEL_DEVICE, implementation)
        output = normed_swiglu(
            x, residual, layer.self_attn.o_proj, layer.post_attention_layernorm, layer.mlp
        )
        group = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
        projected = normed_linears(x, layer.input_layernorm, group)
        rotated = normed_qkv(x, layer.input_layernorm, group, rotation(model, 5))
        sums = sum(y.float().sum() for y in (*projected, *rotated))
        gradients = torch.autograd.grad([output, sums], inputs, [grad, None])
        results.append([output, *projected, *rotated, *gradients])
    for ours, expected in zip(results[1], results[0], strict=True):
        assert (ours - expected).norm() < 0.02 * expected.norm()


@pytest.mark.usefixtures("on_codes")
def test_only_the_output_of_attention_and_the_gradient_of_down_are_read_to_be_quantized(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two layers; unfused, every input and every gradient is."""
    calls: list[bool] = []
    real = packed_weight.quantize_codes

    def counting(x: Tensor, column_scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
        calls.append(column_scale is not None)
        return real(x, column_scale)

    monkeypatch.setattr(packed_weight, "quantize_codes", counting)
    counts = []
    for model, _ in pair("llama"):
        loss_of(model).backward()
        counts.append((calls.count(False), calls.count(True)))
        calls.clear()
    assert counts == [(2 * 1, 2 * 1), (2 * 4, 2 * 4)]


@pytest.mark.usefixtures("on_codes")
@pytest.mark.parametrize("name", NAMES)
def test_generation_with_a_cache_says_the_same(name: str) -> None:
    input_ids = torch.randint(3, 97, (2, 7), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(input_ids)
    ours, expected = (
        model.generate(input_ids, attention_mask=mask, generation_config=EIGHT_TOKENS)
        for model, _ in pair(name)
    )
    assert ours.shape == (2, 15)
    assert torch.equal(ours, expected)


@pytest.mark.usefixtures("on_codes")
@pytest.mark.parametrize("before_melding", [True, False])
def test_activation_checkpointing_holds_whenever_it_was_asked_for(before_melding: bool) -> None:
    losses = []
    grads = []
    sizes = []
    for checkpointing in (False, True):
        model = tiny_model("llama", **ALIGNED)
        if checkpointing and before_melding:
            checkpoint_activations(model)
        layers = melded(model)
        if checkpointing and not before_melding:
            checkpoint_activations(model)
        assert isinstance(model.model.layers[0], FusedDecoderLayer)
        with saved_tensors() as saved:
            loss = loss_of(model)
        loss.backward()
        losses.append(loss.detach())
        grads.append([layer.delta.grad for layer in layers.values()])
        sizes.append(num_bytes(saved))
    assert torch.equal(*losses)
    assert all(torch.equal(grad, other) for grad, other in zip(*grads, strict=True))
    assert sizes[1] < sizes[0] / 2


@pytest.mark.usefixtures("on_codes")
def test_names_stay() -> None:
    (fused, _), (plain, _) = pair("qwen2")
    assert list(fused.state_dict()) == list(plain.state_dict())


def test_a_model_on_a_cpu_is_never_fused() -> None:
    model = tiny_model("llama", **ALIGNED)
    melded(model)
    assert {type(layer).__name__ for layer in model.model.layers} == {"LlamaDecoderLayer"}


def test_codes_that_are_dequantized_are_not_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        linear,
        "new_packed_weight",
        lambda sizes, rank, like, *_: Fp8Weight(sizes, like.shape[1], rank, like.device, fp8=False),
    )
    model = tiny_model("llama", **ALIGNED)
    melded(model)
    assert {type(layer).__name__ for layer in model.model.layers} == {"LlamaDecoderLayer"}


@pytest.mark.usefixtures("on_codes")
@pytest.mark.parametrize(
    "target_modules",
    [("q_proj", "k_proj", "v_proj"), ("q_proj", "k_proj", "gate_proj", "up_proj", "down_proj")],
)
def test_layers_that_are_melded_in_part_are_not_fused(target_modules: tuple[str, ...]) -> None:
    model = tiny_model("llama", **ALIGNED)
    swap_blocks(model)
    convert_to_melded(
        model,
        Recipe(rank=RANK, a_init="orthonormal", target_modules=target_modules).resolved(10),
        Anchored(),
    )
    assert {type(layer).__name__ for layer in model.model.layers} == {"LlamaDecoderLayer"}


@pytest.mark.usefixtures("on_codes")
@pytest.mark.parametrize("kernel", FUSING_OPERATORS, ids=lambda kernel: kernel.name)
def test_a_layer_is_not_fused_where_a_kernel_that_fuses_is_wrong(
    kernel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(first: Tensor, *rest: object) -> object:
        return kernel.oracle(first.flip(0), *rest)

    monkeypatch.setitem(kernel.kernels, KERNEL_DEVICE, broken)
    model = tiny_model("llama", **ALIGNED, num_hidden_layers=1).to(KERNEL_DEVICE)
    melded(model)
    assert not isinstance(model.model.layers[0], FusedDecoderLayer)


@pytest.mark.usefixtures("on_codes")
def test_an_mlp_with_biases_and_blocks_that_are_not_ours_are_not_fused() -> None:
    with_biases = tiny_model("llama with biases", **ALIGNED)
    not_swapped = tiny_model("llama", **ALIGNED)
    swap_blocks(with_biases)
    for model in (with_biases, not_swapped):
        convert_to_melded(model, RECIPE, Anchored())
        assert {type(layer).__name__ for layer in model.model.layers} == {"LlamaDecoderLayer"}
