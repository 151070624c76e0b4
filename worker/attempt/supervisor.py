"""One attempt of a job: claim, stage, train, hand in the result or give the job back."""

import threading
import time
from pathlib import Path

import structlog
from redis import Redis
from sqlalchemy.orm import Session

from app.database import Database
from app.jobs import claims
from app.jobs.claims import Claim, Failure
from app.jobs.events import NewEvent
from app.jobs.falqon_options import Budget
from app.jobs.space import TOO_LARGE
from app.models import Desired, Job, JobStatus
from app.prices.service import price_of
from app.settings import Settings
from app.storage import Storage, StorageAway, keys
from app.workers import service as workers
from falqon_core.contract.errors import DiskFull, is_disk_full
from falqon_core.contract.layout import model_folder
from falqon_core.contract.messages import Finished
from falqon_core.estimate.prices import Price
from falqon_core.fault_points import fault
from worker.attempt import certificate, results
from worker.attempt.checkpoint_upload import CheckpointUploads, discard
from worker.attempt.lease import Lease, LeaseLost
from worker.attempt.metrics_file import MetricsFile
from worker.attempt.outcome import End, Outcome, Verdict, classify
from worker.attempt.progress import Progress
from worker.attempt.relay import Relay
from worker.attempt.scratch import scratch
from worker.attempt.space import NeverFits
from worker.attempt.spool import Spool
from worker.attempt.staging import Staged, stage
from worker.attempt.trackers import Reporting
from worker.attempt.trainer import TrainerProcess
from worker.attempt.writer import AttemptWriter
from worker.fetching import BytesMissing
from worker.gpu import Machine
from worker.model_cache import BaseMissing
from worker.outage import StorageOutage
from worker.trackers.protocol import OutcomeName

TICK_SECONDS = 0.1
PIPE_END_SECONDS = 10.0
REPORTED: dict[Verdict, OutcomeName] = {
    Verdict.SUCCEEDED: "succeeded",
    Verdict.FAILED: "failed",
    Verdict.DISK_FULL: "stopped",
    Verdict.STORAGE_AWAY: "stopped",
    Verdict.STOPPED: "stopped",
    Verdict.LOST: "stopped",
}
# Of one attempt after the other, at the same step: trying again will not help. A kill from outside says nothing about the job.
POISON = {"trainer_crashed", "internal_error", "checkpoint_corrupt"}
POISON_SECONDS = 60.0
BYTES_MISSING = "What the job starts from is not in the storage; whoever runs the service finds in its log what is missing."
log = structlog.get_logger()


class Supervisor:
    """What every attempt on this machine shares. `drain` is set when the worker should end."""

    def __init__(
        self, settings: Settings, database: Database, storage: Storage, redis: Redis, machine: Machine, owner: str, drain: threading.Event
    ) -> None:
        self.settings = settings
        self.database = database
        self.storage = storage
        self.redis = redis
        self.machine = machine
        self.owner = owner
        self.drain = drain
        self.outage = StorageOutage(storage, drain)

    def execute_next(self) -> bool:
        """Claim and execute the oldest runnable job; False when there is none. While the storage is away it waits."""
        if not self.outage.wait_for_end():
            return False
        claimed_at = time.monotonic()
        with self.database.transaction() as session:
            workers.seen(session, self.owner, self.machine.device, self.machine.num_devices)
            price = self.price_now(session)
            job = claims.claim(
                session,
                owner=self.owner,
                device=self.machine.device,
                num_devices=self.machine.num_devices,
                lease_seconds=self.settings.lease.total_seconds(),
            )
        if job is None:
            return False
        fault("after_claim_commit")
        Execution(self, job, claimed_at, price).run()
        return True

    def price_now(self, session: Session) -> Price:
        return price_of(session, self.settings, self.machine.device)


class StopAsked(Exception):
    """The user's wish, a drain or the end of the budget came before the trainer was started."""


class Execution:
    def __init__(self, supervisor: Supervisor, job: Job, claimed_at: float, price: Price) -> None:
        self._settings, self._storage, self._database = supervisor.settings, supervisor.storage, supervisor.database
        self._drain, self._price_now = supervisor.drain, supervisor.price_now
        self._outage = supervisor.outage
        self._job = job
        self._budget = Budget.model_validate(job.budget or {})
        self._trainer: TrainerProcess | None = None
        self._uploads: CheckpointUploads | None = None
        self._log = log.bind(job_id=job.id, attempt=job.attempt)
        self._lease = Lease(
            supervisor.database,
            Claim(job.id, job.attempt, supervisor.owner),
            lease_seconds=self._settings.lease.total_seconds(),
            heartbeat_seconds=self._settings.heartbeat.total_seconds(),
            claimed_at=claimed_at,
            on_lost=self._kill_trainer,
        )
        self._writer = AttemptWriter(supervisor.database, supervisor.redis, self._lease)
        self._progress = Progress(job, supervisor.machine, lambda: time.monotonic() - claimed_at, price)

    def run(self) -> None:
        self._log.info("attempt starts")
        verdict = None
        try:
            with self._lease:
                outcome = self._attempt()
                fault("before_settle")
                self._record_outcome(outcome)
                fault("after_settle")
                verdict = outcome.verdict
        except LeaseLost:
            self._log.warning("attempt given up: the job is not ours any more")
        # None: the success may have been written, only its confirmation lost
        if verdict not in (Verdict.SUCCEEDED, None) and not self._outage.is_on:
            discard(self._storage, keys.result_prefix(self._job.project_id, self._job.id, self._job.attempt))
        self._log.info("attempt ended", verdict=verdict.name if verdict else "lease lost")

    def _attempt(self) -> Outcome:
        try:
            with scratch(self._settings.work_dir / "attempts", f"{self._job.id}.{self._job.attempt}") as folder:
                return self._execute(folder)
        except StopAsked:
            return Outcome(Verdict.STOPPED)
        except LeaseLost:
            raise
        except BaseMissing as error:
            return Outcome(Verdict.FAILED, Failure("base_model_missing", str(error), "model"))
        except NeverFits as error:
            message = f"{error} Choose a smaller model, falqon.rank or falqon.keep_checkpoints."
            return Outcome(Verdict.FAILED, Failure(TOO_LARGE, message, "model"))
        except StorageAway as error:
            self._outage.begin(error)
            return Outcome(Verdict.STORAGE_AWAY)
        except BytesMissing:
            self._log.exception("attempt failed")
            return Outcome(Verdict.LOST, Failure("bytes_missing", BYTES_MISSING))
        except Exception as error:  # the edge of the process: a full disk, a fault of ours
            self._log.exception("attempt failed")
            if is_disk_full(error):
                return Outcome(Verdict.DISK_FULL)
            return Outcome(Verdict.LOST, Failure("internal_error", f"The worker could not execute the job ({type(error).__name__})."))

    def _execute(self, folder: Path) -> Outcome:
        staged = stage(self._database, self._storage, self._settings, self._job, folder, self._check)
        fault("after_staging")
        with Reporting(self._writer, self._job, self._settings.reports_dir, folder) as reporting:
            outcome, finished = self._train(staged, folder / "trainer.log", reporting)
            reporting.finish(REPORTED[outcome.verdict])
        if outcome.verdict is Verdict.SUCCEEDED and not self._publish_with_retry(model_folder(staged.output), finished):
            return Outcome(Verdict.STOPPED)  # a cancel came first
        return outcome

    def _train(self, staged: Staged, trainer_log: Path, reporting: Reporting) -> tuple[Outcome, Finished | None]:
        self._check()
        uploads = self._uploads = CheckpointUploads(self._storage, self._writer, self._job, staged.output, staged.recipe.keep_checkpoints)
        spool = Spool(trainer_log.with_name("events.spool"))
        relay = Relay(self._writer, self._progress, self._price_now, spool, uploads.add, reporting.add)
        trainer = self._trainer = TrainerProcess(self._settings.trainer_command, staged.config, staged.output, trainer_log)
        try:
            fault("after_trainer_start")
            self._progress.listen()
            relay.read(trainer.messages)
            end = self._watch(trainer, relay)
            trainer.close()
            relay.join(PIPE_END_SECONDS)
            relay.flush()
        finally:
            trainer.close()
            uploads.finish()
            spool.close()
        outcome = classify(end, relay.failed)
        if outcome.verdict is Verdict.STOPPED and uploads.disk_full:
            outcome = Outcome(Verdict.DISK_FULL)
        if outcome.verdict in (Verdict.LOST, Verdict.FAILED, Verdict.DISK_FULL):
            code = outcome.failure.code if outcome.failure else None  # its sentence may quote the data, which no log may
            self._log.warning("trainer failed", exit_code=end.exit_code, code=code, trainer_log=trainer.last_log_lines())
        return outcome, relay.finished

    def _watch(self, trainer: TrainerProcess, relay: Relay) -> End:
        """Until the trainer ends."""
        kill_at: float | None = None
        hung = False
        while (exit_code := trainer.wait(TICK_SECONDS)) is None:
            self._lease.check()
            relay.pump()
            if kill_at is None and self._should_stop():
                self._log.info("stopping the trainer", desired=self._lease.desired)
                trainer.stop()
                kill_at = time.monotonic() + self._settings.stop_grace.total_seconds()
            elif kill_at is not None and time.monotonic() > kill_at:
                trainer.kill()
            elif kill_at is None and not hung and self._progress.is_stuck(self._settings.hang.total_seconds()):
                hung = True
                trainer.kill_hung()
        return End(exit_code, kill_at is not None, hung)

    def _publish_with_retry(self, folder: Path, finished: Finished | None) -> bool:
        """Publish the result, and wait for a storage that is away as long as the lease lasts and nobody wants a stop."""
        fault("before_hand_in")
        with self._database.read() as session:
            model_id = results.model_id_of(session, self._job)
        certificate.complete(folder, self._job.id, model_id, self._progress.snapshot()["cost"])
        is_told = False
        while True:
            try:
                return self._publish_result(folder, finished)
            except StorageAway as error:
                self._outage.begin(error)
            if not is_told:
                self._writer.add_event(NewEvent("The storage does not answer; the trained model waits until it does", level="warn"))
                is_told = True
            if not self._outage.wait_for_end(self._check):
                raise StopAsked

    def _publish_result(self, folder: Path, finished: Finished | None) -> bool:
        artifacts = results.upload(self._storage, self._lease, self._job, folder)
        tokens = finished.trained_tokens if finished else 0
        metrics = MetricsFile(self._database, self._storage, self._job)
        return results.succeed(self._writer, self._progress, self._job, folder, artifacts, metrics, tokens)

    def _record_outcome(self, outcome: Outcome) -> None:
        """Say in the database how the attempt ended. Success has been written together with its model."""
        claim, failure, cap = self._lease.claim, outcome.failure, self._cap_reached()

        def write(session: Session) -> bool:
            if outcome.verdict is Verdict.FAILED:
                assert failure is not None
                draft = NewEvent(
                    f"The job has failed: {failure.message}", level="error", data={"code": failure.code, "param": failure.param}
                )
                return claims.finish(session, claim, JobStatus.FAILED, draft, failure=failure, **self._progress.columns)
            if outcome.verdict is Verdict.DISK_FULL:
                claims.pause(session, claim, DiskFull.code)
            elif cap is not None:
                claims.pause(session, claim, f"budget: {cap} is used up")
            hopeless = (
                failure is not None
                and failure.code in POISON
                and self._trainer is not None  # before it, the fault is this machine's, and another may do better
                and claims.ends_as_before(session, claim, failure.code, POISON_SECONDS)
            )
            return claims.release(
                session,
                claim,
                self._release_draft(outcome, cap),
                counts_as_failure=outcome.verdict is Verdict.LOST,
                max_infra_failures=0 if hopeless else self._settings.max_infra_failures,
                retry_seconds=self._settings.retry_delay.total_seconds(),
                failure=failure,
                **self._progress.columns,
            )

        if outcome.verdict is not Verdict.SUCCEEDED and not self._writer.write_with_retry(write):
            self._writer.raise_lease_lost()

    def _release_draft(self, outcome: Outcome, cap: str | None) -> NewEvent:
        failure = outcome.failure
        if outcome.verdict is Verdict.DISK_FULL and self._lease.desired is not Desired.CANCEL:
            text = "The job is paused: the disk of the worker or of the storage is full; resumed once there is space it continues"
            return NewEvent(f"{text} from its newest checkpoint", "warn", data={"code": DiskFull.code})
        if failure is not None:
            return NewEvent(f"Attempt {self._job.attempt} was lost: {failure.message}", level="warn", data={"code": failure.code})
        match self._lease.desired:
            case Desired.CANCEL:
                return NewEvent("The job was cancelled")
            case Desired.PAUSE:
                return NewEvent("The job is paused; resuming it continues from its newest checkpoint")
            case Desired.RUN if cap is not None:
                data = {"code": "budget_exhausted", "param": f"falqon.budget.{cap.split()[0]}"}
                return NewEvent(
                    f"The job is paused: {cap} of its budget is used up; with a higher cap it can be resumed", "warn", data=data
                )
            case Desired.RUN if outcome.verdict is Verdict.STORAGE_AWAY:
                text = "The storage does not answer; the job waits for it in the queue and continues from its newest checkpoint"
                return NewEvent(text, level="warn", data={"code": "storage_unavailable"})
            case Desired.RUN:
                return NewEvent("The worker is being stopped; the job goes back to the queue and continues from its newest checkpoint")

    def _should_stop(self) -> bool:
        wanted = self._lease.desired is Desired.RUN and not self._drain.is_set()
        return not wanted or self._cap_reached() is not None or (self._uploads is not None and self._uploads.disk_full)

    def _cap_reached(self) -> str | None:
        """A job with all its steps done is let finish: stopping it would cost the same work once more."""
        if self._progress.all_steps_done:
            return None
        return self._budget.reached(self._progress.execution_seconds, self._progress.accrued)

    def _check(self) -> None:
        self._lease.check()
        if self._should_stop():
            raise StopAsked

    def _kill_trainer(self) -> None:
        if self._trainer is not None:
            self._trainer.kill()
