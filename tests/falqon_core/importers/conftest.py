import shutil
from pathlib import Path

import pytest


@pytest.fixture
def tiny_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "source"))
