"""When a job's turn comes: the jobs before it, how long each still takes, and how many workers share them.

What `claims.claim` will do is done ahead on paper, job after job. Nobody knows what will be submitted meanwhile.
"""

import heapq
import math
import time
from bisect import insort
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, Field
from sqlalchemy import bindparam, exists, func, select
from sqlalchemy.orm import Session

from app.database import now_plus
from app.jobs.claims import is_due
from app.models import Desired, Job, JobStatus, Project
from app.settings import Settings
from app.workers import service as workers

FORESEEN = 200  # jobs; nobody plans by what comes after so many, and looking must stay cheap


class QueueObject(BaseModel):
    position: Annotated[int | None, Field(description=f"1: the next job to be taken; null beyond {FORESEEN}")]
    num_workers: Annotated[int, Field(description="that were seen lately, busy ones included")]
    estimated_start: Annotated[int | None, Field(description="Unix seconds; null when it cannot be told, and `reason` says why")]
    reason: Literal["no_live_worker", "unknown_duration", "long_queue"] | None


class Waiting(NamedTuple):
    job_id: str
    seconds: float | None  # expected; null when nothing is known of it
    priority: int = 0


class Line(NamedTuple):
    """The jobs of one project, in the order in which they are taken, and what its turn depends on."""

    weight: int
    turn: float
    waiting: Sequence[Waiting]


class Running(NamedTuple):
    project_id: str
    seconds: float | None  # that its worker still needs


class Queue:
    """As it is at one moment. `lines`: by project. `served`: the turn at which a project begins that was idle."""

    def __init__(self, lines: Mapping[str, Line], running: Sequence[Running], num_idle: int, served: float = 0.0) -> None:
        self._lines, self._running, self._num_idle, self._served = lines, running, num_idle, served

    def place(self, job_id: str) -> QueueObject | None:
        """Of a queued job; None when it does not wait any more."""
        # Most jobs of a long queue are far behind: known without looking ahead.
        found = self._foreseen.get(job_id) if any(one.job_id == job_id for line in self._lines.values() for one in line.waiting) else None
        if found is not None:
            return self._place(*found)
        return self._beyond() if sum(len(line.waiting) for line in self._lines.values()) >= FORESEEN else None

    def end(self, project: Project, priority: int) -> QueueObject:
        """Of a job of this project that would be queued now."""
        line = self._lines.get(project.id, Line(project.weight, project.turn, []))
        waiting = list(line.waiting)
        insort(waiting, Waiting("", None, priority), key=lambda one: -one.priority)
        longer = Queue({**self._lines, project.id: line._replace(waiting=waiting)}, self._running, self._num_idle, self._served)
        return longer.place("") or longer._beyond()

    @cached_property
    def _foreseen(self) -> dict[str, tuple[int, float]]:
        """Position and start of the next jobs."""
        return {job_id: (number, seconds) for number, (job_id, seconds) in zip(range(1, FORESEEN + 1), self._starts(), strict=False)}

    def _starts(self) -> Iterator[tuple[str, float]]:
        """Whoever is free first takes the next job; one of unknown length may hold its worker for ever."""
        lines = {project_id: list(reversed(line.waiting)) for project_id, line in self._lines.items() if line.waiting}
        turns = {project_id: line.turn for project_id, line in self._lines.items()}
        num_running = Counter(one.project_id for one in self._running)
        free = [(_or_never(one.seconds), one.project_id) for one in self._running] + [(0.0, "")] * self._num_idle or [(math.inf, "")]
        heapq.heapify(free)
        served = self._served
        while lines:
            moment, ended = heapq.heappop(free)
            num_running[ended] -= 1
            taken = min(lines, key=lambda one: (num_running[one] / self._lines[one].weight, turns[one], one))
            job = lines[taken].pop()
            yield job.job_id, moment
            served = max(turns[taken], served)
            turns[taken] = served + 1.0 / self._lines[taken].weight
            num_running[taken] += 1
            heapq.heappush(free, (moment + _or_never(job.seconds), taken))
            if not lines[taken]:
                del lines[taken]

    @property
    def _num_workers(self) -> int:
        return self._num_idle + len(self._running)

    def _beyond(self) -> QueueObject:
        return QueueObject(position=None, num_workers=self._num_workers, estimated_start=None, reason="long_queue")

    def _place(self, position: int, seconds: float) -> QueueObject:
        if self._num_workers == 0:
            return QueueObject(position=position, num_workers=0, estimated_start=None, reason="no_live_worker")
        return QueueObject(
            position=position,
            num_workers=self._num_workers,
            estimated_start=None if seconds == math.inf else int(time.time() + seconds),
            reason="unknown_duration" if seconds == math.inf else None,
        )


def waits(job: Job) -> bool:
    return job.status == JobStatus.QUEUED and job.desired == Desired.RUN


def look(session: Session, settings: Settings) -> Queue:
    running = session.execute(_RUNNING).all()
    idle = workers.lately_seen(session, settings) - {owner for owner, _, _ in running}
    served = session.scalar(_SERVED) or 0.0
    return Queue(_lines(session), [Running(*row) for _, *row in running], len(idle), served)


def place_of_new(session: Session, settings: Settings, project_id: str, priority: int) -> QueueObject:
    return look(session, settings).end(session.get_one(Project, project_id), priority)


def _lines(session: Session) -> dict[str, Line]:
    """A query for each project that waits: the one with a thousand jobs must not hide the one with a single job."""
    return {
        project_id: Line(weight, turn, [Waiting(*row) for row in session.execute(_NEXT_JOBS, {"project_id": project_id})])
        for project_id, weight, turn in session.execute(_WAITING_PROJECTS).all()
    }


# Built once: every submission looks, and building them takes a quarter of a millisecond.
_SECONDS_LEFT = func.coalesce(Job.progress["eta_seconds"].as_float(), Job.estimate["seconds"]["expected"].as_float())
_RUNNABLE = is_due(Job)  # one that has to wait after a loss has no place in the queue before its time
_RUNNING = select(Job.lease_owner, Job.project_id, _SECONDS_LEFT).where(Job.status == JobStatus.RUNNING, Job.lease_expires_at > now_plus())
_SERVED = select(func.max(Project.turn - 1.0 / Project.weight))
_WAITING_PROJECTS = (
    select(Project.id, Project.weight, Project.turn)
    .where(exists().where(*_RUNNABLE, Job.project_id == Project.id))
    .order_by(Project.turn)
    .limit(FORESEEN)
)
_NEXT_JOBS = (
    select(Job.id, _SECONDS_LEFT, Job.priority)
    .where(*_RUNNABLE, Job.project_id == bindparam("project_id"))
    .order_by(Job.priority.desc(), Job.id)
    .limit(FORESEEN)
)


def _or_never(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds
