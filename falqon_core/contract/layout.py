"""Where a training keeps what in its output folder; trainer and supervisor both read it here.

OUTPUT/checkpoints/<step>/   complete checkpoints, each with manifest.json (bytes and sha256 of its other files)
OUTPUT/model/                the merged FP8 checkpoint, there only when the training has ended
"""

from pathlib import Path

MANIFEST = "manifest.json"


def model_folder(output: Path) -> Path:
    return output / "model"


def checkpoint_folder(output: Path, step: int) -> Path:
    return output / "checkpoints" / str(step)


def checkpoint_folders(output: Path) -> list[Path]:
    """Newest first."""
    found = (path for path in (output / "checkpoints").glob("*") if path.name.isdecimal() and path.is_dir())
    return sorted(found, key=lambda path: int(path.name), reverse=True)
