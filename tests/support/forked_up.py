"""`falqon up` from forks: what it starts in Python need not import anything either, so that a
service costs a fifth of the CPU time. What its workers start is as always.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from app.base.processes import supervised_process
from app.base.processes.child_process import ChildProcess
from app.base.processes.parent_death import die_with_parent
from app.local import embedded
from tests.support.forks import run_falqon, run_module

PROCESS_NAME = "TESTS_PROCESS_NAME"  # what the kernel is to call the forks


def run_up(arguments: list[str], folder: Path) -> None:
    """In a `Fork`: run the command with these arguments in this folder."""
    os.chdir(folder)
    _take_name()
    with (
        patch.object(supervised_process, "ChildProcess", ForkedProgram),
        patch.object(embedded, "ChildProcess", ForkedProgram),
    ):
        run_falqon(arguments)


class ForkedProgram(ChildProcess):
    """`python -m` of a module as a fork of this process, which has imported most of it."""

    def _execute_child(self, args: list[str], *options: Any) -> None:
        program = args[args.index(str(os.getpid())) + 1 :]
        if program[:2] != [sys.executable, "-m"]:
            super()._execute_child(args, *options)  # type: ignore[misc]
            return
        environment = dict(options[5])  # which may be that of this process
        stdin, _, _, stdout, _, stderr = pipes = options[9:15]
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _become(program[2:], environment, (stdin, stdout, stderr), parent)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def _become(
    program: list[str], environment: Mapping[str, str], streams: tuple[int, ...], parent: int
) -> None:
    code = 1
    try:
        os.setsid()
        die_with_parent(parent)
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
        os.closerange(len(streams), os.sysconf("SC_OPEN_MAX"))
        for signal_number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(signal_number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(environment)
        _take_name()
        run_module(program)
        code = 0
    except SystemExit as end:
        code = _code(end)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _take_name() -> None:
    Path("/proc/self/comm").write_text(os.environ[PROCESS_NAME])


def _code(end: SystemExit) -> int:
    if isinstance(end.code, str):
        sys.stderr.write(f"{end.code}\n")
        return 1
    return int(end.code or 0)
