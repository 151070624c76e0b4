"""A worker that dies while it decides a switch leaves nothing half-switched; another decides."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from app.aliases import repository as aliases
from app.base.database import now_plus
from app.base.ids import new_id
from app.base.storage import keys
from app.evaluations import plan
from app.evaluations.automatic import GRADERS
from app.models import (
    DEFAULT_PROJECT_ID,
    Alias,
    AliasSwitch,
    Evaluation,
    Event,
    File,
    FileStatus,
    Job,
    JobStatus,
    Model,
    OperationStatus,
    SwitchStatus,
)
from app.models.alias import AliasTarget, AliasTargets
from app.models.evaluation import EvaluationPlan
from app.models.switch_options import SwitchOptions
from app.switches import gate
from tests.support.backend import BASE_MODEL, Backend
from tests.support.model_engine import model_engine, rows
from worker.operations.evaluation import EvaluationHandler

NAME = "support"


@pytest.fixture
def engine(backend: Backend) -> Iterator[str]:
    with model_engine() as url:
        values = {"engine_url": url, "redis_url": "redis://127.0.0.1:1/0"}
        backend.settings = backend.settings.model_copy(update=values)
        yield url


def begin(backend: Backend) -> str:
    """Return the id of a switch that waits for its evaluation."""
    job_id = backend.add_job()
    file_id = new_id("file-")
    key = keys.file_content(DEFAULT_PROJECT_ID, file_id)
    stored = backend.storage.put(key, [rows(24)])
    model_id = f"ft:fake:good:{job_id[-8:]}"
    backend.set(job_id, status=JobStatus.SUCCEEDED, fine_tuned_model_id=model_id)
    with backend.database.transaction() as session:
        values = {"filename": "rows.jsonl", "purpose": "fine-tune", "storage_key": key}
        status = FileStatus.PROCESSED
        session.add(
            File(
                id=file_id,
                project_id=DEFAULT_PROJECT_ID,
                bytes=stored.bytes,
                sha256=stored.sha256,
                status=status,
                **values,
            )
        )
        session.add(Model(id=model_id, project_id=DEFAULT_PROJECT_ID, config={}, bytes=1))
        session.flush()
        targets = AliasTargets(models=[AliasTarget(model=BASE_MODEL)])
        alias = aliases.add_version(session, DEFAULT_PROJECT_ID, NAME, targets, None)
        job = session.get_one(Job, job_id)
        planned = EvaluationPlan(
            graders=GRADERS,
            models=plan.models_of(session, DEFAULT_PROJECT_ID, job, rivals=[BASE_MODEL]),
            rivals=[BASE_MODEL],
            max_rows=24,
            max_tokens=4,
        )
        evaluation = plan.add(session, job, file_id, "file", planned, None)
        switch = gate.new_switch(job, SwitchOptions(alias=NAME), alias, evaluation, None)
        session.add(switch)
    return switch.id


@pytest.mark.parametrize("point", ["before_decision_commit", "after_decision_commit"])
def test_a_worker_that_dies_around_the_decision_leaves_one(
    backend: Backend, engine: str, tmp_path: Path, point: str
) -> None:
    switch_id = begin(backend)
    armed = {
        "FAULT_POINTS": f"{point}=exit",
        "FAULT_MARKS": str(tmp_path / "marks"),
        "FALQON_ENGINE_URL": engine,
        "REDIS_URL": backend.settings.redis_url,
    }
    assert backend.start_worker("cpu", **armed).wait(60) == 137
    assert (tmp_path / "marks" / point).exists()
    is_decided = point == "after_decision_commit"
    with backend.database.transaction() as session:
        switch = session.get_one(AliasSwitch, switch_id)
        assert (switch.status == SwitchStatus.SWITCHED) is is_decided
        assert len(session.scalars(select(Alias).where(Alias.name == NAME)).all()) == 1 + is_decided
        session.execute(update(Evaluation).values(lease_expires_at=now_plus(-1)))
    EvaluationHandler(backend.context()).poll()
    with backend.database.read() as session:
        switch = session.get_one(AliasSwitch, switch_id)
        assert switch.status == SwitchStatus.SWITCHED
        newest, _ = aliases.versions(session, DEFAULT_PROJECT_ID, NAME)
        assert newest.targets.heaviest == switch.model_id
        evaluation = session.get_one(Evaluation, switch.evaluation_id)
        assert evaluation.status == OperationStatus.COMPLETED
        told = select(Event).where(Event.job_id == switch.job_id)
        events = [event.data or {} for event in session.scalars(told)]
        assert sum(data.get("event") == "switch.switched" for data in events) == 1
