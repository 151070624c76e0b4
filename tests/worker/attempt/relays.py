"""A relay of the first attempt of a job, without the trainer whose messages it reads."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from redis import Redis

from app.attempts.gateway import DirectGateway
from app.jobs.claims import Claim
from app.models import Attempt
from falqon_core.contract.messages import CheckpointSaved
from falqon_core.estimate.prices import default_price
from tests.support.backend import Backend, direct_gateway
from worker.attempt.lease import Lease
from worker.attempt.progress import AttemptProgress
from worker.attempt.relay import Relay
from worker.attempt.spool import Spool
from worker.attempt.writer import AttemptWriter


def add_running_job(backend: Backend) -> str:
    """Return the id of a job that the worker "me" executes."""
    job_id = backend.add_job()
    mine = {"status": "running", "attempt": 1, "lease_owner": "me"}
    backend.set(job_id, **mine, lease_expires_at=backend.job(job_id).created_at)
    with backend.database.transaction() as session:
        session.add(Attempt(job_id=job_id, number=1, worker="me", device="cpu", num_devices=1))
    return job_id


def gateway_of(backend: Backend, redis: Redis | None = None) -> DirectGateway:
    return direct_gateway(replace(backend.context(), owner="me"), redis)


def relay_of(
    backend: Backend,
    job_id: str,
    gateway: DirectGateway,
    spool: Spool,
    on_checkpoint: Callable[[CheckpointSaved], None] = lambda saved: None,
    progress: AttemptProgress | None = None,
    **options: Any,
) -> Relay:
    progress = progress or progress_of(backend, job_id, lambda: 0)
    writer = writer_of(gateway, job_id)
    return Relay(writer, progress, "cpu", spool, on_checkpoint, **options)


def writer_of(gateway: DirectGateway, job_id: str) -> AttemptWriter:
    """Return the writer of an attempt whose lease does not end."""
    lease = Lease(
        gateway,
        Claim(job_id, 1, "me"),
        lease_seconds=1e9,
        heartbeat_seconds=10,
        claimed_at=0,
        on_lost=lambda: None,
    )
    return AttemptWriter(gateway, lease)


def progress_of(backend: Backend, job_id: str, clock: Callable[[], float]) -> AttemptProgress:
    machine, price = backend.supervisor().machine, default_price("cpu")
    return AttemptProgress(backend.job(job_id), machine, clock, price)
