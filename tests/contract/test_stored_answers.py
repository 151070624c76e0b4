"""Stored answers through the official client: read, rated, corrected, deleted, kept apart."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import openai
import pytest
from sqlalchemy import func, select, update

from app.base.database import now
from app.base.ids import first_id
from app.models import AuditLog, Project, Scope, StoredAnswer, StoredAnswerMetadata
from app.models.answer_file import AnswerFilter
from app.stored_answers import repository, service
from app.stored_answers.storing import store
from tests.support.answers import add_answer, keep_answers, new_answer
from tests.support.api import Api, Tenant

both_databases = pytest.mark.both_databases


@pytest.fixture
def tenant(api: Api) -> Iterator[Tenant]:
    tenant = Tenant(api, Scope.ADMIN)
    keep_answers(tenant)
    yield tenant
    tenant.http.close()


def add(tenant: Tenant, *args: Any, **fields: Any) -> str:
    return add_answer(tenant.api.database, tenant.project_id, *args, **fields)


def refusal(answer: httpx.Response) -> tuple[int, str | None, str]:
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["code"]


def sums(tenant: Tenant) -> tuple[int, int]:
    """Return the bytes of the project's row, and of its answers."""
    own = StoredAnswer.project_id == tenant.project_id
    with tenant.api.database.read() as session:
        total = select(Project.answer_bytes).where(Project.id == tenant.project_id)
        of_rows = select(func.coalesce(func.sum(StoredAnswer.bytes), 0)).where(own)
        return session.scalar(total) or 0, int(session.scalar(of_rows) or 0)


@both_databases
def test_the_client_lists_filters_and_pages(tenant: Tenant) -> None:
    stored = tenant.client.chat.completions
    ids = [add(tenant, team="red", env="a" if i % 2 else "b") for i in range(5)]
    other = add(tenant, model="other")
    assert [each.id for each in stored.list(limit=2)] == [*ids, other], "the oldest first"
    assert [each.id for each in stored.list(limit=2, order="desc")] == [other, *reversed(ids)]
    assert [each.id for each in stored.list(model="other")] == [other]
    pairs = {"team": "red", "env": "a"}
    assert [each.id for each in stored.list(metadata=pairs, limit=1)] == [ids[1], ids[3]]
    first = stored.retrieve(ids[0])
    assert first.choices[0].message.content == "four"
    assert first.metadata == {"team": "red", "env": "b"}
    (message,) = stored.messages.list(ids[0])
    assert (message.role, message.content) == ("user", "two and two?")
    with tenant.api.database.read() as session:
        moment = int(now(session).timestamp())
    for query, expected in (
        ({"created_before": moment - 60}, []),
        ({"created_after": moment - 60}, [*ids, other]),
        ({"corrected": "true"}, []),
    ):
        found = stored.list(extra_query=query)
        assert [each.id for each in found] == expected, query


def test_a_rating_and_a_correction_come_through_the_update(tenant: Tenant) -> None:
    stored = tenant.client.chat.completions
    id_ = add(tenant, team="red")
    correction = {"falqon": {"corrected": "4"}}
    rated = stored.update(id_, metadata={"rating": "bad"}, extra_body=correction)
    assert rated.metadata == {"rating": "bad"}
    assert rated.corrected == {"role": "assistant", "content": "4"}
    assert [each.id for each in stored.list(metadata={"rating": "bad"})] == [id_]
    assert list(stored.list(metadata={"team": "red"})) == [], "all pairs are replaced"
    corrected = stored.list(extra_query={"corrected": "true"})
    assert [each.id for each in corrected] == [id_]
    path = f"/v1/chat/completions/{id_}"
    body = {"falqon": {"corrected": None}}
    again = tenant.http.post(path, json=body).json()
    assert (again["corrected"], again["metadata"]) == (None, {"rating": "bad"})
    assert sums(tenant)[0] == sums(tenant)[1]
    empty = tenant.http.post(path, json={"falqon": {"corrected": {"role": "assistant"}}})
    assert refusal(empty) == (400, "falqon.corrected", "invalid_value")


def test_metadata_has_the_bounds_of_openai(tenant: Tenant) -> None:
    id_ = add(tenant)
    for metadata in (
        {"a": "b" * 2**20},
        {"a": "b" * 513},
        {"k" * 65: "b"},
        {str(i): "b" for i in range(17)},
    ):
        answer = tenant.http.post(f"/v1/chat/completions/{id_}", json={"metadata": metadata})
        assert answer.status_code in (400, 413), metadata
    too_many = {f"metadata[{i}]": "b" for i in range(17)}
    answer = tenant.http.get("/v1/chat/completions", params=too_many)
    assert refusal(answer)[:2] == (400, "metadata")
    unknown = tenant.http.get("/v1/chat/completions", params={"user": "a"})
    assert refusal(unknown) == (400, "user", "unknown_parameter")


def test_another_project_s_answer_is_no_answer(tenant: Tenant, stranger: Tenant) -> None:
    id_ = add(tenant, team="red")
    stored = stranger.client.chat.completions
    keep_answers(stranger)
    for call in (
        lambda: stored.retrieve(id_),
        lambda: stored.update(id_, metadata={}),
        lambda: stored.delete(id_),
        lambda: list(stored.messages.list(id_)),
    ):
        with pytest.raises(openai.NotFoundError, match="No such stored answer"):
            call()
    assert list(stored.list(after=id_)) == []
    assert list(stored.list(metadata={"team": "red"})) == []
    filter = {"metadata": {"team": "red"}}
    deleted = stranger.http.post("/v1/stored_answers/delete", json=filter)
    assert deleted.json()["num_deleted"] == 0
    assert stored.list().data == []
    assert tenant.client.chat.completions.retrieve(id_).metadata == {"team": "red"}


@both_databases
def test_deletions_at_once_and_under_a_list_count_each_answer_once(tenant: Tenant) -> None:
    stored = tenant.client.chat.completions
    ids = [add(tenant, team="red") for _ in range(6)]
    first = stored.list(limit=2)
    assert stored.delete(ids[1]).deleted, "the cursor of the next page"
    assert [each.id for each in first.get_next_page().data] == ids[2:4]
    with pytest.raises(openai.NotFoundError):
        stored.update(ids[1], metadata={"rating": "good"})
    filter = {"metadata": {"team": "red"}}

    def delete(_number: int) -> int:
        answer = tenant.http.post("/v1/stored_answers/delete", json=filter)
        return int(answer.json()["num_deleted"])

    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(delete, range(4)))
    assert sum(counts) == 5
    assert sums(tenant) == (0, 0)
    own = StoredAnswerMetadata.project_id == tenant.project_id
    with tenant.api.database.read() as session:
        assert session.scalar(select(func.count()).where(own)) == 0
    empty = tenant.http.post("/v1/stored_answers/delete", json={})
    assert refusal(empty) == (400, "filter", "empty_filter")


@both_databases
def test_an_answer_is_stored_once_redacted_and_within_the_bytes(tenant: Tenant) -> None:
    keep_answers(tenant, redact=["[0-9]{4} [0-9]{4}", "(?i)ann@[a-z.]+"])
    answer = new_answer(
        tenant.project_id, "Your card is 1234 5678", question="Ann@example.com", card="1234 5678"
    )
    store(tenant.api.database, [answer])
    store(tenant.api.database, [answer])  # as after a commit whose result was lost
    (only,) = tenant.client.chat.completions.list()
    assert only.choices[0].message.content == "Your card is [redacted]"
    assert only.metadata == {"card": "[redacted]"}
    (message,) = tenant.client.chat.completions.messages.list(only.id)
    assert message.content == "[redacted]"
    num_bytes = sums(tenant)[0]
    assert num_bytes == sums(tenant)[1]
    keep_answers(tenant, max_bytes=num_bytes)
    add(tenant)
    assert len(tenant.client.chat.completions.list().data) == 1
    longer = {"falqon": {"corrected": "a" * 100}}
    full = tenant.http.post(f"/v1/chat/completions/{only.id}", json=longer)
    assert refusal(full) == (429, "max_bytes", "insufficient_quota")


def test_metadata_are_redacted_whatever_their_names(tenant: Tenant) -> None:
    keep_answers(tenant, redact=["(?i)ann@[a-z.]+"])
    pairs = dict.fromkeys(("id", "name", "role", "status", "type", "arguments"), "ann@example.com")
    redacted = dict.fromkeys(pairs, "[redacted]")
    answer = new_answer(tenant.project_id)
    store(tenant.api.database, [replace(answer, metadata=pairs)])
    (stored,) = tenant.client.chat.completions.list()
    assert stored.metadata == redacted
    tenant.client.chat.completions.update(stored.id, metadata={"model": "of Ann@example.com"})
    assert tenant.client.chat.completions.retrieve(stored.id).metadata == {"model": "of [redacted]"}


@both_databases
def test_old_answers_and_those_of_a_project_that_keeps_none_are_removed(tenant: Tenant) -> None:
    database = tenant.api.database
    old, recent = add(tenant), add(tenant)
    with database.transaction() as session:
        long_ago = first_id("", now(session) - timedelta(days=31)) + "0" * 20
        row = StoredAnswer.id == old.removeprefix("chatcmpl-")
        session.execute(update(StoredAnswer).where(row).values(id=long_ago))
    service.remove_old(database)
    assert [each.id for each in tenant.client.chat.completions.list()] == [recent]
    path = f"/v1/projects/{tenant.project_id}"
    project = tenant.http.post(path, json={"answer_storage": None}).json()
    assert (project["answer_storage"], project["answer_bytes"] > 0) == (None, True)
    service.remove_old(database)
    assert sums(tenant) == (0, 0)
    add(tenant)
    assert sums(tenant) == (0, 0), "off: not a byte"


def test_a_project_sets_its_rules(tenant: Tenant) -> None:
    path = f"/v1/projects/{tenant.project_id}"
    rules = {"kept_days": 7, "max_bytes": 10**6, "redact": ["[0-9]+"]}
    project = tenant.http.post(path, json={"answer_storage": rules}).json()
    assert project["answer_storage"] == rules
    for pattern in ("(a", "(?=a)", "a*", "((a{900}){900}){900}", ""):
        answer = tenant.http.post(path, json={"answer_storage": {"redact": [pattern]}})
        assert refusal(answer)[:2] == (400, "answer_storage.redact.0"), pattern


def test_reading_is_in_the_audit_log(tenant: Tenant) -> None:
    id_ = add(tenant)
    tenant.client.chat.completions.list()
    tenant.client.chat.completions.retrieve(id_)
    with tenant.api.database.read() as session:
        rows = select(AuditLog.event_type, AuditLog.resource_id).order_by(AuditLog.id)
        events = session.execute(rows.where(AuditLog.project_id == tenant.project_id)).all()
    assert [tuple(row) for row in events] == [
        ("stored_answer.listed", None),
        ("stored_answer.read", id_),
    ]


def test_an_unknown_answer_of_a_page_ends_no_list(tenant: Tenant) -> None:
    with pytest.raises(openai.BadRequestError, match="after: 'x' is not the id"):
        tenant.client.chat.completions.list(after="x")
    with tenant.api.database.read() as session:
        filter = AnswerFilter(metadata={"a": "b"}, model="m", corrected=True)
        order = {"after": None, "limit": 3, "order": "desc"}
        assert repository.page(session, tenant.project_id, filter, **order) == []
