import pytest
from sqlalchemy import update

from app.base.database import Database
from app.base.errors import InvalidRequest, QuotaExceeded
from app.base.settings import Settings
from app.jobs.gpus import choose_num_gpus, limit_auto
from app.models import Project
from app.models.job_request import JobRequest
from app.workers import service as workers
from falqon_core.contract.config import Recipe

H100 = Settings(device="h100")
PROJECT = "proj_a"


def asking(num_gpus: int | str | None) -> JobRequest:
    body = {"model": "m", "training_file": "f", "falqon": {"num_gpus": num_gpus}}
    return JobRequest.model_validate(body)


def chosen(database: Database, num_gpus: int | str | None, settings: Settings = H100) -> int:
    with database.read() as session:
        return choose_num_gpus(session, PROJECT, asking(num_gpus), settings)


@pytest.fixture(autouse=True)
def _project(database: Database) -> None:
    with database.transaction() as session:
        session.add(Project(id=PROJECT, name="p"))


def see_workers(database: Database, *max_gpus: int) -> None:
    with database.transaction() as session:
        for number, most in enumerate(max_gpus):
            workers.mark_seen(session, f"w{number}", "h100", 1, most)


def test_more_than_any_live_worker_has_is_refused_with_the_numbers(database: Database) -> None:
    see_workers(database, 2, 4)
    assert chosen(database, None) == 1
    assert chosen(database, 4) == 4
    with pytest.raises(InvalidRequest, match=r"8 GPUs .* no worker has more than 4") as caught:
        chosen(database, 8)
    assert (caught.value.param, caught.value.code) == ("falqon.num_gpus", "too_few_gpus")


def test_a_job_waits_while_no_worker_is_alive(database: Database) -> None:
    assert chosen(database, 8) == 8
    assert chosen(database, "auto") == 1


def test_a_cpu_is_one_device(database: Database) -> None:
    cpu = Settings(device="cpu")
    assert chosen(database, "auto", cpu) == 1
    with pytest.raises(InvalidRequest, match=r"2 GPUs .* on a CPU, which counts as 1"):
        chosen(database, 2, cpu)


def test_a_cpu_counts_as_its_slots(database: Database) -> None:
    cpu = Settings(device="cpu", slots=3)
    assert (chosen(database, 3, cpu), chosen(database, "auto", cpu)) == (3, 3)
    see_workers(database, 2)
    with pytest.raises(InvalidRequest, match="on a CPU, which counts as 2"):
        chosen(database, 3, cpu)


def test_auto_takes_at_most_the_ceiling_of_its_project(database: Database) -> None:
    see_workers(database, 8)
    with database.transaction() as session:
        session.execute(update(Project).values(max_running_gpus=3))
    assert [chosen(database, number) for number in ("auto", 3)] == [3, 3]
    with pytest.raises(QuotaExceeded, match="may hold 3 GPUs, and this one needs 4"):
        chosen(database, 4)


def test_auto_is_what_a_worker_has_and_a_step_can_use(database: Database) -> None:
    see_workers(database, 2, 8)
    assert chosen(database, "auto") == 8
    recipe = Recipe(batch_size=4).resolved(100)
    assert limit_auto(8, asking("auto"), recipe) == 4
    assert limit_auto(8, asking(8), recipe) == 8
