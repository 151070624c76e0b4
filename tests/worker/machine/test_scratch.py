import subprocess
import sys
from pathlib import Path

from worker.machine.scratch import scratch, sweep_all


def test_a_folder_lives_as_long_as_its_attempt(tmp_path: Path) -> None:
    with scratch(tmp_path, "a.1") as first, scratch(tmp_path, "a.2") as second:
        (first / "x").write_text("x")
        assert second.is_dir()
        assert first.is_dir(), "whoever is alive keeps its folder"
    assert not first.exists()
    assert not second.exists()


def left_by_a_killed_worker(root: Path) -> Path:
    program = (
        "import os, sys, pathlib, worker.machine.scratch as s\nwith "
        "s.scratch(pathlib.Path(sys.argv[1]), 'dead.1'): os._exit(9)"
    )
    command = [sys.executable, "-c", program, str(root)]
    assert subprocess.run(command, check=False).returncode == 9
    assert (root / "dead.1").is_dir()
    return root / "dead.1"


def test_folders_of_a_killed_worker_are_removed(tmp_path: Path) -> None:
    folder = left_by_a_killed_worker(tmp_path / "attempts")
    with scratch(tmp_path / "attempts", "b.1"):
        assert not folder.exists()


def test_a_worker_that_starts_sweeps_every_folder(tmp_path: Path) -> None:
    folder = left_by_a_killed_worker(tmp_path / "attempts")
    sweep_all(tmp_path)
    assert not folder.exists()


def test_a_sweep_leaves_what_is_in_use(tmp_path: Path) -> None:
    sweep_all(tmp_path / "not there yet")
    (tmp_path / "models" / "whole").mkdir(parents=True)
    with scratch(tmp_path / "attempts", "a.1") as folder:
        sweep_all(tmp_path)
        assert folder.is_dir()
    assert (tmp_path / "models" / "whole").is_dir()
