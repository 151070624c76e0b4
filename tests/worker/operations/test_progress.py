"""What an operation writes down of its progress costs it no attempt."""

from contextlib import AbstractContextManager
from decimal import Decimal
from typing import Any, cast

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.base.database import Database
from app.batches.repository import LineAnswer
from app.inference import service
from app.inference.service import EngineTarget
from app.models import Batch, Evaluation, FileImport, ModelImport
from app.models.evaluation import AnswerScores
from falqon_core.estimate.prices import default_price
from tests.support.backend import Backend
from worker.batches.run import Progress
from worker.evaluation.asking import Asker
from worker.evaluation.charge import Charge
from worker.operations.batch_answers import AnswerKeeper
from worker.operations.evaluation import EvaluationHandler
from worker.operations.file_import import ProgressWriter
from worker.operations.handler import OperationAbandoned
from worker.operations.model_import import ModelImportHandler

NOTHING = Charge(0.0, Decimal(0), 1, default_price("cpu"))


class AwayDatabase:
    def transaction(self) -> AbstractContextManager[Session]:
        raise OperationalError("UPDATE", {}, Exception("the server is away"))


def without_database(handler: Any) -> Any:
    handler._database = AwayDatabase()
    return handler


def test_a_database_that_is_away_misses_what_is_written_of_progress(
    embedded_backend: Backend,
) -> None:
    context = embedded_backend.context()
    away = cast(Database, AwayDatabase())
    ProgressWriter(away, FileImport(id="a")).write(progress=0.5)
    without_database(ModelImportHandler(context)).write(ModelImport(id="b"), bytes=1)
    scores = AnswerScores(by_model={"m": [[1.0]]})
    without_database(EvaluationHandler(context)).write_scores(
        Evaluation(id="c"), scores, [], NOTHING
    )


def test_answers_of_a_batch_wait_for_a_database_that_is_away(embedded_backend: Backend) -> None:
    batch = Batch(id="d", project_id="proj_a", seconds=0.0, input_tokens=0, output_tokens=0)
    batch.num_completed = batch.num_failed = batch.answer_bytes = 0
    keeper = without_database(AnswerKeeper(embedded_backend.context(), batch))
    answers = [LineAnswer("d", 1, False, "{}")]
    assert not keeper.keep(Progress(answers, 1, 0, 0.5, 3, 2, 2))
    assert keeper.keep(Progress([], 1, 0, 0.5, 3, 2, 2))


def test_an_operation_claimed_elsewhere_is_given_up_at_its_progress_report(
    embedded_backend: Backend,
) -> None:
    unknown = FileImport(id="a", attempt=1)
    with pytest.raises(OperationAbandoned):
        ProgressWriter(embedded_backend.database, unknown).write(progress=0.5)


def test_an_engine_is_looked_up_again_while_the_database_is_away(
    embedded_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = EngineTarget("http://engine", "", None, 1, "proj_a", True)
    num_calls = 0
    beats: list[None] = []

    def find_or_ask(*_lookup: object, **_options: object) -> list[EngineTarget]:
        nonlocal num_calls
        num_calls += 1
        if num_calls < 3:
            raise OperationalError("SELECT", {}, Exception("the server is away"))
        return [target]

    monkeypatch.setattr(service, "find_or_request", find_or_ask)
    asker = Asker(embedded_backend.context(), "proj_a", None, lambda: beats.append(None), NOTHING)
    assert asker._find_target("m") is target
    assert len(beats) == 2
