"""Everything in this folder needs an FP8 GPU. Elsewhere it is collected and skipped, and pytest
says why.
"""

from pathlib import Path

import pytest
import torch

from tests.falqon_core.conftest import tiny_folder, train_file  # noqa: F401
from tests.falqon_core.train.conftest import _one_thread  # noqa: F401

MISSING = None
if not torch.cuda.is_available():
    MISSING = (
        f"needs a GPU with FP8: torch {torch.__version__} sees no CUDA device here; run `make "
        "gpu` where there is one"
    )
elif torch.cuda.get_device_capability() < (8, 9):
    MISSING = (
        f"needs a GPU with FP8 (compute capability 8.9 or later): {torch.cuda.get_device_name()} "
        "has none"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if MISSING is not None:
                item.add_marker(pytest.mark.skip(reason=MISSING))
