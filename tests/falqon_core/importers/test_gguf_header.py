"""GGUF files whose counts lie, written byte by byte."""

import os
import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falqon_core.contract.errors import ModelError
from falqon_core.contract.weights import MAX_TENSORS
from falqon_core.importers.gguf_header import MAX_ELEMENTS, MAX_KEYS, check_gguf
from falqon_core.importers.importer import import_model

STRING = 8
ARRAY = 9
UINT8 = 0
UINT32 = 4
MILLISECONDS = 0.05  # with room for a busy machine


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def head(num_tensors: int = 0, num_keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_keys)


def array(kind: int, count: int) -> bytes:
    return text(b"a") + struct.pack("<IIQ", ARRAY, kind, count)


def tensor(*shape: int, kind: int = 0, name: bytes = b"t", place: int = 0) -> bytes:
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + axes + struct.pack("<IQ", kind, place)


LIES = [
    # 49 bytes, told by a stranger
    (head(num_keys=1) + array(UINT32, 2**40), "1099511627776 elements of 'a'"),
    (head(num_keys=1) + array(UINT32, 1000), "for which its 0 remaining bytes are too few"),
    (head(num_keys=1) + array(UINT8, MAX_ELEMENTS + 1), f"the limit is {MAX_ELEMENTS}"),
    (head(num_keys=1) + array(STRING, 3) + text(b"b"), "too few"),
    (head(num_keys=1) + array(STRING, 2**63), "the limit is"),
    (
        head(num_keys=1) + array(ARRAY, 1) + struct.pack("<IQ", ARRAY, 1) * 2000,
        "an array of arrays",
    ),
    (head(num_keys=1) + array(77, 1), "type 77, which is not known"),
    (head(num_keys=1) + text(b"a") + struct.pack("<I", 13), "type 13, which is not known"),
    (head(num_keys=2**62), f"the limit is {MAX_KEYS}"),
    (head(num_keys=MAX_KEYS), "too few"),
    (head(num_tensors=2**62), f"the limit is {MAX_TENSORS}"),
    (head(num_tensors=MAX_TENSORS), "too few"),
    (head(num_keys=1) + struct.pack("<Q", 2**62) + bytes(9), "the limit is"),
    (head(num_keys=1) + struct.pack("<Q", 1000) + bytes(9), "too few"),
    (
        head(num_keys=1) + text(b"\xff\xfe") + struct.pack("<IB", UINT8, 0),
        "the name of a key is not UTF-8",
    ),
    (
        head(num_keys=1)
        + text(b"general.architecture")
        + struct.pack("<I", STRING)
        + text(b"\xff"),
        "is not UTF-8",
    ),
    (head(num_keys=1) + array(STRING, 1) + text(b"\xff"), "an element of 'a' is not UTF-8"),
    (head(num_tensors=1) + tensor(2**40), "take 4398046511104 bytes, but 0 are there"),
    (head(num_tensors=1) + tensor(2**63, 2**63, 2**63, 2**63), "bytes, but 0 are there"),
    (head(num_tensors=1) + tensor(*[1] * 5), "has 5 axes"),
    (
        head(num_tensors=1) + text(b"t") + struct.pack("<I", 2**32 - 1) + bytes(20),
        "has 4294967295 axes",
    ),
    (head(num_tensors=1) + tensor(1, kind=999), "type 999, which is not known"),
    (
        head(num_tensors=2) + tensor(8) + tensor(8, name=b"u") + bytes(32),
        "take 64 bytes, but 32 are there",
    ),
    (head(version=4), "its version is none of 2, 3"),
    (b"GGUF" + bytes(20), "version"),
    (b"GGML" + bytes(20), "does not begin as one"),
    (b"GG", "cut off"),
]


@pytest.mark.parametrize(("content", "says"), LIES)
def test_a_count_that_lies_is_refused_at_once(content: bytes, says: str, tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(content)
    with pytest.raises(ModelError, match=says) as caught:  # loads what only an import needs
        import_model(str(source), tmp_path / "model")
    started = time.thread_time()

    with pytest.raises(ModelError, match=says):
        import_model(str(source), tmp_path / "model")

    assert time.thread_time() - started < MILLISECONDS
    assert "model.gguf cannot be read as GGUF: " in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.gguf")

    with pytest.raises(
        ModelError, match=r"model\.gguf cannot be read as GGUF: it is no regular file"
    ):
        import_model(str(tmp_path / "model.gguf"), tmp_path / "model")


def written(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian.LITTLE)
    writer.add_uint32("llama.block_count", 2)
    writer.add_float32("llama.rope.freq_base", 1e4)
    writer.add_array("tokenizer.ggml.tokens", ["a", "é", ""])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.5])
    writer.add_tensor("token_embd.weight", np.zeros((3, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_written_by_the_gguf_library_passes(tmp_path: Path) -> None:
    check_gguf(written(tmp_path / "model.gguf"))


@given(position=st.integers(4, 250), flip=st.integers(1, 255))
def test_one_changed_byte_never_brings_another_error(
    position: int, flip: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.gguf"
    whole = bytearray(written(path).read_bytes())
    whole[position] ^= flip
    path.write_bytes(whole)
    output = tmp_path_factory.getbasetemp() / "flipped"
    with pytest.raises(ModelError):
        import_model(str(path), output)
