"""Check of the files of a model that a worker with a token has stored, by the rules for imported
models.

These are the checks that need no torch: names, first bytes, JSON by its size and its keys, chat
templates by their length, the architecture by its config. The headers of weights are read again
before each load, and templates are rendered with limits.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from app.base.errors import InvalidRequest
from app.base.storage import Storage
from app.models.base import JsonObject
from falqon_core.contract.errors import ModelError
from falqon_core.contract.model_folder import (
    VOCABULARIES,
    check_architecture,
    check_model_files,
    read_config,
    read_json,
)
from falqon_core.estimate.dimensions import ModelDimensions

MAX_TEXT_BYTES = 4 * 2**20  # bytes per file that is read whole
MAX_TEXTS_BYTES = 32 * 2**20  # bytes of all such files
FIRST_BYTES = 8  # enough to recognise an executable and a pickle
TEXT_SUFFIXES = {".json", ".jinja"}


def check_and_read_config(storage: Storage, prefix: str, sizes: Mapping[str, int]) -> JsonObject:
    """Return the config.json of a model. `sizes`: of its files, by name. Raises `InvalidRequest`
    for files that an import refuses.
    """
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            _copy(storage, prefix, sizes, folder)
            for path in folder.rglob("*.json"):
                if path.name not in VOCABULARIES:
                    read_json(path)
            check_model_files(folder)
            config = read_config(folder)
            check_architecture(config)
            ModelDimensions.from_config(config)
        except (ModelError, ValidationError) as error:
            raise InvalidRequest(f"files: {error}", param="files", code="model_refused") from error
    return config


def _copy(storage: Storage, prefix: str, sizes: Mapping[str, int], folder: Path) -> None:
    """Copy the files that are read whole, and the first bytes of the others."""
    left = MAX_TEXTS_BYTES
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        is_text = path.suffix.lower() in TEXT_SUFFIXES and path.name not in VOCABULARIES
        if is_text and size > MAX_TEXT_BYTES:
            raise ModelError(f"{name} is larger than {MAX_TEXT_BYTES >> 20} MiB", "model")
        left -= size if is_text else 0
        if left < 0:
            raise ModelError(
                f"its JSON files and templates are larger than {MAX_TEXTS_BYTES >> 20} MiB", "model"
            )
        end = size if is_text else min(size, FIRST_BYTES)
        if path.suffix.lower() == ".safetensors":  # the first bytes of this format are a number
            end = 0
        path.write_bytes(b"".join(storage.chunks(f"{prefix}/{name}", (0, end))) if end else b"")
