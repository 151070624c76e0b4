"""Clients that submit jobs and repeat what got no answer, and everything that they saw: a history
to be judged afterwards.
"""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple, Self

import httpx
from sqlalchemy import select

from app.keys.service import add_key
from app.models import DEFAULT_PROJECT_ID, Job, Scope, Submission
from tests.support.backend import BASE_MODEL, Backend
from tests.support.checks import check_file
from tests.support.fake_trainer import FakeTrainer
from tests.support.waiting import wait_for

JOBS = "/v1/fine_tuning/jobs"
AGAIN_SECONDS = 0.1  # sooner than `retry-after` asks for: these are impatient
GIVE_UP_SECONDS = 60.0


class Operation(NamedTuple):
    """One request and what came of it; status None: the connection broke, nobody knows."""

    key: str
    sent_at: float
    ended_at: float
    status: int | None
    retry_after: str | None = None
    body: Any = None

    @property
    def acknowledged(self) -> bool:
        return self.status == httpx.codes.OK


class Client:
    def __init__(self, backend: Backend, url: str) -> None:
        with backend.database.transaction() as session:
            key = add_key(session, DEFAULT_PROJECT_ID, "chaos", Scope.WRITE)[1]
        self._backend = backend
        self.http = httpx.Client(
            base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30, verify=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def upload(self, fake: FakeTrainer) -> str:
        content = json.dumps({"text": fake.model_dump_json()}).encode() + b"\n"
        answer = self.http.post(
            "/v1/files", files={"file": ("fake.jsonl", content)}, data={"purpose": "fine-tune"}
        )
        file_id: str = answer.raise_for_status().json()["id"]
        check_file(self._backend.database, self._backend.storage, file_id, self._backend.settings)
        return file_id

    def submit(self, file_id: str, key: str) -> Operation:
        """Once."""
        sent_at = time.monotonic()
        body = {"model": BASE_MODEL, "training_file": file_id, "metadata": {"key": key}}
        try:
            answer = self.http.post(JOBS, json=body, headers={"idempotency-key": key})
        except httpx.TransportError:
            return Operation(key, sent_at, time.monotonic(), None)
        return Operation(
            key,
            sent_at,
            time.monotonic(),
            answer.status_code,
            answer.headers.get("retry-after"),
            answer.json(),
        )


@dataclass
class Submitters:
    """Each thread submits one job after the other, every `pause` seconds or so, and none before the
    one before it is acknowledged.
    """

    clients: Sequence[Client]
    file_id: str
    pause: float
    seed: int

    def __post_init__(self) -> None:
        self.history: list[Operation] = []
        self._ended = threading.Event()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Afterwards the history is whole: what was begun has been acknowledged, or its client has
        given up.
        """
        threads = [
            threading.Thread(target=self._work, args=[number, client])
            for number, client in enumerate(self.clients)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()

    def wait_for_more(self) -> None:
        """Until something that is sent from now on is acknowledged."""
        begun_at = time.monotonic()
        wait_for(
            lambda: any(o.acknowledged and o.sent_at > begun_at for o in self.history[-100:]),
            what="another submission",
        )

    def wait_for_refusal(self) -> None:
        begun_at = time.monotonic()
        wait_for(
            lambda: any(o.status == 503 and o.ended_at > begun_at for o in self.history[-100:]),
            what="a submission that is refused",
        )

    def _work(self, number: int, client: Client) -> None:
        chance = Random(f"{self.seed}.{number}")
        count = 0
        while not self._ended.wait(chance.uniform(0, 2 * self.pause)):
            count += 1
            self._insist(client, f"{number}-{count}")

    def _insist(self, client: Client, key: str) -> None:
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while time.monotonic() < deadline:
            operation = client.submit(self.file_id, key)
            self.history.append(operation)
            if operation.acknowledged:
                return
            time.sleep(AGAIN_SECONDS)


def lasting(body: Mapping[str, Any]) -> dict[str, Any]:
    """All of a job that waits, except for its place in the queue."""
    return {name: value for name, value in body.items() if name != "queue"}


def judge(backend: Backend, history: Sequence[Operation]) -> None:
    """Of all that was submitted through this history: each key is one job, the one that was
    acknowledged, and its events have no gap.
    """
    acknowledged = {
        operation.key: operation.body["id"] for operation in history if operation.acknowledged
    }
    keys = {operation.key for operation in history}
    assert keys == set(acknowledged), "somebody gave up"
    assert all(
        operation.body["id"] == acknowledged[operation.key]
        for operation in history
        if operation.acknowledged
    )
    with backend.database.read() as session:
        jobs = session.execute(select(Job.id, Job.job_metadata, Job.last_event_seq)).all()
        noted = session.execute(select(Submission.key, Submission.job_id)).all()
    submissions = [
        (metadata["key"], job_id)
        for job_id, metadata, _ in jobs
        if metadata and metadata["key"] in keys
    ]
    assert len(submissions) == len(keys), "lost or doubled"
    assert dict(submissions) == acknowledged
    assert {
        key.removeprefix("key:"): job_id
        for key, job_id in noted
        if key.removeprefix("key:") in keys
    } == acknowledged
    for job_id, _, last in jobs:
        assert [event.seq for event in backend.events(job_id)] == list(range(1, last + 1))
