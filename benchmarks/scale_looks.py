"""What `benchmarks/scale.py` asks: pieces of the service that send statements."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.auth import keys
from app.auth.caller import Caller
from app.catalogue import repository as models
from app.catalogue import service as catalogue
from app.database import Database
from app.estimates import repository as estimates
from app.files import repository as files
from app.garbage import orphans
from app.jobs import (
    claims,
    effective_steps,
    internal_repository,
    listing,
    metrics,
    next_job,
    queue_forecast,
)
from app.jobs import repository as jobs
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.jobs.listing import JobQuery
from app.jobs.requests import Filters
from app.models import DEFAULT_PROJECT_ID, Artifact, FileCheck, Job, JobStatus, Project, Scope
from app.notifier import repository as notifications
from app.operations import claims as operations
from app.projects import repository as projects
from app.settings import Settings
from app.stream import repository as streams
from app.uploads import repository as uploads
from app.web import job_view
from app.web.pages.jobs import table_context
from app.webhooks import repository as webhooks
from app.workers import service as workers
from benchmarks.plans import Ask
from benchmarks.scale_rows import KEY, Filled

PROJECT = DEFAULT_PROJECT_ID
SETTINGS = Settings(_env_file=None, device="cpu")
KEYS_OF_A_LISTING = 1_000
WHOLE_PROJECT = "no index orders by it: it reads the project's jobs, and whoever asks waits"
SEARCH = "it looks into the text of every row of the project"
SUM = "it adds up every row of the project from an index alone, at each submission under a quota"
CURVE_GOES = "thousands of events go with it"
CURVE = "it reads all steps of a job to thin them, at the opening of its page"


class Look(NamedTuple):
    """One piece. `reason`: why a statement of it may take longer than the limit."""

    name: str
    ask: Ask
    reason: str = ""


def looks(database: Database, filled: Filled) -> Iterator[Look]:
    yield from _pages(filled)
    yield from _lists(filled)
    yield from _claims(database, filled)
    yield from _reconciler()
    yield from _collector(database)


def _pages(filled: Filled) -> Iterator[Look]:
    app: Any = SimpleNamespace(settings=SETTINGS)
    caller = Caller(KEY, PROJECT, Scope.READ, None, False)

    def jobs_page(name: str, query: JobQuery, reason: str = "") -> Look:
        return Look(f"jobs page, {name}", lambda session: _find(session, query), reason)

    yield Look("jobs page", lambda session: table_context(session, app, caller, JobQuery()))
    yield jobs_page("one status", JobQuery(status=JobStatus.FAILED))
    yield jobs_page("page 1000", JobQuery(page=1_000))
    yield jobs_page("sorted by model", JobQuery(sort="model"))
    yield jobs_page("sorted by cost", JobQuery(sort="cost"), WHOLE_PROJECT)
    yield jobs_page("a search", JobQuery(search=filled.longest[-8:]), SEARCH)
    yield Look(
        "job page, what each step changes",
        lambda session: job_view.quick(session, app, caller, filled.longest),
    )
    yield Look(
        "job page, the rest",
        lambda session: job_view.slow(session, caller, session.get_one(Job, filled.longest)),
    )
    yield Look(
        "job page, its curves",
        lambda session: metrics.series(
            session, session.get_one(Job, filled.longest), metrics.KEYS, metrics.MAX_POINTS
        ),
        CURVE,
    )
    yield Look("models page", lambda session: catalogue.newest(session, PROJECT, limit=200))
    yield Look(
        "models page, a search",
        lambda session: catalogue.newest(session, PROJECT, limit=200, search=filled.model[-8:]),
        SEARCH,
    )
    yield Look(
        "data page, jobs of each file",
        lambda session: jobs.num_using(session, PROJECT, filled.file_ids),
    )
    yield Look(
        "a file's page, its newest jobs",
        lambda session: jobs.using(session, PROJECT, filled.file_ids[0], limit=20),
    )
    yield Look("workers page, queue", lambda session: queue_forecast.read_queue(session, SETTINGS))
    yield Look("workers page, workers", lambda session: workers.list_live(session, SETTINGS))
    yield Look("form, what estimates learn", _estimate)
    yield Look(
        "how good estimates were",
        lambda session: estimates.ended(session, PROJECT),
        f"it reads the {estimates.NEWEST_JOBS:,} newest jobs with their recipes",
    )
    yield Look(
        "settings, what a project has used",
        lambda session: projects.usage(session, session.get_one(Project, PROJECT)),
        SUM,
    )


def _find(session: Session, query: JobQuery) -> object:
    return listing.find_page(session, PROJECT, query)


def _estimate(session: Session) -> object:
    return estimates.samples(session, "falqon-tiny", "falqon", "cpu", 1)


def _lists(filled: Filled) -> Iterator[Look]:
    experiment = Filters(metadata={"experiment": "exp-7"})
    yield Look("a request's key", lambda session: keys.find_caller(session, KEY))
    yield Look(
        "GET jobs",
        lambda session: jobs.newest_first(session, PROJECT, Filters(), after=None, limit=20),
    )
    yield Look(
        "GET jobs by metadata",
        lambda session: jobs.newest_first(session, PROJECT, experiment, after=None, limit=20),
    )
    yield Look(
        "GET events",
        lambda session: jobs.events_before(session, filled.longest, before=None, limit=20),
    )
    yield Look(
        "a stream's next events",
        lambda session: jobs.events_after(session, filled.longest, after=100, limit=200),
    )
    yield Look(
        "where a stream begins again",
        lambda session: (
            jobs.step_before(session, filled.longest, 4_000),
            effective_steps.effective_steps(session, [filled.longest]),
        ),
    )
    yield Look(
        "streams, each second",
        lambda session: (
            listing.states(session, [PROJECT]),
            streams.states(session, [filled.running, filled.longest]),
            keys.refused_keys(session, [KEY]),
        ),
    )
    yield Look(
        "GET models, has the list changed",
        lambda session: (models.tally(session, None), models.tally(session, PROJECT)),
        "it counts every model of the project from an index alone",
    )
    yield Look(
        "a job under a quota",
        lambda session: (
            projects.live_jobs(session, PROJECT),
            projects.device_seconds(session, session.get_one(Project, PROJECT)),
        ),
    )
    yield Look(
        "is a file in use (delete)",
        lambda session: files.live_job_using(session, PROJECT, filled.file_ids[0]),
    )
    yield Look("a job is deleted", lambda session: jobs.delete(session, filled.longest), CURVE_GOES)


def _claims(database: Database, filled: Filled) -> Iterator[Look]:
    with database.read() as session:
        job = session.get_one(Job, filled.running)
    mine = Claim(job.id, job.attempt, filled.owner)
    step = NewEvent("Step 1", type="metrics", data={"step": 1, "train_loss": 1.5})
    yield Look("a worker is seen", lambda session: workers.mark_seen(session, "machine-0-1", "", 1))
    yield Look(
        "which job comes next",
        lambda session: next_job.find_next(session, next_job.Offer("h100", 8)),
    )
    yield Look("claim", _claim)
    yield Look("heartbeat", lambda session: claims.renew(session, mine, 60))
    yield Look(
        "relay of a batch",
        lambda session: (
            claims.append_trainer_events(session, mine, [step], 0, device_seconds=1.0),
            claims.update_attempt(session, mine, tokens=1),
            internal_repository.last_event_seq(session, job.id),
        ),
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


def _claim(session: Session) -> object:
    job = claims.claim(session, owner="w", device="cpu", num_devices=1, lease_seconds=60)
    assert job is not None
    return job


def _reconciler() -> Iterator[Look]:
    due = (next_job.is_due(Job),)
    yield Look("silent workers", lambda session: claims.rescue(session, max_infra_failures=3))
    yield Look(
        "jobs that nobody was told of", lambda session: notifications.oldest(session, Job, due, 8)
    )
    waiting = operations.is_waiting(FileCheck)
    yield Look(
        "files that nobody was told of",
        lambda session: notifications.oldest(session, FileCheck, waiting, 8),
    )
    yield Look("uploads that expire", uploads.any_overdue)
    yield Look("files that expire", lambda session: files.expired(session, lock=False))
    yield Look("webhooks that are due", lambda session: webhooks.due(session, 100))


def _collector(database: Database) -> Iterator[Look]:
    with database.read() as session:
        listed = session.scalars(select(Artifact.storage_key).limit(KEYS_OF_A_LISTING)).all()
    yield Look("orphans that are due", orphans.due)
    yield Look(
        f"whose {KEYS_OF_A_LISTING:,} objects are",
        lambda session: orphans.referenced(session, listed),
        "it is asked once for each thousand objects of the storage, once a week",
    )
