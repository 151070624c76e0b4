"""Every request that workers with a token make, about whatever job, and what must not come of it
with the token of another project.
"""

import json
from collections.abc import Collection, Iterator
from typing import NamedTuple
from urllib.parse import quote

import httpx

from app.attempts.values import Columns
from app.models.base import JsonObject
from app.models.job_progress import JobProgress
from tests.contract.access_routes import OF_WORKERS

PREFIX = "/v1/worker"
OFFER = ["cpu", 2, 1, []]
COLUMNS = Columns(
    progress=JobProgress(step=3), device_seconds=1.0, execution_seconds=1.0
).model_dump(mode="json", exclude_unset=True)


class WorkerRequest(NamedTuple):
    method: str
    path: str  # below PREFIX
    content: bytes | None
    of_job: bool  # else it is about whatever its token opens

    def send(self, http: httpx.Client) -> httpx.Response:
        """`http`: of a `JoinedGateway`."""
        headers = {"content-type": "application/json"}
        return http.request(self.method, self.path, content=self.content, headers=headers)


def requests_about(job_id: str, attempt: int, keys: Collection[str]) -> Iterator[WorkerRequest]:
    """Return a valid request of each route about an attempt, and for each object."""
    for method, route in sorted(OF_WORKERS):
        of_job = route.endswith("/hold") or "{job_id}" in route
        requests = []
        for key in keys:
            path = route.removeprefix(PREFIX).replace("{key:path}", quote(key))
            path = path.format(job_id=job_id, attempt=attempt)
            body = _bodies(job_id, key).get(route.rpartition("/")[2])
            content = b"bytes" if method == "PUT" else None
            if body is not None:
                content = json.dumps(body).encode()
            requests.append(WorkerRequest(method, path, content, of_job))
        yield from dict.fromkeys(requests)


def check_nothing_comes(
    http: httpx.Client, job_id: str, attempt: int, keys: Collection[str], secrets: Collection[str]
) -> int:
    """Ask all of it with the token of another project; return the number of answers. Each that is
    about the job says that there is none, and no answer holds one of the secrets.
    """
    answers = 0
    for request in requests_about(job_id, attempt, keys):
        answer = request.send(http)
        text = f"{request}: {answer.status_code} {answer.text}"
        assert not request.of_job or answer.status_code == httpx.codes.NOT_FOUND, text
        assert not any(secret in answer.text for secret in secrets), text
        answers += 1
    return answers


def _bodies(job_id: str, key: str) -> dict[str, JsonObject]:
    saved: JsonObject = {"type": "checkpoint", "step": 1, "path": "/", "bytes": 1}
    saved |= {"manifest_sha256": "0" * 64, "metrics": {}}
    ending: JsonObject = {"verdict": "stopped", "failure": None, "cap": None, "desired": "run"}
    ending |= {"has_trained": False, "trainer_log": "", "columns": COLUMNS}
    result: JsonObject = {"files": [["config.json", [1, "0" * 64, ["0" * 64]]]], "config": {}}
    result |= {"trained_tokens": 1, "columns": COLUMNS, "measured": {}, "actual": None}
    return {
        "hold": {"offer": OFFER, "job_id": job_id},
        "seen": {"offer": OFFER},
        "claims": {"offer": OFFER},
        "events": {"events": [["text", "info", "message", None]]},
        "batches": {"before": 0, "events": [], "columns": COLUMNS, "measured": {}},
        "checkpoints": {"id": "ftckpt_1", "keep": 2, "saved": saved},
        "log": {"head": "loading\n"},
        "ending": ending,
        "result": result,
        "links": {"key": key, "bytes": 1},
    }
