from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from falqon_core.contract.config import Recipe
from falqon_core.contract.messages import Evaluated, Sampled, StepMetrics, TrainerMessage
from falqon_core.data.dataset import load_dataset
from falqon_core.data.sequences import TokenSequence
from falqon_core.generate import generate
from falqon_core.methods.falqon import Falqon
from falqon_core.train.model import load_base_model, load_tokenizer
from falqon_core.train.samples import MAX_CHARACTERS, complete
from tests.falqon_core.train import trainings
from tests.falqon_core.train.trainings import config_of


def test_greedy_output_is_that_of_transformers_own_attention(
    tiny_folder: Path, train_file: Path
) -> None:
    tokenizer = load_tokenizer(tiny_folder)
    ours = load_base_model(tiny_folder).float()
    eager = AutoModelForCausalLM.from_pretrained(
        tiny_folder, dtype=torch.float32, attn_implementation="eager"
    )
    for sequence in load_dataset(train_file, tokenizer, 64).sequences[:4]:
        prompt = sequence.input_ids[:20]
        config = GenerationConfig(
            max_new_tokens=24, do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=0
        )
        ids = torch.from_numpy(prompt.astype(np.int64))[None]
        expected = eager.generate(
            ids, attention_mask=torch.ones_like(ids), generation_config=config
        )[0, len(prompt) :]
        assert len(expected) > 1
        assert generate(ours, prompt, 24, tokenizer.eos_token_id).tolist() == expected.tolist()


def test_a_melded_model_completes_the_same_with_and_without_its_cache(
    tiny_folder: Path, train_file: Path
) -> None:
    tokenizer = load_tokenizer(tiny_folder)
    model = load_base_model(tiny_folder)
    method = Falqon(Recipe(rank=8, a_init="orthonormal").resolved(10))
    method.prepare(model, [])
    prompt = load_dataset(train_file, tokenizer, 64).sequences[0].input_ids[:12]
    completed = generate(model, prompt, 8, None)
    assert len(completed) == 8
    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    for token in completed:
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits[0, -1]
        # bf16: two orders of addition
        assert logits[token] >= logits.max() - 0.02 * logits.abs().max()
        ids = torch.cat([ids, torch.tensor([[int(token)]])], 1)


def test_texts_are_the_records_and_bounded(tiny_folder: Path) -> None:
    tokenizer = load_tokenizer(tiny_folder)
    model = load_base_model(tiny_folder)
    words = tokenizer("lamps and bells ", add_special_tokens=False)["input_ids"]
    ids = np.array(words * 400, dtype=np.int32)[: model.config.max_position_embeddings - 3]
    mask = np.zeros(len(ids), dtype=bool)
    mask[2 * len(words) : 4 * len(words)] = True
    mask[-2:] = True
    (sample,) = complete(model, tokenizer, [TokenSequence(ids, mask)], 2, 3)
    assert sample.prompt == "lamps and bells " * 2
    assert sample.expected == "lamps and bells " * 2
    assert len(sample.completion) <= MAX_CHARACTERS
    mask[:-1] = False
    (long,) = complete(model, tokenizer, [TokenSequence(ids, mask)], 1, 512)
    assert len(long.prompt) <= MAX_CHARACTERS
    assert generate(model, ids, 512, None).size <= 3, "it ends where the model's positions end"


def train(tiny_folder: Path, train_file: Path, output: Path, **recipe: Any) -> list[TrainerMessage]:
    common = {
        "rank": 8,
        "max_seq_length": 64,
        "batch_size": 8,
        "max_steps": 6,
        "validation_fraction": 0.1,
        "eval_every": 3,
    }
    _, messages = trainings.train(config_of(tiny_folder, train_file, common | recipe), output)
    return messages


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_samples_come_with_evaluations_and_do_not_disturb(
    activation_checkpointing: bool, tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    with_samples, without = (
        train(
            tiny_folder, train_file, tmp_path / str(count), num_samples=count, sample_tokens=5,
            activation_checkpointing=activation_checkpointing,
        )
        for count in (2, 0)
    )  # fmt: skip
    sampled = [message for message in with_samples if isinstance(message, Sampled)]
    assert (
        [message.step for message in sampled]
        == [message.step for message in with_samples if isinstance(message, Evaluated)]
        == [3, 6]
    )
    for message in sampled:
        assert len(message.samples) == 2
        assert all("Question" in sample.prompt and sample.expected for sample in message.samples)
    assert not any(isinstance(message, Sampled) for message in without)
    losses = [
        [
            (message.train_loss, message.grad_norm)
            for message in all_
            if isinstance(message, StepMetrics)
        ]
        for all_ in (with_samples, without)
    ]
    assert losses[0] == losses[1]
    for name in ("method.safetensors", "optimizer.safetensors"):
        assert (tmp_path / "2/checkpoints/6" / name).read_bytes() == (
            tmp_path / "0/checkpoints/6" / name
        ).read_bytes()


def test_a_long_epoch_has_evaluations_within_and_samples_at_its_end(
    tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    recipe = {
        "batch_size": 4, "num_epochs": 2, "max_steps": None, "eval_every": None,
        "checkpoint_every": 3, "validation_fraction": 0.04, "num_samples": 1, "sample_tokens": 2,
    }  # fmt: skip
    messages = train(tiny_folder, train_file, tmp_path / "out", **recipe)
    evaluated, sampled = (
        [each.step for each in trainings.of(kind, messages)] for kind in (Evaluated, Sampled)
    )
    assert (evaluated, sampled) == ([6, 12, 16], [12, 16]), "epochs end at 8 and 16"
