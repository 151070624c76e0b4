"""Revisions taken back and put on again under rows of real use, and the code of each on the tables
of the next: the newest in every run, all of them in a release.
"""

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, func, null, select

from app.aliases import service as aliases
from app.aliases.traffic import Traffic
from app.auth import worker_tokens
from app.base import migrate
from app.base.database import Database
from app.batches import repository as batches
from app.batches.repository import LineAnswer
from app.inference import claims as engines
from app.models import DEFAULT_PROJECT_ID, Base, EvaluationAnswer, JobStatus, Scope, UsageSum
from app.usage.questions import QuestionCount, QuestionCounts, QuestionKey
from tests.chaos.conftest import Count
from tests.chaos.scale import RELEASE, SCALE
from tests.contract.access_objects import a_batch, a_group_grant, a_user
from tests.support.answers import add_answer, keep_answers
from tests.support.api import Api, Tenant, jsonl
from tests.support.backend import BASE_MODEL, Backend
from tests.support.fake_trainer import FakeTrainer
from tests.support.pages import SAME_SITE, token

VERSION = "alembic_version"
Row = dict[str, Any]


@pytest.fixture
def used(backend: Backend) -> Database:
    """As a service leaves it that has been used: no table is empty."""
    api = Api(backend.settings.resolved_database_url, backend.settings.data_dir)
    other = Tenant(api)
    tenant = Tenant(api, Scope.ADMIN, DEFAULT_PROJECT_ID)
    tenant.http.put(
        "/v1/prices",
        json={"overrides": [{"device": "cpu", "usd_per_device_hour": "0.10", "source": "ours"}]},
    )
    endpoint = {"url": "https://hooks.example.com", "event_types": ["fine_tuning.job.paused"]}
    tenant.http.post("/v1/webhook_endpoints", json=endpoint).raise_for_status()
    upload = tenant.client.uploads.create(
        filename="a.jsonl", purpose="fine-tune", bytes=10, mime_type="text/jsonl"
    )
    tenant.client.uploads.parts.create(upload.id, data=b"01234")
    tenant.client.files.delete(tenant.upload())
    tenant.http.get(f"/v1/files/{tenant.upload()}/report?model={BASE_MODEL}").raise_for_status()
    paused = tenant.job(metadata={"team": "red"}, suffix="mine")
    tenant.client.fine_tuning.jobs.pause(paused.id)
    ends = {JobStatus.SUCCEEDED: FakeTrainer(), JobStatus.FAILED: FakeTrainer(user_error_at=3)}
    for status, fake in ends.items():
        job_id = backend.add_job(fake)
        assert backend.supervisor().execute_next()
        assert backend.job(job_id).status == status
        if status is JobStatus.SUCCEEDED:
            newest = tenant.client.fine_tuning.jobs.checkpoints.list(job_id).data[0]
            tenant.client.fine_tuning.checkpoints.permissions.create(
                newest.fine_tuned_model_checkpoint, project_ids=[other.project_id]
            )
            model = backend.job(job_id).fine_tuned_model_id
            tenant.http.post(
                f"/v1/models/{model}/exports", json={"format": "bf16"}
            ).raise_for_status()
            grader = {"type": "string_check", "name": "same", "operation": "eq"}
            evaluation = tenant.http.post(
                f"/v1/fine_tuning/jobs/{job_id}/evaluations",
                json={"graders": [grader], "file": tenant.upload()},
            ).raise_for_status()
            texts = {"prompt": "Two?", "expected": "four", "base_answer": "five", "answer": "four"}
            with backend.database.transaction() as session:
                engines.note_worker(session, "worker-1")
                evaluation_id = evaluation.json()["id"]
                session.add(
                    EvaluationAnswer(evaluation_id=evaluation_id, number=0, line=1, **texts)
                )
    tenant.job(training_file=tenant.upload(jsonl(), check=False))  # still validating
    study = {"model": BASE_MODEL, "training_file": tenant.upload(), "methods": ["lora"]}
    tenant.http.post("/v1/falqon/studies", json=study).raise_for_status()
    batch_id = a_batch(tenant)["batch_id"]
    tenant.http.put("/v1/source_tokens/hf", json={"token": "hf_a"}).raise_for_status()
    source = "https://files.example.com/rows.parquet"
    for path, body in (
        ("/v1/files", {"source": source, "purpose": "fine-tune"}),
        ("/v1/models", {"id": "acme/one", "source": "hf://acme/one"}),
    ):
        tenant.http.post(path, json=body).raise_for_status()
    alias = {"name": "gpt-4o", "model": BASE_MODEL}
    tenant.http.post("/v1/aliases", json=alias).raise_for_status()
    switch = {"model": model, "file": tenant.upload()}
    tenant.http.post("/v1/aliases/gpt-4o/switches", json=switch).raise_for_status()
    traffic = Traffic()
    traffic.add(tenant.project_id, "gpt-4o", BASE_MODEL, 0.1)
    aliases.write_traffic(backend.database, traffic)
    counts = QuestionCounts(backend.settings)
    counts.add(QuestionKey(tenant.project_id, "key", BASE_MODEL), QuestionCount(1, 2, 3))
    counts.write(backend.database)
    a_user(tenant)
    a_group_grant(tenant)
    keep_answers(tenant)
    add_answer(backend.database, tenant.project_id, team="red")
    with backend.database.transaction() as session:
        worker_tokens.create(session, "cluster", [DEFAULT_PROJECT_ID])
        day = {"day": date(2026, 1, 1), "project_id": tenant.project_id, "key_id": ""}
        amounts = {"cost": Decimal(1), "device_seconds": 1.0, "tokens": 1}
        sums = {"base_model_id": BASE_MODEL, "num_jobs": 1, "num_begun": 1}
        session.add(UsageSum(**day, **amounts, **sums))
        batches.add_answers(session, [LineAnswer(batch_id, 1, False, "{}")])
    # nobody loads it, so its row waits
    question = {"model": BASE_MODEL, "prompt": "Well?"}
    assert tenant.http.post("/v1/completions", json=question).status_code == 503
    page = tenant.http.post(
        "/sign-in", data={"key": tenant.key}, headers=SAME_SITE, follow_redirects=True
    )
    tenant.http.post("/sign-out", data={"csrf": token(page)}, headers=SAME_SITE)
    for caller in (tenant, other):
        caller.http.close()
    api.stop()
    return backend.database


@pytest.fixture
def connection(used: Database) -> Iterator[Connection]:
    with used.engine.connect() as connection:
        yield connection


def test_a_downgrade_and_upgrade_lose_nothing_and_old_code_works_on_new_tables(
    connection: Connection, count: Count
) -> None:
    tables = tables_of(connection)
    num_rows = {
        name: connection.scalar(select(func.count()).select_from(table))
        for name, table in tables.items()
    }
    assert tables.keys() == Base.metadata.tables.keys()
    assert all(num_rows.values()), f"a table without a row: {num_rows}"
    revisions = [
        script.revision
        for script in ScriptDirectory.from_config(migrate._config(connection)).walk_revisions()
    ][: SCALE.revisions + 1]  # newest first
    rows = rows_of(connection, tables)
    for revision in revisions[1:]:
        go(connection, command.downgrade, revision)
        before = rows
        tables = tables_of(connection)
        rows = rows_of(connection, tables)
        assert_kept(before, rows)
    for revision in revisions[-2::-1]:
        old = tables
        before = rows_of(connection, old)
        go(connection, command.upgrade, revision)
        tables = tables_of(connection)
        assert_kept(before, rows_of(connection, tables))
        write_as_before(connection, old, tables)
    assert tables.keys() == Base.metadata.tables.keys()
    if SCALE is RELEASE:
        go(connection, command.downgrade, "base")
        assert tables_of(connection) == {}
        go(connection, command.upgrade, "head")
        assert tables_of(connection).keys() == Base.metadata.tables.keys()
    count(revisions=len(revisions), tables=len(num_rows), rows=sum(num_rows.values()))


def go(connection: Connection, move: Any, revision: str) -> None:
    connection.rollback()
    move(migrate._config(connection), revision)
    connection.commit()


def tables_of(connection: Connection) -> dict[str, Table]:
    """Parents before children."""
    metadata = MetaData()
    metadata.reflect(connection)
    return {table.name: table for table in metadata.sorted_tables if table.name != VERSION}


def rows_of(connection: Connection, tables: dict[str, Table]) -> dict[str, list[Row]]:
    return {
        name: [dict(row) for row in connection.execute(select(table)).mappings()]
        for name, table in tables.items()
    }


def assert_kept(before: dict[str, list[Row]], after: dict[str, list[Row]]) -> None:
    """In the tables and columns that are there before and after."""
    for name in before.keys() & after.keys():
        shared = (
            before[name][0].keys() & after[name][0].keys()
            if before[name] and after[name]
            else set()
        )
        assert sorted(part(row, shared) for row in before[name]) == sorted(
            part(row, shared) for row in after[name]
        ), name
        assert len(before[name]) == len(after[name]), name


def part(row: Row, columns: Any) -> str:
    return repr({name: row[name] for name in sorted(columns)})


def write_as_before(connection: Connection, old: dict[str, Table], new: dict[str, Table]) -> None:
    """Every row once more, by statements that know only the old columns. Rolled back at the end."""
    rows = rows_of(connection, old)
    for table in reversed(new.values()):
        connection.execute(table.delete())
    for name, table in old.items():
        for row in rows[name]:
            values = {column: null() if value is None else value for column, value in row.items()}
            connection.execute(table.insert().values(values))
            connection.execute(
                table.update()
                .where(*(column == row[column.name] for column in table.primary_key))
                .values(values)
            )
    for name, written in rows_of(connection, old).items():
        assert sorted(map(repr, written)) == sorted(map(repr, rows[name])), name
    connection.rollback()
