"""A project's jobs as a table that people search, sort and turn the pages of. Clients, which read on from a cursor, use the repository."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Select, SQLColumnExpression, and_, func, literal, or_, select, true, union_all
from sqlalchemy.orm import Session

from app.jobs.lifecycle import LIVE, TERMINAL
from app.models import Event, Job, JobStatus, Project

Points = list[tuple[int, float]]
T = TypeVar("T")
ROWS = 50
SPARK_POINTS = 32
KEPT_SPARKS = 2_000
MAX_COUNTED = 5_000  # of a status: nobody reads on so far, and to count all took most of the time of the page

# What the columns are sorted by. Money is kept as text and compared as a number.
SORTS: dict[str, SQLColumnExpression[Any]] = {
    "created": Job.id,
    "name": func.lower(func.coalesce(Job.suffix, Job.id)),
    "model": Job.base_model_id,
    "status": Job.status,
    "progress": Job.progress["percent"].as_float(),
    "eta": Job.progress["eta_seconds"].as_float(),
    "cost": Job.progress[("cost", "accrued")].as_numeric(18, 6),
    "speed": Job.progress["tokens_per_second"].as_float(),
    "loss": Job.progress["train_loss"].as_float(),
}
INDEXED = ("created", "model", "status")  # never null, and with the id beside them the order of an index
# Of jobs that have ended: most of a page, and most of what it cost. Their events stay as they are.
_ended_sparks: dict[tuple[str, int, int], Points] = {}


class Wanted(NamedTuple):
    """Which rows. `search`: part of the id, the suffix, or the name of either model."""

    search: str = ""
    status: JobStatus | None = None
    sort: str = "created"
    descending: bool = True
    page: int = 1


class Found(NamedTuple):
    """A count above `MAX_COUNTED` says that there are more than that."""

    jobs: list[Job]
    num_jobs: int  # on all pages
    by_status: dict[str, int]  # of the whole project
    has_more: bool  # another page follows

    @property
    def num_pages(self) -> int:
        return max(1, -(-self.num_jobs // ROWS))

    @property
    def is_counted(self) -> bool:
        return self.num_jobs <= MAX_COUNTED


def find(session: Session, project_id: str, wanted: Wanted) -> Found:
    """Find the jobs of one page, and how many there are: by their ids first, which an index alone holds."""
    counts = _by_status(session, project_id)
    ids = _matching(select(Job.id), project_id, wanted).order_by(*_order(wanted))
    begin = (wanted.page - 1) * ROWS
    if wanted.search:  # whatever it finds first, it has read the project for
        every = session.scalars(ids.limit(MAX_COUNTED + 1)).all()
        num_jobs, following = len(every), every[begin:]
    else:
        following = session.scalars(ids.limit(ROWS + 1).offset(begin)).all()
        num_jobs = counts.get(wanted.status, 0) if wanted.status else sum(counts.values())
    jobs = _in_order(session, project_id, following[:ROWS])
    return Found(jobs, num_jobs, counts, has_more=len(following) > ROWS)


def states(session: Session, project_ids: Sequence[str]) -> dict[str, object]:
    """Of each project, what changes whenever its table does, short of a deletion."""
    live = select(Job.project_id, Job.id, Job.status, Job.desired, Job.last_event_seq, Job.execution_seconds)
    rows = session.execute(live.where(Job.project_id.in_(project_ids), Job.status.in_(LIVE)).order_by(Job.id)).all()
    # For each project the last entry of its index; grouped, all of its entries were read.
    newest = select(Job.id).where(Job.project_id == Project.id).order_by(Job.id.desc()).limit(1).scalar_subquery()
    newest_ids: dict[str, str] = dict(session.execute(select(Project.id, newest).where(Project.id.in_(project_ids))).all())
    return {id_: (newest_ids.get(id_), tuple(row[1:] for row in rows if row[0] == id_)) for id_ in project_ids}


def sparks(session: Session, jobs: Sequence[Job], num_points: int = SPARK_POINTS) -> dict[str, Points]:
    """(step, training loss) of each job, by rising step, from events picked evenly: a look at a few rows however many there are."""
    found = {job.id: points for job in jobs if (points := _ended_sparks.get(_key(job, num_points))) is not None}
    begun = [job for job in jobs if job.attempt and job.id not in found]
    if begun:
        found |= _pick(session, [job.id for job in begun], num_points)
    for job in begun:
        if job.status in TERMINAL:
            if len(_ended_sparks) >= KEPT_SPARKS:
                _ended_sparks.clear()
            _ended_sparks[_key(job, num_points)] = found.get(job.id, [])
    return found


def _key(job: Job, num_points: int) -> tuple[str, int, int]:
    return job.id, job.last_event_seq, num_points


def _pick(session: Session, begun: Sequence[str], num_points: int) -> dict[str, Points]:
    loss = Event.data["train_loss"].as_float()
    numbers = union_all(*(select(literal(number).label("number")) for number in range(num_points))).subquery()
    # Twice the same where there are fewer events than points.
    seq = 1 + numbers.c.number * (Job.last_event_seq - 1) // (num_points - 1)
    places = select(Job.id, seq.label("seq")).join(numbers, true()).where(Job.id.in_(begun))
    # A limit makes it a step of its own: else Postgres reads all events of each job to choose among them.
    picks = places.limit(len(begun) * num_points).subquery()
    statement = select(Event.job_id, Event.data["step"].as_integer(), loss)
    statement = statement.join(picks, and_(Event.job_id == picks.c.id, Event.seq == picks.c.seq))
    rows = session.execute(statement.where(Event.type == "metrics", loss.is_not(None)).order_by(Event.job_id, Event.seq))
    found: dict[str, Points] = {}
    for job_id, step, value in rows:
        points = found.setdefault(job_id, [])
        while points and points[-1][0] >= step:  # a later attempt did these steps again
            points.pop()
        points.append((step, value))
    return found


def _by_status(session: Session, project_id: str) -> dict[str, int]:
    """Count the project's jobs, of each status no more than `MAX_COUNTED` and one."""
    of_each = (
        select(Job.status).where(Job.project_id == project_id, Job.status == status).limit(MAX_COUNTED + 1).subquery()
        for status in JobStatus
    )
    counts = session.execute(select(*(select(func.count()).select_from(one).scalar_subquery() for one in of_each))).one()
    return {status: number for status, number in zip(JobStatus, counts, strict=True) if number}


def _order(wanted: Wanted) -> list[SQLColumnExpression[Any]]:
    column = SORTS[wanted.sort]
    if wanted.sort == "created":
        return [Job.id.desc() if wanted.descending else Job.id.asc()]
    if wanted.sort in INDEXED:
        return [column.desc(), Job.id.desc()] if wanted.descending else [column.asc(), Job.id.asc()]
    return [column.is_(None), column.desc() if wanted.descending else column.asc(), Job.id.desc()]


def _in_order(session: Session, project_id: str, ids: Sequence[str]) -> list[Job]:
    """Read these jobs, without those that have just been deleted."""
    if not ids:
        return []
    jobs = session.scalars(select(Job).where(Job.project_id == project_id, Job.id.in_(ids)))
    found = {job.id: job for job in jobs}
    return [found[id_] for id_ in ids if id_ in found]


def _matching(statement: Select[T], project_id: str, wanted: Wanted) -> Select[T]:
    statement = statement.where(Job.project_id == project_id)
    if wanted.status is not None:
        statement = statement.where(Job.status == wanted.status)
    if wanted.search:
        columns = (Job.id, Job.suffix, Job.base_model_id, Job.fine_tuned_model_id)
        statement = statement.where(or_(*(column.icontains(wanted.search, autoescape=True) for column in columns)))
    return statement
