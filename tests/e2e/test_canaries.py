"""Secrets and data planted everywhere, taken through whole jobs with the real trainer: none is
found where it has no business.

Logs hold none of them. What is stored (database, Valkey, events, errors) holds no secret. The rows
of a data set do belong into its owner's events: samples quote them.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.canaries import ENVIRONMENT, KEY, ROWS, canary
from tests.e2e.conftest import Trained, row
from tests.support.service import Service
from tests.support.waiting import wait_for

HEADERS = {
    "authorization": f"Bearer {canary('Bearer')}",
    "proxy-authorization": f"Basic {canary('Proxy')}",
    "cookie": f"falqon_session={canary('Cookie')}",
    "x-api-key": canary("XApiKey"),
    "openai-organization": canary("Organization"),
    "user-agent": canary("UserAgent"),
    "referer": f"http://127.0.0.1/?token={canary('Referer')}",
}
QUERY = {name: canary(f"Query{name}") for name in ("api_key", "token", "after", "limit")}
BODIES = {name: canary(f"Body{name}") for name in ("Json", "Extra", "Value", "Key", "File")}
HOOK = canary("HookUrl")
answered: dict[str, Any] = {"errors": [], "secrets": []}  # what the API answered


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=service.url, headers={"authorization": f"Bearer {KEY}"}, timeout=30, verify=False
    ) as http:
        yield http


def job(http: httpx.Client, job_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = http.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    return answer


def events(http: httpx.Client, job_id: str) -> str:
    return http.get(f"/v1/fine_tuning/jobs/{job_id}/events?limit=1000").text


def test_a_webhook_and_keys_of_its_own(http: httpx.Client) -> None:
    hook = {
        "url": f"http://127.0.0.1:1/{HOOK}?key={HOOK}",
        "name": "canary",
        "event_types": ["fine_tuning.job.succeeded"],
    }
    answered["secrets"].append(
        http.post("/v1/webhook_endpoints", json=hook).json()["signing_secret"]
    )
    answered["secrets"].append(
        http.post("/v1/api_keys", json={"name": "another", "scope": "write"}).json()["secret"]
    )
    assert all(len(secret) > 30 for secret in answered["secrets"])


def test_bad_requests_are_refused(http: httpx.Client) -> None:
    answers = [
        *(http.get("/v1/files", headers={name: value}) for name, value in HEADERS.items()),
        *(http.get(f"/v1/files?{name}={value}") for name, value in QUERY.items()),
        http.post("/v1/fine_tuning/jobs", content=f'{{"model": "{BODIES["Json"]}'),
        http.post(
            "/v1/fine_tuning/jobs",
            json={"model": "falqon-tiny", "training_file": "x", BODIES["Extra"]: 1},
        ),
        http.post(
            "/v1/fine_tuning/jobs",
            json={"model": "falqon-tiny", "training_file": "x", "seed": BODIES["Value"]},
        ),
        http.post(
            "/sign-in", data={"key": BODIES["Key"]}, headers={"sec-fetch-site": "same-origin"}
        ),
        http.post(
            "/v1/files",
            files={"file": (f"a/{BODIES['File']}", b"x")},
            data={"purpose": "fine-tune"},
        ),
        http.get(f"/v1/models/{answered['secrets'][1]}"),
    ]
    answered["errors"] = [answer.text for answer in answers]
    assert [answer.status_code for answer in answers].count(500) == 0
    assert sum(answer.status_code >= 400 for answer in answers) > 8


def test_a_job_whose_trainer_knows_no_secret(trained: Trained) -> None:
    assert trained.job.status == "succeeded", trained.job.error
    assert "canary" not in trained.environment
    assert "HF_HUB_OFFLINE=1" in trained.environment.split("\0")
    secrets = r"(^|\0)(FALQON|DATABASE|REDIS|STORAGE|AWS|PG)\w*="
    assert not re.search(secrets, trained.environment)
    assert "NoNewPrivs:\t1" in trained.status
    answered["jobs"] = [trained.job.id]


def test_a_job_that_fails_by_its_data(http: httpx.Client) -> None:
    function = {"name": ROWS["Function"], "arguments": f"{{{ROWS['Arguments']}"}
    turns = [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "tool_calls": [{"id": "1", "type": "function", "function": function}],
        },
    ]
    # nothing of the answers is kept
    too_long = [row(f"{ROWS['StatisticsKey']} " * 60, "Yes.") for _ in range(11)]
    file = {"file": ("rows.jsonl", "\n".join([json.dumps({"messages": turns}), *too_long]))}
    file_id = http.post("/v1/files", files=file, data={"purpose": "fine-tune"}).json()["id"]
    recipe = {"validation_fraction": 0.2, "max_seq_length": 128, "max_bad_record_fraction": 0.1}
    body = {"model": "falqon-tiny", "training_file": file_id, "falqon": recipe}
    answer = http.post("/v1/fine_tuning/jobs", json=body)
    assert answer.status_code == 200, answer.text
    job_id = answer.json()["id"]
    wait_for(lambda: job(http, job_id)["status"] in ("succeeded", "failed"), 300, "the job ends")
    assert job(http, job_id)["error"]["code"] == "invalid_training_file"
    answered["jobs"].append(job_id)


def test_no_log_holds_a_secret_or_training_text(service: Service) -> None:
    logs = {
        path.name: path.read_text()
        for path in [service.output, *(service.folder / "logs").iterdir()]
    }
    assert {"api.log", "worker-gpu.log", "worker-cpu.log"} <= set(logs)
    assert "trainer failed" in logs["worker-gpu.log"]
    planted = re.findall(
        r"canary\w+", json.dumps([ENVIRONMENT, HEADERS, QUERY, ROWS, BODIES, HOOK])
    )
    assert len(set(planted)) >= 30
    assert {
        name: sorted(set(re.findall(r".{0,80}canary\w+", text)))
        for name, text in logs.items()
        if "canary" in text
    } == {}
    for secret in answered["secrets"]:
        assert [name for name, text in logs.items() if secret[-20:] in text] == []


def test_nothing_that_is_stored_or_answered_holds_a_secret(
    service: Service, http: httpx.Client
) -> None:
    secrets = [
        *re.findall(r"canary\w+", json.dumps([ENVIRONMENT, HEADERS])),
        *(secret[-32:] for secret in answered["secrets"]),
    ]
    texts = {f"events of {job_id}": events(http, job_id) for job_id in answered["jobs"]}
    texts |= {job_id: json.dumps(job(http, job_id)) for job_id in answered["jobs"]}
    texts |= {f"error {number}": text for number, text in enumerate(answered["errors"])}
    paths = [
        path for path in service.folder.rglob("*") if path.is_file() and path.name != "client.json"
    ]
    texts |= {
        path.relative_to(service.folder).as_posix(): path.read_bytes().decode("latin-1")
        for path in paths
    }
    assert any(name.startswith("falqon.db") for name in texts)
    assert any(name.startswith("valkey/") for name in texts)
    assert [
        (name, secret) for name, text in texts.items() for secret in secrets if secret in text
    ] == []
    assert ROWS["Answer"] in texts[f"events of {answered['jobs'][0]}"], (
        "the grep finds what is there"
    )
