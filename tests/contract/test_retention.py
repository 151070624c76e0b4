"""Old checkpoints and unused models go, what is needed stays, and a kill leaves nothing half."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from app.base.database import now_plus
from app.base.ids import new_id
from app.models import (
    Batch,
    Checkpoint,
    Engine,
    EngineState,
    Job,
    Model,
    Orphan,
    Scope,
    WebhookDelivery,
)
from app.retention import cleaner
from app.retention.service import AT_ONCE
from app.usage.questions import QuestionCount, QuestionCounts, QuestionKey
from tests.contract.access_objects import an_ended_job
from tests.support.api import Tenant, installation_admin

pytestmark = pytest.mark.both_databases

DAYS = 30
LONG_AGO = now_plus(-timedelta(days=DAYS + 1).total_seconds())


def clean(tenant: Tenant, **settings: Any) -> None:
    cleaner.clean(tenant.api.database, tenant.api.settings.model_copy(update=settings))


def an_old_job(tenant: Tenant, losses: dict[int, float | None]) -> tuple[str, dict[int, str]]:
    """A job that ended long ago, and the names of its checkpoints by step."""
    job_id = an_ended_job(tenant)["job_id"]
    names = {
        step: tenant.add_checkpoint(
            job_id,
            step,
            project_id=tenant.project_id,
            storage_prefix=f"checkpoints/{job_id}/{step}",
            metrics={} if loss is None else {"valid_loss": loss},
        )
        for step, loss in losses.items()
    }
    with tenant.api.database.transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(finished_at=LONG_AGO))
    return job_id, names


def steps(tenant: Tenant, job_id: str) -> list[int]:
    with tenant.api.database.read() as session:
        statement = select(Checkpoint.step).where(Checkpoint.job_id == job_id)
        return sorted(session.scalars(statement))


def messages(tenant: Tenant, job_id: str) -> list[str]:
    return [event.message for event in tenant.client.fine_tuning.jobs.list_events(job_id).data]


def a_model(tenant: Tenant, *, job_id: str | None = None, base: str | None = None) -> str:
    """A model of the project that nobody has used for long."""
    model_id = new_id("ft:tiny:acme::")
    base = base or tenant.base_model
    tenant.add_model(model_id, project_id=tenant.project_id, base=base, job_id=job_id)
    tenant.store_artifacts(model_id, {"weights.bin": b"bytes"})
    set_model(tenant, model_id, created_at=LONG_AGO)
    return model_id


def set_model(tenant: Tenant, model_id: str, **values: Any) -> None:
    with tenant.api.database.transaction() as session:
        session.execute(update(Model).where(Model.id == model_id).values(**values))


def retention(tenant: Tenant, model_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = (
        tenant.http.get(f"/v1/models/{model_id}/retention").raise_for_status().json()
    )
    return answer


def is_there(tenant: Tenant, model_id: str) -> bool:
    return tenant.http.get(f"/v1/models/{model_id}").status_code == 200


def test_nothing_is_removed_unless_somebody_says_so(tenant: Tenant) -> None:
    job_id, _ = an_old_job(tenant, {1: None, 2: None, 3: None})
    model_id = a_model(tenant)
    clean(tenant)
    assert steps(tenant, job_id) == [1, 2, 3]
    assert retention(tenant, model_id)["expires_at"] is None


def test_checkpoints_of_an_old_job_go_but_the_best_and_the_last(tenant: Tenant) -> None:
    job_id, _ = an_old_job(tenant, {1: 0.9, 2: 0.1, 3: 0.5, 4: 0.7})
    fresh_id = an_ended_job(tenant)["job_id"]
    for step in (1, 2, 3):
        tenant.add_checkpoint(fresh_id, step)
    tenant.limit(checkpoints_kept_days=DAYS)
    for _ in range(2):  # once is enough
        clean(tenant)
    assert steps(tenant, job_id) == [2, 4]
    assert steps(tenant, fresh_id) == [1, 2, 3]
    assert (
        sum("2 of the checkpoints were removed" in each for each in messages(tenant, job_id)) == 1
    )
    with tenant.api.database.read() as session:
        mine = Orphan.storage_key.startswith(f"checkpoints/{job_id}/")
        assert sorted(session.scalars(select(Orphan.storage_key).where(mine))) == [
            f"checkpoints/{job_id}/1/",
            f"checkpoints/{job_id}/3/",
        ]


def test_the_default_of_the_installation_gives_way_to_the_project(tenant: Tenant) -> None:
    job_id, _ = an_old_job(tenant, {1: None, 2: None})
    tenant.limit(checkpoints_kept_days=DAYS + 5)
    clean(tenant, checkpoints_kept=timedelta(days=DAYS))
    assert steps(tenant, job_id) == [1, 2]
    tenant.limit(checkpoints_kept_days=None)
    clean(tenant, checkpoints_kept=timedelta(days=DAYS))
    assert steps(tenant, job_id) == [2]


def test_an_archived_project_can_be_emptied(tenant: Tenant) -> None:
    job_id, _ = an_old_job(tenant, {1: 3.0, 2: 1.0, 3: 2.0})
    model_id = a_model(tenant)
    with installation_admin(tenant.api) as admin:
        url = f"/v1/projects/{tenant.project_id}"
        admin.post(f"{url}/archive").raise_for_status()
        refused = admin.post(url, json={"models_kept_days": 1, "max_live_jobs": 1})
        assert refused.json()["error"]["code"] == "project_archived"
        kept = {"checkpoints_kept_days": 1, "models_kept_days": 1}
        admin.post(url, json=kept).raise_for_status()
        clean(tenant)
        set_model(tenant, model_id, expires_at=LONG_AGO)
        clean(tenant)
    assert steps(tenant, job_id) == [2, 3]
    with tenant.api.database.read() as session:
        assert session.get_one(Model, model_id).deleted_at is not None


def test_a_checkpoint_that_is_shared_or_built_on_stays(tenant: Tenant, stranger: Tenant) -> None:
    job_id, names = an_old_job(tenant, dict.fromkeys((1, 2, 3, 4)))
    admin = tenant.client_with(tenant.new_key(Scope.ADMIN))
    admin.fine_tuning.checkpoints.permissions.create(names[1], project_ids=[stranger.project_id])
    child = tenant.job(model=names[2])
    tenant.limit(checkpoints_kept_days=DAYS)
    clean(tenant)
    assert steps(tenant, job_id) == [1, 2, 4]
    tenant.client.fine_tuning.jobs.cancel(child.id)


def test_a_model_is_announced_a_week_before_it_is_deleted(tenant: Tenant) -> None:
    hook = {"url": "https://h.example.com", "event_types": ["model.expiring", "model.expired"]}
    admin = {"authorization": f"Bearer {tenant.new_key(Scope.ADMIN)}"}
    tenant.http.post("/v1/webhook_endpoints", json=hook, headers=admin).raise_for_status()
    job_id = an_ended_job(tenant)["job_id"]
    model_id = a_model(tenant, job_id=job_id)
    tenant.limit(models_kept_days=DAYS)
    for _ in range(2):  # it is told once
        clean(tenant)
        assert is_there(tenant, model_id)
    assert retention(tenant, model_id)["expires_at"] is not None
    set_model(tenant, model_id, expires_at=now_plus(-1))
    clean(tenant)
    assert not is_there(tenant, model_id)
    told = [text for text in messages(tenant, job_id) if model_id in text]
    assert [("is deleted." in text, "unless it is used" in text) for text in told] == [
        (True, False),
        (False, True),
    ]
    with tenant.api.database.read() as session:
        of_model = select(WebhookDelivery.event_type).where(WebhookDelivery.job_id == model_id)
        assert sorted(session.scalars(of_model)) == ["model.expired", "model.expiring"]
        key = f"models/{model_id}/weights.bin"
        assert session.get(Orphan, key) is not None


def announced(tenant: Tenant) -> str:
    model_id = a_model(tenant)
    tenant.limit(models_kept_days=DAYS)
    clean(tenant)
    assert retention(tenant, model_id)["expires_at"] is not None
    return model_id


def test_a_question_or_a_download_calls_it_off(tenant: Tenant) -> None:
    asked, downloaded, archived, hubbed = (announced(tenant) for _ in range(4))
    counts = QuestionCounts(tenant.api.settings)
    counts.add(QuestionKey(tenant.project_id, "key", asked), QuestionCount(1, 1, 1))
    counts.write(tenant.api.database)
    hub_id = tenant.http.get(f"/v1/models/{hubbed}").json()["hub_id"]
    for path in (
        f"/v1/models/{downloaded}/artifacts/weights.bin",
        f"/v1/models/{archived}/archive",
        f"/hub/{hub_id}/resolve/main/weights.bin",
    ):
        assert tenant.http.get(path).status_code == 200, path
    for model_id in (asked, downloaded, archived, hubbed):
        state = retention(tenant, model_id)
        assert state["expires_at"] is None, model_id
        assert state["used_at"] is not None
    clean(tenant)
    assert retention(tenant, asked)["expires_at"] is None


def test_a_pinned_model_stays(tenant: Tenant) -> None:
    model_id = announced(tenant)
    path = f"/v1/models/{model_id}/retention"
    pinned = tenant.http.post(path, json={"pinned": True}).raise_for_status().json()
    assert (pinned["pinned"], pinned["expires_at"]) == (True, None)
    clean(tenant)
    assert retention(tenant, model_id)["expires_at"] is None
    tenant.http.post(path, json={"pinned": False}).raise_for_status()
    clean(tenant)
    assert retention(tenant, model_id)["expires_at"] is not None


def test_a_model_that_anything_needs_stays(tenant: Tenant) -> None:
    """Announced before it was needed; and due."""
    named, trained, parent, loaded, batched = (announced(tenant) for _ in range(5))
    tenant.http.post("/v1/aliases", json={"name": "mine", "model": named}).raise_for_status()
    job = tenant.job(model=trained)
    a_model(tenant, base=parent)
    file_id = tenant.upload()
    with tenant.api.database.transaction() as session:
        session.add(Engine(model_id=loaded, state=EngineState.WAITING, used_at=now_plus()))
        batch = {"id": new_id("batch_"), "project_id": tenant.project_id, "status": "in_progress"}
        session.add(
            Batch(
                **batch,
                key_id="key",
                endpoint="/v1/chat/completions",
                input_file_id=file_id,
                model_id=batched,
                expires_at=now_plus(3600),
            )
        )
    needed = (named, trained, parent, loaded, batched)
    for model_id in needed:
        set_model(tenant, model_id, expires_at=now_plus(-1))
    clean(tenant)
    for model_id in needed:
        assert is_there(tenant, model_id), needed.index(model_id)
        assert retention(tenant, model_id)["expires_at"] is None
    tenant.client.fine_tuning.jobs.cancel(job.id)
    with tenant.api.database.transaction() as session:
        session.delete(session.get_one(Engine, (loaded, 0)))
        session.delete(session.get_one(Batch, batch["id"]))


def test_another_project_pins_and_sees_nothing(tenant: Tenant, stranger: Tenant) -> None:
    model_id = a_model(tenant)
    path = f"/v1/models/{model_id}/retention"
    assert stranger.http.get(path).status_code == 404
    assert stranger.http.post(path, json={"pinned": True}).status_code == 404
    everything = {"search": "ft:", "created_before": 32_000_000_000}
    gone = (
        stranger.http.post("/v1/falqon/deletions/models", json=everything).raise_for_status().json()
    )
    assert (gone["deleted"], gone["kept"]) == ([], [])
    assert is_there(tenant, model_id)
    assert not retention(tenant, model_id)["pinned"]


def test_models_are_deleted_by_criteria_and_those_in_use_stay(tenant: Tenant) -> None:
    old = [a_model(tenant) for _ in range(AT_ONCE + 1)]
    named, fresh = a_model(tenant), new_id("ft:tiny:acme::")
    tenant.add_model(fresh, project_id=tenant.project_id, base=tenant.base_model)
    tenant.http.post("/v1/aliases", json={"name": "kept", "model": named}).raise_for_status()
    with tenant.api.database.read() as session:
        day = session.scalars(select(Model.created_at).where(Model.id == fresh)).one()
    body = {"unused_since": int(day.timestamp()) - 86_400, "base_model": tenant.base_model}

    def delete(**more: Any) -> dict[str, Any]:
        answer = tenant.http.post("/v1/falqon/deletions/models", json=body | more)
        result: dict[str, Any] = answer.raise_for_status().json()
        return result

    dry = delete(dry_run=True)
    assert (dry["deleted"], dry["has_more"]) == (sorted(old)[:AT_ONCE], True)
    assert all(is_there(tenant, model_id) for model_id in old[:3])
    first = delete()
    assert first == dry
    second = delete(after=first["last_id"])
    assert second["deleted"] == sorted(old)[AT_ONCE:]
    assert [(each["id"], each["code"]) for each in second["kept"]] == [(named, "model_in_use")]
    assert not second["has_more"]
    assert delete()["deleted"] == []
    assert is_there(tenant, fresh)


def test_jobs_are_deleted_by_criteria(tenant: Tenant) -> None:
    job_id, names = an_old_job(tenant, {1: None, 2: None})
    child = tenant.job(model=names[1])
    other = an_ended_job(tenant)["job_id"]
    body = {"status": "cancelled"}
    answer = tenant.http.post("/v1/falqon/deletions/jobs", json=body).raise_for_status().json()
    assert answer["deleted"] == [other]
    assert [(each["id"], each["code"]) for each in answer["kept"]] == [
        (job_id, "checkpoint_in_use")
    ]
    tenant.client.fine_tuning.jobs.cancel(child.id)
    answer = tenant.http.post("/v1/falqon/deletions/jobs", json=body).raise_for_status().json()
    assert (answer["deleted"], answer["bytes"]) == ([job_id, child.id], 2)


@pytest.mark.parametrize("path", ["/v1/falqon/deletions/models", "/v1/falqon/deletions/jobs"])
def test_a_deletion_without_a_criterion_is_refused(tenant: Tenant, path: str) -> None:
    for body in ({}, {"dry_run": False}, {"search": ""}, {"created_before": 0}):
        assert tenant.http.post(path, json=body).status_code == 400, body


CLEAN_ONCE = """
import sys
from datetime import timedelta
from app.base.database import Database
from app.retention import cleaner
database = Database(sys.argv[1])
cleaner.remove_checkpoints(database, sys.argv[2], timedelta(days=30))
cleaner.expire_models(database, sys.argv[2])
"""


@pytest.mark.parametrize("passage", [1, 3, 5])
def test_a_kill_leaves_each_job_and_model_whole(
    tenant: Tenant, tmp_path: Path, passage: int
) -> None:
    jobs = [an_old_job(tenant, {1: None, 2: None, 3: None})[0] for _ in range(3)]
    models = [a_model(tenant) for _ in range(3)]
    for model_id in models:
        set_model(tenant, model_id, expires_at=now_plus(-1))
    url = tenant.api.settings.resolved_database_url
    faults = {
        "FAULT_POINTS": f"before_retention_commit=exit*{passage}",
        "FAULT_MARKS": str(tmp_path),
    }
    command = [sys.executable, "-c", CLEAN_ONCE, url, tenant.project_id]
    assert subprocess.run(command, env=os.environ | faults, check=False).returncode == 137
    assert num_done(tenant, jobs, models) == passage - 1
    subprocess.run(command, check=True)
    assert num_done(tenant, jobs, models) == 6


def num_done(tenant: Tenant, jobs: list[str], models: list[str]) -> int:
    """Count what is done; what is not is as it was."""
    count = 0
    for job_id in jobs:
        left = len(steps(tenant, job_id))
        with tenant.api.database.read() as session:
            mine = Orphan.storage_key.startswith(f"checkpoints/{job_id}/")
            marked = session.scalar(select(func.count()).where(mine))
            removed_at = session.get_one(Job, job_id).checkpoints_removed_at
        assert (left, marked, removed_at is None) in ((3, 0, True), (1, 2, False))
        count += left == 1
    for model_id in models:
        with tenant.api.database.read() as session:
            is_marked = session.get(Orphan, f"models/{model_id}/weights.bin") is not None
        assert is_marked != is_there(tenant, model_id)
        count += is_marked
    return count
