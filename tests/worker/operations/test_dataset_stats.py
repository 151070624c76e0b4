"""Inspections with real programs as the child: our own, and small ones that misbehave."""

import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from app.database import Database, now_plus
from app.ids import new_id
from app.inspections import repository
from app.inspections.repository import Question
from app.models import DEFAULT_PROJECT_ID, File, FileStatus, Inspection, OperationStatus
from app.operations import claims
from app.storage import keys
from tests.support.house import BASE_MODEL, ROOT, House, processes
from tests.support.waiting import wait_for
from worker.operations.dataset_stats import Inspector
from worker.operations.runner import MAX_TRIES


def record(answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": answer}]}


def add_file(house: House, *records: object) -> str:
    file_id = new_id("file-")
    key = keys.file_content(DEFAULT_PROJECT_ID, file_id)
    stored = house.storage.put(key, [json.dumps(one).encode() + b"\n" for one in records])
    with house.database.transaction() as session:
        session.add(
            File(
                id=file_id, project_id=DEFAULT_PROJECT_ID, filename="rows.jsonl", purpose="fine-tune", bytes=stored.bytes,
                sha256=stored.sha256, storage_key=key, status=FileStatus.PROCESSED,
            )
        )  # fmt: skip
    return file_id


def ask(house: House, file_id: str, model_id: str = BASE_MODEL, validation_file: str = "") -> Question:
    question = Question(file_id, model_id, 64, validation_file)
    with house.database.transaction() as session:
        repository.ask(session, question)
    return question


def answered(database: Database, question: Question) -> Inspection:
    with database.read() as session:
        found = repository.find(session, question)
    assert found is not None
    return found


def program(folder: Path, code: str) -> list[str]:
    path = folder / "program.py"
    path.write_text(code)
    return [sys.executable, str(path)]


def inspector_of(house: House, command: list[str], drain: threading.Event | None = None) -> Inspector:
    settings = house.settings.model_copy(update={"trainer_command": command})
    return Inspector(settings, house.database, house.storage, drain or threading.Event())


def test_what_the_program_refuses_is_told_in_its_words(embedded_house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    question = ask(embedded_house, add_file(embedded_house, record("Yes.")))  # of a model whose tokenizer is none

    inspector_of(embedded_house, [sys.executable, "-m", "falqon_core"]).poll()

    failed = answered(embedded_house.database, question)
    assert (failed.status, failed.error_code, failed.result) == (OperationStatus.FAILED, "model_refused", None)
    assert "tokenizer" in str(failed.error_message)
    assert [path.name for path in (embedded_house.settings.work_dir / "inspections").iterdir()] == [".lock"]


def test_one_question_after_the_other_until_none_is_left(house: House, tmp_path: Path) -> None:
    questions = [ask(house, add_file(house, record("Yes."))) for _ in range(3)]

    inspector_of(house, program(tmp_path, "raise SystemExit(70)")).poll()

    assert [answered(house.database, question).status for question in questions] == [OperationStatus.FAILED] * 3


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
    code: str, error: str, embedded_house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Inspector, "limit_seconds", 1.0)
    question = ask(embedded_house, add_file(embedded_house, record("Yes.")))

    inspector_of(embedded_house, program(tmp_path, code)).poll()

    found = answered(embedded_house.database, question)
    assert (found.status, found.error_code) == (OperationStatus.FAILED, error)
    assert processes("program.py", str(tmp_path)) == []


def test_a_question_that_kills_its_workers_is_given_up(embedded_house: House, tmp_path: Path) -> None:
    question, ran = ask(embedded_house, add_file(embedded_house, record("Yes."))), tmp_path / "ran"
    with embedded_house.database.transaction() as session:
        session.execute(update(Inspection).values(tries=MAX_TRIES, claimed_at=now_plus(-embedded_house.settings.lease.total_seconds() - 1)))

    inspector_of(embedded_house, program(tmp_path, f"open({str(ran)!r}, 'w')")).poll()

    found = answered(embedded_house.database, question)
    assert (found.status, found.error_code) == (OperationStatus.FAILED, "inspection_failed")
    assert not ran.exists()


def test_who_has_been_overtaken_answers_nothing(house: House, tmp_path: Path) -> None:
    question, go = ask(house, add_file(house, record("Yes."))), tmp_path / "go"
    waits = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.05)\nraise SystemExit(70)"
    thread = threading.Thread(target=inspector_of(house, program(tmp_path, waits)).poll)
    thread.start()
    wait_for(lambda: processes("program.py", str(tmp_path)), what="the child")
    with house.database.transaction() as session:
        winner = claims.claim(session, Inspection, stale_seconds=-60.0)
    go.touch()
    thread.join(10)
    assert answered(house.database, question).status == OperationStatus.IN_PROGRESS
    with house.database.transaction() as session:
        assert winner is not None
        assert claims.write(session, winner, status=OperationStatus.COMPLETED, result={})


def test_a_worker_that_ends_leaves_the_question_to_others(embedded_house: House, tmp_path: Path) -> None:
    question, drain = ask(embedded_house, add_file(embedded_house, record("Yes."))), threading.Event()
    worker = inspector_of(embedded_house, program(tmp_path, "import time; time.sleep(600)"), drain)
    thread = threading.Thread(target=worker.poll)
    thread.start()
    wait_for(lambda: processes("program.py", str(tmp_path)), what="the child")
    assert answered(embedded_house.database, question).claimed_at is not None
    worker.poll()  # somebody rings meanwhile, and need not wait
    drain.set()
    thread.join(10)
    found = answered(embedded_house.database, question)
    assert (found.status, found.claimed_at) == (OperationStatus.IN_PROGRESS, None)
    assert processes("program.py", str(tmp_path)) == []


def test_nobody_works_for_a_file_that_is_deleted(embedded_house: House, tmp_path: Path) -> None:
    ask(embedded_house, add_file(embedded_house, record("Yes.")))
    worker = inspector_of(embedded_house, program(tmp_path, "import time; time.sleep(600)"))
    thread = threading.Thread(target=worker.poll)
    thread.start()
    wait_for(lambda: processes("program.py", str(tmp_path)), what="the child")
    with embedded_house.database.transaction() as session:
        session.execute(delete(Inspection))
    thread.join(10)
    assert not thread.is_alive()
    with embedded_house.database.read() as session:
        assert session.scalars(select(Inspection)).all() == []


def test_bytes_that_are_gone_are_told(house: House, tmp_path: Path) -> None:
    lost, changed = (add_file(house, record("Yes.")) for _ in range(2))
    house.storage.delete(keys.file_content(DEFAULT_PROJECT_ID, lost))
    house.damage(keys.file_content(DEFAULT_PROJECT_ID, changed))
    questions = [ask(house, file_id) for file_id in (lost, changed)]

    inspector_of(house, program(tmp_path, "raise SystemExit(70)")).poll()

    assert [answered(house.database, question).error_code for question in questions] == ["bytes_missing"] * 2
