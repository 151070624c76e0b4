"""A move that is killed again and again, from a service of ours in the part of OpenAI."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from app.models import File, Job, JobStatus
from tests.app.client.move.conftest import BASE
from tests.support.api import Api, Tenant, jsonl
from tests.support.forks import Fork, run_falqon
from tests.support.waiting import wait_for

NUM_FILES = 30
NUM_JOBS = 20
NUM_KILLS = 10
LAST_KILL = 40  # of so many objects: it has work left then, however late we look


@pytest.fixture(scope="module")
def other_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("origin")
    api = Api(f"sqlite:///{folder}/origin.db", folder)
    yield api
    api.stop()


def test_nothing_is_twice_after_ten_kills(other_api: Api, tenant: Tenant, tmp_path: Path) -> None:
    origin = Tenant(other_api)
    contents = {origin.upload(jsonl(n + 1), check=False): jsonl(n + 1) for n in range(NUM_FILES)}
    ids = list(contents)
    origin.add_model("gpt-4o-mini-2024-07-18", project_id=None)
    for number in range(NUM_JOBS):
        validation = {"validation_file": ids[-1]} if number % 2 else {}
        origin.client.fine_tuning.jobs.create(
            model="gpt-4o-mini-2024-07-18", training_file=ids[number], seed=number, **validation
        )
    with other_api.database.transaction() as session:
        session.execute(update(Job).values(status=JobStatus.SUCCEEDED))

    environment = os.environ | {
        "FALQON_BASE_URL": tenant.api.url,
        "FALQON_API_KEY": tenant.key,
        "OPENAI_API_KEY": origin.key,
    }
    arguments = ["move", "openai", "--yes", "--from-url", f"{other_api.url}/v1"]
    output = tmp_path / "move.log"
    num_objects = NUM_FILES + NUM_JOBS

    def start() -> Fork:
        return Fork(run_falqon, arguments, environment=environment, output=output)

    for number in range(NUM_KILLS):
        mover = start()
        _wait_for_objects(tenant, (number + 1) * LAST_KILL // NUM_KILLS)
        assert mover.poll() is None, output.read_text()
        mover.kill()
        mover.wait()
    assert start().wait(120) == 0, output.read_text()

    assert _num_here(tenant) == num_objects
    with tenant.api.database.read() as session:
        files = session.scalars(select(File).where(File.project_id == tenant.project_id)).all()
        jobs = session.scalars(select(Job).where(Job.project_id == tenant.project_id)).all()
    here = {(file.idempotency_key or "").removeprefix("move:openai:"): file for file in files}
    assert here.keys() == contents.keys()
    for file_id, content in contents.items():
        assert tenant.client.files.content(here[file_id].id).content == content
    assert sorted(job.requested.seed or 0 for job in jobs) == list(range(NUM_JOBS))
    assert {job.base_model_id for job in jobs} == {BASE}


def _wait_for_objects(tenant: Tenant, count: int) -> None:
    what = f"{count} objects are here"
    wait_for(lambda: _num_here(tenant) >= count, what=what, every_seconds=0.005)


def _num_here(tenant: Tenant) -> int:
    with tenant.api.database.read() as session:
        return sum(
            session.scalar(
                select(func.count()).select_from(kind).where(kind.project_id == tenant.project_id)
            )
            or 0
            for kind in (File, Job)
        )
