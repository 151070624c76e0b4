"""The fingerprint of a base model, by which a checkpoint is told from one of another base: what is
learned is stored as a difference, and would fit any model of the same shapes.

It is cheap, and not a proof: a few bytes of every tensor stand for all of it. A base that was
merged here has none: a worker may have to merge it again, where another kind of CPU rounds a code
or two otherwise, and a good training must not end by that.
"""

import hashlib
from pathlib import Path

from falqon_core.contract.errors import ModelError
from falqon_core.contract.model_folder import read_config, weight_files
from falqon_core.contract.weights import UnsoundWeights, sample_tensors
from falqon_core.export.reading import is_ours
from falqon_core.train.checkpoint import Progress


def fingerprint_base(folder: Path) -> str | None:
    """Return the fingerprint of the folder's weights: the same for a copy, and for the same tensors
    in other files; None for a model that was merged here. Raises `ModelError` where they cannot be
    read.
    """
    if is_ours(read_config(folder)):
        return None
    samples: dict[str, bytes] = {}
    for path in weight_files(folder):
        try:
            samples |= sample_tensors(path)
        except UnsoundWeights as error:
            raise ModelError(str(error)) from None
    digest = hashlib.sha256()
    for name, sample in sorted(samples.items()):
        digest.update(f"{name} {len(sample)}\n".encode())
        digest.update(sample)
    return digest.hexdigest()


def is_other_base(before: Progress, fingerprint: str | None) -> bool:
    """Return True where `before` is known to be of another base: it may have no fingerprint."""
    return before.base_fingerprint not in (None, fingerprint)


def check_base(progress: Progress, folder: Path) -> None:
    """Raise `ModelError` unless the checkpoint of `progress` is of the base model in `folder`."""
    if is_other_base(progress, fingerprint_base(folder)):
        raise ModelError(
            f"checkpoint {progress.step} was trained from another base model than {folder.name}"
        )
