"""People at work with a service, through the official client, and what they were told."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import httpx
from openai import APIConnectionError, APIStatusError, OpenAI

from app.models import JobStatus
from app.models.job_lifecycle import TERMINAL
from tests.support.fake_trainer import FakeTrainer
from tests.support.records import Records

FAKE = FakeTrainer(steps=60, step_seconds=0.04, checkpoint_every=20)
# Too late, most of the time; or more jobs than the project may have.
REFUSED = {
    httpx.codes.BAD_REQUEST,
    httpx.codes.CONFLICT,
    httpx.codes.NOT_FOUND,
    httpx.codes.TOO_MANY_REQUESTS,
}
ENDED = {"succeeded", "failed", "cancelled"}
AWAY = httpx.codes.SERVICE_UNAVAILABLE


def submit(
    client: OpenAI, fake: FakeTrainer, headers: Mapping[str, str] | None = None, **body: object
) -> str:
    """Return the id of a job whose training does as `fake` says."""
    record = json.dumps({"text": fake.model_dump_json()}).encode()
    file = client.files.create(file=("fake.jsonl", record), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="falqon-tiny", training_file=file.id, extra_headers=headers, extra_body=body
    )
    return job.id


def has_ended(client: OpenAI, records: Records, jobs: Iterable[str]) -> bool:
    """Resume what is paused; return whether nothing is left to be done."""
    live = [job_id for job_id in jobs if JobStatus(records.job(job_id).status) not in TERMINAL]
    for job_id in live:
        if records.job(job_id).status == JobStatus.PAUSED:
            client.fine_tuning.jobs.resume(job_id)
    return not live


class User(threading.Thread):
    """Somebody with one request after the other, until told to end."""

    def __init__(self, client: OpenAI, rng: random.Random) -> None:
        super().__init__()
        self._client = client
        self._rng = rng
        self.ending = threading.Event()
        self.done: Counter[str] = Counter()
        self.jobs: list[str] = []
        self.cancelled: list[str] = []
        self.faults: list[str] = []

    def run(self) -> None:
        actions: list[tuple[Callable[[], None], int]] = [
            (self.submit, 3),
            (self.cancel, 1),
            (self.pause, 2),
            (self.resume, 3),
            (self.poll, 3),
            (self.download, 1),
        ]
        while not self.ending.wait(self._rng.uniform(0, 1)):
            (action,) = self._rng.choices(
                [action for action, _ in actions], [weight for _, weight in actions]
            )
            try:
                action()
                self.done[action.__name__] += 1
            except APIConnectionError:
                self.done["gave_up"] += 1
            except APIStatusError as error:
                self.done["refused" if error.status_code in REFUSED else "unavailable"] += 1
                if error.status_code not in {*REFUSED, AWAY}:
                    self.faults.append(f"{action.__name__}: {error}")

    def submit(self) -> None:
        key = f"{self._rng.getrandbits(64):x}"
        self.jobs.append(submit(self._client, FAKE, headers={"idempotency-key": key}))

    def cancel(self) -> None:
        if live := self._live():
            job = self._client.fine_tuning.jobs.cancel(self._rng.choice(live))
            self.cancelled.append(job.id)

    def pause(self) -> None:
        if live := self._live():
            self._client.fine_tuning.jobs.pause(self._rng.choice(live))

    def resume(self) -> None:
        if live := self._live():
            self._client.fine_tuning.jobs.resume(self._rng.choice(live))

    def poll(self) -> None:
        if self.jobs:
            self._client.fine_tuning.jobs.retrieve(self._rng.choice(self.jobs))
        self._live()

    def _live(self) -> list[str]:
        """Of everybody's newest jobs, those that had not ended when we looked."""
        return [
            job.id
            for job in self._client.fine_tuning.jobs.list(limit=100).data
            if job.status not in ENDED
        ]

    def download(self) -> None:
        models = [model.id for model in self._client.models.list() if model.id.startswith("ft:")]
        if models:
            self._client.get(
                f"/models/{self._rng.choice(models)}/artifacts/SHA256SUMS", cast_to=httpx.Response
            )


class Reader(threading.Thread):
    """Follows one job to its end over as many connections as it takes; `seqs` are the numbers of
    the events, as they came.
    """

    def __init__(self, client: OpenAI, job_id: str) -> None:
        super().__init__()
        self._url = f"{client.base_url}fine_tuning/jobs/{job_id}/stream"
        self._headers = {"authorization": f"Bearer {client.api_key}"}
        self.job_id = job_id
        self.seqs: list[int] = []
        self.connections = 0
        self.ending = threading.Event()
        self._ended = False

    def run(self) -> None:
        while not self._ended and not self.ending.is_set():
            self.connections += 1
            try:
                self._read()
            except httpx.TransportError:
                time.sleep(0.2)

    def _read(self) -> None:
        cursor = {"last-event-id": str(self.seqs[-1])} if self.seqs else {}
        with httpx.stream(
            "GET", self._url, headers=self._headers | cursor, timeout=20, verify=False
        ) as answer:
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    self.seqs.append(int(value))
                elif line == "data: [DONE]":
                    self._ended = True
