import pytest
import torch

from falqon_core.contract.errors import DeviceUnfit
from falqon_core.train.gpu_needs import (
    check_capability,
    check_gpu_needs,
    check_torch,
    describe_faults,
)


def test_a_cpu_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no such compiler")
    warnings: list[str] = []
    check_gpu_needs(torch.device("cpu"), warnings.append)
    assert warnings == []


@pytest.mark.parametrize(
    ("version", "capability", "needed"),
    [
        ("1.13.1", (9, 0), "9.0 needs 2.11"),
        ("2.9.0+cu128", (12, 0), "12.0 needs 2.11"),
        ("2.11.0", (8, 9), "8.9 needs 2.12"),
    ],
)
def test_a_torch_that_is_too_old_is_named(
    version: str, capability: tuple[int, int], needed: str
) -> None:
    with pytest.raises(DeviceUnfit) as caught:
        check_torch(version, capability)
    assert str(caught.value).startswith(
        f"torch {version} is installed, and a GPU of compute capability {needed} or later"
    )
    assert (caught.value.code, caught.value.param) == ("device_unfit", "device")


@pytest.mark.parametrize("version", ["2.12.0", "2.13.1+cu130", "2.12.0a0+gitabc", "3.0.0"])
def test_a_newer_one_is_fine(version: str) -> None:
    check_torch(version, (8, 9))


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (9, 0), (10, 0), (12, 0)])
def test_only_a_card_that_needs_it_asks_for_more_than_2_11(capability: tuple[int, int]) -> None:
    check_torch("2.11.0+cu130", capability)


def test_a_card_without_bf16_is_refused_by_name() -> None:
    check_capability("NVIDIA A100", (8, 0))
    with pytest.raises(DeviceUnfit, match=r"Tesla T4 has compute capability 7\.5, .* needs 8\.0"):
        check_capability("Tesla T4", (7, 5))


def test_kernels_with_one_fault_share_its_words() -> None:
    faults = {"b.second": "no e4m3", "a.first": "no e4m3", "c.third": "wrong"}
    assert describe_faults("NVIDIA A100", faults) == (
        "plain torch computes in the place of 3 kernels that cannot be used on NVIDIA A100, slower "
        "and with the same results: a.first, b.second (no e4m3); c.third (wrong)"
    )
