"""Take over a Hugging Face model folder, leaving behind everything that is not data.

Only known file names are taken, from the folder itself or from where the Hub's cache keeps its
files, named chat templates from the folder within that transformers has for them, and of weights
those that transformers loads, not a second copy in another layout; what `contract.model_folder`
refuses is refused; weights must be safetensors with sound headers, and config, tokenizer and
weights must fit one another (`soundness`). What is no plain decoder is made one first, if it can be
(`conversion`).
"""

import os
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers.utils import CHAT_TEMPLATE_DIR

from falqon_core.contract.errors import ModelError
from falqon_core.contract.model_folder import (
    INDEX,
    SINGLE_FILE,
    VOCABULARIES,
    check_architecture,
    check_index,
    check_model_folder,
    check_weights,
    chooses_implementation,
    read_json,
    weight_dtypes,
    weight_files,
    weight_shapes,
)
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.files import write_json
from falqon_core.importers.conversion import check_quantization, convert_decoder, decoder_config
from falqon_core.importers.decoder import build_decoder
from falqon_core.importers.soundness import (
    check_dtypes,
    check_generation,
    check_tensors,
    check_tokenizer,
)

MODEL_FILES = (
    "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json",
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "LICENSE*", "NOTICE*",
    "README.md", f"{CHAT_TEMPLATE_DIR}/*.jinja",
)  # fmt: skip
WEIGHTS_SUFFIX = ".safetensors"
# A field of config.json, where transformers as well writes the origin of a model.
ORIGIN_KEY = "_name_or_path"

Transfer = Callable[[Path, Path], object]


def copy_model(source: Path, output: Path) -> list[str]:
    """Copy `source` into the empty folder `output`; return the changes. Raises `ModelError`."""
    return _take(source, output, shutil.copyfile)


def move_model(source: Path, output: Path, origin: str) -> list[str]:
    """Do as `copy_model` does, for a source on the same file system that is not needed any more;
    `origin`: its name on the Hub.
    """
    return _take(source, output, _move, origin)


def _take(source: Path, output: Path, transfer: Transfer, origin: str | None = None) -> list[str]:
    config = check_model_folder(source)
    plain = decoder_config(config)
    check_architecture(plain)
    check_quantization(config)
    dimensions = ModelDimensions.from_config(plain)
    if not (source / "tokenizer.json").is_file():
        raise ModelError("the folder holds no tokenizer.json")
    check_weights(source)
    shapes = weight_shapes(source)
    files = _wanted_files(source)
    for path in files:
        _check_file(path, source)
    files = _without_other_weights(files, weight_files(source))
    if plain != config:
        with TemporaryDirectory(prefix=".plain.", dir=output.parent) as folder:
            changes = convert_decoder(source, config, Path(folder))
            plain_files = [path for path in files if path.name not in ("config.json", INDEX)]
            _transfer_all_but_weights(plain_files, source, Path(folder), transfer)
            return changes + _take(Path(folder), output, _move, origin)
    _transfer_all_but_weights(files, source, output, transfer)
    config = _without_private_keys(config) | ({ORIGIN_KEY: origin} if origin else {})
    write_json(output / "config.json", config)
    skeleton = build_decoder(output, dimensions)
    check_tensors(skeleton, shapes)
    check_dtypes(skeleton, weight_dtypes(source))
    check_tokenizer(output, dimensions.vocab_size)
    check_generation(output)
    for path in files:  # Weights come last, because they are large.
        if path.suffix == WEIGHTS_SUFFIX:
            transfer(path, output / path.name)
    return []


def _move(source: Path, target: Path) -> None:
    os.replace(source.resolve(), target)


def _wanted_files(source: Path) -> list[Path]:
    paths = [*source.iterdir(), *(source / CHAT_TEMPLATE_DIR).glob("*.jinja")]
    return [
        path
        for path in sorted(paths)
        if path.is_file() and _is_wanted(path.relative_to(source).as_posix())
    ]


def _is_wanted(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in MODEL_FILES)


def _transfer_all_but_weights(
    files: list[Path], source: Path, output: Path, transfer: Transfer
) -> None:
    for path in files:
        if path.suffix != WEIGHTS_SUFFIX:
            target = output / path.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            transfer(path, target)


def _without_other_weights(files: list[Path], loaded: list[Path]) -> list[Path]:
    """Return `files` without weights that are not `loaded`, and without an index of such."""
    names = {path.name for path in loaded}
    if SINGLE_FILE not in names:
        names.add(INDEX)
    return [
        path
        for path in files
        if path.name in names
        or not (path.suffix == WEIGHTS_SUFFIX or path.name.endswith(".index.json"))
    ]


def _check_file(path: Path, source: Path) -> None:
    if path.name in VOCABULARIES:
        read_json(path)
    elif path.name.endswith(".index.json"):
        check_index(path)
    # A link to anywhere else would publish that file as part of the model.
    homes = [source.resolve()]
    if source.parent.name == "snapshots":
        homes.append((source.parents[1] / "blobs").resolve())
    if not any(path.resolve().is_relative_to(home) for home in homes):
        raise ModelError(f"{path.name} is a link that leads out of the folder")


def _without_private_keys(value: Any) -> Any:
    """Keys such as `_attn_implementation` or `_name_or_path` tell how or where a model was loaded,
    not what it is.
    """
    if isinstance(value, dict):
        return {
            key: _without_private_keys(child)
            for key, child in value.items()
            if not key.startswith("_") and not chooses_implementation(key)
        }
    return value
