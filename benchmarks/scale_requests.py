"""The requests of `benchmarks/scale.py`: they go to the application in this process, without its
threads, and what they write is rolled back.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from redis import Redis
from sqlalchemy.orm import Session

from app.auth.failures import Failures
from app.auth.rate_limit import RateLimiter
from app.base.database import Database
from app.base.settings import Settings
from app.base.storage import Storage
from app.http.probes import HealthMonitor
from app.main import create_app
from app.metrics.collector import InstallationCollector
from app.notifier.broker import Notifier
from app.notifier.wakeups import Wakeups
from app.services import Services
from app.stream.service import read_changes
from benchmarks.scale_columns import BASE_MODEL
from benchmarks.scale_rows import READER_SECRET, SECRET, FilledTables

JOBS, MODELS, FILES = "/v1/fine_tuning/jobs", "/v1/models", "/v1/files"
AUDIT = "/v1/organization/audit_logs"
UNLIMITED = 1_000_000
ORIGIN = "http://testserver"
NO_ORDER = "no index orders by it: it compares the newest 50,000 jobs, and whoever wants that waits"
ANY_TEXT = (
    "no index finds a part of a text: it reads the project's rows, and whoever wants it waits"
)
OF_NEWEST = "no index finds a part of a text: it compares the newest 50,000 jobs"
ALL_STEPS = "all steps of one job are read to thin them, at the opening of its page"
ALL_MODELS = "all models of the project: the list of OpenAI has no pages"
EVERY_DAY = "adds up the sums of each day, and the jobs of those that are not over"
EVERY_BYTE = "adds up the bytes of every row of the project, from an index alone"
KEPT_ESTIMATES = "the 1,000 newest jobs with their recipes"
QUEUE = "the forecast, if none of the last 3 s is there"
ALL_WORKERS = "every worker of the installation with its job"
LONG_PAGE = "a page of OpenAI's has up to 10,000 files"
CURVES = "32 points of each of 70 curves; those of ended jobs once a process"
CURVE = "200 points of its curve"
PAGE_1000 = "it passes 50,000 entries of an index"
COUNTED = "a narrowed list is counted up to 5,000"


@dataclass(frozen=True, slots=True)
class Call:
    """A request; `path` has names of `FilledTables` in braces. `reason`: why a statement of it may
    take longer than the limit.
    """

    path: str
    reason: str = ""
    body: dict[str, Any] | None = None
    method: str = "GET"
    secret: str = SECRET  # of an admin of the installation, who sees the usage of all projects

    @property
    def name(self) -> str:
        """What the table calls it."""
        reader = " (one project)" if self.secret == READER_SECRET else ""
        return f"{self.method} {self.path}{reader}"


NEW_JOB = {"model": BASE_MODEL, "training_file": "{file}"}
CALLS = (
    Call(JOBS),
    Call(f"{JOBS}?after={{middle}}&limit=100"),
    Call(f"{JOBS}?status=failed"),
    Call(f"{JOBS}?status=queued", QUEUE),
    Call(f"{JOBS}/{{queued}}", QUEUE),
    Call(f"{JOBS}?model={BASE_MODEL}"),
    Call(f"{JOBS}?metadata[experiment]=exp-7", QUEUE),
    Call(f"{JOBS}?metadata=null"),
    Call(f"{JOBS}/{{longest}}"),
    Call(f"{JOBS}/{{longest}}/events"),
    Call(f"{JOBS}/{{longest}}/events?limit=1000"),
    Call(f"{JOBS}/{{longest}}/checkpoints"),
    Call(f"{JOBS}/{{longest}}/metrics", ALL_STEPS),
    Call(f"{JOBS}/{{longest}}/metrics?keys=train_loss", ALL_STEPS),
    Call(f"{JOBS}/{{longest}}/evaluations"),
    Call(JOBS, QUEUE, NEW_JOB, "POST"),
    Call(f"{JOBS}/{{longest}}/clone", QUEUE, {}, "POST"),
    Call(f"{JOBS}/{{running}}/pause", method="POST"),
    Call(f"{JOBS}/{{queued}}/cancel", method="POST"),
    Call(f"{JOBS}/{{middle}}", method="DELETE"),
    Call("/v1/fine_tuning/estimates", QUEUE, NEW_JOB, "POST"),
    Call("/v1/fine_tuning/estimates/accuracy", KEPT_ESTIMATES),
    Call("/v1/falqon/studies"),
    Call("/v1/falqon/studies/{study}"),
    Call("/v1/falqon/studies/{study}/table.csv"),
    Call(FILES, LONG_PAGE),
    Call(f"{FILES}?purpose=fine-tune-results&order=asc", LONG_PAGE),
    Call(f"{FILES}/{{file}}"),
    Call(f"{FILES}/{{unused}}", method="DELETE"),
    Call(MODELS, ALL_MODELS),
    Call(f"{MODELS}/{{model}}"),
    Call(f"{MODELS}/{{model}}/artifacts"),
    Call(f"{MODELS}/{{model}}/exports"),
    Call(f"{MODELS}/{{model}}", method="DELETE"),
    Call("/v1/usage?start_time={week_ago}&limit=7", EVERY_DAY),
    Call("/v1/usage?start_time={week_ago}&limit=7&group_by=api_key_id&group_by=model", EVERY_DAY),
    Call("/v1/organization/costs?start_time={week_ago}&limit=7&group_by=project_id", EVERY_DAY),
    Call(AUDIT),
    Call(f"{AUDIT}?actor_ids={{rare_key}}"),
    Call(f"{AUDIT}?event_types=webhook.created"),
    Call(f"{AUDIT}?resource_ids={{middle}}"),
    Call("/v1/workers", ALL_WORKERS),
    Call("/v1/projects"),
    Call("/v1/projects/proj_default", EVERY_BYTE),
    Call("/v1/api_keys"),
    Call("/v1/webhook_endpoints"),
    Call("/v1/webhook_endpoints/{endpoint}/deliveries"),
    Call("/v1/engines"),
    Call("/v1/prices"),
    Call("/v1/model_imports"),
    Call("/metrics", ALL_WORKERS),
    Call("/", CURVES),
    Call("/?columns=status,loss,cost,valid_loss,file", CURVES),
    Call("/?status=failed", CURVES),
    Call("/?page=1000", PAGE_1000),
    Call("/?sort=model", CURVES),
    Call("/?sort=-cost", NO_ORDER),
    Call(f"/?model={BASE_MODEL}", COUNTED),
    Call("/?metadata=experiment%3Dexp-7", CURVES),
    Call("/?since={last_week}&until={last_week}", COUNTED),
    Call("/?q={tail}", OF_NEWEST),
    Call("/?q=ftjob", COUNTED),
    Call("/jobs/{longest}", CURVE),
    Call("/jobs/{running}", CURVE),
    Call("/jobs/{longest}/metrics", ALL_STEPS),
    Call("/jobs/ended?job={longest}&job={running}"),
    Call("/jobs/new"),
    Call("/compare?job={longest}&job={running}", ALL_STEPS),
    Call("/data"),
    Call("/data?purpose=fine-tune-results"),
    Call("/data?q=data-1999", ANY_TEXT),
    Call("/data/{file}"),
    Call("/models"),
    Call("/models?q={tail}", ANY_TEXT),
    Call("/models/{model}"),
    Call("/studies"),
    Call("/studies/{study}"),
    Call("/workers", ALL_WORKERS),
    Call("/search?q={tail}"),
    Call("/usage", EVERY_BYTE),
    Call("/usage?days=90", EVERY_BYTE),
    Call("/usage", EVERY_BYTE, secret=READER_SECRET),
    Call("/usage/table.csv", EVERY_DAY),
    Call("/activity"),
    Call("/activity?key={rare_key}"),
    Call("/activity?event=webhook.created"),
    Call("/activity?resource={middle}"),
    Call("/settings", EVERY_BYTE),
    Call("/settings/projects/proj_default", EVERY_BYTE),
    Call("/settings/keys"),
    Call("/settings/prices"),
    Call("/settings/webhooks"),
    Call("/settings/webhooks/{endpoint}"),
)


class Sender:
    """Sends calls by the key that they have, and by a session that was begun with it."""

    def __init__(self, application: FastAPI, filled: FilledTables) -> None:
        self._values = asdict(filled) | {"tail": filled.tail}
        self._clients = {
            secret: TestClient(application, ORIGIN, headers={"authorization": f"Bearer {secret}"})
            for secret in (SECRET, READER_SECRET)
        }
        for secret, client in self._clients.items():
            form, headers = {"key": secret}, {"origin": ORIGIN}
            answer = client.post("/sign-in", data=form, headers=headers, follow_redirects=False)
            assert answer.status_code == 303, answer.text

    def send(self, call: Call) -> None:
        """Send it; raises where it is refused."""
        path = call.path.format_map(self._values)
        body = call.body and {
            name: text.format_map(self._values) for name, text in call.body.items()
        }
        answer = self._clients[call.secret].request(call.method, path, json=body)
        if answer.status_code != 200:
            raise RuntimeError(f"{call.method} {path}: {answer.status_code} {answer.text[:500]}")


class Undone(Database):
    """A database whose transactions leave nothing."""

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        with Session(self.engine, expire_on_commit=False) as session:
            yield session
            session.flush()


@contextmanager
def opened(settings: Settings, filled: FilledTables) -> Iterator[tuple[Services, Sender]]:
    """Give what the application works with, and who sends requests to it."""
    database = Undone(settings.resolved_database_url)
    redis = Redis.from_url(settings.resolved_redis_url)
    storage = Storage(settings.resolved_storage_url)
    services = Services(
        settings,
        database,
        storage,
        redis,
        Notifier(settings),
        RateLimiter(redis, UNLIMITED, UNLIMITED),
        Failures(UNLIMITED),
        Wakeups(settings.resolved_redis_url, partial(read_changes, database)),
    )
    monitor = HealthMonitor(database, storage, storage, redis)
    try:
        storage.put(filled.storage_key, [b'{"text": "a"}\n'])
        application = create_app(settings)
        application.state.services = services
        application.state.health_monitor = monitor
        application.state.metrics = CollectorRegistry()
        application.state.metrics.register(InstallationCollector(database, settings, monitor))
        yield services, Sender(application, filled)
    finally:
        redis.close()
        database.dispose()
