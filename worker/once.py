"""`falqon worker --once`: one job, then the end, for engines that start a process for each job. The
exit code says how it went.
"""

import argparse
import os
import signal
import time
from enum import IntEnum

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app import installation, logging, tracing
from app.models import Job, JobStatus
from worker import metrics, process, pulse, scratch
from worker.attempt.supervisor import Supervisor
from worker.doctor import diagnose_worker

log = structlog.get_logger()


class OnceExit(IntEnum):
    """2 is left out: a command that was not understood ends with it."""

    SUCCEEDED = 0
    FAILED = 1  # for good
    NOTHING_QUEUED = 3
    REQUEUED = 4  # the worker was stopped, or the attempt was lost; another one continues
    STOPPED = 5  # paused or cancelled


CODES = {
    JobStatus.SUCCEEDED: OnceExit.SUCCEEDED,
    JobStatus.FAILED: OnceExit.FAILED,
    JobStatus.PAUSED: OnceExit.STOPPED,
    JobStatus.CANCELLED: OnceExit.STOPPED,
}


def execute_once(wait_seconds: float) -> OnceExit:
    """Execute the first job that comes within so many seconds."""
    supervisor = process.supervisor()
    context = process.context()
    diagnose_worker(context, supervisor.machine)
    deadline = time.monotonic() + wait_seconds
    while not context.shutting_down.is_set():
        if _execute_next(supervisor):
            return _outcome_of(supervisor)
        pulse.beat()
        left = deadline - time.monotonic()
        if left <= 0:
            break
        context.shutting_down.wait(min(left, context.settings.poll.total_seconds()))
    return OnceExit.NOTHING_QUEUED


def _execute_next(supervisor: Supervisor) -> bool:
    try:
        return supervisor.execute_next()
    except SQLAlchemyError as error:
        log.warning("poll for jobs failed", error=str(error))
        return False


def _outcome_of(supervisor: Supervisor) -> OnceExit:
    """Read what became of the job; what another worker has by now was requeued."""
    assert supervisor.last_job_id is not None
    with process.database().read() as session:
        job = session.get(Job, supervisor.last_job_id)
    status = JobStatus.CANCELLED if job is None else JobStatus(job.status)
    return CODES.get(status, OnceExit.REQUEUED)


def main() -> int:
    parser = argparse.ArgumentParser(prog="falqon worker --once")
    parser.add_argument("--wait", type=float, required=True)
    wait_seconds: float = parser.parse_args().wait
    settings = process.settings()
    logging.configure(logging.secrets_of(settings, os.environ))
    tracing.configure(settings, "worker")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.shutting_down.set())
    try:
        installation.wait_until_known(process.database(), process.storage())
    except installation.Mismatch as error:
        raise SystemExit(str(error)) from None
    scratch.sweep_all(settings.work_dir)
    pulse.show_in(settings.alive_file)
    metrics.serve(settings)
    ended = execute_once(wait_seconds)
    log.info("worker ends", outcome=ended.name.lower(), exit_code=int(ended))
    return ended


if __name__ == "__main__":
    raise SystemExit(main())
