"""The loop with the official client and the real trainer: stored answers, a file, a job, and a name
that moves to the job's model under load if that is not worse.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.e2e.conftest import RECIPE, row
from tests.support.service import Service
from tests.support.waiting import wait_for

BASE = "falqon-tiny"
NAME = "support"
NUM_ANSWERS = 100
RIGHT = "The code is 2024."
WRONG = "no no no no no no"
PAUSE_SECONDS = 0.1
METHOD: Any = {"hyperparameters": {"n_epochs": 3, "batch_size": 4}}


class Load:
    """Requests of the name, one after the other, that are not repeated."""

    def __init__(self, service: Service) -> None:
        self._client = OpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0)
        self._has_ended = threading.Event()
        self.models: list[str] = []  # that have answered, in order
        self.errors: list[Exception] = []

    def ask(self) -> None:
        messages: Any = [{"role": "user", "content": "What is the code?"}]
        while not self._has_ended.is_set():
            try:
                answer = self._client.chat.completions.create(
                    model=NAME, messages=messages, max_tokens=4
                )
                self.models.append(answer.model)
            except Exception as error:  # each is a question that failed
                self.errors.append(error)
            time.sleep(PAUSE_SECONDS)

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.ask)
        thread.start()
        try:
            yield
        finally:
            self._has_ended.set()
            thread.join()
            self._client.close()


@pytest.fixture
def http(service: Service) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {service.key}"}
    with httpx.Client(base_url=f"{service.url}/v1", headers=headers, timeout=60) as http:
        yield http


def store_answers(service: Service) -> None:
    def ask(number: int) -> None:
        part = {"part": "test" if number % 5 == 0 else "train"}
        answer = service.client.chat.completions.create(
            model=NAME,
            messages=[{"role": "user", "content": f"Visitor {number}: what is the code?"}],
            max_tokens=2,
            store=True,
            metadata=part,
        )
        corrected = {"falqon": {"corrected": RIGHT}}
        service.client.chat.completions.update(answer.id, metadata=part, extra_body=corrected)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(NUM_ANSWERS)))


def make_file(service: Service, http: httpx.Client, part: str) -> str:
    body = {"filter": {"metadata": {"part": part}}, "shape": "supervised"}
    file_id = str(http.post("/stored_answers/files", json=body).raise_for_status().json()["id"])
    checked = service.client.files.wait_for_processing(file_id, poll_interval=0.1)
    assert checked.status == "processed"
    return file_id


def train(service: Service, training_file: str, validation_file: str) -> str:
    job = service.client.fine_tuning.jobs.create(
        model=BASE,
        training_file=training_file,
        validation_file=validation_file,
        suffix="loop",
        seed=7,
        method={"type": "supervised", "supervised": METHOD},
        extra_body={
            "falqon": RECIPE | {"eval_every": 100, "num_samples": 0, "switch": {"alias": NAME}}
        },
    )
    return job.id


def outcome_of(http: httpx.Client, job_id: str) -> Any:
    """Wait for the decision on the name."""

    def find() -> Any:
        switches = http.get(f"/aliases/{NAME}/switches").raise_for_status().json()["data"]
        ended = (each for each in switches if each["fine_tuning_job_id"] == job_id)
        return next((each for each in ended if each["ended_at"]), None)

    return wait_for(find, 600, "the name is switched or kept")


def test_the_name_moves_to_a_good_model_under_load_and_not_to_a_bad_one(
    service: Service, http: httpx.Client
) -> None:
    http.post("/projects/proj_default", json={"answer_storage": {}}).raise_for_status()
    http.post("/aliases", json={"name": NAME, "model": BASE}).raise_for_status()
    store_answers(service)
    held_out = make_file(service, http, "test")
    planted = "\n".join(row(f"Visitor {n}: what is the code?", WRONG) for n in range(40))
    wrong = service.client.files.create(file=("w.jsonl", planted.encode()), purpose="fine-tune")
    service.client.files.wait_for_processing(wrong.id, poll_interval=0.1)
    load = Load(service)
    with load.running():
        good = outcome_of(http, train(service, make_file(service, http, "train"), held_out))
        assert (good["status"], good["model"][:3]) == ("switched", "ft:"), good
        wait_for(lambda: load.models[-1] == good["model"], 600, "the new model answers")
        bad = outcome_of(http, train(service, wrong.id, held_out))
        assert bad["status"] == "kept", bad
        assert bad["reason"].startswith(f"the new model is worse than {good['model']}: ")
        assert load.models[-1] == good["model"]
        http.post(f"/aliases/{NAME}/rollback").raise_for_status()
        wait_for(lambda: load.models[-1] == BASE, 600, "the old model answers again")
    assert load.errors == []
    assert bad["model"] not in load.models
    http.delete(f"/aliases/{NAME}").raise_for_status()
    http.post("/projects/proj_default", json={"answer_storage": None}).raise_for_status()
