"""Starts as jobs of Slurm, through its own commands: `squeue`, `sbatch` and `scancel`."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from app.dispatch.starts import SchedulerUnavailable, Start, StartRefused, WaitingJob, job_of

COMMAND_SECONDS = 60.0
COLUMNS = "%i|%T|%j"
PENDING = "PENDING"
# Of a controller that does not answer; `sbatch` returns 1 for a refusal, too.
_AWAY = re.compile(r"unable to contact|timed out|connect failure|zero bytes", re.IGNORECASE)


class _CommandFailed(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Slurm:
    """`account` may hold `{project}`. An empty option leaves the choice to Slurm."""

    script: Path
    account: str = ""
    partition: str = ""

    def list(self) -> list[Start]:
        try:
            printed = _execute("squeue", "--me", "--noheader", f"--format={COLUMNS}")
        except _CommandFailed as error:
            raise SchedulerUnavailable(str(error)) from None
        rows = [line.split("|", 2) for line in printed.splitlines() if line.count("|") >= 2]
        starts = [
            Start(name, job_id, reference, has_begun=state != PENDING)
            for reference, state, name in rows
            if (job_id := job_of(name)) is not None and reference.isdecimal()
        ]
        return sorted(starts, key=lambda start: int(start.reference))

    def submit(self, job: WaitingJob) -> None:
        options = ["--parsable", f"--job-name={job.name}", "--nodes=1"]
        if job.has_gpus:
            kind = f"{job.device}:" if job.device else ""
            options.append(f"--gpus={kind}{job.num_gpus}")
        if self.account:
            options.append(f"--account={job.fill(self.account)}")
        if self.partition:
            options.append(f"--partition={self.partition}")
        try:
            _execute("sbatch", *options, str(self.script), job.id)
        except _CommandFailed as error:
            if _AWAY.search(str(error)):
                raise SchedulerUnavailable(str(error)) from None
            raise StartRefused(str(error)) from None

    def withdraw(self, start: Start) -> None:
        """Cancel it if it is still pending when Slurm reads this."""
        try:
            _execute("scancel", f"--state={PENDING}", start.reference)
        except _CommandFailed as error:
            raise SchedulerUnavailable(str(error)) from None


def _execute(*command: str) -> str:
    """Return what the command prints."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SchedulerUnavailable(f"{command[0]} did not end in {COMMAND_SECONDS:g} s") from None
    except OSError as error:
        raise SchedulerUnavailable(f"{command[0]}: {error.strerror or error}") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise _CommandFailed("; ".join(lines[-3:]) or f"{command[0]} ended with {done.returncode}")
    return done.stdout
