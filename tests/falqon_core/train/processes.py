"""Trainer processes as a supervisor starts them: messages arrive over a pipe while the process runs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


def write_config(path: Path, model: Path, train_file: Path, recipe: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"model": str(model), "train_file": str(train_file), "num_threads": 1, "recipe": recipe}))
    return path


@contextmanager
def trainer(config: Path, output: Path) -> Iterator[Running]:
    read, write = os.pipe()
    command = [sys.executable, "-m", "falqon_core", "train", "--config", config, "--output", output, "--message-fd", str(write)]
    with (output.parent / f"{output.name}.log").open("ab") as log:
        process = subprocess.Popen(command, pass_fds=[write], env=ENVIRONMENT, cwd=output.parent, stdout=log, stderr=log)
    os.close(write)
    running = Running(process, read)
    try:
        yield running
    finally:
        process.kill()
        process.wait()
        running.pipe.close()
