"""Queues and their workers. Celery is not imported: `falqon up` would hold it in memory."""

import sys

from app.base.ids import new_id

GPU_QUEUE = "gpu"
CPU_QUEUE = "cpu"


def worker_command(queue: str) -> list[str]:
    name = f"{new_id(f'{queue}-')}@%h"
    options = f"-P threads -c 1 -Q {queue} --without-gossip --without-mingle -n {name}".split()
    return [sys.executable, "-m", "celery", "-A", "worker.entry.celery_app", "worker", *options]


def joined_command(url: str) -> list[str]:
    """Return the command of a worker that reaches only the API; its token is in the environment."""
    return [sys.executable, "-m", "worker.entry.joined", url]


def once_command(wait_seconds: float, exit_zero: bool, job_id: str | None) -> list[str]:
    """Return the command of a worker without Celery, which polls by itself."""
    command = [sys.executable, "-m", "worker.entry.once", "--wait", str(wait_seconds)]
    command += ["--exit-zero"] if exit_zero else []
    return command if job_id is None else [*command, "--job", job_id]
