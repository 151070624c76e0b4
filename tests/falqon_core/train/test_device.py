import pytest
import torch

from falqon_core.contract.errors import DeviceMissing
from falqon_core.train.device import check_card, select_device


def test_the_device_is_a_gpu_only_where_there_is_one() -> None:
    assert select_device("cpu", "h100").type == "cpu"
    if torch.cuda.is_available():
        assert select_device("auto").type == select_device("cuda").type == "cuda"
        return
    assert select_device("auto").type == "cpu"
    with pytest.raises(DeviceMissing, match=r"sees no GPU here: .*torch") as caught:
        select_device("cuda")
    assert caught.value.param == "device"


def test_another_card_than_the_promised_one_is_refused() -> None:
    with pytest.raises(DeviceMissing, match="which is rtx-4090, and h100 was promised"):
        check_card("NVIDIA GeForce RTX 4090", "h100")
    check_card("NVIDIA H100 80GB HBM3", "h100")
    check_card("NVIDIA H100 80GB HBM3", "")
    check_card("NVIDIA H100 PCIe", "h100")  # no device has this name, so it may be any
