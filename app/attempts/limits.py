"""Bounds on the reports of a worker that reaches only the API. Only its token vouches for it, and
its reports are charged, shown, and used by estimates.

Steps and tokens beyond those of the job are refused. Seconds are cut to the age of the attempts and
money to what the seconds cost, by the clock and the prices of the service: a worker that is honest
and fast must not lose its job because a clock was set back.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Self, TypeVar

from sqlalchemy.orm import Session

from app.attempts.values import AttemptMeasurements, Batch, Columns, Ending, TrainingResult
from app.base.database import now
from app.base.errors import InvalidRequest
from app.base.settings import Settings
from app.jobs import repository
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.models import File, Job
from app.models.job_progress import JobCost, JobProgress
from app.prices.service import price_of
from falqon_core.contract.config import Recipe
from falqon_core.contract.figures import MAX_SEQUENCES, MAX_STEPS
from falqon_core.estimate.estimate import compare
from falqon_core.estimate.prices import Price, cents, usd

SLACK_SECONDS = 60.0  # a worker counts from before its claim is confirmed
PLACES = Decimal("0.0001")
ZERO = Decimal(0)
Number = TypeVar("Number", float, Decimal)


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """Limits of one attempt at one moment. The seconds of the job are the sum over all its
    attempts.
    """

    job: Job
    price: Price
    num_devices: int
    max_steps: int
    tokens_per_step: int
    attempt_seconds: float
    execution_seconds: float
    device_seconds: float

    @classmethod
    def read(cls, session: Session, settings: Settings, job: Job, claim: Claim) -> Self:
        moment = now(session)
        attempts = repository.attempts(session, [job.id])[job.id]
        ages = [
            max(0.0, ((row.ended_at or moment) - row.created_at).total_seconds()) + SLACK_SECONDS
            for row in attempts
        ]
        (attempt,) = (row for row in attempts if row.number == claim.attempt)
        file = session.get_one(File, job.training_file_id)
        recipe = job.recipe
        assert recipe is not None, "a job that a worker has is checked"
        return cls(
            job,
            price_of(session, settings, attempt.device),
            attempt.num_devices,
            max_steps=_most_steps(file, recipe),
            tokens_per_step=_most_tokens_per_step(file, recipe),
            attempt_seconds=ages[attempts.index(attempt)],
            execution_seconds=sum(ages),
            device_seconds=sum(
                age * row.num_devices for age, row in zip(ages, attempts, strict=True)
            ),
        )

    def of_batch(self, batch: Batch) -> Batch:
        self.check_events(batch.events)
        columns = self.of_columns(batch.columns)
        measured = self.of_measured(batch.measured)
        return batch.model_copy(update={"columns": columns, "measured": measured})

    def of_ending(self, ending: Ending) -> Ending:
        return ending.model_copy(update={"columns": self.of_columns(ending.columns)})

    def of_result(self, result: TrainingResult) -> TrainingResult:
        """Compute the comparison with the estimate; the worker knows if there is any: none for a
        job that stopped early.
        """
        self._check_tokens("trained_tokens", result.trained_tokens)
        columns = self.of_columns(result.columns)
        actual = None
        if result.actual is not None and self.job.estimate is not None:
            spent = columns.progress.cost.accrued if columns.progress.cost else None
            actual = compare(self.job.estimate.seconds, columns.execution_seconds, spent)
            if result.actual.ratio is None:
                actual = actual.model_copy(update={"ratio": None, "inside_band": None})
        measured = self.of_measured(result.measured)
        values = {"columns": columns, "measured": measured, "actual": actual}
        return result.model_copy(update=values)

    def check_events(self, events: Iterable[NewEvent]) -> None:
        for number, event in enumerate(events):
            if event.type == "metrics":
                self.check_step(f"events.{number}.data.step", (event.data or {})["step"])

    def check_step(self, name: str, step: int) -> None:
        if step > self.max_steps:
            raise InvalidRequest(
                f"{name}: {step} is more than the {self.max_steps} steps that this job may have.",
                param=name,
            )

    def of_measured(self, measured: AttemptMeasurements) -> AttemptMeasurements:
        self.check_step("measured.start_step", measured.start_step or 0)
        self._check_tokens("measured.tokens", measured.tokens or 0)
        names = {"train_seconds", "overhead_seconds"}
        seconds = measured.model_dump(include=names, exclude_none=True)
        return measured.model_copy(
            update={name: min(value, self.attempt_seconds) for name, value in seconds.items()}
        )

    def of_columns(self, columns: Columns) -> Columns:
        device_seconds = _between(
            self.job.device_seconds, columns.device_seconds, self.device_seconds
        )
        execution_seconds = _between(
            self.job.execution_seconds, columns.execution_seconds, self.execution_seconds
        )
        return Columns(
            progress=self._of_progress(columns.progress, device_seconds),
            device_seconds=device_seconds,
            execution_seconds=execution_seconds,
        )

    def _of_progress(self, progress: JobProgress, device_seconds: float) -> JobProgress:
        for name in ("step", "total_steps", "model_step"):
            self.check_step(f"columns.progress.{name}", getattr(progress, name) or 0)
        self._check_tokens("columns.progress.trained_tokens", progress.trained_tokens or 0)
        values: dict[str, object] = {"cost": self._cost(progress, device_seconds)}
        if progress.elapsed_seconds is not None:
            values["elapsed_seconds"] = min(progress.elapsed_seconds, self.attempt_seconds)
        return progress.model_copy(update=values)

    def _cost(self, progress: JobProgress, device_seconds: float) -> JobCost:
        """Return the money that the worker reports, because prices may change meanwhile, but no
        more than the cost of the time since its last report.
        """
        before = self.job.progress.cost if self.job.progress else None
        spent = before.accrued if before else ZERO
        rate = self.price.usd_per_device_hour
        dearest = max(rate, before.usd_per_device_hour) if before else rate
        added = usd(dearest, device_seconds - (self.job.device_seconds or 0.0))
        most = cents(spent + added.quantize(PLACES, ROUND_CEILING))
        accrued = cents(_between(spent, progress.cost.accrued if progress.cost else spent, most))

        def project(seconds: float | None) -> Decimal | None:
            if seconds is None:
                return None
            return cents(accrued + usd(rate * self.num_devices, seconds))

        return JobCost(
            currency="usd",
            usd_per_device_hour=rate,
            price_source=self.price.label,
            accrued=accrued,
            projected=project(progress.eta_seconds),
            projected_low=project(progress.eta_low_seconds),
            projected_high=project(progress.eta_high_seconds),
        )

    def _check_tokens(self, name: str, tokens: int) -> None:
        most = self.max_steps * self.tokens_per_step
        if tokens > most:
            raise InvalidRequest(
                f"{name}: {tokens} is more than the {most} tokens that the steps of this job hold.",
                param=name,
            )


def _most_steps(file: File, recipe: Recipe) -> int:
    if recipe.find_rate:
        return recipe.num_steps(1)
    if file.report is not None and file.report.shape != "text":
        return recipe.num_steps(file.report.num_records + file.report.num_errors)
    # A step reads at least one sequence, and no sequence of a text is shorter than a byte.
    assert recipe.num_epochs is not None, "a job that a worker has is resolved"
    return min(recipe.num_epochs * file.bytes, recipe.max_steps or MAX_STEPS, MAX_STEPS)


def _most_tokens_per_step(file: File, recipe: Recipe) -> int:
    return (recipe.batch_size or 1) * _most_sequences(file) * recipe.longest_record


def _most_sequences(file: File) -> int:
    """Return the sequences that the longest record may become: those of a chat, one for each
    learned turn, where the template rewrites turns.
    """
    report = file.report
    if report is None or report.shape != "messages":
        return 1
    # Each chat has at least one turn; a report with fewer is older than the count of turns.
    spare_turns = report.num_learned_turns - report.num_records
    return MAX_SEQUENCES if spare_turns < 0 else min(MAX_SEQUENCES, spare_turns + 1)


def _between(low: Number, value: Number, high: Number) -> Number:
    """Bound a sum that only grows, independently of clock changes."""
    return max(low, min(value, max(low, high)))
