"""The parts of this worker process, built once when first needed."""

import socket
import threading
from collections.abc import Collection
from functools import cache

from redis import Redis

from app.database import Database
from app.ids import new_id
from app.notifier.broker import CPU_QUEUE, GPU_QUEUE, Notifier
from app.prices.service import file_prices
from app.settings import Settings, load_settings
from app.storage import Storage
from worker.attempt.supervisor import Supervisor
from worker.gpu import detect
from worker.operations.dataset_stats import Inspector
from worker.operations.export import Exporter
from worker.operations.generation import Answerer
from worker.workers import CpuWorker, GpuWorker, Poller

drain = threading.Event()
REDIS_TIMEOUT_SECONDS = 1.0


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
def gpu_worker() -> GpuWorker:
    redis = Redis.from_url(
        settings().resolved_redis_url, socket_timeout=REDIS_TIMEOUT_SECONDS, socket_connect_timeout=REDIS_TIMEOUT_SECONDS
    )
    owner = new_id(f"{socket.gethostname()}-")
    file_prices(settings().prices)  # prices that cannot be read are better refused now than with the first job
    return GpuWorker(Supervisor(settings(), database(), storage(), redis, detect(settings()), owner, drain))


@cache
def cpu_worker() -> CpuWorker:
    return CpuWorker(settings(), database(), storage(), Notifier(settings()), drain)


@cache
def inspector() -> Inspector:
    return Inspector(settings(), database(), storage(), drain)


@cache
def exporter() -> Exporter:
    return Exporter(settings(), database(), storage(), drain)


@cache
def answerer() -> Answerer:
    return Answerer(settings(), database(), storage(), drain)


def _poll_files() -> None:
    """Checks first: jobs wait for them."""
    cpu_worker().poll()
    inspector().poll()


def pollers(queues: Collection[str]) -> list[Poller]:
    """For each of our queues that this process serves. Exports take long, so what people wait for has threads of its own."""
    polls = (
        (GPU_QUEUE, lambda: gpu_worker().poll()),
        (CPU_QUEUE, _poll_files),
        (CPU_QUEUE, lambda: exporter().poll()),
        (CPU_QUEUE, lambda: answerer().poll()),
    )
    return [Poller(poll, settings().poll.total_seconds(), drain) for queue, poll in polls if queue in queues]
