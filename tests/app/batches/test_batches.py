"""Batches of the official client, from the file of requests to the files of answers."""

import base64
import json
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch as ClientBatch
from sqlalchemy import func, select, update
from typer.testing import CliRunner, Result

from app.base.database import now_plus
from app.cli import app
from app.models import Batch, BatchAnswer, Model
from app.notifier.queues import CPU_QUEUE
from app.operations import claims
from tests.support import scripted_engine
from tests.support.api import Api, Tenant
from tests.support.forks import Fork
from tests.support.local_server import serving_by
from tests.support.postgres import PostgresServer
from tests.support.valkey import Valkey, listening
from tests.support.waiting import wait_for
from worker.batches import asking
from worker.context import WorkerContext
from worker.entry import process
from worker.entry.workers import Poller
from worker.machine import busy_engine
from worker.operations.batch import BatchHandler

CHAT = "/v1/chat/completions"
WINDOW: Any = "24h"


class Engine(scripted_engine.Handler):
    """Counts what it was asked, and answers "hold" once it may go on."""

    asked: Counter[str] = Counter()
    may_go_on = threading.Event()

    def send(self, status: int, content: bytes = b"", **headers: str) -> None:
        if b'"content": "hold' in content:
            self.may_go_on.wait(60)
        if content:
            text = json.loads(content)["choices"][0]["message"]["content"]
            self.asked[text] += 1
        with suppress(ConnectionError):
            super().send(status, content, **headers)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Iterator[Api]:
    """On Postgres; tests/app/inference has batches on SQLite."""
    folder = tmp_path_factory.mktemp("batches")
    with serving_by(Engine) as url:
        api = Api(postgres.create_database("batches"), folder, engine_url=url)
        yield api
        Engine.may_go_on.set()
        api.stop()


@pytest.fixture
def tenant(api: Api) -> Iterator[Tenant]:
    Engine.asked.clear()
    Engine.may_go_on.set()
    tenant = Tenant(api)
    yield tenant
    Engine.may_go_on.set()
    tenant.http.close()


@pytest.fixture
def handler(api: Api) -> Iterator[BatchHandler]:
    shutting_down = threading.Event()
    yield BatchHandler(
        WorkerContext(api.settings, api.database, api.storage, "answers", shutting_down)
    )
    shutting_down.set()


def line(tenant: Tenant, custom_id: str, text: str, **body: Any) -> dict[str, Any]:
    question = {"model": tenant.base_model, "messages": [{"role": "user", "content": text}]}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": question | body}


def lines(tenant: Tenant, *texts: str) -> list[dict[str, Any]]:
    return [line(tenant, f"r{i}", text) for i, text in enumerate(texts)]


def upload(tenant: Tenant, requests: list[dict[str, Any]]) -> str:
    content = b"".join(json.dumps(request).encode() + b"\n" for request in requests)
    return tenant.client.files.create(file=("requests.jsonl", content), purpose="batch").id


def create(tenant: Tenant, requests: list[dict[str, Any]], **fields: Any) -> ClientBatch:
    file_id = upload(tenant, requests)
    fields = {"endpoint": CHAT} | fields
    return tenant.client.batches.create(input_file_id=file_id, completion_window=WINDOW, **fields)


def read(tenant: Tenant, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    content = tenant.client.files.content(file_id).read()
    return [json.loads(each) for each in content.splitlines()]


def texts_of(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {
        row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"]
        for row in rows
    }


def codes_of(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {
        row["custom_id"]: (row["error"] or row["response"]["body"]["error"])["code"] for row in rows
    }


def expire_leases(api: Api) -> None:
    with api.database.transaction() as session:
        session.execute(update(Batch).values(lease_expires_at=now_plus(-1)))


def test_workers_are_notified_of_a_new_batch(valkey: Valkey, tmp_path: Path) -> None:
    redis_url = valkey.settings.resolved_redis_url
    api = Api(f"sqlite:///{tmp_path}/falqon.db", tmp_path, redis_url=redis_url)
    tenant = Tenant(api)
    try:
        file_id = upload(tenant, lines(tenant, "One"))
        with listening(valkey) as heard:
            fields: Any = {"endpoint": CHAT, "completion_window": WINDOW}
            batch = tenant.client.batches.create(input_file_id=file_id, **fields)
            message = wait_for(lambda: heard.get_message(timeout=1))
    finally:
        tenant.http.close()
        api.stop()
    assert message["channel"].decode().endswith(CPU_QUEUE)
    arguments, *_ = json.loads(base64.b64decode(json.loads(message["data"])["body"]))
    assert arguments == [Batch.__tablename__, batch.id]


def test_requests_are_answered_and_bad_ones_do_not_stop_the_others(
    tenant: Tenant, handler: BatchHandler
) -> None:
    requests = lines(tenant, "One", "Two", "Three", "Four", "Five")
    requests[1]["body"]["temperature"] = 9
    requests[3]["body"]["stream"] = True
    hook = {"url": "https://hooks.example.com", "event_types": ["batch.completed"]}
    hook_id = tenant.http.post("/v1/webhook_endpoints", json=hook).raise_for_status().json()["id"]
    batch = create(tenant, requests, metadata={"team": "red"})
    assert (batch.status, batch.endpoint, batch.metadata) == ("validating", CHAT, {"team": "red"})
    assert batch.expires_at == batch.created_at + 24 * 3600
    handler.poll()

    done = tenant.client.batches.retrieve(batch.id)
    assert (done.status, done.errors, done.model) == ("completed", None, tenant.base_model)
    counts = done.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (5, 3, 2)
    assert done.usage is not None
    assert (done.usage.input_tokens, done.usage.output_tokens) == (15, 6)
    assert done.in_progress_at
    assert done.finalizing_at
    assert done.completed_at
    deliveries = tenant.http.get(f"/v1/webhook_endpoints/{hook_id}/deliveries").json()["data"]
    told = [(each["event_type"], each["fine_tuning_job_id"]) for each in deliveries]
    assert told == [("batch.completed", None)]
    answers = read(tenant, done.output_file_id)
    assert list(texts_of(answers).items()) == [("r0", "One 1"), ("r2", "Three 1"), ("r4", "Five 1")]
    assert {answer["response"]["status_code"] for answer in answers} == {200}
    errors = read(tenant, done.error_file_id)
    assert [error["response"]["status_code"] for error in errors] == [400, 400]
    assert codes_of(errors) == {"r1": "invalid_value", "r3": "unsupported_parameter"}
    assert done.output_file_id
    file = tenant.client.files.retrieve(done.output_file_id)
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert [each.id for each in tenant.client.batches.list(limit=1)] == [batch.id]
    with tenant.api.database.read() as session:
        kept = select(func.count()).select_from(BatchAnswer).where(BatchAnswer.batch_id == batch.id)
        assert session.scalar(kept) == 0


def test_a_batch_on_an_engine_of_the_operators_is_not_charged(
    api: Api, tenant: Tenant, handler: BatchHandler
) -> None:
    batch = create(tenant, lines(tenant, "One", "Two"))
    handler.poll()
    with api.database.read() as session:
        done = session.get_one(Batch, batch.id)
    assert (done.num_completed, done.seconds, done.cost) == (2, 0, 0)


def test_responses_are_answered_in_their_form(tenant: Tenant, handler: BatchHandler) -> None:
    body = {"model": tenant.base_model, "input": "Hi"}
    others = [{}, {"max_output_tokens": 0}, {"previous_response_id": "resp_1"}]
    requests = [
        {"custom_id": str(i), "method": "POST", "url": "/v1/responses", "body": body | other}
        for i, other in enumerate(others)
    ]
    batch = create(tenant, requests, endpoint="/v1/responses")
    handler.poll()
    done = tenant.client.batches.retrieve(batch.id)
    (answer,) = read(tenant, done.output_file_id)
    response = answer["response"]["body"]
    assert (response["object"], response["status"]) == ("response", "completed")
    assert response["output"][0]["content"][0]["text"] == "Hi 1"
    errors = read(tenant, done.error_file_id)
    params = [error["response"]["body"]["error"]["param"] for error in errors]
    assert params == ["max_output_tokens", "previous_response_id"]


FAULTS: dict[str, tuple[dict[str, Any] | None, str]] = {
    "no JSON": (None, "invalid_json_line"),
    "blank": ({}, "invalid_json_line"),
    "no id": ({"custom_id": None}, "invalid_value"),
    "the same id": ({"custom_id": "r0"}, "duplicate_custom_id"),
    "GET": ({"method": "GET"}, "invalid_method"),
    "another url": ({"url": "/v1/embeddings"}, "invalid_url"),
    "no body": ({"body": "Hi"}, "invalid_value"),
    "no model": ({"body": {}}, "missing_required_parameter"),
    "another model": ({"body": {"model": "gpt-4"}}, "mismatched_model"),
    "too large": ({"body": {"model": "m", "x": "y" * 2**20}}, "request_too_large"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_not_of_requests_fails_before_the_first_is_sent(
    tenant: Tenant, handler: BatchHandler, fault: str
) -> None:
    change, code = FAULTS[fault]
    first, second = lines(tenant, "One", "Two")
    raw = json.dumps(second | (change or {})).encode()
    if not change:
        raw = b"{" if change is None else b"  \n"
    content = json.dumps(first).encode() + b"\n" + raw
    file = tenant.client.files.create(file=("a.jsonl", content), purpose="batch")
    batch = tenant.client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window=WINDOW
    )
    handler.poll()
    failed = tenant.client.batches.retrieve(batch.id)
    assert failed.status == "failed"
    assert failed.failed_at
    assert failed.errors is not None
    assert failed.errors.data is not None
    assert [(each.code, each.line) for each in failed.errors.data] == [(code, 2)]
    assert not Engine.asked


def test_a_file_without_requests_and_one_with_too_many_fail(
    tenant: Tenant, handler: BatchHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.batches.lines.MAX_BATCH_LINES", 2)
    batches = [create(tenant, []), create(tenant, lines(tenant, "One", "Two", "Three"))]
    handler.poll()
    for batch, code in zip(batches, ("empty_file", "too_many_requests"), strict=True):
        errors = tenant.client.batches.retrieve(batch.id).errors
        assert errors is not None
        assert errors.data is not None
        assert [each.code for each in errors.data] == [code]


def test_a_file_of_requests_has_at_most_200_mib(tenant: Tenant) -> None:
    fields: Any = {"filename": "a", "mime_type": "text/plain"}
    for purpose, num_bytes in (("batch", 200 * 2**20), ("fine-tune", 200 * 2**20 + 1)):
        tenant.client.uploads.create(bytes=num_bytes, purpose=purpose, **fields)
    with pytest.raises(openai.APIStatusError) as caught:
        tenant.client.uploads.create(bytes=200 * 2**20 + 1, purpose="batch", **fields)
    assert (caught.value.status_code, caught.value.param) == (413, "bytes")


def poll_batches() -> None:
    """Be a worker, in a process of its own."""
    process.poll(Batch.__tablename__)


def test_a_killed_worker_loses_and_repeats_nothing(
    api: Api, tenant: Tenant, handler: BatchHandler, tmp_path: Path
) -> None:
    texts = [f"Number {i}" for i in range(30)]
    batch = create(tenant, lines(tenant, *texts[:20], "hold", *texts[20:]))
    Engine.may_go_on.clear()
    settings = {
        "FALQON_DATABASE_URL": api.settings.resolved_database_url,
        "FALQON_DATA_DIR": str(api.settings.data_dir),
        "FALQON_ENGINE_URL": api.settings.engine_url,
        "FALQON_REDIS_URL": str(api.settings.redis_url),
    }
    worker = Fork(poll_batches, environment=os.environ | settings, output=tmp_path / "log")
    try:
        counts = wait_for(lambda: _kept(tenant, batch.id), what="answers are kept")
    finally:
        worker.kill()
        worker.wait()
    Engine.may_go_on.set()
    asked_before = Engine.asked.copy()
    expire_leases(api)
    handler.poll()

    done = tenant.client.batches.retrieve(batch.id)
    assert done.status == "completed"
    answers = read(tenant, done.output_file_id)
    assert [answer["custom_id"] for answer in answers] == [f"r{i}" for i in range(31)]
    again = [text for text in asked_before if Engine.asked[text] > asked_before[text]]
    assert len(again) <= len(asked_before) - counts, "kept answers are not asked for again"


def _kept(tenant: Tenant, batch_id: str) -> int:
    counts = tenant.client.batches.retrieve(batch_id).request_counts
    return counts.completed if counts else 0


def test_a_fenced_out_worker_adds_no_answer(
    api: Api, tenant: Tenant, handler: BatchHandler
) -> None:
    batch = create(tenant, lines(tenant, "One", "hold a", "hold b"))
    Engine.may_go_on.clear()
    thread = threading.Thread(target=handler.poll)
    thread.start()
    wait_for(lambda: _kept(tenant, batch.id), what="an answer is kept")
    with api.database.transaction() as session:
        session.execute(update(Batch).values(lease_expires_at=now_plus(-1)))
        other = claims.claim(session, Batch, 60)
    assert other is not None
    Engine.may_go_on.set()
    thread.join(60)
    with api.database.transaction() as session:
        kept = select(BatchAnswer.line).where(BatchAnswer.batch_id == batch.id)
        assert session.scalars(kept).all() == [1]
        claims.release(session, other)
    handler.poll()
    assert tenant.client.batches.retrieve(batch.id).status == "completed"


def test_a_cancelled_batch_keeps_its_answers(tenant: Tenant, handler: BatchHandler) -> None:
    batch = create(tenant, lines(tenant, "One", "hold a", "hold b"))
    Engine.may_go_on.clear()
    thread = threading.Thread(target=handler.poll)
    thread.start()
    wait_for(lambda: _kept(tenant, batch.id), what="an answer is kept")
    cancelling = tenant.client.batches.cancel(batch.id)
    assert cancelling.status == "cancelling"
    assert tenant.client.batches.cancel(batch.id).cancelling_at == cancelling.cancelling_at
    thread.join(60)
    done = tenant.client.batches.retrieve(batch.id)
    assert done.status == "cancelled"
    assert done.cancelled_at
    assert texts_of(read(tenant, done.output_file_id)) == {"r0": "One 1"}
    unasked = {"r1": "batch_cancelled", "r2": "batch_cancelled"}
    assert codes_of(read(tenant, done.error_file_id)) == unasked
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.client.batches.cancel(batch.id)
    assert caught.value.code == "batch_ended"


def test_after_24_hours_the_rest_has_expired(
    api: Api, tenant: Tenant, handler: BatchHandler
) -> None:
    batch = create(tenant, lines(tenant, "One", "Two"))
    with api.database.transaction() as session:
        session.execute(update(Batch).values(expires_at=now_plus(-1)))
    handler.poll()
    done = tenant.client.batches.retrieve(batch.id)
    assert (done.status, done.output_file_id) == ("expired", None)
    assert done.expired_at
    expired = {"r0": "batch_expired", "r1": "batch_expired"}
    assert codes_of(read(tenant, done.error_file_id)) == expired
    assert "One 1" not in Engine.asked


def test_a_file_in_use_stays_and_a_deleted_model_is_the_error_of_its_lines(
    api: Api, tenant: Tenant, handler: BatchHandler
) -> None:
    batch = create(tenant, lines(tenant, "One"))
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.client.files.delete(batch.input_file_id)
    assert caught.value.code == "file_in_use"
    with api.database.transaction() as session:
        gone = update(Model).where(Model.id == tenant.base_model)
        session.execute(gone.values(deleted_at=now_plus()))
    handler.poll()
    done = tenant.client.batches.retrieve(batch.id)
    assert done.status == "completed"
    (error,) = read(tenant, done.error_file_id)
    assert error["response"]["status_code"] == 404
    assert error["response"]["body"]["error"]["code"] == "model_not_found"
    assert tenant.client.files.delete(batch.input_file_id).deleted


def test_a_failing_engine_is_tried_again_and_is_the_error_of_its_line(
    tenant: Tenant, handler: BatchHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "RETRY_SECONDS", 0.0)
    tries: Counter[str] = Counter()
    send = Engine.send

    def failing(self: Engine, status: int, content: bytes = b"", **headers: str) -> None:
        if content and json.loads(content)["choices"][0]["message"]["content"] == "fail 1":
            tries["fail"] += 1
            return send(self, 500)
        return send(self, status, content, **headers)

    monkeypatch.setattr(Engine, "send", failing)
    batch = create(tenant, lines(tenant, "fail", "Two"))
    handler.poll()
    done = tenant.client.batches.retrieve(batch.id)
    assert texts_of(read(tenant, done.output_file_id)) == {"r1": "Two 1"}
    assert codes_of(read(tenant, done.error_file_id)) == {"r0": "engine_failed"}
    assert tries["fail"] == 3


def refuse_first(monkeypatch: pytest.MonkeyPatch, num_refusals: float, **headers: str) -> list[int]:
    """Have the engine be busy so many times; return the list that its refusals are added to."""
    refusals: list[int] = []
    send = Engine.send

    def send_if_free(self: Engine, status: int, content: bytes = b"", **others: str) -> None:
        if not content or len(refusals) >= num_refusals:
            return send(self, status, content, **others)
        refusals.append(503 if len(refusals) % 2 else 429)
        return send(self, refusals[-1], **headers)

    monkeypatch.setattr(Engine, "send", send_if_free)
    return refusals


def test_a_busy_engine_is_asked_again_until_it_answers(
    tenant: Tenant, handler: BatchHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(busy_engine, "USUAL_SECONDS", 0.0)
    refusals = refuse_first(monkeypatch, 2 * asking.MAX_TRIES)
    batch = create(tenant, lines(tenant, "One"))
    handler.poll()
    done = tenant.client.batches.retrieve(batch.id)
    assert (done.status, done.error_file_id) == ("completed", None)
    assert texts_of(read(tenant, done.output_file_id)) == {"r0": "One 1"}
    assert refusals == [429, 503] * asking.MAX_TRIES


@pytest.mark.parametrize(("header", "seconds"), [("2", 2.0), ("0", busy_engine.MIN_SECONDS)])
def test_a_busy_engine_names_the_seconds_until_the_next_request(
    tenant: Tenant,
    handler: BatchHandler,
    monkeypatch: pytest.MonkeyPatch,
    header: str,
    seconds: float,
) -> None:
    refuse_first(monkeypatch, 1, retry_after=header)
    batch = create(tenant, lines(tenant, "One"))
    began_at = time.monotonic()
    handler.poll()
    assert seconds <= time.monotonic() - began_at < busy_engine.USUAL_SECONDS
    assert tenant.client.batches.retrieve(batch.id).output_file_id


def test_a_batch_at_a_busy_engine_is_cancelled_at_once(
    tenant: Tenant, handler: BatchHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = refuse_first(monkeypatch, math.inf, retry_after="9" * 5000)
    batch = create(tenant, lines(tenant, "One"))
    thread = threading.Thread(target=handler.poll)
    thread.start()
    wait_for(lambda: refusals, what="the engine is busy")
    tenant.client.batches.cancel(batch.id)
    thread.join(60)
    done = tenant.client.batches.retrieve(batch.id)
    assert done.status == "cancelled"
    assert codes_of(read(tenant, done.error_file_id)) == {"r0": "batch_cancelled"}
    assert refusals == [429]


def test_a_batch_whose_workers_die_fails_with_the_answers_so_far(
    api: Api, tenant: Tenant, handler: BatchHandler
) -> None:
    batch = create(tenant, lines(tenant, "One", "hold"))
    Engine.may_go_on.clear()
    thread = threading.Thread(target=handler.poll)
    thread.start()
    wait_for(lambda: _kept(tenant, batch.id), what="an answer is kept")
    with api.database.transaction() as session:
        values = {"attempt": Batch.attempt + 3, "lease_expires_at": now_plus(-1)}
        session.execute(update(Batch).where(Batch.id == batch.id).values(values))
    Engine.may_go_on.set()
    thread.join(60)
    handler.poll()
    failed = tenant.client.batches.retrieve(batch.id)
    assert failed.status == "failed"
    assert failed.errors is not None
    assert failed.errors.data is not None
    assert [each.code for each in failed.errors.data] == ["batch_failed"]
    assert texts_of(read(tenant, failed.output_file_id)) == {"r0": "One 1"}
    assert codes_of(read(tenant, failed.error_file_id)) == {"r1": "batch_failed"}


def test_a_repeated_request_makes_one_batch(tenant: Tenant) -> None:
    file_id = upload(tenant, lines(tenant, "One"))
    body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}

    def post(**headers: str) -> Any:
        return tenant.http.post("/v1/batches", json=body, headers=headers).json()

    first = post(**{"idempotency-key": "k"})["id"]
    assert post(**{"idempotency-key": "k"})["id"] == first
    body["metadata"] = {"a": "b"}  # type: ignore[assignment]
    assert post(**{"idempotency-key": "k"})["error"]["code"] == "idempotency_mismatch"
    second = post()["id"]
    assert post(**{"x-stainless-retry-count": "1"})["id"] == second
    assert post()["id"] != second


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another window": ({"completion_window": "1h"}, "completion_window"),
    "another endpoint": ({"endpoint": "/v1/embeddings"}, "endpoint"),
    "an unknown file": ({"input_file_id": "file-x"}, "input_file_id"),
    "too much metadata": ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
    "a short lifetime": (
        {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
        "output_expires_after.seconds",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_that_cannot_be_run_is_refused_with_its_field(tenant: Tenant, case: str) -> None:
    change, param = REFUSED[case]
    body = {"input_file_id": upload(tenant, []), "endpoint": CHAT, "completion_window": "24h"}
    answer = tenant.http.post("/v1/batches", json=body | change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_file_of_another_project_or_purpose_is_none(api: Api, tenant: Tenant) -> None:
    other = Tenant(api)
    for file_id in (upload(other, []), tenant.upload()):
        with pytest.raises(openai.BadRequestError) as caught:
            tenant.client.batches.create(
                input_file_id=file_id, endpoint=CHAT, completion_window=WINDOW
            )
        assert caught.value.code == "invalid_input_file_id"
    other.http.close()


def falqon(tenant: Tenant, *arguments: str) -> Result:
    service = ("--base-url", tenant.api.url, "--api-key", tenant.key)
    return CliRunner().invoke(app, ["batches", *arguments, *service])


def test_from_the_command_line(tenant: Tenant, handler: BatchHandler, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(map(json.dumps, lines(tenant, "One", "Two"))))
    shutting_down = threading.Event()
    poller = Poller(handler.poll, 0.1, shutting_down)
    poller.start()
    done = json.loads(falqon(tenant, "create", str(path), "--wait", "--json").stdout)
    assert (done["status"], done["request_counts"]["completed"]) == ("completed", 2)
    shown = falqon(tenant, "show", "@last").stdout
    assert "2 of 2 answered, 0 failed" in shown
    assert done["output_file_id"] in shown
    listed = falqon(tenant, "list").stdout.splitlines()
    assert listed[1].split("\t")[:5] == [done["id"], "completed", "2", "0", "2"]
    assert "has ended" in falqon(tenant, "cancel", done["id"]).stderr
    path.write_text("{}")
    failed = falqon(tenant, "create", str(path), "--wait")
    assert (failed.exit_code, "line 1: custom_id" in failed.stderr) == (1, True)
    shutting_down.set()
    poller.join()
