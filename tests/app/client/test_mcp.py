"""`falqon mcp`, its two forms, and what each refuses. The whole way of an agent:
tests/e2e/test_agents.py.
"""

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx
import pytest

from tests.app.client.conftest import Falqon
from tests.app.client.test_document import block, run
from tests.support.agents import ROWS, TIMEOUT_SECONDS, new_key, on_http, on_stdio
from tests.support.backend import ROOT
from tests.support.fake_trainer import FakeTrainer, range_test
from tests.support.service import Service, free_port
from tests.support.waiting import wait_for

PAGE = (ROOT / "docs" / "agents.md").read_text()
MANY_ROWS = "\n".join(ROWS.replace("My parcel", f"My parcel {number}") for number in range(100))


@pytest.fixture(scope="module")
def http_door(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the HTTP form, started beside the service, with an admin key at hand."""
    folder = tmp_path_factory.mktemp("door")
    port = free_port()
    (line,) = block(PAGE, "--http")
    arguments = shlex.split(line.replace("8010", str(port)))[1:]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            service.command(*arguments),
            env=os.environ | {"FALQON_BASE_URL": service.url, "FALQON_API_KEY": service.key},
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}/mcp"

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return httpx.post(url).status_code == 401
        except httpx.TransportError:
            return False

    try:
        wait_for(answers, 90, "the tools are served")
        yield url
    finally:
        process.terminate()
        process.wait(60)


def test_the_price_of_a_job_and_the_budget_of_a_day_are_not_exceeded(
    service: Service, tmp_path: Path
) -> None:
    async def spend() -> None:
        key = new_key(service, daily_budget_usd="0.01")
        async with on_stdio(service, key, tmp_path) as agent:
            file = await agent.use("upload_text", filename="a.jsonl", content=ROWS)
            assert "Nothing was read" in await agent.refusal("upload_path", path="/etc/passwd")
            job = {"model": "falqon-tiny", "training_file": file["file_id"]}
            refused = await agent.refusal("create_job", **job, max_cost_usd="0.02")
            assert "this job may cost $0.02, and $0.01 is left of the $0.01" in refused
            assert "Nothing was created" in refused
            # Long enough for its price to show on a fast machine, too.
            long = {"settings": {"num_epochs": 50, "batch_size": 1}}
            file = await agent.use("upload_text", filename="b.jsonl", content=MANY_ROWS)
            job = job | {"training_file": file["file_id"]}
            refused = await agent.refusal("create_job", **job, **long, max_cost_usd="0.0001")
            assert "Nothing was created: max_cost_usd is" in refused
            assert "at worst" in refused
            # Neither a misspelled cap nor one in the settings is dropped.
            assert "max_cost_usd" in await agent.refusal("create_job", **job, max_cost="1")
            budget = {"settings": {"budget": {"max_cost_usd": "9"}}}
            refused = await agent.refusal("create_job", **job, **budget, max_cost_usd="0.01")
            assert "the budget is the argument max_cost_usd" in refused

    anyio.run(spend)


def test_a_range_test_is_followed_by_a_job_with_its_proposal(
    service: Service, tmp_path: Path
) -> None:
    record = json.dumps({"text": FakeTrainer(steps=20).model_dump_json()})

    async def find_rate() -> None:
        async with on_stdio(service, new_key(service), tmp_path) as agent:
            file = await agent.use("upload_text", filename="a.jsonl", content=record)
            job = {"model": "falqon-tiny", "training_file": file["file_id"], "max_cost_usd": "1"}
            created = await agent.use("create_job", **job, settings={"find_rate": True})
            watched = {"next": created["next"]}
            while watched["next"].startswith("watch_job"):
                watched = await agent.use("watch_job", job_id=created["job_id"])
            assert (watched["status"], watched["model"]) == ("succeeded", None)
            assert "evaluate_job" not in watched["next"]
            settings = {"find_rate": False, "learning_rate": range_test().proposal}
            words = " and ".join(f"{name} {value}" for name, value in settings.items())
            assert f"create_job, as before but with {words.lower()} in" in watched["next"]
            dry_run = await agent.use(
                "dry_run_job", model="falqon-tiny", training_file=file["file_id"], settings=settings
            )
            assert dry_run["settings"]["learning_rate"] == range_test().proposal

    anyio.run(find_rate)


def test_over_http_each_caller_has_the_rights_of_their_own_key(
    service: Service, http_door: str
) -> None:
    for headers in ({}, {"authorization": "Bearer ft_live_wrong"}, {"authorization": "Basic eA=="}):
        answer = httpx.post(http_door, json={}, headers=headers, timeout=TIMEOUT_SECONDS)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    foreign_host = httpx.post(
        http_door,
        json={},
        headers={"host": "evil.example", "authorization": f"Bearer {service.key}"},
        timeout=TIMEOUT_SECONDS,
    )
    assert foreign_host.status_code == 421

    project = httpx.post(
        f"{service.url}/v1/projects",
        json={"name": "other"},
        headers={"authorization": f"Bearer {service.key}"},
        timeout=TIMEOUT_SECONDS,
    ).json()["id"]

    async def ask() -> None:
        async with on_http(http_door, new_key(service)) as mine:
            file = await mine.use("upload_text", filename="a.jsonl", content=ROWS)
            names = {tool.name for tool in (await mine.client.list_tools()).tools}
            assert "create_job" in names
            assert "upload_path" not in names
        async with on_http(http_door, new_key(service, project_id=project)) as theirs:
            refused = await theirs.refusal("check_file", file_id=file["file_id"])
            assert "No such File" in refused
            job = {"model": "falqon-tiny", "training_file": file["file_id"]}
            assert file["file_id"] in await theirs.refusal("estimate_job", **job)
            for arguments in ({"file_id": "x" * 257}, {"file_id": ""}):
                refused = await theirs.refusal("check_file", **arguments)
                assert "file_id" in refused
                assert "characters" in refused or "character" in refused

    anyio.run(ask)


def test_the_page_makes_a_key_with_a_budget(
    falqon: Falqon, service: Service, tmp_path: Path
) -> None:
    run("\n".join(block(PAGE, "keys create")), service, tmp_path)
    assert "agent, $5.00 a day" in falqon("keys", "list").stdout


def test_the_command_says_what_it_lacks(falqon: Falqon, service: Service) -> None:
    done = falqon("mcp", "--http", "--host", "0.0.0.0")
    assert done.exit_code == 2
    assert "add --allow-remote" in done.stderr
    done = falqon("mcp", "--base-url", service.url)
    assert done.exit_code == 4
    assert f"There is no API key for {service.url}/v1" in done.stderr
