"""One attempt: stage, train, publish the result or record why there is none."""

import signal
import threading
import time
from pathlib import Path

import structlog

from app.attempts.values import AttemptOutcome, Claimed, Ending, Inputs, Verdict
from app.base.settings import Settings
from app.base.storage import StorageUnavailable, keys
from app.jobs.claims import Claim, JobFailure
from app.jobs.space import TOO_LARGE
from falqon_core.contract.errors import is_disk_full
from falqon_core.contract.layout import model_folder
from falqon_core.contract.messages import Finished
from falqon_core.fault_points import fault
from worker.attempt.checkpoint_upload import CheckpointUploads, discard
from worker.attempt.context import AttemptContext
from worker.attempt.lease import Lease, LeaseLost
from worker.attempt.outcome import TrainerEnd, classify
from worker.attempt.progress import AttemptProgress
from worker.attempt.relay import Relay
from worker.attempt.results import publish, publish_with_retry
from worker.attempt.spans import TrainerSpans, attempt_span, end_attempt, part_span
from worker.attempt.spool import Spool
from worker.attempt.staging import Staged, stage
from worker.attempt.stop_policy import StopPolicy, StopRequested
from worker.attempt.trackers import Trackers
from worker.attempt.trainer import TrainerProcess
from worker.attempt.trainer_log import LogUploads
from worker.attempt.writer import AttemptWriter
from worker.gateway import Gateway, ServiceRefused
from worker.machine.gpu import Machine
from worker.machine.outage import StorageOutage
from worker.machine.scratch import scratch
from worker.models.disk_space import NeverFits
from worker.models.fetching import ObjectMissing
from worker.models.model_cache import BaseMissing, ModelCache, RowsOfInputs

SIGNALS_APART_SECONDS = 2.0
TRAINER_POLL_SECONDS = 0.1
PIPE_END_SECONDS = 10.0
TRAINER_LOG = "trainer.log"
BYTES_MISSING = (
    "What the job starts from is not in the storage; "
    "whoever runs the service finds in its log what is missing."
)
log = structlog.get_logger()


class Execution:
    """Everything that one attempt of a job does on this machine."""

    def __init__(
        self,
        settings: Settings,
        gateway: Gateway,
        machine: Machine,
        outage: StorageOutage,
        claimed: Claimed,
        *,
        claimed_at: float,
        shutting_down: threading.Event,
    ) -> None:
        job, price = claimed
        claim = Claim(job.id, job.attempt, gateway.owner)
        self._settings = settings
        self._gateway = gateway
        self._storage = gateway.storage_of(claim)
        self._machine = machine
        self._outage = outage
        self._job = job
        self._trainer: TrainerProcess | None = None
        self._trainer_log = ""  # End of the log, of a trainer that failed.
        self._log = log.bind(job_id=job.id, attempt=job.attempt, request_id=job.request_id)
        self._lease = Lease(
            gateway,
            claim,
            lease_seconds=settings.lease.total_seconds(),
            heartbeat_seconds=settings.heartbeat.total_seconds(),
            claimed_at=claimed_at,
            on_lost=self._kill_trainer,
        )
        self._writer = AttemptWriter(gateway, self._lease)
        self._progress = AttemptProgress(job, machine, lambda: time.monotonic() - claimed_at, price)
        self._stop_policy = StopPolicy(shutting_down, job, self._lease, self._progress)
        self._attempt = AttemptContext(
            gateway,
            self._storage,
            job,
            self._lease,
            self._writer,
            self._progress,
            self._stop_policy,
            outage,
        )

    def run(self) -> None:
        with attempt_span(self._job, self._gateway.owner, self._machine.device) as span:
            end_attempt(span, self._run())

    def _run(self) -> Verdict | None:
        """Return the verdict of the attempt; None where the lease was lost."""
        self._log.info("attempt starts")
        verdict = None
        try:
            with self._lease:
                outcome = self._execute()
                fault("before_settle")
                if outcome.verdict is not Verdict.SUCCEEDED:  # Success is written with its model.
                    self._record(outcome)
                fault("after_settle")
                verdict = outcome.verdict
        except LeaseLost:
            self._log.warning("attempt given up: the job is not ours any more")
        except ServiceRefused as error:  # The job's next attempt begins once the lease has expired.
            self._log.error(
                "the service refuses the outcome", status=error.status, reason=str(error)
            )
        # None: the success may have been written, only its confirmation lost.
        if verdict not in (Verdict.SUCCEEDED, None) and not self._outage.is_on:
            job = self._job
            discard(self._storage, keys.result_prefix(job.project_id, job.id, job.attempt))
        self._log.info("attempt ended", verdict=verdict.name if verdict else "lease lost")
        return verdict

    def _record(self, outcome: AttemptOutcome) -> None:
        """Write how the attempt ended. Raises `LeaseLost`."""
        cap = self._stop_policy.reached_cap()

        def record() -> bool:
            ending = Ending(
                verdict=outcome.verdict,
                failure=outcome.failure,
                cap=cap,
                desired=self._lease.desired,
                has_trained=self._trainer is not None,
                trainer_log=self._trainer_log,
                columns=self._progress.columns,
            )
            return self._gateway.record(self._writer.claim, ending)

        if not self._writer.write_end(record):
            self._writer.raise_lease_lost()

    def _execute(self) -> AttemptOutcome:
        """Turn any end of the attempt into its outcome. Raises `LeaseLost`."""
        try:
            return self._execute_in_scratch()
        except StopRequested:
            return AttemptOutcome(Verdict.STOPPED)
        except LeaseLost:
            raise
        except BaseMissing as error:
            return AttemptOutcome(
                Verdict.FAILED, JobFailure("base_model_missing", str(error), "model")
            )
        except NeverFits as error:
            message = f"{error} Choose a smaller model, falqon.rank or falqon.keep_checkpoints."
            return AttemptOutcome(Verdict.FAILED, JobFailure(TOO_LARGE, message, "model"))
        except StorageUnavailable as error:
            self._outage.begin(error)
            return AttemptOutcome(Verdict.STORAGE_AWAY)
        except ObjectMissing:
            self._log.exception("attempt failed")
            return AttemptOutcome(Verdict.LOST, JobFailure("bytes_missing", BYTES_MISSING))
        except Exception as error:  # Top-level handler: a full disk, a fault of ours.
            self._log.exception("attempt failed")
            if is_disk_full(error):
                return AttemptOutcome(Verdict.DISK_FULL)
            message = f"The worker could not execute the job ({type(error).__name__})."
            return AttemptOutcome(Verdict.LOST, JobFailure("internal_error", message))

    def _execute_in_scratch(self) -> AttemptOutcome:
        name = f"{self._job.id}.{self._job.attempt}"
        with scratch(self._settings.work_dir / "attempts", name) as folder:
            claim = self._writer.claim
            inputs = self._writer.write_with_retry(lambda: self._gateway.read_inputs(claim))
            rows = RowsOfInputs(inputs)
            check = self._stop_policy.check
            with ModelCache(self._settings, rows, self._storage, check) as model_cache:
                return self._execute_with(model_cache, inputs, folder)

    def _execute_with(
        self, model_cache: ModelCache, inputs: Inputs, folder: Path
    ) -> AttemptOutcome:
        """Train in `folder` on a model that `model_cache` keeps here meanwhile."""
        with part_span("stage"):
            staged = stage(self._settings, model_cache, self._job, inputs, self._machine, folder)
        fault("after_staging")
        heartbeat = self._settings.heartbeat.total_seconds()
        with Trackers(self._writer, self._job, self._settings.reports_dir, folder) as trackers:
            logs = LogUploads(self._writer, self._job, folder / TRAINER_LOG, heartbeat)
            with part_span("train"), logs:
                outcome, finished = self._train(staged, folder, trackers)
            trackers.finish(outcome.verdict)
        if outcome.verdict is not Verdict.SUCCEEDED:
            return outcome
        with part_span("publish"):
            if staged.recipe.find_rate:
                is_ours = publish(self._attempt, finished, [], {})
            else:
                model = model_folder(staged.output)
                is_ours = publish_with_retry(self._attempt, inputs.model_id, model, finished)
        return outcome if is_ours else AttemptOutcome(Verdict.STOPPED)  # a cancel came first

    def _train(
        self, staged: Staged, folder: Path, trackers: Trackers
    ) -> tuple[AttemptOutcome, Finished | None]:
        self._stop_policy.check()
        uploads = CheckpointUploads(
            self._storage,
            self._writer,
            self._job,
            staged.output,
            staged.recipe.keep_checkpoints,
            on_full_disk=self._stop_policy.report_full_disk,
        )
        spool = Spool(folder / "events.spool")
        spans = TrainerSpans()
        relay = Relay(
            self._writer,
            self._progress,
            self._machine.device,
            spool,
            uploads.add,
            trackers.add,
            spans.add,
            is_watched=lambda: self._gateway.is_watched(self._job),
            unread_seconds=self._settings.heartbeat.total_seconds() / 2,
        )
        trainer = self._trainer = TrainerProcess(
            self._settings.trainer_command,
            staged.config,
            staged.output,
            folder / TRAINER_LOG,
            self._machine,
        )
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
            spans.end_steps()
        outcome = classify(end, relay.failed)
        if outcome.verdict is Verdict.STOPPED and self._stop_policy.is_disk_full:
            outcome = AttemptOutcome(Verdict.DISK_FULL)
        if outcome.verdict in (Verdict.LOST, Verdict.FAILED, Verdict.DISK_FULL):
            self._trainer_log = trainer.last_log_lines()
            # The code alone: the sentence may quote the data, which no log may.
            self._log.warning(
                "trainer failed",
                exit_code=end.exit_code,
                code=outcome.failure.code if outcome.failure else None,
                trainer_log=self._trainer_log,
            )
        return outcome, relay.finished

    def _watch(self, trainer: TrainerProcess, relay: Relay) -> TrainerEnd:
        """Wait for the end of the trainer; stop it when it should, kill it when it does not obey or
        hangs.
        """
        kill_at: float | None = None
        hung = False
        while (exit_code := trainer.wait_up_to(TRAINER_POLL_SECONDS)) is None:
            self._lease.check()
            relay.pump()
            if kill_at is not None:
                if time.monotonic() > kill_at:
                    trainer.kill_group()
            elif self._stop_policy.should_stop():
                self._log.info("stopping the trainer", desired=self._lease.desired)
                trainer.stop()
                kill_at = time.monotonic() + self._settings.stop_grace.total_seconds()
            elif not hung and self._progress.is_stuck(self._settings.hang.total_seconds()):
                hung = True
                trainer.kill_hung()
        stop_requested = kill_at is not None or self._is_told_to_stop(exit_code)
        return TrainerEnd(exit_code, stop_requested, hung)

    def _is_told_to_stop(self, exit_code: int) -> bool:
        """Return whether this worker is to stop, too: an init system, or a cluster's scheduler,
        signals one process after the other.
        """
        patience = SIGNALS_APART_SECONDS if exit_code == -signal.SIGTERM else 0.0
        deadline = time.monotonic() + patience
        while not self._stop_policy.should_stop():
            if time.monotonic() >= deadline:
                return False
            time.sleep(TRAINER_POLL_SECONDS)
        return True

    def _kill_trainer(self) -> None:
        if self._trainer is not None:
            self._trainer.kill_group()
