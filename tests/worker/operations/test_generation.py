"""Prompts and a program that answers, as the worker sees it: small ones that stand for the trainer's, and that misbehave."""

import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import update

from app.database import now_plus
from app.models import DEFAULT_PROJECT_ID, Model, Trial
from app.operations import claims
from app.trials import service
from tests.support.house import BASE_MODEL, House
from tests.support.toy_trainer import Toy
from tests.support.waiting import wait_for
from worker.operations.generation import Answerer

SAYS = """
import json, sys, os, time
fd = int(sys.argv[sys.argv.index("--message-fd") + 1])
def say(model, text): os.write(fd, json.dumps({"type": "answering", "model": model, "text": text}).encode() + b"\\n")
prompt = open(sys.argv[sys.argv.index("--prompt") + 1], encoding="utf-8").read()
models = sys.argv[2:sys.argv.index("--prompt")]
"""
FAILS = """
os.write(fd, json.dumps({"type": "failed", "code": "out_of_memory", "message": "the model needs more"}).encode() + b"\\n")
sys.exit(71)
"""


def a_model(house: House) -> str:
    job_id = house.add_job(Toy(steps=2))
    house.supervisor().execute_next()
    model_id = house.job(job_id).fine_tuned_model_id
    assert model_id is not None
    return model_id


def ask(house: House, model_id: str, prompt: str = "Why?") -> str:
    with house.database.transaction() as session:
        return service.ask(session, DEFAULT_PROJECT_ID, model_id, prompt, 16).id


def trial(house: House, trial_id: str) -> Trial:
    with house.database.read() as session:
        return session.get_one(Trial, trial_id)


def answerer(house: House, tmp_path: Path, code: str, drain: threading.Event | None = None) -> Answerer:
    program = tmp_path / "program.py"
    program.write_text(SAYS + code)
    settings = house.settings.model_copy(update={"trainer_command": [sys.executable, str(program)]})
    return Answerer(settings, house.database, house.storage, drain or threading.Event())


def test_both_answers_are_written_and_the_prompt_reaches_the_program_as_it_is(house: House, tmp_path: Path) -> None:
    trial_id = ask(house, a_model(house), "Wie heißt er?\n--model 💡")
    answerer(house, tmp_path, "say(0, prompt); say(1, str(len(models))); say(0, '!')").poll()

    done = trial(house, trial_id)
    assert (done.status, done.answer, done.base_answer) == ("completed", "Wie heißt er?\n--model 💡!", "2")
    assert [path.name for path in (house.settings.work_dir / "trials").iterdir()] == [".lock"]


def test_a_base_model_answers_alone(house: House, tmp_path: Path) -> None:
    trial_id = ask(house, BASE_MODEL)
    answerer(house, tmp_path, "say(0, str(len(models)))").poll()

    done = trial(house, trial_id)
    assert (done.status, done.answer, done.base_model_id) == ("completed", "1", None)


def test_answers_grow_while_they_are_written(house: House, tmp_path: Path) -> None:
    trial_id = ask(house, a_model(house))
    go_on = tmp_path / "go-on"
    code = f"""
say(0, "First")
while not os.path.exists({str(go_on)!r}):
    time.sleep(0.05)
    say(0, ".")
say(1, "Second")
"""
    worker = answerer(house, tmp_path, code)
    thread = threading.Thread(target=worker.poll)
    thread.start()
    wait_for(lambda: trial(house, trial_id).answer.startswith("First"), what="the first piece is there")
    assert trial(house, trial_id).status == "in_progress"
    go_on.touch()
    thread.join()
    assert (trial(house, trial_id).status, trial(house, trial_id).base_answer) == ("completed", "Second")


def test_what_the_program_refuses_is_told_in_its_words(house: House, tmp_path: Path) -> None:
    trial_id = ask(house, a_model(house))
    answerer(house, tmp_path, FAILS).poll()

    failed = trial(house, trial_id)
    assert (failed.status, failed.error_code, failed.error_message) == ("failed", "out_of_memory", "the model needs more")


def test_a_program_that_never_ends_is_stopped(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answerer, "limit_seconds", 0.5)
    trial_id = ask(house, a_model(house))
    answerer(house, tmp_path, "time.sleep(600)").poll()

    assert (trial(house, trial_id).status, trial(house, trial_id).error_code) == ("failed", "too_slow")


def test_a_model_that_was_deleted_meanwhile(house: House, tmp_path: Path) -> None:
    model_id = a_model(house)
    trial_id = ask(house, model_id)
    with house.database.transaction() as session:
        session.execute(update(Model).where(Model.id == model_id).values(deleted_at=now_plus()))
    answerer(house, tmp_path, "say(0, 'Yes')").poll()

    assert (trial(house, trial_id).status, trial(house, trial_id).error_code) == ("failed", "model_not_found")


def test_a_worker_that_has_lost_it_writes_nothing(house: House, tmp_path: Path) -> None:
    trial_id = ask(house, a_model(house))
    with house.database.transaction() as session:
        ghost = claims.claim(session, Trial, 60)
        session.execute(update(Trial).values(claimed_at=None))
    assert ghost is not None
    answerer(house, tmp_path, "say(0, 'Yes')").poll()
    with house.database.transaction() as session:
        assert not claims.write(session, ghost, answer="No")
    assert trial(house, trial_id).answer == "Yes"


def test_they_are_forgotten_after_a_day(house: House) -> None:
    old, new = ask(house, BASE_MODEL), ask(house, BASE_MODEL)
    with house.database.transaction() as session:
        session.execute(update(Trial).where(Trial.id == old).values(created_at=now_plus(-25 * 3600)))
    service.forget_old(house.database)
    with house.database.read() as session:
        assert (session.get(Trial, old), session.get(Trial, new) is not None) == (None, True)
