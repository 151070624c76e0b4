"""In a process of its own: where the interpreter is on, kernels do not compile."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from falqon_core.contract.errors import DeviceUnfit
from falqon_core.ops import toolchain


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this machine")
def test_what_a_first_launch_needs_is_proved() -> None:
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "CC")
    }
    command = [sys.executable, "-m", "falqon_core.ops.toolchain"]
    done = subprocess.run(command, capture_output=True, text=True, env=inherited, check=False)
    assert done.returncode == 0, done.stderr
    assert "driver module compiles and loads" in done.stdout


def test_a_compiler_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TRITON_LIBCUDA_PATH", "TRITON_CACHE_DIR"):  # which the command sets
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="gcc"):
        toolchain.main()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this machine")
def test_a_compiler_that_compiles_modules_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    toolchain.check_compiler()


def test_a_machine_without_a_compiler_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceUnfit, match=r"there is none: .*apt-get install gcc libc6-dev"):
        toolchain.check_compiler()


@pytest.mark.parametrize(
    ("script", "reason"),
    [("echo 'Python.h: No such file' >&2; exit 1", "Python.h: No such file"), (None, "No such")],
    ids=["without headers", "not there"],
)
def test_a_compiler_that_fails_says_why(
    script: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "cc"
    if script is not None:
        compiler.write_text(f"#!/bin/sh\n{script}\n")
        compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(DeviceUnfit, match=rf"compiles no module of Python \(.*{reason}"):
        toolchain.check_compiler()
