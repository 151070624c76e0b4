"""A Redis that takes connections and never answers, or that was wiped, costs a submission a moment
and nothing else.
"""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.models import JobStatus
from tests.support.api import Api, Tenant


@pytest.fixture
def silent_redis() -> Iterator[str]:
    """The kernel completes the handshake; nobody ever reads."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


@pytest.fixture
def tenant(tmp_path: Path, silent_redis: str) -> Iterator[Tenant]:
    api = Api(f"sqlite:///{tmp_path / 'falqon.db'}", tmp_path, redis_url=silent_redis)
    tenant = Tenant(api)
    yield tenant
    tenant.http.close()
    api.stop()


def test_a_half_open_redis_refuses_nobody(tenant: Tenant) -> None:
    """The client gives up after ten seconds; each of these calls notifies, and some count."""
    job = tenant.job()
    assert job.status == JobStatus.QUEUED
    claim = tenant.claim(job.id)
    assert tenant.client.fine_tuning.jobs.cancel(claim.job_id).status == JobStatus.RUNNING
    assert tenant.http.get("/readyz").json()["checks"]["redis"] == "unreachable"
