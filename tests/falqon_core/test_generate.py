from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import GenerationConfig, PreTrainedModel

from falqon_core.generate import generate
from falqon_core.train.model import load_base_model

PROMPT = np.arange(3, 23)


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> PreTrainedModel:
    return load_base_model(tiny_folder)


@pytest.mark.parametrize(
    "own",
    [
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 1},
        {"num_beams": 3},
        {"cache_implementation": "static"},
        {"stop_strings": ["a"]},
        {"eos_token_id": ["x", None]},
        {"do_sample": True, "temperature": 9.0},
    ],
)
def test_a_models_own_way_to_generate_changes_no_token(
    model: PreTrainedModel, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "generation_config", GenerationConfig())
    expected = generate(model, PROMPT, 16, None)
    assert len(expected) > len(set(expected.tolist())), "it repeats itself"
    config = GenerationConfig(**own)
    monkeypatch.setattr(model, "generation_config", config)

    assert generate(model, PROMPT, 16, None).tolist() == expected.tolist()

    assert model.generation_config is config, "the model is exported with what it came with"


def test_generation_ends_at_the_models_end_token(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "generation_config", GenerationConfig())
    answer = generate(model, PROMPT, 16, None).tolist()
    monkeypatch.setattr(model, "generation_config", GenerationConfig(eos_token_id=[answer[2], 1]))
    assert generate(model, PROMPT, 16, None).tolist() == answer[: answer.index(answer[2]) + 1]
