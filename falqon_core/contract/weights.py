"""The header of a safetensors file, checked before any library reads it.

A file is 8 bytes with the header's length, the header as JSON, and the tensors' bytes in one piece.
Accepted are headers of at most 16 MiB and 20,000 tensors whose places follow one another from the
first byte to the last, each as long as its shape and dtype say. Refused are dtypes that no
model here has, and files with holes, which other programs may accept.
"""

import json
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 20_000
MAX_AXES = 16
LENGTH_BYTES = 8
# Of one tensor, evenly spread.
MAX_SAMPLES = 8
SAMPLE_BYTES = 32
BYTES_OF = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


class UnsoundWeights(ValueError):
    """With a sentence that names the file."""


def check_safetensors(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors, by name; only the header is read.

    Raises `UnsoundWeights` for any other file, a renamed pickle among them.
    """
    return {name: tuple(entry["shape"]) for name, entry in _read_entries(path).items()}


def read_dtypes(path: Path) -> dict[str, str]:
    """Return the dtypes of the tensors, as the header names them, by name. Raises as
    `check_safetensors` does.
    """
    return {name: entry["dtype"] for name, entry in _read_entries(path).items()}


def sample_tensors(path: Path) -> dict[str, bytes]:
    """Return the dtype, shape and at most 256 bytes of each tensor, evenly spread, by its name;
    nothing more is read. Raises as `check_safetensors` does.
    """
    entries = _read_entries(path)
    num_bytes = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    first_byte = path.stat().st_size - num_bytes
    samples = {}
    with path.open("rb") as file:
        for name, entry in entries.items():
            start, end = entry["data_offsets"]
            parts = [f"{entry['dtype']} {entry['shape']} ".encode()]
            for at in range(start, end, max(SAMPLE_BYTES, -(-(end - start) // MAX_SAMPLES))):
                file.seek(first_byte + at)
                parts.append(file.read(min(SAMPLE_BYTES, end - at)))
            samples[name] = b"".join(parts)
    return samples


def _read_entries(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little") if size >= LENGTH_BYTES else -1
        if not 0 <= length <= MAX_HEADER_BYTES:
            limit = f"{MAX_HEADER_BYTES >> 20} MiB"
            raise UnsoundWeights(
                f"{path.name} is not a safetensors file, or its header is larger than {limit}"
            )
        header = file.read(length)
    try:
        if len(header) < length:
            raise UnsoundWeights("its header is cut off")
        return _check_header(_parse(header), size - LENGTH_BYTES - length)
    except UnsoundWeights as error:
        raise UnsoundWeights(f"{path.name} is not a sound safetensors file: {error}") from None


def _parse(header: bytes) -> dict[str, Any]:
    try:
        content = json.loads(header, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UnsoundWeights(f"its header cannot be read: {str(error)[:200]}") from None
    if not isinstance(content, dict):
        raise UnsoundWeights("its header is not a JSON object")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key occurs twice")
    return content


def _check_header(header: dict[str, Any], num_bytes: int) -> dict[str, Any]:
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if len(tensors) > MAX_TENSORS:
        raise UnsoundWeights(f"it holds {len(tensors)} tensors, the limit is {MAX_TENSORS}")
    end = 0
    for start, stop in sorted(_extent(name, entry) for name, entry in tensors.items()):
        if start != end:
            raise UnsoundWeights(f"its tensors leave a hole or overlap at byte {min(start, end)}")
        end = stop
    if end != num_bytes:
        raise UnsoundWeights(f"its tensors take {end} bytes, but {num_bytes} are there")
    return tensors


def _extent(name: str, entry: Any) -> tuple[int, int]:
    """Return the range of a tensor, [start, end)."""
    quoted = repr(name[:100])
    try:
        dtype = entry["dtype"]
        shape = entry["shape"]
        (start, end) = entry["data_offsets"]
        width = BYTES_OF[dtype]
        if (
            not isinstance(shape, list)
            or len(shape) > MAX_AXES
            or not all(map(_is_count, (*shape, start, end)))
        ):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UnsoundWeights(f"the entry of {quoted} is not understood") from None
    for axis in shape:  # The loop stops early, so that hostile shapes make no large numbers.
        width *= axis
        if width > end:
            break
    if end - start != width:
        raise UnsoundWeights(f"the bytes of {quoted} do not fit its shape")
    return start, end


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63
