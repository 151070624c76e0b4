from pathlib import Path

import pytest
import torch

from tests.falqon_core.conftest import WORDS
from tests.falqon_core.train.preferences import write_preferences
from tests.falqon_core.train.trainings import resize


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def deep_folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A tiny model of five layers, with sizes that are multiples of little."""
    sizes = {"hidden_size": 66, "intermediate_size": 190, "head_dim": 32}
    return resize(tiny_folder, tmp_path_factory.mktemp("deep") / "model", 5, **sizes)


@pytest.fixture(scope="module")
def preference_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pairs: words in their order are preferred to words backwards."""
    records = []
    for number in range(30):
        words = [WORDS[(number + step) % len(WORDS)] for step in range(4 + number % 9)]
        records.append(
            (
                [{"role": "user", "content": f"Question {number}?"}],
                " ".join(words),
                " ".join(words[::-1]),
            )
        )
    return write_preferences(tmp_path_factory.mktemp("preferences") / "train.jsonl", records)
