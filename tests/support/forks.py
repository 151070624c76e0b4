"""Programs of ours as forks of a process that has imported them: a worker costs a tenth of a second
of CPU to start, not a whole one, and a trainer not the four seconds in which torch and transformers
are imported.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.base.processes import parent_death

ROOT = Path(__file__).resolve().parents[2]
# The modules that the programs import and start with; not `worker.entry.celery_app`, which reads
# the environment as it is imported.
PRELOADED = [
    "app.client.root",
    "app.local.bootstrap",
    "app.main",
    "celery.apps.worker",
    "celery.bin.celery",
    "falqon_core.cli",
    "falqon_core.train.trainer",
    "pytest",
    "tests.chaos.api_process",
    "uvicorn",
    "worker.entry.tasks",
    __name__,
    "tests.support.backend",
    "tests.support.forked_up",
    "tests.support.frozen",  # last
]
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(PRELOADED)


class Fork:
    """What `subprocess.Popen` is for a command, for a function that can be pickled. It dies with
    the process of the tests.
    """

    def __init__(
        self,
        function: Callable[..., None],
        *arguments: object,
        environment: Mapping[str, str],
        output: Path,
    ) -> None:
        self._process = _PROCESSES.Process(
            target=_become, args=(function, arguments, dict(environment), output), daemon=True
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> int:
        self._process.join(seconds)
        if (ended := self.poll()) is None:
            assert seconds is not None
            raise subprocess.TimeoutExpired(str(self._process), seconds)
        return ended

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def run_falqon(arguments: Sequence[str]) -> None:
    """In a `Fork`: run the command."""
    from app.cli import app

    app(arguments, prog_name="falqon")


def run_module(program: Sequence[str]) -> None:
    """In a `Fork`: be `python -m` of a module with these arguments."""
    sys.modules.pop("app.main", None)  # which reads the environment as it is imported
    sys.argv = list(program)
    runpy.run_module(program[0], run_name="__main__", alter_sys=True)


def _become(
    function: Callable[..., None],
    arguments: tuple[object, ...],
    environment: Mapping[str, str],
    output: Path,
) -> None:
    from falqon_core import fault_points

    os.setsid()
    parent_death.die_with_parent(os.getppid())
    os.chdir(ROOT)
    with output.open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    os.environ.clear()
    os.environ.update(environment)
    fault_points.arm(environment.get("FAULT_POINTS", ""), environment.get("FAULT_MARKS", ""))
    function(*arguments)
