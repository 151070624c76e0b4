"""Take over a Hugging Face model folder, leaving behind everything that is not data.

Only known file names are taken; JSON that names code is refused; weights must be safetensors whose headers parse and whose
tensors lie inside their file. What is given up: models that need remote code, and models that are quantized already.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from falqon_core.spec.errors import ModelError
from falqon_core.spec.models import ModelDimensions, check_model_folder

MODEL_FILES = (
    "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json",
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "LICENSE*", "NOTICE*", "README.md",
)  # fmt: skip
MAX_HEADER_BYTES = 16 * 2**20
CODE_KEYS = {"auto_map", "custom_pipelines", "custom_generate", "trust_remote_code"}

Transfer = Callable[[Path, Path], object]


def copy_model(source: Path, output: Path) -> None:
    """Copy `source` into the existing, empty folder `output`. Raises `ModelError`; see the module."""
    _take(source, output, shutil.copyfile)


def move_model(source: Path, output: Path) -> None:
    """As `copy_model`, for a source on the same file system that is not needed any more."""
    _take(source, output, lambda a, b: os.replace(a.resolve(), b))


def _take(source: Path, output: Path, transfer: Transfer) -> None:
    config = check_model_folder(source)
    ModelDimensions.from_config(config)
    if "quantization_config" in config:
        raise ModelError("the model is quantized already; provide its bf16 or fp32 weights", "model")
    if not (source / "tokenizer.json").is_file():
        raise ModelError("the folder holds no tokenizer.json", "model")
    for path in sorted(source.iterdir()):
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in MODEL_FILES):
            _check_file(path)
            transfer(path, output / path.name)
    (output / "config.json").write_text(json.dumps(_without_private_keys(config), indent=2) + "\n", encoding="utf-8")


def _check_file(path: Path) -> None:
    if path.suffix == ".safetensors":
        check_safetensors(path)
    elif path.suffix == ".json" and path.name not in ("tokenizer.json", "vocab.json"):
        content = _read_json(path)
        for key in _keys(content):
            if key in CODE_KEYS:
                raise ModelError(f"{path.name} has {key!r}, so the model needs remote code, which is refused", "model")
        if path.name.endswith(".index.json"):
            _check_index(path, content)


def check_safetensors(path: Path) -> None:
    """Raises `ModelError` unless the header is at most 16 MiB, parses, and every tensor lies inside the file."""
    with path.open("rb") as file:
        length = file.read(8)
    if len(length) < 8 or struct.unpack("<Q", length)[0] > MAX_HEADER_BYTES:
        raise ModelError(f"{path.name} is not a safetensors file, or its header is larger than {MAX_HEADER_BYTES >> 20} MiB", "model")
    try:
        with safe_open(path, "numpy"):
            pass
    except SafetensorError as error:
        raise ModelError(f"{path.name} is not a sound safetensors file: {error}", "model") from None


def _check_index(path: Path, content: Any) -> None:
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict):
        raise ModelError(f"{path.name} has no 'weight_map'", "model")
    for shard in {str(name) for name in shards.values()}:
        if Path(shard).name != shard or not (path.parent / shard).is_file():
            raise ModelError(f"{path.name} names {shard!r}, which is not a file of the folder", "model")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} is not JSON: {error}", "model") from None


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _keys(child)


def _without_private_keys(value: Any) -> Any:
    """Keys such as `_attn_implementation` or `_name_or_path` tell how or where a model was loaded, not what it is."""
    if isinstance(value, dict):
        return {
            key: _without_private_keys(child) for key, child in value.items() if not key.startswith("_") and key != "attn_implementation"
        }
    return value
