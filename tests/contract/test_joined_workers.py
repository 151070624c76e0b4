"""A worker that sees only the API: fenced as the others are, bound to the projects of its token,
and out of work once that is revoked.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.attempts.values import (
    AttemptMeasurements,
    Batch,
    Claimed,
    Columns,
    Ending,
    Verdict,
    WorkerOffer,
)
from app.auth import worker_tokens
from app.base.storage import StorageUnavailable
from app.jobs import claims, repository
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.models import Attempt, Desired, Job, JobStatus
from app.models.job_progress import JobProgress
from app.models.trainer_log import HEAD_BYTES, TrainerLog
from tests.contract.worker_requests import check_nothing_comes
from tests.support.api import Api, Tenant, jsonl
from tests.support.local_server import QuietHandler, serving_by
from worker.attempt.lease import LeaseLost
from worker.gateway import ServiceRefused, ServiceUnavailable
from worker.joined.gateway import JoinedGateway

OFFER = WorkerOffer("cpu", 2, 1)
COLUMNS = Columns(progress=JobProgress(step=3), device_seconds=1.0, execution_seconds=1.0)
LOG = TrainerLog(head="loading\n")
EVENTS = [NewEvent("one"), NewEvent("two", type="metrics", data={"step": 1, "train_loss": 0.5})]


def token_for(tenant: Tenant) -> tuple[str, str]:
    with tenant.api.database.transaction() as session:
        token, secret = worker_tokens.create(session, "cluster", [tenant.project_id])
    return token.id, secret


Join = Callable[[Tenant, str], JoinedGateway]


@pytest.fixture
def join() -> Iterator[Join]:
    with ExitStack() as stack:

        def join_(tenant: Tenant, secret: str) -> JoinedGateway:
            gateway = JoinedGateway(tenant.api.url, secret, "spot_1.example")
            stack.callback(gateway.close)
            return gateway

        yield join_


@pytest.fixture
def gateway(tenant: Tenant, join: Join) -> JoinedGateway:
    return join(tenant, token_for(tenant)[1])


def claim_of(gateway: JoinedGateway, claimed: Claimed | None) -> Claim:
    assert claimed is not None
    return Claim(claimed.job.id, claimed.job.attempt, gateway.owner)


def job_of(api: Api, job_id: str) -> Job:
    with api.database.read() as session:
        return session.get_one(Job, job_id)


def test_a_job_is_claimed_fed_and_given_back(
    tenant: Tenant, gateway: JoinedGateway, tmp_path: Path
) -> None:
    job_id = tenant.job().id
    next_job = gateway.find_next("cpu", 1)
    assert next_job is not None
    assert next_job.id == job_id
    claimed = gateway.claim(OFFER)
    claim = claim_of(gateway, claimed)
    assert claimed is not None
    stored = job_of(tenant.api, job_id)
    assert (claimed.job.recipe, claimed.job.requested) == (stored.recipe, stored.requested)
    assert stored.lease_owner != gateway.owner, "the token's id is a part of it"
    renewal = gateway.renew(claim)
    assert renewal == (Desired.RUN, False)
    inputs = gateway.read_inputs(claim)
    storage = gateway.storage_of(claim)
    got = storage.fetch(inputs.files[0].storage_key, tmp_path / "rows.jsonl")
    assert got.sha256 == inputs.files[0].sha256
    assert (tmp_path / "rows.jsonl").read_bytes() == jsonl()
    batch = Batch(
        before=0, events=EVENTS, columns=COLUMNS, measured=AttemptMeasurements(start_step=0)
    )
    for _ in range(2):  # the answer to the first one was lost
        price = gateway.append_batch(claim, "cpu", batch)
        assert price == claimed.price
    with tenant.api.database.read() as session:
        events = repository.events_after(session, job_id, after=0, limit=100)
        texts = [event.message for event in events]
        attempt = session.get_one(Attempt, (job_id, claim.attempt))
    assert (texts.count("one"), texts.count("two"), attempt.relayed) == (1, 1, 2)
    assert gateway.store_log(claimed.job, claim, LOG)
    log = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}/logs", params={"format": "text"})
    assert log.text == LOG.head
    ending = Ending(
        verdict=Verdict.STOPPED,
        failure=None,
        cap=None,
        desired=Desired.RUN,
        has_trained=True,
        trainer_log="",
        columns=COLUMNS,
    )
    assert gateway.record(claim, ending)
    assert job_of(tenant.api, job_id).status == JobStatus.QUEUED


def test_a_worker_that_lost_its_job_writes_nothing_more(
    tenant: Tenant, gateway: JoinedGateway, join: Join, tmp_path: Path
) -> None:
    job_id = tenant.job().id
    claim = claim_of(gateway, gateway.claim(OFFER))
    with tenant.api.database.transaction() as session:
        assert claims.take_back(session, job_id, max_infra_failures=3)
    another = join(tenant, token_for(tenant)[1])
    assert claim_of(another, another.claim(OFFER)).attempt == 2
    before = job_of(tenant.api, job_id).last_event_seq, tenant.stored()
    (tmp_path / "late").write_bytes(b"late")
    prefix = f"projects/{tenant.project_id}/jobs/{job_id}"
    for zombie in (claim, replace(claim, attempt=2)):
        assert gateway.renew(zombie) is None
        assert gateway.append_events(zombie, EVENTS) is False
        assert gateway.store_log(job_of(tenant.api, job_id), zombie, LOG) is False
        key = f"{prefix}/{zombie.attempt}/model/late"
        with pytest.raises(LeaseLost):
            gateway.storage_of(zombie).put_file(key, tmp_path / "late")
    assert (job_of(tenant.api, job_id).last_event_seq, tenant.stored()) == before


def test_a_token_reaches_nothing_of_other_projects(
    tenant: Tenant, stranger: Tenant, gateway: JoinedGateway, join: Join, tmp_path: Path
) -> None:
    secret = "what only they may read"
    theirs = stranger.job(training_file=stranger.upload(jsonl(answer=secret))).id
    assert (gateway.find_next("cpu", 1), gateway.claim(OFFER)) == (None, None)
    their_gateway = join(stranger, token_for(stranger)[1])
    their_claim = claim_of(their_gateway, their_gateway.claim(OFFER))
    assert their_claim.job_id == theirs
    their_file = their_gateway.read_inputs(their_claim).files[0].storage_key
    before = job_of(tenant.api, theirs).last_event_seq, stranger.stored()
    secrets = (secret, stranger.project_id)
    for attempt in (their_claim.attempt, their_claim.attempt + 1):
        check_nothing_comes(gateway.http, theirs, attempt, [their_file], secrets)
    assert (job_of(tenant.api, theirs).last_event_seq, stranger.stored()) == before
    tenant.job()
    claim = claim_of(gateway, gateway.claim(OFFER))
    storage = gateway.storage_of(claim)
    for key in (their_file, "installation", "probe"):
        with pytest.raises(FileNotFoundError):
            storage.fetch(key, tmp_path / "theirs")
        with pytest.raises(FileNotFoundError):
            storage.put_file(key, tmp_path / "theirs")
    assert (tmp_path / "theirs").read_bytes() == b""
    prefix = f"projects/{tenant.project_id}/jobs/{claim.job_id}/{claim.attempt}/model"
    up = "/".join(["%2e%2e"] * 5)
    around = f"{prefix}/{up}/{their_file.removeprefix('projects/')}"
    objects = f"/jobs/{claim.job_id}/attempts/{claim.attempt}/objects"
    assert gateway.http.get(f"{objects}/{around}").status_code == 404
    their_gateway.storage_of(their_claim).fetch(their_file, tmp_path / "theirs")
    assert secret in (tmp_path / "theirs").read_text(), "its own worker reads it"


def test_a_revoked_token_opens_nothing(tenant: Tenant, join: Join) -> None:
    token_id, secret = token_for(tenant)
    gateway = join(tenant, secret)
    tenant.job()
    claim = claim_of(gateway, gateway.claim(OFFER))
    with tenant.api.database.transaction() as session:
        worker_tokens.revoke(session, token_id)
    assert gateway.renew(claim) is None
    with pytest.raises(ServiceRefused, match="Incorrect worker token"):
        gateway.claim(OFFER)


class _Page(QuietHandler):
    """What stands before the service, while that is started again."""

    def do_POST(self) -> None:
        self.send(404, b"<html>default backend - 404</html>")


def test_an_answer_of_a_proxy_takes_no_job_from_a_worker(
    tenant: Tenant, gateway: JoinedGateway, tmp_path: Path
) -> None:
    tenant.job()
    claim = claim_of(gateway, gateway.claim(OFFER))
    (tmp_path / "file").write_bytes(b"bytes")
    own = gateway.http.base_url
    with serving_by(_Page) as url:
        gateway.http.base_url = f"{url}/v1/worker"
        with pytest.raises(ServiceUnavailable, match="default backend"):
            gateway.renew(claim)
        with pytest.raises(StorageUnavailable):
            gateway.storage_of(claim).put_file("projects/x/y", tmp_path / "file")
    gateway.http.base_url = own
    assert gateway.renew(claim) == (Desired.RUN, False)


def test_tokens_and_keys_open_their_own_doors_only(tenant: Tenant) -> None:
    _, secret = token_for(tenant)
    headers = {"falqon-worker": "a-1", "authorization": f"Bearer {secret}"}
    url = tenant.api.url
    assert httpx.get(f"{url}/v1/worker/terms", headers=headers, verify=False).status_code == 200
    assert tenant.http.get("/v1/worker/terms", headers={"falqon-worker": "a-1"}).status_code == 401
    for path in ("/v1/models", "/v1/files", "/v1/fine_tuning/jobs"):
        assert httpx.get(url + path, headers=headers, verify=False).status_code == 401


HOSTILE: list[tuple[str, str, Any]] = [
    ("POST", "/claims", {"offer": ["no-such-device", 1, 1, []]}),
    ("POST", "/claims", {"offer": ["cpu", 10**30, 1, []]}),
    ("POST", "/claims", {"offer": ["cpu", 1, 1, [10**30]]}),
    ("GET", "/next?max_gpus=99999999999999999999", None),
    ("POST", "{attempt}/batches", {"before": -1, "events": []}),
    ("POST", "{attempt}/events", {"events": [["text", "shouted", "message", None]]}),
    ("POST", "{attempt}/events", {"events": [["\0", "info", "message", None]]}),
    ("POST", "{attempt}/log", {"head": "x" * (HEAD_BYTES + 1)}),
    ("POST", "{attempt}/ending", {"verdict": "failed", "failure": None}),
    (
        "POST",
        "{attempt}/checkpoints",
        {
            "id": "ftckpt_1",
            "keep": 2,
            "saved": {"step": 2, "path": "/", "bytes": 1, "manifest_sha256": "0", "metrics": {}},
        },
    ),
    (
        "POST",
        "{attempt}/result",
        {
            "files": [["../../x", [1, "0", ["0"]]]],
            "config": {},
            "trained_tokens": 1,
            "columns": COLUMNS.model_dump(mode="json", exclude_unset=True),
            "measured": {},
            "actual": None,
        },
    ),
]


@pytest.mark.parametrize(("method", "path", "body"), HOSTILE)
def test_a_malformed_worker_request_is_refused(
    tenant: Tenant, gateway: JoinedGateway, method: str, path: str, body: Any
) -> None:
    tenant.job()
    claim = claim_of(gateway, gateway.claim(OFFER))
    attempt = f"/jobs/{claim.job_id}/attempts/{claim.attempt}"
    answer = gateway.http.request(method, path.format(attempt=attempt), json=body)
    assert answer.status_code == 400, answer.text
    assert job_of(tenant.api, claim.job_id).status == JobStatus.RUNNING
