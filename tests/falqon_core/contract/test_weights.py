import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from falqon_core.contract.weights import (
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    UnsoundWeights,
    check_safetensors,
    sample_tensors,
)


def entry(shape: list[Any], start: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def write(folder: Path, header: Any, body: int = 0) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(body))
    return path


def test_a_file_written_by_safetensors_is_sound(tmp_path: Path) -> None:
    tensors = {
        "a": np.zeros((3, 4), dtype=np.float32),
        "b": np.zeros((), dtype=np.int64),
        "c": np.zeros((0, 5), dtype=np.float16),
        "d": np.ones(7, dtype=np.uint8),
        "e": np.ones((2, 2), dtype=bool),
    }
    for some in (tensors, {}, {"c": tensors["c"]}):
        save_file(some, tmp_path / "model.safetensors", metadata={"format": "pt"})
        check_safetensors(tmp_path / "model.safetensors")


def test_samples_are_bytes_from_all_over_a_tensor(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    large = np.arange(2**20, dtype=np.uint32)
    save_file(
        {"a": large, "b": np.zeros((0, 5)), "c": large[:3], "d": np.array(7, np.float32)}, path
    )
    samples = sample_tensors(path)
    values = np.frombuffer(samples["a"].removeprefix(b"U32 [1048576] "), np.uint32)
    assert values.reshape(8, 8).tolist() == [
        list(range(first, first + 8)) for first in range(0, 2**20, 2**17)
    ]
    assert samples["b"] == b"F64 [0, 5] "
    assert samples["c"] == b"U32 [3] " + large[:3].tobytes()
    assert samples["d"] == b"F32 [] " + np.float32(7).tobytes()


@pytest.mark.parametrize(
    ("header", "body", "match"),
    [
        ({"a": entry([2], 0, 8)}, 7, "take 8 bytes, but 7 are there"),
        ({"a": entry([2], 0, 8)}, 9, "take 8 bytes, but 9 are there"),
        ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, 12, "overlap"),
        ({"a": entry([2], 0, 8), "b": entry([2], 12, 20)}, 20, "hole"),
        ({"a": entry([2], 4, 12)}, 12, "hole"),
        ({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, 8, "overlap"),
        ({"a": entry([3], 0, 8)}, 8, "do not fit its shape"),
        ({"a": entry([2**62, 2**62, 4], 0, 8)}, 8, "do not fit its shape"),
        ({"a": entry([2**32, 2**32], 0, 0)}, 0, "do not fit its shape"),
        ({"a": entry([2], 8, 0)}, 8, "do not fit its shape"),
        ({"a": entry([-2], 0, 8)}, 8, "not understood"),
        ({"a": entry([2**63], 0, 8)}, 8, "not understood"),
        ({"a": entry([True, 2], 0, 8)}, 8, "not understood"),
        ({"a": entry([2.0], 0, 8)}, 8, "not understood"),
        ({"a": entry([1] * 17, 0, 4)}, 4, "not understood"),
        ({"a": entry([2], 0, 8, "F33")}, 8, "not understood"),
        ({"a": entry([2], 0, 8, ["F32"])}, 8, "not understood"),
        ({"a": entry([2], -8, 0)}, 8, "not understood"),
        ({"a": entry([2], "0", "8")}, 8, "not understood"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 9]}}, 8, "not understood"),
        ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, 8, "not understood"),
        ({"a": None}, 0, "not understood"),
        ([], 0, "not a JSON object"),
        (b'{"a": {}, "a": {}}', 0, "twice"),
        (b"[" * 100_000, 0, "cannot be read"),
        (b"\xff\xfe{}", 0, "cannot be read"),
        (b"", 0, "cannot be read"),
        (
            {f"t{index}": entry([0], 0, 0) for index in range(MAX_TENSORS + 1)},
            0,
            "the limit is 20000",
        ),
    ],
)
def test_a_header_that_lies_is_refused(header: Any, body: int, match: str, tmp_path: Path) -> None:
    with pytest.raises(UnsoundWeights, match=match):
        check_safetensors(write(tmp_path, header, body))


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 2**63, 2**64 - 1])
def test_a_header_that_is_too_long_is_not_read(length: int, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(UnsoundWeights, match="larger than 16 MiB"):
        check_safetensors(tmp_path / "model.safetensors")


@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_one_changed_byte_of_the_header_never_brings_another_error(
    position: int, flip: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = bytearray(
        save({"a": np.zeros((3, 4), dtype=np.float32), "b": np.zeros(5, dtype=np.float16)})
    )
    whole[position % (len(whole) - 58)] ^= flip
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    path.write_bytes(whole)
    try:
        check_safetensors(path)
    except UnsoundWeights:
        return
