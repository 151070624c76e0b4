"""The trainer as a process."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from app.base.logging import redact_text
from app.base.processes.nvidia import card_environment
from app.base.processes.subprocess_env import offline_environment
from app.base.terminal import plain
from worker.machine.gpu import Machine
from worker.machine.subprocesses import KEPT_LOG_LINES, CoreProcess, last_lines

STACKS_SIGNAL = signal.SIGUSR1  # The trainer writes the stacks of its threads to its log.
STACKS_SECONDS = 1.0
MAX_LOG_CHARACTERS = 16_384


class TrainerProcess(CoreProcess):
    """`machine`: what the attempt has of it. With several cards, or slots of a CPU, one process
    trains on each; without any it sees what this process does.
    """

    def __init__(
        self, program: Sequence[str], config: Path, output: Path, log: Path, machine: Machine
    ) -> None:
        self._log = log
        environment = offline_environment(os.environ)
        if machine.cards:
            environment |= card_environment(machine.cards if machine.is_gpu else ())
        arguments = ["train", "--config", str(config), "--output", str(output)]
        if len(machine.cards) > 1:
            arguments += ["--num-processes", str(len(machine.cards))]
        with log.open("ab") as stream:
            super().__init__(
                program, arguments, stdout=stream, stderr=stream, environment=environment
            )

    def stop(self) -> None:
        """Ask for a checkpoint and an end."""
        self.signal_group(signal.SIGTERM)

    def kill_hung(self) -> None:
        """Kill it after its log says where it was, if it can still say anything."""
        self.signal_group(STACKS_SIGNAL)
        self.wait_up_to(STACKS_SECONDS)
        self.kill_group()

    def last_log_lines(self) -> str:
        """Return the end of its log, without likely secrets."""
        with self._log.open("rb") as stream:
            text = redact_text(last_lines(stream, KEPT_LOG_LINES))
        return plain(text)[-MAX_LOG_CHARACTERS:]
