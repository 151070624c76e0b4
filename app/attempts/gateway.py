"""Calls of an attempt to the service: each function is one transaction or one query.

A worker beside the database calls these functions itself. For a worker that reaches only the API an
endpoint does, with the projects of its token.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from redis import Redis
from sqlalchemy.orm import Session

from app.attempts import endings, inputs
from app.attempts.metrics_file import MetricsFile
from app.attempts.values import (
    Batch,
    Claimed,
    Ending,
    Inputs,
    Renewal,
    SavedCheckpoint,
    TrainingResult,
    WorkerOffer,
)
from app.base.database import Database, now
from app.base.settings import Settings
from app.base.storage import Storage, keys
from app.catalogue import repository as catalogue
from app.exports import serving
from app.garbage import orphans
from app.jobs import checkpoint_repository, claims, next_job, repository
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.jobs.next_job import NextJob
from app.models import Artifact, Checkpoint, Job, JobStatus, Model
from app.models.trainer_log import TrainerLog
from app.models.worker import machine_of
from app.notifier import wakeups
from app.prices.service import price_of
from app.switches import gate
from app.usage import repository as usage
from app.workers import service as workers
from falqon_core.estimate.prices import Price
from falqon_core.fault_points import fault

T = TypeVar("T")


class DirectGateway:
    """`owner` names the worker in its claims. `project_ids`: projects whose jobs it may have; None:
    every project's. `only_job`: the one job that it may have.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        storage: Storage,
        redis: Redis,
        owner: str,
        project_ids: Sequence[str] | None = None,
        only_job: str | None = None,
    ) -> None:
        self.owner = owner
        self.redis = redis
        self._settings = settings
        self._database = database
        self._storage = storage
        self._project_ids = project_ids
        self._only_job = only_job

    def find_next(self, device: str, max_gpus: int) -> NextJob | None:
        """Return the next job that these devices suffice for."""
        offer = next_job.DeviceOffer(device, max_gpus)
        with self._database.read() as session:
            return next_job.find_next(session, offer, self._project_ids, self._only_job)

    def hold(self, offer: WorkerOffer, job_id: str) -> bool:
        """Return True if the free cards of this machine are kept for a job. A draining worker
        claims nothing and keeps nothing.
        """
        seconds = next_job.HELD_POLLS * self._settings.poll.total_seconds()
        with self._database.transaction() as session:
            return not self._is_seen(session, offer) or next_job.hold_for(
                session, job_id, machine_of(self.owner), seconds
            )

    def show(self, offer: WorkerOffer) -> None:
        """Mark this worker as alive without polling for a job."""
        with self._database.transaction() as session:
            self._is_seen(session, offer)

    def claim(self, offer: WorkerOffer) -> Claimed | None:
        """Take the next job for which the cards are enough. Raises `StorageUnavailable`."""
        self._storage.check_installation()
        with self._database.transaction() as session:
            if not self._is_seen(session, offer):
                return None
            price = price_of(session, self._settings, offer.device)
            job = claims.claim(
                session,
                owner=self.owner,
                device=offer.device,
                num_devices=offer.num_devices,
                lease_seconds=self._settings.lease.total_seconds(),
                cards=offer.cards,
                project_ids=self._project_ids,
                only_job=self._only_job,
            )
        return None if job is None else Claimed(job, price)

    def renew(self, claim: Claim) -> Renewal | None:
        """Extend the lease; return None when it is lost."""
        with self._database.transaction() as session:
            desired = claims.renew(session, claim, self._settings.lease.total_seconds())
            must_stop = workers.must_stop(session, self.owner) or claims.is_preempted(
                session, claim
            )
        return None if desired is None else Renewal(desired, must_stop)

    def read_inputs(self, claim: Claim) -> Inputs:
        with self._database.read() as session:
            return inputs.read(session, session.get_one(Job, claim.job_id))

    def append_events(self, claim: Claim, events: Sequence[NewEvent]) -> bool:
        """Add events; here and below, return whether the worker still holds the job."""
        return self._write(claim, lambda session: claims.append_events(session, claim, events))

    def append_batch(self, claim: Claim, device: str, batch: Batch) -> Price | None:
        """Add events of the trainer; return what the device costs now."""

        def write(session: Session) -> Price | None:
            if not claims.append_trainer_events(
                session, claim, batch.events, batch.before, **batch.columns.values()
            ):
                return None
            fault("in_batch")
            if measured := batch.measured.values():
                claims.update_attempt(session, claim, **measured)
            return price_of(session, self._settings, device)

        return self._write(claim, write)

    def add_checkpoint(self, job: Job, claim: Claim, stored: SavedCheckpoint) -> list[str] | None:
        """Return the prefixes of checkpoints that it replaces."""
        saved = stored.saved
        row = Checkpoint(
            id=stored.id,
            job_id=job.id,
            project_id=job.project_id,
            attempt=claim.attempt,
            step=saved.step,
            storage_prefix=keys.checkpoint_prefix(
                job.project_id, job.id, claim.attempt, saved.step
            ),
            manifest_sha256=saved.manifest_sha256,
            bytes=saved.bytes,
            metrics=saved.metrics,
        )
        data = {"step": saved.step, "bytes": saved.bytes}
        event = NewEvent(f"Checkpoint of step {saved.step} saved", data=data)

        def write(session: Session) -> list[str] | None:
            others = checkpoint_repository.of_job(session, job.id)
            # Written by a transaction whose success nobody was told of.
            if any(checkpoint.id == row.id for checkpoint in others):
                return [] if claims.append_events(session, claim, []) else None
            # Failures count in a row: an attempt that gets further each time is not in a loop.
            columns = {}
            if all(checkpoint.step < saved.step for checkpoint in others):
                columns = {"infra_failures": 0}
            if not claims.append_events(session, claim, [event], **columns):
                return None
            dropped = checkpoint_repository.add(session, row, stored.keep)
            # Should they not be removed now.
            orphans.mark_orphaned(session, [f"{old}/" for old in dropped])
            return dropped

        return self._write(claim, write)

    def store_log(self, job: Job, claim: Claim, log: TrainerLog) -> bool:
        """Store the trainer's output so far, in place of the earlier one."""
        key = keys.trainer_log(job.project_id, job.id, claim.attempt)
        self._storage.replace(key, log.model_dump_json().encode())
        with self._database.transaction() as session:
            return claims.set_log_bytes(session, claim, log.num_bytes)

    def record(self, claim: Claim, ending: Ending) -> bool:
        """Record the outcome of an attempt without a result."""

        def write(session: Session) -> bool:
            # Its cards are free, and no other job needs to give its own before it polls.
            workers.mark_ended(session, self.owner)
            return endings.record(session, self._settings, claim, ending)

        return self._write(claim, write)

    def publish(self, job: Job, claim: Claim, result: TrainingResult) -> bool:
        """Write model, artifacts, metrics, success, and the evaluation and switch to come in one
        transaction; a range test has no model. Return False also if the user cancelled first.
        """
        metrics = MetricsFile(self._database, self._storage, job)

        def write(session: Session) -> bool:
            model_id = None if _is_range_test(job) else inputs.model_id(session, job)
            event = NewEvent("The range test has ended")
            if model_id is not None:
                text = f"The job has succeeded; its model is {model_id}"
                event = NewEvent(text, data={"model": model_id})
            is_ours = claims.finish(
                session,
                claim,
                JobStatus.SUCCEEDED,
                event,
                fine_tuned_model_id=model_id,
                trained_tokens=result.trained_tokens,
                result_file_id=metrics.id,
                actual=result.actual,
                **result.columns.values(),
            )
            if is_ours:
                metrics.add_row(session)
                if measured := result.measured.values():
                    claims.update_attempt(session, claim, **measured)
                if model_id is not None:
                    catalogue.add(session, *_rows_of(job, claim, model_id, result))
                    published = session.get_one(Job, job.id, populate_existing=True)
                    serving.begin(session, published)
                    gate.begin(session, published)
            return is_ours

        return self._write(claim, write)

    def is_watched(self, job: Job) -> bool:
        """Return True if a reader follows the events of a job live, or may."""
        return wakeups.are_watched(self.redis, (job.id, job.project_id))

    def storage_of(self, _claim: Claim) -> Storage:
        """Return the storage as the attempt sees it."""
        return self._storage

    def probe_storage(self) -> None:
        """Check that the storage accepts writes."""
        self._storage.probe()

    def _is_seen(self, session: Session, offer: WorkerOffer) -> bool:
        """Mark this worker as alive; return whether it may begin a job."""
        return workers.mark_seen(
            session,
            self.owner,
            offer.device,
            offer.num_devices,
            offer.max_gpus,
            offer.worker_cards,
            # A worker of one given job takes no other.
            self._project_ids if self._only_job is None else [],
        )

    def _write(self, claim: Claim, action: Callable[[Session], T]) -> T:
        """Run `action` in one transaction and wake the readers. A false result means that its guard
        matched no row.
        """
        with self._database.transaction() as session:
            result = action(session)
            is_ours = result is not None and result is not False
            if is_ours:
                usage.book(session, claim.job_id, now(session).date())
            seq = repository.last_event_seq(session, claim.job_id)
        if is_ours and seq is not None:
            wakeups.publish(self.redis, claim.job_id, seq)
        return result


def _is_range_test(job: Job) -> bool:
    return job.recipe is not None and job.recipe.find_rate


def _rows_of(
    job: Job, claim: Claim, model_id: str, result: TrainingResult
) -> tuple[Model, list[Artifact]]:
    model = Model(
        id=model_id,
        project_id=job.project_id,
        base_model_id=job.base_model_id,
        job_id=job.id,
        config=result.config,
        bytes=sum(file.stored.bytes for file in result.files),
    )
    rows = [
        Artifact(
            model_id=model_id,
            name=file.name,
            storage_key=keys.result_file(job.project_id, job.id, claim.attempt, file.name),
            **file.stored._asdict(),
        )
        for file in result.files
    ]
    return model, rows
