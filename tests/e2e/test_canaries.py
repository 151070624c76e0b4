"""Secrets and data planted everywhere, taken through whole jobs with the real trainer: none is
found where it has no business.

Logs hold none of them. What is stored (database, Valkey, events, errors) holds no secret. The rows
of a data set do belong into its owner's events: samples quote them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.service import Service
from tests.support.waiting import wait_for


def canary(name: str) -> str:
    return f"canary{name}0123456789"


KEY = f"{canary('Admin')}-key"
ENVIRONMENT = {
    "FALQON_ADMIN_KEY": KEY,
    "FALQON_SESSION_SECRET": canary("Session"),
    "AWS_ACCESS_KEY_ID": canary("AwsId"),
    "AWS_SECRET_ACCESS_KEY": canary("AwsSecret"),
    "HF_TOKEN": canary("Hub"),
    "WANDB_API_KEY": canary("Wandb"),
    "SENTRY_DSN": f"https://{canary('Sentry')}@sentry.invalid/1",
    "PGPASSWORD": canary("Postgres"),
    "SLACK_WEBHOOK": canary("Slack"),
    "GITHUB_PAT": canary("Github"),
    "SMTP_PASSWORD": canary("Smtp"),
    "COMPANY_VAULT": canary("Vault"),
}
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
ROWS = {
    name: canary(f"Row{name}")
    for name in ("StatisticsKey", "Answer", "Broken", "Function", "Arguments")
}
BODIES = {name: canary(f"Body{name}") for name in ("Json", "Extra", "Value", "Key", "File")}
HOOK = canary("HookUrl")
RECIPE = {
    "checkpoint_every": 40,
    "eval_every": 40,
    "validation_fraction": 0.2,
    "max_seq_length": 128,
    "max_bad_record_fraction": 0.1,
}

answered: dict[str, Any] = {"errors": [], "secrets": []}  # what the API answered


@pytest.fixture(scope="module")
def service(short_tmp: Path) -> Iterator[Service]:
    pace = {
        "FALQON_NUM_THREADS": "1",
        "FALQON_HEARTBEAT": "PT0.3S",
        "FALQON_WEBHOOK_NETWORKS": '["127.0.0.0/8"]',
    }
    service = Service(short_tmp / "canaries", ENVIRONMENT | pace, fake=False)
    service.wait_until_up()
    yield service
    service.close()


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=service.url, headers={"authorization": f"Bearer {KEY}"}, timeout=30, verify=False
    ) as http:
        yield http


def row(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def upload(http: httpx.Client, *lines: str) -> str:
    answer = http.post(
        "/v1/files", files={"file": ("rows.jsonl", "\n".join(lines))}, data={"purpose": "fine-tune"}
    )
    return str(answer.json()["id"])


def create(http: httpx.Client, file_id: str, **recipe: Any) -> str:
    method = {
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 4, "batch_size": 1}},
    }
    body = {
        "model": "falqon-tiny",
        "training_file": file_id,
        "method": method,
        "falqon": RECIPE | recipe,
    }
    answer = http.post("/v1/fine_tuning/jobs", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def job(http: httpx.Client, job_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = http.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    return answer


def events(http: httpx.Client, job_id: str) -> str:
    return http.get(f"/v1/fine_tuning/jobs/{job_id}/events?limit=1000").text


def test_a_webhook_and_keys_of_its_own(http: httpx.Client) -> None:
    hook = {
        "url": f"http://127.0.0.1:1/{HOOK}?key={HOOK}",
        "name": "ours",
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


def test_a_job_whose_trainer_knows_no_secret(service: Service, http: httpx.Client) -> None:
    lines = [
        json.dumps(row(f"{ROWS['StatisticsKey']} {number}?", f"{ROWS['Answer']}."))
        for number in range(60)
    ]
    job_id = create(http, upload(http, *lines, f'{{"text": "{ROWS["Broken"]}"'))
    wait_for(
        lambda: (
            job(http, job_id)["status"] == "failed"
            or http.get(f"/v1/fine_tuning/jobs/{job_id}/checkpoints").json()["data"]
        ),
        90,
        "a checkpoint, which comes after samples",
    )
    (pid,) = service.pids("falqon_core", "--message-fd")
    environment, status = (
        (Path("/proc") / str(pid) / name).read_text() for name in ("environ", "status")
    )
    assert "canary" not in environment
    assert "HF_HUB_OFFLINE=1" in environment.split("\0")
    assert not re.search(r"(^|\0)(FALQON|DATABASE|REDIS|STORAGE|AWS|PG)\w*=", environment)
    assert "NoNewPrivs:\t1" in status
    wait_for(lambda: job(http, job_id)["status"] in ("succeeded", "failed"), 120, "the job ends")
    assert job(http, job_id)["status"] == "succeeded", job(http, job_id)["error"]
    answered["jobs"] = [job_id]


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
    too_long = [json.dumps(row(f"{ROWS['StatisticsKey']} " * 60, "Yes.")) for _ in range(11)]
    job_id = create(http, upload(http, json.dumps({"messages": turns}), *too_long))
    wait_for(lambda: job(http, job_id)["status"] in ("succeeded", "failed"), 90, "the job ends")
    assert job(http, job_id)["error"]["code"] == "invalid_training_file"
    answered["jobs"].append(job_id)


def test_no_log_holds_any_of_them(service: Service) -> None:
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
