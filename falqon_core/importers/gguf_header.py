"""The header of a GGUF file, checked before any library reads it.

Every count is compared with the bytes that are left before anything is read by it, so a file of a
few bytes cannot ask for memory or time. Refused are: more keys, tensors or elements of arrays than
any model has, arrays of arrays, text that is not UTF-8, and tensors that together are larger than
the file.
"""

import math
import struct
from pathlib import Path
from typing import BinaryIO

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from falqon_core.contract.weights import MAX_TENSORS

MAX_KEYS = 10_000
# Elements of all arrays together; a vocabulary needs two to four for each of its tokens.
MAX_ELEMENTS = 2**22
MAX_STRING_BYTES = 16 * 2**20
MAX_GGUF_AXES = 4
SUPPORTED_VERSIONS = (2, 3)
SMALLEST_KEY_BYTES = 13  # An empty name, a type and a byte.
SMALLEST_TENSOR_BYTES = 32  # An empty name, a shape, a type and an offset.
SCALAR_BYTES = {
    GGUFValueType.UINT8: 1, GGUFValueType.INT8: 1, GGUFValueType.BOOL: 1, GGUFValueType.UINT16: 2,
    GGUFValueType.INT16: 2,
    GGUFValueType.UINT32: 4, GGUFValueType.INT32: 4, GGUFValueType.FLOAT32: 4,
    GGUFValueType.UINT64: 8, GGUFValueType.INT64: 8,
    GGUFValueType.FLOAT64: 8,
}  # fmt: skip


def check_gguf(path: Path) -> None:
    """Raise `ValueError` with the reason for any other file, `OSError` for an unreadable one."""
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")
    with path.open("rb") as file:
        _Walk(file, path.stat().st_size).whole()


def read_texts(path: Path) -> dict[str, str]:
    """Return the keys that hold a text. Raises as `check_gguf` does."""
    with path.open("rb") as file:
        walk = _Walk(file, path.stat().st_size)
        walk.whole()
    return walk.texts


class _Walk:
    """One walk from the first byte of a file to the last of its tensors' descriptions."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size
        self._order = "<"
        self._elements = 0
        self.texts: dict[str, str] = {}

    def whole(self) -> None:
        if self._take(4) != b"GGUF":
            raise ValueError("it does not begin as one")
        version = self._take(4)
        self._order = "<" if version[:2] != b"\0\0" else ">"
        if self._unpack("I", version) not in SUPPORTED_VERSIONS:
            raise ValueError(f"its version is none of {', '.join(map(str, SUPPORTED_VERSIONS))}")
        num_tensors = self._number("Q")
        num_keys = self._number("Q")
        self._check_count("keys", num_keys, MAX_KEYS, SMALLEST_KEY_BYTES)
        self._check_count("tensors", num_tensors, MAX_TENSORS, SMALLEST_TENSOR_BYTES)
        for _ in range(num_keys):
            key = self._string("the name of a key")
            self._value(key, self._type(key))
        num_bytes = sum(self._tensor() for _ in range(num_tensors))
        if num_bytes > self._left:
            raise ValueError(f"its tensors take {num_bytes} bytes, but {self._left} are there")

    def _value(self, key: str, kind: GGUFValueType) -> None:
        if kind == GGUFValueType.STRING:
            self.texts[key] = self._string(repr(key[:100]))
        elif kind == GGUFValueType.ARRAY:
            self._array(key, self._type(key), self._number("Q"))
        else:
            self._take(SCALAR_BYTES[kind])

    def _array(self, key: str, kind: GGUFValueType, count: int) -> None:
        name = repr(key[:100])
        if kind == GGUFValueType.ARRAY:
            raise ValueError(f"{name} is an array of arrays, which no supported model has")
        width = SCALAR_BYTES.get(kind, 8)  # A string has at least its length field.
        self._elements += count
        self._check_count(
            f"elements of {name} and the arrays before it", self._elements, MAX_ELEMENTS, 0
        )
        self._check_count(f"elements of {name}", count, MAX_ELEMENTS, width)
        if kind == GGUFValueType.STRING:
            for _ in range(count):
                self._string(f"an element of {name}")
        else:
            self._take(count * width)

    def _tensor(self) -> int:
        """Return the bytes of the tensor whose description comes next."""
        name = repr(self._string("the name of a tensor")[:100])
        num_axes = self._number("I")
        if not 1 <= num_axes <= MAX_GGUF_AXES:
            raise ValueError(f"{name} has {num_axes} axes, and not 1 to {MAX_GGUF_AXES}")
        count = math.prod(self._number("Q") for _ in range(num_axes))
        kind = self._number("I")
        try:
            block, width = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (KeyError, ValueError):
            raise ValueError(f"{name} is of type {kind}, which is not known") from None
        self._take(8)  # The offset of its data; the reader refuses one beyond the end of the file.
        return count * width // block

    def _type(self, key: str) -> GGUFValueType:
        number = self._number("I")
        try:
            return GGUFValueType(number)
        except ValueError:
            raise ValueError(f"{key[:100]!r} is of type {number}, which is not known") from None

    def _string(self, what: str) -> str:
        length = self._number("Q")
        self._check_count(f"bytes of {what}", length, MAX_STRING_BYTES, 1)
        try:
            return self._take(length).decode()
        except UnicodeDecodeError:
            raise ValueError(f"{what} is not UTF-8") from None

    def _check_count(self, what: str, count: int, most: int, width: int) -> None:
        if count > most:
            raise ValueError(f"it says to hold {count} {what}, the limit is {most}")
        if count * width > self._left:
            raise ValueError(
                f"it says to hold {count} {what}, for which its {self._left} remaining bytes are "
                "too few"
            )

    def _number(self, code: str) -> int:
        return self._unpack(code, self._take(struct.calcsize(f"<{code}")))

    def _unpack(self, code: str, content: bytes) -> int:
        return int(struct.unpack(self._order + code, content)[0])

    def _take(self, count: int) -> bytes:
        if count > self._left:
            raise ValueError("it is cut off")
        self._left -= count
        return self._file.read(count)
