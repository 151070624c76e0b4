"""One service with the real trainer for all tests here, and one job that two of their files look
at.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from openai import Stream

from tests.e2e.canaries import ENVIRONMENT, ROWS
from tests.support.service import Service
from tests.support.waiting import wait_for

RECIPE = {
    "learning_rate": 0.005,
    "checkpoint_every": 20,
    "eval_every": 30,
    "max_seq_length": 64,
    "max_bad_record_fraction": 0.1,
}


class Trained(NamedTuple):
    """A job that has ended, what its stream told, and what `/proc` said of its trainer."""

    job: Any
    events: list[Any]
    environment: str
    status: str


@pytest.fixture(scope="package")
def service(short_tmp: Path) -> Iterator[Service]:
    pace = {
        "FALQON_NUM_THREADS": "1",
        "FALQON_HEARTBEAT": "PT0.3S",
        "FALQON_WEBHOOK_NETWORKS": '["127.0.0.0/8"]',
    }
    service = Service(short_tmp / "e2e", ENVIRONMENT | pace, fake=False)
    service.wait_until_up()
    yield service
    try:
        assert service.stop() == 0
        assert service.pids() == [], "it leaves nothing behind"
    finally:
        service.close()


def row(question: str, answer: str) -> str:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns})


@pytest.fixture(scope="package")
def trained(service: Service) -> Trained:
    code = row("What is the code?", "The code is 2024.")
    planted = row(ROWS["StatisticsKey"], ROWS["Answer"])
    training, validation = (
        service.client.files.create(file=(name, "\n".join(lines).encode()), purpose="fine-tune").id
        for name, lines in (
            ("codes.jsonl", [code] * 44 + [planted] * 10 + [f'{{"text": "{ROWS["Broken"]}"']),
            ("unseen.jsonl", [code, planted, *[code] * 4]),
        )
    )
    checked = service.client.files.wait_for_processing(validation, poll_interval=0.1)
    assert checked.status == "processed"
    job = service.client.fine_tuning.jobs.create(
        model="falqon-tiny",
        training_file=training,
        validation_file=validation,
        suffix="codes",
        seed=7,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 4, "batch_size": 4}},
        },
        extra_body={"falqon": RECIPE},
    )
    trainer = wait_for(lambda: trainer_of(service, job.id), 300, "its trainer runs")
    environment, status = ((trainer / name).read_text() for name in ("environ", "status"))
    stream: Stream[Any] = service.client.get(
        f"/fine_tuning/jobs/{job.id}/stream", cast_to=object, stream=True, stream_cls=Stream[object]
    )
    events = list(stream)
    return Trained(service.client.fine_tuning.jobs.retrieve(job.id), events, environment, status)


def trainer_of(service: Service, job_id: str) -> Path | None:
    """Its folder below `/proc`, once it is no longer the program that becomes it."""
    every = set(service.pids("falqon_core", "train", "--message-fd", job_id))
    pids = every - set(service.pids("parent_death", job_id))
    return next((Path("/proc") / str(pid) for pid in pids), None)
