"""What a worker reports is bounded at the door: by the types of its figures, by the steps of its
job, and by the clock and the prices of the service.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from decimal import Decimal
from hashlib import sha256
from typing import Any, NamedTuple

import httpx
import pytest

from app.attempts.model_files import MAX_TEXT_BYTES
from app.auth import worker_tokens
from app.base.storage import keys
from app.base.storage.storage import PART_BYTES
from app.jobs import claims
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.models import Attempt, JobStatus
from app.models.base import JsonObject
from tests.contract.test_joined_workers import OFFER, claim_of, job_of, token_for
from tests.contract.worker_requests import COLUMNS
from tests.support.api import TINY_CONFIG, Tenant
from tests.support.waiting import wait_for
from worker.joined.gateway import JoinedGateway

MAX_STEPS = 9  # three epochs of twelve records, four a step
CENTURIES = 4e9  # seconds
DOLLARS = "900000000000000"
COST = {
    **{"currency": "usd", "usd_per_device_hour": "0.01", "price_source": "mine"},
    **{"accrued": DOLLARS, "projected": DOLLARS, "projected_low": None, "projected_high": None},
}
MEASURED = {"tokens": 1000, "train_seconds": CENTURIES, "overhead_seconds": CENTURIES}


class Liar(NamedTuple):
    gateway: JoinedGateway
    claim: Claim

    def post(self, call: str, body: JsonObject) -> Any:
        path = f"/jobs/{self.claim.job_id}/attempts/{self.claim.attempt}/{call}"
        content = json.dumps(body).replace("Infinity", "1e999")
        headers = {"content-type": "application/json"}
        return self.gateway.http.post(path, content=content, headers=headers)

    def put(self, key: str, content: bytes) -> None:
        path = f"/jobs/{self.claim.job_id}/attempts/{self.claim.attempt}/objects/{key}"
        assert self.gateway.http.put(path, content=content).status_code == 200


@pytest.fixture
def liar(tenant: Tenant) -> Iterator[Liar]:
    tenant.job(hyperparameters={"n_epochs": 3, "batch_size": 4})
    with closing(JoinedGateway(tenant.api.url, token_for(tenant)[1], "liar")) as gateway:
        yield Liar(gateway, claim_of(gateway, gateway.claim(OFFER)))


def batch(*events: JsonObject, **values: Any) -> JsonObject:
    metrics = [["m", "info", "metrics", event] for event in events]
    return {"before": 0, "events": metrics, "columns": COLUMNS, "measured": {}} | values


def columns(**progress: Any) -> JsonObject:
    return COLUMNS | {"progress": progress}


def result_of(contents: Mapping[str, bytes], **values: Any) -> JsonObject:
    files = [
        [name, [len(content), digest := sha256(content).hexdigest(), [digest]]]
        for name, content in contents.items()
    ]
    body = {"files": files, "config": {}, "trained_tokens": 1, "columns": COLUMNS}
    return body | {"measured": {}, "actual": None} | values


TWICE = result_of({"a": b""})
TWICE["files"] *= 2
REFUSED: list[tuple[str, str, JsonObject]] = [
    ("batches", "measured.tokens", batch(measured={"tokens": 2**62})),
    ("batches", "measured.train_seconds", batch(measured={"train_seconds": 1e308})),
    ("batches", "measured.start_step", batch(measured={"start_step": MAX_STEPS + 1})),
    ("batches", "columns.device_seconds", batch(columns=COLUMNS | {"device_seconds": 1e300})),
    ("batches", "columns.progress.step", batch(columns=columns(step=MAX_STEPS + 1))),
    ("batches", "columns.progress.step", batch(columns=columns(step="x"))),
    ("batches", "columns.progress.percent", batch(columns=columns(percent=1e9))),
    ("batches", "columns.progress.train_loss", batch(columns=columns(train_loss="text"))),
    (
        "batches",
        "columns.progress.cost.accrued",
        batch(columns=columns(cost=COST | {"accrued": "1E+999999"})),
    ),
    (
        "batches",
        "columns.progress.cost.accrued",
        batch(columns=columns(cost=COST | {"accrued": "NaN"})),
    ),
    ("batches", "0.data.step", batch({"step": "x"})),
    ("batches", "0.data.step", batch({"train_loss": 1.0})),
    ("batches", "events.0.data.step", batch({"step": MAX_STEPS + 1})),
    ("batches", "train_loss", batch({"step": 1, "train_loss": "text"})),
    ("batches", "cost_accrued", batch({"step": 1, "cost_accrued": "1E+999999"})),
    ("events", "samples", {"events": [["m", "info", "message", {"step": 1, "samples": "x"}]]}),
    ("events", "worker", {"events": [["m", "info", "message", {"worker": "another"}]]}),
    ("events", "too large", {"events": [["m", "info", "message", {"n": 10**30}]]}),
    ("result", "files", result_of({"../../x": b""})),
    ("result", "files", TWICE),
    ("result", "SHA-256", result_of({}) | {"files": [["a", [2, "x", ["x"]]]]}),
    ("result", "trained_tokens", result_of({"a": b""}, trained_tokens=2**62)),
    (
        "ending",
        "cap",
        {
            **{"verdict": "stopped", "failure": None, "cap": " ", "desired": "run"},
            **{"has_trained": False, "trainer_log": "", "columns": COLUMNS},
        },
    ),
]


@pytest.mark.parametrize(("call", "name", "body"), REFUSED)
def test_what_no_training_can_report_is_refused_by_name(
    tenant: Tenant, liar: Liar, call: str, name: str, body: JsonObject
) -> None:
    before = job_of(tenant.api, liar.claim.job_id)
    answer = liar.post(call, body)
    assert answer.status_code == 400, answer.text
    assert name in answer.json()["error"]["message"]
    after = job_of(tenant.api, liar.claim.job_id)
    assert (after.last_event_seq, after.progress) == (before.last_event_seq, before.progress)


def chats(*numbers_of_turns: int) -> bytes:
    """Return a chat for each number of learned turns."""
    turn = [{"role": "user", "content": "two and two?"}, {"role": "assistant", "content": "four"}]
    lines = [json.dumps({"messages": turn * number}) for number in numbers_of_turns]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("numbers_of_turns", "most_sequences"),
    [([1] * 12, 1), ([1, 5] * 6, 25), ([300] + [1] * 11, 256)],
)
def test_a_chat_counts_as_many_sequences_as_it_has_turns_that_a_template_may_rewrite(
    tenant: Tenant, numbers_of_turns: list[int], most_sequences: int
) -> None:
    hyperparameters = {"n_epochs": 3, "batch_size": 4}
    falqon = {"max_seq_length": 100, "validation_fraction": 0}
    tenant.job(
        training_file=tenant.upload(chats(*numbers_of_turns)),
        hyperparameters=hyperparameters,
        extra_body={"falqon": falqon},
    )
    with closing(JoinedGateway(tenant.api.url, token_for(tenant)[1], "honest")) as gateway:
        worker = Liar(gateway, claim_of(gateway, gateway.claim(OFFER)))
        most = MAX_STEPS * 4 * 100 * most_sequences
        answers = [
            worker.post("batches", batch(columns=columns(trained_tokens=tokens)))
            for tokens in (most, most + 1)
        ]
    assert [answer.status_code for answer in answers] == [200, 400]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_is_refused(liar: Liar, value: float) -> None:
    for body in (batch({"step": 1, "train_loss": value}), batch(columns=columns(epoch=value))):
        answer = liar.post("batches", body)
        assert answer.status_code == 400, answer.text


@pytest.mark.both_databases
def test_time_and_money_are_no_more_than_the_service_counts_itself(
    tenant: Tenant, stranger: Tenant, liar: Liar
) -> None:
    lies = {"device_seconds": CENTURIES, "execution_seconds": CENTURIES}
    progress = {"step": 3, "eta_seconds": 3600.0, "elapsed_seconds": CENTURIES, "cost": COST}
    body = batch(columns=lies | {"progress": progress}, measured=MEASURED)
    for _ in range(2):
        assert liar.post("batches", body).status_code == 200
    job = job_of(tenant.api, liar.claim.job_id)
    with tenant.api.database.read() as session:
        attempt = session.get_one(Attempt, (job.id, 1))
    for seconds in (
        job.device_seconds / 2,
        job.execution_seconds,
        attempt.train_seconds,
        attempt.overhead_seconds,
    ):
        assert seconds is not None
        assert seconds < 90, "the age of the attempt, and a minute"
    assert job.progress is not None
    cost = job.progress.cost
    assert cost is not None
    assert (cost.usd_per_device_hour, cost.price_source[:10]) == (Decimal("0.045"), "cloud vCPU")
    assert cost.accrued < Decimal("0.01")
    assert cost.projected == pytest.approx(cost.accrued + Decimal("0.09"), abs=Decimal("0.001"))
    usage = tenant.http.get("/v1/usage?start_time=1790000000&limit=180")
    assert usage.status_code == 200
    assert Decimal(usage.json()["data"][-1]["results"][0]["amount"]["value"]) == cost.accrued
    # An earlier figure stays, where a later one is less.
    assert liar.post("batches", batch()).status_code == 200
    later = job_of(tenant.api, liar.claim.job_id)
    assert later.device_seconds >= job.device_seconds
    assert later.progress is not None
    assert later.progress.cost is not None
    assert later.progress.cost.accrued >= cost.accrued


def lie_of_rates(tenant: Tenant, model: str, count: int, **columns: Any) -> None:
    """Store what workers of one project measured, as an earlier version took it."""
    for _ in range(count):
        job = tenant.job(model=model)
        claim = tenant.claim(job.id)
        with tenant.api.database.transaction() as session:
            claims.update_attempt(session, claim, **columns)
            assert claims.finish(session, claim, JobStatus.SUCCEEDED, NewEvent("done"))


def test_what_one_project_measures_moves_no_estimate_of_another(
    tenant: Tenant, stranger: Tenant
) -> None:
    model = tenant.base_model
    file_id = tenant.upload()

    def estimate() -> dict[str, Any]:
        body = {"model": model, "training_file": file_id}
        answer = tenant.http.post("/v1/fine_tuning/estimates", json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    guessed = estimate()
    absurd = {"tokens": 2**62, "train_seconds": 1e308, "overhead_seconds": 1e300}
    lie_of_rates(stranger, model, 2, **absurd)
    lie_of_rates(stranger, model, 2, tokens=2**62, train_seconds=1e-9, overhead_seconds=1.0)
    assert estimate()["seconds"] == guessed["seconds"], "neither is believed"
    body = {"model": model, "training_file": file_id}
    assert tenant.http.post("/v1/fine_tuning/jobs", json=body).status_code == 200

    honest = {"tokens": 1000, "train_seconds": 10.0, "overhead_seconds": 4.0}
    slow = {"tokens": 1, "train_seconds": 50.0, "overhead_seconds": 50.0}
    lie_of_rates(tenant, model, 1, **honest)
    lie_of_rates(stranger, model, 4, **slow)
    assert estimate()["n"] == 2, "the other project counts once"
    lie_of_rates(tenant, model, 2, **honest)
    measured = estimate()
    assert (measured["n"], measured["tokens_per_second"], measured["overhead_seconds"]) == (
        *(3, 100.0),
        4.0,
    )


class Slow:
    """An upload that goes on until it is let end."""

    def __init__(self, liar: Liar, key: str, content: bytes) -> None:
        self._may_end = threading.Event()
        self.began = threading.Event()
        self.status = 0
        path = f"/jobs/{liar.claim.job_id}/attempts/{liar.claim.attempt}/objects/{key}"
        address = f"{str(liar.gateway.http.base_url).rstrip('/')}{path}"
        headers = dict(liar.gateway.http.headers) | {"content-length": str(len(content))}

        def chunks() -> Iterator[bytes]:
            yield content[:-1]
            self.began.set()
            assert self._may_end.wait(60)
            yield content[-1:]

        def put() -> None:
            with httpx.Client(verify=False, timeout=60) as http:
                self.status = http.put(address, content=chunks(), headers=headers).status_code

        self._thread = threading.Thread(target=put)
        self._thread.start()

    def end(self) -> int:
        self._may_end.set()
        self._thread.join()
        return self.status


def test_what_was_certified_is_not_replaced_by_an_upload_that_ends_later(tenant: Tenant) -> None:
    job_id = tenant.job().id
    token_id, secret = token_for(tenant)
    with closing(JoinedGateway(tenant.api.url, secret, "liar")) as gateway:
        liar = Liar(gateway, claim_of(gateway, gateway.claim(OFFER)))
        prefix = keys.result_prefix(tenant.project_id, job_id, liar.claim.attempt)
        key = f"{prefix}/model.safetensors"
        certified = os.urandom(PART_BYTES + 2**20)
        late = [Slow(liar, key, certified[::-1]), Slow(liar, f"{prefix}/x", b"small")]
        assert all(upload.began.wait(60) for upload in late)
        wait_for(
            lambda: any("/model/" in name for name in tenant.stored()), what="unfinished bytes"
        )
        liar.put(key, certified)
        liar.put(key, certified)  # the answer to the first one was lost
        config = json.dumps({"model_type": "llama"} | TINY_CONFIG).encode()
        liar.put(f"{prefix}/config.json", config)
        contents = {"config.json": config, "model.safetensors": certified}
        assert liar.post("result", result_of(contents)).json() == {"yes": True}
        with tenant.api.database.transaction() as session:
            worker_tokens.revoke(session, token_id)
        assert [upload.end() for upload in late] == [401, 401]
    assert tenant.api.storage.read(key) == certified
    assert len(tenant.api.storage.keys(prefix)) == 2
    model = job_of(tenant.api, job_id).fine_tuned_model_id
    address = f"/v1/models/{model}/artifacts/model.safetensors"
    assert tenant.http.get(address).content == certified


def test_an_upload_ends_with_the_lease(tenant: Tenant, liar: Liar) -> None:
    prefix = keys.result_prefix(tenant.project_id, liar.claim.job_id, liar.claim.attempt)
    upload = Slow(liar, f"{prefix}/README.md", b"late")
    assert upload.began.wait(60)
    with tenant.api.database.transaction() as session:
        assert claims.take_back(session, liar.claim.job_id, max_infra_failures=3)
    assert upload.end() == 409
    assert tenant.api.storage.keys(prefix) == []


HOSTILE_FILES: list[tuple[str, bytes, str]] = [
    ("tokenizer_config.json", b'{"auto_map": {"AutoTokenizer": "x.Y"}}', "auto_map"),
    ("tokenizer_config.json", b'{"chat_template": "%s"}' % (b"x" * 2**17), "chat template"),
    ("chat_template.jinja", b"{{ x }}" * 2**14, "chat template"),
    ("generation_config.json", b"[" * 500 + b"]" * 500, "nested deeper"),
    ("generation_config.json", b"[" * 10**5, "cannot be read"),
    ("special_tokens_map.json", b" " * (MAX_TEXT_BYTES + 1), "larger than"),
    ("modeling.py", b"import os", "program code"),
    ("weights.bin", b"\x80\x04", "pickle"),
    ("extra/notes.txt", b"PK\x03\x04", "pickle"),
    ("config.json", b'{"model_type": "llama", "num_experts": 8}', "mixture of experts"),
    ("config.json", b'{"model_type": "llama", "hidden_size": 1e300}', "hidden_size"),
    ("config.json", b"[]", "not a JSON object"),
]


@pytest.mark.parametrize(("name", "content", "reason"), HOSTILE_FILES)
def test_the_files_of_a_model_are_checked_as_those_of_an_import(
    tenant: Tenant, liar: Liar, name: str, content: bytes, reason: str
) -> None:
    prefix = keys.result_prefix(tenant.project_id, liar.claim.job_id, liar.claim.attempt)
    config = json.dumps({"model_type": "llama"} | TINY_CONFIG).encode()
    contents = {"config.json": config, "model.safetensors": b"weights"} | {name: content}
    for file, stored in contents.items():
        liar.put(f"{prefix}/{file}", stored)
    answer = liar.post("result", result_of(contents))
    assert answer.status_code == 400, answer.text
    assert reason in answer.json()["error"]["message"]
    assert job_of(tenant.api, liar.claim.job_id).status == JobStatus.RUNNING
