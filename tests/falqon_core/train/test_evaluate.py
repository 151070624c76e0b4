import json
import shutil
import weakref
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from falqon_core.contract.config import Recipe, TrainConfig
from falqon_core.contract.errors import LossNotFinite
from falqon_core.contract.messages import Started, TrainerMessage
from falqon_core.data.microbatch import Microbatch, microbatches, plan_microbatches
from falqon_core.data.sequences import TokenSequence
from falqon_core.importers.tokenizer import load_tokenizer
from falqon_core.objectives.supervised import Supervised
from falqon_core.train.evaluate import evaluate
from falqon_core.train.trainer import Trainer


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A model that knows no finite state for 'Z', and does not make its head of its embeddings."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    embeddings = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = embeddings.clone()
    embeddings[load_tokenizer(folder).convert_tokens_to_ids("Z")] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_validation_loss_that_is_not_finite_ends_the_training_before_its_first_step(
    folder: Path, train_file: Path, tmp_path: Path
) -> None:
    validation_file = tmp_path / "validation.jsonl"
    validation_file.write_text(json.dumps({"text": "Z is for zebra."}) + "\n")
    recipe = Recipe(rank=8, max_seq_length=64, max_steps=2, eval_every=1)
    config = TrainConfig(
        model=folder,
        train_file=train_file,
        validation_file=validation_file,
        recipe=recipe,
        device="cpu",
    )
    messages: list[TrainerMessage] = []
    training = Trainer(config, tmp_path / "output", messages.append, lambda: False)

    with pytest.raises(LossNotFinite, match="before any training") as caught:
        training.run()
    assert caught.value.param == "model"
    assert not any(isinstance(each, Started) for each in messages)


def test_a_validation_loss_that_training_makes_infinite_is_the_learning_rates() -> None:
    class Infinite(Supervised):
        def loss(
            self, model: PreTrainedModel, microbatch: Microbatch
        ) -> tuple[Tensor, dict[str, Tensor]]:
            loss = torch.tensor(torch.nan)
            return loss, {"loss": loss, "mean_token_accuracy": loss}

    sequence = TokenSequence(np.arange(4, dtype=np.int32), np.ones(4, dtype=bool))
    with pytest.raises(LossNotFinite, match=r"validation loss \(nan\)") as caught:
        evaluate(cast("PreTrainedModel", None), plan_microbatches([sequence], 10, True), Infinite())
    assert caught.value.param == "learning_rate"


@pytest.mark.parametrize("packing", [True, False])
def test_one_forward_pass_is_held_at_a_time(packing: bool) -> None:
    """And it is counted as its tensors would be."""
    masks = [np.arange(size) % 3 == 1 for size in (5, 2, 9, 7, 1)]
    sequences = [TokenSequence(np.arange(len(mask), dtype=np.int32), mask) for mask in masks]
    plan = plan_microbatches(sequences, 10, packing)
    whole = microbatches(sequences, 10, packing)
    assert len(plan.groups) == len(whole) > 1
    input_ids: list[weakref.ref[Tensor]] = []

    class Counting(Supervised):
        def loss(
            self, model: PreTrainedModel, microbatch: Microbatch
        ) -> tuple[Tensor, dict[str, Tensor]]:
            assert not any(reference() is not None for reference in input_ids)
            input_ids.append(weakref.ref(microbatch.input_ids))
            labels = torch.tensor(float(microbatch.num_labels))
            return labels, {"loss": labels * 2, "mean_token_accuracy": labels}

    means = evaluate(cast("PreTrainedModel", None), plan, Counting())
    assert means == {"loss": 2.0, "mean_token_accuracy": 1.0}
    assert len(input_ids) == sum(batch.num_labels > 0 for batch in whole)
