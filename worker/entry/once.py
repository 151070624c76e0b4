"""`falqon worker --once` and `--job ID`: one job, then the end, for schedulers that start a process
for each job. The exit code tells what became of the job from a worker that could not work.
"""

import argparse
import os
import time
from enum import IntEnum

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.base import logging, tracing
from app.base.processes.stop_signals import set_at_stop_signals
from app.garbage import installation
from app.jobs.given_job import find_obstacle
from app.jobs.next_job import DeviceOffer
from app.models import Job, JobStatus
from worker.attempt.supervisor import Supervisor
from worker.entry import process
from worker.entry.doctor import diagnose_worker
from worker.machine import metrics, pulse, scratch

log = structlog.get_logger()


class OnceExit(IntEnum):
    """2 is left out: a command that was not understood ends with it."""

    SUCCEEDED = 0
    WORKER_FAILED = 1  # The worker could not ask for a job; Python's own exit code, too.
    NOTHING_QUEUED = 3  # With --job: the job does not begin here.
    REQUEUED = 4  # The worker was stopped, or the attempt was lost; another attempt continues.
    STOPPED = 5  # paused or cancelled
    JOB_FAILED = 6  # The job failed for good.


EXIT_BY_STATUS = {
    JobStatus.SUCCEEDED: OnceExit.SUCCEEDED,
    JobStatus.FAILED: OnceExit.JOB_FAILED,
    JobStatus.PAUSED: OnceExit.STOPPED,
    JobStatus.CANCELLED: OnceExit.STOPPED,
}


def execute_once(wait_seconds: float, job_id: str | None) -> OnceExit:
    """Execute the first job that comes within so many seconds, or `job_id` and no other."""
    supervisor = process.supervisor(job_id)
    context = process.context()
    is_diagnosed = False
    ended = OnceExit.NOTHING_QUEUED
    deadline = time.monotonic() + wait_seconds
    while not context.shutting_down.is_set():
        is_late = time.monotonic() >= deadline
        try:
            if _is_hopeless(supervisor, job_id, is_late):
                return OnceExit.NOTHING_QUEUED
            if not is_diagnosed:
                is_diagnosed = True
                diagnose_worker(context, supervisor.machine)
            if supervisor.execute_next():
                return _outcome_of(supervisor)
            ended = OnceExit.NOTHING_QUEUED
        except SQLAlchemyError as error:
            log.warning("poll for jobs failed", error=str(error))
            ended = OnceExit.WORKER_FAILED
        pulse.beat()
        if is_late:
            if job_id is not None and ended is OnceExit.NOTHING_QUEUED:
                _log_missed(job_id, "no card became free in time, or this machine is drained")
            break
        poll_seconds = context.settings.poll.total_seconds()
        context.shutting_down.wait(min(max(0.0, deadline - time.monotonic()), poll_seconds))
    return ended


def _is_hopeless(supervisor: Supervisor, job_id: str | None, is_late: bool) -> bool:
    """Return True if this worker will not get the job, and log the reason: no waiting helps, or the
    time for it is over.
    """
    if job_id is None:
        return False
    machine = supervisor.machine
    with process.database().read() as session:
        obstacle = find_obstacle(session, DeviceOffer(machine.device, machine.max_gpus), job_id)
    if obstacle is None or (obstacle.may_pass and not is_late):
        return False
    _log_missed(job_id, obstacle.reason)
    return True


def _log_missed(job_id: str, reason: str) -> None:
    log.warning("the job does not begin here", job_id=job_id, reason=reason)


def _outcome_of(supervisor: Supervisor) -> OnceExit:
    """Read the outcome of the job; a job that another worker has by now was requeued."""
    assert supervisor.last_job_id is not None
    with process.database().read() as session:
        job = session.get(Job, supervisor.last_job_id)
    status = JobStatus.CANCELLED if job is None else JobStatus(job.status)
    return EXIT_BY_STATUS.get(status, OnceExit.REQUEUED)


def main() -> int:
    parser = argparse.ArgumentParser(prog="falqon worker --once")
    parser.add_argument("--wait", type=float, required=True)
    parser.add_argument("--job")
    parser.add_argument("--exit-zero", action="store_true")
    arguments = parser.parse_args()
    settings = process.settings()
    logging.configure(logging.secrets_of(settings, os.environ))
    tracing.configure(settings, "worker")
    set_at_stop_signals(process.shutting_down)
    _wait_for_installation(arguments.wait)
    scratch.sweep_all(settings.work_dir)
    pulse.show_in(settings.alive_file)
    metrics.serve(settings)
    ended = execute_once(arguments.wait, arguments.job)
    log.info("worker ends", outcome=ended.name.lower(), exit_code=int(ended))
    is_zero = arguments.exit_zero and ended is not OnceExit.WORKER_FAILED
    return 0 if is_zero else ended


def _wait_for_installation(limit_seconds: float) -> None:
    """Raise `SystemExit` where database and storage do not answer, or do not belong together."""
    parts = process.database(), process.storage()
    try:
        is_known = installation.wait_until_known(*parts, process.shutting_down, limit_seconds)
    except installation.Mismatch as error:
        raise SystemExit(str(error)) from None
    if not is_known and not process.shutting_down.is_set():
        raise SystemExit("Database or storage do not answer: `falqon check` says more.")


if __name__ == "__main__":
    raise SystemExit(main())
