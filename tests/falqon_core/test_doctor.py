import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from falqon_core import doctor
from falqon_core.cli import app
from falqon_core.contract.diagnosis import CheckRow, Diagnosis, Skipped
from falqon_core.contract.errors import DeviceUnfit
from falqon_core.contract.messages import ExitCode
from falqon_core.doctor import check_compiler, check_driver, check_torch, diagnose, run_check
from tests.support.nvidia import H100, install_driver

HAS_CARD = torch.cuda.is_available()


def child_seconds() -> float:
    """Return the processor time of the children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


@pytest.mark.skipif(HAS_CARD, reason="there is a GPU here")
def test_a_machine_without_a_card_is_told_in_time_what_was_not_tried() -> None:
    before = child_seconds()
    command = [sys.executable, "-m", "falqon_core", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert child_seconds() - before < 20, "it takes seconds where nothing else runs"
    rows = {row.name: row for row in Diagnosis.model_validate_json(done.stdout).rows}
    assert rows["attention"].status == rows["training step"].status == "ok"
    assert "the loss falls" in rows["training step"].detail
    assert rows["forms of weights"].detail.startswith("multiplied by tensor cores: none;")
    assert [rows[name].status for name in ("torch", "what needs a GPU")] == ["skipped", "skipped"]
    assert "kernels" in rows["what needs a GPU"].detail


def test_a_check_that_raises_is_a_row_and_not_the_end() -> None:
    def fail() -> str:
        raise OSError("no such\n  device")

    def skip() -> str:
        raise Skipped("there is none")

    rows = [run_check("a", fail), run_check("b", skip), run_check("c", lambda: "x" * 500)]
    answers = [(row.name, row.status, row.detail[:30]) for row in rows]
    assert answers == [
        ("a", "failed", "OSError: no such device"),
        ("b", "skipped", "there is none"),
        ("c", "ok", "x" * 30),
    ]
    assert len(rows[2].detail) == doctor.MAX_DETAIL_CHARACTERS
    assert Diagnosis(rows=tuple(rows), seconds=1).summary == "1 failed, 1 ok, 1 skipped"


@pytest.mark.parametrize("config", [None, "[]", '{"model_type": "llama"}'])
def test_a_folder_that_is_no_model_is_the_users_mistake(
    config: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "DOCTOR_SECONDS", -1.0)
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    result = CliRunner().invoke(app, ["doctor", "--model", str(tmp_path)])
    assert result.exit_code == ExitCode.USER_ERROR
    assert result.stderr.startswith("failed (model_refused): config.json")


def test_no_check_begins_when_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DOCTOR_SECONDS", -1.0)
    heard: list[CheckRow] = []
    (row,) = diagnose(None, heard.append).rows
    assert (row.name, row.status) == ("time", "skipped")
    assert "memory for Llama-7B" in row.detail
    assert heard == [row]


def test_what_only_a_gpu_needs_is_no_failure_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceUnfit, match="apt-get install gcc"):
        check_compiler()
    row = run_check("C compiler", partial(doctor._without_need, check_compiler))
    assert row.status == "skipped"
    assert row.detail.startswith("only needed with a GPU: ")


@pytest.mark.skipif(HAS_CARD, reason="there is a GPU here")
def test_a_card_that_torch_does_not_see_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(tmp_path, monkeypatch, H100)
    assert H100 in check_driver()
    with pytest.raises(RuntimeError, match="torch sees no GPU: "):
        check_torch()
    install_driver(tmp_path, monkeypatch, script="echo 'driver/library mismatch'; exit 18")
    with pytest.raises(RuntimeError, match="ended with 18: driver/library mismatch"):
        check_driver()
    (tmp_path / "nvidia-smi").unlink()
    with pytest.raises(Skipped, match="trainings take the CPU"):
        check_torch()


def test_it_runs_in_the_environment_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DOCTOR_SECONDS", -1.0)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    CliRunner().invoke(app, ["doctor", "--json"])
    assert os.environ["PYTORCH_ALLOC_CONF"].startswith("expandable_segments:")
