"""Trainer processes as a supervisor starts them: messages arrive over a pipe while the process runs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

from falqon_core.spec.messages import AnyMessage, decode

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}


class Running:
    def __init__(self, process: "subprocess.Popen[bytes]", pipe: int) -> None:
        self.process = process
        self.messages: list[AnyMessage] = []
        self.pipe = open(pipe, "rb")  # noqa: SIM115, closed by `trainer`

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


def write_config(path: Path, model: Path, train_file: Path, recipe: dict[str, Any], *, certificate: bool = False) -> Path:
    config = {"model": str(model), "train_file": str(train_file), "num_threads": 1, "certificate": certificate, "recipe": recipe}
    path.write_text(json.dumps(config))
    return path


@contextmanager
def trainer(config: Path, output: Path) -> Iterator[Running]:
    with ranks([config], output) as (running, _):
        yield running


@contextmanager
def ranks(configs: Sequence[Path], output: Path) -> Iterator[tuple[Running, list["subprocess.Popen[bytes]"]]]:
    """The first rank and the others, one per configuration, all with one command line and the environment that torchrun gives.

    As under torchrun the store belongs to whoever starts them. Only the first inherits the pipe.
    """
    read, write = os.pipe()
    processes: list[subprocess.Popen[bytes]] = []
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if len(configs) > 1 else None
    with (output.parent / f"{output.name}.log").open("ab") as log:
        for rank, config in enumerate(configs):
            command = [sys.executable, "-m", "falqon_core", "train", "--config", config, "--output", output, "--message-fd", str(write)]
            environment = ENVIRONMENT | (_of_torchrun(rank, len(configs), store.port) if store else {})
            fds = [write] if rank == 0 else []
            processes.append(subprocess.Popen(command, pass_fds=fds, env=environment, cwd=output.parent, stdout=log, stderr=log))
    os.close(write)
    running = Running(processes[0], read)
    try:
        yield running, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
        running.pipe.close()


def _of_torchrun(rank: int, size: int, port: int) -> dict[str, str]:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    return {name: str(number) for name, number in numbers.items()} | {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
