"""bfloat16 without torch: numpy has no such type, so values travel as their 16 bits in uint16
arrays.

The file is written tensor by tensor (a safetensors file is a JSON header and the raw bytes), so a
model larger than memory can be converted; the `safetensors` library itself takes numpy arrays of
numpy's own types only, all at once.
"""

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 -> uint16 of the same shape, rounded to nearest, ties to even; values must be finite,
    as weights are.
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits >> 16) & 1
    rounded += 0x7FFF
    rounded += bits
    return (rounded >> 16).astype(np.uint16)


def save_bfloat16(
    path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[np.ndarray]
) -> None:
    """Write a safetensors file of BF16 tensors named and shaped as `shapes`; `tensors` yields their
    bits in that order.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start = end
        end = end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for (name, shape), bits in zip(shapes.items(), tensors, strict=True):
            assert bits.dtype == np.uint16, name
            assert bits.shape == shape, name
            file.write(np.ascontiguousarray(bits).data)
