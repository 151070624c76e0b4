"""Facts of the database as Prometheus metrics, read at each scrape."""

import threading
import time
from collections.abc import Iterable, Iterator

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.base.database import Database
from app.base.settings import Settings
from app.http.probes import OK, HealthMonitor
from app.metrics import repository
from app.metrics.repository import JobCount
from app.models import EngineState
from app.models.falqon_options import ANY_DEVICE
from app.workers import service as workers

CACHED_SECONDS = 3.0  # upper bound on the rate of queries, independently of the number of scrapers

log = structlog.get_logger()


class InstallationCollector(Collector):
    """Metrics of the installation, the same from each of its API processes: a query takes the
    maximum over them, not their sum.
    """

    def __init__(
        self, database: Database, settings: Settings, health_monitor: HealthMonitor
    ) -> None:
        self._database = database
        self._settings = settings
        self._health_monitor = health_monitor
        self._lock = threading.Lock()
        self._metrics: list[Metric] = []
        self._read_at: float | None = None

    def collect(self) -> Iterable[Metric]:
        """Yield the verdicts on dependencies always, the rest while the database responds."""
        yield self._health()
        yield from self._facts()

    def _health(self) -> Metric:
        family = GaugeMetricFamily(
            "falqon_part_ok",
            "1 if a dependency passed its last check, as in /readyz.",
            labels=["part"],
        )
        for part, verdict in self._health_monitor.read().checks.items():
            family.add_metric([part], float(verdict == OK))
        return family

    def _facts(self) -> list[Metric]:
        with self._lock:
            if self._read_at is None or time.monotonic() - self._read_at > CACHED_SECONDS:
                self._metrics = self._read()
                self._read_at = time.monotonic()
            return self._metrics

    def _read(self) -> list[Metric]:
        try:
            with self._database.read() as session:
                return [
                    *jobs_of(session),
                    *leases_of(session, self._settings),
                    workers_of(session, self._settings),
                    operations_of(session),
                    *engines_of(session),
                ]
        except SQLAlchemyError as error:
            log.warning("no metrics of the database", error=str(error))
            return []


def jobs_of(session: Session) -> Iterator[Metric]:
    """Yield the number of jobs that have not ended, and the longest wait for a worker."""
    queued = repository.count_queued(session)
    jobs = GaugeMetricFamily(
        "falqon_jobs",
        f"Jobs that have not ended, of a status {repository.MAX_COUNTED} at most.",
        labels=["status", "device", "num_devices"],
    )
    queue = GaugeMetricFamily(
        "falqon_queue_jobs",
        "Jobs that wait for a worker, by what they need.",
        labels=["device", "num_devices"],
    )
    for row in (
        *repository.count_unclaimed(session),
        *queued,
        *repository.count_running(session),
    ):
        jobs.add_metric([row.status, *_needs(row)], row.num_jobs)
    # Reported also while nothing waits: an autoscaler must read 0 then, not a gap.
    counts = {(ANY_DEVICE, "1"): 0} | {_needs(row): row.num_jobs for row in queued}
    for needs, count in counts.items():
        queue.add_metric(needs, count)
    yield jobs
    yield queue
    yield GaugeMetricFamily(
        "falqon_queue_age_seconds",
        "Longest wait of a job for a worker, in seconds.",
        repository.longest_wait_seconds(session),
    )


def leases_of(session: Session, settings: Settings) -> Iterator[Metric]:
    """Yield the age of the oldest lease."""
    yield GaugeMetricFamily(
        "falqon_lease_age_seconds",
        "Seconds since the oldest heartbeat of a running job.",
        repository.oldest_lease_age_seconds(session, settings.lease.total_seconds()),
    )


def workers_of(session: Session, settings: Settings) -> Metric:
    """Return the number of workers that train, and of those that could."""
    family = GaugeMetricFamily(
        "falqon_workers", "Workers for jobs that live.", labels=["device", "state"]
    )
    counts: dict[tuple[str, str], int] = {}
    for live in workers.list_live(session, settings):
        state = "busy" if live.is_busy else "idle"
        if live.worker.draining:
            state = "draining"
        key = (live.worker.device, state)
        counts[key] = counts.get(key, 0) + 1
    for key, count in counts.items():
        family.add_metric(key, count)
    return family


def operations_of(session: Session) -> Metric:
    """Return the number of operations that wait for a worker."""
    family = GaugeMetricFamily(
        "falqon_queue_operations",
        f"Operations that wait for a worker, of a kind {repository.MAX_COUNTED} at most.",
        labels=["kind"],
    )
    for kind, count in repository.count_operations(session).items():
        family.add_metric([kind], count)
    return family


def engines_of(session: Session) -> Iterator[Metric]:
    """Yield the number of loaded models by state."""
    rows = {row.state: row for row in repository.count_engines(session)}
    family = GaugeMetricFamily("falqon_engines", "Loaded models, by state.", labels=["state"])
    for state in EngineState:
        family.add_metric([state], rows[state].num_engines if state in rows else 0)
    yield family
    yield GaugeMetricFamily(
        "falqon_engine_requests",
        "Requests that loaded models are answering.",
        sum(row.num_requests for row in rows.values()),
    )
    yield GaugeMetricFamily(
        "falqon_engine_tokens_per_second",
        "Tokens that loaded models generate.",
        sum(row.tokens_per_second for row in rows.values()),
    )


def _needs(row: JobCount) -> tuple[str, str]:
    return row.device, str(row.num_devices)
