from decimal import Decimal

import pytest

from falqon_core.contract.config import Recipe
from falqon_core.estimate.cards import (
    Capability,
    device_of_card,
    find_device,
    native_weights,
    with_measured_peak,
)
from falqon_core.estimate.devices import DEVICES
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.estimate import estimate
from falqon_core.estimate.prices import default_price

# The driver's name, its MiB and capability, and the entry that comes of them: None is too old.
CARDS: list[tuple[str, int | None, Capability | None, str | None]] = [
    ("NVIDIA GeForce RTX 5090", 32607, (12, 0), "rtx-5090-31gib-sm120"),
    ("NVIDIA GeForce RTX 5080", 16303, (12, 0), "rtx-5080-15gib-sm120"),
    ("NVIDIA GeForce RTX 4090", 24564, (8, 9), "rtx-4090"),
    ("NVIDIA GeForce RTX 4090 D", 24564, (8, 9), "rtx-4090-d-23gib-sm89"),
    ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376, (8, 9), "rtx-4090-laptop-15gib-sm89"),
    ("NVIDIA GeForce RTX 3090", 24576, (8, 6), "rtx-3090-24gib-sm86"),
    ("NVIDIA A100-SXM4-80GB", 81920, (8, 0), "a100"),
    ("NVIDIA A100-SXM4-40GB", 40960, (8, 0), "a100-sxm4-40gb-40gib-sm80"),
    ("NVIDIA A100-PCIE-40GB", 40960, (8, 0), "a100-pcie-40gb-40gib-sm80"),
    ("NVIDIA A100-PCIE-80GB", 81920, (8, 0), "a100-pcie-80gb-80gib-sm80"),
    ("NVIDIA H100 PCIe", 81559, (9, 0), "h100-pcie-79gib-sm90"),
    ("NVIDIA H100 NVL", 95830, (9, 0), "h100-nvl-93gib-sm90"),
    ("NVIDIA H100 80GB HBM3", 81559, (9, 0), "h100"),
    ("NVIDIA H200", 143771, (9, 0), "h200"),
    ("NVIDIA GH200 480GB", 97871, (9, 0), "gh200-480gb-95gib-sm90"),
    ("NVIDIA B200", 183359, (10, 0), "b200"),
    ("NVIDIA GB200", 189471, (10, 0), "gb200-185gib-sm100"),
    ("NVIDIA GB10", None, (12, 1), "gb10-sm121"),
    ("NVIDIA L4", 23034, (8, 9), "l4-22gib-sm89"),
    ("NVIDIA L40S", 46068, (8, 9), "l40s"),
    ("NVIDIA A10G", 23028, (8, 6), "a10g-22gib-sm86"),
    ("NVIDIA RTX 6000 Ada Generation", 49140, (8, 9), "rtx-6000-ada-generation-47gib-sm89"),
    (
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        97887,
        (12, 0),
        "rtx-pro-6000-blackwell-max-q-workstation-edi-95gib-sm120",
    ),
    ("Tesla T4", 15360, (7, 5), None),
    ("Tesla V100-SXM2-16GB", 16384, (7, 0), None),
    ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", 40_000, (8, 0), "a100-sxm4-80gb-mig-3g-40gb-39gib-sm80"),
    ("GRID A100-10C", 10240, (8, 0), "grid-a100-10c-10gib-sm80"),
    ("NVIDIA RTX of tomorrow", None, None, "rtx-of-tomorrow-gpu"),
]


@pytest.mark.parametrize(("name", "mib", "capability", "expected"), CARDS)
def test_every_card_that_a_driver_names_is_a_device_unless_it_is_too_old(
    name: str, mib: int | None, capability: Capability | None, expected: str | None
) -> None:
    device = device_of_card(name, mib, capability)
    if expected is None:
        assert device is None
        return
    assert device is not None
    assert device.name == expected
    assert device == find_device(expected), "the name is enough on another machine"
    assert device.peak == ("listed" if expected in DEVICES else "assumed")
    assert device.tflops > 0
    assert device.memory_gib == (None if mib is None else mib // 1024)
    assert device.has_fp8 == (capability is None or capability >= (8, 9))


def test_a_slice_has_its_share_of_the_card() -> None:
    device = find_device("a100-sxm4-80gb-mig-3g-40gb-39gib-sm80")
    assert device is not None
    assert device.tflops == pytest.approx(312 * 3 / 7, abs=0.1)


@pytest.mark.parametrize(
    "name",
    [
        *("", "abacus", "gpu", "-gpu", "RTX-5090-31gib", "t4-14gib-sm75", "a-0gib", "a\n-gpu"),
        *(f"{'a' * 64}-gpu", "a_b-31gib", "x-31gib-gpu"),
    ],
)
def test_a_name_that_describes_no_card_is_none(name: str) -> None:
    assert find_device(name) is None


def test_an_estimate_on_it_says_what_is_assumed_and_that_it_is_unpriced() -> None:
    device = find_device("rtx-5090-31gib-sm120")
    assert device is not None
    config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "vocab_size": 256}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256}
    recipe = Recipe(batch_size=4).resolved(100)
    dimensions = ModelDimensions.from_config(config)
    result = estimate(dimensions, recipe, num_records=100, tokens_per_epoch=10**9, device=device)
    assert "of an assumed 400 TFLOP/s" in result.explanation
    assert result.seconds.high > 3 * result.seconds.expected
    measured = with_measured_peak(device, 250.0)
    better = estimate(dimensions, recipe, num_records=100, tokens_per_epoch=10**9, device=measured)
    assert "of a measured 250 TFLOP/s" in better.explanation
    assert better.seconds.high < 3 * better.seconds.expected
    assert with_measured_peak(DEVICES["h100"], 250.0) == DEVICES["h100"]
    assert result.cost.is_unpriced
    assert result.cost.price_source.startswith("unpriced: no price of rtx-5090-31gib-sm120 is set")
    assert default_price(device.name).usd_per_device_hour == Decimal(0)
    assert all(default_price(name).usd_per_device_hour for name in DEVICES)


def test_a_card_multiplies_the_forms_that_its_tensor_cores_have() -> None:
    assert native_weights(None) == native_weights((8, 6)) == ()
    assert native_weights((8, 9)) == native_weights((9, 0)) == ("fp8",)
    assert native_weights((10, 0)) == native_weights((12, 1)) == ("fp8", "nvfp4", "mxfp4")
