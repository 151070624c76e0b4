"""Engines as a cpu worker loads them, in this process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from app.base.ids import new_id
from tests.support.api import Api
from worker.context import WorkerContext
from worker.entry.workers import Poller
from worker.inference.engine_host import EngineHost

# A machine that is busy for seconds must not cost a worker its engines, and others their streams.
LEASE = timedelta(seconds=60)
HEARTBEAT = timedelta(seconds=0.3)


@contextmanager
def engine_worker(api: Api, **settings: object) -> Iterator[EngineHost]:
    """Load what is asked for, until the end of the block."""
    shutting_down = threading.Event()
    values = {"lease": LEASE, "heartbeat": HEARTBEAT, "num_threads": 1} | settings
    context = WorkerContext(
        api.settings.model_copy(update=values),
        api.database,
        api.storage,
        new_id("worker-"),
        shutting_down,
    )
    host = EngineHost(context)
    poller = Poller(host.poll, 0.2, shutting_down)
    poller.start()
    try:
        yield host
    finally:
        shutting_down.set()
        poller.join()
        host.join()
