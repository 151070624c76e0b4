"""Choice of a worker's next job: projects below their guaranteed share first, then by their share
of the cards, then priority, then age. Jobs that need more GPUs than the worker has or their project
may hold, or another kind of device, are skipped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from sqlalchemy import ScalarSelect, and_, case, false, func, select, update
from sqlalchemy.orm import QueryableAttribute, Session, aliased
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import Select

from app.base.database import UNSYNCED, now_plus
from app.models import Job, JobStatus, Project
from app.models.falqon_options import ANY_DEVICE

ENDLESS_ROOM = 2**31 - 1
HELD_POLLS = 3  # idle polls after which a machine no longer keeps its cards for a job
CLAIMS_LOCK = 0x66616C71  # any number, as long as no other lock uses it
# Hundreds may wait, and a process that was stopped holds it until its connection is closed.
CLAIMS_LOCK_TIMEOUT = "40s"
T = TypeVar("T")


def is_due(job: type[Job]) -> ColumnElement[bool]:
    """Return the condition under which a worker may take a job."""
    has_waited = job.not_before.is_(None) | (job.not_before <= now_plus())
    return and_(job.is_waiting, has_waited)


@dataclass(frozen=True, slots=True)
class DeviceOffer:
    """Capacity that a worker offers for a job: a name of the price table, and the number on one
    machine.
    """

    device: str
    max_gpus: int

    def fits(self, job: type[Job]) -> ColumnElement[bool]:
        """Return the condition under which it suffices for a job."""
        return and_(job.num_gpus <= self.max_gpus, job.gpu.in_([ANY_DEVICE, self.device]))


class NextJob(NamedTuple):
    id: str
    num_gpus: int


def find_next(
    session: Session,
    offer: DeviceOffer,
    project_ids: Sequence[str] | None = None,
    only_job: str | None = None,
) -> NextJob | None:
    """Return the next job of one of these projects for which this suffices; with `only_job`, that
    one or none.
    """
    next_id = select_next(offer, project_ids, only_job).scalar_subquery()
    row = session.execute(select(Job.id, Job.num_gpus).where(Job.id == next_id)).one_or_none()
    return row and NextJob(*row)


def hold_for(session: Session, job_id: str, machine: str, seconds: float) -> bool:
    """Let one machine keep its free cards for a job that needs more of them than are free anywhere,
    for as long as it renews that; return False if another one does.
    """
    is_free = Job.held_by.is_(None) | (Job.held_by == machine) | (Job.held_until < now_plus())
    statement = (
        update(Job)
        .where(Job.id == job_id, is_due(Job), is_free)
        .values(held_by=machine, held_until=now_plus(seconds))
        .returning(Job.id)
    )
    return session.scalar(statement, execution_options=UNSYNCED) is not None


def wait_for_other_claims(session: Session, offer: DeviceOffer) -> None:
    """Let claims pass one by one if several projects wait, as each has to see the one before it.

    If only one without a ceiling and a guarantee does, workers take its jobs side by side. SQLite
    serializes them anyhow.
    """
    if session.get_bind().dialect.name != "postgresql":
        return
    waiting = session.execute(
        select(Project.max_running_gpus, Project.guaranteed_gpus)
        .where(_has_due_job(offer))
        .limit(2)
    ).all()
    if len(waiting) > 1 or any(bounds != (None, None) for bounds in waiting):
        lock_claims(session)


def lock_claims(session: Session) -> None:
    """Wait for the claims in progress, longer than for a row, and let others wait until the
    transaction ends. SQLite serializes transactions anyhow.
    """
    if session.get_bind().dialect.name == "postgresql":
        timeout = func.set_config("lock_timeout", CLAIMS_LOCK_TIMEOUT, True)
        session.execute(select(timeout, func.pg_advisory_xact_lock(CLAIMS_LOCK)))


def _has_due_job(offer: DeviceOffer) -> ColumnElement[bool]:
    """Return the condition that a job of the project may be taken."""
    waiting = aliased(Job)
    return _of_first_due(offer, waiting, waiting.id).is_not(None)


def _is_owed(offer: DeviceOffer) -> ColumnElement[bool]:
    """Return the condition that the project's next job fits into what it is guaranteed."""
    waiting = aliased(Job)
    num_gpus = _of_first_due(offer, waiting, waiting.num_gpus)
    # Most projects have no guarantee; for them nothing more is read.
    return case(
        (Project.guaranteed_gpus.is_(None), false()),
        else_=func.coalesce(running_gpus() + num_gpus <= Project.guaranteed_gpus, false()),
    )


def _of_first_due(
    offer: DeviceOffer, waiting: type[Job], column: QueryableAttribute[T]
) -> ScalarSelect[T]:
    """Return a column of the project's first job that may be taken, null if there is none; ordered
    as its index is, so that no planner reads the table for it.
    """
    return (
        select(column)
        .where(
            is_due(waiting),
            offer.fits(waiting),
            waiting.project_id == Project.id,
            waiting.num_gpus <= room(),
        )
        .correlate(Project)
        .order_by(waiting.priority.desc(), waiting.id)
        .limit(1)
        .scalar_subquery()
    )


def running_gpus() -> ColumnElement[int]:
    """Return the cards that a project's running jobs hold."""
    running = aliased(Job)
    return (
        select(func.coalesce(func.sum(running.num_gpus), 0))
        .where(running.status == JobStatus.RUNNING, running.project_id == Project.id)
        .correlate(Project)
        .scalar_subquery()
    )


def room() -> ColumnElement[int]:
    """Return how many more cards a project's running jobs may hold."""
    return case(
        (Project.max_running_gpus.is_(None), ENDLESS_ROOM),
        else_=Project.max_running_gpus - running_gpus(),
    )


def room_of(job: type[Job]) -> ColumnElement[int]:
    """Return how many more cards the running jobs of a job's project may hold."""
    mine = select(room()).where(Project.id == job.project_id)
    return mine.correlate(job).scalar_subquery()


def select_next(
    offer: DeviceOffer, project_ids: Sequence[str] | None = None, only_job: str | None = None
) -> Select[str]:
    """Return a job of the project that holds the fewest cards for its weight, of those below their
    guarantee if there are any; of several, the one with the lowest virtual time. `project_ids` of
    None restricts nothing.

    Within the project priority decides, then age. All of it is read from `ix_jobs_queue`, the jobs
    of one project only. With `only_job` another scheduler has decided: that job is returned if
    the ceiling of its project has room for it.
    """
    head = aliased(Job)
    if only_job is not None:
        may_begin = (is_due(head), offer.fits(head), head.num_gpus <= room_of(head))
        return select(head.id).where(head.id == only_job, *may_begin)
    may_serve = () if project_ids is None else (Project.id.in_(project_ids),)
    next_project = (
        select(Project.id, room().label("room"))
        .where(_has_due_job(offer), *may_serve)
        .order_by(
            _is_owed(offer).desc(),
            running_gpus() * 1.0 / Project.weight,
            Project.virtual_time,
            Project.id,
        )
        .limit(1)
        .cte("next_project")
    )
    return (
        select(head.id)
        .where(
            is_due(head),
            offer.fits(head),
            head.project_id == select(next_project.c.id).scalar_subquery(),
            head.num_gpus <= select(next_project.c.room).scalar_subquery(),
        )
        .order_by(head.priority.desc(), head.id)
        .limit(1)
    )


def charge_virtual_time(session: Session, project_id: str, num_gpus: int) -> None:
    """Charge virtual time by start-time fair queueing: a turn costs GPUs/weight, and an idle
    project starts where the newest turn of any began instead of catching up.
    """
    served = aliased(Project)
    here = select(func.max(served.virtual_start)).scalar_subquery()
    start = case((Project.virtual_time < here, here), else_=Project.virtual_time)
    session.execute(
        update(Project)
        .where(Project.id == project_id)
        .values(virtual_start=start, virtual_time=start + 1.0 * num_gpus / Project.weight),
        execution_options=UNSYNCED,
    )
