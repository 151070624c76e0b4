"""One command, several processes: as one process to whoever started it. Each start of theirs loads
torch anew, so one training meets every end in turn, and forks carry it to its last step.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from falqon_core.contract.messages import (
    CheckpointSaved,
    ExitCode,
    Failed,
    Finished,
    Started,
    StepMetrics,
    decode,
)
from falqon_core.train.launch import _common_code
from tests.falqon_core.train.processes import (
    ENVIRONMENT,
    Running,
    children,
    command,
    launched,
    ranks,
    write_config,
)
from tests.falqon_core.train.trainings import bytes_of
from tests.support.waiting import wait_for

NUM_STEPS = 20
RECIPE = {
    "rank": 8, "max_seq_length": 64, "batch_size": 4, "max_steps": NUM_STEPS, "num_epochs": 10,
    "checkpoint_every": 3, "a_init": "orthonormal",
}  # fmt: skip


def read_to_step(running: Running, step: int) -> list[int]:
    """Read until the step is told; returns the process ids of the ranks."""
    for message in running.read():
        if isinstance(message, StepMetrics) and message.step >= step:
            return children(running.process.pid)
    raise AssertionError(f"it ended before step {step}: {running.messages}")


def start_step(running: Running) -> int:
    (started,) = [message for message in running.messages if isinstance(message, Started)]
    return started.start_step


def catches_stops(process_id: int) -> bool:
    """Return whether it is a rank that has begun, and loads torch next."""
    folder = Path(f"/proc/{process_id}")
    is_rank = b"falqon_core" in (folder / "cmdline").read_bytes()
    caught = (folder / "status").read_text().partition("SigCgt:")[2].split()[0]
    return is_rank and bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def is_alive(process_id: int) -> bool:
    """Return whether it runs; a zombie that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_same_command_continues_any_ended_launch_to_the_same_bytes(
    tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "config.json", tiny_folder, train_file, RECIPE)
    output = tmp_path / "out"

    with launched(config, output, 2) as stopped:
        both = read_to_step(stopped, 1)
        assert len(both) == 2
        os.kill(stopped.process.pid, signal.SIGUSR1)
        os.kill(stopped.process.pid, signal.SIGTERM)
        assert stopped.finish() == ExitCode.STOPPED
    saved = stopped.messages[-1]
    assert isinstance(saved, CheckpointSaved)
    log = (tmp_path / "out.log").read_text()
    assert log.count("most recent call first") >= 2, "each rank says where it was"

    with launched(config, output, 2) as crippled:
        both = read_to_step(crippled, saved.step + 4)
        os.kill(both[1], signal.SIGKILL)
        assert crippled.finish() == -signal.SIGKILL
    assert start_step(crippled) == saved.step
    assert not any(map(is_alive, both))
    assert not any(isinstance(message, Finished) for message in crippled.messages)

    with launched(config, output, 2) as orphaned:
        wait_for(lambda: sum(map(catches_stops, children(orphaned.process.pid))) == 2)
        both = children(orphaned.process.pid)
        orphaned.process.kill()
        wait_for(lambda: not any(map(is_alive, both)))

    last = finished(config, output)
    assert start_step(last) > saved.step
    finished(config, tmp_path / "whole")
    assert bytes_of(output) == bytes_of(tmp_path / "whole")


def finished(config: Path, output: Path) -> Running:
    """Two ranks to the end, as forks, which have torch."""
    with ranks([config, config], output) as (first, (second,)):
        codes = first.finish(), second.wait(60)
    assert codes == (ExitCode.DONE, ExitCode.DONE), (
        output.parent / f"{output.name}.log"
    ).read_text()
    return first


def test_messages_may_go_to_stdout(train_file: Path, tmp_path: Path) -> None:
    """Both ranks find no model, and the first one says so."""
    config = write_config(tmp_path / "config.json", tmp_path / "nowhere", train_file, RECIPE)
    options = ["--num-processes", "2", "--message-fd", "1"]
    arguments = ["-m", "falqon_core", *command(config, tmp_path / "out"), *options]
    ended = subprocess.run(
        [sys.executable, *arguments], env=ENVIRONMENT, capture_output=True, check=False
    )
    assert ended.returncode == ExitCode.USER_ERROR, ended.stderr
    (failed,) = map(decode, ended.stdout.splitlines())
    assert isinstance(failed, Failed)
    assert failed.param == "model"


@pytest.mark.parametrize(
    ("codes", "common"),
    [
        ([], ExitCode.DONE),
        ([75, 75], ExitCode.STOPPED),
        ([70, -9], -9),
        ([-11, 70], -11),
        ([70, 71], ExitCode.OUT_OF_MEMORY),
        ([-15, 65], ExitCode.USER_ERROR),
        ([70, 70], ExitCode.INTERNAL),
    ],
)
def test_the_code_that_says_most_is_that_of_all(codes: list[int], common: int) -> None:
    assert _common_code(codes) == common
