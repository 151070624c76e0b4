import pytest

from app.settings import Settings
from worker.gpu import detect, table_name


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("Tesla T4", "tesla-t4"),
    ],
)
def test_products_have_names_in_the_price_table(product: str, name: str) -> None:
    assert table_name(product) == name


def test_a_cpu_counts_its_cores() -> None:
    assert detect(Settings(device="cpu", num_threads=3)) == ("cpu", 3)
    assert detect(Settings(device="h100")) == ("h100", 1)
