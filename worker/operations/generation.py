"""Answering prompts: a program of its own lets the models speak; what they say is written down as it comes."""

import time

from sqlalchemy import select

from app.models import Model, OperationStatus, Trial
from app.operations import claims
from falqon_core.contract.messages import Answering, Message
from worker.attempt.scratch import scratch
from worker.attempt.trainer import run_tool
from worker.model_cache import Bases
from worker.operations.runner import Heartbeat, OperationAbandoned, OperationRunner, PermanentError

WRITTEN_EVERY_SECONDS = 0.5


class Answerer(OperationRunner[Trial]):
    kind = Trial
    limit_seconds = 300.0

    def _run(self, operation: Trial, check: Heartbeat) -> None:
        models = self._models(operation)
        bases = Bases(self._database, self._storage, self._settings, self._owner, check)
        folders = [bases.model(model_id) for model_id in models]
        answers, written_at = [""] * len(folders), time.monotonic()

        def hear(message: Message) -> None:
            nonlocal written_at
            if isinstance(message, Answering):
                answers[message.model] += message.text
                if time.monotonic() > written_at + WRITTEN_EVERY_SECONDS:
                    self._write(operation, answers)
                    written_at = time.monotonic()

        with scratch(self._settings.work_dir / "trials", f"{operation.id}.{operation.tries}") as folder:
            prompt = folder / "prompt"
            prompt.write_text(operation.prompt, encoding="utf-8")
            arguments = ["answer", *map(str, folders), "--prompt", str(prompt), "--max-tokens", str(operation.max_tokens)]
            run_tool(self._settings.trainer_command, arguments, check, hear)
        self._write(operation, answers, status=OperationStatus.COMPLETED)

    def _models(self, operation: Trial) -> list[str]:
        """The one that is tried, and its base unless that is gone."""
        wanted = [model_id for model_id in (operation.model_id, operation.base_model_id) if model_id is not None]
        with self._database.read() as session:
            there = set(session.scalars(select(Model.id).where(Model.id.in_(wanted), Model.deleted_at.is_(None))))
        if operation.model_id not in there:
            raise PermanentError("model_not_found", "The model has been deleted meanwhile.")
        return [model_id for model_id in wanted if model_id in there]

    def _write(self, operation: Trial, answers: list[str], **values: object) -> None:
        values |= dict(zip(("answer", "base_answer"), answers, strict=False))
        with self._database.transaction() as session:
            if not claims.write(session, operation, **values):
                raise OperationAbandoned
