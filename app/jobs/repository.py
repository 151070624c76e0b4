from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import Select, and_, case, func, select, true
from sqlalchemy import delete as sql_delete
from sqlalchemy.orm import Session, aliased

from app.jobs import metrics_chunks
from app.jobs.readings import is_step, number, step_of
from app.jobs.requests import JobFilters
from app.models import (
    Attempt,
    Evaluation,
    Event,
    File,
    Job,
    JobMetadata,
    JobStatus,
    OperationStatus,
    Project,
)
from app.models.base import JsonObject
from app.models.event import CHUNK, WINDOW
from app.models.job_lifecycle import LIVE
from app.models.job_verdict import JobVerdict
from app.models.reported import json_number

ROWS_AT_ONCE = 100  # each may be a chunk
MAX_SEQ = 2**30  # more than any job has
_FIRST_SEQ = func.coalesce(Event.first_seq, Event.seq)


def find(session: Session, project_id: str, job_id: str, *, lock: bool = False) -> Job | None:
    statement = select(Job).where(Job.id == job_id, Job.project_id == project_id)
    return session.scalars(statement.with_for_update() if lock else statement).one_or_none()


def find_in_any_project(session: Session, job_id: str) -> Job | None:
    """Return the job. No user names it: a worker does, by a row that it has."""
    return session.get(Job, job_id)


def lock_in_any_project(session: Session, job_id: str) -> Job | None:
    """Return the job, which nobody changes or deletes before the transaction ends. A worker names
    it by a row that it has.
    """
    return session.scalars(select(Job).where(Job.id == job_id).with_for_update()).one_or_none()


def verdicts(session: Session, project_id: str, job_ids: Sequence[str]) -> dict[str, JobVerdict]:
    """Return the verdict of each of the project's jobs that has one."""
    mine = (Job.project_id == project_id, Job.id.in_(job_ids), Job.verdict.is_not(None))
    rows = session.execute(select(Job.id, Job.verdict).where(*mine))
    return {job_id: verdict for job_id, verdict in rows if verdict is not None}


def newest_first(
    session: Session, project_id: str, filters: JobFilters, *, after: str | None, limit: int
) -> list[Job]:
    pairs = [
        (aliased(JobMetadata), name, value) for name, value in (filters.metadata or {}).items()
    ]
    # Ordered by the column that the filter reads, or SQLite collects every match before it sorts.
    job_id = pairs[0][0].job_id if pairs else Job.id
    statement = (
        select(Job).where(Job.project_id == project_id).order_by(job_id.desc()).limit(limit + 1)
    )
    for pair, name, value in pairs:
        statement = statement.join(
            pair,
            and_(
                pair.job_id == Job.id,
                pair.project_id == project_id,
                pair.name == name,
                pair.value == value,
            ),
        )
    if after:
        statement = statement.where(job_id < after)
    if filters.status is not None:
        statement = statement.where(Job.status == filters.status)
    if filters.model is not None:
        statement = statement.where(Job.base_model_id == filters.model)
    if filters.metadata is None:
        statement = statement.where(Job.job_metadata.is_(None))
    return list(session.scalars(statement))


def list_of_studies(
    session: Session, project_id: str, study_ids: Sequence[str]
) -> dict[str, list[Job]]:
    """Return the jobs of each study, in the order of their creation."""
    grouped: dict[str, list[Job]] = {study_id: [] for study_id in study_ids}
    mine = (Job.project_id == project_id, Job.study_id.in_(study_ids))
    for job in session.scalars(select(Job).where(*mine).order_by(Job.id)):
        assert job.study_id is not None
        grouped[job.study_id].append(job)
    return grouped


def present(session: Session, project_id: str, job_ids: Sequence[str]) -> set[str]:
    """Return those of the ids that are of jobs of the project, which may have been deleted."""
    return set(
        session.scalars(select(Job.id).where(Job.project_id == project_id, Job.id.in_(job_ids)))
    )


def lock_for_reading(session: Session, job_id: str) -> bool:
    """Keep a job from being deleted before the transaction ends; False when it is gone already."""
    return (
        session.scalar(select(Job.id).where(Job.id == job_id).with_for_update(read=True))
        is not None
    )


def delete(session: Session, job_id: str) -> None:
    session.execute(sql_delete(Job).where(Job.id == job_id))


def any_waits_or_runs(session: Session) -> bool:
    live = Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING])
    return session.scalar(select(Job.id).where(live).limit(1)) is not None


def last_event_seq(session: Session, job_id: str) -> int | None:
    return session.scalar(select(Job.last_event_seq).where(Job.id == job_id))


def attempts(session: Session, job_ids: Sequence[str]) -> dict[str, list[Attempt]]:
    grouped: dict[str, list[Attempt]] = {job_id: [] for job_id in job_ids}
    for attempt in session.scalars(
        select(Attempt).where(Attempt.job_id.in_(job_ids)).order_by(Attempt.number)
    ):
        grouped[attempt.job_id].append(attempt)
    return grouped


def events_before(session: Session, job_id: str, *, before: int | None, limit: int) -> list[Event]:
    """Return the newest first, at most one more than `limit`."""
    if before is None:
        newest = session.scalar(select(func.max(Event.seq)).where(Event.job_id == job_id))
        before = (newest or 0) + 1
    return _events_between(session, job_id, before - limit - 2, before)[::-1]


def events_after(session: Session, job_id: str, *, after: int, limit: int) -> list[Event]:
    """Return the next events, none only if there are none. They may be fewer than `limit` when
    older ones have been removed.
    """
    if events := _events_between(session, job_id, after, after + limit + 1):
        return events
    later = select(func.min(_FIRST_SEQ)).where(Event.job_id == job_id, Event.seq > after)
    first = session.scalar(later)
    return [] if first is None else _events_between(session, job_id, first - 1, first + limit)


def _events_between(session: Session, job_id: str, after: int, before: int) -> list[Event]:
    """Return the events whose numbers lie between the two, by rising number."""
    # A row stands at its last number; the first one is in the same window.
    near = (Event.job_id == job_id, Event.seq > after, Event.seq < before + WINDOW)
    rows = session.scalars(select(Event).where(*near, before > _FIRST_SEQ))
    events = [event for row in rows for event in metrics_chunks.unpack(row)]
    return sorted(
        (event for event in events if after < event.seq < before), key=lambda event: event.seq
    )


def messages(
    session: Session, job_id: str, *, limit: int, before: int | None = None
) -> list[Event]:
    """Return the newest messages, without metrics. `before`: only those of a lower number."""
    statement = (
        select(Event)
        .where(Event.job_id == job_id, Event.type == "message")
        .order_by(Event.seq.desc())
        .limit(limit)
    )
    if before is not None:
        statement = statement.where(Event.seq < before)
    return list(session.scalars(statement))


def step_before(session: Session, job_id: str, seq: int) -> int | None:
    """Return the step of the last metrics event before this one."""
    earlier = (Event.job_id == job_id, Event.seq < seq + WINDOW, seq > _FIRST_SEQ)
    row = session.scalar(_metrics_rows(Event).where(*earlier).order_by(Event.seq.desc()).limit(1))
    return row and _last_step(row, seq)


def steps_before(session: Session, job_id: str, bounds: Mapping[int, int]) -> dict[int, int]:
    """Return the step of the last metrics event before a number, for each attempt in `bounds`;
    attempts without one are left out.
    """
    bound = case(bounds, value=Attempt.number)
    earlier = (Event.job_id == job_id, Event.seq < bound + WINDOW, bound > _FIRST_SEQ)
    last = _metrics_rows(Event.seq).where(*earlier).order_by(Event.seq.desc()).limit(1)
    row = aliased(Event)
    is_last = and_(row.job_id == job_id, row.seq == last.correlate(Attempt).scalar_subquery())
    statement = select(Attempt.number, row).join(row, is_last)
    statement = statement.where(Attempt.job_id == job_id, Attempt.number.in_(bounds))
    steps = {
        number: _last_step(chunk, bounds[number]) for number, chunk in session.execute(statement)
    }
    return {number: step for number, step in steps.items() if step is not None}


def _last_step(row: Event, before: int) -> int | None:
    events = metrics_chunks.unpack(row)
    steps = [step_of(event.data) for event in events if event.seq < before]
    return next((step for step in reversed(steps) if step is not None), None)


def metrics(session: Session, job_id: str) -> Iterator[tuple[int, JsonObject]]:
    """Yield (attempt, data) of every metrics event, oldest first, never all in memory."""
    statement = _metrics_rows(Event.type, Event.attempt, Event.data)
    statement = statement.where(Event.job_id == job_id).order_by(Event.seq)
    for type_, attempt, data in session.execute(
        statement, execution_options={"yield_per": ROWS_AT_ONCE}
    ):
        rows = metrics_chunks.unpack_data(data) if type_ == CHUNK else [data or {}]
        yield from ((attempt, row) for row in rows)


def metric(session: Session, job_id: str, key: str) -> list[tuple[int, int, float]]:
    """Yield (attempt, step, value) of every metrics event that has this value, in this order."""
    steps, values = (Event.data[("values", name)] for name in ("step", key))
    chunks = select(Event.attempt, steps, values).where(
        Event.job_id == job_id, Event.type == CHUNK, values.as_string().is_not(None)
    )
    points = [
        (attempt, step, value)
        for attempt, steps_of_chunk, values_of_chunk in session.execute(chunks.order_by(Event.seq))
        for step, reported in zip(steps_of_chunk or (), values_of_chunk, strict=False)
        if is_step(step) and (value := number(key, reported)) is not None
    ]
    own = json_number(Event.data[key])
    rows = select(Event.attempt, json_number(Event.data["step"]), own).where(
        Event.job_id == job_id, Event.type == "metrics", own.is_not(None)
    )
    points += [
        (attempt, int(step), value)
        for attempt, step, value in session.execute(rows)
        if step is not None and value is not None and is_step(int(step))
    ]
    return sorted(points)


def newest_metrics_step(session: Session, job_id: str) -> int:
    return step_before(session, job_id, MAX_SEQ) or 0


def _metrics_rows(*columns: Any) -> Select[Any]:
    return select(*columns).where(Event.type.in_(["metrics", CHUNK]))


def unspent_budget(session: Session, project_id: str, key_id: str) -> Decimal:
    """Return the dollars that the jobs of a key that have not ended may still cost."""
    mine = (Job.project_id == project_id, Job.status.in_(LIVE), Job.key_id == key_id)
    unspent = Decimal(0)
    for budget, progress in session.execute(select(Job.budget, Job.progress).where(*mine)):
        if budget is not None and budget.max_cost_usd is not None:
            accrued = progress.cost.accrued if progress and progress.cost else Decimal(0)
            unspent += max(Decimal(0), budget.max_cost_usd - accrued)
    return unspent


def reserved_for_evaluations(session: Session, project_id: str, key_id: str) -> Decimal:
    """Return the dollars that a key's evaluations in progress may cost, of jobs of any key."""
    statement = (
        select(Evaluation.plan)
        .join(Job, Job.id == Evaluation.job_id)
        .where(
            Evaluation.project_id == project_id,
            Evaluation.status == OperationStatus.IN_PROGRESS,
            func.coalesce(Evaluation.key_id, Job.key_id) == key_id,
        )
    )
    caps = (plan.max_cost_usd or Decimal(0) for plan in session.scalars(statement))
    return sum(caps, Decimal(0))


def list_validating_with(session: Session, file_id: str) -> list[Job]:
    """Return them locked, so that two checks that end at once see each other's verdict."""
    uses = (Job.training_file_id == file_id) | (Job.validation_file_id == file_id)
    statement = (
        select(Job)
        .where(uses, Job.status == JobStatus.VALIDATING_FILES)
        .order_by(Job.id)
        .with_for_update()
    )
    return list(session.scalars(statement))


def list_using(session: Session, project_id: str, file_id: str, *, limit: int) -> list[Job]:
    """Return the jobs that train or validate with the file, newest first."""
    uses = (Job.training_file_id == file_id) | (Job.validation_file_id == file_id)
    return list(
        session.scalars(
            select(Job)
            .where(Job.project_id == project_id, uses)
            .order_by(Job.id.desc())
            .limit(limit)
        )
    )


def num_using(session: Session, project_id: str, file_ids: Sequence[str]) -> dict[str, int]:
    """Count the jobs that train or validate with each file; files without any are left out."""
    training = Job.training_file_id
    validation = Job.validation_file_id
    counts: Counter[str] = Counter()
    # A job that does both with one file counts once.
    for role, more in ((training, true()), (validation, validation != training)):
        counted = (
            select(role, func.count())
            .where(Job.project_id == project_id, role.in_(file_ids), more)
            .group_by(role)
        )
        counts.update(
            {
                file_id: num_jobs
                for file_id, num_jobs in session.execute(counted)
                if file_id is not None
            }
        )
    return dict(counts)


def files_of(session: Session, job: Job) -> dict[str, File]:
    """Return the files by parameter name."""
    ids = {"training_file": job.training_file_id, "validation_file": job.validation_file_id}
    return {
        param: session.get_one(File, file_id)
        for param, file_id in ids.items()
        if file_id is not None
    }


def project_name(session: Session, project_id: str) -> str:
    return session.scalars(select(Project.name).where(Project.id == project_id)).one()
