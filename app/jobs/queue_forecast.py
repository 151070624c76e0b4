"""Forecast of a job's start: the jobs before it, their remaining time, and the number of workers.

The decisions of `claims.claim` are simulated, job after job. Future submissions are unknown, and so
are preemptions.
"""

import heapq
import math
import threading
import time
from bisect import insort
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import groupby, islice
from typing import Annotated, Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

from pydantic import BaseModel, Field
from sqlalchemy import (
    ColumnElement,
    Engine,
    Float,
    bindparam,
    case,
    cast,
    exists,
    func,
    select,
    true,
)
from sqlalchemy.orm import Session

from app.base.database import now_plus
from app.base.settings import Settings
from app.jobs.gpus import most_of
from app.jobs.next_job import is_due
from app.models import Attempt, Job, JobStatus, Project
from app.models.falqon_options import ANY_DEVICE
from app.models.job_request import JobRequest
from app.models.reported import json_number
from app.workers import service as workers

MAX_FORECAST = 200  # jobs; a longer forecast is useless, and reading must stay cheap
# Every page with a waiting job reads it, every poll of one, and every submission: where it is long,
# each process computes it once in some seconds, and no more.
LONG_QUEUE = 50
MANY_WORKERS = 50
KEPT_SECONDS = 3.0
COMMIT_SECONDS = 1.0  # between a job's creation and the moment at which others see it
FORESEEABLE_SECONDS = 100 * 365 * 86400.0


Reason = Literal[
    "no_live_worker", "unknown_duration", "long_queue", "no_worker_of_device", "too_few_gpus"
]


class QueueObject(BaseModel):
    position: Annotated[
        int | None, Field(description=f"1: the next job to be taken; null beyond {MAX_FORECAST}")
    ]
    num_workers: Annotated[int, Field(description="workers seen lately, busy ones included")]
    estimated_start: Annotated[
        int | None,
        Field(description="Unix seconds; null when unknown, see `reason`"),
    ]
    reason: Annotated[
        Reason | None,
        Field(
            description="no_worker_of_device: live workers have others than falqon.gpu; "
            "too_few_gpus: none has as many as the job requests"
        ),
    ]


class WaitingJob(NamedTuple):
    id: str
    seconds: float | None  # expected seconds; None if unknown
    priority: int = 0
    gpu: str = ANY_DEVICE
    num_gpus: int = 1

    def runs_on(self, device: str) -> bool:
        """Return True if a worker with this device may take it; a missing device matches any."""
        return ANY_DEVICE in (self.gpu, device) or self.gpu == device


class RunningJob(NamedTuple):
    project_id: str
    seconds: float | None  # remaining seconds on its worker
    device: str
    num_gpus: int = 1


@dataclass(frozen=True, slots=True)
class ProjectQueue:
    """Jobs of one project in the order in which they are taken, and the values that decide the
    time.
    """

    weight: int
    virtual_time: float
    waiting: Sequence[WaitingJob]
    max_running_gpus: int | None = None
    guaranteed_gpus: int | None = None
    is_cut: bool = False  # More jobs wait than were read.

    def may_hold(self, num_gpus: int) -> bool:
        """Return True if its running jobs may have so many cards."""
        return self.max_running_gpus is None or num_gpus <= self.max_running_gpus

    def owns(self, num_gpus: int) -> bool:
        """Return True if so many cards are its own, not borrowed."""
        return self.guaranteed_gpus is not None and num_gpus <= self.guaranteed_gpus


class Queue:
    """Queue at one moment. `projects`: by id. `idle`: the device of each idle worker. `served`: the
    virtual time at which an idle project begins. `most_gpus`: that a job can have of each device,
    as far as workers live.
    """

    def __init__(
        self,
        projects: Mapping[str, ProjectQueue],
        running: Sequence[RunningJob],
        idle: Sequence[str],
        served: float = 0.0,
        most_gpus: Mapping[str, int] | None = None,
    ) -> None:
        self._projects = projects
        self._running = running
        self._idle = idle
        self._served = served
        self._most_gpus = most_gpus or {}

    def position_of(
        self, job_id: str, num_gpus: int = 1, gpu: str = ANY_DEVICE
    ) -> QueueObject | None:
        """Forecast a queued job; None when it does not wait any more. A job counts as one worker's,
        independently of its GPUs.
        """
        if self._most_gpus:
            most = most_of(self._most_gpus, gpu)
            if most is None:
                return self._never("no_worker_of_device")
            if num_gpus > most:
                return self._never("too_few_gpus")
        # Most jobs of a long queue are far behind: that is clear without a simulation.
        if job_id in self._waiting_seconds and job_id in self._foreseen:
            return self._describe(*self._foreseen[job_id])
        if any(queue.is_cut for queue in self._projects.values()):
            return self._never("long_queue")
        return None

    def seconds_of(self, job_id: str) -> float | None:
        """Return the expected duration of a waiting job, up to the cap of its budget."""
        seconds = _or_never(self._waiting_seconds.get(job_id))
        return None if seconds == math.inf else seconds

    def position_if_added(
        self, project: Project, priority: int, gpu: str = ANY_DEVICE, num_gpus: int = 1
    ) -> QueueObject:
        """Forecast a job of this project that would be queued now."""
        empty = ProjectQueue(
            project.weight,
            project.virtual_time,
            [],
            project.max_running_gpus,
            project.guaranteed_gpus,
        )
        queue = self._projects.get(project.id, empty)
        waiting = list(queue.waiting)
        insort(
            waiting, WaitingJob("", None, priority, gpu, num_gpus), key=lambda job: -job.priority
        )
        if queue.is_cut and not waiting[-1].id:
            return self._never("long_queue")
        projects = {**self._projects, project.id: replace(queue, waiting=waiting)}
        longer = Queue(projects, self._running, self._idle, self._served, self._most_gpus)
        return longer.position_of("", gpu=gpu) or longer._never("long_queue")

    @cached_property
    def _waiting_seconds(self) -> dict[str, float | None]:
        return {job.id: job.seconds for queue in self._projects.values() for job in queue.waiting}

    @cached_property
    def _foreseen(self) -> dict[str, tuple[int, float]]:
        """Return position and start of the next jobs."""
        starts = islice(self._starts(), MAX_FORECAST)
        return {job_id: (number, seconds) for number, (job_id, seconds) in enumerate(starts, 1)}

    def _starts(self) -> Iterator[tuple[str, float]]:
        """Yield the jobs in the order in which they start. The first free worker takes the next job
        that suits its device; a job of unknown length may hold its worker for ever.
        """
        waiting = {
            project_id: list(reversed(queue.waiting))
            for project_id, queue in self._projects.items()
            if queue.waiting
        }
        virtual_times = {id_: queue.virtual_time for id_, queue in self._projects.items()}
        held = Counter[str]()  # Cards of each project.
        for running in self._running:
            held[running.project_id] += running.num_gpus

        def rank(project_id: str, num_gpus: int) -> tuple[bool, float, float, str]:
            queue = self._projects[project_id]
            is_borrowing = not queue.owns(held[project_id] + num_gpus)
            share = held[project_id] / queue.weight
            return is_borrowing, share, virtual_times[project_id], project_id

        free = [
            (_or_never(job.seconds), job.project_id, job.device, job.num_gpus)
            for job in self._running
        ]
        free += [(0.0, "", device, 0) for device in self._idle]
        free = free or [(math.inf, "", ANY_DEVICE, 0)]
        heapq.heapify(free)
        served = self._served
        idle = list[str]()  # Devices of workers for which no waiting job is there, or allowed.
        while waiting and free:
            moment, ended, device, num_gpus = heapq.heappop(free)
            held[ended] -= num_gpus
            if num_gpus and (queue := self._projects.get(ended)) and queue.max_running_gpus:
                for other in idle:  # The project may hold more again.
                    heapq.heappush(free, (moment, "", other, 0))
                idle.clear()
            fitting = {
                project_id: job
                for project_id, jobs in waiting.items()
                if (job := self._first_fitting(project_id, jobs, device, held[project_id]))
            }
            if not fitting:
                idle.append(device)
                continue
            project_id = min(fitting, key=lambda each: rank(each, fitting[each].num_gpus))
            job = fitting[project_id]
            waiting[project_id].remove(job)
            yield job.id, moment
            served = max(virtual_times[project_id], served)
            virtual_times[project_id] = served + job.num_gpus / self._projects[project_id].weight
            held[project_id] += job.num_gpus
            heapq.heappush(
                free, (moment + _or_never(job.seconds), project_id, device, job.num_gpus)
            )
            if not waiting[project_id]:
                if self._projects[project_id].is_cut:
                    return  # Its next jobs are unknown.
                del waiting[project_id]

    def _first_fitting(
        self, project_id: str, jobs: Sequence[WaitingJob], device: str, num_held: int
    ) -> WaitingJob | None:
        """Return the first of the reversed `jobs` that this device may run now."""
        queue = self._projects[project_id]
        fitting = (
            job
            for job in reversed(jobs)
            if job.runs_on(device) and queue.may_hold(num_held + job.num_gpus)
        )
        return next(fitting, None)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting_seconds)

    @property
    def num_workers(self) -> int:
        return len(self._idle) + len(self._running)

    def _never(self, reason: Reason) -> QueueObject:
        return QueueObject(
            position=None, num_workers=self.num_workers, estimated_start=None, reason=reason
        )

    def _describe(self, position: int, seconds: float) -> QueueObject:
        estimated_start: int | None = None
        reason: Reason | None = None
        if self.num_workers == 0:
            reason = "no_live_worker"
        elif seconds == math.inf:
            reason = "unknown_duration"
        else:
            estimated_start = int(time.time() + seconds)
        return QueueObject(
            position=position,
            num_workers=self.num_workers,
            estimated_start=estimated_start,
            reason=reason,
        )


_kept: WeakKeyDictionary[Engine, tuple[float, Queue]] = WeakKeyDictionary()
_reading = threading.Lock()


def read_queue(session: Session, settings: Settings, newest: datetime | None = None) -> Queue:
    """Read the current queue, or, where it is long, the one of some seconds ago, unless the
    `newest` of the jobs to be found was created later. One request reads it again while the others
    go on with the old one.
    """
    engine = session.get_bind().engine
    now = time.time()
    read_at, queue = _kept.get(engine, (0.0, None))
    if newest is not None and newest.timestamp() > read_at - COMMIT_SECONDS:
        queue = None
    if queue is not None and 0 <= now - read_at < KEPT_SECONDS:
        return queue
    is_kept = queue is not None
    if queue is not None and not _reading.acquire(blocking=False):
        return queue
    try:
        queue = _read_queue(session, settings)
        if queue.num_workers >= MANY_WORKERS or queue.num_waiting >= LONG_QUEUE:
            _kept[engine] = (now, queue)
        else:
            _kept.pop(engine, None)
    finally:
        if is_kept:
            _reading.release()
    return queue


def _read_queue(session: Session, settings: Settings) -> Queue:
    running = [RunningJob(*row) for row in session.execute(_RUNNING)]
    idle = list(workers.list_idle(session, settings).values())
    served = session.scalar(_SERVED) or 0.0
    most_gpus = workers.most_gpus(session, settings)
    return Queue(_read_projects(session), running, idle, served, most_gpus)


def position_of_new_job(
    session: Session, settings: Settings, project_id: str, request: JobRequest
) -> QueueObject:
    project = session.get_one(Project, project_id)
    queue = read_queue(session, settings)
    requested = request.falqon.num_gpus
    num_gpus = requested if isinstance(requested, int) else 1
    return queue.position_if_added(project, request.priority, request.falqon.gpu, num_gpus)


def _read_projects(session: Session) -> dict[str, ProjectQueue]:
    """Read the first jobs of each waiting project, `MAX_FORECAST` in all: a project with a thousand
    jobs must not hide one with a single job.
    """
    most = max(1, MAX_FORECAST // (session.scalar(_NUM_WAITING_PROJECTS) or 1))
    projects = {}
    for project, rows in groupby(_read_waiting(session, most + 1), key=lambda row: row[:5]):
        project_id, weight, virtual_time, ceiling, guaranteed = project
        jobs = [WaitingJob(*row[5:]) for row in rows]
        projects[project_id] = ProjectQueue(
            weight, virtual_time, jobs[:most], ceiling, guaranteed, is_cut=len(jobs) > most
        )
    return projects


def _read_waiting(session: Session, most: int) -> Iterator[Sequence[Any]]:
    """Yield `most` jobs of each project with their project, in their order. In one statement on
    Postgres, because each costs a round trip; SQLite, where none does, knows no LATERAL.
    """
    if session.get_bind().dialect.name == "postgresql":
        yield from session.execute(_WAITING_WITH_JOBS, {"most": most})
        return
    for project in session.execute(_WAITING_PROJECTS).all():
        for job in session.execute(_NEXT_JOBS, {"project_id": project.id, "most": most}):
            yield *project, *job


def _lower(value: ColumnElement[Any], bound: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the lower of both; an unknown bound bounds nothing."""
    return case((bound < value, bound), else_=value)


# Built once: every submission reads them, and building them takes a quarter of a millisecond.
_EXPECTED = Job.estimate["seconds"]["expected"].as_float()
_EXPECTED_COST = cast(Job.estimate[("cost", "expected")].as_numeric(38, 6), Float)
# Seconds that either cap of the budget allows over all attempts; the dollars by their expected
# yield. At a cap the job pauses and its worker is free.
_ALLOWED = Job.budget["max_seconds"].as_float()
_AFFORDED = _EXPECTED * (
    cast(Job.budget["max_cost_usd"].as_numeric(38, 6), Float) / func.nullif(_EXPECTED_COST, 0.0)
)
_SECONDS_LEFT = _lower(
    _lower(
        func.coalesce(json_number(Job.progress["eta_seconds"]), _EXPECTED),
        _ALLOWED - Job.execution_seconds,
    ),
    _AFFORDED - Job.execution_seconds,
)
# A job that has to wait after a loss has no position in the queue before its time.
_RUNNABLE = is_due(Job)
_RUNNING = (
    select(Job.project_id, _SECONDS_LEFT, Attempt.device, Job.num_gpus)
    .join(Attempt, (Attempt.job_id == Job.id) & (Attempt.number == Job.attempt))
    .where(Job.status == JobStatus.RUNNING, Job.lease_expires_at > now_plus())
)
_SERVED = select(func.max(Project.virtual_start))
_WAITING_PROJECTS = (
    select(
        Project.id,
        Project.weight,
        Project.virtual_time,
        Project.max_running_gpus,
        Project.guaranteed_gpus,
    )
    .where(exists().where(_RUNNABLE, Job.project_id == Project.id))
    .order_by(Project.virtual_time)
    .limit(MAX_FORECAST)
)
_FIRST_JOBS = (
    select(Job.id, _SECONDS_LEFT.label("seconds"), Job.priority, Job.gpu, Job.num_gpus)
    .where(_RUNNABLE)
    .order_by(Job.priority.desc(), Job.id)
    .limit(bindparam("most"))
)
_NUM_WAITING_PROJECTS = select(func.count()).select_from(_WAITING_PROJECTS.subquery())
_NEXT_JOBS = _FIRST_JOBS.where(Job.project_id == bindparam("project_id"))
_PROJECT = _WAITING_PROJECTS.subquery()
_ITS_JOBS = _FIRST_JOBS.where(Job.project_id == _PROJECT.c.id).lateral()
_WAITING_WITH_JOBS = (
    select(_PROJECT, _ITS_JOBS)
    .join(_ITS_JOBS, true())
    .order_by(_PROJECT.c.virtual_time, _PROJECT.c.id, _ITS_JOBS.c.priority.desc(), _ITS_JOBS.c.id)
)


def _or_never(seconds: object) -> float:
    """Return the number that the database computed from a worker's own forecast."""
    if isinstance(seconds, int | float) and seconds < FORESEEABLE_SECONDS:
        return max(0.0, seconds)
    return math.inf
