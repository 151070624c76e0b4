"""Layout of a training's output folder; trainer and supervisor both read it here.

OUTPUT/checkpoints/<step>/   complete checkpoints, each with manifest.json: bytes and sha256 of the
                             rest
OUTPUT/model/                the merged FP8 checkpoint, there only when the training has ended
"""

from pathlib import Path

MANIFEST = "manifest.json"
SHA256SUMS = "SHA256SUMS"


def model_folder(output: Path) -> Path:
    return output / "model"


def checkpoint_folder(output: Path, step: int) -> Path:
    return output / "checkpoints" / str(step)


def checkpoint_folders(output: Path) -> list[Path]:
    """Return the folders of all steps, newest first."""
    folders = (
        path
        for path in (output / "checkpoints").glob("*")
        if path.name.isdecimal() and path.is_dir()
    )
    return sorted(folders, key=lambda path: int(path.name), reverse=True)
