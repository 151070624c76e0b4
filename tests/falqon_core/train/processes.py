"""Trainer processes: messages arrive over a pipe while they run, as at a supervisor."""

import json
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch.distributed import TCPStore

from falqon_core.cli import app
from falqon_core.contract.messages import AnyMessage, decode
from tests.falqon_core.verification import here
from tests.support.forks import Fork

ROOT = Path(__file__).parents[3]
NOT_INHERITED = 1_000  # a descriptor that nobody has open: the other ranks must not write to theirs
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "PYTHONWARNINGS": "error",
}


class Running:
    def __init__(self, process: Fork, pipe: int) -> None:
        self.process = process
        self.messages: list[AnyMessage] = []
        self.pipe = open(pipe, "rb")  # noqa: SIM115, closed by `ranks`

    def read(self) -> Iterator[AnyMessage]:
        """Messages as they arrive, until the process closes its end."""
        for line in self.pipe:
            self.messages.append(decode(line))
            yield self.messages[-1]

    def finish(self) -> int:
        """Read to the end; returns the exit code."""
        for _ in self.read():
            pass
        return self.process.wait(60)


def write_config(
    path: Path, model: Path, train_file: Path, recipe: dict[str, Any], *, certificate: bool = False
) -> Path:
    config = {
        "model": str(model),
        "train_file": str(train_file),
        "num_threads": 1,
        "certificate": certificate,
        "recipe": recipe,
    }
    path.write_text(json.dumps(config))
    return path


@contextmanager
def trainer(config: Path, output: Path) -> Iterator[Running]:
    with ranks([config], output) as (running, _):
        yield running


@contextmanager
def launched(config: Path, output: Path, num_processes: int) -> Iterator[Running]:
    """One command that starts its ranks itself, each anew."""
    arguments = [*command(config, output), "--num-processes", str(num_processes)]
    with _started(_run, arguments, output) as running:
        yield running


@contextmanager
def parent_of_trainer(config: Path, output: Path) -> Iterator[Running]:
    """A process that waits, and its child, which alone has the pipe."""
    with _started(_run_in_child, command(config, output), output) as running:
        yield running


@contextmanager
def _started(
    function: Callable[[list[str], Connection], None], arguments: list[str], output: Path
) -> Iterator[Running]:
    read, write = os.pipe()
    inherited = Connection(write, readable=False)
    log = output.parent / f"{output.name}.log"
    process = Fork(function, arguments, inherited, environment=ENVIRONMENT, output=log)
    inherited.close()
    running = Running(process, read)
    try:
        yield running
    finally:
        process.kill()
        process.wait()
        running.pipe.close()


def command(config: Path, output: Path) -> list[str]:
    return ["train", "--config", str(config), "--output", str(output)]


def run_as_fork(command: Sequence[str], *, pass_fds: Sequence[int], **_: object) -> None:
    """What `subprocess.run` is for a trainer that gets one descriptor for its messages."""
    arguments = list(command[command.index("train") : command.index("--message-fd")])
    with Connection(os.dup(pass_fds[0]), readable=False) as messages:
        Fork(_run, arguments, messages, environment=ENVIRONMENT, output=Path(os.devnull)).wait(60)


def children(process_id: int) -> list[int]:
    listed = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
    return [int(child) for child in listed.split()]


@contextmanager
def ranks(
    configs: Sequence[Path], output: Path, prepare: Sequence[Callable[[], None]] = ()
) -> Iterator[tuple[Running, list[Fork]]]:
    """The first rank and the others, one per configuration, all with one command line and the
    environment that torchrun gives. Each calls its own of `prepare` first, where there is one.

    As under torchrun the store belongs to whoever starts them. Only the first inherits the pipe.
    """
    read, write = os.pipe()
    inherited = Connection(write, readable=False)
    store = (
        TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        if len(configs) > 1
        else None
    )
    processes = []
    for rank, config in enumerate(configs):
        environment = ENVIRONMENT | (_of_torchrun(rank, len(configs), store.port) if store else {})
        log = output.parent / f"{output.name}.log"
        processes.append(
            Fork(
                _run,
                command(config, output),
                inherited if rank == 0 else None,
                prepare[rank] if prepare else None,
                environment=environment,
                output=log,
            )
        )
    inherited.close()
    running = Running(processes[0], read)
    try:
        yield running, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
        running.pipe.close()


@contextmanager
def group_of(
    size: int, function: Callable[..., None], *arguments: object, log: Path
) -> Iterator[list[Fork]]:
    """Processes that call `function`, in the environment that torchrun gives them."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes = [
        Fork(
            function,
            *arguments,
            environment=ENVIRONMENT | _of_torchrun(rank, size, store.port),
            output=log,
        )
        for rank in range(size)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _run(
    arguments: list[str],
    messages: Connection | None,
    prepare: Callable[[], None] | None = None,
) -> None:
    if prepare is not None:
        prepare()
    warnings.simplefilter("error")  # as `PYTHONWARNINGS` does for a process that is started anew
    with patch(here.NAME, here.SUBPROCESS):
        app([*arguments, "--message-fd", str(messages.fileno() if messages else NOT_INHERITED)])


def _run_in_child(arguments: list[str], messages: Connection) -> None:
    if os.fork() == 0:
        _run(arguments, messages)
    messages.close()
    signal.pause()


def _of_torchrun(rank: int, size: int, port: int) -> dict[str, str]:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    return {name: str(number) for name, number in numbers.items()} | {
        "MASTER_ADDR": "127.0.0.1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
