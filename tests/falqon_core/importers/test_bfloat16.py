from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from falqon_core.importers.bfloat16 import save_bfloat16, to_bfloat16

finite = st.floats(
    width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**126), max_value=2.0**126
)


@given(st.lists(finite, min_size=1, max_size=40))
def test_rounding_is_torchs(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32)

    assert np.array_equal(
        to_bfloat16(array), torch.from_numpy(array).bfloat16().view(torch.uint16).numpy()
    )


def test_halfway_goes_to_even() -> None:
    halves = np.array([1 + 2**-8, 1 + 3 * 2**-8], dtype=np.float32)

    assert to_bfloat16(halves).tolist() == [0x3F80, 0x3F82]


def test_the_file_is_read_by_safetensors(tmp_path: Path) -> None:
    first = np.linspace(-3, 3, 15, dtype=np.float32).reshape(3, 5)
    second = np.ones(7, dtype=np.float32)

    save_bfloat16(
        tmp_path / "m.safetensors",
        {"a": (3, 5), "b": (7,)},
        (to_bfloat16(values) for values in (first, second)),
    )

    loaded = load_file(tmp_path / "m.safetensors")
    assert torch.equal(loaded["a"], torch.from_numpy(first).bfloat16())
    assert torch.equal(loaded["b"], torch.ones(7, dtype=torch.bfloat16))
