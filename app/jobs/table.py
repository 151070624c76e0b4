"""A project's jobs as a table that people search, sort and turn the pages of. Clients, which read on from a cursor, use the repository."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Select, SQLColumnExpression, func, or_, select
from sqlalchemy.orm import Session

from app.jobs.lifecycle import LIVE
from app.models import Event, Job, JobStatus

T = TypeVar("T")
ROWS = 50
SPARK_POINTS = 32

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


class Wanted(NamedTuple):
    """Which rows. `search`: part of the id, the suffix, or the name of either model."""

    search: str = ""
    status: JobStatus | None = None
    sort: str = "created"
    descending: bool = True
    page: int = 1


class Found(NamedTuple):
    jobs: list[Job]
    num_jobs: int  # on all pages
    by_status: dict[str, int]  # of the whole project

    @property
    def num_pages(self) -> int:
        return max(1, -(-self.num_jobs // ROWS))


def find(session: Session, project_id: str, wanted: Wanted) -> Found:
    statement = _matching(select(Job), project_id, wanted)
    column = SORTS[wanted.sort]
    order = (column.is_(None), column.desc() if wanted.descending else column.asc(), Job.id.desc())
    jobs = session.scalars(statement.order_by(*order).limit(ROWS).offset((wanted.page - 1) * ROWS)).all()
    by_status = select(Job.status, func.count()).where(Job.project_id == project_id).group_by(Job.status)
    counts = dict(session.execute(by_status).all())
    if wanted.search:
        num_jobs = session.scalar(_matching(select(func.count()).select_from(Job), project_id, wanted)) or 0
    else:
        num_jobs = counts.get(wanted.status, 0) if wanted.status else sum(counts.values())
    return Found(list(jobs), num_jobs, counts)


def states(session: Session, project_ids: Sequence[str]) -> dict[str, object]:
    """Of each project, what changes whenever its table does, short of a deletion."""
    live = select(Job.project_id, Job.id, Job.status, Job.desired, Job.last_event_seq, Job.execution_seconds)
    rows = session.execute(live.where(Job.project_id.in_(project_ids), Job.status.in_(LIVE)).order_by(Job.id)).all()
    newest = select(Job.project_id, func.max(Job.id)).where(Job.project_id.in_(project_ids)).group_by(Job.project_id)
    newest_ids = dict(session.execute(newest).all())
    return {id_: (newest_ids.get(id_), tuple(row[1:] for row in rows if row[0] == id_)) for id_ in project_ids}


def sparks(session: Session, jobs: Sequence[Job], num_points: int = SPARK_POINTS) -> dict[str, list[tuple[int, float]]]:
    """(step, training loss) of each job, by rising step, from events picked evenly: a look at a few rows however many there are."""
    begun = [job for job in jobs if job.attempt]
    if not begun:
        return {}
    picked = or_(*((Event.job_id == job.id) & Event.seq.in_(_evenly(job.last_event_seq, num_points)) for job in begun))
    loss = Event.data["train_loss"].as_float()
    statement = select(Event.job_id, Event.data["step"].as_integer(), loss)
    rows = session.execute(statement.where(picked, Event.type == "metrics", loss.is_not(None)).order_by(Event.job_id, Event.seq))
    found: dict[str, list[tuple[int, float]]] = {}
    for job_id, step, value in rows:
        points = found.setdefault(job_id, [])
        while points and points[-1][0] >= step:  # a later attempt did these steps again
            points.pop()
        points.append((step, value))
    return found


def _evenly(last: int, num_points: int) -> list[int]:
    if last <= num_points:
        return list(range(1, last + 1))
    return sorted({round(1 + i * (last - 1) / (num_points - 1)) for i in range(num_points)})


def _matching(statement: Select[T], project_id: str, wanted: Wanted) -> Select[T]:
    statement = statement.where(Job.project_id == project_id)
    if wanted.status is not None:
        statement = statement.where(Job.status == wanted.status)
    if wanted.search:
        columns = (Job.id, Job.suffix, Job.base_model_id, Job.fine_tuned_model_id)
        statement = statement.where(or_(*(column.icontains(wanted.search, autoescape=True) for column in columns)))
    return statement
