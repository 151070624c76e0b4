"""Preemption: jobs that borrow cards give them back to projects below their guaranteed share.

One transaction decides, behind the lock that claims pass one by one: it sees every claim, and the
next decision sees it. The worker of a chosen job learns of it from its next heartbeat, stores a
checkpoint and releases the job, which counts as no failure.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import structlog
from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session, aliased

from app.base import counters
from app.base.database import Database, after_commit, now, now_plus
from app.base.settings import Settings
from app.jobs.events import NewEvent, append
from app.jobs.next_job import HELD_POLLS, is_due, lock_claims
from app.jobs.preemption_plan import Cards, Place, Preemption, RunningJob, WaitingJob, plan
from app.models import Attempt, Checkpoint, Desired, Drain, Job, JobStatus, Project, Worker
from app.models.worker import machine_of
from app.workers import service as workers

# A job that was preempted gets on for so long before it is again.
SPARED = timedelta(hours=1)
# Jobs that a decision serves, and that it reads of a project; the next one comes in seconds.
MAX_SERVED = 20
log = structlog.get_logger()


class _Project(NamedTuple):
    id: str
    name: str
    weight: int
    virtual_time: float
    guaranteed_gpus: int | None
    max_running_gpus: int | None

    @property
    def own_gpus(self) -> int:
        """Return the cards that are its own: a ceiling below its guarantee wins."""
        guaranteed = self.guaranteed_gpus or 0
        return (
            guaranteed if self.max_running_gpus is None else min(guaranteed, self.max_running_gpus)
        )


def preempt(database: Database, settings: Settings) -> list[Preemption]:
    """Decide which jobs give their cards back; withdraw what nobody needs any more."""
    with database.read() as session:
        if not _may_be_needed(session):
            return []
    with database.transaction() as session:
        lock_claims(session)
        _withdraw(session)
        decided = _decide(session, settings)
    for job, machine, victims in decided:
        ids = [victim.id for victim in victims]
        log.info("jobs are preempted", for_job=job.id, machine=machine, job_ids=ids)
    return decided


def _may_be_needed(session: Session) -> bool:
    """Return True if a project with a guarantee waits, or a job is about to give its cards."""
    is_guaranteed = Project.guaranteed_gpus.is_not(None)
    if session.scalar(select(Project.id).where(is_guaranteed).limit(1)) is None:
        return False
    waits = exists().where(is_due(Job), Job.project_id == Project.id)
    is_preempted = exists().where(Job.status == JobStatus.RUNNING, Job.preempted_for.is_not(None))
    return bool(session.scalar(select(exists().where(is_guaranteed, waits) | is_preempted)))


def _withdraw(session: Session) -> None:
    """Let jobs go on whose cards nobody waits for any more."""
    other = aliased(Job)
    is_wanted = exists().where(other.id == Job.preempted_for, other.is_waiting)
    chosen = (Job.status == JobStatus.RUNNING, Job.preempted_for.is_not(None), ~is_wanted)
    text = "The job keeps its GPUs: the one that was to get them has others, or no longer waits"
    for job_id in session.scalars(select(Job.id).where(*chosen)).all():
        append(session, job_id, [NewEvent(text)], guard=chosen, preempted_for=None)


def _decide(session: Session, settings: Settings) -> list[Preemption]:
    running = _read_running(session)
    held: defaultdict[str, int] = defaultdict(int)
    for job in running:
        held[job.project_id] += job.num_gpus
    projects = _read_projects(session)
    places = _read_places(session, settings)
    waiting = _read_waiting(session, projects, held, places)
    if not waiting:
        return []
    guarantees = {project.id: project.guaranteed_gpus or 0 for project in projects}
    names = {project.id: project.name for project in projects}
    planned = plan(waiting, places, running, guarantees)
    return [each for each in planned if _write(session, settings, each, names)]


def _read_projects(session: Session) -> list[_Project]:
    columns = [getattr(Project, name) for name in _Project._fields]
    guaranteed = Project.guaranteed_gpus.is_not(None)
    return [_Project(*row) for row in session.execute(select(*columns).where(guaranteed))]


def _read_running(session: Session) -> list[RunningJob]:
    saved_at = (
        select(func.max(Checkpoint.created_at))
        .where(Checkpoint.job_id == Job.id)
        .correlate(Job)
        .scalar_subquery()
    )
    is_live = Job.lease_expires_at > now_plus()
    statement = (
        select(Job, Attempt.cards, Attempt.created_at, saved_at, is_live, Worker.draining)
        .join(Attempt, (Attempt.job_id == Job.id) & (Attempt.number == Job.attempt))
        .outerjoin(Worker, Worker.id == Job.lease_owner)
        .where(Job.status == JobStatus.RUNNING)
        .order_by(Job.id)
    )
    moment = now(session)
    return [_running_job(moment, *row) for row in session.execute(statement)]


def _running_job(
    moment: datetime,
    job: Job,
    cards: Sequence[int] | None,
    started_at: datetime,
    saved_at: datetime | None,
    is_live: bool,
    draining: str | None,
) -> RunningJob:
    lost = moment - max(started_at, saved_at or started_at)
    is_stopping = job.desired != Desired.RUN or draining == Drain.STOP
    is_spared = job.preempted_at is not None and moment - job.preempted_at < SPARED
    owner = job.lease_owner or ""
    return RunningJob(
        id=job.id,
        attempt=job.attempt,
        project_id=job.project_id,
        worker=owner,
        machine=machine_of(owner),
        num_gpus=job.num_gpus,
        cards=frozenset(cards or ()),
        lost_seconds=max(0.0, lost.total_seconds()),
        may_stop=is_live and not is_spared,
        is_ending=is_live and (is_stopping or job.preempted_for is not None),
        preempted_for=job.preempted_for,
    )


def _read_places(session: Session, settings: Settings) -> list[Place]:
    """Return the live workers that take jobs."""
    return [
        Place(
            worker=worker.id,
            machine=worker.machine,
            device=worker.device,
            max_gpus=worker.max_gpus,
            cards=Cards(worker.cards or ()),
            project_ids=None if worker.project_ids is None else frozenset(worker.project_ids),
        )
        for worker in workers.read_live(session, settings)
        if worker.draining is None
    ]


def _read_waiting(
    session: Session,
    projects: Sequence[_Project],
    held: dict[str, int],
    places: Sequence[Place],
) -> list[WaitingJob]:
    """Return the jobs that fit into what their project is guaranteed, in the order of claims."""
    found: list[tuple[float, float, str, int, WaitingJob]] = []
    for project in projects:
        num_held = held.get(project.id, 0)
        if num_held >= project.own_gpus:
            continue
        for job in _first_due(session, project.id):
            if not any(place.suits(job) for place in places):
                continue  # No worker ever takes it, so the next one has its turn.
            if num_held + job.num_gpus > project.own_gpus:
                break
            share = num_held / project.weight
            found.append((share, project.virtual_time, project.id, len(found), job))
            num_held += job.num_gpus
    return [job for *_, job in sorted(found)[:MAX_SERVED]]


def _first_due(session: Session, project_id: str) -> list[WaitingJob]:
    is_held = Job.held_until > now_plus()
    statement = (
        select(Job.id, Job.project_id, Job.num_gpus, Job.gpu, Job.held_by, is_held)
        .where(is_due(Job), Job.project_id == project_id)
        .order_by(Job.priority.desc(), Job.id)
        .limit(MAX_SERVED)
    )
    return [
        WaitingJob(id_, owner_id, num_gpus, gpu, held_by if is_still_held else None)
        for id_, owner_id, num_gpus, gpu, held_by, is_still_held in session.execute(statement)
    ]


def _write(
    session: Session, settings: Settings, decided: Preemption, names: dict[str, str]
) -> bool:
    """Record a decision; return False where the job no longer waits."""
    job, machine, victims = decided
    seconds = settings.heartbeat + settings.stop_grace + HELD_POLLS * settings.poll
    freed = sum(victim.num_gpus for victim in victims)
    gpus = "1 GPU of jobs that borrow is" if freed == 1 else f"{freed} GPUs of jobs that borrow are"
    text = f"{gpus} taken back for this job"
    held = {"held_by": machine, "held_until": now_plus(seconds.total_seconds())}
    if not append(session, job.id, [NewEvent(text)], guard=(is_due(Job),), **held):
        return False
    name = names[job.project_id]
    for victim in victims:
        text = (
            f"The project '{name}' holds less than its guaranteed share and gets the GPUs of "
            f"this job ({victim.num_gpus}), which borrows them. The job stores a checkpoint and "
            "goes back to the queue"
        )
        event = NewEvent(text, "warn", data={"code": "preempted", "project": name})
        guard = (
            Job.status == JobStatus.RUNNING,
            Job.attempt == victim.attempt,
            Job.desired == Desired.RUN,
            Job.preempted_for.is_(None),
        )
        columns = {"preempted_for": job.id, "preempted_at": now_plus()}
        if append(session, victim.id, [event], guard=guard, **columns):
            after_commit(session, counters.PREEMPTIONS.inc)
    return True
