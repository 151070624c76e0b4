"""The compile gate, in a process of its own: where the interpreter is on, kernels do not compile."""

import csv
import os
import subprocess
import sys

from falqon_core.ops.compile import SHARED_MEMORY, builds


def test_every_kernel_compiles_for_every_architecture_we_claim() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-m", "falqon_core.ops.compile"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = list(csv.DictReader(done.stdout.splitlines()))
    assert len(lines) == len(list(builds())) * len(SHARED_MEMORY)
    assert all(int(line["cubin_bytes"]) > 0 for line in lines)
