"""The threads of a lease."""

import threading

from app.jobs.claims import Claim
from tests.support.backend import Backend
from tests.support.waiting import wait_for
from tests.worker.attempt.relays import add_running_job, gateway_of
from worker.attempt.lease import Lease


def test_no_thread_is_left_where_the_fence_lapses_as_the_lease_ends(
    embedded_backend: Backend,
) -> None:
    """The loss is not reported then, and so was not noticed by the thread either, which waited for
    it without a pause.
    """
    claim = Claim(add_running_job(embedded_backend), 1, "me")
    lost = threading.Event()
    lease = Lease(
        gateway_of(embedded_backend),
        claim,
        lease_seconds=1.0,
        heartbeat_seconds=10.0,
        claimed_at=0.0,  # Long before now.
        on_lost=lost.set,
    )
    before = set(threading.enumerate())
    lease.__exit__()
    with lease:
        wait_for(lambda: set(threading.enumerate()) <= before, what="both threads end")
    assert not lost.is_set()
    assert not lease.lost
