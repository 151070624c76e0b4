import math

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.data.loader import Microbatch, microbatches
from falqon_core.data.sequences import Pair, TokenSequence
from falqon_core.methods.falqon import Falqon
from falqon_core.objectives import mean_figures
from falqon_core.objectives.dpo import Dpo
from falqon_core.objectives.loss import sequence_log_probabilities
from falqon_core.ops import cross_entropy
from tests.falqon_core.meld.models import tiny_model

LENGTHS = ((9, 14), (5, 4), (12, 7))
PROMPT = 3


def half(length: int, generator: torch.Generator) -> TokenSequence:
    ids = torch.randint(3, 97, (length,), generator=generator).to(torch.int32).numpy()
    return TokenSequence(ids, (torch.arange(length) >= PROMPT).numpy())


def pairs(reference: bool = True) -> list[Pair]:
    generator = torch.Generator().manual_seed(0)
    sequences = [
        Pair(half(chosen, generator), half(rejected, generator)) for chosen, rejected in LENGTHS
    ]
    references = (
        (torch.randn(len(sequences), 2, generator=generator, dtype=torch.float64) - 30)
        .float()
        .tolist()
    )
    return [
        Pair(pair.chosen, pair.rejected, (c, r) if reference else None)
        for pair, (c, r) in zip(sequences, references, strict=True)
    ]


def whole(packing: bool) -> Microbatch:
    (microbatch,) = microbatches(pairs(), 128, packing)
    return microbatch


def direct_log_probability(model: PreTrainedModel, sequence: TokenSequence) -> Tensor:
    """Of one answer, from all logits of a model in fp64."""
    ids = torch.from_numpy(sequence.input_ids.astype("int64"))[None]
    log_probabilities = model(ids).logits[0].log_softmax(-1)
    return sum(
        (log_probabilities[at - 1, ids[0, at]] for at in range(PROMPT, ids.shape[1])),
        torch.zeros((), dtype=torch.float64),
    )


@pytest.mark.parametrize("packing", [True, False])
def test_loss_figures_and_gradient_are_those_of_the_formula_in_fp64(
    packing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", 97 * 5)  # five positions at a time
    model = tiny_model("llama", torch.float32)
    plain = tiny_model("llama", torch.float32, "eager").double()
    model.get_output_embeddings().requires_grad_(False)
    beta = 0.3

    summed, figures = Dpo(beta).loss(model, whole(packing))
    summed.backward()

    margins = []
    for pair in pairs():
        assert pair.reference is not None
        chosen, rejected = (
            direct_log_probability(plain, answer) for answer in (pair.chosen, pair.rejected)
        )
        margins.append(beta * ((chosen - pair.reference[0]) - (rejected - pair.reference[1])))
    expected = sum(-torch.log(torch.sigmoid(margin)) for margin in margins)
    expected.backward()

    assert summed.item() == pytest.approx(expected.item(), rel=1e-4)
    assert figures["loss"] == summed.item()
    assert figures["reward_accuracy"] == sum(margin.item() > 0 for margin in margins)
    assert figures["reward_margin"] == pytest.approx(
        sum(margin.item() for margin in margins), rel=1e-3, abs=1e-4
    )
    for (name, parameter), other in zip(
        model.base_model.named_parameters(), plain.base_model.parameters(), strict=True
    ):
        assert parameter.grad is not None
        torch.testing.assert_close(
            parameter.grad.double(),
            other.grad,
            rtol=1e-3,
            atol=1e-4,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize("packing", [True, False])
def test_halves_that_move_alike_give_log_two(packing: bool) -> None:
    model = tiny_model("smollm")
    log_probabilities = [
        sequence_log_probabilities(model, microbatch).view(-1, 2)
        for microbatch in microbatches(pairs(reference=False), 128, packing)
    ]
    same = [Pair(pair.chosen, pair.chosen, (-5.0, -5.0)) for pair in pairs()]

    (microbatch,) = microbatches(same, 128, packing)
    summed, figures = Dpo(0.1).loss(model, microbatch)

    assert torch.isfinite(torch.cat(log_probabilities)).all()
    assert summed.item() == pytest.approx(3 * math.log(2), rel=1e-3)
    assert figures["reward_margin"] == pytest.approx(0, abs=0.01)


def test_packed_padded_and_cut_up_give_the_same_figures() -> None:
    model = tiny_model("qwen3", torch.float32)
    objective = Dpo(0.1)
    results = []
    for packing, tokens in ((True, 128), (False, 128), (True, 24), (False, 28)):
        batches = microbatches(pairs(), tokens, packing)
        results.append(
            mean_figures(
                objective, [objective.loss(model, microbatch)[1] for microbatch in batches], 3
            )
        )
    assert len(microbatches(pairs(), 24, True)) > 1
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("simulate_fp8", [False, True])
def test_the_melded_model_begins_at_its_reference_up_to_fp8_rounding(simulate_fp8: bool) -> None:
    recipe = Recipe(
        rank=8, objective="dpo", a_init="orthonormal", simulate_fp8=simulate_fp8
    ).resolved(3)
    model = tiny_model("llama")
    (bare,) = microbatches(pairs(reference=False), 128, True)
    with torch.no_grad():
        reference = sequence_log_probabilities(model, bare)
        Falqon(recipe).prepare(model, [])
        begun = sequence_log_probabilities(model, bare)

    assert not torch.equal(reference, begun)
    torch.testing.assert_close(begun, reference, rtol=0.01, atol=0.1)


def test_the_directions_of_the_gradient_come_from_the_preferences() -> None:
    recipe = Recipe(rank=4, objective="dpo", a_init="gradient").resolved(3)
    method = Falqon(recipe)
    supervised = Falqon(Recipe(rank=4, a_init="gradient").resolved(3))
    method.prepare(tiny_model("llama"), [whole(packing=True)])
    supervised.prepare(tiny_model("llama"), [whole(packing=True)])

    name = "model.layers.0.mlp.up_proj"
    assert not torch.equal(method.layers[name].a, supervised.layers[name].a)
