"""The parts of this worker process, built once when first needed."""

import socket
import threading
from collections.abc import Collection
from functools import cache, partial
from itertools import chain
from typing import Any

from redis import Redis

from app.attempts.gateway import DirectGateway
from app.base.database import Database
from app.base.ids import new_id
from app.base.settings import Settings, load_settings
from app.base.storage import Storage
from app.models import Base, Engine, Job
from app.notifier.broker import queue_of
from app.prices.service import file_prices
from worker.attempt.supervisor import Supervisor
from worker.context import WorkerContext
from worker.entry.workers import GpuWorker, Poller
from worker.inference.engine_host import EngineHost
from worker.machine.gpu import detect
from worker.operations.handler import OperationHandler
from worker.operations.registry import HANDLERS

shutting_down = threading.Event()
_building = threading.Lock()
_pollers: dict[str, list[Poller]] = {}
REDIS_TIMEOUT_SECONDS = 1.0
KINDS: tuple[type[Base], ...] = (Job, Engine, *HANDLERS)


@cache
def settings() -> Settings:
    return load_settings()


@cache
def database() -> Database:
    return Database(settings().resolved_database_url)


@cache
def storage() -> Storage:
    return Storage(settings().resolved_storage_url)


@cache
def context() -> WorkerContext:
    owner = new_id(f"{socket.gethostname()}-")
    return WorkerContext(settings(), database(), storage(), owner, shutting_down)


def poll(kind: str) -> None:
    """Work until no row of this table waits."""
    with _building:
        worker = _worker(kind)
    worker.poll()


def start_pollers(queues: Collection[str]) -> None:
    """Start a poller for each piece of work that this process may do at a time, of each kind whose
    queue it serves. Exports take long, and what people wait for must not wait behind one.
    """
    seconds = settings().poll.total_seconds()
    for kind in KINDS:
        if queue_of(kind) in queues:
            name = kind.__tablename__
            num_at_once = HANDLERS[kind].num_at_once if kind in HANDLERS else 1
            _pollers[name] = [
                Poller(partial(poll, name), seconds, shutting_down) for _ in range(num_at_once)
            ]
    for poller in chain.from_iterable(_pollers.values()):
        poller.start()


def wake_pollers(kind: str) -> None:
    """Have all pollers of this kind poll now, those that work as soon as they are done."""
    for poller in _pollers.get(kind, ()):
        poller.wake()


def wake_all_pollers() -> None:
    """Have the pollers of every kind poll now."""
    for poller in chain.from_iterable(_pollers.values()):
        poller.wake()


def join_pollers() -> None:
    """Wait until every poller has ended, as they do once the process is shutting down, and then
    every engine.
    """
    wake_all_pollers()
    for poller in chain.from_iterable(_pollers.values()):
        poller.join()
    engine_host().join()


@cache
def engine_host() -> EngineHost:
    return EngineHost(context())


@cache
def _worker(kind: str) -> GpuWorker | EngineHost | OperationHandler[Any]:
    if kind == Job.__tablename__:
        return GpuWorker(context(), supervisor())
    if kind == Engine.__tablename__:
        return engine_host()
    handlers = {model.__tablename__: handler for model, handler in HANDLERS.items()}
    return handlers[kind](context())


@cache
def supervisor(only_job: str | None = None) -> Supervisor:
    """Return the supervisor, which executes the jobs of this process one after the other, or no job
    but `only_job`.
    """
    redis = Redis.from_url(
        settings().resolved_redis_url,
        socket_timeout=REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
    )
    # Prices that cannot be read are better refused now than with the first job.
    file_prices(settings().prices)
    gateway = DirectGateway(
        settings(), database(), storage(), redis, context().owner, only_job=only_job
    )
    return Supervisor(settings(), gateway, detect(settings()), shutting_down)
