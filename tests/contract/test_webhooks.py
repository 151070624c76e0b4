"""Through the official client, which knows webhook endpoints, and against a real receiver on this
machine.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from openai import InvalidWebhookSignatureError

from app.jobs import claims
from app.jobs.events import NewEvent, append
from app.models import JobStatus, WebhookDelivery, WebhookEndpoint
from app.webhooks import events
from tests.contract.test_quotas import ran_for
from tests.support.api import Api, Tenant
from tests.support.receiver import Receiver, silent_receiver
from tests.support.waiting import wait_for

DEFAULT = ["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"]
URL = "https://hooks.example.com/falqon?key=1"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """May send to this machine, and looks for what is due all the time."""
    folder = tmp_path_factory.mktemp("webhooks")
    url = f"sqlite:///{folder / 'falqon.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.webhooks.dispatcher.TICK_SECONDS", 0.05)
        api = Api(url, folder, webhook_networks=["127.0.0.0/8"])
        yield api
        api.stop()


def create(tenant: Tenant, url: str = URL, **options: Any) -> Any:
    return tenant.client.webhooks.create(
        **{"url": url, "name": "ours", "event_types": DEFAULT} | options
    )


def deliveries(tenant: Tenant, endpoint_id: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = tenant.http.get(
        f"/v1/webhook_endpoints/{endpoint_id}/deliveries"
    ).json()["data"]
    return rows


def settled(tenant: Tenant, endpoint_id: str, count: int = 1) -> list[dict[str, Any]]:
    def look() -> list[dict[str, Any]]:
        rows = deliveries(tenant, endpoint_id)
        return (
            rows if len(rows) == count and all(row["status"] != "pending" for row in rows) else []
        )

    return wait_for(look)


def test_an_endpoint_lives(tenant: Tenant) -> None:
    webhooks = tenant.client.webhooks
    created = create(tenant)
    assert (created.object, created.name, created.url, created.event_types) == (
        "webhook_endpoint",
        "ours",
        URL,
        DEFAULT,
    )
    assert created.signing_secret.startswith("whsec_")
    assert created.signing_secret_hint == "whsec_..." + created.signing_secret[-5:-1]
    retrieved = webhooks.retrieve(created.id)
    assert retrieved.to_dict() == {
        name: value for name, value in created.to_dict().items() if name != "signing_secret"
    }
    assert (retrieved.enabled, retrieved.disabled_reason) == (True, None)  # type: ignore[attr-defined]

    changed = webhooks.update(
        created.id, name="theirs", url=URL + "2", event_types=["fine_tuning.job.failed"]
    )
    assert (changed.name, changed.url, changed.event_types) == (
        "theirs",
        URL + "2",
        ["fine_tuning.job.failed"],
    )
    assert webhooks.update(created.id, extra_body={"enabled": False}).disabled_reason == "requested"  # type: ignore[attr-defined]
    assert webhooks.update(created.id, extra_body={"enabled": True}).disabled_reason is None  # type: ignore[attr-defined]
    assert webhooks.update(created.id).name == "theirs"

    deleted = webhooks.delete(created.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (
        created.id,
        "webhook_endpoint.deleted",
        True,
    )
    with pytest.raises(openai.NotFoundError):
        webhooks.retrieve(created.id)


def test_a_webhook_needs_only_a_url(tenant: Tenant) -> None:
    answer = tenant.http.post(
        "/v1/webhook_endpoints", json={"url": "https://hooks.example.com"}
    ).json()
    assert (answer["name"], answer["url"], answer["event_types"]) == (
        "hooks.example.com",
        "https://hooks.example.com/",
        DEFAULT,
    )
    assert tenant.client.webhooks.event_types.list().data == [
        *DEFAULT,
        "fine_tuning.job.running",
        "fine_tuning.job.paused",
        "fine_tuning.job.health",
        "fine_tuning.job.evaluation.finished",
        "batch.completed",
        "batch.failed",
        "batch.expired",
        "batch.cancelled",
        "model.expiring",
        "model.expired",
        "fine_tuning.job.switch.canary",
        "fine_tuning.job.switch.switched",
        "fine_tuning.job.switch.kept",
        "fine_tuning.job.switch.rolled_back",
        "project.device_hours.warning",
        "project.device_hours.exhausted",
    ]


def test_lists_are_newest_first_and_end(tenant: Tenant) -> None:
    ids = [create(tenant).id for _ in range(5)]
    assert [endpoint.id for endpoint in tenant.client.webhooks.list(limit=2)] == ids[::-1]
    for path in ("/v1/webhook_endpoints", f"/v1/webhook_endpoints/{ids[0]}/deliveries"):
        answer = tenant.http.get(path, params={"after": "nobody"})
        assert (
            answer.status_code,
            answer.json()["error"]["param"],
            answer.json()["error"]["code"],
        ) == (400, "after", "invalid_cursor")
    assert [
        tenant.client.webhooks.delete(endpoint.id).id
        for endpoint in tenant.client.webhooks.list(limit=1)
    ] == ids[::-1]


def test_a_project_has_at_most_sixteen_webhook_endpoints(tenant: Tenant) -> None:
    for _ in range(16):
        create(tenant)
    with pytest.raises(openai.BadRequestError) as caught:
        create(tenant)
    assert caught.value.code == "too_many_webhook_endpoints"


FAULTS = {
    "http": ({"url": "http://8.8.8.8/"}, "url"),
    "other scheme": ({"url": "ftp://example.com/"}, "url"),
    "no url": ({"url": "hooks"}, "url"),
    "too long": ({"url": "https://example.com/" + "a" * 2100}, "url"),
    "bad port": ({"url": "https://example.com:99999/"}, "url"),
    "unknown event": ({"url": URL, "event_types": ["batch.deleted"]}, "event_types.0"),
    "no event": ({"url": URL, "event_types": []}, "event_types"),
    "no name": ({"url": URL, "name": ""}, "name"),
    "number": ({"url": 1}, "url"),
    "unknown field": ({"url": URL, "secret": "x"}, "secret"),
    "nothing": ({}, "url"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_requests_are_refused_and_write_nothing(tenant: Tenant, fault: str) -> None:
    body, param = FAULTS[fault]
    response = tenant.http.post("/v1/webhook_endpoints", json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert list(tenant.client.webhooks.list()) == []
    if "url" in body and "event_types" not in body and param == "url":
        endpoint = create(tenant)
        assert (
            tenant.http.post(f"/v1/webhook_endpoints/{endpoint.id}", json=body).status_code == 400
        )
        assert tenant.client.webhooks.retrieve(endpoint.id).url == URL


def test_a_cancelled_job_is_told_and_the_client_unwraps_it(
    tenant: Tenant, receiver: Receiver
) -> None:
    endpoint = create(tenant, receiver.url)
    job = tenant.job()
    tenant.client.fine_tuning.jobs.cancel(job.id)
    tenant.client.fine_tuning.jobs.cancel(job.id)
    (delivery,) = settled(tenant, endpoint.id)
    assert (
        delivery["status"],
        delivery["status_code"],
        delivery["attempts"],
        delivery["error"],
    ) == ("delivered", 204, 1, None)
    assert (delivery["fine_tuning_job_id"], delivery["event_type"]) == (
        job.id,
        "fine_tuning.job.cancelled",
    )
    ((path, headers, body),) = receiver.received
    assert path == "/hook?a=b"
    event = tenant.client.webhooks.unwrap(body, headers, secret=endpoint.signing_secret)
    assert (event.type, event.data.id, event.object) == (
        "fine_tuning.job.cancelled",
        job.id,
        "event",
    )
    assert event.id == headers["webhook-id"] == delivery["event_id"]
    assert set(json.loads(body)) == {"id", "object", "created_at", "type", "data"}
    with pytest.raises(InvalidWebhookSignatureError):
        tenant.client.webhooks.unwrap(body, headers, secret=create(tenant).signing_secret)


def test_bad_data_fails_the_job_and_is_told(tenant: Tenant, receiver: Receiver) -> None:
    endpoint = create(tenant, receiver.url)
    file_id = tenant.upload(b"not json\n", check=False)
    job = tenant.client.fine_tuning.jobs.create(model=tenant.base_model, training_file=file_id)
    tenant.check(file_id)
    settled(tenant, endpoint.id)
    event = tenant.client.webhooks.unwrap(
        receiver.received[0].body, receiver.received[0].headers, secret=endpoint.signing_secret
    )
    assert (event.type, event.data.id) == ("fine_tuning.job.failed", job.id)


def test_a_pause_is_sent_to_endpoints_that_subscribe_to_it(
    tenant: Tenant, receiver: Receiver
) -> None:
    create(tenant, receiver.url)
    asking = create(tenant, receiver.url, event_types=["fine_tuning.job.paused"])
    job = tenant.job()
    tenant.client.fine_tuning.jobs.pause(job.id)
    tenant.client.fine_tuning.jobs.resume(job.id)
    tenant.client.fine_tuning.jobs.pause(job.id)
    settled(tenant, asking.id, 2)
    assert [json.loads(received.body)["type"] for received in receiver.received] == [
        "fine_tuning.job.paused"
    ] * 2


def test_a_finding_on_health_is_sent_to_endpoints_that_subscribe_to_it(
    tenant: Tenant, receiver: Receiver
) -> None:
    create(tenant, receiver.url)
    asking = create(tenant, receiver.url, event_types=["fine_tuning.job.health"])
    job = tenant.job()
    told = NewEvent("Health: …", level="warn", data={"health": "overfitting", "is_over": False})
    metrics = NewEvent("Step 1", type="metrics", data={"step": 1, "health": 1})
    with tenant.api.database.transaction() as session:
        assert append(session, job.id, [NewEvent("Hello"), metrics])
        assert append(session, job.id, [told, metrics])
    settled(tenant, asking.id, 1)
    (received,) = receiver.received
    event = json.loads(received.body)
    assert (event["type"], event["data"]) == ("fine_tuning.job.health", {"id": job.id})


def test_device_hours_that_are_used_up_are_told_once_with_the_end_of_an_attempt(
    tenant: Tenant, receiver: Receiver
) -> None:
    endpoint = create(tenant, receiver.url, event_types=["project.device_hours.exhausted"])
    jobs = [tenant.job().id for _ in range(2)]
    tenant.limit(max_device_hours=1e-7)
    for job_id in jobs:
        claim = ran_for(tenant, job_id, hours=0.001)
        with tenant.api.database.transaction() as session:
            assert claims.finish(session, claim, JobStatus.SUCCEEDED, NewEvent("done"))
    (delivery,) = settled(tenant, endpoint.id)
    assert delivery["fine_tuning_job_id"] is None
    (received,) = receiver.received
    event = json.loads(received.body)
    assert (event["type"], event["data"]) == (
        "project.device_hours.exhausted",
        {"id": tenant.project_id},
    )


def test_deliveries_about_a_batch_or_a_model_name_no_job(
    tenant: Tenant, receiver: Receiver
) -> None:
    types = ["batch.completed", "model.expiring"]
    endpoint = create(tenant, receiver.url, event_types=types)
    with tenant.api.database.transaction() as session:
        events.record_batch(session, tenant.project_id, "batch_1", "completed")
        events.record_model(session, tenant.project_id, "ft:ours", "expiring")
    rows = settled(tenant, endpoint.id, 2)
    assert {row["event_type"]: row["fine_tuning_job_id"] for row in rows} == dict.fromkeys(types)
    subjects = {json.loads(received.body)["data"]["id"] for received in receiver.received}
    assert subjects == {"batch_1", "ft:ours"}


def test_a_delivery_is_sent_again_on_request(tenant: Tenant, receiver: Receiver) -> None:
    endpoint = create(tenant, receiver.url)
    tenant.client.fine_tuning.jobs.cancel(tenant.job().id)
    (first,) = settled(tenant, endpoint.id)
    path = f"/v1/webhook_endpoints/{endpoint.id}/deliveries"
    again = tenant.http.post(f"{path}/{first['id']}/resend").json()
    assert again["id"] != first["id"]
    assert (again["status"], again["event_id"]) == ("pending", first["event_id"])
    assert [row["id"] for row in settled(tenant, endpoint.id, 2)] == [again["id"], first["id"]]
    bodies = {received.body for received in receiver.received}
    assert len(receiver.received) == 2
    assert len(bodies) == 1, "the same event, to the byte"
    page = tenant.http.get(path, params={"limit": 1}).json()
    assert (page["has_more"], page["last_id"]) == (True, again["id"])
    page = tenant.http.get(path, params={"limit": 1, "after": page["last_id"]}).json()
    assert (page["has_more"], page["last_id"]) == (False, first["id"])
    assert tenant.http.post(f"{path}/whd_x/resend").status_code == 404
    tenant.client.webhooks.update(endpoint.id, extra_body={"enabled": False})
    refused = tenant.http.post(f"{path}/{first['id']}/resend")
    assert (refused.status_code, refused.json()["error"]["code"]) == (
        400,
        "webhook_endpoint_disabled",
    )


def test_a_disabled_endpoint_hears_nothing(tenant: Tenant, receiver: Receiver) -> None:
    endpoint = create(tenant, receiver.url)
    tenant.client.webhooks.update(endpoint.id, extra_body={"enabled": False})
    tenant.client.fine_tuning.jobs.cancel(tenant.job().id)
    assert deliveries(tenant, endpoint.id) == []


@pytest.mark.parametrize("keep", [True, False])
def test_a_rotated_secret_signs_beside_the_old_one_on_request(
    tenant: Tenant, receiver: Receiver, keep: bool
) -> None:
    webhooks = tenant.client.webhooks
    endpoint = create(tenant, receiver.url)
    rotated = webhooks.rotate_secret(endpoint.id, keep_old_secret_active_for_24_hours=keep)
    assert rotated.signing_secret != endpoint.signing_secret
    assert (
        rotated.signing_secret_hint
        == webhooks.retrieve(endpoint.id).signing_secret_hint
        != endpoint.signing_secret_hint
    )
    assert webhooks.test(endpoint.id, event_type="fine_tuning.job.succeeded").status_code == 204
    ((_, headers, body),) = receiver.received
    assert (
        webhooks.unwrap(body, headers, secret=rotated.signing_secret).type
        == "fine_tuning.job.succeeded"
    )
    if keep:
        assert webhooks.unwrap(body, headers, secret=endpoint.signing_secret)
    else:
        with pytest.raises(InvalidWebhookSignatureError):
            webhooks.unwrap(body, headers, secret=endpoint.signing_secret)
    assert webhooks.rotate_secret(endpoint.id).signing_secret != rotated.signing_secret
    assert deliveries(tenant, endpoint.id) == []


def test_a_test_delivery_reports_its_result(tenant: Tenant, receiver: Receiver) -> None:
    receiver.answers[0] = 500
    endpoint = create(tenant, receiver.url)
    result = tenant.client.webhooks.test(endpoint.id, event_type="fine_tuning.job.failed")
    assert (result.status_code, result.success, result.event_type) == (
        500,
        True,
        "fine_tuning.job.failed",
    )
    tenant.client.webhooks.update(endpoint.id, url="http://127.0.0.1:1/")
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.client.webhooks.test(endpoint.id, event_type="fine_tuning.job.failed")
    assert caught.value.code == "webhook_test_failed"
    assert "Connection refused" in str(caught.value)


def test_tests_of_a_silent_endpoint_hold_four_threads_at_most(tenant: Tenant) -> None:
    num_tests = 60  # half as many again as there are threads
    headers = {"authorization": f"Bearer {tenant.key}"}

    def send_sample(endpoint_id: str) -> httpx.Response:
        return httpx.post(
            f"{tenant.api.url}/v1/webhook_endpoints/{endpoint_id}/test",
            json={"event_type": DEFAULT[0]},
            headers=headers,
            timeout=60,
            verify=False,
        )

    with ThreadPoolExecutor(num_tests) as pool:
        with silent_receiver() as url:
            endpoint = create(tenant, url)
            answers = [pool.submit(send_sample, endpoint.id) for _ in range(num_tests)]
            time.sleep(1)  # they have all arrived
            started = time.monotonic()
            assert tenant.http.get("/v1/webhook_endpoints").status_code == 200
            assert time.monotonic() - started < 5, "a test waits for ten seconds"
            wait_for(lambda: sum(answer.done() for answer in answers) == num_tests - 4)
            refused = next(answer for answer in answers if answer.done()).result()
        statuses = Counter(answer.result().status_code for answer in answers)
    assert statuses == {429: num_tests - 4, 400: 4}
    assert refused.json()["error"]["code"] == "too_many_webhook_tests"
    assert refused.headers["retry-after"] == "10"
    with pytest.raises(openai.BadRequestError):  # They are free again.
        tenant.client.webhooks.test(endpoint.id, event_type="fine_tuning.job.failed")


def test_a_deleted_endpoint_takes_its_deliveries_along(tenant: Tenant, receiver: Receiver) -> None:
    before = tenant.num_rows(WebhookEndpoint, WebhookDelivery)
    endpoint = create(tenant, receiver.url)
    tenant.client.fine_tuning.jobs.cancel(tenant.job().id)
    settled(tenant, endpoint.id)
    tenant.client.webhooks.delete(endpoint.id)
    assert tenant.num_rows(WebhookEndpoint, WebhookDelivery) == before
