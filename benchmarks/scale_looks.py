"""What `benchmarks/scale.py` asks: pieces of the service that send statements."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.auth import keys
from app.auth.caller import Caller
from app.base.database import Database
from app.garbage import collector, events, orphans
from app.jobs import claims, listing, next_job, queue_forecast
from app.jobs import repository as jobs
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.models import DEFAULT_PROJECT_ID, Artifact, FileCheck, Job, JobStatus, Project, Scope
from app.operations import claims as operations
from app.projects import repository as projects
from app.reconciler import Reconciler
from app.services import Services
from app.stream import repository as streams
from app.web import job_view
from app.web.job_table import TableQuery
from app.web.pages.jobs import table_context
from app.webhooks import repository as webhooks
from app.workers import service as workers
from benchmarks.plans import Ask
from benchmarks.scale_rows import KEY, FilledTables

PROJECT = DEFAULT_PROJECT_ID
EVENTS_KEPT = timedelta(days=90)
KEYS_OF_A_LISTING = 1_000


@dataclass(frozen=True, slots=True)
class Look:
    """One piece. `reason`: why a statement of it may take longer than the limit."""

    name: str
    ask: Ask
    reason: str = ""


def looks(services: Services, filled: FilledTables) -> Iterator[Look]:
    yield from _streams(services, filled)
    yield Look("forecast", partial(forecast, services), "once in 3 s for each process")
    yield from _claims(services.database, filled)
    yield from _reconciler(services)
    yield from _collector(services)


def _streams(services: Services, filled: FilledTables) -> Iterator[Look]:
    caller = Caller(KEY, PROJECT, Scope.READ, None, False)
    yield Look(
        "a stream's next events",
        lambda session: jobs.events_after(session, filled.longest, after=100, limit=200),
    )
    yield Look(
        "dashboard, each change",  # with the curves of ended jobs at hand, as after the first time
        lambda session: table_context(session, services, caller, TableQuery()),
        "32 points of each curve that still grows, of 70 rows at most",
    )
    yield Look(
        "streams, each second: 1 project",
        lambda session: (
            listing.states(session, [PROJECT]),
            keys.find_refused_keys(session, [KEY]),
        ),
        "all live jobs of the project, once for all streams of a process",
    )
    yield Look(
        "streams, each second: 2 jobs",
        lambda session: (
            streams.states(session, [filled.running, filled.longest]),
            keys.find_refused_keys(session, [KEY]),
        ),
    )
    yield Look(
        "job page, what each step changes",
        lambda session: job_view.progress_context(session, services, caller, filled.longest),
    )
    yield Look(
        "job page, what each message changes",
        lambda session: job_view.results_context(
            session, caller, session.get_one(Job, filled.longest), ""
        ),
    )
    yield Look(
        "a job under all quotas",
        lambda session: projects.usages(session, [session.get_one(Project, PROJECT)]),
        "it adds up the bytes of every row of the project, from an index alone",
    )


def _claims(database: Database, filled: FilledTables) -> Iterator[Look]:
    with database.read() as session:
        job = session.get_one(Job, filled.running)
    mine = Claim(job.id, job.attempt, filled.owner)
    step = NewEvent("Step 1", type="metrics", data={"step": 1, "train_loss": 1.5})
    yield Look("a worker is seen", lambda session: workers.mark_seen(session, "machine-0-1", "", 1))
    yield Look(
        "which job comes next",
        lambda session: next_job.find_next(session, next_job.DeviceOffer("h100", 8)),
    )
    yield Look("claim", _claim)
    yield Look("heartbeat", lambda session: claims.renew(session, mine, 60))
    yield Look(
        "relay of a batch",
        partial(_relay, mine, step),
    )
    yield Look(
        "release",
        lambda session: claims.release(
            session, mine, NewEvent("lost"), counts_as_failure=True, max_infra_failures=3
        ),
    )
    yield Look(
        "end",
        lambda session: claims.finish(session, mine, JobStatus.SUCCEEDED, NewEvent("done")),
    )
    yield Look(
        "a worker looks for a file to check",
        lambda session: operations.claim(session, FileCheck, 60),
    )


def forecast(services: Services, session: Session) -> None:
    """Have the queue read anew, and kept for what is asked next."""
    never_kept = datetime(3000, 1, 1, tzinfo=UTC)
    queue_forecast.read_queue(session, services.settings, never_kept)


def _relay(mine: Claim, step: NewEvent, session: Session) -> None:
    claims.append_trainer_events(session, mine, [step], 0, device_seconds=1.0)
    claims.update_attempt(session, mine, tokens=1)
    jobs.last_event_seq(session, mine.job_id)


def _claim(session: Session) -> object:
    job = claims.claim(session, owner="w", device="cpu", num_devices=1, lease_seconds=60)
    assert job is not None
    return job


def _reconciler(services: Services) -> Iterator[Look]:
    database = services.database
    reconciler = Reconciler(database, services.storage, services.notifier, services.settings)
    yield Look("reconciler, every 5 s", lambda _: reconciler.tick())
    yield Look("sweeper, every 5 s: old events", lambda _: events.remove_old(database, EVENTS_KEPT))
    yield Look("sweeper, every 5 s: orphans", orphans.due)
    yield Look("webhooks that are due", webhooks.due)


def _collector(services: Services) -> Iterator[Look]:
    database, storage = services.database, services.storage
    yield Look(
        "collector, every hour",
        lambda _: collector.collect_due(database, storage, lambda _: None),
        "the attempts that ended in an hour",
    )
    yield Look(
        "webhook deliveries of long ago, every hour",
        lambda _: collector.forget_deliveries(database),
        "all deliveries of 30 days, once an hour",
    )
    with database.read() as session:
        listed = session.scalars(select(Artifact.storage_key).limit(KEYS_OF_A_LISTING)).all()
    yield Look(
        f"whose {KEYS_OF_A_LISTING:,} objects are",
        lambda session: orphans.find_referenced(session, listed),
        "once for each thousand objects of the storage, once a week",
    )
