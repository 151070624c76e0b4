import os
from pathlib import Path

import pytest

from app.estimates.service import device_of
from app.settings import Settings
from worker.gpu import detect


def test_a_cpu_counts_its_cores() -> None:
    assert detect(Settings(device="cpu", num_threads=3)) == ("cpu", 3)
    assert detect(Settings(device="auto")) == ("cpu", len(os.sched_getaffinity(0)))
    assert detect(Settings(device="h100")) == ("h100", 1)


def test_a_gpu_that_no_training_uses_is_not_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    machine = detect(Settings(device="auto"))
    estimated, _ = device_of(Settings(device="auto"))
    assert machine.device == estimated.name == "cpu"


def test_an_unknown_device_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="FALQON_DEVICE is 'abacus'"):
        detect(Settings(device="abacus"))
