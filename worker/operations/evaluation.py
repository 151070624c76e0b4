"""Evaluate fine-tuned models: they and their base answer the same held-out rows, through the engine
that answers the API's callers, and graders say how well.
"""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy.orm import Session

from app.artifacts import repository as artifact_rows
from app.base.errors import InvalidRequest
from app.base.storage import Stored, keys
from app.catalogue import repository as catalogue
from app.evaluations import repository as evaluations
from app.files import repository as files
from app.garbage import orphans
from app.jobs import repository as jobs
from app.models import Artifact, Evaluation, EvaluationAnswer, File, Job
from app.models.base import JsonObject
from app.models.evaluation import AnswerScores, EvaluatedModel, EvaluationResult
from app.switches import gate
from falqon_core.contract.config import TrainConfig
from falqon_core.fault_points import fault
from falqon_core.records.file_check import read_records
from falqon_core.records.jsonl import lines_of_file
from falqon_core.records.line_parser import Parsed
from worker.attempt.staging import fetch_data
from worker.evaluation import outcome
from worker.evaluation.asking import MAX_CONCURRENT, Asker, EngineRefused, NotAnswered, Question
from worker.evaluation.card import CARD_NAME, write_card
from worker.evaluation.charge import Charge, charge_of
from worker.evaluation.comparison import compare
from worker.evaluation.examples import choose_examples, examples_of, shorten
from worker.evaluation.grading import MissingField, check_fields, grade, templates_of
from worker.evaluation.judging import Judge, NotJudged
from worker.evaluation.rows import MAX_CHARACTERS, EvaluationRow, RowsTooLong, choose, row_of
from worker.machine.subprocesses import run_tool
from worker.models.fetching import fetch_artifacts
from worker.operations.dataset_statistics import WEIGHTS_SUFFIX
from worker.operations.handler import (
    Heartbeat,
    OperationAbandoned,
    OperationHandler,
    PermanentError,
    write_progress,
)

WRITTEN_EVERY_SECONDS = 1.0


class EvaluationHandler(OperationHandler[Evaluation]):
    kind = Evaluation
    limit_seconds = 4 * 3600.0

    def _run(self, operation: Evaluation, heartbeat: Heartbeat) -> None:
        job, file = self._job_and_file(operation)
        with self._scratch(operation) as folder:
            rows = self._rows(operation, job, file, folder, heartbeat)
        _check_templates(operation, rows, heartbeat)
        write_progress(self._database, operation, num_rows=len(rows))
        owner = (operation.project_id, operation.key_id or job.key_id)
        with self._database.read() as session:
            charge = charge_of(session, self._settings, operation)
        asker = Asker(self._context, *owner, heartbeat, charge)
        evaluator = _ModelEvaluator(self, operation, job, rows, asker, heartbeat)
        try:
            for model in operation.plan.models:
                evaluator.evaluate(model)
            scores = evaluator.finish()
        finally:
            # A failure is charged, too.
            operation.seconds, operation.cost = charge.seconds, charge.amount
        compared = compare(operation.plan, scores, heartbeat)
        result = compared.model_copy(update=self._examples(operation, scores))
        values = {"num_rows": len(rows)} | _columns_of(scores)
        self._publish(operation, result, charge, values)

    def _publish(
        self,
        operation: Evaluation,
        result: EvaluationResult,
        charge: Charge,
        values: JsonObject,
    ) -> None:
        """Complete with the result, which is downloaded with the model, too, and which decides a
        switch.
        """
        key = keys.evaluation_card(operation.project_id, operation.id, operation.attempt)
        card = write_card(operation.plan, result).encode()
        stored = orphans.put(self._database, self._storage, key, [card])
        with self._database.transaction() as session:
            if not outcome.complete(session, operation, result, charge, **values):
                raise OperationAbandoned
            self._add_card(session, operation, key, stored)
            gate.decide(session, operation, result)  # It locks the project's row, the last.
            fault("before_decision_commit")
        fault("after_decision_commit")

    def _add_card(self, session: Session, operation: Evaluation, key: str, stored: Stored) -> None:
        model_id = operation.plan.models[-1].model
        model = catalogue.find_to_use(session, operation.project_id, model_id)
        if model is None:  # deleted meanwhile
            return
        orphans.claim(session, key)
        artifact = Artifact(model_id=model_id, name=CARD_NAME, storage_key=key, **stored._asdict())
        before = artifact_rows.replace(session, artifact)
        model.bytes += artifact.bytes
        if before is not None:
            model.bytes -= before.bytes
            orphans.mark_orphaned(session, [before.storage_key])

    def _fail(self, session: Session, operation: Evaluation, error: PermanentError) -> None:
        charge = charge_of(session, self._settings, operation)
        if not outcome.fail(session, operation, charge, error.code, error.message):
            raise OperationAbandoned
        gate.give_up(session, operation, error.message)

    def write_scores(
        self,
        operation: Evaluation,
        scores: AnswerScores,
        answers: Sequence[EvaluationAnswer],
        charge: Charge,
    ) -> bool:
        """Store the scores, their cost and new answers, for readers and the next attempt."""
        values = _columns_of(scores) | {"seconds": charge.seconds, "cost": charge.cost}
        return write_progress(self._database, operation, *answers, **values)

    def _examples(self, operation: Evaluation, scores: AnswerScores) -> JsonObject:
        """Return the best answers and the worst ones."""
        best, worst = choose_examples(operation.plan, scores)
        with self._database.read() as session:
            answers = evaluations.answers_of(session, operation.id, [*best, *worst])
        of_last = scores.by_model[operation.plan.models[-1].model]
        return {
            "best": examples_of(best, answers, of_last),
            "worst": examples_of(worst, answers, of_last),
        }

    def _permanent_error(self, error: Exception) -> PermanentError | None:
        if isinstance(error, NotAnswered):
            return PermanentError(error.code, error.message)
        return super()._permanent_error(error)

    def _job_and_file(self, operation: Evaluation) -> tuple[Job, File]:
        with self._database.read() as session:
            job = jobs.find_in_any_project(session, operation.job_id)
            file = files.get(session, operation.file_id)
        if job is None:  # The job has been deleted, and its evaluations with it.
            raise OperationAbandoned
        if file.deleted_at is not None:
            raise PermanentError("file_not_found", f"The file {file.id} has been deleted.")
        return job, file

    def _rows(
        self, operation: Evaluation, job: Job, file: File, folder: Path, heartbeat: Heartbeat
    ) -> list[EvaluationRow]:
        """Return the rows of the evaluation: the same in every attempt."""
        (path,) = fetch_data(self._storage, [file], folder, heartbeat)
        lines = None
        if operation.origin == "validation_fraction":
            lines = self._held_out_lines(job, path, folder, heartbeat)
        try:
            chosen = choose(_records(path, lines, heartbeat), operation.plan.max_rows)
        except RowsTooLong:
            raise PermanentError(
                "rows_too_long",
                f"The chosen rows of {file.filename} hold more than {MAX_CHARACTERS:,} characters "
                "together; choose fewer (max_rows), or evaluate with shorter records.",
            ) from None
        rows = [row for line, parsed in chosen if (row := row_of(line, parsed)) is not None]
        if not rows:
            raise PermanentError(
                "no_rows_to_ask",
                f"{file.filename} holds nothing that can be asked: plain texts, lone answers and "
                "empty files have no questions.",
            )
        return rows

    def _held_out_lines(
        self, job: Job, path: Path, folder: Path, heartbeat: Heartbeat
    ) -> frozenset[int]:
        """Return the lines that the training held out, as the trainer chooses them."""
        assert job.recipe is not None, "a fraction was held out"
        with self._database.read() as session:
            artifacts = artifact_rows.list_of_model(session, job.base_model_id)
        small = [artifact for artifact in artifacts if not artifact.name.endswith(WEIGHTS_SUFFIX)]
        fetch_artifacts(self._storage, small, folder / "model", heartbeat)
        config = TrainConfig(model=folder / "model", train_file=path, recipe=job.recipe)
        config.write(folder / "config.json")
        arguments = ["held-out", "--config", str(folder / "config.json")]
        output = run_tool(self._settings.trainer_command, arguments, heartbeat)
        return frozenset(json.loads(output))


class _ModelEvaluator:
    """Asks models the rows that an earlier attempt has not asked, and grades the answers."""

    def __init__(
        self,
        handler: EvaluationHandler,
        operation: Evaluation,
        job: Job,
        rows: list[EvaluationRow],
        asker: Asker,
        heartbeat: Heartbeat,
    ) -> None:
        self._handler = handler
        self._operation = operation
        self._plan = operation.plan
        self._template_kwargs = job.recipe.chat_template_kwargs if job.recipe else None
        self._rows = rows
        self._asker = asker
        self._judge = Judge(asker)
        self._heartbeat = heartbeat
        self._scores = operation.scores.model_copy(deep=True)
        self._refusal: str | None = None  # of the first row that has no score
        self._unwritten: list[EvaluationAnswer] = []
        self._written_at = time.monotonic()

    def evaluate(self, model: EvaluatedModel) -> None:
        scores = self._scores.by_model.setdefault(model.model, [])
        # Where only one model fits into memory, a judge is loaded once for each model.
        num_at_once = len(self._rows) if self._plan.judges else MAX_CONCURRENT
        while len(scores) < len(self._rows):
            rows = self._rows[len(scores) : len(scores) + num_at_once]
            for row, answer in zip(rows, self._ask(model, rows), strict=True):
                self._heartbeat()
                self._keep(model, len(scores), row, answer)
                scores.append(self._graded(row, answer))
                self._check_budget()
                if time.monotonic() > self._written_at + WRITTEN_EVERY_SECONDS:
                    self._write()

    def _ask(self, model: EvaluatedModel, rows: list[EvaluationRow]) -> list[str | EngineRefused]:
        """Return the answers to the rows, a few of which are asked at once."""
        answers: list[str | EngineRefused] = []
        for begin in range(0, len(rows), MAX_CONCURRENT):
            answers += self._ask_at_once(model, rows[begin : begin + MAX_CONCURRENT])
            self._check_budget()
        return answers

    def _ask_at_once(
        self, model: EvaluatedModel, rows: list[EvaluationRow]
    ) -> list[str | EngineRefused]:
        """Return the answers; a row that the API would refuse is left out like one that the engine
        refuses.
        """
        questions = [self._question_of(model, row) for row in rows]
        sent = [question for question in questions if isinstance(question, Question)]
        if not sent:
            return [refusal for refusal in questions if isinstance(refusal, EngineRefused)]
        answers = iter(self._asker.ask(model.model, sent))
        return [next(answers) if isinstance(each, Question) else each for each in questions]

    def _question_of(self, model: EvaluatedModel, row: EvaluationRow) -> Question | EngineRefused:
        try:
            body = row.body(model.model, self._plan.max_tokens, self._template_kwargs)
        except InvalidRequest as error:
            return EngineRefused(error.code or InvalidRequest.code, error.message)
        return Question(row.path, body)

    def finish(self) -> AnswerScores:
        """Write and return the scores. Raises `PermanentError` if no row was answered by all."""
        while not self._write():
            self._heartbeat()
            time.sleep(WRITTEN_EVERY_SECONDS)
        columns = self._scores.by_model.values()
        if all(None in row for row in zip(*columns, strict=True)):
            message = self._refusal or "an earlier attempt knew why"
            raise PermanentError(
                "no_row_was_answered", f"No row was answered by every model: {message}"
            )
        return self._scores

    def _graded(self, row: EvaluationRow, answer: str | EngineRefused) -> list[float] | None:
        if isinstance(answer, EngineRefused):
            self._refusal = self._refusal or f"line {row.line}: {answer.message}"
            return None
        score = self._judge.score
        try:
            return [grade(grader, row.item, answer, score) for grader in self._plan.graders]
        except NotJudged as error:
            self._refusal = self._refusal or f"line {row.line}: {error}"
            return None

    def _keep(
        self, model: EvaluatedModel, number: int, row: EvaluationRow, answer: str | EngineRefused
    ) -> None:
        """Keep the answer if it is that of the base or of the last model."""
        place = {self._plan.models[0]: "base_answer", self._plan.models[-1]: "answer"}.get(model)
        if place is None or isinstance(answer, EngineRefused):
            return
        texts = {
            "prompt": shorten(row.prompt),
            "expected": shorten(row.item["reference"]),
            place: shorten(answer),
        }
        self._unwritten.append(
            EvaluationAnswer(
                evaluation_id=self._operation.id, number=number, line=row.line, **texts
            )
        )

    def _check_budget(self) -> None:
        """Raise `PermanentError` where the answers cost more than the job's budget leaves."""
        cap = self._plan.max_cost_usd
        if cap is not None and self._asker.charge.cost > cap:
            raise PermanentError(
                "budget_exhausted",
                f"The ${cap} that the job's budget left are used up before the last answer.",
            )

    def _write(self) -> bool:
        self._written_at = time.monotonic()
        written = (self._scores, self._unwritten, self._asker.charge)
        if not self._handler.write_scores(self._operation, *written):
            return False
        self._unwritten = []
        return True


def _columns_of(scores: AnswerScores) -> dict[str, object]:
    return {"scores": scores, "num_answers": sum(map(len, scores.by_model.values()))}


def _records(
    path: Path, lines: frozenset[int] | None, heartbeat: Heartbeat
) -> Iterator[tuple[int, Parsed]]:
    """Yield the good records of a file; with `lines`, those on them."""
    for line, record in read_records(lines_of_file(path)):
        heartbeat()
        if isinstance(record, Parsed) and (lines is None or line in lines):
            yield line, record


def _check_templates(
    operation: Evaluation, rows: list[EvaluationRow], heartbeat: Heartbeat
) -> None:
    """Raise `PermanentError` for a field that a row does not have, before anybody is asked."""
    for grader in operation.plan.graders:
        templates = templates_of(grader)
        for row in rows:
            heartbeat()
            try:
                for template in templates:
                    check_fields(template, row.item)
            except MissingField as error:
                raise PermanentError(
                    "invalid_template",
                    f"graders: '{grader.name}' cannot grade line {row.line}: {error}.",
                ) from None
