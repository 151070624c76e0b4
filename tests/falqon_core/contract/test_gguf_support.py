"""Models that the workers' own engine answers for, by their config.json."""

from typing import Any

import pytest

from falqon_core.contract.gguf_support import engine_note

MISTRAL = {"model_type": "mistral", "sliding_window": 4096}


@pytest.mark.parametrize(
    ("config", "has_note"),
    [
        ({"model_type": "qwen3"}, False),
        (MISTRAL, True),
        (MISTRAL | {"max_position_embeddings": 4097}, True),
        (MISTRAL | {"max_position_embeddings": 4096}, False),
        (MISTRAL | {"max_position_embeddings": 2048}, False),
        (MISTRAL | {"sliding_window": None}, False),
        (MISTRAL | {"model_type": "qwen2", "max_position_embeddings": 8192}, False),
        (
            MISTRAL
            | {"model_type": "qwen2", "use_sliding_window": True, "max_position_embeddings": 8192},
            True,
        ),
        (
            MISTRAL
            | {"model_type": "qwen2", "use_sliding_window": True, "max_position_embeddings": 2048},
            False,
        ),
    ],
)
def test_a_window_counts_where_it_is_shorter_than_the_context(
    config: dict[str, Any], has_note: bool
) -> None:
    assert (engine_note(config) is not None) == has_note


def test_a_note_is_whole_sentences_without_advice_for_exports() -> None:
    assert engine_note({"model_type": "olmo2"}) == (
        "llama.cpp, the workers' own engine, does not load this model: there is no GGUF for the "
        "architecture 'olmo2'. vLLM on the worker, or a server at "
        "FALQON_ENGINE_URL, may; docs/engines.md says how."
    )
