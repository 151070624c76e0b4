"""Jobs of a project as a table that users search, sort and page. Clients, which read on from a
cursor, use the repository.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    Select,
    SQLColumnExpression,
    and_,
    false,
    func,
    literal,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.orm import Session

from app.base.database import MAX_COUNTED, NUM_SEARCHED
from app.base.ids import first_id
from app.jobs.effective_steps import EffectiveSteps, effective_steps
from app.jobs.metadata import TITLE
from app.jobs.metrics_chunks import CURVE, LOSS
from app.jobs.readings import is_step, number
from app.models import Event, Job, JobMetadata, JobStatus, Project
from app.models.job_lifecycle import LIVE, TERMINAL
from app.models.reported import json_amount, json_number

Points = list[tuple[int, float]]
T = TypeVar("T")
ROWS = 50
MAX_PINNED = 20
SPARKLINE_POINTS = 32
MAX_KEPT_SPARKLINES = 2_000
# Newest jobs among which a search, or a sort that no index has, chooses; days reach older ones.
MAX_COMPARED = 50_000

# Columns to sort by. Money is stored as text and compared as a number.
SORTS: dict[str, SQLColumnExpression[Any]] = {
    "created": Job.id,
    "name": func.lower(func.coalesce(Job.job_metadata[TITLE].as_string(), Job.suffix, Job.id)),
    "model": Job.base_model_id,
    "status": Job.status,
    "progress": json_number(Job.progress["percent"]),
    "eta": json_number(Job.progress["eta_seconds"]),
    "cost": json_amount(Job.progress[("cost", "accrued")]),
    "speed": json_number(Job.progress["tokens_per_second"]),
    "loss": json_number(Job.progress["train_loss"]),
    "valid_loss": json_number(Job.progress["valid_loss"]),
}
# Never null, and with the id an order that an index has.
INDEXED = ("created", "model", "status")
# Sparklines of ended jobs, which are most of a page's jobs and cost. Their events do not change.
_ended_sparklines: dict[tuple[str, int, int], Points] = {}


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Filters of the list. `search`: part of the id, the title, the suffix, or the name of either
    model.
    """

    search: str = ""
    status: JobStatus | None = None
    sort: str = "created"
    descending: bool = True
    page: int = 1
    model: str = ""  # the base model
    since: date | None = None  # the first day and the last, UTC
    until: date | None = None
    metadata: tuple[tuple[str, str], ...] = ()  # pairs that a job has, all of them
    after: str = ""  # only newer jobs than the one of this id

    @property
    def begin(self) -> int:
        return (self.page - 1) * ROWS

    @property
    def is_narrowed(self) -> bool:
        """Return True if the query needs more than the counts by status."""
        return any((self.search, self.model, self.since, self.until, self.metadata))

    @property
    def pins_running(self) -> bool:
        return self.status is None and self.sort == "created" and self.descending


@dataclass(frozen=True, slots=True)
class JobPage:
    """Page of a list. A count above `MAX_COUNTED` says that there are more than that."""

    jobs: list[Job]  # pinned jobs come first on the first page
    num_jobs: int  # total of all pages
    by_status: dict[str, int]  # matches of the query by status
    has_more: bool  # another page follows
    pinned: Sequence[str]  # ids of running jobs, which stand on no other page
    is_partial: bool = False  # older jobs than the newest `MAX_COMPARED` were not compared

    @property
    def num_pages(self) -> int:
        return max(1, -(-(self.num_jobs - len(self.pinned)) // ROWS))

    @property
    def is_counted(self) -> bool:
        return self.num_jobs <= MAX_COUNTED


class _Ids(NamedTuple):
    by_status: dict[str, int]
    num_jobs: int
    pinned: Sequence[str]
    following: Sequence[str]  # ids of the page, and one more if there is a next page


def find_page(session: Session, project_id: str, query: JobQuery) -> JobPage:
    """Return the jobs of one page and their number: first the ids, which an index alone holds. Some
    running jobs come first in the default order.
    """
    query = replace(query, after=_last_not_compared(session, project_id, query))
    narrow = _find_narrowed if query.is_narrowed else _find_whole
    counts, num_jobs, pinned, following = narrow(session, project_id, query)
    shown_ids = following[:ROWS]
    if query.page == 1:
        shown_ids = [*pinned, *shown_ids]
    jobs = in_order(session, project_id, shown_ids)
    has_more = len(following) > ROWS
    is_partial = bool(query.after)
    return JobPage(jobs, num_jobs, counts, has_more, pinned=pinned, is_partial=is_partial)


def _last_not_compared(session: Session, project_id: str, query: JobQuery) -> str:
    """Return the id of the newest job that is too old to be compared; empty if there is none."""
    if not query.search and query.sort in INDEXED:
        return ""
    others = replace(query, search="", status=None)
    ids = _filter_jobs(select(Job.id), project_id, others).order_by(Job.id.desc())
    return session.scalar(ids.offset(MAX_COMPARED).limit(1)) or ""


def search(session: Session, project_id: str, text: str, *, limit: int) -> list[Job]:
    """Find a job by its id or its title, and others by a part of an id, a suffix or a model among
    the newest.
    """
    newest = (
        select(Job.id, Job.suffix, Job.base_model_id, Job.fine_tuned_model_id)
        .where(Job.project_id == project_id)
        .order_by(Job.id.desc())
        .limit(NUM_SEARCHED)
        .subquery()
    )
    texts = (newest.c.id, newest.c.suffix, newest.c.base_model_id, newest.c.fine_tuned_model_id)
    alike = select(newest.c.id).where(
        or_(*(column.icontains(text, autoescape=True) for column in texts))
    )
    ids = session.scalars(alike.order_by(newest.c.id.desc()).limit(limit)).all()
    titled = session.scalars(_titled(project_id, text).limit(limit)).all()
    return in_order(session, project_id, list(dict.fromkeys([text, *titled, *ids]))[: 1 + limit])


def _titled(project_id: str, text: str) -> Select[str]:
    """Return the jobs with this in their title; few have one, which an index finds."""
    return select(JobMetadata.job_id).where(
        JobMetadata.project_id == project_id,
        JobMetadata.name == TITLE,
        JobMetadata.value.icontains(text, autoescape=True),
    )


def states(session: Session, project_ids: Sequence[str]) -> dict[str, object]:
    """Return for each project a value that changes with its table, except for deletions."""
    live = select(
        Job.project_id, Job.id, Job.status, Job.desired, Job.last_event_seq, Job.execution_seconds
    )
    rows = session.execute(
        live.where(Job.project_id.in_(project_ids), Job.status.in_(LIVE)).order_by(Job.id)
    ).all()
    # Reads the last entry of each project's index; grouped, all of its entries were read.
    newest = (
        select(Job.id)
        .where(Job.project_id == Project.id)
        .order_by(Job.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    newest_ids: dict[str, str] = dict(
        session.execute(select(Project.id, newest).where(Project.id.in_(project_ids))).all()
    )
    return {
        id_: (newest_ids.get(id_), tuple(row[1:] for row in rows if row[0] == id_))
        for id_ in project_ids
    }


def sparklines(
    session: Session, jobs: Sequence[Job], num_points: int = SPARKLINE_POINTS
) -> dict[str, Points]:
    """Return (step, training loss) of each job, by rising step, from events picked evenly: few rows
    are read for any number of events.
    """
    curves = {
        job.id: points
        for job in jobs
        if (points := _ended_sparklines.get(_key(job, num_points))) is not None
    }
    begun = [job for job in jobs if job.attempt and job.id not in curves]
    if begun:
        curves |= _pick(session, begun, num_points)
    for job in begun:
        if job.status in TERMINAL:
            if len(_ended_sparklines) >= MAX_KEPT_SPARKLINES:
                _ended_sparklines.clear()
            _ended_sparklines[_key(job, num_points)] = curves.get(job.id, [])
    return curves


def _key(job: Job, num_points: int) -> tuple[str, int, int]:
    return job.id, job.last_event_seq, num_points


def _pick(session: Session, begun: Sequence[Job], num_points: int) -> dict[str, Points]:
    numbers = union_all(
        *(select(literal(number).label("number")) for number in range(num_points))
    ).subquery()
    # Twice the same where there are fewer events than points.
    place = 1 + numbers.c.number * (Job.last_event_seq - 1) // (num_points - 1)
    # Take the row of metrics with that number, or the next one.
    following = (Event.job_id == Job.id, Event.seq >= place, Event.type != "message")
    next_seq = select(Event.seq).where(*following).order_by(Event.seq).limit(1)
    places = select(Job.id, next_seq.correlate(Job, numbers).scalar_subquery())
    places = places.join(numbers, true()).where(Job.id.in_([job.id for job in begun]))
    picks: dict[str, set[int]] = {job.id: set() for job in begun}
    for job_id, seq in session.execute(places):
        picks[job_id] |= {seq} - {None}
    own = (json_number(Event.data["step"]), json_number(Event.data[LOSS]))
    curve = [Event.outline[key] for key in CURVE]
    if num_points > SPARKLINE_POINTS:
        curve = [Event.data["values", key] for key in CURVE]
    # Each by the index, which Postgres may not choose for a join.
    picked = (
        and_(Event.job_id == job_id, Event.seq.in_(seqs)) for job_id, seqs in picks.items() if seqs
    )
    statement = select(Event.job_id, Event.attempt, *own, *curve).where(or_(false(), *picked))
    rows = session.execute(statement.order_by(Event.seq)).all()
    repeated = [job.id for job in begun if job.attempt > 1]
    effective = effective_steps(session, repeated) if repeated else {}
    curves: dict[str, dict[int, float]] = {}
    for job_id, attempt, step, loss, steps, losses in rows:
        points = [(None if step is None else int(step), loss)]
        if steps is not None:  # a chunk may have nothing but evaluations
            points = list(zip(steps, losses or [None] * len(steps), strict=False))
        curves.setdefault(job_id, {}).update(
            (step, loss)
            for step, reported in points
            if (loss := number(LOSS, reported)) is not None
            and is_step(step)
            and effective.get(job_id, EffectiveSteps()).include(attempt, step)
        )
    return {job_id: _thin(sorted(curve.items()), num_points) for job_id, curve in curves.items()}


def _thin(points: Points, num_points: int) -> Points:
    """Return points picked evenly, the first and the last among them."""
    last = len(points) - 1
    count = min(len(points), num_points)
    return [points[number * last // max(1, count - 1)] for number in range(count)]


def count_by_status(session: Session, project_id: str) -> dict[str, int]:
    """Count the project's jobs, of each status no more than `MAX_COUNTED` and one."""
    of_each = (
        select(Job.status)
        .where(Job.project_id == project_id, Job.status == status)
        .limit(MAX_COUNTED + 1)
        .subquery()
        for status in JobStatus
    )
    counts = session.execute(
        select(*(select(func.count()).select_from(rows).scalar_subquery() for rows in of_each))
    ).one()
    return {status: number for status, number in zip(JobStatus, counts, strict=True) if number}


def _find_whole(session: Session, project_id: str, query: JobQuery) -> _Ids:
    counts = count_by_status(session, project_id)
    num_jobs = counts.get(query.status, 0) if query.status else sum(counts.values())
    unpinned = _filter_jobs(select(Job.id), project_id, query).order_by(*_order(query))
    pinned: Sequence[str] = []
    if query.pins_running:
        running = _filter_jobs(
            select(Job.id), project_id, replace(query, status=JobStatus.RUNNING)
        ).order_by(*_order(query))
        pinned = session.scalars(running.limit(MAX_PINNED)).all()
        unpinned = unpinned.where(Job.id.not_in(pinned))
    following = session.scalars(unpinned.limit(ROWS + 1).offset(query.begin)).all()
    return _Ids(counts, num_jobs, pinned, following)


def _find_narrowed(session: Session, project_id: str, query: JobQuery) -> _Ids:
    """Return all matches in any status, up to `MAX_COUNTED` and one: a search reads the whole
    project anyhow.
    """

    def find(query: JobQuery) -> list[tuple[str, str]]:
        columns: tuple[Any, ...] = (Job.id, Job.status)
        matching: Select[Any] = _filter_jobs(select(*columns), project_id, query)
        rows = session.execute(matching.order_by(*_order(query)).limit(MAX_COUNTED + 1))
        return [(id_, status) for id_, status in rows]

    every = find(replace(query, status=None))
    matching = every
    if query.status is not None:
        is_whole = len(every) <= MAX_COUNTED
        rows = every if is_whole else find(query)
        matching = [(id_, status) for id_, status in rows if status == query.status]
    pinned = []
    if query.pins_running:
        pinned = [id_ for id_, status in matching if status == JobStatus.RUNNING][:MAX_PINNED]
    others = [id_ for id_, _ in matching if id_ not in pinned]
    following = others[query.begin : query.begin + ROWS + 1]
    counts = dict(Counter(status for _, status in every))
    return _Ids(counts, len(matching), pinned, following)


def _order(query: JobQuery) -> list[SQLColumnExpression[Any]]:
    column = SORTS[query.sort]
    if query.sort == "created":
        return [Job.id.desc() if query.descending else Job.id.asc()]
    if query.sort in INDEXED:
        if query.descending:
            return [column.desc(), Job.id.desc()]
        return [column.asc(), Job.id.asc()]
    return [column.is_(None), column.desc() if query.descending else column.asc(), Job.id.desc()]


def in_order(session: Session, project_id: str, ids: Sequence[str]) -> list[Job]:
    """Read these jobs in order, without those that have just been deleted."""
    if not ids:
        return []
    rows = session.scalars(select(Job).where(Job.project_id == project_id, Job.id.in_(ids)))
    jobs = {job.id: job for job in rows}
    return [jobs[id_] for id_ in ids if id_ in jobs]


def count_by_study(
    session: Session, project_id: str, ids: Collection[str]
) -> dict[str, dict[JobStatus, int]]:
    """Return the numbers of jobs of these studies by status."""
    if not ids:
        return {}
    statement = (
        select(Job.study_id, Job.status, func.count())
        .where(Job.project_id == project_id, Job.study_id.in_(ids))
        .group_by(Job.study_id, Job.status)
    )
    counts = {(study_id, status): num for study_id, status, num in session.execute(statement)}
    return {
        study_id: {
            status: num
            for status in JobStatus
            if (num := counts.get((study_id, status))) is not None
        }
        for study_id in ids
    }


def _filter_jobs(statement: Select[T], project_id: str, query: JobQuery) -> Select[T]:
    statement = statement.where(Job.project_id == project_id)
    if query.status is not None:
        statement = statement.where(Job.status == query.status)
    if query.after:
        statement = statement.where(Job.id > query.after)
    if query.model:
        statement = statement.where(Job.base_model_id == query.model)
    if query.since is not None:
        statement = statement.where(Job.id >= _first_id_of(query.since))
    if query.until is not None and query.until < date.max:  # no day follows that one
        statement = statement.where(Job.id < _first_id_of(query.until + timedelta(days=1)))
    for name, value in query.metadata:
        pairs = select(JobMetadata.job_id).where(
            JobMetadata.project_id == project_id,
            JobMetadata.name == name,
            JobMetadata.value == value,
        )
        statement = statement.where(Job.id.in_(pairs))
    if query.search:
        columns = (Job.id, Job.suffix, Job.base_model_id, Job.fine_tuned_model_id)
        statement = statement.where(
            or_(
                *(column.icontains(query.search, autoescape=True) for column in columns),
                Job.id.in_(_titled(project_id, query.search)),
            )
        )
    return statement


def _first_id_of(day: date) -> str:
    return first_id("ftjob-", datetime.combine(day, time.min, UTC))
