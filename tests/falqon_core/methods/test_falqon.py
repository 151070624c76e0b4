from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.data.loader import Microbatch, microbatches
from falqon_core.data.sequences import TokenSequence
from falqon_core.meld import linear
from falqon_core.methods import TrainingMethod
from falqon_core.methods.falqon import A_FULL_STEPS, A_RELATIVE_RATE, Falqon, a_relative_rate
from falqon_core.objectives.loss import microbatch_loss
from falqon_core.ops import attention
from tests.falqon_core.meld.models import ALIGNED, SIZES, fp8_weight, tiny_model

RULES = [
    {"update_rule": "anchored"},
    {"update_rule": "topk"},
    {"base_copy": "int8"},
    {"base_copy": "none"},
    {"train_a": True},
]


def batch(packing: bool, seed: int = 0) -> list[Microbatch]:
    generator = torch.Generator().manual_seed(seed)
    sequences = []
    for length in (9, 14, 5):
        ids = torch.randint(3, 97, (length,), generator=generator).to(torch.int32).numpy()
        mask = (torch.arange(length) > 2).numpy()
        sequences.append(TokenSequence(ids, mask))
    return microbatches(sequences, 64, packing)


def train(
    model: PreTrainedModel, method: TrainingMethod, num_steps: int, lr: float
) -> tuple[list[float], list[float]]:
    """Return the loss of each step, and the share of the codes that it changed."""
    optimizer = torch.optim.AdamW(method.parameters().values(), lr=lr)
    losses, shares = [], []
    for _ in range(num_steps):
        (microbatch,) = batch(packing=True)
        loss = microbatch_loss(model, microbatch)[0] / microbatch.num_labels
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        shares.append(method.after_step())
        losses.append(loss.item())
    return losses, shares


@pytest.mark.parametrize("name", ["smollm", "mistral", "qwen2", "qwen3"])
def test_the_loss_is_transformers_own_packed_or_padded(name: str) -> None:
    model = tiny_model(name, torch.float32)
    plain = tiny_model(name, torch.float32, "eager")
    (padded,) = batch(packing=False)
    labels = torch.full_like(padded.labels, -100)
    labels[:, 1:] = padded.labels[:, :-1]
    expected = plain(padded.input_ids, attention_mask=padded.attention_mask, labels=labels).loss
    for microbatch in (padded, *batch(packing=True)):
        loss, num_correct = microbatch_loss(model, microbatch)
        torch.testing.assert_close(loss / microbatch.num_labels, expected, rtol=1e-4, atol=1e-4)
        assert 0 <= num_correct <= microbatch.num_labels


def test_filling_a_row_changes_neither_loss_nor_counts() -> None:
    model = tiny_model("smollm", torch.float32)
    (plain,) = batch(packing=True)
    sequences = [
        TokenSequence(
            plain.input_ids[0, start:end].to(torch.int32).numpy(),
            (torch.arange(end - start) > 2).numpy(),
        )
        for start, end in pairwise(plain.cu_seqlens.tolist())
    ]
    (filled,) = microbatches(sequences, 64, True, multiple_of=64)
    assert filled.input_ids.shape == (1, 64)
    expected = microbatch_loss(model, plain)
    result = microbatch_loss(model, filled)
    torch.testing.assert_close(result[0], expected[0])
    assert result[1] == expected[1]


@pytest.mark.parametrize("a_init", ["orthonormal", "quant_error", "gradient"])
@pytest.mark.parametrize("rule", RULES)
def test_a_restored_method_is_the_same_method(rule: dict[str, object], a_init: str) -> None:
    recipe = Recipe.model_validate({"rank": 8, "a_init": a_init} | rule).resolved(10)
    model = tiny_model("smollm")
    method = Falqon(recipe)
    method.prepare(model, batch(packing=True))
    for parameter in method.parameters().values():
        parameter.data.normal_(std=0.1)
    method.after_step()

    other_model = tiny_model("smollm")
    other = Falqon(recipe)
    other.restore(other_model, {name: value.clone() for name, value in method.state().items()})
    for name, layer in method.layers.items():
        assert torch.equal(layer.weight, other.layers[name].weight)
        assert torch.equal(layer.a, other.layers[name].a)
    assert all(
        torch.equal(a, b)
        for a, b in zip(method.parameters().values(), other.parameters().values(), strict=True)
    )
    (microbatch,) = batch(packing=True)
    assert torch.equal(
        microbatch_loss(model, microbatch)[0], microbatch_loss(other_model, microbatch)[0]
    )


def test_what_was_trained_with_a_frozen_a_goes_on_with_one_that_trains() -> None:
    recipe = Recipe(rank=8, a_init="orthonormal", train_a=False).resolved(10)
    method = Falqon(recipe)
    method.prepare(tiny_model("smollm"), [])
    other = Falqon(recipe.model_copy(update={"train_a": None}))
    other.restore(tiny_model("smollm"), method.state())
    masters = [layer.a_master for layer in other.layers.values() if layer.a_master is not None]
    assert len(masters) == 12
    for name, layer in other.layers.items():
        assert torch.equal(layer.weight, method.layers[name].weight)
        assert layer.a_master is None or torch.equal(layer.a_master, layer.a.float())


def test_the_directions_of_the_gradient_come_from_the_data() -> None:
    recipe = Recipe(rank=4, a_init="gradient").resolved(10)
    factors = []
    for seed in (0, 0, 1):
        method = Falqon(recipe)
        method.prepare(tiny_model("llama"), batch(packing=True, seed=seed))
        factors.append(method.layers["model.layers.0.mlp.up_proj"].a)
    assert torch.equal(factors[0], factors[1])
    assert not torch.equal(factors[0], factors[2])


@pytest.mark.parametrize("a_init", ["gradient", "orthonormal"])
def test_an_a_along_the_gradient_is_moved_at_a_rate_of_its_own(a_init: str) -> None:
    recipe = Recipe.model_validate({"rank": 8, "a_init": a_init}).resolved(10)
    method = Falqon(recipe)
    method.prepare(tiny_model("llama"), batch(packing=True))
    masters = [f"{name}.a_master" for name in method.layers if "down_proj" not in name]
    rates = dict.fromkeys(masters, a_relative_rate) if a_init == "gradient" else {}
    assert method.relative_rates() == rates


def test_the_rate_of_a_falls_to_that_of_b() -> None:
    factors = [a_relative_rate(step) for step in range(1000)]
    assert factors == sorted(factors, reverse=True)
    assert factors[0] == factors[A_FULL_STEPS - 1] == A_RELATIVE_RATE
    assert factors[2 * A_FULL_STEPS - 1] == A_RELATIVE_RATE / 4
    assert factors[-1] == 1


@pytest.mark.parametrize("update_rule", ["anchored", "topk"])
def test_it_tells_the_share_of_codes_that_a_step_changed(update_rule: str) -> None:
    recipe = Recipe.model_validate(
        {"rank": 8, "update_rule": update_rule, "a_init": "orthonormal"}
    ).resolved(10)
    method = Falqon(recipe)
    method.prepare(tiny_model("smollm"), [])
    assert method.after_step() == 0.0
    before = {
        name: layer.quantized_weight()[0].float() * layer.quantized_weight()[1]
        for name, layer in method.layers.items()
    }
    for parameter in method.parameters().values():
        parameter.data.normal_(std=0.05)
    share = method.after_step()
    pairs = [
        (before[name], layer.quantized_weight()[0].float() * layer.quantized_weight()[1])
        for name, layer in method.layers.items()
    ]
    changed = sum(int((old != new).sum()) for old, new in pairs)
    assert share == changed / sum(old.numel() for old, _ in pairs) > 0


@pytest.mark.parametrize("rule", RULES)
def test_training_lowers_the_loss(rule: dict[str, object]) -> None:
    recipe = Recipe.model_validate({"rank": 16, "a_init": "orthonormal"} | rule).resolved(10)
    model = tiny_model("smollm")
    method = Falqon(recipe)
    method.prepare(model, [])
    losses, _ = train(model, method, 25, lr=0.03)
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("update_rule", ["anchored", "topk"])
def test_a_model_on_codes_trains_as_its_simulation_on_the_cpu(
    update_rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of an FP8 GPU through a whole model, with the operators' oracles in the place of its
    kernels.
    """

    recipe = Recipe.model_validate(
        {"rank": 8, "update_rule": update_rule, "a_init": "orthonormal", "simulate_fp8": True}
    ).resolved(10)
    config = LlamaConfig(**SIZES | ALIGNED)
    losses: list[list[float]] = []
    for codes in (False, True):
        if codes:
            monkeypatch.setattr(linear, "new_packed_weight", fp8_weight)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=attention.ATTENTION_NAME
        ).eval()
        method = Falqon(recipe)
        method.prepare(model, [])
        of_model, shares = train(model, method, 12, lr=0.02)
        losses.append(of_model)
        assert all(0 < share < 1 for share in shares)
    values, on_codes = losses
    assert on_codes[0] == pytest.approx(values[0], rel=1e-3)
    assert on_codes == pytest.approx(values, rel=0.03)
    assert on_codes[-1] < on_codes[0] - 0.1
