import openai
import pytest

from app.catalogue.naming import fine_tuned_model_id
from app.jobs import claims
from app.jobs.events import NewEvent
from app.models import Checkpoint, Job
from tests.contract.test_jobs import jobs_of
from tests.support.api import Tenant

pytestmark = pytest.mark.both_databases


def test_lists_are_newest_first_filtered_and_end(tenant: Tenant, stranger: Tenant) -> None:
    file_id = tenant.upload()
    stranger.job()
    ids = [
        tenant.job(training_file=file_id, metadata={"n": str(n), 'a "b"': "x"} if n else None).id
        for n in range(4)
    ][::-1]
    assert [job.id for job in jobs_of(tenant).list(limit=2)] == ids
    assert [job.id for job in jobs_of(tenant).list(metadata={"n": "2"})] == [ids[1]]
    assert [job.id for job in jobs_of(tenant).list(extra_query={"metadata": "null"})] == [ids[3]]
    jobs_of(tenant).cancel(ids[0])
    assert [job.id for job in jobs_of(tenant).list(extra_query={"status": "cancelled"})] == ids[:1]
    assert [
        job.id for job in jobs_of(tenant).list(extra_query={"model": stranger.base_model})
    ] == []
    page = tenant.http.get("/v1/fine_tuning/jobs?limit=1").json()
    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == (
        "list",
        ids[0],
        ids[0],
        True,
    )
    assert [job.id for job in jobs_of(tenant).list(metadata={"n": "2", 'a "b"': "x"})] == [ids[1]]
    assert [job.id for job in jobs_of(tenant).list(metadata={'a "b"': "x"}, limit=2)] == ids[:3]
    assert list(jobs_of(tenant).list(metadata={"n": "2", 'a "b"': "y"})) == []
    assert [
        job.id
        for job in jobs_of(tenant).list(metadata={"n": "3"}, extra_query={"status": "cancelled"})
    ] == ids[:1]
    for query in (
        "limit=0",
        "limit=-1",
        "limit=x",
        "status=odd",
        "metadata=x",
        "metadata=null&metadata[a]=b",
        "colour=red",
        "metadata[]=x",
    ):
        answer = tenant.http.get(f"/v1/fine_tuning/jobs?{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (
            400,
            query.partition("=")[0].partition("[")[0],
        )


def test_a_page_without_rows_and_cursors_that_are_not_ours(
    tenant: Tenant, stranger: Tenant
) -> None:
    empty = tenant.http.get("/v1/fine_tuning/jobs").json()
    assert empty == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }
    mine = tenant.job().id
    theirs = stranger.job().id
    for path in (
        "/v1/fine_tuning/jobs",
        f"/v1/fine_tuning/jobs/{mine}/events",
        f"/v1/fine_tuning/jobs/{mine}/checkpoints",
    ):
        for cursor in (
            "nobody",
            "",
            f"{mine}0",
            f"ftevent-{mine.removeprefix('ftjob-')}-999",
            f"ftevent-{theirs.removeprefix('ftjob-')}-1",
        ):
            answer = tenant.http.get(path, params={"after": cursor})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (
                400,
                "invalid_cursor",
                "after",
            ), (path, cursor)
    assert [
        job["id"]
        for job in tenant.http.get("/v1/fine_tuning/jobs", params={"after": theirs}).json()["data"]
    ] == [mine]


def test_a_client_that_deletes_listed_jobs_reaches_the_end(tenant: Tenant) -> None:
    ids = [tenant.job().id for _ in range(3)]
    for job in jobs_of(tenant).list(limit=1):
        jobs_of(tenant).cancel(job.id)
        assert tenant.http.delete(f"/v1/fine_tuning/jobs/{job.id}").json()["id"] == ids.pop()
    assert ids == list(jobs_of(tenant).list()) == []


def test_a_page_of_checkpoints_continues_behind_one_that_is_gone(tenant: Tenant) -> None:
    job = tenant.job()
    for step in (1, 2, 3):
        tenant.add_checkpoint(job.id, step)
    page = jobs_of(tenant).checkpoints.list(job.id, limit=2)
    with tenant.api.database.transaction() as session:
        session.delete(session.get_one(Checkpoint, page.data[-1].id))
    assert [checkpoint.step_number for checkpoint in page] == [3, 2, 1]


def test_events_page_back_to_the_first(tenant: Tenant) -> None:
    job = tenant.job()
    claim = tenant.claim(job.id)
    metrics = {"step": 1, "train_loss": 2.5}
    with tenant.api.database.transaction() as session:
        claims.append_events(
            session, claim, [NewEvent("Step 1/9: training loss=2.50", type="metrics", data=metrics)]
        )
    events = list(jobs_of(tenant).list_events(job.id, limit=2))
    bare = job.id.removeprefix("ftjob-")
    assert [event.id for event in events] == [
        f"ftevent-{bare}-{seq}" for seq in range(len(events), 0, -1)
    ]
    assert (events[0].object, events[0].type, events[0].level, events[0].data) == (
        "fine_tuning.job.event",
        "metrics",
        "info",
        metrics,
    )
    for cursor in (
        "ftevent-x-1",
        f"ftevent-{bare}-x",
        "1",
        f"ftevent-{bare}-0",
        f"ftevent-{bare}-{len(events) + 1}",
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            jobs_of(tenant).list_events(job.id, after=cursor)
        assert (caught.value.param, caught.value.code) == ("after", "invalid_cursor")


def test_checkpoints_carry_the_name_the_model_will_have(tenant: Tenant) -> None:
    job = tenant.job(suffix="mine")
    for step in (1, 2, 3):
        tenant.add_checkpoint(job.id, step, metrics={"train_loss": 0.5})
    with tenant.api.database.read() as session:
        row = session.get_one(Job, job.id)
    name = fine_tuned_model_id(row, "acme")
    assert name == f"ft:{tenant.base_model}:acme:mine:{job.id[-8:]}"
    checkpoints = list(jobs_of(tenant).checkpoints.list(job.id, limit=2))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [3, 2, 1]
    assert checkpoints[0].object == "fine_tuning.job.checkpoint"
    assert checkpoints[0].fine_tuned_model_checkpoint == f"{name}:ckpt-step-3"
    with pytest.raises(openai.BadRequestError) as caught:
        jobs_of(tenant).checkpoints.list(job.id, after="ftckpt_nobody")
    assert (caught.value.param, caught.value.code) == ("after", "invalid_cursor")
    assert (
        checkpoints[0].fine_tuning_job_id,
        checkpoints[0].metrics.step,
        checkpoints[0].metrics.train_loss,
    ) == (job.id, 3, 0.5)
