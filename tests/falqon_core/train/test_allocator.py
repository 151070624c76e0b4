import os
import sys
from pathlib import Path

import pytest

from falqon_core.train import allocator
from falqon_core.train.allocator import FIXED, GROWING, VARIABLE, choose_allocator


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")  # so that it is restored
    monkeypatch.delenv(VARIABLE)
    monkeypatch.delenv(allocator.OLD_VARIABLE, raising=False)
    monkeypatch.setattr(allocator, "OS_RELEASE", tmp_path / "osrelease")
    monkeypatch.setattr(allocator, "DRIVER_CARDS", tmp_path / "gpus")


def write_machine(tmp_path: Path, kernel: str, model: str) -> None:
    (tmp_path / "osrelease").write_text(f"{kernel}\n")
    card = tmp_path / "gpus" / "0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text(f"Model: \t\t {model}\nIRQ: 1\n")


def probe_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: str) -> None:
    """Put a program in the place of Python that fails where the environment has `refuses`."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\n[ "${VARIABLE}" != "{refuses}" ]\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


MACHINES = [
    ("5.15.153.1-microsoft-standard-WSL2", "NVIDIA GeForce RTX 4090", FIXED),
    ("6.8.0-45-generic", "GRID A100-10C", FIXED),
    ("6.8.0-45-generic", "NVIDIA L40S-48Q", FIXED),
    ("6.8.0-45-generic", "NVIDIA A100-SXM4-80GB", GROWING),
]


@pytest.mark.parametrize(("kernel", "model", "expected"), MACHINES)
def test_segments_grow_but_where_trying_them_fails(
    kernel: str, model: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_machine(tmp_path, kernel, model)
    probe_that(tmp_path, monkeypatch, GROWING)
    choose_allocator()
    assert os.environ[VARIABLE] == expected


def test_segments_grow_under_wsl_where_trying_them_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_machine(tmp_path, *MACHINES[0][:2])
    probe_that(tmp_path, monkeypatch, "something else")
    choose_allocator()
    assert os.environ[VARIABLE] == GROWING


def test_what_is_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(allocator.OLD_VARIABLE, "max_split_size_mb:64")
    choose_allocator()
    assert VARIABLE not in os.environ
