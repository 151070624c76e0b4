"""Answers of a batch on their way into the database, with what they cost."""

import structlog
from sqlalchemy.orm import Session

from app.base.database import DATABASE_UNAVAILABLE_ERRORS, now
from app.base.errors import QuotaExceeded
from app.batches import repository
from app.catalogue import repository as catalogue
from app.jobs import agent_budget
from app.models import Batch, QuestionSource
from app.models.batch import MAX_ANSWER_BYTES
from app.operations import claims
from app.projects import quotas
from app.usage import questions
from app.usage import repository as usage
from app.usage.questions import QuestionCount, QuestionKey
from worker.batches.run import End, Progress
from worker.context import WorkerContext
from worker.evaluation.charge import Charge, charge_of
from worker.operations.handler import OperationAbandoned, PermanentError

log = structlog.get_logger()


class AnswerKeeper:
    """Keeps the answers of one attempt, on top of those of earlier ones."""

    def __init__(self, context: WorkerContext, batch: Batch) -> None:
        self._settings = context.settings
        self._database = context.database
        self._batch = batch
        self._seconds = batch.seconds  # of earlier attempts
        with self._database.read() as session:
            self._charge = charge_of(session, self._settings, batch)
        self._tokens = (batch.input_tokens, batch.output_tokens)
        self._counts = (batch.num_completed, batch.num_failed)
        self._num_bytes = batch.answer_bytes
        self._base_model_id = self._find_base_model()
        self._counted = questions.NOTHING  # of this attempt

    def keep(self, progress: Progress) -> bool:
        """Return whether the answers are kept; a database that is away keeps none for now."""
        charge = self._charge
        charge.add(self._seconds + progress.seconds - charge.seconds)
        if not progress.answers:
            return True
        values: dict[str, object] = {
            "num_completed": self._counts[0] + progress.num_completed,
            "num_failed": self._counts[1] + progress.num_failed,
            "input_tokens": self._tokens[0] + progress.input_tokens,
            "output_tokens": self._tokens[1] + progress.output_tokens,
            "answer_bytes": self._num_bytes + progress.answer_bytes,
            "seconds": charge.seconds,
            "cost": charge.cost,
            "useful_attempt": self._batch.attempt,
        }
        count = QuestionCount(progress.num_completed, progress.input_tokens, progress.output_tokens)
        try:
            with self._database.transaction() as session:
                if not claims.write(session, self._batch, **values):
                    raise OperationAbandoned
                repository.add_answers(session, progress.answers)
                self._book(session, charge)
                self._count(session, count)
        except DATABASE_UNAVAILABLE_ERRORS as error:
            log.warning("answers not kept", batch=self._batch.id, error=str(error))
            return False
        self._counted = count
        self._batch.useful_attempt = self._batch.attempt
        self._batch.answer_bytes = self._num_bytes + progress.answer_bytes
        return True

    def read_end(self) -> End | None:
        """Return the reason to stop. Raises `PermanentError` where budget or space is used up."""
        batch = self._batch
        try:
            with self._database.transaction() as session:
                self._charge.reprice(session, self._settings)
                stop = repository.read_stop(session, batch.id)
                is_spent = agent_budget.is_spent(session, batch.project_id, batch.key_id)
                quotas.admit_bytes(session, batch.project_id, batch.answer_bytes)
        except QuotaExceeded as error:
            raise PermanentError(error.code or QuotaExceeded.code, error.message) from error
        except DATABASE_UNAVAILABLE_ERRORS as error:
            log.warning("a batch could not be read", batch=batch.id, error=str(error))
            return None
        if stop.is_cancelled:
            return "cancelled"
        if stop.is_expired:
            return "expired"
        if is_spent:
            raise PermanentError(
                "budget_exhausted", "The API key has spent its daily_budget_usd of today (UTC)."
            )
        if batch.answer_bytes > MAX_ANSWER_BYTES:
            raise PermanentError(
                "output_too_large",
                f"The answers have more than {MAX_ANSWER_BYTES:,} bytes; split the file.",
            )
        return None

    def _book(self, session: Session, charge: Charge) -> None:
        batch = self._batch
        total = usage.Amounts(charge.cost, charge.seconds * charge.num_devices, 0)
        day = now(session).date()
        owner = (batch.project_id, batch.key_id, self._base_model_id)
        usage.book_total(session, batch.id, day, *owner, total)

    def _count(self, session: Session, count: QuestionCount) -> None:
        """Count the requests and tokens that have come since the last answers."""
        batch = self._batch
        key = QuestionKey(
            batch.project_id, batch.key_id, batch.model_id or "", QuestionSource.BATCH
        )
        questions.add(session, {key: count.minus(self._counted)}, prices={})

    def _find_base_model(self) -> str:
        """Return the base that the usage is of; an alias, whose models may change, has none."""
        name = self._batch.model_id or ""
        with self._database.read() as session:
            model = catalogue.find(session, self._batch.project_id, name)
        return name if model is None else model.base_model_id or model.id
