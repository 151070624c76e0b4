import pytest
import torch

from falqon_core.train import metrics


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
