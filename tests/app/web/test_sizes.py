import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.web.sizes import read_size, write_size


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("10 GB", 10**10),
        ("10gb", 10**10),
        ("1.5 GiB", 3 * 2**29),
        ("2 t", 2 * 10**12),
        ("512 MiB", 2**29),
        ("700", 700),
        ("700 bytes", 700),
        (" 0 ", 0),
    ],
)
def test_people_write_sizes_with_units(text: str, num_bytes: int) -> None:
    assert read_size(text) == num_bytes


@pytest.mark.parametrize("text", ["", "ten GB", "10 parsecs", "-1", "1e9", "10 GB more", "9" * 30])
def test_a_malformed_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 10 GB"):
        read_size(text)


@given(st.integers(0, 10**18))
def test_a_size_is_read_back_as_it_was(num_bytes: int) -> None:
    assert read_size(write_size(num_bytes)) == num_bytes


def test_round_sizes_are_short() -> None:
    assert [write_size(size) for size in (10**10, 2**30, 0, 1025)] == [
        "10 GB",
        "1 GiB",
        "0 B",
        "1025 B",
    ]
