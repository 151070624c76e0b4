import subprocess
import sys
from pathlib import Path

from worker.attempt.scratch import scratch


def test_a_folder_lives_as_long_as_its_attempt(tmp_path: Path) -> None:
    with scratch(tmp_path, "a.1") as first, scratch(tmp_path, "a.2") as second:
        (first / "x").write_text("x")
        assert second.is_dir()
        assert first.is_dir(), "whoever is alive keeps its folder"
    assert not first.exists()
    assert not second.exists()


def test_what_a_killed_worker_left_is_swept(tmp_path: Path) -> None:
    program = "import os, sys, pathlib, worker.attempt.scratch as s\nwith s.scratch(pathlib.Path(sys.argv[1]), 'dead.1'): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == 9
    assert (tmp_path / "dead.1").is_dir()
    with scratch(tmp_path, "b.1"):
        assert not (tmp_path / "dead.1").exists()
