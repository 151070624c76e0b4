"""In a process of its own: where the interpreter is on, kernels do not compile."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this machine")
def test_what_a_first_launch_needs_is_proved_or_missed(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "CC")}
    command = [sys.executable, "-m", "falqon_core.ops.toolchain"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "driver module compiles and loads" in done.stdout
    done = subprocess.run(command, capture_output=True, text=True, env=environment | {"PATH": str(tmp_path)}, check=False)
    assert done.returncode != 0
    assert "gcc" in done.stderr
