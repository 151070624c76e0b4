"""One project asks for what is another's, with the token of its own workers."""

import time
from collections.abc import Sequence
from urllib.parse import quote

import httpx

from app.attempts.values import Columns, Ending, Verdict, WorkerOffer
from app.jobs.claims import Claim
from app.models import Artifact, Desired, File
from app.models.job_progress import JobProgress
from tests.contract.worker_requests import check_nothing_comes
from tests.fleet.service import APIS, FleetService, Tenant
from tests.support.waiting import Late
from worker.attempt.lease import Lease
from worker.joined.gateway import JoinedGateway

OFFER = WorkerOffer("cpu", 1, 1)
GIVEN_BACK = Ending(
    verdict=Verdict.STOPPED,
    failure=None,
    cap=None,
    desired=Desired.RUN,
    has_trained=False,
    trainer_log="",
    columns=Columns(progress=JobProgress(), device_seconds=0.0, execution_seconds=0.0),
)


def ask_for_what_is_theirs(
    service: FleetService, ours: Tenant, own_job: str, theirs: Tenant, jobs: Sequence[str]
) -> int:
    """Ask at every route of the workers, and where users ask, for these jobs of theirs, while we
    have a job of our own; return the number of answers.
    """
    url = service.releases[APIS[0]].url
    gateway = JoinedGateway(url, ours.token, "curious")
    terms = gateway.read_terms()
    claimed_at = time.monotonic()
    claimed = gateway.claim(OFFER)
    assert claimed is not None
    claim = Claim(claimed.job.id, claimed.job.attempt, gateway.owner)
    assert claim.job_id == own_job
    answers = 0
    with Lease(
        gateway,
        claim,
        lease_seconds=terms.lease,
        heartbeat_seconds=terms.heartbeat,
        claimed_at=claimed_at,
        on_lost=lambda: None,
    ) as lease:
        for job_id in jobs:
            keys, secrets = _secrets_of(service, theirs, job_id)
            for attempt in range(service.records.job(job_id).attempt + 2):
                answers += check_nothing_comes(gateway.http, job_id, attempt, keys, secrets)
            for address in _addresses(service, url, claim, job_id, keys):
                answer = gateway.http.get(address)
                if lease.lost:
                    raise Late("our own job was not renewed in time")
                text = f"{address}: {answer.status_code} {answer.text}"
                assert answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.NOT_FOUND), text
                assert not any(secret in answer.text for secret in secrets), text
                answers += 1
    assert gateway.record(claim, GIVEN_BACK)
    gateway.close()
    return answers


def _secrets_of(
    service: FleetService, theirs: Tenant, job_id: str
) -> tuple[list[str], tuple[str, str]]:
    """Return the keys of a job's objects, and what is written in them."""
    job = service.records.job(job_id)
    checkpoint = service.records.checkpoints(job_id)[-1]
    with service.database.read() as session:
        file = session.get_one(File, job.training_file_id)
        keys = [file.storage_key, f"{checkpoint.storage_prefix}/state.bin"]
        if job.fine_tuned_model_id:
            model_of = (job.fine_tuned_model_id, "model.safetensors")
            keys.append(session.get_one(Artifact, model_of).storage_key)
    in_file = f"secret-of-{theirs.id}"
    assert in_file in theirs.client.files.content(job.training_file_id).text, "they may read it"
    state = b"".join(service.records.storage.chunks(keys[1])).decode()
    return keys, (in_file, state)


def _addresses(
    service: FleetService, url: str, claim: Claim, job_id: str, keys: Sequence[str]
) -> list[str]:
    """Return those of their objects as ours, and of what users read."""
    job = service.records.job(job_id)
    own = f"{url}/v1/worker/jobs/{claim.job_id}/attempts/{claim.attempt}/objects"
    up = "/".join(["%2e%2e"] * 5)
    prefix = f"{own}/projects/{service.records.job(claim.job_id).project_id}/jobs/x/1/model/{up}"
    addresses = [f"{prefix}/{quote(key)}" for key in keys]
    addresses += [f"{own}/{quote(key)}{query}" for key in keys for query in ("", "?carried=true")]
    addresses += [
        f"{url}/v1/files/{job.training_file_id}/content",
        f"{url}/v1/fine_tuning/jobs/{job_id}",
        f"{url}/v1/fine_tuning/jobs/{job_id}/checkpoints",
    ]
    if job.fine_tuned_model_id:
        model = f"{url}/v1/models/{quote(job.fine_tuned_model_id)}"
        addresses += [f"{model}/artifacts/model.safetensors", f"{model}/archive"]
    return addresses
