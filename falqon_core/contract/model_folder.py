"""Requirements on a folder before anything loads a model or tokenizer from it: data and nothing
else.

Files are judged by name and by their first bytes, JSON by its keys. Refused are models that
need code of their own, weights in any other format than safetensors, and what is no decoder that
trains here by its config. What its modules are, only transformers can tell (`importers.decoder`).
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from falqon_core.contract.errors import ModelError
from falqon_core.contract.weights import UnsoundWeights, check_safetensors, read_dtypes

CLASS_SUFFIX = "ForCausalLM"
# Fields by which transformers' configs count the experts of a mixture.
EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
# Those that train here.
MIXTURES = ("glm4_moe", "gpt_oss", "granitemoe", "olmoe", "qwen3_5_moe_text", "qwen3_moe")
# The field of a config.json that the import writes where experts came in MXFP4, and its value.
EXPERT_FORMAT = "expert_format"
MXFP4 = "mxfp4"
# Linears of a few outputs that weigh others, and those that bring the embeddings of a layer. They
# never train and stay in bf16.
GATE_LINEARS = frozenset(
    {
        "in_proj_a",
        "in_proj_b",
        "per_layer_input_gate",
        "per_layer_model_projection",
        "per_layer_projection",
        "shared_expert_gate",
    }
)
PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".h5", ".msgpack"}
PICKLE_STARTS = (
    *(bytes([0x80, protocol]) for protocol in range(1, 6)),
    b"PK\x03\x04",
    b"\x89HDF",
)  # torch writes zip files
CODE_SUFFIXES = {".py", ".pyc", ".so"}
CODE_STARTS = (b"\x7fELF",)
CODE_KEYS = {"auto_map", "custom_pipelines", "custom_generate", "trust_remote_code"}
VOCABULARIES = ("tokenizer.json", "vocab.json")  # Their keys are words, and any word is allowed.
MAX_TEMPLATE_BYTES = 64 * 2**10
MAX_DEPTH = 64  # Levels of a JSON file.
SINGLE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FILE_SUFFIXES = {".safetensors", ".json", ".jinja"}  # A name with such an end is never a folder.


def check_model_folder(folder: Path) -> dict[str, Any]:
    """Refuse a folder that is more than a plain model; return its parsed config.json.

    Raises `ModelError` as `check_model_files` does, for a missing config.json and for weights that
    are not safetensors. Their headers are not read yet (`check_weights`).
    """
    check_model_files(folder)
    config = read_config(folder)
    if not any(folder.rglob("*.safetensors")):
        raise ModelError("the folder holds no .safetensors weights")
    return config


def check_model_files(folder: Path) -> None:
    """Refuse pickles, programs, JSON that names code, and chat templates of more than 64 KiB.
    Raises `ModelError`.

    Refuse also what is neither a file nor a folder, before anything opens it: a pipe would make its
    reader wait for ever.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder.name} is not a folder")
    paths = sorted(folder.rglob("*"))
    for path in paths:
        _check_regular(path, path.relative_to(folder).as_posix())
    for path in (path for path in paths if path.is_file()):
        _check_kind(path, path.relative_to(folder).as_posix())
        if path.suffix == ".jinja" and path.stat().st_size > MAX_TEMPLATE_BYTES:
            raise _template_too_long(path)
    for path in sorted(folder.glob("*.json")):
        if path.name not in VOCABULARIES:
            _check_keys(path)


def check_architecture(config: dict[str, Any]) -> None:
    """Refuse a config.json, parsed, of no decoder, or of experts that do not train here. Raises
    `ModelError`.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise ModelError(f"model type {kind!r} is not supported; it is a name")
    for key, value in _pairs(config):
        if key in EXPERT_KEYS and isinstance(value, int) and value > 1 and kind not in MIXTURES:
            raise ModelError(
                f"{kind} is a mixture of experts ({key} is {value}) that is not supported; "
                f"choose a dense model, or one of {', '.join(MIXTURES)}"
            )
    classes = config.get("architectures") or []
    if classes and not _is_decoder(classes):
        raise ModelError(
            f"architectures {classes!r} is not supported; of a decoder it is one class whose name "
            f"ends with {CLASS_SUFFIX}"
        )


def _is_decoder(classes: object) -> bool:
    """Return True if the value of "architectures" names one causal language model."""
    match classes:
        case [str(name)]:
            return name.endswith(CLASS_SUFFIX)
    return False


def check_weights(folder: Path) -> None:
    """Raise `ModelError` unless every safetensors file has a sound header."""
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            check_safetensors(path)
        except UnsoundWeights as error:
            raise ModelError(str(error)) from None


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in the files that transformers loads, by name; only headers
    are read.

    Raises `ModelError` for an unsound header, no such file, or two tensors of one name.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        try:
            tensors = check_safetensors(path)
        except UnsoundWeights as error:
            raise ModelError(str(error)) from None
        if twice := sorted(tensors.keys() & shapes.keys()):
            raise ModelError(f"two files hold a tensor {twice[0][:100]!r}")
        shapes |= tensors
    return shapes


def weight_dtypes(folder: Path) -> dict[str, str]:
    """Return the dtype of each tensor in the files that transformers loads, as their headers name
    it, by the tensor's name. Raises `ModelError` for an unsound header, or no such file.
    """
    dtypes: dict[str, str] = {}
    for path in weight_files(folder):
        try:
            dtypes |= read_dtypes(path)
        except UnsoundWeights as error:
            raise ModelError(str(error)) from None
    return dtypes


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers loads. Raises `ModelError`."""
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    if (folder / INDEX).is_file():
        return [folder / name for name in check_index(folder / INDEX)]
    raise ModelError(
        f"the folder holds neither {SINGLE_FILE} nor {INDEX}, which tells what is in which file"
    )


def check_index(path: Path) -> list[str]:
    """Return the names of the files that an index of safetensors files is of. Raises `ModelError`
    for any that is not in its folder.
    """
    content = read_json(path)
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict):
        raise ModelError(f"{path.name} has no 'weight_map'")
    names = sorted({str(name) for name in shards.values()})
    for name in names:
        if Path(name).name != name or not (path.parent / name).is_file():
            raise ModelError(f"{path.name} names {name!r}, which is not a file of the folder")
    return names


def read_json(path: Path) -> Any:
    """Return the parsed content of a JSON file. Raises `ModelError`, also for one that is nested
    deeper than its readers may follow.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} cannot be read: {error}") from None
    if is_too_deep(content):
        raise ModelError(f"{path.name} is nested deeper than {MAX_DEPTH} levels")
    return content


def is_too_deep(value: Any) -> bool:
    """Return True if a parsed JSON has more than `MAX_DEPTH` levels. Without recursion: the parser
    of newer Pythons takes files that are nested deeper than Python's functions may call each other.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent)]
    return bool(level)


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def read_config(folder: Path) -> dict[str, Any]:
    """Return the parsed config.json of a folder. Raises `ModelError`."""
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise ModelError("config.json is not a JSON object")
    return config


def chooses_implementation(key: str) -> bool:
    """Return True if a key of a config chooses the program that computes something; a value like
    "owner/name" would be fetched and run."""
    return "implementation" in key or key in ("use_kernels", "kernel_config")


def _check_regular(path: Path, name: str) -> None:
    if path.is_dir():
        if path.suffix.lower() in FILE_SUFFIXES:
            raise ModelError(f"{name} is a folder, and has the name of a file; remove it")
    elif not path.is_file():
        raise ModelError(
            f"{name} is no regular file (a pipe, a socket, a device, or a link to nothing); "
            "remove it"
        )


def _check_kind(path: Path, name: str) -> None:
    suffix = path.suffix.lower()
    # A safetensors header is checked apart: its first bytes are a number.
    start = b"" if suffix == ".safetensors" else _first_bytes(path)
    if suffix in PICKLE_SUFFIXES or start.startswith(PICKLE_STARTS):
        raise ModelError(
            f"{name} may hold a pickle, which can run code when loaded; provide safetensors only"
        )
    if suffix in CODE_SUFFIXES or start.startswith(CODE_STARTS):
        raise ModelError(f"{name} is program code; models that need remote code are refused")


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)


def _check_keys(path: Path) -> None:
    for key, value in _pairs(read_json(path)):
        if key in CODE_KEYS:
            raise ModelError(
                f"{path.name} has {key!r}, so the model needs remote code, which is refused"
            )
        if chooses_implementation(key) and "/" in json.dumps(value):
            raise ModelError(
                f"{path.name} has {key!r} with a path in it, which may name code; remove it"
            )
        if (
            key in ("chat_template", "template")
            and isinstance(value, str)
            and len(value.encode("utf-8", "replace")) > MAX_TEMPLATE_BYTES
        ):
            raise _template_too_long(path)


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield all keys, at every level, with their values."""
    waiting = [value]
    while waiting:
        parent = waiting.pop()
        if isinstance(parent, dict):
            yield from parent.items()
        waiting += _children(parent)


def _template_too_long(path: Path) -> ModelError:
    return ModelError(
        f"the chat template in {path.name} is longer than {MAX_TEMPLATE_BYTES >> 10} KiB"
    )
