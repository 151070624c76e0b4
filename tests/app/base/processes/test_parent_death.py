import subprocess
from pathlib import Path

import pytest

from app.base.processes.parent_death import command_dying_with_parent


@pytest.fixture
def child() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command_dying_with_parent(["sh", "-c", "echo up; read -r _"]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_a_child_gains_no_rights_and_leaves_no_memory_behind(
    child: subprocess.Popen[bytes],
) -> None:
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        proc = Path("/proc") / str(child.pid)
        assert "NoNewPrivs:\t1" in (proc / "status").read_text()
        (core,) = [
            line
            for line in (proc / "limits").read_text().splitlines()
            if line.startswith("Max core file size")
        ]
        assert core.split()[-3:] == ["0", "0", "bytes"]
        child.communicate(b"\n")
    assert child.returncode == 0
