import pytest
import torch

from falqon_core.contract.config import Recipe
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.train import metrics
from falqon_core.train.checkpoint import Progress
from falqon_core.train.step import StepResult
from tests.support.api import TINY_CONFIG


class NotSupported(Exception):
    """As NVML's binding raises it on a MIG slice."""


@pytest.mark.parametrize(
    ("gauge", "name", "expected"),
    [
        (metrics.gpu_utilization, "utilization", None),
        (metrics.gpu_temperature, "temperature", None),
        (metrics.memory_bytes, "max_memory_allocated", 0),
        (metrics.peak_flops, "get_device_name", None),
    ],
)
def test_a_gauge_that_fails_is_said_once_and_ends_nothing(
    gauge: object,
    name: str,
    expected: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(device: torch.device) -> int:
        raise NotSupported("Not Supported")

    monkeypatch.setattr(torch.cuda, name, fail)
    metrics._log_once.cache_clear()
    assert callable(gauge)
    assert [gauge(torch.device("cuda")) for _ in range(3)] == [expected] * 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("is not shown: NotSupported: Not Supported")


def test_the_share_of_the_peak_is_that_of_all_devices() -> None:
    device, recipe = torch.device("cpu"), Recipe().resolved(100)
    dimensions = ModelDimensions.from_config(TINY_CONFIG)
    progress = Progress(recipe=recipe, num_records=100, num_tokens=1000, num_threads=1)
    result = StepResult(
        metrics={"loss": 1.0, "mean_token_accuracy": 0.5},
        grad_norm=1.0,
        codes_changed=0.0,
        num_tokens=10**6,
        keys_per_token=8.0,
    )
    shares = []
    for num_devices in (1, 8):
        meter = metrics.Meter(recipe, dimensions, device, num_devices, total_steps=4)
        meter.start_step()
        meter._step_at -= 100
        shares.append(meter.measure(result, progress, 0.5, 1e-3).mfu)
    assert shares[0] == pytest.approx(8 * shares[1], rel=0.01)
