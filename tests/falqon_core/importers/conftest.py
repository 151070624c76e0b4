from pathlib import Path

import pytest

from falqon_core.importers.tiny import build_tiny


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    build_tiny(folder)
    return folder
