import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import HttpUrl, SecretStr
from sqlalchemy import select, update

from app.base.database import Database, now_plus
from app.base.settings import Settings
from app.jobs import claims
from app.jobs.claims import Claim, JobFailure
from app.jobs.events import NewEvent
from app.models import DeliveryStatus, JobStatus, WebhookDelivery, WebhookEndpoint
from app.webhooks import posting, repository, service
from app.webhooks.dispatcher import MAX_ATTEMPTS, NUM_SENDERS, Dispatcher, retry_seconds
from app.webhooks.schemas import EndpointObject, NewEndpoint
from tests.support.backend import Backend
from tests.support.receiver import Receiver, silent_receiver
from tests.support.services import ADMIN, make_services
from tests.support.waiting import wait_for


@pytest.fixture
def backend(tmp_path: Path, database: Database, database_url: str) -> Iterator[Backend]:
    backend = Backend(tmp_path / "data", database, database_url)
    backend.settings = backend.settings.model_copy(
        update={"webhook_networks": [ip_network("127.0.0.0/8")]}
    )
    yield backend
    backend.close()


@pytest.fixture
def dispatcher(backend: Backend) -> Dispatcher:
    return Dispatcher(backend.database, backend.settings)


def add_endpoint(backend: Backend, url: str, **options: object) -> EndpointObject:
    request = NewEndpoint(url=HttpUrl(url), **options)  # type: ignore[arg-type]
    services = make_services(backend.settings, backend.database, backend.storage)
    return service.create_endpoint(services, ADMIN, request)


def end_a_job(backend: Backend, status: JobStatus = JobStatus.FAILED) -> str:
    job_id = backend.add_job()
    with backend.database.transaction() as session:
        job = claims.claim(session, owner="w", device="cpu", num_devices=1, lease_seconds=60)
        assert job is not None
        failure = JobFailure("bad", "bad") if status is JobStatus.FAILED else None
        assert claims.finish(
            session, Claim(job.id, job.attempt, "w"), status, NewEvent("end"), failure=failure
        )
    return job_id


def deliveries(backend: Backend) -> list[WebhookDelivery]:
    with backend.database.read() as session:
        return list(session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id)))


def make_due(backend: Backend) -> None:
    with backend.database.transaction() as session:
        session.execute(
            update(WebhookDelivery)
            .where(WebhookDelivery.due_at.is_not(None))
            .values(due_at=now_plus())
        )


def send_all(dispatcher: Dispatcher) -> None:
    while dispatcher.send_next():
        pass


def test_every_event_goes_to_its_subscribed_endpoints(
    backend: Backend, receiver: Receiver, dispatcher: Dispatcher
) -> None:
    add_endpoint(backend, receiver.url)
    add_endpoint(
        backend, receiver.url, event_types=["fine_tuning.job.running", "fine_tuning.job.failed"]
    )
    job_id = end_a_job(backend)
    assert sorted((row.event_type, row.job_id) for row in deliveries(backend)) == [
        ("fine_tuning.job.failed", job_id),
        ("fine_tuning.job.failed", job_id),
        ("fine_tuning.job.running", job_id),
    ]
    send_all(dispatcher)
    assert len(receiver.received) == 3
    assert all(
        (row.status, row.attempts, row.status_code, row.due_at) == ("delivered", 1, 204, None)
        for row in deliveries(backend)
    )
    failed = {
        row.event_id for row in deliveries(backend) if row.event_type == "fine_tuning.job.failed"
    }
    assert len(failed) == 1, "one event, one id, however many endpoints"


@pytest.mark.parametrize(
    ("desired", "delivered"), [("run", []), ("pause", ["paused"]), ("cancel", ["cancelled"])]
)
def test_a_job_that_its_worker_hands_back_is_told_as_what_it_became(
    backend: Backend, receiver: Receiver, desired: str, delivered: list[str]
) -> None:
    add_endpoint(
        backend,
        receiver.url,
        event_types=[
            "fine_tuning.job.paused",
            "fine_tuning.job.cancelled",
            "fine_tuning.job.failed",
        ],
    )
    job_id = backend.add_job()
    with backend.database.transaction() as session:
        job = claims.claim(session, owner="w", device="cpu", num_devices=1, lease_seconds=60)
        assert job is not None
    backend.set(job_id, desired=desired)
    with backend.database.transaction() as session:
        assert claims.release(
            session,
            Claim(job_id, 1, "w"),
            NewEvent("stop"),
            counts_as_failure=False,
            max_infra_failures=3,
        )
    assert [row.event_type for row in deliveries(backend)] == [
        f"fine_tuning.job.{status}" for status in delivered
    ]


def test_a_job_that_lost_too_many_workers_is_told_as_failed(
    backend: Backend, receiver: Receiver
) -> None:
    add_endpoint(backend, receiver.url)
    job_id = backend.add_job()
    for _ in range(2):
        with backend.database.transaction() as session:
            assert claims.claim(session, owner="w", device="cpu", num_devices=1, lease_seconds=-1)
        with backend.database.transaction() as session:
            assert claims.rescue(session, max_infra_failures=1) == [job_id]
    assert [row.event_type for row in deliveries(backend)] == ["fine_tuning.job.failed"]


def test_a_transaction_that_is_rolled_back_tells_nobody(
    backend: Backend, receiver: Receiver, dispatcher: Dispatcher
) -> None:
    add_endpoint(backend, receiver.url)
    job_id = backend.add_job()
    with backend.database.transaction() as session:
        job = claims.claim(session, owner="w", device="cpu", num_devices=1, lease_seconds=60)
        assert job is not None
        assert claims.finish(session, Claim(job_id, 1, "w"), JobStatus.SUCCEEDED, NewEvent("end"))
        session.rollback()
    assert deliveries(backend) == []


def test_a_zombie_tells_nobody(backend: Backend, receiver: Receiver) -> None:
    add_endpoint(backend, receiver.url)
    job_id = end_a_job(backend)
    with backend.database.transaction() as session:
        assert not claims.finish(
            session, Claim(job_id, 1, "w"), JobStatus.SUCCEEDED, NewEvent("end")
        )
    assert [row.event_type for row in deliveries(backend)] == ["fine_tuning.job.failed"]


def test_many_dispatchers_send_each_once(backend: Backend, receiver: Receiver) -> None:
    add_endpoint(backend, receiver.url)
    jobs = {end_a_job(backend) for _ in range(12)}
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: send_all(Dispatcher(backend.database, backend.settings)), range(6)))
    assert {row.job_id for row in deliveries(backend)} == jobs
    assert {(row.status, row.attempts) for row in deliveries(backend)} == {("delivered", 1)}
    assert (
        len({received.headers["webhook-id"] for received in receiver.received})
        == len(receiver.received)
        == 12
    )


def test_an_endpoint_has_one_delivery_in_flight_and_gets_them_in_order(backend: Backend) -> None:
    add_endpoint(backend, "http://127.0.0.1:1/")
    add_endpoint(backend, "http://127.0.0.1:1/")
    for _ in range(2):
        end_a_job(backend)
    rows = deliveries(backend)
    first, second = rows[:2], rows[2:]

    def due() -> set[str]:
        with backend.database.read() as session:
            return set(repository.due(session))

    def claim(delivery_id: str, lease_seconds: float = 60) -> WebhookDelivery | None:
        with backend.database.transaction() as session:
            return repository.claim(session, delivery_id, lease_seconds)

    assert due() == {row.id for row in first}
    sent, other = first
    following = next(row for row in second if row.endpoint_id == sent.endpoint_id)
    claimed = claim(sent.id)
    assert claimed is not None
    assert due() == {other.id}
    assert claim(following.id) is None
    with backend.database.transaction() as session:
        repository.record(session, claimed, due_at=now_plus(60), error="the endpoint answered 500")
    assert due() == {other.id, following.id}, "a failed one lets the others pass"
    # Those of a sender that died are due again.
    assert claim(following.id, lease_seconds=-60) is not None
    assert due() == {other.id, following.id}


def test_a_silent_endpoint_delays_no_other(
    backend: Backend, receiver: Receiver, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.webhooks.dispatcher.TICK_SECONDS", 0.05)
    with silent_receiver() as url:
        silent = add_endpoint(backend, url)
        for _ in range(5 * NUM_SENDERS):
            end_a_job(backend)
        add_endpoint(backend, receiver.url)
        end_a_job(backend)

        def num_tried() -> int:
            rows = deliveries(backend)
            return sum(row.attempts for row in rows if row.endpoint_id == silent.id)

        dispatcher.start()
        try:
            wait_for(num_tried)
            wait_for(lambda: receiver.received, posting.TIMEOUT_SECONDS / 2)
            time.sleep(0.5)  # The other senders poll several times.
            assert num_tried() == 1
        finally:
            dispatcher.stop()
    for thread in dispatcher._threads:
        thread.join()


def test_failures_are_tried_again_later_with_the_same_id(
    backend: Backend, receiver: Receiver, dispatcher: Dispatcher
) -> None:
    add_endpoint(backend, receiver.url)
    receiver.answers.extendleft([302, 500])
    end_a_job(backend)
    for attempt, answered in ((1, 500), (2, 302)):
        send_all(dispatcher)
        (row,) = deliveries(backend)
        assert (row.status, row.attempts, row.status_code, row.error) == (
            "pending",
            attempt,
            answered,
            f"the endpoint answered {answered}",
        )
        assert row.due_at is not None
        assert row.attempted_at is not None
        waits = row.due_at - row.attempted_at
        expected = 5**attempt
        busy = 10.0
        assert timedelta(seconds=0.8 * expected) < waits < timedelta(seconds=1.2 * expected + busy)
        assert dispatcher.send_next() is False
        make_due(backend)
    send_all(dispatcher)
    (row,) = deliveries(backend)
    assert (row.status, row.attempts, row.status_code, row.error) == ("delivered", 3, 204, None)
    assert len({received.headers["webhook-id"] for received in receiver.received}) == 1


def test_a_delivery_is_given_up_after_the_last_attempt(
    backend: Backend, receiver: Receiver, dispatcher: Dispatcher
) -> None:
    add_endpoint(backend, "http://127.0.0.1:1/")
    end_a_job(backend)
    for _ in range(MAX_ATTEMPTS):
        make_due(backend)
        send_all(dispatcher)
    (row,) = deliveries(backend)
    assert (row.status, row.attempts, row.status_code, row.due_at) == (
        "failed",
        MAX_ATTEMPTS,
        None,
        None,
    )
    assert row.error == "the connection failed: Connection refused"


def test_the_attempts_spread_over_about_a_day() -> None:
    hours = sum(retry_seconds(attempts) for attempts in range(1, MAX_ATTEMPTS)) / 3600
    assert 20 < hours < 35


def test_gone_disables_the_endpoint_and_what_was_still_to_come(
    backend: Backend, receiver: Receiver, dispatcher: Dispatcher
) -> None:
    endpoint = add_endpoint(backend, receiver.url)
    receiver.answers[0] = 410
    for _ in range(3):
        end_a_job(backend)
    send_all(dispatcher)
    assert len(receiver.received) == 1
    assert sorted(
        (row.status, row.status_code or 0, row.error or "") for row in deliveries(backend)
    ) == [
        ("failed", 0, "the endpoint was disabled"),
        ("failed", 0, "the endpoint was disabled"),
        ("failed", 410, "the endpoint answered 410"),
    ]
    end_a_job(backend)
    assert len(deliveries(backend)) == 3
    with backend.database.read() as session:
        stored = session.get_one(WebhookEndpoint, endpoint.id)
    assert (stored.enabled, stored.disabled_reason) == (False, "gone")


def test_deliveries_of_a_dead_sender_are_sent_again_and_its_late_result_is_ignored(
    backend: Backend, receiver: Receiver, dispatcher: Dispatcher
) -> None:
    add_endpoint(backend, receiver.url)
    end_a_job(backend)
    (row,) = deliveries(backend)
    with backend.database.transaction() as session:
        stale = repository.claim(session, row.id, 60)
        assert stale is not None
    assert dispatcher.send_next() is False
    make_due(backend)
    send_all(dispatcher)
    with backend.database.transaction() as session:
        repository.record(session, stale, status=DeliveryStatus.FAILED, error="late")
    (row,) = deliveries(backend)
    assert (row.status, row.attempts, row.error) == ("delivered", 2, None)


def test_the_address_of_a_webhook_is_checked_at_each_delivery(
    backend: Backend, receiver: Receiver
) -> None:
    """The setting, or what the name resolves to, may have changed since it was created."""
    add_endpoint(backend, receiver.url)
    end_a_job(backend)
    closed = backend.settings.model_copy(update={"webhook_networks": []})
    send_all(Dispatcher(backend.database, closed))
    (row,) = deliveries(backend)
    assert (row.status, row.attempts, row.error) == ("pending", 1, "only https is accepted")
    assert receiver.received == []


def test_a_changed_secret_of_the_service_signs_nothing_wrong(
    backend: Backend, receiver: Receiver
) -> None:
    add_endpoint(backend, receiver.url)
    end_a_job(backend)
    changed: Settings = backend.settings.model_copy(update={"session_secret": SecretStr("another")})
    send_all(Dispatcher(backend.database, changed))
    (row,) = deliveries(backend)
    assert row.error is not None
    assert "rotate the signing secret" in row.error
    assert receiver.received == []
