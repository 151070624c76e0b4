import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai._streaming import SSEDecoder
from sqlalchemy import delete

from app.http.event_stream import Ping, encode_event
from app.jobs import claims
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.models import Job, JobStatus
from tests.support.api import Tenant


def stream(tenant: Tenant, job_id: str, **extra: Any) -> openai.Stream[Any]:
    return tenant.client.get(
        f"/fine_tuning/jobs/{job_id}/stream",
        cast_to=object,
        stream=True,
        stream_cls=openai.Stream[Any],
        **extra,
    )


def step(tenant: Tenant, claim: Claim, number: int) -> None:
    with tenant.api.database.transaction() as session:
        drafts = [
            NewEvent(f"Step {number}", type="metrics", data={"step": number, "train_loss": 1.0})
        ]
        assert claims.append_events(session, claim, drafts)


def finish(tenant: Tenant, claim: Claim) -> None:
    with tenant.api.database.transaction() as session:
        assert claims.finish(session, claim, JobStatus.SUCCEEDED, NewEvent("done"))


def raw_events(
    tenant: Tenant, job_id: str, query: str = "", **headers: str
) -> Iterator[tuple[int | None, str]]:
    with tenant.http.stream(
        "GET", f"/v1/fine_tuning/jobs/{job_id}/stream{query}", headers=headers
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        seq = None
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                seq = int(value)
            elif name == "data":
                yield seq, value
                seq = None


def test_the_official_client_reads_a_job_live_to_its_end(tenant: Tenant) -> None:
    job = tenant.job()
    claim = tenant.claim(job.id)

    step(tenant, claim, 1)
    events = []
    # each next thing happens only once the one before was read
    for event in stream(tenant, job.id):
        events.append(event)
        if event["type"] == "metrics" and event["data"]["step"] < 2:
            step(tenant, claim, event["data"]["step"] + 1)
        elif event["type"] == "metrics":
            finish(tenant, claim)
    assert [event["message"] for event in events][-3:] == ["Step 1", "Step 2", "done"]
    assert events[-2]["data"] == {"step": 2, "train_loss": 1.0}
    assert events[::-1] == [
        event.to_dict() for event in tenant.client.fine_tuning.jobs.list_events(job.id)
    ]


def test_a_stream_ends_when_its_job_is_deleted(tenant: Tenant) -> None:
    job = tenant.job()
    claim = tenant.claim(job.id)
    step(tenant, claim, 1)
    for event in stream(tenant, job.id):
        if event["type"] == "metrics":
            with tenant.api.database.transaction() as session:
                session.execute(delete(Job).where(Job.id == job.id))


def test_the_official_client_is_not_woken_by_a_ping() -> None:
    sent = [
        encode_event("{}", id_="1"),
        Ping().encode(),
        encode_event("{}", id_="2"),
    ]
    assert [(event.id, event.data) for event in SSEDecoder().iter_bytes(iter(sent))] == [
        ("1", "{}"),
        ("2", "{}"),
    ]


def test_events_that_come_a_byte_at_a_time_stay_whole() -> None:
    """A reader may take a CRLF that comes in two pieces for two line ends."""
    sent = encode_event("one\r\ntwo\rthree", event="metrics", id_="1") + Ping().encode()
    assert sent == b"id: 1\nevent: metrics\ndata: one\ndata: two\ndata: three\n\n: ping\n"


def test_a_reader_resumes_without_gap_or_repetition(tenant: Tenant) -> None:
    job = tenant.job()
    claim = tenant.claim(job.id)
    for number in range(250):  # more than one read brings
        step(tenant, claim, number)
    finish(tenant, claim)
    everything = list(raw_events(tenant, job.id))
    assert everything[-1] == (None, "[DONE]")
    assert [seq for seq, _ in everything[:-1]] == list(range(1, len(everything)))
    assert json.loads(everything[0][1])["object"] == "fine_tuning.job.event"
    assert list(raw_events(tenant, job.id, "?after=100")) == everything[100:]
    assert list(raw_events(tenant, job.id, **{"last-event-id": "200"})) == everything[200:]
    assert (
        list(raw_events(tenant, job.id, "?after=3", **{"last-event-id": "200"})) == everything[200:]
    )
    assert list(raw_events(tenant, job.id, f"?after={len(everything) - 1}")) == everything[-1:]


@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "999", "9" * 30, ""])
def test_a_cursor_that_cannot_be_is_refused(tenant: Tenant, cursor: str) -> None:
    job_id = tenant.job().id
    for ask in ({"params": {"after": cursor}}, {"headers": {"last-event-id": cursor}}):
        response = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}/stream", **ask)  # type: ignore[arg-type]
        assert response.status_code == 400
        assert response.json()["error"]["param"].lower() in ("after", "last-event-id")
