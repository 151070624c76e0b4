"""A job's integrations: each in a process of its own that is fed metrics. None can fail or delay
the job: its fault is one warning.
"""

import os
import queue
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import structlog

from app.attempts.values import Verdict
from app.base.private_dir import private_folder
from app.base.processes.child_process import ChildProcess
from app.jobs.events import NewEvent
from app.models import Job
from app.models.base import JsonObject
from app.models.integrations import Integration
from worker.attempt.lease import LeaseLost
from worker.attempt.writer import AttemptWriter
from worker.machine.subprocesses import last_lines
from worker.trackers.protocol import Metrics, Outcome, OutcomeName, Run, TrackerLine

FINISH_SECONDS = 15.0  # Shared by all trackers, after the trainer has ended.
MAX_BEHIND = 10_000  # Points that a tracker may lag behind the training.
# -P: nothing in its working directory is taken for a module
TRACKER_COMMAND = [sys.executable, "-P", "-m", "worker.trackers"]
SERVICE_VARIABLES = re.compile(r"^(FALQON|AWS|GOOGLE|AZURE|PG)_?|^(DATABASE|REDIS|STORAGE)_URL$")
# Nothing beyond what the user asked for leaves the machine.
NO_TELEMETRY = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "GRADIO_ANALYTICS_ENABLED": "False",
}
KEPT_LOG_LINES = 20
OUTCOMES: dict[Verdict, OutcomeName] = {Verdict.SUCCEEDED: "succeeded", Verdict.FAILED: "failed"}
COUNTER_NAMES = {"step", "total_steps"}

log = structlog.get_logger()


class Trackers:
    """`home` is where trackers leave what they keep on this machine; what their libraries print
    goes to `logs`.
    """

    def __init__(self, writer: AttemptWriter, job: Job, home: Path, logs: Path) -> None:
        self._processes = [
            TrackerProcess(writer, _run(job, integration), home, logs)
            for integration in job.requested.integrations or ()
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.stop("")

    def add(self, step: int, data: JsonObject) -> None:
        """Pass numbers on without waiting."""
        numbers = {
            name: value
            for name, value in data.items()
            if isinstance(value, int | float) and name not in COUNTER_NAMES
        }
        for process in self._processes:
            process.put(Metrics(step=step, values=numbers))

    def finish(self, verdict: Verdict) -> None:
        """Pass on how the attempt ended, and wait a little for the trackers' end."""
        outcome = OUTCOMES.get(verdict, "stopped")
        deadline = time.monotonic() + FINISH_SECONDS
        for process in self._processes:
            process.put(Outcome(outcome=outcome))
        for process in self._processes:
            if not process.join(deadline - time.monotonic()):
                process.stop(f"it did not finish within {FINISH_SECONDS:g} seconds")
                process.join(1.0)  # The thread still has to report the stop.


class TrackerProcess:
    """A thread owns the process: it starts it, writes to it, and waits for it. Other threads only
    kill it.
    """

    def __init__(self, writer: AttemptWriter, run: Run, home: Path, logs: Path) -> None:
        self._writer = writer
        self._run = run
        self._home = home
        self._log = logs / f"{run.type}.log"
        self._lines: queue.Queue[TrackerLine | None] = queue.Queue(MAX_BEHIND)  # None: stopped
        self._process: ChildProcess | None = None
        self._stopped_because: str | None = None  # Empty for a stop without a message.
        self._thread = threading.Thread(target=self._work, name=f"tracker {run.type}", daemon=True)
        self._thread.start()

    def put(self, line: TrackerLine) -> None:
        if self._stopped_because is None and self._thread.is_alive():
            try:
                self._lines.put_nowait(line)
            except queue.Full:
                self.stop(f"it is more than {MAX_BEHIND} points behind")

    def join(self, seconds: float) -> bool:
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def stop(self, reason: str) -> None:
        if self._stopped_because is None and self._thread.is_alive():
            self._stopped_because = reason
            if self._process is not None:
                self._process.kill_group()
            with suppress(queue.Full):  # The thread wakes up; a full queue wakes it anyway.
                self._lines.put_nowait(None)

    def _work(self) -> None:
        try:
            reason = self._feed()
        except OSError as error:
            reason = f"its process could not be started ({error.strerror})"
        if not reason:
            return
        log.warning(
            "tracker stopped",
            job_id=self._run.job_id,
            integration=self._run.type,
            reason=reason,
            output=self._last_lines(),
        )
        with suppress(LeaseLost):
            text = (
                f"Reporting to {self._run.type} has stopped: {reason}. The job goes on without it."
            )
            self._writer.add_event(
                NewEvent(text, level="warn", data={"integration": self._run.type})
            )

    def _feed(self) -> str | None:
        """Feed the process until it has ended; return why it did not end well."""
        private_folder(self._home)
        with self._log.open("wb") as stream:
            process = self._process = ChildProcess(
                TRACKER_COMMAND,
                NO_TELEMETRY
                | {
                    name: value
                    for name, value in os.environ.items()
                    if not SERVICE_VARIABLES.search(name)
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                folder=self._home,
            )
        if self._stopped_because is not None:  # It was stopped during its start.
            process.kill_group()
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError), process.stdin as stdin:
            line: TrackerLine | None = self._run
            while line is not None and self._stopped_because is None:
                stdin.write(line.model_dump_json().encode() + b"\n")
                stdin.flush()
                if isinstance(line, Outcome):
                    break
                line = self._lines.get()
        with process.stdout as stdout:
            failure = stdout.read().decode(errors="replace")
        exit_code = process.wait()
        process.kill_group()  # The process may have left children behind.
        if self._stopped_because is not None:
            return self._stopped_because
        if exit_code == 0:
            return None
        return failure or f"its process ended with exit code {exit_code}"

    def _last_lines(self) -> str:
        if not self._log.exists():
            return ""
        with self._log.open("rb") as stream:
            return last_lines(stream, KEPT_LOG_LINES)


def _run(job: Job, integration: Integration) -> Run:
    options = getattr(integration, integration.type)
    fields = job.recipe.model_dump(mode="json") if job.recipe else {}
    scalars = {
        name: value for name, value in fields.items() if isinstance(value, str | int | float)
    }
    return Run(
        job_id=job.id,
        type=integration.type,
        options=options.model_dump(exclude_none=True) if options else {},
        params={
            "model": job.base_model_id,
            "training_file": job.training_file_id,
            "validation_file": job.validation_file_id,
        }
        | scalars,
    )
