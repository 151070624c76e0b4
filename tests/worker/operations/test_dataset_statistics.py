"""Inspections with real programs as the child: our own, and small ones that misbehave."""

import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from app.base.database import Database, now_plus
from app.base.ids import new_id
from app.base.storage import keys
from app.dataset_statistics import repository
from app.dataset_statistics.repository import StatisticsKey
from app.models import DEFAULT_PROJECT_ID, DatasetStatistics, File, FileStatus, OperationStatus
from app.operations import claims
from tests.support.backend import BASE_MODEL, ROOT, Backend, processes
from tests.support.waiting import wait_for
from worker.operations.dataset_statistics import DatasetStatisticsHandler
from worker.operations.handler import MAX_ATTEMPTS


def record(answer: str) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": answer}]
    }


def add_file(backend: Backend, *records: object) -> str:
    file_id = new_id("file-")
    key = keys.file_content(DEFAULT_PROJECT_ID, file_id)
    stored = backend.storage.put(key, [json.dumps(record).encode() + b"\n" for record in records])
    with backend.database.transaction() as session:
        session.add(
            File(
                id=file_id,
                project_id=DEFAULT_PROJECT_ID,
                filename="rows.jsonl",
                purpose="fine-tune",
                bytes=stored.bytes,
                sha256=stored.sha256,
                storage_key=key,
                status=FileStatus.PROCESSED,
            )
        )
    return file_id


def ask(
    backend: Backend, file_id: str, model_id: str = BASE_MODEL, validation_file: str = ""
) -> StatisticsKey:
    question = StatisticsKey(file_id, model_id, 64, validation_file)
    with backend.database.transaction() as session:
        repository.add(session, DEFAULT_PROJECT_ID, question)
    return question


def answered(database: Database, question: StatisticsKey) -> DatasetStatistics:
    with database.read() as session:
        row = repository.find(session, question)
    assert row is not None
    return row


def program(folder: Path, code: str) -> list[str]:
    path = folder / "program.py"
    path.write_text(code)
    return [sys.executable, str(path)]


def handler_of(
    backend: Backend, command: list[str], shutting_down: threading.Event | None = None
) -> DatasetStatisticsHandler:
    return DatasetStatisticsHandler(backend.context(shutting_down, trainer_command=command))


def test_a_refusal_of_the_statistics_program_is_reported_in_its_words(
    embedded_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # of a model whose tokenizer is none
    question = ask(embedded_backend, add_file(embedded_backend, record("Yes.")))

    handler_of(embedded_backend, [sys.executable, "-m", "falqon_core"]).poll()

    failed = answered(embedded_backend.database, question)
    assert (failed.status, failed.error_code, failed.result) == (
        OperationStatus.FAILED,
        "model_refused",
        None,
    )
    assert "tokenizer" in str(failed.error_message)
    assert [
        path.name for path in (embedded_backend.settings.work_dir / "dataset_statistics").iterdir()
    ] == [".lock"]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import os; os.kill(os.getpid(), 9)", "internal_error"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGPROF)", "model_refused"),
        ("raise SystemExit(70)", "internal_error"),
        ("import time; time.sleep(600)", "too_slow"),
    ],
)
def test_a_child_that_fails_fails_its_question(
    code: str,
    error: str,
    embedded_backend: Backend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = 1.0 if error == "too_slow" else 60.0
    monkeypatch.setattr(DatasetStatisticsHandler, "limit_seconds", limit)
    question = ask(embedded_backend, add_file(embedded_backend, record("Yes.")))

    handler_of(embedded_backend, program(tmp_path, code)).poll()

    row = answered(embedded_backend.database, question)
    assert (row.status, row.error_code) == (OperationStatus.FAILED, error)
    assert processes("program.py", str(tmp_path)) == []


def test_a_question_that_kills_its_workers_is_given_up(
    embedded_backend: Backend, tmp_path: Path
) -> None:
    question = ask(embedded_backend, add_file(embedded_backend, record("Yes.")))
    ran = tmp_path / "ran"
    with embedded_backend.database.transaction() as session:
        session.execute(
            update(DatasetStatistics).values(
                attempt=MAX_ATTEMPTS,
                lease_expires_at=now_plus(-1.0),
            )
        )

    handler_of(embedded_backend, program(tmp_path, f"open({str(ran)!r}, 'w')")).poll()

    row = answered(embedded_backend.database, question)
    assert (row.status, row.error_code) == (OperationStatus.FAILED, "inspection_failed")
    assert not ran.exists()


def test_an_overtaken_worker_writes_no_statistics(backend: Backend, tmp_path: Path) -> None:
    question = ask(backend, add_file(backend, record("Yes.")))
    go = tmp_path / "go"
    waits = (
        f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.05)\n"
        "raise SystemExit(70)"
    )
    thread = threading.Thread(target=handler_of(backend, program(tmp_path, waits)).poll)
    thread.start()
    wait_for(lambda: processes("program.py", str(tmp_path)), what="the child")
    with backend.database.transaction() as session:
        session.execute(update(DatasetStatistics).values(lease_expires_at=None))
        winner = claims.claim(session, DatasetStatistics, 60)
    go.touch()
    thread.join(60)
    assert answered(backend.database, question).status == OperationStatus.IN_PROGRESS
    with backend.database.transaction() as session:
        assert winner is not None
        assert claims.complete(session, winner, result={})


def test_a_worker_that_ends_releases_its_request(embedded_backend: Backend, tmp_path: Path) -> None:
    question = ask(embedded_backend, add_file(embedded_backend, record("Yes.")))
    shutting_down = threading.Event()
    worker = handler_of(
        embedded_backend, program(tmp_path, "import time; time.sleep(600)"), shutting_down
    )
    thread = threading.Thread(target=worker.poll)
    thread.start()
    wait_for(lambda: processes("program.py", str(tmp_path)), what="the child")
    assert answered(embedded_backend.database, question).lease_expires_at is not None
    worker.poll()  # who polls meanwhile need not wait
    shutting_down.set()
    thread.join(60)
    row = answered(embedded_backend.database, question)
    assert (row.status, row.lease_expires_at) == (OperationStatus.IN_PROGRESS, None)
    assert processes("program.py", str(tmp_path)) == []


def test_nobody_works_for_a_file_that_is_deleted(embedded_backend: Backend, tmp_path: Path) -> None:
    ask(embedded_backend, add_file(embedded_backend, record("Yes.")))
    worker = handler_of(embedded_backend, program(tmp_path, "import time; time.sleep(600)"))
    thread = threading.Thread(target=worker.poll)
    thread.start()
    wait_for(lambda: processes("program.py", str(tmp_path)), what="the child")
    with embedded_backend.database.transaction() as session:
        session.execute(delete(DatasetStatistics))
    thread.join(60)
    assert not thread.is_alive()
    with embedded_backend.database.read() as session:
        assert session.scalars(select(DatasetStatistics)).all() == []


def test_bytes_that_are_gone_are_told(backend: Backend, tmp_path: Path) -> None:
    lost, changed = (add_file(backend, record("Yes.")) for _ in range(2))
    backend.storage.delete(keys.file_content(DEFAULT_PROJECT_ID, lost))
    backend.damage(keys.file_content(DEFAULT_PROJECT_ID, changed))
    questions = [ask(backend, file_id) for file_id in (lost, changed)]

    handler_of(backend, program(tmp_path, "raise SystemExit(70)")).poll()

    assert [answered(backend.database, question).error_code for question in questions] == [
        "bytes_missing"
    ] * 2
