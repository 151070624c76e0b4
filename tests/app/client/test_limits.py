"""Too much, and used up: both answer 429, and only the first is worth another try."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.app.client.conftest import Falqon
from tests.support.proxy import Proxy
from tests.support.service import Service

LimitedKey = Callable[..., str]


@pytest.fixture
def limited(falqon: Falqon) -> LimitedKey:
    """The key of a project with these limits."""

    def make(*limits: str) -> str:
        project = json.loads(falqon("projects", "create", "limited", *limits, "--json").stdout)[
            "id"
        ]
        return falqon("keys", "create", "limited", "--project", project).stdout.strip()

    return make


def exhaust(service: Service, key: str) -> None:
    """Until the next token is nearly a whole interval away, so that whoever asks now is refused."""
    with httpx.Client(base_url=service.url, headers={"authorization": f"Bearer {key}"}) as client:
        while True:
            headers = client.get("/v1/models").headers
            interval_ms = 60_000 / int(headers["x-ratelimit-limit-requests"])
            if int(headers.get("retry-after-ms", 0)) > 0.8 * interval_ms:
                return


def test_a_short_wait_is_waited(
    falqon: Falqon, service: Service, proxy: Proxy, limited: LimitedKey, tmp_path: Path
) -> None:
    key = limited("--requests-per-minute", "10")
    (tmp_path / "small.jsonl").write_text('{"text": "some"}\n')
    exhaust(service, key)
    done = falqon(
        "files", "upload", "small.jsonl", "--json", "--base-url", proxy.url, "--api-key", key
    )
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["bytes"] == 17  # the body again, whole
    assert len(proxy.heads("POST /v1/files")) == 2


def test_a_download_of_many_files_goes_on_after_short_waits(
    falqon: Falqon, service: Service, limited: LimitedKey
) -> None:
    key = limited("--requests-per-minute", "120")
    exhaust(service, key)
    done = falqon("download", "falqon-tiny", "--base-url", service.url, "--api-key", key)
    assert done.exit_code == 0, done.stderr


def test_a_watch_goes_on_after_a_short_wait(
    falqon: Falqon, service: Service, limited: LimitedKey, fake_file: Callable[..., Path]
) -> None:
    key = limited("--requests-per-minute", "30")
    there = ("--base-url", service.url, "--api-key", key)
    create = (
        "jobs",
        "create",
        "--model",
        "falqon-tiny",
        "--file",
        str(fake_file()),
        "--yes",
        "--json",
        *there,
    )
    job_id = json.loads(falqon(*create).stdout)["id"]
    exhaust(service, key)
    done = falqon("jobs", "watch", job_id, *there)
    assert done.exit_code == 0, done.stderr
    assert f"{job_id} succeeded" in done.stdout


def test_a_long_wait_is_told(
    falqon: Falqon, service: Service, proxy: Proxy, limited: LimitedKey
) -> None:
    key = limited("--requests-per-minute", "1")
    exhaust(service, key)
    done = falqon("models", "list", "--base-url", proxy.url, "--api-key", key)
    assert done.exit_code == 1
    assert "Error: This API key has 1 requests a minute; the next one in " in done.stderr
    assert "code rate_limit_exceeded" in done.stderr
    assert len(proxy.requests) == 1


def test_a_quota_that_is_used_up_is_told_at_once(
    falqon: Falqon, proxy: Proxy, limited: LimitedKey, fake_file: Callable[..., Path]
) -> None:
    there = (
        "--base-url",
        proxy.url,
        "--api-key",
        limited("--max-live-jobs", "0", "--max-storage-bytes", "1000"),
    )
    create = (
        "jobs",
        "create",
        "--model",
        "falqon-tiny",
        "--file",
        str(fake_file()),
        "--yes",
        *there,
    )
    done = falqon(*create)
    assert done.exit_code == 1
    assert (
        "Error: max_live_jobs: 0 jobs of this project have not ended, and its quota is 0. "
        in done.stderr
    )
    assert "code insufficient_quota, param max_live_jobs" in done.stderr
    # without its data and with it, and not again
    assert len(proxy.heads("POST /v1/fine_tuning/jobs HTTP")) == 2

    full = falqon("files", "upload", __file__, "--json", *there)
    assert (full.exit_code, full.stdout) == (1, "")
    error = json.loads(full.stderr)["error"]
    assert (error["type"], error["param"]) == ("insufficient_quota", "max_storage_bytes")
    assert len(proxy.heads("POST /v1/files")) == 2  # the data of the job above, and this once
