"""Use cases of workers; each function is one unit of work."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import NamedTuple

from sqlalchemy import ColumnElement, case, delete, exists, func, select, update
from sqlalchemy.orm import Session

from app.auth import audit, worker_tokens
from app.auth.caller import Caller
from app.base.database import UNSYNCED, now_plus
from app.base.errors import NotFound
from app.base.settings import Settings
from app.http.pagination import Page
from app.models import Attempt, Drain, Job, JobStatus, Worker
from app.models.attempt import OUTCOME_LOST
from app.models.worker import machine_of
from app.services import Services
from app.workers.schemas import (
    DrainRequest,
    LiveWorker,
    WorkerObject,
    WorkerTokenRequest,
    WorkerTokenView,
)
from falqon_core.contract.diagnosis import Diagnosis
from falqon_core.estimate.calibration import Calibration

MISSED_POLLS = 3  # polls without a sign of life after which an idle worker counts as gone
FORGOTTEN_SECONDS = 24 * 3600.0
HISTORY_JOBS = 2_000  # whose attempts a history counts


class WorkerHistory(NamedTuple):
    worker_id: str
    device: str
    num_devices: int  # largest job
    num_attempts: int
    num_lost: int
    first_at: datetime
    latest_at: datetime


def list_workers(services: Services, caller: Caller) -> Page[WorkerObject]:
    """Return the workers that have a job, and those that polled for one lately, newest first."""
    with services.database.read() as session:
        workers = list_live(session, services.settings)
    return _page(caller, workers)


def change_drain(
    services: Services, caller: Caller, name: str, request: DrainRequest
) -> Page[WorkerObject]:
    """Let a worker, or all of a machine, take no more jobs, or take them again; return which."""
    caller.must_administer_installation()
    with services.database.transaction() as session:
        drain(session, services.settings, name, request.draining)
        change = "worker.drained" if request.draining else "worker.undrained"
        audit.record(session, caller, change, name)
        session.expire_all()
        workers = list_live(session, services.settings)
    return _page(caller, [each for each in workers if _is_named(each, name)])


def _page(caller: Caller, workers: Sequence[LiveWorker]) -> Page[WorkerObject]:
    project_id = None if caller.administers_installation else caller.project_id
    return Page[WorkerObject].of([WorkerObject.of(worker, project_id) for worker in workers])


def _is_named(live: LiveWorker, name: str) -> bool:
    return name in (live.worker.id, live.worker.machine)


def create_token(
    services: Services, caller: Caller, request: WorkerTokenRequest
) -> tuple[WorkerTokenView, str]:
    """Make a token for workers that see only the API; its secret is returned here and never
    again.
    """
    caller.must_administer_installation()
    with services.database.transaction() as session:
        token, secret = worker_tokens.create(session, request.name, request.project_ids)
        session.refresh(token)
        audit.record(session, caller, "worker_token.created", token.id)
    return WorkerTokenView.of(token), secret


def list_tokens(services: Services, caller: Caller) -> Sequence[WorkerTokenView]:
    """Return the tokens that are not revoked, oldest first."""
    caller.must_administer_installation()
    with services.database.read() as session:
        tokens = worker_tokens.list_all(session)
    return [WorkerTokenView.of(token) for token in tokens]


def revoke_token(services: Services, caller: Caller, token_id: str) -> None:
    caller.must_administer_installation()
    with services.database.transaction() as session:
        worker_tokens.revoke(session, token_id)
        audit.record(session, caller, "worker_token.deleted", token_id)


def mark_seen(
    session: Session,
    worker_id: str,
    device: str,
    num_devices: int,
    max_gpus: int = 1,
    cards: Sequence[int] = (),
    project_ids: Sequence[str] | None = None,
) -> bool:
    """Record a poll of a worker; return whether it may take jobs. `cards`: those that it may use,
    or none has a name. `project_ids`: the projects that it serves; None: every project.
    """
    again = (
        update(Worker)
        .where(Worker.id == worker_id)
        .values(seen_at=now_plus(), project_ids=_listed(project_ids))
        .returning(Worker.draining)
    )
    row = session.execute(again, execution_options=UNSYNCED).one_or_none()
    if row is None:
        # A worker that executes a job polls again when that has ended.
        has_job = exists().where(Job.lease_owner == Worker.id, Job.status == JobStatus.RUNNING)
        is_gone = Worker.seen_at < now_plus(-FORGOTTEN_SECONDS)
        session.execute(delete(Worker).where(is_gone, ~has_job), execution_options=UNSYNCED)
        session.add(
            Worker(
                id=worker_id,
                device=device,
                num_devices=num_devices,
                max_gpus=max_gpus,
                cards=list(cards),
                project_ids=_listed(project_ids),
                seen_at=now_plus(),
            )
        )
        session.flush()
    return row is None or row.draining is None


def must_stop(session: Session, worker_id: str) -> bool:
    """Return True if a worker has to release its job."""
    draining = session.scalar(select(Worker.draining).where(Worker.id == worker_id))
    return draining == Drain.STOP


def drain(
    session: Session, settings: Settings, name: str, draining: Drain | None
) -> list[LiveWorker]:
    """Let a worker, or all of a machine, take no more jobs, or take them again; return which.
    Raises `NotFound` where none of this name lives.
    """
    live = list_live(session, settings)
    chosen = [each for each in live if _is_named(each, name)]
    if not chosen:
        names = ", ".join(each.worker.id for each in live) or "none"
        raise NotFound(f"No worker or machine is named '{name}'; workers that live: {names}.")
    ids = [each.worker.id for each in chosen]
    session.execute(update(Worker).where(Worker.id.in_(ids)).values(draining=draining))
    return chosen


def store_diagnosis(session: Session, worker_id: str, diagnosis: Diagnosis) -> None:
    """Store what `doctor` says of the machine of a worker that has been seen."""
    session.execute(update(Worker).where(Worker.id == worker_id).values(diagnosis=diagnosis))


def store_calibration(session: Session, worker_id: str, calibration: Calibration) -> None:
    """Store what a short training has measured on the machine of a worker that has been seen."""
    session.execute(update(Worker).where(Worker.id == worker_id).values(calibration=calibration))


def calibration_of(session: Session, device: str) -> Calibration | None:
    """Return the measurements of the newest worker with such a device."""
    measured = (Worker.device == device, Worker.calibration.is_not(None))
    newest_first = select(Worker.calibration).where(*measured).order_by(Worker.created_at.desc())
    return session.scalars(newest_first.limit(1)).first()


def measured_tflops(session: Session, device: str) -> float | None:
    """Return the rate of products that `doctor` has measured on the newest worker with such a
    device.
    """
    diagnosed = (Worker.device == device, Worker.diagnosis.is_not(None))
    newest_first = select(Worker.diagnosis).where(*diagnosed).order_by(Worker.created_at.desc())
    diagnosis = session.scalars(newest_first.limit(1)).first()
    return diagnosis.product_tflops if diagnosis else None


def newest(session: Session, device: str | None = None) -> Worker | None:
    """Return the worker that came last, of those with this device if one is named; it may have left
    since.
    """
    statement = select(Worker).order_by(Worker.created_at.desc()).limit(1)
    if device is not None:
        statement = statement.where(Worker.device == device)
    return session.scalars(statement).first()


def devices(session: Session) -> set[str]:
    """Return the kinds of device that workers have, or had lately."""
    return set(session.scalars(select(Worker.device).distinct()))


def list_idle(session: Session, settings: Settings) -> dict[str, str]:
    """Return the device of each that could begin a job: it has none, and a card that it may use is
    free.
    """
    cards_of = dict(session.execute(_CARDS).all())
    taken = _find_taken_cards(cards_of)
    seen = select(Worker).where(Worker.seen_at > _since(settings))
    return {
        worker.id: worker.device
        for worker in session.scalars(seen)
        if worker.id not in cards_of and not _is_taken(worker, taken[worker.machine])
    }


def list_live(session: Session, settings: Settings) -> list[LiveWorker]:
    """Return the newest first, each with the job it has."""
    statement = (
        select(Worker, Job, Attempt, now_plus())
        .outerjoin(Job, _executes())
        .outerjoin(Attempt, _is_latest())
        .where(Job.id.is_not(None) | (Worker.seen_at > _since(settings)))
    )
    rows = session.execute(statement.order_by(Worker.id.desc())).all()
    taken = _find_taken_cards({row[0].id: row[2].cards if row[2] else None for row in rows})
    return [_live(*row, taken, settings) for row in rows]


def history(
    session: Session, project_id: str | None, since: date, limit: int
) -> list[WorkerHistory]:
    """Return the work of workers since that day on the newest jobs, including gone workers, the
    latest first; a project of None restricts nothing.
    """
    began = datetime.combine(since, time(), UTC)
    latest = func.max(Attempt.created_at)
    # Of a million jobs all attempts would be read.
    newest = select(Job.id).order_by(Job.id.desc()).limit(HISTORY_JOBS)
    if project_id is not None:
        newest = newest.where(Job.project_id == project_id)
    # As values: of a subquery Postgres expects so many rows that it reads the whole table.
    job_ids = session.scalars(newest).all()
    statement = (
        select(
            Attempt.worker,
            func.max(Attempt.device),
            func.max(Attempt.num_devices),
            func.count(),
            func.sum(case((Attempt.outcome == OUTCOME_LOST, 1), else_=0)),
            func.min(Attempt.created_at),
            latest,
        )
        .where(Attempt.created_at >= began, Attempt.job_id.in_(job_ids))
        .group_by(Attempt.worker)
        .order_by(latest.desc())
        .limit(limit)
    )
    return [WorkerHistory(*row) for row in session.execute(statement)]


def most_gpus(session: Session, settings: Settings) -> dict[str, int]:
    """Return the most GPUs that a job can have of each kind of device that a live worker has."""
    most = select(Worker.device, func.max(Worker.max_gpus)).where(_is_live(settings))
    return dict(session.execute(most.group_by(Worker.device)).all())


def read_live(session: Session, settings: Settings) -> Sequence[Worker]:
    """Return the workers that have a job, and those that polled for one lately."""
    statement = select(Worker).where(_is_live(settings)).order_by(Worker.id)
    return session.scalars(statement).all()


def mark_ended(session: Session, worker_id: str) -> None:
    """Record that a worker has ended its job, and is about to poll for the next one."""
    statement = update(Worker).where(Worker.id == worker_id).values(seen_at=now_plus())
    session.execute(statement, execution_options=UNSYNCED)


def _find_taken_cards(cards_of: Mapping[str, Sequence[int] | None]) -> Mapping[str, set[int]]:
    """Return the cards of each machine that its workers have."""
    taken: defaultdict[str, set[int]] = defaultdict(set)
    for worker_id, cards in cards_of.items():
        taken[machine_of(worker_id)].update(cards or ())
    return taken


def _is_taken(worker: Worker, taken: set[int]) -> bool:
    """Return True if all cards that a worker may use are among those of its machine."""
    if worker.cards:
        return taken.issuperset(worker.cards)
    return len(taken) >= worker.max_gpus


def _executes() -> ColumnElement[bool]:
    """Return True if a job is the worker's current one."""
    return (Job.lease_owner == Worker.id) & _is_leased()


def _is_leased() -> ColumnElement[bool]:
    return (Job.status == JobStatus.RUNNING) & (Job.lease_expires_at > now_plus())


def _is_live(settings: Settings) -> ColumnElement[bool]:
    """Return True if a worker has a job, or polled for one lately."""
    # Read once; with a query for each worker its cost grew with the square of the fleet.
    owners = select(Job.lease_owner).where(_is_leased())
    return (Worker.seen_at > _since(settings)) | Worker.id.in_(owners)


def _is_latest() -> ColumnElement[bool]:
    """Return True if an attempt is its job's current one."""
    return (Attempt.job_id == Job.id) & (Attempt.number == Job.attempt)


def _live(
    worker: Worker,
    job: Job | None,
    attempt: Attempt | None,
    now: datetime,
    taken: Mapping[str, set[int]],
    settings: Settings,
) -> LiveWorker:
    seen_at = worker.seen_at
    if job is not None and job.lease_expires_at is not None:
        seen_at = max(seen_at, job.lease_expires_at - settings.lease)
    is_busy = job is not None or _is_taken(worker, taken[worker.machine])
    return LiveWorker(worker, job, attempt, max(0.0, (now - seen_at).total_seconds()), is_busy)


def _since(settings: Settings) -> now_plus:
    return now_plus(-MISSED_POLLS * settings.poll.total_seconds())


def _listed(ids: Sequence[str] | None) -> list[str] | None:
    return None if ids is None else list(ids)


# Built once, as every submission reads it.
_CARDS = select(Worker.id, Attempt.cards).join(Job, _executes()).outerjoin(Attempt, _is_latest())
