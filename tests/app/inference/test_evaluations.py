"""Evaluations from the request to the result: a worker asks models through its own engine."""

import hashlib
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update
from typer.testing import CliRunner, Result

from app.base.database import now_plus
from app.cli import app
from app.keys.service import add_key
from app.models import (
    Artifact,
    Engine,
    Evaluation,
    Job,
    JobStatus,
    Model,
    PriceOverride,
    QuestionDay,
    Scope,
    UsageDay,
)
from app.operations import claims
from app.prices import service as prices
from app.prices.schemas import Override
from falqon_core.contract.config import Recipe
from falqon_core.estimate.prices import default_price
from tests.support import model_engine
from tests.support.api import Api, Tenant
from tests.support.backend import processes
from tests.support.local_server import serving_by
from tests.support.waiting import wait_for
from worker.context import WorkerContext
from worker.entry.workers import Poller
from worker.evaluation import asking
from worker.evaluation.charge import Charge
from worker.evaluation.rows import COMPLETION_PATH
from worker.machine import busy_engine
from worker.operations.evaluation import EvaluationHandler
from worker.operations.handler import OperationAbandoned

BASE = "falqon-tiny"
SAME = {"type": "string_check", "name": "same", "operation": "eq"}
NOT = {"type": "string_check", "name": "not", "operation": "ne"}
# Stands for the trainer's program, whose own tests say which lines it prints.
HELD_OUT = """
import json, pathlib, sys
assert sys.argv[1:3] == ["held-out", "--config"]
config = json.loads(pathlib.Path(sys.argv[3]).read_text())
assert pathlib.Path(config["model"], "tokenizer.json").is_file()
assert len(pathlib.Path(config["train_file"]).read_text().splitlines()) == 12
assert config["recipe"]["validation_fraction"] == 0.25
print([2, 5, 9])
"""
WEBHOOK = "fine_tuning.job.evaluation.finished"
OWN_SECONDS = 3.0  # longer than the tiny model takes for two answers
QUESTIONS = ["Two?", "And?", "Who?", "Why?", "Where?"]


def rows(*questions: str, answer: str = "four", **fields: Any) -> bytes:
    records = [
        {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
        }
        for question in questions
    ]
    return b"".join(json.dumps(record | fields).encode() + b"\n" for record in records)


def a_job(api: Api, tenant: Tenant, **request: Any) -> str:
    """One whose model has the base's weights."""
    training_file = tenant.upload(rows(*map(str, range(12))))
    job = tenant.client.fine_tuning.jobs.create(model=BASE, training_file=training_file, **request)
    model_id = model_of(job.id)
    with api.database.transaction() as session:
        base = session.get_one(Model, BASE)
        model = Model(id=model_id, project_id=tenant.project_id, job_id=job.id)
        model.config, model.bytes, model.base_model_id = base.config, base.bytes, BASE
        session.add(model)
        session.flush()
        for artifact in session.scalars(select(Artifact).where(Artifact.model_id == BASE)):
            fields = ("name", "bytes", "sha256", "storage_key")
            copied = {field: getattr(artifact, field) for field in fields}
            session.add(Artifact(model_id=model_id, **copied))
        values = {"status": JobStatus.SUCCEEDED, "fine_tuned_model_id": model_id}
        session.execute(update(Job).where(Job.id == job.id).values(**values))
    return str(job.id)


def model_of(job_id: str) -> str:
    return f"ft:{BASE}:acme::{job_id[-8:]}"


def ask(tenant: Tenant, job_id: str, **body: Any) -> str:
    url = f"/v1/fine_tuning/jobs/{job_id}/evaluations"
    body = {"graders": [SAME, NOT], "max_tokens": 3} | body
    return str(tenant.http.post(url, json=body).raise_for_status().json()["id"])


def read(tenant: Tenant, job_id: str, evaluation_id: str) -> dict[str, Any]:
    url = f"/v1/fine_tuning/jobs/{job_id}/evaluations/{evaluation_id}"
    evaluation: dict[str, Any] = tenant.http.get(url).raise_for_status().json()
    return evaluation


def usage(api: Api, job_id: str) -> list[UsageDay]:
    with api.database.read() as session:
        return list(session.scalars(select(UsageDay).where(UsageDay.job_id == job_id)))


def cost_of(tenant: Tenant, job_id: str) -> Decimal:
    job = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}").raise_for_status().json()
    return Decimal(job["cost"]["accrued"])


@pytest.fixture
def shutting_down() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def handler(api: Api, shutting_down: threading.Event) -> EvaluationHandler:
    settings = api.settings
    return EvaluationHandler(
        WorkerContext(settings, api.database, api.storage, "evaluates", shutting_down)
    )


@pytest.fixture
def expensive(api: Api) -> Iterator[None]:
    """A device of which a second costs a dollar."""
    with api.database.transaction() as session:
        session.add(PriceOverride(device="cpu", usd_per_device_hour="3600", source="ours"))
    yield
    with api.database.transaction() as session:
        session.execute(delete(PriceOverride))


def test_the_model_and_its_base_answer_the_same_rows(
    api: Api, tenant: Tenant, handler: EvaluationHandler
) -> None:
    job_id = a_job(api, tenant, validation_file=tenant.upload(rows(*QUESTIONS)))
    evaluation_id = ask(tenant, job_id, max_rows=4)
    handler.poll()

    done = read(tenant, job_id, evaluation_id)
    assert (done["status"], done["error"]) == ("completed", None)
    assert (done["num_answers"], done["num_questions"]) == (8, 8)
    models = [model["model"] for model in done["result"]["models"]]
    with api.database.read() as session:
        asked = select(QuestionDay).where(QuestionDay.model_id == models[1])
        (day,) = session.scalars(asked)
    assert (day.project_id, day.source, day.requests) == (tenant.project_id, "evaluation", 4)
    assert day.base_model_id == models[0]
    assert day.input_tokens > day.output_tokens > 0
    assert (done["result"]["rows"], done["result"]["rows_left_out"]) == (4, 0)
    base, mine = done["result"]["models"]
    assert (base["role"], mine["role"]) == ("base", "result")
    assert [score["mean"] for score in base["scores"]] == [0, 1]  # an untrained one says no "four"
    assert base["scores"][0]["difference"] is None
    # with temperature 0 the same weights say the same
    assert mine["scores"][1]["difference"] == {
        "mean": 0,
        "standard_error": 0,
        "p_value": 1,
        "verdict": "no_clear_difference",
    }


@pytest.mark.usefixtures("expensive")
def test_the_job_has_the_verdict_the_event_the_webhook_and_the_cost(
    api: Api, tenant: Tenant, handler: EvaluationHandler
) -> None:
    job_id = a_job(api, tenant, validation_file=tenant.upload(rows(*QUESTIONS)))
    endpoint = {"url": "https://hooks.example.com", "event_types": [WEBHOOK]}
    hook = tenant.http.post("/v1/webhook_endpoints", json=endpoint).raise_for_status().json()["id"]
    evaluation_id = ask(tenant, job_id)
    handler.poll()

    job = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    sentence = "No clear difference from the base: 1.00 against 1.00 by not (5 rows, p = 1.000)."
    assert job["verdict"] == {
        "evaluation_id": evaluation_id,
        "verdict": "no_clear_difference",
        "sentence": sentence,
        "short": "no clear difference: 100 % vs 100 %",
    }
    event = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}/events").json()["data"][0]
    data = {"event": "evaluation.finished", "evaluation": evaluation_id, "status": "completed"}
    assert (event["message"], event["level"], event["data"]) == (sentence, "info", data)
    deliveries = tenant.http.get(f"/v1/webhook_endpoints/{hook}/deliveries").json()["data"]
    assert [delivery["event_type"] for delivery in deliveries] == [WEBHOOK]

    done = read(tenant, job_id, evaluation_id)
    assert Decimal(done["cost"]) > 0
    assert job["cost"]["accrued"] == done["cost"]
    assert [day.cost for day in usage(api, job_id)] == [Decimal(done["cost"])]
    assert done["result"]["best"][0] == {
        "line": 1,
        "prompt": "Two?",
        "expected": "four",
        "answer": done["result"]["best"][0]["answer"],
        "base_answer": done["result"]["best"][0]["answer"],  # The weights are the same.
        "scores": [0, 1],
    }
    assert [example["line"] for example in done["result"]["worst"]] == [5, 4]


def test_an_evaluation_that_asks_nothing_and_fails_is_an_event_and_costs_nothing(
    api: Api, tenant: Tenant, handler: EvaluationHandler
) -> None:
    job_id = a_job(api, tenant)
    ask(tenant, job_id, file=tenant.upload(b'{"text": "Once upon a time"}\n' * 3))
    handler.poll()
    job = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    assert (job["status"], job["verdict"]) == ("succeeded", None)
    event = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}/events").json()["data"][0]
    assert (event["level"], event["data"]["code"]) == ("warn", "no_rows_to_ask")
    assert event["message"].startswith("The evaluation has failed: ")
    assert usage(api, job_id) == []


@pytest.mark.usefixtures("expensive")
def test_an_evaluation_that_nobody_asked_for_stays_within_the_budget(
    api: Api, tenant: Tenant, handler: EvaluationHandler
) -> None:
    job_id = a_job(api, tenant, validation_file=tenant.upload(rows(*QUESTIONS)))
    evaluation_id = ask(tenant, job_id)
    with api.database.transaction() as session:
        evaluation = session.get_one(Evaluation, evaluation_id)
        capped = evaluation.plan.model_copy(update={"max_cost_usd": Decimal("0.0001")})
        evaluation.plan = capped
    handler.poll()
    failed = read(tenant, job_id, evaluation_id)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "budget_exhausted")
    assert Decimal(failed["cost"]) > 0
    assert cost_of(tenant, job_id) == Decimal(failed["cost"])
    assert [day.cost for day in usage(api, job_id)] == [Decimal(failed["cost"])]


@pytest.mark.usefixtures("expensive")
@pytest.mark.parametrize("is_answered", [True, False], ids=["answered", "refused"])
def test_failed_evaluations_use_up_the_day_of_an_agent(
    api: Api,
    tenant: Tenant,
    handler: EvaluationHandler,
    is_answered: bool,
) -> None:
    with api.database.transaction() as session:
        key, secret = add_key(
            session, tenant.project_id, "agent", Scope.AGENT, daily_budget_usd=Decimal("0.001")
        )
    questions = QUESTIONS if is_answered else ["too long " * 5000]
    job_id = a_job(api, tenant, validation_file=tenant.upload(rows(*questions)))
    request: dict[str, Any] = {
        "url": f"/v1/fine_tuning/jobs/{job_id}/evaluations",
        "json": {"graders": [NOT], "max_tokens": 3},
        "headers": {"authorization": f"Bearer {secret}"},
    }
    evaluation_id = tenant.http.post(**request).raise_for_status().json()["id"]
    handler.poll()
    failed = read(tenant, job_id, evaluation_id)
    assert failed["status"] == "failed"
    (day,) = usage(api, evaluation_id)
    assert (day.key_id, day.cost) == (key.id, Decimal(failed["cost"]))
    assert day.cost > Decimal("0.001")
    assert not cost_of(tenant, job_id)
    again = tenant.http.post(**request)
    assert (again.status_code, again.json()["error"]["code"]) == (429, "insufficient_quota")


@pytest.mark.usefixtures("expensive")
def test_an_evaluation_of_a_job_that_still_trains_is_usage_of_its_own(
    api: Api, tenant: Tenant, handler: EvaluationHandler
) -> None:
    job_id = a_job(api, tenant, validation_file=tenant.upload(rows(*QUESTIONS)))
    evaluation_id = ask(tenant, job_id)
    with api.database.transaction() as session:
        job = session.get_one(Job, job_id)
        job.status = JobStatus.PAUSED
        key_id = job.key_id
    handler.poll()
    done = read(tenant, job_id, evaluation_id)
    (day,) = usage(api, evaluation_id)
    assert key_id is not None
    assert (day.key_id, day.cost) == (key_id, Decimal(done["cost"]))
    assert day.cost > 0
    assert usage(api, job_id) == []
    assert not cost_of(tenant, job_id)


class SlowEngine(model_engine.Handler):
    def do_POST(self) -> None:
        time.sleep(OWN_SECONDS)
        super().do_POST()


@pytest.mark.usefixtures("expensive")
@pytest.mark.parametrize("is_judged", [False, True], ids=["asked", "judges"])
def test_a_model_that_workers_load_is_charged_beside_an_engine_of_the_operators(
    api: Api, tenant: Tenant, shutting_down: threading.Event, is_judged: bool
) -> None:
    job_id = a_job(api, tenant, validation_file=tenant.upload(rows("Two?", "And?")))
    own, graders = [BASE], [NOT]
    if is_judged:
        judge = {"type": "score_model", "name": "right", "model": model_of(a_job(api, tenant))}
        message = {"role": "user", "content": "{{sample.output_text}}"}
        own, graders = [BASE, model_of(job_id)], [NOT, judge | {"input": [message]}]
    evaluation_id = ask(tenant, job_id, graders=graders)
    with serving_by(SlowEngine) as url:
        settings = api.settings.model_copy(update={"engine_urls": dict.fromkeys(own, url)})
        EvaluationHandler(
            WorkerContext(settings, api.database, api.storage, "evaluates", shutting_down)
        ).poll()
    with api.database.read() as session:
        evaluation = session.get_one(Evaluation, evaluation_id)
    assert evaluation.seconds is not None
    assert evaluation.cost is not None
    if is_judged:
        assert evaluation.seconds > 0
    else:
        assert 0 < evaluation.seconds < OWN_SECONDS
    assert evaluation.cost > 0


def test_the_newest_evaluation_is_downloaded_with_the_model(
    api: Api, tenant: Tenant, handler: EvaluationHandler
) -> None:
    job_id = a_job(api, tenant, validation_file=tenant.upload(rows(*QUESTIONS)))
    model_id = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}").json()["fine_tuned_model"]

    def files() -> dict[str, dict[str, Any]]:
        url = f"/v1/models/{model_id}/artifacts"
        return {file["name"]: file for file in tenant.http.get(url).json()["data"]}

    before = files()
    cards = []
    for max_rows in (2, 3):
        ask(tenant, job_id, max_rows=max_rows)
        handler.poll()
        file = files()["EVALUATION.md"]
        card = tenant.http.get(f"/v1/models/{model_id}/artifacts/EVALUATION.md").content
        assert hashlib.sha256(card).hexdigest() == file["sha256"]
        cards.append(card.decode())
    assert {name: files()[name] for name in before} == before, "what is certified stays as it was"
    assert "the same 2 held-out rows" in cards[0]
    assert "the same 3 held-out rows" in cards[1]
    assert f"| {model_id} | not | 1.000 ± 0.000 | +0.000 ± 0.000 | 1.000 |" in cards[1]


def test_the_rows_of_a_fraction_are_those_that_training_held_out(
    api: Api, tenant: Tenant, shutting_down: threading.Event, tmp_path: Path
) -> None:
    job_id = a_job(api, tenant)
    with api.database.transaction() as session:
        recipe = Recipe(validation_fraction=0.25, max_seq_length=128).resolved(12)
        session.execute(update(Job).where(Job.id == job_id).values(recipe=recipe))
    evaluation_id = ask(tenant, job_id)
    program = tmp_path / "program.py"
    program.write_text(HELD_OUT)
    settings = api.settings.model_copy(update={"trainer_command": [sys.executable, str(program)]})
    EvaluationHandler(
        WorkerContext(settings, api.database, api.storage, "evaluates", shutting_down)
    ).poll()
    done = read(tenant, job_id, evaluation_id)
    assert (done["status"], done["origin"]) == ("completed", "validation_fraction")
    assert done["result"]["rows"] == 3


def test_what_is_too_long_is_left_out(api: Api, tenant: Tenant, handler: EvaluationHandler) -> None:
    held_out = rows("Two?", "too long " * 5000)
    job_id = a_job(api, tenant, validation_file=tenant.upload(held_out))
    evaluation_id = ask(tenant, job_id)
    handler.poll()
    result = read(tenant, job_id, evaluation_id)["result"]
    assert (result["rows"], result["rows_left_out"]) == (1, 1)


def tool(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f"} | fields}


PATTERN = {"type": "object", "properties": {"code": {"type": "string", "pattern": r"\d{5}"}}}
# Tools that training takes, and that the API refuses in a request.
REFUSED_TOOLS: dict[str, list[dict[str, Any]]] = {
    "no type": [{"function": {"name": "f"}}],
    "pattern": [tool(parameters=PATTERN)],
    "too many": [tool(name=f"f{i}") for i in range(129)],
}


@pytest.mark.parametrize("case", REFUSED_TOOLS)
def test_what_the_api_would_refuse_is_left_out(
    api: Api, tenant: Tenant, handler: EvaluationHandler, case: str
) -> None:
    held_out = rows("Two?") + rows("Who?", tools=REFUSED_TOOLS[case]) + rows("And?", "Why?")
    job_id = a_job(api, tenant, validation_file=tenant.upload(held_out))
    evaluation_id = ask(tenant, job_id)
    handler.poll()
    done = read(tenant, job_id, evaluation_id)
    assert (done["status"], done["error"]) == ("completed", None)
    assert (done["result"]["rows"], done["result"]["rows_left_out"]) == (3, 1)
    lines = {example["line"] for end in ("best", "worst") for example in done["result"][end]}
    assert lines == {1, 3, 4}


@pytest.mark.parametrize(
    ("content", "body", "code", "words"),
    [
        (rows("too long " * 5000), {}, "no_row_was_answered", "context"),
        (
            rows("Two?", "And?", tools=REFUSED_TOOLS["no type"]),
            {},
            "no_row_was_answered",
            "No row was answered by every model: line 1: tools.0.type: ",
        ),
        (b'{"text": "Once upon a time"}\n' * 3, {}, "no_rows_to_ask", "have no questions"),
        (
            rows("Two?", mark="x") + rows("And?"),
            {"graders": [SAME | {"reference": "{{item.mark}}"}]},
            "invalid_template",
            "'same' cannot grade line 2: it has no field 'item.mark'",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_said(
    api: Api,
    tenant: Tenant,
    handler: EvaluationHandler,
    content: bytes,
    body: dict[str, Any],
    code: str,
    words: str,
) -> None:
    job_id = a_job(api, tenant)
    evaluation_id = ask(tenant, job_id, file=tenant.upload(content), **body)
    handler.poll()
    failed = read(tenant, job_id, evaluation_id)
    assert (failed["status"], failed["error"]["code"]) == ("failed", code)
    assert words in failed["error"]["message"]


def test_a_model_or_file_that_is_gone(api: Api, tenant: Tenant, handler: EvaluationHandler) -> None:
    held_out = tenant.upload(rows("Two?"))
    job_id = a_job(api, tenant, validation_file=held_out)
    without_file, without_model = ask(tenant, job_id), ask(tenant, job_id, file=tenant.upload())
    tenant.client.files.delete(held_out)
    tenant.client.models.delete(model_of(job_id))
    handler.poll()
    assert read(tenant, job_id, without_file)["error"]["code"] == "file_not_found"
    assert read(tenant, job_id, without_model)["error"]["code"] == "model_not_found"


def test_another_attempt_goes_on_where_the_one_before_was_lost(
    api: Api, tenant: Tenant, handler: EvaluationHandler
) -> None:
    job_id = a_job(api, tenant, validation_file=tenant.upload(rows(*QUESTIONS)))
    evaluation_id = ask(tenant, job_id)
    with api.database.transaction() as session:
        lost = claims.claim(session, Evaluation, 60)
        assert lost is not None
        scores = lost.scores.model_copy(update={"by_model": {BASE: [[1.0, 0.0]] * 5}})
        assert claims.write(session, lost, scores=scores)
        session.execute(update(Evaluation).values(lease_expires_at=now_plus(-1)))
    handler.poll()
    result = read(tenant, job_id, evaluation_id)["result"]
    base, mine = result["models"]
    assert [score["mean"] for score in base["scores"]] == [1, 0]  # nobody has asked it again
    assert [example["base_answer"] for example in result["best"]] == [None] * 3
    assert mine["scores"][0]["difference"]["mean"] == -1
    with api.database.transaction() as session:
        assert not claims.write(session, lost, num_answers=0)


@pytest.mark.usefixtures("expensive")
def test_another_attempt_adds_its_seconds_to_those_of_the_one_before(
    api: Api, tenant: Tenant, handler: EvaluationHandler
) -> None:
    job_id = a_job(api, tenant, validation_file=tenant.upload(rows(*QUESTIONS)))

    def lose(evaluation_id: str) -> None:
        with api.database.transaction() as session:
            lost = claims.claim(session, Evaluation, 60)
        assert lost is not None
        assert lost.id == evaluation_id
        scores = lost.scores.model_copy(update={"by_model": {BASE: [[1.0, 0.0]] * 5}})
        charge = Charge(1000.0, Decimal(1000), 1, default_price("cpu"))
        assert handler.write_scores(lost, scores, [], charge)
        with api.database.transaction() as session:
            session.execute(update(Evaluation).values(lease_expires_at=now_plus(-1)))

    completed_id = ask(tenant, job_id)
    lose(completed_id)
    handler.poll()
    with api.database.read() as session:
        seconds = session.get_one(Evaluation, completed_id).seconds
    assert seconds is not None
    assert seconds > 1000
    assert Decimal(read(tenant, job_id, completed_id)["cost"]) > 1000

    capped_id = ask(tenant, job_id)
    with api.database.transaction() as session:
        capped = session.get_one(Evaluation, capped_id)
        capped.plan = capped.plan.model_copy(update={"max_cost_usd": Decimal(1000)})
    lose(capped_id)
    handler.poll()
    assert read(tenant, job_id, capped_id)["error"]["code"] == "budget_exhausted"


@pytest.mark.usefixtures("expensive")
def test_answers_keep_the_price_that_stood_when_they_were_given(
    api: Api, tenant: Tenant, handler: EvaluationHandler
) -> None:
    job_id = a_job(api, tenant, validation_file=tenant.upload(rows(*QUESTIONS * 10)))
    evaluation_id = ask(tenant, job_id, max_tokens=30)
    thread = threading.Thread(target=handler.poll)
    thread.start()
    wait_for(lambda: read(tenant, job_id, evaluation_id)["cost"], what="the answers have a cost")
    cheap = Override(device="cpu", usd_per_device_hour=Decimal("0.0001"), source="ours")
    with api.database.transaction() as session:
        prices.replace(session, [cheap])
        before = session.get_one(Evaluation, evaluation_id)
        seconds, cost = before.seconds, before.cost
    thread.join(60)
    with api.database.read() as session:
        after = session.get_one(Evaluation, evaluation_id)
    assert seconds is not None
    assert cost is not None
    assert after.seconds is not None
    assert after.cost is not None
    assert after.status == "completed"
    assert after.seconds > seconds
    assert cost <= after.cost < cost / Decimal(seconds) * Decimal(after.seconds)
    assert [day.cost for day in usage(api, job_id)] == [after.cost]


def test_a_worker_that_ends_leaves_it_to_others(
    api: Api, tenant: Tenant, handler: EvaluationHandler, shutting_down: threading.Event
) -> None:
    job_id = a_job(api, tenant, validation_file=tenant.upload(rows(*QUESTIONS * 40)))
    evaluation_id = ask(tenant, job_id, max_tokens=200)
    thread = threading.Thread(target=handler.poll)
    thread.start()
    wait_for(lambda: read(tenant, job_id, evaluation_id)["num_answers"], what="answers are written")
    shutting_down.set()
    thread.join(60)
    assert not thread.is_alive()
    assert read(tenant, job_id, evaluation_id)["status"] == "in_progress"
    with api.database.transaction() as session:
        evaluation = session.get_one(Evaluation, evaluation_id)
        assert (evaluation.attempt, evaluation.lease_expires_at) == (0, None)
        session.delete(evaluation)


def test_the_time_of_answers_that_are_given_up_is_charged(api: Api, tenant: Tenant) -> None:
    is_lost = threading.Event()

    def heartbeat() -> None:
        if is_lost.is_set():
            raise OperationAbandoned

    context = WorkerContext(api.settings, api.database, api.storage, "evaluates", is_lost)
    charge = Charge(0.0, Decimal(0), 1, default_price("cpu"))
    asker = asking.Asker(context, tenant.project_id, None, heartbeat, charge)
    body = {"model": BASE, "prompt": "One", "max_tokens": 200}
    question = asking.Question(COMPLETION_PATH, json.dumps(body).encode())
    asker.ask(BASE, [question])
    answered = charge.seconds
    is_lost.set()
    with pytest.raises(OperationAbandoned):
        asker.ask(BASE, [question])
    assert charge.seconds > answered > 0


def test_an_engine_that_dies_is_loaded_again(
    api: Api, tenant: Tenant, handler: EvaluationHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "RETRY_SECONDS", 0.2)
    job_id = a_job(api, tenant, validation_file=tenant.upload(rows(*QUESTIONS * 10)))
    evaluation_id = ask(tenant, job_id, max_tokens=30)
    thread = threading.Thread(target=handler.poll)
    thread.start()
    wait_for(lambda: read(tenant, job_id, evaluation_id)["num_answers"], what="answers are written")
    for pid in processes("worker.inference.llama_cpp", str(api.settings.data_dir.resolve())):
        os.kill(pid, signal.SIGKILL)
    thread.join(60)
    done = read(tenant, job_id, evaluation_id)
    assert (done["status"], done["error"]) == ("completed", None)


class BusyEngine(model_engine.Handler):
    """Refuses so many questions, and then each that comes beside another one."""

    num_refused: float = 0
    refusal: bytes = b""
    refusals: list[int]
    answering: threading.Lock

    def do_POST(self) -> None:
        if len(self.refusals) >= self.num_refused and self.answering.acquire(blocking=False):
            time.sleep(0.1)
            super().do_POST()
            self.answering.release()
            return
        self.rfile.read(int(self.headers["content-length"]))
        self.refusals.append(503 if len(self.refusals) % 2 else 429)
        self.send(self.refusals[-1], self.refusal)


@pytest.fixture
def busy(
    api: Api, shutting_down: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EvaluationHandler]:
    """A worker whose models a busy engine answers for."""
    monkeypatch.setattr(BusyEngine, "refusals", [], raising=False)
    monkeypatch.setattr(BusyEngine, "answering", threading.Lock(), raising=False)
    with serving_by(BusyEngine) as url:
        settings = api.settings.model_copy(update={"engine_urls": {"*": url}})
        yield EvaluationHandler(
            WorkerContext(settings, api.database, api.storage, "evaluates", shutting_down)
        )


def test_a_busy_engine_is_asked_again_for_what_it_has_not_answered(
    api: Api, tenant: Tenant, busy: EvaluationHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(busy_engine, "USUAL_SECONDS", 0.0)
    monkeypatch.setattr(BusyEngine, "num_refused", 3 * asking.MAX_TRIES)
    job_id = a_job(api, tenant, validation_file=tenant.upload(rows("Two?", "And?")))
    evaluation_id = ask(tenant, job_id)
    busy.poll()
    done = read(tenant, job_id, evaluation_id)
    assert (done["status"], done["error"], done["result"]["rows"]) == ("completed", None, 2)
    assert len(BusyEngine.refusals) > BusyEngine.num_refused, "one at a time is answered"
    with api.database.read() as session:
        days = select(QuestionDay).where(QuestionDay.model_id == model_of(job_id))
        assert [day.requests for day in session.scalars(days)] == [2]


def test_an_evaluation_waits_for_a_busy_engine_as_long_as_it_may_take(
    api: Api, tenant: Tenant, busy: EvaluationHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BusyEngine, "num_refused", math.inf)
    monkeypatch.setattr(EvaluationHandler, "limit_seconds", 2.0)
    job_id = a_job(api, tenant, validation_file=tenant.upload(rows("Two?")))
    evaluation_id = ask(tenant, job_id)
    busy.poll()
    failed = read(tenant, job_id, evaluation_id)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "too_slow")
    assert BusyEngine.refusals == [429]


def test_an_engine_whose_quota_is_spent_is_not_busy(
    api: Api, tenant: Tenant, busy: EvaluationHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(BusyEngine, "num_refused", math.inf)
    error = {"message": "You exceeded your current quota.", "code": "insufficient_quota"}
    monkeypatch.setattr(BusyEngine, "refusal", json.dumps({"error": error}).encode())
    job_id = a_job(api, tenant, validation_file=tenant.upload(rows("Two?")))
    evaluation_id = ask(tenant, job_id)
    busy.poll()
    failed = read(tenant, job_id, evaluation_id)
    assert "You exceeded your current quota." in failed["error"]["message"]
    assert len(BusyEngine.refusals) == asking.MAX_TRIES


def test_an_engine_that_cannot_be_started_is_named(
    api: Api, tenant: Tenant, handler: EvaluationHandler
) -> None:
    job_id = a_job(api, tenant, validation_file=tenant.upload(rows("Two?")))
    empty = "acme/nothing"
    with api.database.transaction() as session:
        session.add(Model(id=empty, config={}, bytes=0))
        values = {"fine_tuned_model_id": empty}
        session.execute(update(Job).where(Job.id == job_id).values(**values))
    evaluation_id = ask(tenant, job_id)
    handler.poll()
    assert read(tenant, job_id, evaluation_id)["error"]["code"] == "engine_not_available"
    with api.database.read() as session:
        engine = session.get_one(Engine, (empty, 0))
        assert engine.error_message == read(tenant, job_id, evaluation_id)["error"]["message"]


def falqon(tenant: Tenant, *arguments: str) -> Result:
    service = ("--base-url", tenant.api.url, "--api-key", tenant.key)
    return CliRunner().invoke(app, ["evaluate", *arguments, *service])


def test_from_the_command_line(
    api: Api,
    tenant: Tenant,
    handler: EvaluationHandler,
    shutting_down: threading.Event,
    tmp_path: Path,
) -> None:
    job_id = a_job(api, tenant, validation_file=tenant.upload(rows(*QUESTIONS)))
    graders = tmp_path / "graders.json"
    graders.write_text(json.dumps([NOT]))
    poller = Poller(handler.poll, 0.2, shutting_down)
    poller.start()
    options = ("--grader", "same", "--grader", str(graders), "--rows", "3", "--max-tokens", "2")
    done = falqon(tenant, job_id, *options)
    assert done.exit_code == 0
    summary, head, first, *_, note = done.stdout.splitlines()
    assert (
        summary
        == "No clear difference from the base: 1.00 against 1.00 by not (3 rows, p = 1.000)."
    )
    assert head.split() == ["model", "grader", "mean", "above", "base", "p"]
    assert first.split() == [BASE, "(base)", "same", "0.000", "±", "0.000"]
    assert "no clear difference" in done.stdout
    assert note == "3 rows; ± is the standard error."

    shown = falqon(tenant, job_id, *options, "--answers").stdout
    assert "Best answers, 1: line 1, same 0.00, not 1.00" in shown
    assert "Worst answers" not in shown, "three rows have three best ones"
    assert "expected  four" in shown

    later = json.loads(falqon(tenant, job_id, "--no-wait", "--json").stdout)
    assert [grader["name"] for grader in later["graders"]] == ["same", "fuzzy_match"]
    failed = falqon(tenant, job_id, "--file", tenant.upload(b'{"text": "Once"}\n' * 2))
    assert (failed.exit_code, "have no questions" in failed.stderr) == (1, True)
    misused = falqon(tenant, job_id, "--grader", "telepathy")
    assert (misused.exit_code, "'telepathy' is none of same" in misused.stderr) == (2, True)
    shutting_down.set()
    poller.join()
