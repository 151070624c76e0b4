"""In a process of its own: where the interpreter is on, kernels do not compile."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
